# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The command line ``monai-cert``: certify, evaluate, attack, plan, lipschitz."""

from __future__ import annotations

import argparse
import atexit
import json
import logging
import math
import os
import secrets
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_cert.arguments import make_parser
from monai_cert.data.public_sets import public_datalist
from monai_cert.errors import USER_ERRORS, explain
from monai_cert.memory import keep_freed_memory
from monai_cert.noise import GaussianNoise
from monai_cert.sequential import Sampling, SequentialCertification
from monai_cert.statistics.binomial import SplitTest, VoteTest, certified_radius, joint, tau_for_radius
from monai_cert.statistics.looks import equal_split, exact_boundaries
from monai_cert.statistics.multiplicity import Correction, bonferroni, generalized_holm, holm
from monai_cert.statistics.radius_map import RadiusMap

if TYPE_CHECKING:
    from monai_cert.measuring import Measuring
    from monai_cert.planning import Plan

__all__ = ["main"]

DONE, SOME_FAILED, WRONG_USE = 0, 1, 2

_CORRECTIONS: dict[str, Callable[[int], Correction]] = {
    "holm": lambda k: holm,
    "bonferroni": lambda k: bonferroni,
    "generalized_holm": generalized_holm,
}


_BOUNDARIES = {"exact": exact_boundaries, "equal": equal_split}

# Options that mean nothing without noise.
_OF_SMOOTHING = (
    *("sigma", "tau", "alpha", "n", "seed", "batch_size", "mask", "autocast", "compile", "measure", "share_draws"),
    *("test", "n0", "correction", "k", "sequential", "looks", "stop", "boundaries", "randomized", "radius_map"),
    "no_denoise",
)


class UsageError(ValueError):
    """Wrong use: nothing was computed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; those of the process if None.

    Returns:
        0 done, 1 some inputs failed or were not reached, 2 wrong use.
    """
    args = make_parser().parse_args(argv)
    keep_freed_memory()
    _quiet_libraries()
    try:
        return _COMMANDS[args.command](args)
    except UsageError as error:
        _say(f"monai-cert: {error}")
        return WRONG_USE
    except KeyboardInterrupt:
        if _leads():
            _say("stopped; results that were finished are kept")
        return SOME_FAILED


def _certify(args: argparse.Namespace) -> int:
    from monai_cert.certify_files import certify_files

    first = _join_processes(args) if args.share_draws else True
    say = _say if first else _silent
    inputs = _inputs(args.inputs)
    _keep_apart(args, inputs)
    bundle, settings = _bundle(args)
    if args.measure:
        _require(bundle, "displayable_configs#tau", "spatial_size")
    _check_phantom(bundle, inputs, say)
    if "lipschitz_constant" not in settings:
        bundle.inferer.share_draws = args.share_draws
        bundle.inferer.progress &= first
    output = _output_folder(args.output) if first else None
    measuring = _measuring(args, bundle, settings)
    report = certify_files(bundle, inputs, settings, output, say, measuring)
    if args.json and first:
        print(json.dumps(report, indent=4, allow_nan=False))
    done = sum(entry["status"] == "ok" for entry in report["inputs"])
    say(f"{done} of {len(inputs)} inputs certified; results are in {output}")
    return DONE if done == len(inputs) else SOME_FAILED


def _measuring(args: argparse.Namespace, bundle: Any, settings: dict[str, Any]) -> Measuring | None:
    """What was asked to be measured, if anything; refuses what this bundle's images have not."""
    if not args.measure:
        if args.spacing is not None or args.units != "auto" or args.radii is not None:
            raise UsageError("--spacing, --units and --radii go with --measure")
        return None
    from monai_cert.measurements import measurements_of
    from monai_cert.measuring import Measuring
    from monai_cert.metrics.whole_mask import WHOLE_MASK

    tau = bundle.parser.get_parsed_content("displayable_configs#tau")
    radius = certified_radius(bundle.inferer.noise.sigma, tau)
    radii = tuple(args.radii or [share * radius for share in (0.25, 0.5, 0.75, 1.0)])
    shape = bundle.parser.get_parsed_content("spatial_size")
    kinds = tuple(dict.fromkeys(args.measure))
    try:
        single = [kind for kind in kinds if kind not in WHOLE_MASK]
        measurements_of(single, bundle.class_names, shape, (1.0,) * len(shape))
        if len(set(radii)) < len(radii) or not all(0 < r < math.inf for r in radii):
            raise ValueError(f"--radii must be positive and differ, got {' '.join(f'{r:g}' for r in radii)}")
        if args.spacing is not None and not (len(args.spacing) == len(shape) and min(args.spacing) > 0):
            raise ValueError(f"--spacing takes {len(shape)} positive numbers of millimeters, rows before columns")
    except ValueError as error:
        raise UsageError(explain(error)) from error
    settings |= {"measure": list(kinds), "spacing": args.spacing, "units": args.units, "radii": list(radii)}
    return Measuring(
        kinds, bundle.class_names, radii, None if args.spacing is None else tuple(args.spacing), args.units
    )


def _join_processes(args: argparse.Namespace) -> bool:
    """Join the processes that torchrun started, each on a GPU of its own if there are any; whether this is the first.

    Raises:
        UsageError: if torchrun did not start this process, or the others cannot be reached.
    """
    import torch
    from torch import distributed

    from monai_cert.processes import own_device

    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        raise UsageError(
            "--share-draws shares draws among processes; start them with torchrun -m -- monai_cert certify"
        )
    args.device = own_device(args.device, int(os.environ["LOCAL_RANK"]))
    on_gpu = str(args.device).startswith("cuda")
    try:
        if on_gpu:
            torch.cuda.set_device(torch.device(args.device))
        distributed.init_process_group("nccl" if on_gpu else "gloo")
    except USER_ERRORS as error:
        raise UsageError(f"the processes cannot work together: {explain(error)}") from error
    atexit.register(distributed.destroy_process_group)
    return distributed.get_rank() == 0


def _evaluate(args: argparse.Namespace) -> int:
    from monai_cert.data.splits import read_split
    from monai_cert.evaluation import evaluate_dataset
    from monai_cert.inferers.denoise import DiffusionDenoiseInferer
    from monai_cert.processes import Processes
    from monai_cert.result_rows import OtherRunError

    splits = args.splits or _splits(args.data_root)
    try:
        items = public_datalist(args.dataset, args.data_root, splits, args.split, args.partial)
        left_out = len(read_split(splits, args.dataset, args.split).ids) - len(items)
        processes = Processes()
    except USER_ERRORS as error:
        raise UsageError(explain(error)) from error
    args.device = processes.device(args.device)
    bundle, settings = _bundle(args)
    _require(bundle, "labeled_preprocessing", "plain_inferer")
    settings |= {"dataset": args.dataset, "split": args.split, "limit": args.limit, "partial": args.partial}
    if "lipschitz_constant" not in settings:
        settings |= {"denoise": isinstance(bundle.inferer.inferer, DiffusionDenoiseInferer)}
    output = _output_folder(args.output)
    if left_out and processes.leads:
        _say(f"{left_out} images of {args.dataset}/{args.split} are not in the folder and are left out")
    # What ends jobs on clusters, and torchrun when one of its processes died: as Ctrl-C.
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = evaluate_dataset(
            bundle, items[: args.limit], settings, output, _say, left_out=left_out, processes=processes
        )
    except OtherRunError as error:
        raise UsageError(explain(error)) from error
    except OSError as error:
        _say(f"stopped, results cannot be written: {explain(error)}; the finished ones are in {output}")
        return SOME_FAILED
    finally:
        signal.signal(signal.SIGTERM, former)
    if results is None:
        return DONE  # the first process speaks for all
    if args.json:
        print(json.dumps(results, indent=4, allow_nan=False))
    means = "  ".join(f"{name} {value:.4f}" for name, value in results["means"].items() if value is not None)
    counts = results["counts"]
    if results["images"]:
        _say(f"means over {results['images']} of {counts['asked']} images: {means}")
    if without := counts["failed"] + counts["not_done"]:
        them = "1 image has no result; the same command tries it again"
        _say(them if without == 1 else f"{without} images have no result; the same command tries them again")
        return SOME_FAILED
    return DONE


def _attack(args: argparse.Namespace) -> int:
    from monai_cert.attack import AttackSettings
    from monai_cert.attack_files import attack_file, check_radii

    inputs = _inputs([] if args.input is None else [args.input])
    if len(inputs) > 1:
        raise UsageError(f"{args.input} holds {len(inputs)} images; attack takes one")
    _keep_apart(args, inputs)
    bundle, settings = _bundle(args)
    if "lipschitz_constant" in settings:
        raise UsageError("attack tries certificates of smoothing; a Lipschitz network has no votes to judge")
    _require(bundle, "plain_inferer")
    _check_phantom(bundle, inputs, _say)
    try:
        check_radii(settings["radius"] if args.radius is None else args.radius, args.factors)
    except ValueError as error:
        raise UsageError(explain(error)) from error
    attack = AttackSettings(
        steps=args.steps,
        draws=args.draws,
        n=settings["n"],
        alpha=settings["alpha"],
        seed=secrets.randbits(63) if settings["seed"] is None else settings["seed"],
        batch_size=settings["batch_size"] or AttackSettings.batch_size,
    )
    output = _output_folder(args.output)
    try:
        record = attack_file(
            bundle,
            inputs[0],
            output,
            radius=args.radius,
            factors=args.factors,
            attack=attack,
            settings=settings,
            say=_say,
        )
    except USER_ERRORS as error:
        text = explain(error, inputs[0])
        record = {"format": 1, "bundle": bundle.name, "input": inputs[0], "status": "error", "error": text}
        record["settings"] = settings
    if args.json:
        print(json.dumps(record, indent=4, allow_nan=False))
    if record["status"] == "error":
        _say(f"failed: {record['error']}")
        return SOME_FAILED
    _say(f"{record['statement']}\nresults are in {output}")
    return DONE


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
            args.shape,
            sigma=args.sigma,
            tau=tau,
            alpha=args.alpha,
            n=_sequential(args) or args.n,
            test=_test(args) or joint,
            correction=_correction(args) or holm,
            seconds_per_draw=speed,
        )
    except USER_ERRORS as error:
        raise UsageError(explain(error)) from error
    if args.json:
        print(json.dumps(plan.as_dict(), indent=4))
        return DONE
    _print_plan(plan)
    return DONE


def _lipschitz(args: argparse.Namespace) -> int:
    from monai_cert.networks.segmenter import bound_of_checkpoint

    try:
        bound = bound_of_checkpoint(args.checkpoint)
    except USER_ERRORS as error:
        raise UsageError(explain(error, args.checkpoint)) from error
    if args.json:
        print(json.dumps({"format": 1, "checkpoint": args.checkpoint, **bound.as_dict()}, indent=4, allow_nan=False))
        return DONE
    for depth, layer in bound.flat():
        print(f"{'  ' * depth}{layer.name:<{40 - 2 * depth}}{layer.kind:<22}{layer.constant:.9f}")
    print(f"Lipschitz constant at most {bound.constant:.9f}, from l2 of the image to l2 of all logits")
    print(f"for the weights {bound.weights_sha256}")
    return DONE


def _print_plan(plan: Plan) -> None:
    print(f"pixels tested               {plan.pixels}")
    print(f"radius                      {plan.radius:.4f} (sigma {plan.sigma:g}, tau {plan.tau:.4g})")
    print(f"least n                     {plan.min_n}")
    for look, votes in zip(plan.looks, plan.votes_needed_at_looks, strict=True):
        print(f"votes needed                {votes or 'out of reach'} of {look}")
    if plan.largest_radius is None:
        print("largest radius reachable    none: n is too small at every tau")
    else:
        print(f"largest radius reachable    {plan.largest_radius:.4f} (tau {plan.largest_tau:.4f})")
    if plan.seconds_at_looks is None:
        print("expected time an image      name a --bundle to measure it")
    else:
        times = " to ".join(f"{s:.1f} s" for s in dict.fromkeys((plan.seconds_at_looks[0], plan.seconds_at_looks[-1])))
        print(f"expected time an image      {times}")
    for fate in plan.fates:
        print(
            f"pixel with P(vote) = {fate.vote_probability:.2f}   certified with probability {fate.certified:.3f}, "
            f"{fate.draws:.0f} draws on average"
        )


def _bundle(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The loaded bundle and the settings of the run; refuses what cannot work before anything is computed."""
    from monai_cert.bundle import load_bundle
    from monai_cert.data.hypotheses import MaskFile, OutsideBorders
    from monai_cert.inferers.lipschitz import LipschitzCertificationInferer

    chosen = {name: getattr(args, name) for name in ("sigma", "tau", "alpha", "n") if getattr(args, name) is not None}
    try:
        asked = {
            "seed": args.seed,
            "batch_size": args.batch_size,
            "intensity_range": getattr(args, "intensity_range", None),
            "denoise": False if getattr(args, "no_denoise", False) else None,
            "randomized": args.randomized or None,
            "autocast": f"$torch.{args.autocast}" if args.autocast else None,
            "compile": args.compile or None,
            "test": _test(args),
            "correction": _correction(args),
            "sampling": _sequential(args),
        }
        overrides = {name: value for name, value in asked.items() if value is not None}
        overrides["progress"] = sys.stderr.isatty() and _leads()
        if args.sigma is not None:
            GaussianNoise(args.sigma)
        bundle = load_bundle(args.bundle, configs=args.config, device=args.device, settings=chosen, overrides=overrides)
        if isinstance(bundle.inferer, LipschitzCertificationInferer):
            return bundle, _lipschitz_settings(args, bundle)
        inferer = bundle.inferer
        if args.mask is None:
            inferer.check_reach(math.prod(bundle.parser.get_parsed_content("spatial_size")))
        else:
            inferer.hypotheses = OutsideBorders() if args.mask == "borders" else MaskFile(args.mask)
    except USER_ERRORS as error:
        raise UsageError(explain(error)) from error
    settings = {
        "sigma": inferer.noise.sigma,
        "tau": None if isinstance(inferer.test, RadiusMap) else inferer.tau,
        "alpha": inferer.alpha,
        "n": inferer.sampling.looks[-1],
        "n0": inferer.test.n0,
        "looks": list(inferer.sampling.looks),
        "stop": inferer.sampling.stop,
        "boundaries": _boundaries(inferer.sampling),
        "test": inferer.test.name,
        "correction": inferer.correction.name,
        "tolerated": inferer.correction.tolerated,
        "randomized": inferer.randomized,
        "hypotheses": getattr(inferer.hypotheses, "name", "all"),
        "radius": None if isinstance(inferer.test, RadiusMap) else certified_radius(inferer.noise.sigma, inferer.tau),
        "seed": inferer.seed,
        "batch_size": inferer.batch_size,
        "autocast": None if inferer.autocast is None else str(inferer.autocast).removeprefix("torch."),
        "compile": inferer.compile,
        "device": str(next(bundle.network.parameters()).device),
        "bundle": bundle.name,
        "configs": args.config,
    }
    return bundle, settings


def _lipschitz_settings(args: argparse.Namespace, bundle: Any) -> dict[str, Any]:
    """The settings of a run without noise; refuses what only noise has."""
    for name in _OF_SMOOTHING:
        value = getattr(args, name, None)
        if value is not None and value is not False:  # a seed may be 0
            option = name.replace("_", "-")
            raise UsageError(f"--{option} goes with smoothing; a Lipschitz network is certified without noise")
    return {
        "lipschitz_constant": bundle.inferer.constant(bundle.network),
        "radius": bundle.inferer.radius,
        "dtype": str(bundle.inferer.dtype).removeprefix("torch."),
        "device": str(next(bundle.network.parameters()).device),
        "bundle": bundle.name,
        "configs": args.config,
    }


def _test(args: argparse.Namespace) -> VoteTest | None:
    """The test that was asked for, if one was."""
    if args.n0 is not None and args.test != "split":
        raise UsageError("--n0 goes with --test split")
    test = SplitTest(10 if args.n0 is None else args.n0) if args.test == "split" else joint
    if not getattr(args, "radius_map", False):
        return test if args.test else None
    if args.tau is not None or args.sequential or args.randomized:
        raise UsageError(
            "--radius-map gives each pixel its own radius: it goes without --tau, --sequential, --randomized"
        )
    return RadiusMap(test)


def _correction(args: argparse.Namespace) -> Correction | None:
    """The correction that was asked for, if one was."""
    if args.k is not None and args.correction != "generalized_holm":
        raise UsageError("--k goes with --correction generalized_holm")
    return _CORRECTIONS[args.correction](args.k or 1) if args.correction else None


def _sequential(args: argparse.Namespace) -> SequentialCertification | None:
    """The sequential certification that was asked for, if it was."""
    given = {name: value for name in ("looks", "stop", "boundaries") if (value := getattr(args, name)) is not None}
    if not args.sequential:
        if given:
            raise UsageError(f"--{next(iter(given))} goes with --sequential")
        return None
    if args.n is not None:
        raise UsageError("--sequential finds the number of draws; leave out --n, or give the numbers with --looks")
    if "boundaries" in given:
        given["boundaries"] = _BOUNDARIES[given["boundaries"]]
    if "looks" in given:
        given["looks"] = tuple(given["looks"])
    return SequentialCertification(**given)


def _boundaries(sampling: Sampling) -> str | None:
    """What the command line calls the boundaries of a sequential certification; None for a fixed number of draws."""
    if not isinstance(sampling, SequentialCertification):
        return None
    return next((name for name, boundaries in _BOUNDARIES.items() if boundaries is sampling.boundaries), "other")


def _require(bundle: Any, *entries: str) -> None:
    """Refuse a bundle that lacks what the command will need."""
    try:
        bundle.require(*entries)
    except ValueError as error:
        raise UsageError(explain(error)) from error


def _check_phantom(bundle: Any, inputs: Sequence[str], say: Callable[[str], object]) -> None:
    """Where the phantom is the input, say so, or refuse if the bundle has none."""
    from monai_cert.data.phantoms import PHANTOM

    if PHANTOM not in inputs:
        return
    if PHANTOM not in bundle.parser:
        raise UsageError(f"the bundle {bundle.name} has no phantom; give an image")
    say(f"no input given: taking the phantom of {bundle.name}, a synthetic image of nobody")


def _inputs(paths: Sequence[str]) -> list[str]:
    """Image files, folders resolved; the phantom if there are none."""
    from monai_cert.data.files import list_images, stem
    from monai_cert.data.phantoms import PHANTOM

    if not paths:
        return [PHANTOM]
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


def _keep_apart(args: argparse.Namespace, inputs: Sequence[str]) -> None:
    """Refuse an output folder in which results could overwrite inputs, or a mask that has the name of a result."""
    from monai_cert.data.phantoms import PHANTOM

    files = [file for file in (*inputs, args.mask) if file not in (PHANTOM, None, "borders")]
    if Path(args.output).resolve() in {Path(file).parent.resolve() for file in files}:
        raise UsageError(
            f"results would be written among the images in {args.output}; give another folder with --output"
        )


def _output_folder(path: str) -> Path:
    folder = Path(path)
    if folder.is_file():
        raise UsageError(f"{folder} is a file; give a folder with --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".monai_cert_probe"
        probe.touch()
        probe.unlink(missing_ok=True)  # several processes may do the same
    except OSError as error:
        raise UsageError(f"the output folder cannot be written: {explain(error)}") from error
    return folder


def _splits(data_root: str) -> Path:
    """The table of splits that lies in the data folder."""
    table = Path(data_root) / "splits.csv"
    if not table.is_file():
        raise UsageError(f"{table} does not exist; name a table of splits (dataset,id,split) with --splits")
    return table


def _leads() -> bool:
    """Whether this process speaks for all that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """What every process but the first says."""


def _quiet_libraries() -> None:
    """Keep notices of the libraries below, which a user cannot act on, off the terminal."""
    warnings.filterwarnings("ignore")
    for name in ("monai", "diffusers", "monai.bundle.config_parser"):
        logging.getLogger(name).setLevel(logging.ERROR)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "certify": _certify,
    "evaluate": _evaluate,
    "attack": _attack,
    "plan": _plan,
    "lipschitz": _lipschitz,
}
