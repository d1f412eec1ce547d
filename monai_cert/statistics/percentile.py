# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified intervals of a number that is read off noisy predictions: percentile smoothing.

h(x + e) is any real number that is measured on the prediction for a noisy image: an area, a diameter, a Dice. Its law
under the noise has quantiles, and an attack can move these only so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom, norm

from monai_cert.statistics.rounding import as_drawn, chance, exactly, outward, rounded_down

__all__ = [
    "MeasurementCertificate",
    "ShareCertificate",
    "certify_measurements",
    "certify_shares",
    "order_statistics",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# Levels are moved outward by this share of themselves, far more than the rounding of Phi.
_ROUNDING = 1e-12

# Share of alpha at which the tails of the walk are cut off, and counted as failures.
_CUT = 1e-8

# More draws than this are not counted exactly in float64, let alone made.
_MOST_DRAWS = 2.0**53


@dataclass(frozen=True, eq=False)
class MeasurementCertificate:
    """What was proved about the quantiles of measurements under noise; the claim stands at `certify_measurements`.

    Shapes: (...) is () for one measurement and (M,) for several.

    Args:
        estimate: (...) quantile of the defined draws, NaN if there are none. No bound.
        lower: (..., R) lower end of the certified interval at each radius; the measurement's natural limit, or minus
            infinity, where the draws are too few.
        upper: (..., R) upper end, likewise.
        radii: (R,) l2 radii, in the units of ``bounds``.
        quantile: the quantile, 1/2 for the median.
        sigma: standard deviation of the noise, in the units of ``bounds``.
        alpha: failure probability of all intervals together.
        n: number of draws.
        undefined: (...) number of draws in which the measurement was undefined.
        needed: (R,) number of draws that is enough for both ends at each radius; infinite where no number would do that
            can be counted.
        enough: (R,) whether the draws were enough for both ends.
        limits: (..., 2) natural limits of the measurements.
        names: a name a measurement.
        units: its unit; empty for a pure number.
        bounds: (lower, upper) pixel values that give the unit of sigma and the radii.
    """

    estimate: FloatArray
    lower: FloatArray
    upper: FloatArray
    radii: FloatArray
    quantile: float
    sigma: float
    alpha: float
    n: int
    undefined: IntArray
    needed: FloatArray
    enough: npt.NDArray[np.bool_]
    limits: FloatArray
    names: tuple[str, ...]
    units: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)

    @property
    def statements(self) -> tuple[str, ...]:
        """For each measurement the claim in plain sentences, rounded so that it says no more than was proved."""
        kinds = (("measurements", len(self.names)), ("sizes", len(self.radii)))
        several = " and ".join(f"{count} {word}" for word, count in kinds if count > 1)
        counted = f", for all {several} at once" if several else ""
        return tuple(
            f"With probability at least {chance(self.alpha)} over the noise draws{counted}: no change of the image "
            f"moves the {_ordinal(self.quantile)} {name} over the noisy predictions outside {self._intervals(m)} "
            f"({_pixel_values(self.bounds)}).{self._remarks(m)}"
            for m, name in enumerate(self.names)
        )

    def record(self) -> dict[str, Any]:
        """All of it as plain values for JSON.

        None for an estimate says that it is undefined, for an end of an interval that nothing was proved of it, for a
        limit that there is none. What was found to be infinite, such as a distance to an empty mask, is ``"inf"`` or
        ``"-inf"``. None for a number of draws says that no number would do.
        """
        lower, upper, limits = np.atleast_2d(self.lower), np.atleast_2d(self.upper), np.atleast_2d(self.limits)
        estimate, undefined, statements = np.atleast_1d(self.estimate), np.atleast_1d(self.undefined), self.statements
        return {
            "quantile": self.quantile,
            "sigma": self.sigma,
            "alpha": self.alpha,
            "n": self.n,
            "bounds": list(self.bounds),
            "measurements": [
                {
                    "name": name,
                    "unit": self.units[m],
                    "estimate": _plain(estimate[m], nothing=np.nan),
                    "undefined_draws": int(undefined[m]),
                    "limits": [_plain(limits[m, 0], nothing=-np.inf), _plain(limits[m, 1], nothing=np.inf)],
                    "intervals": [
                        {
                            "radius": float(r),
                            "lower": _plain(low, nothing=-np.inf),
                            "upper": _plain(high, nothing=np.inf),
                            "n_needed": int(needed) if np.isfinite(needed) else None,
                        }
                        for r, low, high, needed in zip(self.radii, lower[m], upper[m], self.needed, strict=True)
                    ],
                    "statement": statements[m],
                }
                for m, name in enumerate(self.names)
            ],
        }

    def _intervals(self, m: int) -> str:
        unit = f" {self.units[m]}" if self.units[m] else ""
        lower, upper = np.atleast_2d(self.lower)[m], np.atleast_2d(self.upper)[m]
        parts = [
            f"{outward(low, up=False)} to {outward(high, up=True)}{unit} if its l2 size is at most "
            f"{rounded_down(radius)}"
            for radius, low, high in zip(self.radii, lower, upper, strict=True)
        ]
        return ", ".join(parts)

    def _remarks(self, m: int) -> str:
        remarks = ""
        if (lacking := ~self.enough).any():
            most = self.needed[lacking].max()
            would = f"{most:.0f} would do" if np.isfinite(most) else "no number that can be drawn would do"
            remarks += (
                f" From a size of {exactly(self.radii[lacking].min())} on, {self.n} draws are too few for both ends; "
                f"{would} for all sizes."
            )
        if undefined := int(np.atleast_1d(self.undefined)[m]):
            remarks += (
                f" It was undefined in {undefined} of {self.n} draws; the interval holds whatever number within its "
                "natural limits an undefined one is taken for."
            )
        return remarks


def certify_measurements(
    values: npt.ArrayLike,
    sigma: float,
    alpha: float,
    radii: Sequence[float],
    quantile: float = 0.5,
    *,
    names: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    limits: npt.ArrayLike = (-np.inf, np.inf),
    looks: int = 1,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> MeasurementCertificate:
    r"""Certify quantiles of measurements from their values on the predictions for n noisy images.

    *Claim.* With probability at least 1 - alpha over the draws, for all measurements h and all radii R given, and for
    every delta with ||delta||_2 <= R: every p-quantile v of h(x + delta + e), that is P(h <= v) >= p and P(h < v) <= p,
    lies in the interval [lower, upper].

    *Proof.* (1) *Neyman-Pearson.* For a set A of noisy images, P_x(A) >= Phi(Phi^-1(P_{x+delta}(A)) - ||delta|| /
    sigma), and <= with plus (Cohen et al. 2019, theorem 1). With A = {h <= v}, a p-quantile v at x + delta has
    P_x(h <= v) >= p- = Phi(Phi^-1(p) - R / sigma), so v >= q(p-), q(t) = inf {v : P_x(h <= v) >= t}. With A = {h < v},
    P_x(h < v) <= p+ = Phi(Phi^-1(p) + R / sigma), so v <= Q(p+), Q(t) = sup {v : P_x(h < v) <= t}.
    (2) *Order statistics.* Let X_i = q(U_i) with independent uniform U_i: draws of h(x + e), ties included. If at least
    a of the U_i are <= p-, the a-th smallest X is at most q(p-); if at most b - 1 of them are <= p+, the b-th smallest
    is at least Q(p+). Nothing is assumed of the law of h: it may be discrete, even a single Bernoulli draw.
    (3) *All radii at once.* So all lower ends hold together where the counts N(t) = #{U_i <= t} satisfy N(p-_r) >= a_r
    at all radii r, an event whose probability is that of a walk of binomial steps and is computed exactly; likewise
    the upper ends. The ranks are those of one level for each radius, the largest at which all fail with at most the
    probability that is given to this end (see `order_statistics`). It is at least that of the union bound, so no
    alpha is lost to splitting it over the radii, and it is tighter than a band over all t (Dvoretzky, Kiefer,
    Wolfowitz 1956, Massart 1990), whose width does not shrink in the tails.
    (4) *Several.* alpha is split evenly over the measurements, whose dependence is unknown, over their two ends, and
    over ``looks``, if the number of draws was chosen at one of so many looks at the draws (union bound).
    (5) *Undefined values* (NaN) count as minus infinity for the lower end and as infinity for the upper. If h' is h
    with any numbers in their place, h- <= h' <= h+, so the quantiles are in this order too at x + delta, and the lower
    end is certified for h-, the upper for h+. Ends are brought within ``limits``, so that the numbers must lie within
    these, as all that h can be. That the two ends may concern different functions is why alpha is split
    over them by the union bound and not by the walk.
    (6) *Rounding.* R / sigma is computed with sigma `as_drawn`, levels are moved outward by far more than the rounding
    of Phi.

    Args:
        values: (n,) values of one measurement, or (M, n) of several on the same draws; NaN where undefined.
        sigma: standard deviation of the noise.
        alpha: failure probability of everything that is claimed.
        radii: (R,) l2 radii, in units of sigma's; fixed before the draws were seen.
        quantile: p, in (0, 1).
        names: a name a measurement.
        units: a unit a measurement.
        limits: (2,) or (M, 2) least and largest value that the measurement can take at all.
        looks: number of looks at which the number of draws may have been chosen.
        bounds: (lower, upper) pixel values that give the unit of sigma.

    Raises:
        ValueError: for parameters out of range, or values of another shape.

    References:
        Chiang, Curry, Abdelkader, Kumar, Dickerson, Goldstein 2020, Detection as Regression: Certified Object Detection
        by Median Smoothing, NeurIPS (percentile smoothing). Exact levels for all radii, undefined values and closed
        balls are this project's own; ``tests/guarantees/test_percentile_smoothing.py`` holds them to laws known in
        closed form.

    Example:
        >>> values = np.arange(1000.0)
        >>> certificate = certify_measurements(values, sigma=0.25, alpha=0.001, radii=[0.05, 0.1])
        >>> certificate.estimate.item(), certificate.lower.tolist(), certificate.upper.tolist()
        (499.0, [366.0, 293.0], [633.0, 706.0])
    """
    drawn, ends, shape = _checked(values, sigma, alpha, radii)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie in (0, 1), got {quantile:g}")
    if looks < 1:
        raise ValueError(f"looks must be at least 1, got {looks}")
    measurements, n = drawn.shape
    natural = np.broadcast_to(np.asarray(limits, dtype=np.float64), (measurements, 2))
    share = alpha / (2 * measurements * looks)
    shift = ends / as_drawn(sigma)
    below = norm.cdf(norm.ppf(quantile) - shift) * (1 - _ROUNDING)
    above = norm.sf(norm.ppf(quantile) + shift) * (1 - _ROUNDING)
    undefined = np.isnan(drawn)
    lowest = np.sort(np.where(undefined, -np.inf, drawn), axis=1)
    highest = np.sort(np.where(undefined, np.inf, drawn), axis=1)
    from_below, from_above = (order_statistics(n, tuple(levels), share) for levels in (below, above))
    # The a-th smallest of n and the a-th largest; none for a = 0.
    lower = np.concatenate([np.full((measurements, 1), -np.inf), lowest], axis=1)[:, from_below]
    upper = np.concatenate([highest, np.full((measurements, 1), np.inf)], axis=1)[:, n - from_above]
    with np.errstate(divide="ignore"):
        needed = np.ceil(np.log(share / len(ends)) / np.log1p(-np.minimum(below, above)))
    return MeasurementCertificate(
        estimate=_quantiles(drawn, quantile).reshape(shape),
        lower=np.maximum(lower, natural[:, :1]).reshape(*shape, len(ends)),
        upper=np.minimum(upper, natural[:, 1:]).reshape(*shape, len(ends)),
        radii=ends,
        quantile=quantile,
        sigma=sigma,
        alpha=alpha,
        n=n,
        undefined=undefined.sum(axis=1).reshape(shape),
        needed=np.where(needed <= _MOST_DRAWS, needed, np.inf),
        enough=(from_below > 0) & (from_above > 0),
        limits=natural.reshape(*shape, 2),
        names=_named(names, measurements),
        units=tuple(units) if units is not None else ("",) * measurements,
        bounds=bounds,
    )


@lru_cache(maxsize=64)
def order_statistics(n: int, levels: tuple[float, ...], alpha: float) -> IntArray:
    """Ranks a_r such that, of n uniform draws, at least a_r are <= levels[r] for all r with probability 1 - alpha.

    All ranks belong to one level b: a_r is the largest a with P(Bin(n, levels[r]) < a) <= b. b is the largest of a
    bisection between alpha / R and alpha at which the exact probability of any failure is at most alpha.

    Args:
        n: number of draws.
        levels: in (0, 1), R of them in any order.
        alpha: probability that any of the counts falls short.

    Returns:
        (R,) ranks from 0 to n; 0 where nothing can be said.

    Example:
        >>> order_statistics(100, (0.5,), 0.025).tolist()
        [40]
    """
    order = np.argsort(levels)
    rising = np.asarray(levels, dtype=np.float64)[order]
    tables = [binom.cdf(np.arange(n + 1), n, level) for level in rising]

    def ranks(level: float) -> IntArray:
        return np.array([np.searchsorted(table, level, side="right") for table in tables])

    low, high = alpha / len(levels), alpha
    if len(levels) > 1:
        failure = _failure(n, rising, alpha * _CUT)
        while high - low > 1e-3 * low and (ranks(low) != ranks(high)).any():
            middle = (low + high) / 2
            low, high = (middle, high) if failure(ranks(middle)) <= alpha * (1 - 1e-6) else (low, middle)
    found = np.empty(len(levels), dtype=np.int64)
    found[order] = np.minimum(ranks(low if len(levels) > 1 else alpha), n)
    found.flags.writeable = False
    return found


def _failure(n: int, levels: FloatArray, cut: float) -> Callable[[IntArray], float]:
    """From ranks to the probability that any count of uniform draws below a level is less than its rank.

    The counts at rising levels are a walk: N(t) - N(s) given N(s) is Bin(n - N(s), (t - s) / (1 - s)). Counts outside a
    window, of probability ``cut`` at each end, are counted as failures.
    """
    windows = [np.arange(binom.ppf(cut, n, t), binom.isf(cut, n, t) + 1, dtype=np.int64) for t in levels]
    first = binom.pmf(windows[0], n, levels[0])
    steps = []
    for s, t, before, after in zip(levels, levels[1:], windows, windows[1:], strict=False):
        steps.append(binom.pmf(after - before[:, None], n - before[:, None], (t - s) / (1 - s)))

    def failure(ranks: IntArray) -> float:
        walking, failed = first, 2 * cut * len(levels)
        for r, window in enumerate(windows):
            if r:
                walking = walking @ steps[r - 1]
            short = window < ranks[r]
            failed += float(walking[short].sum())
            walking = np.where(short, 0.0, walking)
        return failed

    return failure


@dataclass(frozen=True, eq=False)
class ShareCertificate:
    """What was proved about the share of noisy predictions that reach a value; the claim stands at `certify_shares`.

    Args:
        observed: (..., T) share of the draws that reached each threshold. No bound.
        lower: (..., T, R) certified share at each radius, rounded toward zero.
        thresholds: (T,) values to be reached.
        radii: (R,) l2 radii.
        sigma: standard deviation of the noise.
        alpha: failure probability of all shares together.
        n: number of draws.
        names: a name a measurement.
        units: its unit.
        bounds: (lower, upper) pixel values that give the unit of sigma and the radii.
    """

    observed: FloatArray
    lower: FloatArray
    thresholds: FloatArray
    radii: FloatArray
    sigma: float
    alpha: float
    n: int
    names: tuple[str, ...]
    units: tuple[str, ...]
    bounds: tuple[float, float] = (0.0, 1.0)

    @property
    def statements(self) -> tuple[str, ...]:
        """For each measurement the claim in plain sentences."""
        lower = self.lower.reshape(len(self.names), len(self.thresholds), len(self.radii))
        return tuple(
            f"With probability at least {chance(self.alpha)} over the noise draws, for all sizes and thresholds at "
            f"once: under every change of the image of l2 size at most R, the share of noisy predictions whose {name} "
            f"is at least d{f' {unit}' if unit else ''} is no less than "
            + ", ".join(
                f"{rounded_down(share)} (d = {exactly(threshold)}, R = {rounded_down(radius)})"
                for threshold, shares in zip(self.thresholds, lower[m], strict=True)
                for radius, share in zip(self.radii, shares, strict=True)
            )
            + f" ({_pixel_values(self.bounds)})."
            for m, (name, unit) in enumerate(zip(self.names, self.units, strict=True))
        )

    def record(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        shape = (len(self.names), len(self.thresholds))
        lower, observed, statements = self.lower.reshape(*shape, -1), self.observed.reshape(shape), self.statements
        return {
            "sigma": self.sigma,
            "alpha": self.alpha,
            "n": self.n,
            "bounds": list(self.bounds),
            "measurements": [
                {
                    "name": name,
                    "unit": self.units[m],
                    "shares": [
                        {
                            "threshold": _plain(threshold, nothing=np.nan),
                            "observed": float(observed[m, t]),
                            "certified": [
                                {"radius": float(r), "share": float(share)}
                                for r, share in zip(self.radii, lower[m, t], strict=True)
                            ],
                        }
                        for t, threshold in enumerate(self.thresholds)
                    ],
                    "statement": statements[m],
                }
                for m, name in enumerate(self.names)
            ],
        }


def certify_shares(
    values: npt.ArrayLike,
    thresholds: Sequence[float],
    sigma: float,
    alpha: float,
    radii: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    looks: int = 1,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> ShareCertificate:
    """Certify which share of the noisy predictions reaches a value, a Dice of 0.9 say.

    *Claim.* With probability at least 1 - alpha over the draws, for all measurements h, thresholds d and radii R given,
    and every delta with ||delta||_2 <= R: P(h(x + delta + e) >= d) >= lower.

    *Proof.* If P(h >= d) >= s at x, then P(h >= d) >= Phi(Phi^-1(s) - R / sigma) at x + delta (Cohen et al. 2019,
    theorem 1). s is the lower bound of Clopper and Pearson from the number of draws that reached d, each at
    alpha / (measurements x thresholds x looks). One s serves all radii, so these cost nothing. An undefined value
    reaches nothing.

    Args:
        values: (n,) values of one measurement, or (M, n) of several on the same draws; NaN where undefined.
        thresholds: (T,) values to be reached; fixed before the draws were seen.
        sigma: standard deviation of the noise.
        alpha: failure probability of everything that is claimed.
        radii: (R,) l2 radii; they may be chosen after the fact.
        names: a name a measurement.
        units: a unit a measurement.
        looks: number of looks at which the number of draws may have been chosen.
        bounds: (lower, upper) pixel values that give the unit of sigma.

    Raises:
        ValueError: for parameters out of range, or values of another shape.

    References:
        Clopper, Pearson 1934, The use of confidence or fiducial limits illustrated in the case of the binomial,
        Biometrika.

    Example:
        >>> dice = np.full(200, 0.95)
        >>> certify_shares(dice, [0.9], sigma=0.25, alpha=0.001, radii=[0.168]).lower.round(3).tolist()
        [[0.876]]
    """
    drawn, ends, shape = _checked(values, sigma, alpha, radii)
    reached = np.asarray(thresholds, dtype=np.float64)
    if reached.ndim != 1 or not reached.size or np.isnan(reached).any() or looks < 1:
        raise ValueError(
            f"thresholds must be numbers, at least one, and looks at least 1, got {thresholds} and {looks}"
        )
    measurements, n = drawn.shape
    counts = (drawn[:, None, :] >= reached[:, None]).sum(axis=2)
    level = alpha / (counts.size * looks)
    shares = np.where(counts > 0, beta.ppf(level, np.maximum(counts, 1), n - counts + 1), 0.0)
    lower = norm.cdf(norm.ppf(shares)[..., None] - ends / as_drawn(sigma)) * (1 - 1e-9)
    return ShareCertificate(
        observed=(counts / n).reshape(*shape, len(reached)),
        lower=lower.reshape(*shape, len(reached), len(ends)),
        thresholds=reached,
        radii=ends,
        sigma=sigma,
        alpha=alpha,
        n=n,
        names=_named(names, measurements),
        units=tuple(units) if units is not None else ("",) * measurements,
        bounds=bounds,
    )


def _checked(
    values: npt.ArrayLike, sigma: float, alpha: float, radii: Sequence[float]
) -> tuple[FloatArray, FloatArray, tuple[int, ...]]:
    """(M, n) values, (R,) radii, and the shape (...) of what is measured."""
    drawn = np.asarray(values, dtype=np.float64)
    if drawn.ndim not in (1, 2) or not drawn.size:
        raise ValueError(f"values must be (n,) or (measurements, n), at least one, got shape {drawn.shape}")
    as_drawn(sigma)  # refuses what is out of range
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha:g}")
    ends = np.asarray(radii, dtype=np.float64)
    if ends.ndim != 1 or not ends.size or not (np.isfinite(ends) & (ends >= 0)).all():
        raise ValueError(f"radii must be finite and not negative, at least one, got {list(radii)}")
    if len(np.unique(ends)) != len(ends):
        raise ValueError(f"radii must differ from each other, got {list(radii)}")
    return np.atleast_2d(drawn), ends, drawn.shape[:-1]


def _quantiles(drawn: FloatArray, quantile: float) -> FloatArray:
    """(M,) the smallest value that at least this share of the defined draws does not exceed."""
    found = []
    for row in drawn:
        defined = np.sort(row[~np.isnan(row)])
        found.append(defined[math.ceil(quantile * defined.size) - 1] if defined.size else np.nan)
    return np.array(found)


def _named(names: Sequence[str] | None, measurements: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"measurement {m}" for m in range(1, measurements + 1))
    if len(names) != measurements:
        raise ValueError(f"{measurements} measurements need as many names, got {list(names)}")
    return tuple(names)


def _ordinal(quantile: float) -> str:
    return "median" if quantile == 0.5 else f"{exactly(quantile)}-quantile of the"


def _pixel_values(bounds: tuple[float, float]) -> str:
    return f"pixel values from {exactly(bounds[0])} to {exactly(bounds[1])}"


def _plain(value: float, nothing: float) -> float | str | None:
    """A number that JSON has, or text for infinity; None for NaN, and for the number that says nothing."""
    if math.isnan(value) or value == nothing:
        return None
    return float(value) if math.isfinite(value) else str(float(value))
