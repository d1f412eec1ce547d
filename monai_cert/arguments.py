# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What the command line takes: commands, their options and what these say of themselves."""

from __future__ import annotations

import argparse

from monai_cert.data.public_sets import PUBLIC_SETS
from monai_cert.sequential import DEFAULT_LOOKS, SequentialCertification

__all__ = ["CORRECTIONS", "MEASURED", "make_parser"]

CORRECTIONS = ("holm", "bonferroni", "generalized_holm")

# Names of monai_cert.measurements and monai_cert.metrics.whole_mask, which take seconds to import.
MEASURED = (
    *("area", "volume", "diameter", "perimeter", "centroid", "bounding-box", "components", "cardiothoracic-ratio"),
    *("dice", "iou", "hausdorff", "hausdorff-95", "surface-distance"),
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``command`` of what it parses is the name of one."""
    parser = argparse.ArgumentParser(
        prog="monai-cert",
        description="Certified segmentation of medical images: what no perturbation below a radius can change.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    certify = commands.add_parser("certify", help="certify image files")
    certify.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="image file or folder; the bundle's phantom if none"
    )
    certify.add_argument(
        "--share-draws",
        action="store_true",
        help="share the draws of each image among the processes of torchrun -m -- monai_cert certify ...",
    )
    certify.add_argument(
        "--radius-map",
        action="store_true",
        help="each pixel its own largest radius, all at once, in place of the one of --tau",
    )
    certify.add_argument(
        "--measure",
        nargs="+",
        choices=MEASURED,
        metavar="WHAT",
        help=f"certify measurements of the noisy predictions too: {', '.join(MEASURED)}",
    )
    certify.add_argument(
        "--spacing",
        nargs="+",
        type=float,
        metavar="MM",
        help="with --measure: millimeters from pixel to pixel of the files, rows before columns, slices first "
        "(default: what the file states)",
    )
    certify.add_argument(
        "--units",
        choices=("auto", "mm", "pixels"),
        default="auto",
        help="with --measure: auto measures in millimeters where the spacing is known (default: auto)",
    )
    certify.add_argument(
        "--radii",
        nargs="+",
        type=float,
        metavar="R",
        help="with --measure: l2 radii (default: four up to the radius of tau)",
    )
    attack = commands.add_parser("attack", help="try to break the certificate of one image")
    attack.add_argument("input", nargs="?", metavar="IMAGE", help="image file; the bundle's phantom if none")
    attack.add_argument("--radius", type=float, help="l2 size of the attack (default: the certified radius)")
    attack.add_argument(
        "--factors",
        nargs="+",
        type=float,
        default=[1.0, 1.5, 3.0],
        metavar="F",
        help="attack at these multiples of the radius (default: 1 1.5 3)",
    )
    attack.add_argument("--steps", type=_positive, default=20, help="gradient steps of one attack (default: 20)")
    attack.add_argument("--draws", type=_positive, default=8, help="noise draws of one gradient step (default: 8)")
    for command in (certify, attack):
        command.add_argument(
            "--intensity-range",
            nargs=2,
            type=float,
            metavar=("LOW", "HIGH"),
            help="stored pixel values that are black and white (default: the range of their type)",
        )
    evaluate = commands.add_parser(
        "evaluate",
        help="certify a data set and compare with the truth",
        description="Certify the images of a data set and compare with the truth. Each image leaves a row in the "
        "output folder: the same command goes on where it was stopped, does not repeat what is done, and tries again "
        "what failed. Processes that torchrun starts (torchrun --nproc_per_node=K -m -- monai_cert evaluate ...), on "
        "one or more machines, share the images; all must see the output folder.",
    )
    evaluate.add_argument("--dataset", required=True, metavar="NAME", help=f"one of {', '.join(PUBLIC_SETS)}")
    evaluate.add_argument("--data-root", required=True, metavar="DIR", help="folder that holds the data set")
    evaluate.add_argument(
        "--splits", metavar="CSV", help="table dataset,id,split (default: splits.csv in the data root)"
    )
    evaluate.add_argument("--split", default="test", metavar="NAME", help="split to evaluate (default: test)")
    evaluate.add_argument(
        "--limit", type=_positive, metavar="N", help="the first N images only; may grow from one run to the next"
    )
    evaluate.add_argument(
        "--partial", action="store_true", help="leave out images of the split that are not in the folder; says how many"
    )
    evaluate.add_argument("--no-denoise", action="store_true", help="the network alone, without the denoiser")
    # What is not given is what the bundle's configurations say: the shipped ones, the defaults that are told here.
    for command in (certify, evaluate, attack):
        command.add_argument("--bundle", required=True, metavar="NAME_OR_DIR", help="bundle; run only those you trust")
        command.add_argument(
            "--config",
            action="append",
            default=[],
            metavar="NAME",
            help="further configuration of the bundle, by name (organs.json) or path; may be repeated",
        )
        command.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
        command.add_argument("--sigma", type=float, help="standard deviation of the noise, pixel values 0 to 1")
        command.add_argument("--tau", type=float, help="majority threshold in [1/2, 1); radius = sigma * Phi^-1(tau)")
        command.add_argument("--alpha", type=float, help="failure probability of one image's certificate")
        command.add_argument("--n", type=int, help="noise draws that are tested")
        command.add_argument("--seed", type=int, help="seed of the noise (default: fresh entropy, recorded)")
        command.add_argument(
            "--batch-size", type=_positive, metavar="N", help="draws a forward pass (default: the fastest, measured)"
        )
        command.add_argument(
            "--autocast", choices=("bfloat16", "float16"), help="run the networks in lower precision (default: off)"
        )
        command.add_argument(
            "--compile", action="store_true", help="compile the segmenter: a slow start, then faster draws"
        )
        command.add_argument("--randomized", action="store_true", help="randomize p-values, once a pixel from the seed")
        command.add_argument(
            "--mask",
            metavar="FILE",
            help="test only the bright pixels of this mask, made without the draws; 'borders': all but dark margins",
        )
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
    lipschitz = commands.add_parser("lipschitz", help="bound the Lipschitz constant of a network, layer by layer")
    lipschitz.add_argument("checkpoint", metavar="CHECKPOINT", help="plain weights, such as models/lipschitz.pt")
    lipschitz.add_argument("--json", action="store_true", help="print the bound as one JSON document")
    for command in (certify, evaluate, attack, plan):
        command.add_argument("--device", help="torch device (default: a GPU if there is one)")
        command.add_argument("--test", choices=("joint", "split"), help="test of one pixel (default: joint)")
        command.add_argument("--n0", type=int, help="with --test split: draws that choose (default: 10)")
        command.add_argument("--correction", choices=CORRECTIONS, help="for many pixels at once (default: holm)")
        command.add_argument(
            "--k",
            type=_positive,
            help="with --correction generalized_holm: alpha bounds P(k or more wrong pixels) (default: 1)",
        )
        command.add_argument("--sequential", action="store_true", help="draw until little is left to be gained")
        command.add_argument(
            "--looks",
            nargs="+",
            type=_positive,
            metavar="N",
            help=f"with --sequential: draws at which to look (default: {' '.join(map(str, DEFAULT_LOOKS))})",
        )
        command.add_argument(
            "--stop",
            type=float,
            metavar="SHARE",
            help="with --sequential: stop when at most this share of the pixels is expected to be gained "
            f"(default: {SequentialCertification.stop})",
        )
        command.add_argument(
            "--boundaries",
            choices=("exact", "equal"),
            help="with --sequential: how looks are paid for (default: exact)",
        )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
