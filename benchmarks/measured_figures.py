# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified measurements on real images: area, median Dice, and beside them certified and worst-case Dice.

The first test images of one set a modality, sigma = .25, one run of n draws an image for all certificates, tau = .75,
alpha = .001 for each kind of certificate, seed 0, R = .168. The area interval is that of the median area, its width in
percent of the estimate.

    python benchmarks/measured_figures.py --data-root DATA
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, whose statistics.py would stand for the standard library's

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_dice

import monai_cert as mc
from monai_cert.bundle import CertifiedBundle, load_bundle

SETS = {
    "montgomery": "chest_xray_lung_certified_segmentation",
    "isic2018": "skin_lesion_certified_segmentation",
    "kvasir_seg": "colonoscopy_polyp_certified_segmentation",
}
SIGMA, ALPHA, SEED = 0.25, 0.001, 0


def figures(bundle: CertifiedBundle, item: dict[str, object]) -> dict[str, float]:
    data = bundle.parser.get_parsed_content("labeled_preprocessing")(item)
    image, truth = data["image"].as_tensor()[None], data["label"].as_tensor()[None].long()
    inferer, names, shape = bundle.inferer, bundle.class_names, tuple(truth.shape[2:])
    measured = (
        mc.measurements_of(["area"], names, shape),
        mc.whole_mask_measurements(["dice"], names, truth[0, 0].numpy(), called="the truth"),
    )
    inferer.recorders = tuple(lambda image, m=m: mc.MeasurementRecorder(m) for m in measured)
    sample = inferer.sample(image, bundle.network)[0]
    certificate = inferer.decide(sample)
    area, dice = (recorder.certify(SIGMA, ALPHA, [certificate.radius]) for recorder in sample.recorded)
    with torch.no_grad():
        clean = (bundle.network(image) > 0).long()
    classes = torch.from_numpy(certificate.classes.astype(np.int64))[None, None]
    width, estimate = float(area.upper[0, 0] - area.lower[0, 0]), float(area.estimate[0])
    return {
        "clean Dice": float(compute_dice(clean, truth, include_background=False, num_classes=2)),
        "certified median Dice": float(dice.lower[0, 0]),
        "certified Dice": float(mc.certified_dice(classes, truth)),
        "worst-case Dice": float(mc.worst_case_dice(classes, truth)),
        "area interval": width / estimate if estimate else np.nan,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, type=Path)
    parser.add_argument("--limit", type=int, default=10, help="images of each set (default: 10)")
    parser.add_argument("--n", type=int, default=200, help="draws of an image (default: 200)")
    parser.add_argument("--datasets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    args = parser.parse_args()
    for number, dataset in enumerate(args.datasets):
        bundle = load_bundle(SETS[dataset], settings={"sigma": SIGMA, "n": args.n}, overrides={"seed": SEED})
        items = mc.public_datalist(dataset, args.data_root, args.data_root / "splits.csv", "test")[: args.limit]
        rows = [figures(bundle, item) for item in items]
        means = {name: np.nanmean([row[name] for row in rows]) for name in rows[0]}
        median = np.nanmedian([row["area interval"] for row in rows])
        if not number:
            print("| set | images | " + " | ".join(means) + " (mean) | area interval (median) |")
            print("|---|---|" + "---|" * (len(means) + 1))
        cells = [f"{value:.1%}" if name == "area interval" else f"{value:.3f}" for name, value in means.items()]
        print(f"| {dataset} | {len(rows)} | " + " | ".join(cells) + f" | {median:.1%} |", flush=True)


if __name__ == "__main__":
    main()
