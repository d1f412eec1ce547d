# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Draw `images/certificates.png`: one pass over the noise, and the two kinds of statement that it proves.

python docs/certificates_picture.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monai_cert import ABSTAIN, chest_phantom
from monai_cert.bundle import DEFAULT_BUNDLE, load_bundle
from monai_cert.inferers.recording import MaskRecorder, MeasurementRecorder
from monai_cert.measurements import measurements_of

BLUE, ORANGE = "#0072B2", "#D55E00"
SHOWN = 30
ZOOM = (slice(70, 190), slice(22, 142))  # where the outline of a lung is in doubt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("images") / "certificates.png")
    args = parser.parse_args()
    bundle = load_bundle(DEFAULT_BUNDLE, settings={"n": args.n}, overrides={"seed": 0, "batch_size": 2})
    pixels = chest_phantom(256)[0]
    areas = measurements_of(["area"], bundle.class_names, pixels.shape[1:])
    bundle.inferer.recorders = (lambda image: MeasurementRecorder(areas), lambda image: MaskRecorder(2))
    device = next(bundle.network.parameters()).device
    sample = bundle.inferer.sample(torch.from_numpy(pixels)[None].to(device), bundle.network)[0]
    certificate = bundle.inferer.decide(sample)
    measured, kept = sample.recorded
    interval = measured.certify(certificate.sigma, certificate.alpha, [certificate.radius])
    figure = Figure(figsize=(14.5, 5.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    draws, majority, numbers = figure.subplots(1, 3)
    for axes in (draws, majority):
        axes.imshow(pixels[0][ZOOM], cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
    for mask in kept.masks(0, SHOWN):
        draws.contour(mask[ZOOM], levels=[0.5], colors=[BLUE], linewidths=0.5, alpha=0.6)
    draws.set_title(f"{args.n} noisy predictions, {SHOWN} of them shown:\none pass serves both statements", fontsize=11)
    classes = certificate.classes[ZOOM]
    majority.contour(classes == 1, levels=[0.5], colors=[BLUE], linewidths=1.6)
    majority.contourf(classes == ABSTAIN, levels=[0.5, 1.5], colors=[ORANGE], alpha=0.45)
    majority.set_title(
        "per pixel: the class of the majority\n"
        "inside the blue line it stays lung, beyond the orange rim\n"
        f"background; the rim abstains ({certificate.abstention:.1%} of all pixels)",
        fontsize=11,
    )
    values = measured.values()[0]
    numbers.hist(values, bins=24, color="#BBBBBB", label="one noisy prediction each")
    numbers.axvspan(
        interval.lower[0, 0], interval.upper[0, 0], color=BLUE, alpha=0.3, label="certified: the median stays here"
    )
    numbers.axvline(interval.estimate[0], color=BLUE, linewidth=2, label="median")
    numbers.set(xlabel="area of lung [pixels]", ylabel="predictions", yticks=[])
    numbers.legend(fontsize=9, loc="upper left")
    numbers.set_ylim(top=1.45 * numbers.get_ylim()[1])
    numbers.set_title("of the distribution: the median of a measurement", fontsize=11)
    figure.suptitle(
        f"Under every change of the image of l2 size below {certificate.radius:.4f}   (synthetic phantom, no patient; "
        f"sigma {certificate.sigma:g}, n {args.n}, alpha {certificate.alpha:g} each)",
        fontsize=12,
        fontweight="bold",
    )
    figure.savefig(args.output, dpi=100)
    for text in (certificate.statement, *interval.statements):
        print(text)
    print("range of the noisy predictions:", np.percentile(values, [0, 50, 100]))


if __name__ == "__main__":
    main()
