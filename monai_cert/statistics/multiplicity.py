# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Testing all pixels of an image at once, on the histogram of their counts.

A p-value is a function of a count out of 0..n, so an image of any size holds at most n + 1 different ones. A correction
takes the histogram of the counts and says which counts are rejected (that is, certified); no loop and no sort runs
over pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["Correction", "bonferroni", "holm"]

FloatArray = npt.NDArray[np.float64]
Correction = Callable[[npt.NDArray[np.int64], FloatArray, float, float], npt.NDArray[np.bool_]]


def bonferroni(
    histogram: npt.NDArray[np.int64], p_values: FloatArray, alpha: float, slack: float = 0.0
) -> npt.NDArray[np.bool_]:
    """Reject where p <= alpha / N; family-wise error at most alpha under any dependence between pixels.

    Args:
        histogram: number of tested pixels with each count, (n + 1,); N is its sum.
        p_values: p-value of each count, (n + 1,).
        alpha: family-wise error.
        slack: not needed here; see `holm`.

    Returns:
        (n + 1,), True for the counts whose pixels are certified.
    """
    return p_values <= alpha / max(1, int(histogram.sum()))


def holm(
    histogram: npt.NDArray[np.int64], p_values: FloatArray, alpha: float, slack: float = 0.0
) -> npt.NDArray[np.bool_]:
    """Holm's step-down procedure; never rejects less than Bonferroni, and has the same family-wise error.

    In the order of rising p-values, pixels are rejected as long as p <= max(alpha / N, (alpha - N * slack) / m), m
    being the number of pixels not yet rejected. Pixels of one count stand or fall together: once the first of a tie
    passes, the thresholds of the others are larger.

    *Proof* for the joint test (slack = w of `JointTest.step_down_slack`; with slack = 0 it is Holm's). Let a of the N
    pixels be of case (a), no class above tau, and at most N - a of case (b). When the first pixel of case (a) is
    rejected, only others went before, so m >= a and its p is at most max(alpha / N, (alpha - N w) / a); by the union
    bound that happens with probability at most max(a alpha / N, alpha - N w). A pixel of case (b) is certified wrongly
    only if a wrong class reaches k_alpha, which has probability at most w. If N w < alpha, the sum is at most
    max(a alpha / N, alpha - N w) + (N - a) w <= alpha; if not, every threshold is alpha / N, which is Bonferroni.

    Args:
        histogram: number of tested pixels with each count, (n + 1,).
        p_values: p-value of each count, (n + 1,), not rising with the count.
        alpha: family-wise error.
        slack: what the test sets aside, a pixel.

    Returns:
        (n + 1,), True for the counts whose pixels are certified.

    References:
        Holm 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics.
    """
    total = int(histogram.sum())
    paid = alpha - total * slack
    rejected = np.zeros(p_values.shape, dtype=np.bool_)
    left = total
    for count in np.flatnonzero(histogram)[::-1]:
        if p_values[count] > max(alpha / total, paid / left):
            break
        rejected[count] = True
        left -= int(histogram[count])
    return rejected
