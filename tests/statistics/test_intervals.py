# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Bootstrap intervals: what scipy computes, and nothing where there is nothing to be said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monai_cert.statistics.intervals import bootstrap_interval


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_scipys(level: float) -> None:
    values = np.random.default_rng(1).beta(8, 2, size=40)
    found = bootstrap_interval(values, level)
    rng = np.random.default_rng(0)
    expected = stats.bootstrap((values,), np.mean, confidence_level=level, method="BCa", random_state=rng)
    assert found is not None
    assert (found.method, found.level, found.resamples) == ("BCa", level, 9999)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), rel=1e-12)
    assert bootstrap_interval(values, level) == found, "the same in every run"


@pytest.mark.parametrize("values", [[], [0.7], [0.7, 0.7, 0.7]])
def test_values_without_spread_have_none(values: list[float]) -> None:
    assert bootstrap_interval(values) is None


def test_where_bca_is_not_defined_the_method_is_named() -> None:
    found = bootstrap_interval([0.0, 1e-300])  # whose cubes, which the acceleration needs, are zero in floating point
    assert found is not None
    assert found.method == "percentile"
    assert 0 <= found.low < found.high <= 1e-300


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        bootstrap_interval([0.1, np.nan])
