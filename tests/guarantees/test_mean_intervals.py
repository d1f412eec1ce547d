# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Intervals of means hold the mean about as often as they say, on skewed figures as Dice is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from monai_cert.statistics.intervals import bootstrap_interval

REPETITIONS, IMAGES, MEAN = 600, 50, 0.8


def coverage(change: Callable[[float], float] = lambda width: width) -> float:
    """Share of samples of Beta(8, 2) whose interval, its half widths changed, holds the mean."""
    held = 0
    for seed in range(REPETITIONS):
        values = np.random.default_rng(seed).beta(8, 2, size=IMAGES)
        found = bootstrap_interval(values, resamples=999, seed=seed)
        assert found is not None
        middle = values.mean()
        held += middle - change(middle - found.low) <= MEAN <= middle + change(found.high - middle)
    return held / REPETITIONS


def test_ninety_five_percent_are_about_ninety_five_percent() -> None:
    # Binomial deviation 0.009; BCa is short by about 0.01 at 50 values.
    assert 0.91 <= coverage() <= 0.98


def test_a_mutant_whose_intervals_are_of_single_values_or_too_short_is_caught() -> None:
    assert coverage(lambda width: width * IMAGES**0.5) > 0.98
    assert coverage(lambda width: width / 1.5) < 0.91
