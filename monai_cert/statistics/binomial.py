# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Binomial tests of one pixel: how many votes of n prove that a class is the majority at every attacked image.

Notation: B(k; n, p) = P(Bin(n, p) >= k). All tails are computed in float64 by `scipy.stats.binom.sf`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, norm

from monai_cert.statistics.rounding import as_drawn

__all__ = [
    "JointTest",
    "Reach",
    "SplitTest",
    "VoteTest",
    "certified_radius",
    "joint",
    "min_samples",
    "split",
    "tau_for_radius",
    "tau_max",
    "votes_needed",
]

FloatArray = npt.NDArray[np.float64]

# From the probability of a class to the probability that its votes ever reach each level of evidence, (levels,).
Reach = Callable[[float], FloatArray]


class VoteTest(Hashable, Protocol):
    """What the multiplicity corrections and `certify` need to know of a test. Equal tests have equal hashes."""

    @property
    def name(self) -> str:
        """Name in certificates, configurations and on the command line."""

    @property
    def n0(self) -> int:
        """Draws spent on choosing each pixel's class before the tested ones; 0 if the tested draws choose."""

    def p_values(self, n: int, tau: float) -> FloatArray:
        """p-value of every count 0..n of the candidate class, (n + 1,) and never rising with the count."""

    def strays(self, n: int, tau: float) -> FloatArray:
        """P(a class reaches the count at a pixel where another one holds more than tau), for counts 0..n, (n + 1,)."""

    def anytime(self, reach: Reach, tau: float) -> tuple[FloatArray, FloatArray]:
        """p-values and strays of levels that may be reached at several looks, see `monai_cert.statistics.looks`."""


@dataclass(frozen=True)
class JointTest:
    """All n draws vote; the class with the most votes is tested on the same votes.

    For a top count k of n and 1/2 <= tau < 1::

        p(k) = B(k; n, tau) + B(k; n, 1 - tau)   if 2k > n,   else 1

    *Claim.* For any number of classes and any t <= 1: P(p <= t and the top class c has P(f_i = c) <= tau) <= t.

    *Proof.* Let k be the smallest count with p(k) <= t; then 2k > n, so at most one class can reach k. (a) No class
    exceeds tau. Let m be the largest class probability. If m >= 1/2, {some class reaches k} lies in {that class does}
    or {all the others together do}: at most B(k; n, m) + B(k; n, 1 - m), which for 2k > n grows with m on [1/2, 1], so
    at most p(k). If m < 1/2: B(k; n, .) is convex and vanishes at 0 on [0, 1/2] (its derivative is proportional to
    p^(k-1) (1-p)^(n-k), which rises for p < (k-1)/(n-1), and (k-1)/(n-1) >= 1/2), so the sum over classes is at most
    2 B(k; n, 1/2), the value of p(k) at tau = 1/2, which is its least over tau. (b) Some class exceeds tau. Certifying
    it is no error; the others together have probability below 1 - tau, so one of them reaches k with probability at
    most B(k; n, 1 - tau) <= p(k).

    *Anytime claim.* Let a level be reached when, at one of several looks n_1 < n_2 < ..., the votes of a class come to
    a boundary b_k with 2 b_k > n_k, and h(q) be the probability that a class of probability q ever reaches it. Then
    p = max(h(tau) + h(1 - tau), 2 h(1/2)) has the same claim, whenever one stops looking.

    *Proof.* Let m be the largest class probability. (a) 1/2 <= m <= tau: a class that reaches the level is that class,
    or one of the others, which then reach it together; so the error has at most the probability U(m) that the walk of
    "class or others" leaves a corridor, |2 S - n_k| >= 2 b_k - n_k at some look. The distance |2 S - n| is a Markov
    chain that moves outward from z > 0 with probability (m^(z+1) + (1-m)^(z+1)) / (m^z + (1-m)^z), which grows with m
    on [1/2, 1]; two such chains started together keep their order, so U(m) <= U(tau) <= h(tau) + h(1 - tau). m < 1/2:
    h(q) is a sum of terms c q^s (1-q)^r with s > r, and q^(s-1) (1-q)^r grows on [0, 1/2] (its peak is at
    (s-1)/(s+r-1) >= 1/2), so h(q) <= 2 q h(1/2), and over all classes at most 2 h(1/2). (b) Some class exceeds tau: the
    others together have less than 1 - tau, so one of them reaches the level with probability at most h(1 - tau).

    References:
        The joint test is this project's own; ``tests/guarantees/test_joint_test.py`` and ``test_anytime.py``
        enumerate all outcomes for small n: the bound of the fixed n is met and tight.
    """

    name: ClassVar[str] = "joint"
    n0: ClassVar[int] = 0

    def p_values(self, n: int, tau: float) -> FloatArray:
        """p-value of every top count 0..n, (n + 1,)."""
        _check(n, tau)
        p = _at_least(n, tau) + _at_least(n, 1.0 - tau)
        return np.where(2 * np.arange(n + 1) > n, np.minimum(p, 1.0), 1.0)

    def strays(self, n: int, tau: float) -> FloatArray:
        """Case (b) of the proof, (n + 1,); at the later steps of a step-down procedure it has to be paid for apart."""
        _check(n, tau)
        return np.where(2 * np.arange(n + 1) > n, _at_least(n, 1.0 - tau), 1.0)

    def anytime(self, reach: Reach, tau: float) -> tuple[FloatArray, FloatArray]:
        """p-values and strays of levels, (levels,) each."""
        return np.maximum(reach(tau) + reach(1.0 - tau), 2.0 * reach(0.5)), reach(1.0 - tau)


@dataclass(frozen=True)
class SplitTest:
    """n0 draws choose each pixel's class, n fresh draws test it: P(Bin(n, tau) >= count).

    Args:
        n0: draws that choose.

    References:
        Fischer, Baader, Vechev 2021, Scalable Certified Segmentation via Randomized Smoothing, ICML (SegCertify).
    """

    n0: int = 10
    name: ClassVar[str] = "split"

    def __post_init__(self) -> None:
        if self.n0 < 1:
            raise ValueError(f"the split test needs at least one draw to choose with, got n0 = {self.n0}")

    def p_values(self, n: int, tau: float) -> FloatArray:
        """p-value of every count 0..n of the chosen class, (n + 1,)."""
        _check(n, tau)
        return _at_least(n, tau)

    def strays(self, n: int, tau: float) -> FloatArray:
        """0: the chosen class is independent of the tested draws, so Holm runs at alpha itself. (n + 1,)."""
        _check(n, tau)
        return np.zeros(n + 1)

    def anytime(self, reach: Reach, tau: float) -> tuple[FloatArray, FloatArray]:
        """p-values and strays of levels, (levels,) each: the chosen class is one walk of probability at most tau."""
        p_values = reach(tau)
        return p_values, np.zeros_like(p_values)


joint = JointTest()
split = SplitTest()


def votes_needed(n: int, tau: float, level: float, test: VoteTest = joint) -> int | None:
    """Least count whose p-value is at most ``level``; None if not even n of n votes are enough.

    Example:
        >>> votes_needed(110, tau=0.75, level=0.001 / 65536)
        105
    """
    below = np.flatnonzero(test.p_values(n, tau) <= level)
    return int(below[0]) if below.size else None


def min_samples(tau: float, alpha: float, hypotheses: int, test: VoteTest = joint) -> int:
    """Least n for which a pixel can be certified at all: the least n with p(n) <= alpha / hypotheses. Exact.

    Args:
        tau: majority threshold in [1/2, 1).
        alpha: failure probability of the whole certificate.
        hypotheses: number of tested pixels.
        test: the test.

    Example:
        >>> min_samples(0.75, 0.001, 512 * 512)
        68
    """
    _check(1, tau)
    _check_alpha(alpha, hypotheses)
    n = max(1, math.floor(math.log(alpha / hypotheses) / math.log(tau)) - 1)
    while test.p_values(n, tau)[n] > alpha / hypotheses:
        n += 1
    return n


def tau_max(n: int, alpha: float, hypotheses: int, test: VoteTest = joint) -> float:
    """Largest tau at which n of n votes certify a pixel, rounded down; about (alpha / hypotheses)^(1 / n).

    Raises:
        ValueError: if n draws are too few even at tau = 1/2.

    Example:
        >>> round(tau_max(100, 0.001, 512 * 512), 3)
        0.824
    """
    _check_alpha(alpha, hypotheses)
    level = alpha / hypotheses
    if test.p_values(n, 0.5)[n] > level:
        raise ValueError(
            f"n = {n} draws cannot certify any of {hypotheses} pixels at alpha = {alpha:g}, even at tau = 1/2; "
            f"at least n = {min_samples(0.5, alpha, hypotheses, test)} are needed"
        )
    low, high = 0.5, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if test.p_values(n, middle)[n] <= level else (low, middle)
    return low


def certified_radius(sigma: float, tau: float) -> float:
    """R = sigma * Phi^-1(tau), rounded toward zero (Cohen et al. 2019, theorem 1), in the units of sigma.

    sigma is taken `as_drawn`. scipy's quantile may be off by a few units in the last place; 16 of them are taken off.

    Raises:
        ValueError: unless sigma is positive and finite.
    """
    return max(0.0, as_drawn(sigma) * float(norm.ppf(tau)) * (1.0 - 2.0**-48))


def tau_for_radius(sigma: float, radius: float) -> float:
    """Least tau whose certified radius is at least ``radius``; inverse of `certified_radius`.

    Raises:
        ValueError: if radius is negative, or so large that tau would be 1; unless sigma is positive and finite.
    """
    if not radius >= 0:
        raise ValueError(f"radius must not be negative, got {radius:g}")
    tau = max(0.5, float(norm.cdf(radius / as_drawn(sigma))))
    while tau < 1.0 and certified_radius(sigma, tau) < radius:
        tau = math.nextafter(tau + 2e-16, 1.0)
    if tau >= 1.0:
        raise ValueError(f"radius {radius:g} cannot be reached with sigma {sigma:g}; take a larger sigma")
    return tau


@lru_cache(maxsize=64)
def _at_least(n: int, p: float) -> FloatArray:
    """P(Bin(n, p) >= k) for k = 0..n, (n + 1,), read-only."""
    tails: FloatArray = binom.sf(np.arange(n + 1) - 1, n, p)
    tails.flags.writeable = False
    return tails


def _check(n: int, tau: float) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0.5 <= tau < 1:
        raise ValueError(f"tau must lie in [1/2, 1), got {tau:g}")


def _check_alpha(alpha: float, hypotheses: int) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha:g}")
    if hypotheses < 1:
        raise ValueError(f"at least one pixel must be tested, got {hypotheses}")
