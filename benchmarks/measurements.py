# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What does measuring the noisy predictions add to a draw?

The chest bundle with its denoiser, one 256 x 256 image: votes alone, then votes with area, largest diameter, number of
components and Dice, then with the bit-packed masks. The three are run in turn; each figure is the median over the
rounds, each ratio the median of the ratios within the rounds. Then each measurement alone, on a noisy prediction.

    python benchmarks/measurements.py
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, whose statistics.py would stand for the standard library's

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from monai_cert import CertificationInferer, GaussianNoise, chest_phantom
from monai_cert.bundle import DEFAULT_BUNDLE, CertifiedBundle, load_bundle
from monai_cert.inferers.recording import MaskRecorder, MeasurementRecorder
from monai_cert.measurements import Measurement, measurements_of
from monai_cert.memory import keep_freed_memory
from monai_cert.metrics.whole_mask import WHOLE_MASK, whole_mask_measurements

SIDE = 256
MEASURED = ("area", "diameter", "components")


def measurements(truth: np.ndarray, kinds: Sequence[str], compared: Sequence[str]) -> list[Measurement]:
    names = ("background", "lung")
    return measurements_of(kinds, names, truth.shape) + whole_mask_measurements(compared, names, truth)


def drawing(bundle: CertifiedBundle, image: torch.Tensor, n: int, batch_size: int, recorders: Any) -> Callable[[], Any]:
    inferer = CertificationInferer(
        GaussianNoise(0.25),
        tau=0.5,
        alpha=0.5,
        n=n,
        batch_size=batch_size,
        inferer=bundle.inferer.inferer,
        seed=0,
        recorders=recorders,
    )
    return lambda: inferer.sample(image, bundle.network)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    kept = keep_freed_memory()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}, n = {args.n}, "
        f"{args.rounds} rounds, freed memory {'kept' if kept else 'as the system has it'}\n"
    )
    bundle = load_bundle(DEFAULT_BUNDLE, device=args.device)
    pixels, label = chest_phantom(SIDE)
    image, truth = torch.from_numpy(pixels)[None].to(args.device), np.asarray(label, dtype=np.int64).reshape(SIDE, SIDE)
    chosen = measurements(truth, MEASURED, ("dice",))
    ways: dict[str, Any] = {
        "votes alone": (),
        "votes; area, diameter, components, Dice": [lambda image: MeasurementRecorder(chosen)],
        "votes; masks, one bit a pixel": [lambda image: MaskRecorder(2)],
    }
    works = [drawing(bundle, image, args.n, args.batch_size, recorders) for recorders in ways.values()]
    for work in works:
        work()
    times = np.array([[seconds(work) for work in works] for _ in range(args.rounds)])
    print("| what | ms a draw | ratio to votes alone |\n|---|---|---|")
    for name, column in zip(ways, times.T, strict=True):
        ratio = np.median(column / times[:, 0])
        print(f"| {name} | {1000 * np.median(column) / args.n:.2f} | {ratio:.3f} |")
    keep = MaskRecorder(2)
    drawing(bundle, image, 20, args.batch_size, [lambda image: keep])()
    masks = list(keep.masks())
    print("\n| measurement of one prediction | ms |\n|---|---|")
    for one in measurements(truth, (*MEASURED, "perimeter", "centroid", "bounding-box"), tuple(WHOLE_MASK)):
        one.measure(masks[0])
        spent = [seconds(lambda mask=mask, one=one: one.measure(mask)) for mask in masks]
        print(f"| {one.name} | {1000 * np.median(spent):.2f} |")


if __name__ == "__main__":
    main()
