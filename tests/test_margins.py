# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Worst cases by sorting and sums against all subsets of pixels; radii against the smallest changes that flip."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_cert import margins
from monai_cert.margins import (
    Attackable,
    budget,
    flip_costs,
    pixel_accuracy,
    pixel_classes,
    pixel_dice,
    pixel_iou,
    pixel_radii,
    pixel_sensitivity,
    pixel_specificity,
    pixel_stability,
    radius_of,
)

Figure = Callable[[np.ndarray, np.ndarray], float]


def accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float((predicted == truth).mean())


def counts(predicted: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives of class 1."""
    p, t = predicted == 1, truth == 1
    return int((p & t).sum()), int((p & ~t).sum()), int((~p & t).sum()), int((~p & ~t).sum())


def ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


FIGURES: dict[str, tuple[Figure, Callable[[np.ndarray, np.ndarray], Attackable]]] = {
    "accuracy": (accuracy, pixel_accuracy),
    "dice": (
        lambda p, t: ratio(2 * counts(p, t)[0], 2 * counts(p, t)[0] + counts(p, t)[1] + counts(p, t)[2]),
        lambda z, t: pixel_dice(z, t, 1),
    ),
    "iou": (lambda p, t: ratio(counts(p, t)[0], sum(counts(p, t)[:3])), lambda z, t: pixel_iou(z, t, 1)),
    "sensitivity": (
        lambda p, t: ratio(counts(p, t)[0], counts(p, t)[0] + counts(p, t)[2]),
        lambda z, t: pixel_sensitivity(z, t, 1),
    ),
    "specificity": (
        lambda p, t: ratio(counts(p, t)[3], counts(p, t)[1] + counts(p, t)[3]),
        lambda z, t: pixel_specificity(z, t, 1),
    ),
}


def reachable(logits: np.ndarray, spent: float) -> Iterator[tuple[np.ndarray, float]]:
    """Every label map that a change of the logits of this squared size can reach, and what it costs.

    Each pixel keeps its class or takes another one, at the cost of the cheapest change that lifts that class to the
    class of the pixel: for two classes, exactly what is reachable.
    """
    own = pixel_classes(logits)
    channels = max(2, len(logits))
    z = logits.astype(np.float64)
    for labels in itertools.product(range(channels), repeat=own.size):
        new = np.array(labels).reshape(own.shape)
        cost = 0.0
        for at in np.ndindex(own.shape):
            if new[at] != own[at]:
                if len(z) == 1:
                    cost += z[(0, *at)] ** 2
                else:
                    cost += (np.delete(z[(slice(None), *at)], new[at]).max() - z[(new[at], *at)]) ** 2 / 2
        if cost <= spent:
            yield new, cost


def example(channels: int, seed: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(channels, pixels)), rng.integers(0, max(2, channels), pixels)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(("channels", "pixels"), [(1, 9), (2, 9), (3, 6)])
def test_the_worst_case_is_that_of_all_subsets(name: str, channels: int, pixels: int) -> None:
    plain, attackable = FIGURES[name]
    for seed, has_class in [(0, True), (1, True), (2, True), (3, False)]:
        logits, truth = example(channels, seed, pixels)
        if not has_class:
            logits, truth = (-abs(logits) if channels == 1 else logits), np.zeros_like(truth)
        found = attackable(logits, truth)
        assert found.clean == pytest.approx(plain(pixel_classes(logits), truth), nan_ok=True)
        for constant, eps in [(1.0, 0.3), (2.0, 0.5), (0.7, 2.0), (3.0, 1.0)]:
            spent = (constant * eps) ** 2
            figures = [plain(new, truth) for new, _ in reachable(logits, spent)]
            least = min((f for f in figures if not math.isnan(f)), default=math.nan)
            assert found.worst(budget(constant, eps)) == pytest.approx(least, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_least_eps_that_reaches_a_target_is_that_of_all_subsets(name: str, channels: int) -> None:
    plain, attackable = FIGURES[name]
    for seed in range(3):
        logits, truth = example(channels, seed, 8)
        found = attackable(logits, truth)
        every = [(plain(new, truth), cost) for new, cost in reachable(logits, math.inf)]
        for target in (0.8, 0.5, 0.25, 0.0):
            costs = [cost for figure, cost in every if figure <= target]
            assert found.least_cost(target) == pytest.approx(min(costs, default=math.inf), rel=1e-12, abs=1e-12)


def test_stability_needs_no_truth() -> None:
    logits = np.array([[0.1, -0.2, 0.3, -4.0]])
    kept = pixel_stability(logits)
    assert [kept.worst(budget(1.0, eps)) for eps in (0.05, 0.1, 0.2237, 3.0)] == [1.0, 0.75, 0.5, 0.25]
    assert radius_of(kept.least_cost(0.0), 2.0) == pytest.approx(math.sqrt((logits**2).sum()) / 2)


def test_an_absent_class_is_nan_until_an_attack_makes_a_pixel_of_it() -> None:
    logits, nothing = np.full((1, 4), -1.0), np.zeros(4, dtype=int)
    for figure in (pixel_dice, pixel_iou):
        assert math.isnan(figure(logits, nothing, 1).worst(0.99))
        assert figure(logits, nothing, 1).worst(1.0) == 0
    assert math.isnan(pixel_sensitivity(logits, nothing, 1).worst(100.0))
    assert math.isnan(pixel_specificity(logits, nothing + 1, 1).worst(100.0))
    assert pixel_dice(-logits, nothing, 1).worst(0.0) == 0


def test_numbers_whose_squares_have_no_exponent_cost_nothing_or_are_refused() -> None:
    assert flip_costs(np.array([[1.6e-162, -1e-160, 1e-149]])).tolist()[:2] == [0, 0]
    for large in (1e160, -1e160, math.inf, math.nan):
        with pytest.raises(ValueError, match="NaN or infinite"):
            flip_costs(np.array([[0.0, large]]))


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4]), st.floats(0.1, 10.0))
def test_changes_inside_a_radius_flip_nothing_and_the_cheapest_one_at_it_does(
    seed: int, channels: int, constant: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(channels, 5))
    radii = pixel_radii(logits, constant).astype(np.float64)
    own = pixel_classes(logits)
    directions = rng.normal(size=logits.shape)
    inside = 0.999999 * constant * radii * directions / np.linalg.norm(directions, axis=0)
    np.testing.assert_array_equal(pixel_classes(logits + inside), own)
    # The change that flips a pixel for the least: its class down, the second class up by as much.
    if channels == 1:
        direction = -np.sign(logits)
    else:
        order = np.argsort(logits, axis=0)
        direction = np.zeros_like(logits)
        np.put_along_axis(direction, order[-1:], -math.sqrt(0.5), axis=0)
        np.put_along_axis(direction, order[-2:-1], math.sqrt(0.5), axis=0)
    assert (pixel_classes(logits + 1.000001 * constant * radii * direction) != own).all()


def test_everything_is_rounded_to_the_safe_side() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4000)).astype(np.float32)
    radii = pixel_radii(logits, 1.0)
    exact = np.sort(logits.astype(np.longdouble), axis=0)
    margin = exact[-1] - exact[-2]
    assert radii.dtype == np.float32
    assert (radii.astype(np.longdouble) <= margin / np.sqrt(np.longdouble(2))).all()
    assert (flip_costs(logits) <= margin**2 / 2).all()
    sums = pixel_stability(logits).broken
    assert (sums[1:] <= np.cumsum(np.sort(margin**2 / 2))).all()
    assert budget(0.1, 0.3, 0.7) >= (np.longdouble(0.1) * np.longdouble(0.3) + np.longdouble(0.7)) ** 2
    assert radius_of(2.0, 0.3) <= np.sqrt(np.longdouble(2)) / np.longdouble(0.3)


def test_a_margin_of_rounding_is_taken_from_radii_and_added_to_budgets() -> None:
    logits = np.array([[0.5, 0.1]])
    np.testing.assert_allclose(pixel_radii(logits, 2.0, rounding=0.2), [0.15, 0.0], rtol=1e-6)
    assert budget(2.0, 0.1, 0.3) == pytest.approx(0.25)
    assert radius_of(0.25, 2.0, rounding=0.1) == pytest.approx(0.2)
    assert radius_of(0.25, 2.0, rounding=0.6) == 0


@pytest.mark.parametrize(
    "mutant",
    [
        {"budget": lambda constant, eps, rounding=0.0: constant * eps**2},
        {"budget": lambda constant, eps, rounding=0.0: constant * eps},
        {"budget": lambda constant, eps, rounding=0.0: (constant**2 * eps) ** 2},
        {"budget": lambda constant, eps, rounding=0.0: (eps / constant) ** 2},
    ],
    ids=["L for L squared", "costs squared, budget not", "L twice", "divide for multiply"],
)
def test_budgets_as_released_code_has_them_are_caught(
    monkeypatch: pytest.MonkeyPatch, mutant: dict[str, Callable[..., float]]
) -> None:
    for name, function in mutant.items():
        monkeypatch.setattr(margins, name, function)
    wrong = 0
    for seed in range(20):
        logits, truth = example(1, seed, 8)
        for constant, eps in [(2.0, 0.4), (0.5, 1.0), (3.0, 0.3)]:
            least = min(accuracy(new, truth) for new, _ in reachable(logits, (constant * eps) ** 2))
            found = pixel_accuracy(logits, truth).worst(margins.budget(constant, eps))
            wrong += abs(found - least) > 1e-12
    assert wrong > 5


def test_what_cannot_be_certified_is_refused() -> None:
    good = np.zeros((2, 4))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="NaN or infinite"):
            flip_costs(np.full((2, 4), bad))
        with pytest.raises(ValueError, match="must be positive and finite"):
            pixel_radii(good, bad)
    for constant in (0.0, -1.0):
        with pytest.raises(ValueError, match="must be positive and finite"):
            pixel_radii(good, constant)
    with pytest.raises(ValueError, match="margin of rounding"):
        pixel_radii(good, 1.0, -0.1)
    with pytest.raises(ValueError, match=r"classes 0\.\.1, got 2"):
        flip_costs(good, target=2)
    with pytest.raises(ValueError, match="truth must have the shape"):
        pixel_accuracy(good, np.zeros(3, dtype=int))
