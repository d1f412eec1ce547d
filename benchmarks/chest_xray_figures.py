# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The figures of the chest X-ray bundle: what is certified on three test splits, with and without denoising.

Runs `monai-cert evaluate` (n = 100, tau = .75, alpha = .001, seed 0) for each data set and sigma, and once more without
the denoiser at sigma = 1, then prints the table of the model card. What the output folder holds is not done again.

    python benchmarks/chest_xray_figures.py --data-root DATA --output eval
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, whose statistics.py would stand for the standard library's

import argparse
import json
from pathlib import Path
from typing import Any

from monai_cert.bundle import DEFAULT_BUNDLE
from monai_cert.cli import main as monai_cert

SETS = ("montgomery", "shenzhen", "jsrt")
RUNS = (("0.25", True), ("0.5", True), ("1.0", True), ("1.0", False))


def results(dataset: str, sigma: str, denoise: bool, args: argparse.Namespace) -> dict[str, Any]:
    """Results of one run, which goes on where it was stopped."""
    folder = Path(args.output) / f"{dataset}-{sigma}{'' if denoise else '-plain'}"
    options = ["--dataset", dataset, "--sigma", sigma, "--data-root", args.data_root, "--output", str(folder)]
    options += ["--seed", "0", *([] if denoise else ["--no-denoise"])]
    options += [] if args.limit is None else ["--limit", args.limit]
    if monai_cert(["evaluate", "--bundle", DEFAULT_BUNDLE, *options]) != 0:
        raise SystemExit(f"the run in {folder} failed; the same command goes on with it")
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--limit", help="the first N images of each set only")
    parser.add_argument("--only", nargs="*", default=SETS, help="data sets to run")
    args = parser.parse_args()
    rows = []
    for sigma, denoise in RUNS:
        for dataset in args.only:
            found = results(dataset, sigma, denoise, args)
            mean, error = found["means"], found["standard_errors"]["certified_dice"]
            spread = "" if error is None else f" ± {error:.3f}"
            rows.append(
                f"| {dataset} | {found['images']} | {sigma} | {found['settings']['radius']:.2f} | "
                f"{'yes' if denoise else 'no'} | {mean['clean_dice']:.3f} | {mean['smoothed_dice']:.3f} | "
                f"{mean['certified_dice']:.3f}{spread} | {mean['worst_case_dice']:.3f} | {mean['abstention']:.1%} |"
            )
    print(
        "| set | images | sigma | R | denoised | clean Dice | smoothed Dice | certified Dice | worst case | abstains |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
