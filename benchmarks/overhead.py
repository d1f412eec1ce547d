# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What does the certification loop cost on top of the bare forward passes?

Compares the whole of `CertificationInferer.certify` (noise, votes, digests, decision) over a MONAI U-Net of 1.6 million
parameters with as many bare forward passes of the same network in the same batch size. The two are run in turn; each
line is the median of the ratios of the pairs.

    python benchmarks/overhead.py
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, whose statistics.py would stand for the standard library's

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.networks.nets import UNet

from monai_cert import CertificationInferer, GaussianNoise


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    network = UNet(2, 1, 2, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2).eval().to(args.device)
    inferer = CertificationInferer(GaussianNoise(0.25), n=args.n, batch_size=args.batch_size, seed=0)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}, n = {args.n}, {args.pairs} pairs"
    )
    for side in (256, 512):
        image = torch.rand(1, 1, side, side, device=args.device)
        batch = image.expand(args.batch_size, -1, -1, -1).contiguous()

        @torch.no_grad()
        def bare(batch: torch.Tensor = batch) -> None:
            for _ in range(args.n // args.batch_size):
                network(batch).sum().item()

        def certify(image: torch.Tensor = image) -> None:
            inferer.certify(image, network)

        bare(), certify()
        pairs = [(seconds(certify), seconds(bare)) for _ in range(args.pairs)]
        ratio = np.median([ours / theirs for ours, theirs in pairs])
        ours, theirs = (np.median(column) for column in zip(*pairs, strict=True))
        print(f"{side}x{side}: certify {ours:.2f} s, bare passes {theirs:.2f} s, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
