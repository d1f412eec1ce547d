# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The command line ``monai-cert``: certify, evaluate, plan."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai_cert.errors import USER_ERRORS, explain
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.binomial import SplitTest, certified_radius, joint, tau_for_radius

__all__ = ["main"]

DONE, SOME_FAILED, WRONG_USE = 0, 1, 2


class UsageError(ValueError):
    """Wrong use: nothing was computed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; those of the process if None.

    Returns:
        0 done, 1 some inputs failed or were not reached, 2 wrong use.
    """
    args = _parser().parse_args(argv)
    _quiet_libraries()
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        return command(args)
    except UsageError as error:
        _say(f"monai-cert: {error}")
        return WRONG_USE
    except KeyboardInterrupt:
        _say("stopped; results that were finished are kept")
        return SOME_FAILED


def _certify(args: argparse.Namespace) -> int:
    from monai_cert.certify_files import certify_files

    inputs = _inputs(args.inputs)
    bundle, settings = _bundle(args)
    output = _output_folder(args.output)
    report = certify_files(bundle, inputs, settings, output, _say)
    if args.json:
        print(json.dumps(report, indent=4, allow_nan=False))
    done = sum(entry["status"] == "ok" for entry in report["inputs"])
    _say(f"{done} of {len(inputs)} inputs certified; results are in {output}")
    return DONE if done == len(inputs) else SOME_FAILED


def _evaluate(args: argparse.Namespace) -> int:
    from monai_cert.data.chest_xray import chest_xray_datalist
    from monai_cert.evaluation import evaluate_dataset

    try:
        items = chest_xray_datalist(args.dataset, args.data_root, args.splits or _splits(args.data_root), args.split)
    except USER_ERRORS as error:
        raise UsageError(explain(error)) from error
    items = items[: args.limit]
    bundle, settings = _bundle(args)
    settings |= {"dataset": args.dataset, "split": args.split, "limit": args.limit, "denoise": not args.no_denoise}
    output = _output_folder(args.output)
    if (output / "results.csv").exists():
        raise UsageError(f"{output} holds results already; give another folder with --output")
    try:
        results = evaluate_dataset(bundle, items, settings, output, _say)
    except OSError as error:
        _say(f"stopped, results cannot be written: {explain(error)}; the finished ones are in {output}")
        return SOME_FAILED
    if args.json:
        print(json.dumps(results, indent=4, allow_nan=False))
    means = "  ".join(f"{name} {value:.4f}" for name, value in results["means"].items() if value is not None)
    _say(f"means over {results['images']} of {len(items)} images: {means}")
    return SOME_FAILED if results["failures"] else DONE


def _plan(args: argparse.Namespace) -> int:
    from monai_cert.bundle import load_bundle
    from monai_cert.planning import make_plan, seconds_per_draw

    try:
        GaussianNoise(args.sigma)
        tau = args.tau if args.radius is None else tau_for_radius(args.sigma, args.radius)
        speed = None
        if args.bundle is not None:
            speed = seconds_per_draw(load_bundle(args.bundle, device=args.device), args.shape)
        plan = make_plan(
            args.shape, sigma=args.sigma, tau=tau, alpha=args.alpha, n=args.n, test=_test(args), seconds_per_draw=speed
        )
    except USER_ERRORS as error:
        raise UsageError(explain(error)) from error
    if args.json:
        print(json.dumps(plan.as_dict(), indent=4))
        return DONE
    print(f"pixels tested               {plan.pixels}")
    print(f"radius                      {plan.radius:.4f} (sigma {plan.sigma:g}, tau {plan.tau:.4g})")
    print(f"least n                     {plan.min_n}")
    print(f"votes needed                {plan.votes_needed or 'out of reach'} of n = {plan.n}")
    if plan.largest_radius is None:
        print("largest radius reachable    none: n is too small at every tau")
    else:
        print(f"largest radius reachable    {plan.largest_radius:.4f} (tau {plan.largest_tau:.4f})")
    print(
        f"expected time an image      {'name a --bundle to measure it' if speed is None else f'{plan.seconds:.1f} s'}"
    )
    return DONE


def _bundle(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The loaded bundle and the settings of the run; refuses what cannot work before anything is computed."""
    from monai_cert.bundle import load_bundle

    chosen = {name: getattr(args, name) for name in ("sigma", "tau", "alpha", "n") if getattr(args, name) is not None}
    test = "$monai_cert.joint" if args.test == "joint" else f"$monai_cert.SplitTest({args.n0})"
    overrides: dict[str, Any] = {
        "seed": args.seed,
        "batch_size": args.batch_size,
        "denoise": not getattr(args, "no_denoise", False),
        "intensity_range": getattr(args, "intensity_range", None),
        "test": test,
        "correction": f"$monai_cert.{args.correction}",
        "progress": sys.stderr.isatty(),
    }
    try:
        _test(args)
        if args.sigma is not None:
            GaussianNoise(args.sigma)
        bundle = load_bundle(args.bundle, device=args.device, settings=chosen, overrides=overrides)
        inferer = bundle.inferer
        pixels = math.prod(bundle.parser.get_parsed_content("spatial_size"))
        inferer.check_reach(pixels)
    except USER_ERRORS as error:
        raise UsageError(explain(error)) from error
    settings = {
        "sigma": inferer.noise.sigma,
        "tau": inferer.tau,
        "alpha": inferer.alpha,
        "n": inferer.n,
        "n0": inferer.test.n0,
        "test": inferer.test.name,
        "correction": args.correction,
        "radius": certified_radius(inferer.noise.sigma, inferer.tau),
        "seed": args.seed,
        "batch_size": args.batch_size,
        "device": str(next(bundle.network.parameters()).device),
        "bundle": bundle.name,
    }
    return bundle, settings


def _test(args: argparse.Namespace) -> Any:
    return joint if args.test == "joint" else SplitTest(args.n0)


def _inputs(paths: Sequence[str]) -> list[str]:
    """Image files, folders resolved; the phantom if there are none."""
    from monai_cert.data.files import list_images, stem

    if not paths:
        _say("no input given: certifying the built-in phantom, a synthetic radiograph of nobody")
        return ["phantom"]
    files: list[str] = []
    for path in paths:
        try:
            files += map(str, list_images(path)) if Path(path).is_dir() else [path]
        except OSError as error:
            raise UsageError(explain(error)) from error
    stems: dict[str, str] = {}
    for file in files:
        other = stems.setdefault(stem(file), file)
        if other != file:
            raise UsageError(f"{other} and {file} would write results of the same name; certify them into two folders")
    return list(dict.fromkeys(files))


def _output_folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".monai_cert_probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"the output folder cannot be written: {explain(error)}") from error
    return folder


def _splits(data_root: str) -> Path:
    """The table of splits that lies in the data folder."""
    table = Path(data_root) / "splits.csv"
    if not table.is_file():
        raise UsageError(f"{table} does not exist; name a table of splits (dataset,id,split) with --splits")
    return table


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _quiet_libraries() -> None:
    """Keep notices of the libraries below, which a user cannot act on, off the terminal."""
    warnings.filterwarnings("ignore")
    for name in ("monai", "diffusers", "monai.bundle.config_parser"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="monai-cert",
        description="Certified segmentation of medical images: what no perturbation below a radius can change.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    certify = commands.add_parser("certify", help="certify image files")
    certify.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="image file or folder; the bundle's phantom if none"
    )
    certify.add_argument(
        "--intensity-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="stored pixel values that are black and white (default: the range of their type)",
    )
    certify.set_defaults(command=_certify)
    evaluate = commands.add_parser("evaluate", help="certify a data set and compare with the truth")
    evaluate.add_argument("--dataset", required=True, metavar="NAME", help="montgomery, shenzhen or jsrt")
    evaluate.add_argument("--data-root", required=True, metavar="DIR", help="folder that holds the data set")
    evaluate.add_argument(
        "--splits", metavar="CSV", help="table dataset,id,split (default: splits.csv in the data root)"
    )
    evaluate.add_argument("--split", default="test", metavar="NAME", help="split to evaluate (default: test)")
    evaluate.add_argument("--limit", type=_positive, metavar="N", help="the first N images only")
    evaluate.add_argument("--no-denoise", action="store_true", help="the network alone, without the denoiser")
    evaluate.set_defaults(command=_evaluate)
    for command in (certify, evaluate):
        command.add_argument("--bundle", required=True, metavar="NAME_OR_DIR", help="bundle; run only those you trust")
        command.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
        command.add_argument("--sigma", type=float, help="standard deviation of the noise, pixel values 0 to 1")
        command.add_argument("--tau", type=float, help="majority threshold in [1/2, 1); radius = sigma * Phi^-1(tau)")
        command.add_argument("--alpha", type=float, help="failure probability of one image's certificate")
        command.add_argument("--n", type=int, help="noise draws that are tested")
        command.add_argument("--seed", type=int, help="seed of the noise (default: fresh entropy, recorded)")
        command.add_argument("--batch-size", type=_positive, metavar="N", help="draws a forward pass")
        command.add_argument("--correction", choices=("holm", "bonferroni"), default="holm")
        command.add_argument("--json", action="store_true", help="print the summary as one JSON document")
    plan = commands.add_parser("plan", help="what a certificate needs and reaches, before drawing")
    plan.add_argument("--shape", nargs="+", type=_positive, required=True, metavar="SIDE", help="H W, or D H W")
    plan.add_argument("--sigma", type=float, default=0.25)
    target = plan.add_mutually_exclusive_group()
    target.add_argument("--tau", type=float, default=0.75)
    target.add_argument("--radius", type=float, help="wanted radius, in place of tau")
    plan.add_argument("--alpha", type=float, default=0.001)
    plan.add_argument("--n", type=_positive, help="noise draws (default: the least that can certify)")
    plan.add_argument("--bundle", metavar="NAME_OR_DIR", help="measure the time of this bundle's networks")
    plan.add_argument("--json", action="store_true", help="print the plan as one JSON document")
    plan.set_defaults(command=_plan)
    for command in (certify, evaluate, plan):
        command.add_argument("--device", help="torch device (default: a GPU if there is one)")
        command.add_argument("--test", choices=("joint", "split"), default="joint", help="test of one pixel")
        command.add_argument("--n0", type=int, default=10, help="draws that choose, for --test split (default: 10)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
