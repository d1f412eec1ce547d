# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""How far a mean over images may be from that over all images like them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["MeanInterval", "bootstrap_interval"]

_ELEMENTS = 10_000_000  # drawn at a time: 80 MB


@dataclass(frozen=True)
class MeanInterval:
    """A confidence interval of a mean.

    Args:
        low: its lower end.
        high: its upper end.
        level: the probability, approximately, that such an interval holds the mean.
        method: ``BCa`` or ``percentile``.
        resamples: number of bootstrap samples.
    """

    low: float
    high: float
    level: float
    method: str
    resamples: int


def bootstrap_interval(
    values: npt.ArrayLike, level: float = 0.95, resamples: int = 9999, seed: int = 0
) -> MeanInterval | None:
    """Bootstrap confidence interval of a mean, bias-corrected and accelerated (BCa).

    Values are taken as independent draws from one population: images, not frames of one video. The level holds
    approximately, with an error of order 1 / n where n is the number of values, so with a few values it is too short.
    Where BCa is not defined, because all resamples have their mean on one side, it is the percentile interval.

    Args:
        values: one number an image, finite.
        level: confidence level.
        resamples: number of bootstrap samples.
        seed: of the bootstrap samples.

    Returns:
        The interval; None for fewer than two values, and for values that are all equal, which tell of no spread.

    Example:
        >>> bootstrap_interval([0.7, 0.7]) is None
        True
        >>> found = bootstrap_interval([0.71, 0.8, 0.86, 0.9, 0.93])
        >>> found.method, round(found.low, 2), round(found.high, 2)
        ('BCa', 0.76, 0.9)

    References:
        Efron 1987, Better Bootstrap Confidence Intervals, Journal of the American Statistical Association.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size < 2 or np.ptp(sample) == 0:
        return None
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that BCa is not defined is seen below
            found = stats.bootstrap(
                (sample,),
                np.mean,
                n_resamples=resamples,
                batch=max(1, _ELEMENTS // sample.size),
                confidence_level=level,
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(found).all():
            return MeanInterval(float(found.low), float(found.high), level, method, resamples)
    raise ValueError(f"the mean of {sample.size} values has no interval; all of them must be finite")
