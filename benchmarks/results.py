# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Tables and curves of docs/results.md: four methods, six data sets, three sigmas, on the same images.

| method | network | denoiser | test |
|---|---|---|---|
| plain | trained on clean images | none | split, 10 + 100 draws |
| noise | SegCertify (Fischer et al. 2021): trained further on noise of this sigma | none | split, 10 + 100 draws |
| published | trained on clean images | as published (Laousy et al. 2023): timestep of sigma | split, 10 + 100 draws |
| ours | fine-tuned on denoised images, for every sigma | timestep of 2 sigma | joint, 110 draws |

tau = .75, alpha = .001, Holm, seed 0. Seconds are CPU time, so that what else a machine does leaves them alone.
``run`` draws the votes of one image after another, round by round over the data sets, each in a random order of its
own (seed 0), and keeps each image's in a file, written whole or not at all: it may be stopped at any moment, and
continues; ``--part 0/2`` and ``--part 1/2`` share it out to two processes. ``tables`` and ``curves`` decide on what
is there: on the images that all ``--methods`` have.

The weights of `plain` and `noise` are no part of the bundles: WEIGHTS/BUNDLE/plain.pt is what ``train.json`` makes, and
WEIGHTS/BUNDLE/noise_SIGMA.pt what ``train_noise.json`` makes of it (see the bundles' cards).

    python benchmarks/results.py run --data-root DATA --weights WEIGHTS --output votes
    python benchmarks/results.py tables --output votes
    python benchmarks/results.py curves --output votes --pictures docs/images
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, whose statistics.py would stand for the standard library's

import argparse
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.inferers import Inferer, SimpleInferer
from monai.metrics import compute_dice
from torch import nn

import monai_cert as mc
from monai_cert.bundle import CertifiedBundle, load_bundle
from monai_cert.provenance import weights_sha256
from monai_cert.report import write_whole
from monai_cert.statistics.intervals import bootstrap_interval

BUNDLES = {
    "montgomery": "chest_xray_lung_certified_segmentation",
    "shenzhen": "chest_xray_lung_certified_segmentation",
    "jsrt": "chest_xray_lung_certified_segmentation",
    "isic2018": "skin_lesion_certified_segmentation",
    "cvc_clinicdb": "colonoscopy_polyp_certified_segmentation",
    "kvasir_seg": "colonoscopy_polyp_certified_segmentation",
}
METHODS = ("plain", "noise", "published", "ours")
SIGMAS = (0.25, 0.5, 1.0)
N0, N, TAU, ALPHA, SEED = 10, 100, 0.75, 0.001, 0
COLOURS = {"plain": "tab:gray", "noise": "tab:orange", "ours": "tab:blue"}
FIGURES = ("clean_dice", "smoothed_dice", "certified_dice", "worst_case_dice", "abstention", "seconds")


@dataclass(frozen=True)
class Votes:
    """What was drawn on one image: the votes of the n0 and the n draws for the foreground, truth, clean prediction."""

    dataset: str
    method: str
    sigma: float
    image: str
    chosen: np.ndarray
    tested: np.ndarray
    truth: np.ndarray
    clean: np.ndarray
    seconds: float
    weights: str

    def save(self, folder: Path) -> None:
        """Write the file of this image."""
        arrays = {"chosen": self.chosen, "tested": self.tested, "truth": self.truth, "clean": self.clean}
        content = io.BytesIO()
        np.savez_compressed(content, seconds=self.seconds, weights=self.weights, **arrays)
        place(folder, self.dataset, self.method, self.sigma).mkdir(parents=True, exist_ok=True)
        write_whole(place(folder, self.dataset, self.method, self.sigma) / f"{self.image}.npz", content.getvalue())

    @classmethod
    def load(cls, file: Path) -> Votes:
        """Read what `save` wrote."""
        dataset, method, sigma = file.parts[-4:-1]
        with np.load(file) as stored:
            arrays = {name: stored[name] for name in ("chosen", "tested", "truth", "clean")}
            seconds, weights = float(stored["seconds"]), str(stored["weights"])
        return cls(dataset, method, float(sigma), file.stem, seconds=seconds, weights=weights, **arrays)


def place(folder: Path, dataset: str, method: str, sigma: float) -> Path:
    return folder / dataset / method / str(sigma)


@cache
def bundle_of(name: str, sigma: float) -> CertifiedBundle:
    return load_bundle(name, settings={"sigma": sigma})


def network_of(bundle: CertifiedBundle, method: str, sigma: float, weights: Path) -> nn.Module:
    """The bundle's network with the weights of a method."""
    if method != "ours":
        file = weights / bundle.name / (f"noise_{sigma}.pt" if method == "noise" else "plain.pt")
        state = torch.load(file, map_location="cpu", weights_only=True)
        bundle.network.load_state_dict(state)
    else:
        bundle.network.load_state_dict(
            torch.load(bundle.root / "models" / "model.pt", map_location="cpu", weights_only=True)
        )
    return bundle.network


def inferer_of(bundle: CertifiedBundle, method: str, sigma: float) -> mc.CertificationInferer:
    """Votes of the n0 and the n draws apart, so that both tests can be made on the same draws."""
    inner: Inferer = SimpleInferer()
    if method in ("published", "ours"):
        denoiser = bundle.parser.get_parsed_content("denoiser")
        # The published code took the timestep of sigma where images in [-1, 1] have noise of 2 sigma.
        inner = mc.DiffusionDenoiseInferer(denoiser, sigma=sigma / 2 if method == "published" else sigma)
    return mc.CertificationInferer(
        mc.GaussianNoise(sigma), tau=TAU, alpha=ALPHA, n=N, test=mc.SplitTest(N0), inferer=inner, seed=SEED
    )


def draw(item: dict[str, Any], method: str, sigma: float, weights: Path) -> Votes:
    bundle = bundle_of(BUNDLES[item["dataset"]], sigma)
    network, inferer = network_of(bundle, method, sigma, weights), inferer_of(bundle, method, sigma)
    data = bundle.parser.get_parsed_content("labeled_preprocessing")(item)
    device = next(network.parameters()).device
    image = data["image"].as_tensor()[None].to(device)
    started = time.process_time()
    sample = inferer.sample(image, network)[0]
    inferer.decide(sample)
    seconds = time.process_time() - started
    with torch.no_grad():
        clean = network(image)[0, 0] > 0
    return Votes(
        dataset=item["dataset"],
        method=method,
        sigma=sigma,
        image=item["id"],
        chosen=sample.selection[1].cpu().numpy().astype(np.uint8),
        tested=sample.votes[1].cpu().numpy().astype(np.uint8),
        truth=data["label"][0].numpy() > 0,
        clean=clean.cpu().numpy(),
        seconds=seconds,
        weights=weights_sha256(
            [network, *([inferer.inferer.denoiser] if hasattr(inferer.inferer, "denoiser") else [])]
        ),
    )


def run(args: argparse.Namespace) -> None:
    root, folder = Path(args.data_root), Path(args.output)
    part, parts = (int(number) for number in args.part.split("/"))
    lists = [mc.public_datalist(name, root, args.splits or root / "splits.csv", "test") for name in args.datasets]
    rounds = max(len(items) for items in lists) if args.limit is None else args.limit
    # Neighbors in a list may be frames of one sequence; in a random order, what stands at any time is a fair sample.
    lists = [[items[k] for k in np.random.default_rng(SEED).permutation(len(items))] for items in lists]
    items = [items[number] for number in range(rounds) for items in lists if number < len(items)][part::parts]
    for item in items:
        for sigma in args.sigmas:
            for method in args.methods:
                if (place(folder, item["dataset"], method, sigma) / f"{item['id']}.npz").is_file():
                    continue
                drawn = draw(item, method, sigma, Path(args.weights))
                drawn.save(folder)
                print(f"{item['dataset']} {item['id']} {method} {sigma}: {drawn.seconds:.1f} s", flush=True)


def certified(votes: Votes, joint: bool) -> mc.Certificate:
    """The certificate by the joint test on all draws, or by the split test on the same draws."""

    def both(foreground: np.ndarray, draws: int) -> np.ndarray:
        counts = foreground.astype(np.int16)
        return np.stack([draws - counts, counts])

    noise = mc.GaussianNoise(votes.sigma)
    if joint:
        return mc.certify(both(votes.chosen + votes.tested, N0 + N), noise=noise, tau=TAU, alpha=ALPHA)
    chosen, tested = both(votes.chosen, N0), both(votes.tested, N)
    return mc.certify(tested, selection=chosen, noise=noise, tau=TAU, alpha=ALPHA, test=mc.SplitTest(N0))


def figures(votes: Votes, joint: bool) -> dict[str, float]:
    certificate = certified(votes, joint)
    truth, classes = (torch.from_numpy(a.astype(np.int64))[None, None] for a in (votes.truth, certificate.classes))
    # The majority of all draws, a tie being background.
    majority = votes.chosen.astype(np.int16) + votes.tested > (N0 + N) / 2
    plain, smoothed = (
        compute_dice(torch.from_numpy(a.astype(np.int64))[None, None], truth, include_background=False, num_classes=2)
        for a in (votes.clean, majority)
    )
    return {
        "clean_dice": float(plain),
        "smoothed_dice": float(smoothed),
        "certified_dice": float(mc.certified_dice(classes, truth)),
        "worst_case_dice": float(mc.worst_case_dice(classes, truth)),
        "abstention": certificate.abstention,
        "seconds": votes.seconds,
    }


def found(folder: Path, methods: Sequence[str]) -> Iterator[tuple[str, str, float, list[Votes]]]:
    """Data set, method, sigma and votes, of one network each: of the images that all runs of the methods have."""
    for dataset in BUNDLES:
        runs = [
            (method, sigma) for method in methods for sigma in SIGMAS if place(folder, dataset, method, sigma).is_dir()
        ]
        files = [{file.name for file in place(folder, dataset, *run).glob("[!.]*.npz")} for run in runs]
        common = sorted(set.intersection(*files)) if files else []
        for method, sigma in runs if common else []:
            drawn = [Votes.load(place(folder, dataset, method, sigma) / name) for name in common]
            if len({votes.weights for votes in drawn}) > 1:
                raise SystemExit(f"{place(folder, dataset, method, sigma)} has votes of several networks; draw again")
            yield dataset, method, sigma, drawn


def interval(values: np.ndarray) -> str:
    """95 % interval of a mean over images, in words of the table."""
    found = bootstrap_interval(values[~np.isnan(values)])
    return "" if found is None else f" ({found.low:.3f} to {found.high:.3f})"


def tables(args: argparse.Namespace) -> None:
    rows: dict[tuple[str, str, float], list[dict[str, float]]] = {}
    gains = []
    for dataset, method, sigma, drawn in found(Path(args.output), args.methods):
        rows[dataset, method, sigma] = [figures(votes, joint=method == "ours") for votes in drawn]
        if method == "ours":
            split = np.nanmean([figures(votes, joint=False)["certified_dice"] for votes in drawn])
            joint = np.nanmean([row["certified_dice"] for row in rows[dataset, method, sigma]])
            gains.append((dataset, sigma, len(drawn), split, joint))
    columns = ("clean Dice", "smoothed Dice", "certified Dice", "worst-case Dice", "abstains", "CPU s an image")
    for sigma in SIGMAS:
        print(f"\n### sigma = {sigma:g}, R = {mc.GaussianNoise(sigma).radius(TAU):.2f}\n")
        heading("data set", "images", "method", *columns)
        for (dataset, method, at), images in rows.items():
            if at == sigma:
                values = {name: np.array([row[name] for row in images]) for name in FIGURES}
                mean = {name: float(np.nanmean(column)) for name, column in values.items()}
                certified_dice = f"{mean['certified_dice']:.3f}{interval(values['certified_dice'])}"
                cells = [f"{mean['clean_dice']:.3f}", f"{mean['smoothed_dice']:.3f}", certified_dice]
                cells += [f"{mean['worst_case_dice']:.3f}", f"{mean['abstention']:.1%}", f"{mean['seconds']:.1f}"]
                line(dataset, len(images), method, *cells)
    print("\n### Certified Dice, mean over the data sets\n")
    heading("sigma", *args.methods)
    for sigma in SIGMAS:
        means = []
        for method in args.methods:
            sets = [[row["certified_dice"] for row in rows[key]] for key in rows if key[1:] == (method, sigma)]
            means.append(f"{np.mean([np.nanmean(images) for images in sets]):.3f}" if len(sets) == len(BUNDLES) else "")
        line(f"{sigma:g}", *means)
    print("\n### Certified Dice by the split test and by the joint test on the same 110 draws, method ours\n")
    heading("data set", "images", "sigma", "split", "joint", "gain")
    for dataset, sigma, images, split, joint in gains:
        line(dataset, images, f"{sigma:g}", f"{split:.3f}", f"{joint:.3f}", f"{joint - split:+.3f}")


def curve(votes: Votes, radii: torch.Tensor) -> torch.Tensor:
    """Certified Dice at several radii, (R,): each pixel its own radius, all together with one alpha."""
    counts = votes.chosen.astype(np.int16) + votes.tested
    both = np.stack([N0 + N - counts, counts])
    certificate = mc.certify(both, noise=mc.GaussianNoise(votes.sigma), alpha=ALPHA, test=mc.radius_map)
    classes, truth = (torch.from_numpy(a.astype(np.int64))[None, None] for a in (certificate.classes, votes.truth))
    radius = torch.from_numpy(certificate.radius_map)[None, None]
    return mc.curve_over_radius(mc.certified_dice, classes, radius, truth, radii).flatten()


def curves(args: argparse.Namespace) -> None:
    radii = torch.linspace(0.01, 1.0, 100)
    drawings: dict[str, tuple[Figure, Axes]] = {}
    for dataset, method, sigma, drawn in found(Path(args.output), args.methods):
        if method not in COLOURS:
            continue
        if dataset not in drawings:
            drawings[dataset] = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        axes = drawings[dataset][1]
        means = torch.stack([curve(votes, radii) for votes in drawn]).nanmean(0)
        style = dict(zip(SIGMAS, ("-", "--", ":"), strict=True))[sigma]
        axes.plot(radii, means, style, color=COLOURS[method], label=f"{method}, sigma {sigma:g} ({len(drawn)} images)")
    for dataset, (figure, axes) in drawings.items():
        axes.set(xlim=(0, 1), ylim=(0, 1), title=f"{dataset}: certified Dice against radius")
        axes.set(xlabel="radius (l2, pixel values from 0 to 1)", ylabel="certified Dice, mean over images")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        file = Path(args.pictures) / f"curve_{dataset}.png"
        figure.savefig(file, dpi=110)
        print(file)


def heading(*cells: str) -> None:
    line(*cells)
    print("|" + "---|" * len(cells))


def line(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    drawing = commands.add_parser("run", help="draw votes")
    drawing.add_argument("--data-root", required=True)
    drawing.add_argument("--weights", required=True, help="folder of the plain and the noise networks' weights")
    drawing.add_argument("--splits", help="table of splits (default: splits.csv in the data root)")
    drawing.add_argument("--datasets", nargs="+", choices=tuple(BUNDLES), default=tuple(BUNDLES))
    drawing.add_argument("--sigmas", nargs="+", type=float, default=SIGMAS)
    drawing.add_argument("--limit", type=int, help="N images of each set only, drawn at random")
    drawing.add_argument("--part", default="0/1", metavar="K/N", help="share K, from 0, of N")
    drawing.set_defaults(command=run)
    showing = commands.add_parser("tables", help="print the tables")
    showing.set_defaults(command=tables)
    plotting = commands.add_parser("curves", help="draw certified Dice against the radius, a picture a data set")
    plotting.add_argument("--pictures", required=True, help="folder of the pictures")
    plotting.set_defaults(command=curves)
    for command in (drawing, showing, plotting):
        command.add_argument("--output", required=True, help="folder of the votes")
        command.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    args = parser.parse_args()
    args.command(args)


if __name__ == "__main__":
    main()
