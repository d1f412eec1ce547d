# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Every radius at once: for each pixel the largest majority threshold that its votes prove."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from monai_cert.statistics.binomial import Reach, VoteTest, joint

__all__ = ["LEAST_TAU", "RadiusMap", "radius_map"]

FloatArray = npt.NDArray[np.float64]

LEAST_TAU = 0.5

_HALVINGS = 54  # of an interval of length 1/2: to the precision of float64


@dataclass(frozen=True)
class RadiusMap:
    """In place of one majority threshold for all pixels: each pixel gets the largest one that its votes prove.

    A test at tau = 1/2 says which pixels are certified at all, and `taus` how large a threshold each count proves. With
    B(k; p) = P(Bin(n, p) >= k), a level b for one pixel, and k0 the least count with 2 B(k0; 1/2) <= b (joint test)::

        tau(k) = sup {tau >= 1/2 : B(k; tau) + B(k0; 1 - tau) <= b}   for k >= k0

    *Claim.* For any number of classes: P(the top class c has k >= k0 votes and P(f_i = c) < tau(k)) <= b. With
    b = alpha / N all N pixels hold together with probability 1 - alpha, whatever their dependence, and so do all radii
    sigma Phi^-1(tau(k)): any of them may be chosen after the fact.

    *Proof.* B(k; tau) + B(k0; 1 - tau) rises where (tau / (1 - tau))^(k + k0 - 1 - n) exceeds a constant, and
    k + k0 > n + 1 or k = k0 = (n + 1) / 2: so it falls and then rises, if it does both, and the thresholds with at most
    b form an interval, which has 1/2 in it, as B(k; 1/2) <= B(k0; 1/2). Let m be the largest class probability. (a)
    m >= 1/2: certifying that class is an error at k only if m < tau(k), hence B(k; m) + B(k0; 1 - m) <= b; let k* be
    the least such count. The others together hold 1 - m and reach k0 with probability at most B(k0; 1 - m). So an error
    has at most the probability B(k*; m) + B(k0; 1 - m) <= b (if there is no k*, at most B(k0; 1/2) <= b / 2). (b)
    m < 1/2: one of the classes reaches k0 with probability at most 2 B(k0; 1/2) <= b (see `JointTest`).

    The second term is not B(k; 1 - tau), as in the test of one threshold: a class that is not the majority is wrongly
    certified from k0 on, also where the majority would need more votes. With the split test the class is chosen by
    other draws, the second term is 0, and k0 the least count with B(k0; 1/2) <= b.

    Args:
        test: `joint`, or a `SplitTest`.
    """

    test: VoteTest = joint

    @property
    def name(self) -> str:
        """``radius_map``, or ``radius_map of split``."""
        return "radius_map" if self.test == joint else f"radius_map of {self.test.name}"

    @property
    def n0(self) -> int:
        """That of the test."""
        return self.test.n0

    def p_values(self, n: int, tau: float) -> FloatArray:
        """p-values of the test at tau = 1/2, whatever ``tau`` is, (n + 1,)."""
        return self.test.p_values(n, LEAST_TAU)

    def strays(self, n: int, tau: float) -> FloatArray:
        """Those of the test at tau = 1/2, (n + 1,)."""
        return self.test.strays(n, LEAST_TAU)

    def anytime(self, reach: Reach, tau: float) -> tuple[FloatArray, FloatArray]:
        """Refuse: a radius map takes one look.

        Raises:
            ValueError: always.
        """
        raise ValueError("a radius map looks at its votes once: give it a fixed number of draws")

    def taus(self, n: int, level: float) -> FloatArray:
        """Largest threshold that each count 0..n proves, rounded down, (n + 1,); 0 where a count proves nothing.

        Args:
            n: number of draws.
            level: probability of an error at one pixel.

        Example:
            >>> radius_map.taus(100, 0.001 / 65_536)[[80, 90, 100]].round(3).tolist()
            [0.529, 0.655, 0.835]
        """
        return _taus(self.test, n, level)


radius_map = RadiusMap()


@lru_cache(maxsize=16)
def _taus(test: VoteTest, n: int, level: float) -> FloatArray:
    proves = np.flatnonzero(test.p_values(n, LEAST_TAU) <= level)
    taus = np.zeros(n + 1)
    if not proves.size:
        return taus
    least = int(proves[0])

    def error(tau: FloatArray) -> FloatArray:
        others = binom.sf(least - 1, n, 1 - tau) if test.n0 == 0 else 0.0
        found: FloatArray = binom.sf(proves - 1, n, tau) + others
        return found

    low, high = np.full(len(proves), LEAST_TAU), np.ones(len(proves))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        valid = error(middle) <= level
        low, high = np.where(valid, middle, low), np.where(valid, high, middle)
    # Far more than the rounding of the tails.
    taus[proves] = np.maximum(low * (1 - 2.0**-40), LEAST_TAU)
    taus.flags.writeable = False
    return taus
