# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certificates in one pass beside those of smoothing: figures, tightness, speed, and the picture of docs/lipschitz.md.

``run`` certifies the test splits with the Lipschitz networks of the bundles and writes one row an image: clean Dice,
and at each eps the worst-case Dice, the certified robust pixel accuracy (CRPA) and the share of the pixels that are
certified one by one; the mean radius; seconds. ``table`` gives the means a data set; and, over the images of which
there are votes of ``results.py run``, the worst-case Dice beside that of smoothing with denoising (sigma .25 and .5,
n = 110: at each eps the tau that gives this radius, and the better of the two sigmas in the mean). ``attack`` tells how
near projected gradient descent comes to the worst cases. ``speed`` compares passes and certificates. ``picture`` draws
Dice against eps, over the images that have votes.

    python benchmarks/lipschitz.py run --data-root DATA --output rows.csv
    python benchmarks/lipschitz.py table --rows rows.csv [--votes votes]
    python benchmarks/lipschitz.py attack --data-root DATA --images 5
    python benchmarks/lipschitz.py speed
    python benchmarks/lipschitz.py picture --rows rows.csv --votes votes --output docs/images/lipschitz_dice.png
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, whose statistics.py would stand for the standard library's

import argparse
import csv
import time
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import nn

import monai_cert as mc
from monai_cert.bundle import CertifiedBundle, load_bundle
from monai_cert.inferers.lipschitz import LipschitzSample
from monai_cert.logit_attack import attack_logits
from monai_cert.margins import budget, pixel_accuracy, pixel_dice, pixel_radii, pixel_sensitivity
from monai_cert.networks.layers import MaxMin

BUNDLES = {
    "montgomery": "chest_xray_lung_certified_segmentation",
    "shenzhen": "chest_xray_lung_certified_segmentation",
    "jsrt": "chest_xray_lung_certified_segmentation",
    "isic2018": "skin_lesion_certified_segmentation",
    "cvc_clinicdb": "colonoscopy_polyp_certified_segmentation",
    "kvasir_seg": "colonoscopy_polyp_certified_segmentation",
}
EPS = (0.05, 0.1, 0.17, 0.25)
CURVE = (0.0, 0.025, *EPS, 0.35, 0.5, 0.75, 1.0)
SIGMAS = (0.25, 0.5)
ALPHA = 0.001


@cache
def bundle_of(dataset: str) -> CertifiedBundle:
    return load_bundle(BUNDLES[dataset], configs=["inference_lipschitz.json"], device="cpu")


def loaded(item: dict[str, Any]) -> tuple[torch.Tensor, np.ndarray]:
    data = bundle_of(item["dataset"]).parser.get_parsed_content("labeled_preprocessing")(item)
    return data["image"].as_tensor()[None], (data["label"][0].numpy() > 0).astype(np.int64)


def items_of(args: argparse.Namespace, limit: int | None) -> list[dict[str, Any]]:
    root = Path(args.data_root)
    lists = [mc.public_datalist(name, root, args.splits or root / "splits.csv", "test") for name in args.datasets]
    return [item for items in lists for item in items[:limit]]


def figures(sample: LipschitzSample, truth: np.ndarray) -> dict[str, float]:
    dice, accuracy = pixel_dice(sample.logits, truth, 1), pixel_accuracy(sample.logits, truth)
    radii = pixel_radii(sample.logits, sample.constant, sample.rounding)
    row = {"clean_dice": dice.clean, "accuracy": accuracy.clean, "mean_radius": float(radii.mean())}
    for eps in CURVE:
        spent = budget(sample.constant, eps, sample.rounding)
        row |= {f"dice_{eps}": dice.worst(spent), f"crpa_{eps}": accuracy.worst(spent)}
        row[f"certified_{eps}"] = float((radii >= eps).mean())
    return row


def run(args: argparse.Namespace) -> None:
    with Path(args.output).open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for item in items_of(args, args.limit):
            bundle = bundle_of(item["dataset"])
            image, truth = loaded(item)
            started = time.perf_counter()
            sample = bundle.inferer.sample(image, bundle.network)[0]
            bundle.inferer.decide(sample)
            seconds = time.perf_counter() - started
            row = {"dataset": item["dataset"], "id": item["id"], **figures(sample, truth), "seconds": seconds}
            if writer is None:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            print(f"{item['dataset']} {item['id']}: {seconds:.3f} s", file=sys.stderr, flush=True)


def means(rows: str, votes: str | None = None) -> dict[str, dict[str, float]]:
    """Mean of each column over the images of each data set, NaN left out; seconds as the median.

    With votes, over the images that have votes.
    """
    columns: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with Path(rows).open() as file:
        for row in csv.DictReader(file):
            if votes is not None and row["id"] not in drawn(votes, row["dataset"]):
                continue
            for name, value in row.items():
                if name not in ("dataset", "id"):
                    columns[row["dataset"]][name].append(float(value))
    return {
        dataset: {n: float(np.median(v) if n == "seconds" else np.nanmean(v)) for n, v in found.items()}
        | {"images": float(len(found["seconds"]))}
        for dataset, found in columns.items()
    }


@cache
def drawn(votes: str, dataset: str) -> set[str]:
    """The images that have votes of smoothing with denoising at every sigma."""
    folders = [Path(votes) / dataset / "ours" / str(sigma) for sigma in SIGMAS]
    return set.intersection(*({file.stem for file in folder.glob("[!.]*.npz")} for folder in folders))


def smoothing(votes: str, dataset: str, sigma: float) -> dict[float, float]:
    """Mean worst-case Dice of the certificates of smoothing with denoising, at each eps that the draws can reach."""
    found: dict[float, list[float]] = defaultdict(list)
    for image in sorted(drawn(votes, dataset)):
        with np.load(Path(votes) / dataset / "ours" / str(sigma) / f"{image}.npz") as stored:
            foreground = stored["chosen"].astype(np.int16) + stored["tested"]
            truth = torch.from_numpy(stored["truth"].astype(np.int64))[None, None]
        draws = 110
        counts = np.stack([draws - foreground, foreground])
        for eps in CURVE:
            tau = max(0.5, float(norm.cdf(eps / sigma)) + 1e-9)
            if mc.min_samples(tau, ALPHA, foreground.size) > draws:
                continue
            certificate = mc.certify(counts, noise=mc.GaussianNoise(sigma), tau=tau, alpha=ALPHA)
            classes = torch.from_numpy(certificate.classes.astype(np.int64))[None, None]
            found[eps].append(float(mc.worst_case_dice(classes, truth)))
    return {eps: float(np.nanmean(values)) for eps, values in found.items()}


@cache
def best_smoothing(votes: str, dataset: str) -> dict[float, float]:
    each = [smoothing(votes, dataset, sigma) for sigma in SIGMAS]
    return {eps: max(f[eps] for f in each if eps in f) for eps in CURVE if any(eps in f for f in each)}


def table(args: argparse.Namespace) -> None:
    shown = " | ".join(f"worst Dice {e:g} | CRPA {e:g}" for e in EPS)
    print(f"| data set | images | clean Dice | {shown} | mean radius | s an image |")
    print("|" + "---|" * (5 + 2 * len(EPS)))
    for dataset, row in means(args.rows).items():
        cells = [f"{row[f'dice_{e}']:.3f} | {row[f'crpa_{e}']:.3f}" for e in EPS]
        tail = f"{row['mean_radius']:.3f} | {row['seconds']:.3f}"
        print(f"| {dataset} | {row['images']:.0f} | {row['clean_dice']:.3f} | {' | '.join(cells)} | {tail} |")
    if args.votes is None:
        return
    print(f"\n| data set | images | {' | '.join(f'one pass {e:g} | smoothing {e:g}' for e in EPS)} |")
    print("|" + "---|" * (2 + 2 * len(EPS)))
    for dataset, row in means(args.rows, args.votes).items():
        other = best_smoothing(args.votes, dataset)
        cells = [f"{row[f'dice_{e}']:.3f} | {other[e]:.3f}" for e in EPS]
        print(f"| {dataset} | {row['images']:.0f} | {' | '.join(cells)} |")


def attack(args: argparse.Namespace) -> None:
    print("| data set | figure | eps | clean | worst case | reached | share of the allowed loss |")
    print("|" + "---|" * 7)
    for dataset in args.datasets:
        args_of_set = argparse.Namespace(**vars(args) | {"datasets": [dataset]})
        lost: dict[tuple[str, float], list[tuple[float, float, float]]] = defaultdict(list)
        for item in items_of(args_of_set, args.images):
            bundle = bundle_of(dataset)
            image, truth = loaded(item)
            sample = bundle.inferer.sample(image, bundle.network)[0]
            network = mc.LipschitzSegmenter.of_state(bundle.network.state_dict()).double()
            right = torch.from_numpy((sample.logits[0] > 0) == (truth > 0))[None, None]
            for name, figure, pixels in (
                ("Dice", lambda z, t=truth: pixel_dice(z, t, 1), right),
                ("accuracy", lambda z, t=truth: pixel_accuracy(z, t), right),
                (
                    "1 - FNR",
                    lambda z, t=truth: pixel_sensitivity(z, t, 1),
                    right & torch.from_numpy(truth > 0)[None, None],
                ),
            ):
                for eps in args.eps:
                    worst = figure(sample.logits).worst(budget(sample.constant, eps, sample.rounding))
                    reached, _ = attack_logits(
                        network, image.double(), pixels, eps, lambda z, of=figure: of(z[0].numpy()).clean
                    )
                    assert reached >= worst, f"{item['id']}: {name} {reached} is below its bound {worst}"
                    lost[name, eps].append((figure(sample.logits).clean, worst, reached))
        for (name, eps), values in lost.items():
            clean, worst, reached = np.nanmean(np.array(values), axis=0)
            share = (clean - reached) / (clean - worst) if clean > worst else np.nan
            print(
                f"| {dataset} | {name} | {eps:g} | {clean:.4f} | {worst:.4f} | {reached:.4f} | {share:.2f} |",
                flush=True,
            )


def unconstrained(network: mc.LipschitzSegmenter) -> nn.Module:
    """The same shape with ReLU in place of sorting."""
    other = mc.LipschitzSegmenter(**network.settings)

    def replace(module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, MaxMin):
                setattr(module, name, nn.ReLU())
            replace(child)

    replace(other)
    return other.eval()


def fastest(call: Any, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def speed(args: argparse.Namespace) -> None:
    bundle = bundle_of("montgomery")
    network, image = bundle.network, torch.as_tensor(bundle.parser.get_parsed_content("phantom"))[None]
    assert isinstance(network, mc.LipschitzSegmenter)
    plain = unconstrained(network)
    with torch.no_grad():
        pairs = [(fastest(lambda: network(image), 5), fastest(lambda: plain(image), 5)) for _ in range(args.repeats)]
    ours, theirs = (min(column) for column in zip(*pairs, strict=True))
    ratio = float(np.median([a / b for a, b in pairs]))
    print(f"pass in float32, exported {1e3 * ours:.1f} ms, unconstrained {1e3 * theirs:.1f} ms, ratio {ratio:.2f}")
    once = fastest(lambda: bundle.inferer.certify(image, network), args.repeats)
    print(f"certificate in one pass, float64, 256x256: {1e3 * once:.1f} ms")
    if args.draws:
        other = load_bundle(BUNDLES["montgomery"], settings={"n": args.draws}, device="cpu")
        smoothed = fastest(lambda: other.inferer.certify(image, other.network), 1)
        thousand = smoothed * 1000 / args.draws
        print(f"smoothing with the denoiser, {args.draws} draws: {smoothed:.2f} s; {thousand:.1f} s for n = 1000")
        print(f"that is {thousand / once:.0f} times as long")


def picture(args: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    found = means(args.rows, args.votes)
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    grid = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for axes, (dataset, row) in zip(grid, found.items(), strict=False):
        axes.plot(CURVE, [row[f"dice_{e}"] for e in CURVE], "-o", ms=4, color="#0072B2", label="Lipschitz, one pass")
        other = best_smoothing(args.votes, dataset)
        axes.plot(list(other), list(other.values()), "--s", ms=4, color="#D55E00", label="smoothing, denoised, n = 110")
        axes.set_title(f"{dataset} ({row['images']:.0f} images)")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    for axes in figure.axes[-3:]:
        axes.set_xlabel("eps, l2 size of the change (pixel values 0 to 1)")
    for axes in figure.axes[::3]:
        axes.set_ylabel("worst-case Dice")
    figure.axes[0].legend(loc="lower left")
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, command in (("run", run), ("attack", attack)):
        part = commands.add_parser(name)
        part.set_defaults(command=command)
        part.add_argument("--data-root", required=True)
        part.add_argument("--splits")
        part.add_argument("--datasets", nargs="+", choices=tuple(BUNDLES), default=tuple(BUNDLES))
    commands.choices["run"].add_argument("--output", required=True)
    commands.choices["run"].add_argument("--limit", type=int)
    commands.choices["attack"].add_argument("--images", type=int, default=5)
    commands.choices["attack"].add_argument("--eps", type=float, nargs="+", default=[0.17, 0.5])
    for name, command in (("table", table), ("picture", picture)):
        part = commands.add_parser(name)
        part.set_defaults(command=command)
        part.add_argument("--rows", required=True)
        part.add_argument("--votes", required=name == "picture")
    commands.choices["picture"].add_argument("--output", required=True)
    part = commands.add_parser("speed")
    part.set_defaults(command=speed)
    part.add_argument("--repeats", type=int, default=7)
    part.add_argument("--draws", type=int, default=100, help="draws of smoothing to time; 0 for none")
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
