# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""How long does it take to decide an image from its votes, and are the decisions those of statsmodels?

Times `monai_cert.certify` and `statsmodels.stats.multitest.multipletests(method="holm")` on the same votes (given the
p-values already looked up by count), in turn, and compares their decisions pixel by pixel.

    python benchmarks/statistics.py
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder, whose statistics.py would stand for the standard library's

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from statsmodels.stats.multitest import multipletests

from monai_cert import ABSTAIN, GaussianNoise, certify, joint

N, TAU, ALPHA, REPEATS = 100, 0.75, 0.001, 9


def random_votes(classes: int, shape: tuple[int, int], seed: int = 0) -> npt.NDArray[np.int16]:
    """Votes of a plausible map: nearly unanimous pixels, and a tenth in doubt."""
    rng = np.random.default_rng(seed)
    winner = rng.integers(0, classes, shape)
    certain = np.where(rng.random(shape) < 0.9, 0.995, rng.uniform(0.5, 1.0, shape))
    top = rng.binomial(N, certain).astype(np.int16)
    votes = np.zeros((classes, *shape), dtype=np.int16)
    np.put_along_axis(votes, winner[None], top[None], axis=0)
    np.put_along_axis(votes, ((winner + 1) % classes)[None], (N - top)[None], axis=0)
    return votes


def milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return float(np.median(times))


def main() -> None:
    noise = GaussianNoise(0.25)
    print(f"n = {N}, tau = {TAU}, alpha = {ALPHA}, median of {REPEATS}")
    for classes, shape in ((2, (512, 512)), (2, (1024, 2048)), (19, (1024, 2048))):
        votes = random_votes(classes, shape)

        def ours(votes: npt.NDArray[np.int16] = votes) -> npt.NDArray[np.bool_]:
            return certify(votes, noise=noise, tau=TAU, alpha=ALPHA).classes != ABSTAIN

        p_values = joint.p_values(N, TAU)[votes.max(axis=0)].ravel()

        def theirs(p_values: npt.NDArray[np.float64] = p_values) -> npt.NDArray[np.bool_]:
            return np.asarray(multipletests(p_values, ALPHA, method="holm")[0])

        same = np.array_equal(ours().ravel(), theirs())
        decide, reference = milliseconds(ours), milliseconds(theirs)
        print(
            f"{classes:2} classes, {shape[0]}x{shape[1]}: {decide:.2f} ms; statsmodels {reference:.0f} ms "
            f"(ratio {reference / decide:.0f}); decisions {'identical' if same else 'DIFFER'}"
        )


if __name__ == "__main__":
    main()
