# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
r"""What logits that can move no further than a known distance allow: radii of pixels and worst cases of figures.

Let f map an image to all its logits, ||f(x + d) - f(x)||_2 <= L ||d||_2 + r, the l2 norms over all pixels, channels and
classes; r is a margin, such as that of rounding, often 0. Write z = f(x), and dz for the change of the logits.

*One pixel, several classes.* Let c be its class and j another one. Where z_j + dz_j >= z_c + dz_c, there
z_c - z_j <= dz_j - dz_c <= sqrt(2) ||dz||, the last by Cauchy-Schwarz with the vector (1, -1). With m the margin of the
first class over the second, no class overtakes c while ||dz|| < m / sqrt(2). Hence the radius (m / sqrt(2) - r) / L;
and the pixel *costs* m^2 / 2 of the squared length of dz: dz = (-m / 2, m / 2) flips it for just that.

*One pixel, one channel.* Its class is 1 where z > 0, else 0. It stays while ||dz|| < |z|, and -z flips it: the radius
is (|z| - r) / L, the cost z^2.

*Many pixels.* Their changes are disjoint parts of dz, so that all pixels of a set S change only if
``sum over S of cost_i <= (L ||d|| + r)^2``: one budget is shared by all. Conversely the relaxation "any dz of that
length" can flip every such S. A figure that falls with each pixel broken is therefore lowest, under the relaxation,
when the cheapest pixels are broken: sort, sum up, compare. Where a figure falls with pixels broken in two ways (Dice:
true positives lost, false positives made), the first b of one and the first a of the other, for all b at once.

*To make a pixel one of class k* z_k must reach the largest of the others: cost (max of the others - z_k)^2 / 2, by the
same argument (more, if several others are near: the bound is then safe, and exact for two classes).

*Rounding.* Costs and their sums are rounded down, budgets up, so that every count errs to the pessimistic side: with u
= 2^-53, a cost has a relative error below 4 u, and a running sum of N of them below (N + 4) u (all terms are positive).
A figure is a quotient of such counts, rounded to the nearest float64. Costs of distances below 1e-150, whose squares
would have no exponent, are 0; logits beyond 1e150 are refused.

References:
    Massena, Friedrich, Mamalet, Serrurier 2025, Fast and Flexible Robustness Certificates for Semantic Segmentation;
    Tsuzuku, Sato, Sugiyama 2018, Lipschitz-Margin Training, NeurIPS (sqrt(2) for a margin). The sweep of Dice is
    compared with all subsets in ``tests/test_margins.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Attackable",
    "budget",
    "check_constant",
    "check_logits",
    "flip_costs",
    "pixel_accuracy",
    "pixel_classes",
    "pixel_dice",
    "pixel_iou",
    "pixel_radii",
    "pixel_sensitivity",
    "pixel_specificity",
    "pixel_stability",
    "radius_of",
]

FloatArray = npt.NDArray[np.floating[Any]]
Costs = npt.NDArray[np.float64]

_UNIT = 2.0**-53
_LEAST, _LARGEST = 1e-150, 1e150  # between them, squares are normal numbers


def pixel_classes(logits: FloatArray) -> npt.NDArray[np.int16]:
    """(*spatial) classes of logits (C, *spatial): one channel is compared with 0; the first of several in a tie."""
    classes = logits[0] > 0 if len(logits) == 1 else np.argmax(logits, axis=0)
    return np.asarray(classes, dtype=np.int16)


def flip_costs(logits: FloatArray, target: int | None = None) -> Costs:
    """Squared l2 change of the logits below which a pixel stays what it is, rounded down.

    Args:
        logits: (C, *spatial) finite; C = 1 means a sigmoid.
        target: to make the pixel one of this class; any other class than its own if None.

    Returns:
        (*spatial) float64; 0 where the pixel has the target class already.

    Raises:
        ValueError: if a logit is NaN or infinite, or there is no such class.

    Example:
        >>> flip_costs(np.array([[2.0], [0.0], [1.0]])), flip_costs(np.array([[2.0], [0.0], [1.0]]), target=1)
        (array([0.5]), array([2.]))
    """
    check_logits(logits)
    z = logits.astype(np.float64)
    channels = max(2, len(z))
    if target is not None and not 0 <= target < channels:
        raise ValueError(f"the network has classes 0..{channels - 1}, got {target}")
    if len(z) == 1:
        distance, halves = np.abs(z[0]), 1.0
    elif target is None:
        first, second = _two_largest(z)
        distance, halves = first - second, 2.0
    else:
        others = np.delete(z, target, axis=0).max(axis=0)
        distance, halves = np.maximum(others - z[target], 0.0), 2.0
    free = distance < _LEAST if target is None else (distance < _LEAST) | (pixel_classes(logits) == target)
    costs: Costs = distance * distance / halves * (1 - 8 * _UNIT)
    return np.where(free, 0.0, costs)


def budget(lipschitz_constant: float, eps: float, rounding: float = 0.0) -> float:
    """(L eps + r)^2, rounded up: what a change of the image of l2 size eps can spend on the logits."""
    return (lipschitz_constant * eps + rounding) ** 2 * (1 + 16 * _UNIT)


def radius_of(cost: float, lipschitz_constant: float, rounding: float = 0.0) -> float:
    """(sqrt(cost) - r) / L, rounded down, at least 0: no smaller change of the image can spend that cost."""
    if math.isinf(cost):
        return math.inf
    return max(0.0, (math.sqrt(cost) * (1 - 4 * _UNIT) - rounding) / lipschitz_constant * (1 - 8 * _UNIT))


def pixel_radii(logits: FloatArray, lipschitz_constant: float, rounding: float = 0.0) -> npt.NDArray[np.float32]:
    """(*spatial) l2 radius below which the class of a pixel stays, for all pixels at once, rounded toward zero.

    Args:
        logits: (C, *spatial); C = 1 means a sigmoid.
        lipschitz_constant: L, of the logits of a whole image with respect to the image.
        rounding: the margin r.

    Example:
        >>> pixel_radii(np.array([[0.5, -0.25]]), 2.0).round(4).tolist()
        [0.25, 0.125]
    """
    check_constant(lipschitz_constant, rounding)
    reach = np.sqrt(flip_costs(logits)) * (1 - 4 * _UNIT) - rounding
    radii = np.maximum(reach / lipschitz_constant * (1 - 8 * _UNIT), 0.0)
    nearest = radii.astype(np.float32)
    return np.where(nearest > radii, np.nextafter(nearest, np.float32(0)), nearest)


@dataclass(frozen=True)
class Attackable:
    """A figure of one image that an attack lowers by breaking some pixels and making others.

    Args:
        broken: cumulative costs of the pixels that can be broken, cheapest first, from 0 on.
        made: cumulative costs of the pixels that can be made, cheapest first, from 0 on.
        figure: its value when b pixels are broken and a made; falls with both. NaN where it is not defined, as the Dice
            of a class that is nowhere is, until a pixel of it is made: then it is 0.
    """

    broken: Costs
    made: Costs
    figure: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Costs]

    @property
    def clean(self) -> float:
        """The figure without an attack."""
        none = np.zeros(1, dtype=np.int64)
        return float(self.figure(none, none)[0])

    def worst(self, spent: float) -> float:
        """The least figure that a budget allows; NaN if it is not defined whatever the budget does."""
        b = np.arange(int(np.searchsorted(self.broken, spent, side="right")))
        left = spent * (1 + 4 * _UNIT) - self.broken[b]
        a = np.searchsorted(self.made, left, side="right") - 1
        return float(self.figure(b, a).min())

    def least_cost(self, target: float) -> float:
        """The least cost at which the figure can be brought to a target or below; infinite if none can do that."""
        if self.clean <= target:
            return 0.0
        b = np.arange(len(self.broken))
        low, high = np.zeros_like(b), np.full_like(b, len(self.made) - 1)
        reachable = self.figure(b, high) <= target
        # The least a for each b, by bisection: the figure falls with a.
        while (low < high).any():
            middle = (low + high) // 2
            enough = self.figure(b, middle) <= target
            low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
        costs = (self.broken + self.made[high]) * (1 - 4 * _UNIT)
        return float(costs[reachable].min()) if reachable.any() else math.inf


def pixel_stability(logits: FloatArray) -> Attackable:
    """Share of the pixels that keep their class; needs no truth."""
    costs = flip_costs(logits)
    return Attackable(_running(costs), _NONE, lambda b, a: (costs.size - b) / costs.size)


def pixel_accuracy(logits: FloatArray, truth: npt.NDArray[np.integer[Any]]) -> Attackable:
    """Share of the pixels that have their true class (certified robust pixel accuracy, CRPA, when attacked)."""
    correct = pixel_classes(logits) == _truth(logits, truth)
    costs = flip_costs(logits)[correct]
    return Attackable(_running(costs), _NONE, lambda b, a: (costs.size - b) / correct.size)


def pixel_dice(logits: FloatArray, truth: npt.NDArray[np.integer[Any]], k: int) -> Attackable:
    """Dice of class k; NaN where it is absent from truth and prediction.

    With T true positives, P predicted and G true pixels, b true positives lost and a false positives made:
    2 (T - b) / (P - b + a + G), which falls with a, and with b since T <= G.
    """
    hit, made, positive, true = _parts(logits, truth, k)
    return Attackable(_running(hit), made, lambda b, a: _ratio(2 * (hit.size - b), positive + true - b + a))


def pixel_iou(logits: FloatArray, truth: npt.NDArray[np.integer[Any]], k: int) -> Attackable:
    """Intersection over union of class k, (T - b) / (P + G - T + a); NaN as in `pixel_dice`."""
    hit, made, positive, true = _parts(logits, truth, k)
    either = positive + true - hit.size
    return Attackable(_running(hit), made, lambda b, a: _ratio(hit.size - b, either + a))


def pixel_sensitivity(logits: FloatArray, truth: npt.NDArray[np.integer[Any]], k: int) -> Attackable:
    """Share of the pixels of class k that are found, 1 - FNR; NaN if there is none."""
    hit, _, _, true = _parts(logits, truth, k)
    return Attackable(_running(hit), _NONE, lambda b, a: _ratio(hit.size - b, true + 0 * b))


def pixel_specificity(logits: FloatArray, truth: npt.NDArray[np.integer[Any]], k: int) -> Attackable:
    """Share of the pixels of other classes that are not taken for class k, 1 - FPR; NaN if there is none."""
    _, made, _, true = _parts(logits, truth, k)
    negatives = truth.size - true
    quiet = len(made) - 1
    # Making false positives is what breaks this figure, so that they take the first place.
    return Attackable(made, _NONE, lambda b, a: _ratio(quiet - b, negatives + 0 * b))


_NONE: Costs = np.zeros(1)


def _parts(logits: FloatArray, truth: npt.NDArray[np.integer[Any]], k: int) -> tuple[Costs, Costs, int, int]:
    """Costs of the true positives of class k, cumulative costs of making false ones; numbers predicted and true."""
    positive, true = pixel_classes(logits) == k, _truth(logits, truth) == k
    made = flip_costs(logits, target=k)[~positive & ~true]
    return flip_costs(logits)[positive & true], _running(made), int(positive.sum()), int(true.sum())


def _running(costs: Costs) -> Costs:
    """0 and the cumulative sums of the costs, cheapest first, rounded down."""
    sums = np.concatenate([[0.0], np.cumsum(np.sort(costs, axis=None))])
    return sums * (1 - 2 * (costs.size + 4) * _UNIT)


def _two_largest(z: Costs) -> tuple[Costs, Costs]:
    """Largest and second largest of (C, *spatial), as running maxima."""
    first, second = np.maximum(z[0], z[1]), np.minimum(z[0], z[1])
    for more in z[2:]:
        second = np.maximum(second, np.minimum(first, more))
        first = np.maximum(first, more)
    return first, second


def _ratio(count: npt.NDArray[np.int64], of: npt.NDArray[np.int64]) -> Costs:
    """Quotients, NaN where nothing is counted out of nothing."""
    ratios: Costs = np.divide(count, of, out=np.full(np.broadcast(count, of).shape, np.nan), where=of > 0)
    return ratios


def _truth(logits: FloatArray, truth: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
    if truth.shape != logits.shape[1:]:
        raise ValueError(f"truth must have the shape {logits.shape[1:]} of the logits' pixels, got {truth.shape}")
    return truth


def check_logits(logits: FloatArray) -> None:
    """Refuse, with a ValueError, logits from which nothing can be certified."""
    if logits.size and not float(np.abs(logits).max()) <= _LARGEST:
        raise ValueError("the network gave logits that are NaN or infinite; nothing can be certified from them")


def check_constant(lipschitz_constant: float, rounding: float) -> None:
    """Refuse, with a ValueError, a constant or a margin of rounding that is out of range."""
    if not (math.isfinite(lipschitz_constant) and lipschitz_constant > 0):
        raise ValueError(f"the Lipschitz constant must be positive and finite, got {lipschitz_constant:g}")
    if not (math.isfinite(rounding) and rounding >= 0):
        raise ValueError(f"the margin of rounding must be finite and not negative, got {rounding:g}")
