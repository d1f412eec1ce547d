# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified quantiles and shares, on laws that are known in closed form: coverage, tightness, and what breaks them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from guarantees.oracles import FloatArray, exceeds
from scipy.stats import binom, norm

from monai_cert.statistics import percentile
from monai_cert.statistics.percentile import certify_measurements, certify_shares, order_statistics

SIGMA, N, TRIALS = 0.25, 60, 800
RADII = (0.05, 0.1, 0.2)

# Attacked quantiles of h at distance R, the worst case in either direction: (lowest, highest) over the ball.
Extremes = Callable[[float], tuple[float, float]]
Draw = Callable[[np.random.Generator], FloatArray]


def plane(distance: float, values: tuple[float, float] = (0.0, 1.0)) -> tuple[Draw, Extremes]:
    """A hyperplane: h is one of two values, a Bernoulli draw, and an attack along the normal is the strongest."""

    def draw(rng: np.random.Generator) -> FloatArray:
        return np.where(rng.normal(distance, SIGMA, N) > 0, values[1], values[0])

    def extremes(radius: float) -> tuple[float, float]:
        below, above = (distance + sign * radius for sign in (-1, 1))
        # The median is the lower value where that has at least half, the upper one where that has.
        return (values[0] if below <= 0 else values[1]), (values[1] if above >= 0 else values[0])

    return draw, extremes


def linear() -> tuple[Draw, Extremes]:
    """h is linear in the image: its median moves by exactly the size of the attack; nothing moves farther."""
    return (lambda rng: rng.normal(0, SIGMA, N)), (lambda radius: (-radius, radius))


def area(pixels: int = 9, margin: float = 0.3) -> tuple[Draw, Extremes]:
    """A threshold network on a constant image of margin above the threshold: the area is Binomial.

    The worst attack of a given size moves all pixels alike or some of them alone: the best number of them is searched.
    """

    def draw(rng: np.random.Generator) -> FloatArray:
        return rng.binomial(pixels, norm.cdf(margin / SIGMA), N).astype(float)

    def extremes(radius: float) -> tuple[float, float]:
        medians = []
        for sign in (-1, 1):
            for moved in range(1, pixels + 1):
                law = np.ones(1)
                for i in range(pixels):
                    p = norm.cdf((margin + (sign * radius / moved**0.5 if i < moved else 0)) / SIGMA)
                    law = np.convolve(law, [1 - p, p])
                medians.append(float(np.searchsorted(np.cumsum(law), 0.5)))
        return min(medians), max(medians)

    return draw, extremes


LAWS = {
    "linear": linear(),
    "plane within the first radius": plane(0.03),
    "plane between the radii": plane(0.15),
    "plane beyond the radii": plane(0.3),
    "plane just at a radius": plane(0.1),
    "area": area(),
}


def failures(law: tuple[Draw, Extremes], alpha: float, certify: Callable[..., object] = certify_measurements) -> int:
    """In how many trials an attack within some radius moves the median out of its interval."""
    draw, extremes = law
    worst = np.array([extremes(radius) for radius in RADII])
    wrong = 0
    for seed in range(TRIALS):
        c = certify(draw(np.random.default_rng(seed)), SIGMA, alpha, RADII)
        wrong += bool(((c.lower > worst[:, 0]) | (c.upper < worst[:, 1])).any())
    return wrong


@pytest.mark.parametrize("alpha", [0.1, 0.2])
@pytest.mark.parametrize("law", LAWS)
def test_intervals_of_all_radii_hold_with_the_probability_claimed(law: str, alpha: float) -> None:
    assert not exceeds(alpha, failures(LAWS[law], alpha), TRIALS)


def test_alpha_is_used_up() -> None:
    """Where an attack can do all that the bound fears, at every radius."""
    assert failures(linear(), 0.2) > 0.6 * 0.2 * TRIALS
    assert exceeds(0.1, failures(linear(), 0.2), TRIALS)


def wrong_sign(values: FloatArray, sigma: float, alpha: float, radii: tuple[float, ...]) -> object:
    """p- and p+ exchanged."""
    c = certify_measurements(values, sigma, alpha, radii)
    n, levels = len(values), norm.cdf(np.array(radii) / sigma)
    rows = np.sort(values)
    a = order_statistics(n, tuple(levels), alpha / 2)
    object.__setattr__(c, "lower", rows[np.maximum(a, 1) - 1])
    object.__setattr__(c, "upper", rows[n - np.maximum(a, 1)])
    return c


def without_splitting_over_ends(values: FloatArray, sigma: float, alpha: float, radii: tuple[float, ...]) -> object:
    return certify_measurements(values, sigma, 2 * alpha, radii)


def one_rank_inward(values: FloatArray, sigma: float, alpha: float, radii: tuple[float, ...]) -> object:
    c = certify_measurements(values, sigma, alpha, radii)
    rows = np.concatenate([[-np.inf], np.sort(values), [np.inf]])
    object.__setattr__(c, "lower", rows[np.searchsorted(rows, c.lower, side="right")])
    object.__setattr__(c, "upper", rows[np.searchsorted(rows, c.upper) - 1])
    return c


def every_radius_at_alpha(values: FloatArray, sigma: float, alpha: float, radii: tuple[float, ...]) -> object:
    c = certify_measurements(values, sigma, alpha, radii)
    alone = [certify_measurements(values, sigma, alpha, [radius]) for radius in radii]
    object.__setattr__(c, "lower", np.concatenate([one.lower for one in alone]))
    object.__setattr__(c, "upper", np.concatenate([one.upper for one in alone]))
    return c


@pytest.mark.parametrize(
    "mutant",
    [wrong_sign, without_splitting_over_ends, one_rank_inward, every_radius_at_alpha],
    ids=lambda m: m.__name__,
)
def test_known_mistakes_are_caught(mutant: Callable[..., object]) -> None:
    alpha = 0.1
    assert not exceeds(alpha, failures(linear(), alpha), TRIALS)
    assert exceeds(alpha, failures(linear(), alpha, mutant), TRIALS)


def test_ties_that_are_ignored_are_caught() -> None:
    """To take the values strictly inside the order statistics is safe only for laws without atoms."""

    def strict(values: FloatArray, sigma: float, alpha: float, radii: tuple[float, ...]) -> object:
        c = certify_measurements(values, sigma, alpha, radii)
        for end, sign in (("lower", 1), ("upper", -1)):
            moved = [v + sign if sign * v < sign * np.median(values) else v for v in getattr(c, end)]
            object.__setattr__(c, end, np.array(moved))
        return c

    assert exceeds(0.1, failures(area(), 0.1, strict), TRIALS)


def test_several_measurements_hold_together() -> None:
    """Ten independent ones, each with a tenth of alpha; with all of alpha each they fail too often."""
    alpha, wrong, unsplit = 0.2, 0, 0
    worst = np.array([(-r, r) for r in RADII])
    for seed in range(TRIALS):
        values = np.random.default_rng(seed).normal(0, SIGMA, (10, N))
        together = certify_measurements(values, SIGMA, alpha, RADII)
        wrong += bool(((together.lower > worst[:, 0]) | (together.upper < worst[:, 1])).any())
        alone = certify_measurements(values, SIGMA, min(0.999, 10 * alpha / 4), RADII)
        unsplit += bool(((alone.lower > worst[:, 0]) | (alone.upper < worst[:, 1])).any())
    assert not exceeds(alpha, wrong, TRIALS)
    assert exceeds(alpha, unsplit, TRIALS)


def test_an_attack_along_the_normal_meets_the_bound() -> None:
    """With many draws the certified interval is what attacks reach, to within Monte-Carlo error, and never less."""
    values = np.random.default_rng(0).normal(0, SIGMA, 20_000)
    c = certify_measurements(values, SIGMA, 0.001, RADII)
    assert (c.lower < -np.array(RADII)).all()
    assert (c.upper > np.array(RADII)).all()
    np.testing.assert_allclose(c.upper, RADII, atol=0.015)
    np.testing.assert_allclose(c.lower, -np.array(RADII), atol=0.015)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("undefined", [0.05, 0.3])
def test_undefined_values_may_be_anything(seed: int, undefined: float) -> None:
    """Whatever number is put in their place, the interval has the one of the numbers: it lies within."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, SIGMA, 300)
    missing = rng.random(300) < undefined
    c = certify_measurements(np.where(missing, np.nan, values), SIGMA, 0.01, RADII)
    assert c.undefined == missing.sum()
    for filled in (-9.0, 9.0, 0.0, values):
        inner = certify_measurements(np.where(missing, filled, values), SIGMA, 0.01, RADII)
        assert (c.lower <= inner.lower).all()
        assert (c.upper >= inner.upper).all()
    lowest = certify_measurements(np.where(missing, -np.inf, values), SIGMA, 0.01, RADII)
    np.testing.assert_array_equal(c.lower, lowest.lower)


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_undefined_values_keep_the_coverage(alpha: float) -> None:
    """Undefined just where the image is dark: an adversary who decides what they count as cannot break the bound."""
    wrong = 0
    for seed in range(TRIALS):
        noisy = np.random.default_rng(seed).normal(0, SIGMA, N)
        c = certify_measurements(np.where(noisy < -1.5 * SIGMA, np.nan, noisy), SIGMA, alpha, RADII)
        wrong += bool(((c.lower > -np.array(RADII)) | (c.upper < np.array(RADII))).any())
    assert not exceeds(alpha, wrong, TRIALS)


@pytest.mark.parametrize("levels", [(0.5,), (0.5, 0.3), (0.45, 0.4, 0.05, 0.3)])
@pytest.mark.parametrize("n", [20, 61])
def test_ranks_hold_together_as_counted(n: int, levels: tuple[float, ...]) -> None:
    """Against plain simulation of the counts; and no worse than the union bound."""
    ranks = order_statistics(n, levels, 0.1)
    uniforms = np.random.default_rng(0).random((20_000, n))
    short = [(uniforms <= level).sum(1) < rank for level, rank in zip(levels, ranks, strict=True)]
    failed = np.any(short, axis=0).sum()
    assert not exceeds(0.1, int(failed), 20_000)
    bonferroni = [int((binom.cdf(np.arange(n), n, level) <= 0.1 / len(levels)).sum()) for level in levels]
    assert (ranks >= bonferroni).all()
    if len(levels) == 4:
        assert (ranks > bonferroni).any()


@pytest.mark.parametrize("alpha", [0.1, 0.2])
@pytest.mark.parametrize("share", [0.6, 0.9, 0.99])
def test_shares_hold_under_the_strongest_attack(share: float, alpha: float) -> None:
    """The hyperplane is the theorem's worst case: what it leaves at x + delta is exactly the bound of its share."""
    wrong = 0
    attacked = norm.cdf(norm.ppf(share) - np.array(RADII) / SIGMA)
    for seed in range(TRIALS):
        dice = np.where(np.random.default_rng(seed).random(N) < share, 0.95, 0.5)
        c = certify_shares(dice, [0.9], SIGMA, alpha, RADII)
        failed = c.lower[0] > attacked
        assert failed.all() == failed.any(), "one event decides all radii"
        wrong += bool(failed.any())
    assert not exceeds(alpha, wrong, TRIALS)


def test_shares_meet_the_strongest_attack() -> None:
    dice = np.where(np.random.default_rng(0).random(50_000) < 0.9, 0.95, 0.5)
    c = certify_shares(dice, [0.9], SIGMA, 0.001, RADII)
    attacked = norm.cdf(norm.ppf(0.9) - np.array(RADII) / SIGMA)
    assert (c.lower[0] < attacked).all()
    np.testing.assert_allclose(c.lower[0], attacked, atol=0.012)


def test_no_rank_is_given_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting the walk's tails off counts as failing."""
    levels, plain = (0.4, 0.2), order_statistics(50, (0.4, 0.2), 0.1)
    monkeypatch.setattr(percentile, "_CUT", 1e-2)
    order_statistics.cache_clear()
    cut = order_statistics(50, levels, 0.1)
    order_statistics.cache_clear()
    assert (cut <= plain).all()
