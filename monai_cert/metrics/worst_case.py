# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Worst cases of a network of known Lipschitz constant, from its logits: what no change of a given size can undercut.

Unlike the worst cases of `monai_cert.metrics.dice`, which let every abstaining pixel go, these let an attack have only
the pixels that one budget pays for (`monai_cert.margins`): with logits that move by at most L eps + r, r the margin of
rounding. They say what the network itself reaches under every attack, with no probability in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.utils import MetricReduction

from monai_cert.margins import (
    Attackable,
    budget,
    check_constant,
    pixel_accuracy,
    pixel_dice,
    pixel_iou,
    pixel_sensitivity,
    pixel_specificity,
    pixel_stability,
    radius_of,
)
from monai_cert.metrics.reduced import ReducedMetric

__all__ = [
    "CertifiedRobustPixelAccuracy",
    "WorstCaseDice",
    "WorstCaseFNR",
    "WorstCaseIoU",
    "certified_robust_pixel_accuracy",
    "dice_under_attack",
    "fnr_under_attack",
    "fpr_under_attack",
    "iou_under_attack",
    "smallest_attack",
    "stability_under_attack",
]

ClassFigure = Callable[[Any, Any, int], Attackable]
_FIGURES: dict[str, ClassFigure] = {
    "dice": pixel_dice,
    "iou": pixel_iou,
    "sensitivity": pixel_sensitivity,
    "specificity": pixel_specificity,
    "accuracy": lambda logits, truth, k: pixel_accuracy(logits, truth),
}


def dice_under_attack(
    logits: torch.Tensor,
    label: torch.Tensor,
    eps: float,
    lipschitz_constant: float,
    rounding: float = 0.0,
    include_background: bool = False,
) -> torch.Tensor:
    """Least Dice of each class under every change of the image of l2 size at most eps.

    Args:
        logits: (B, C, *spatial) of the clean images; C = 1 means a sigmoid and two classes.
        label: (B, 1, *spatial) true label map.
        eps: l2 size of the change of one image.
        lipschitz_constant: L of all logits, in l2.
        rounding: margin r by which computed logits may move farther than L eps.
        include_background: count class 0 too.

    Returns:
        (B, K) float64, K the counted classes; NaN for a class absent from truth and prediction, unless eps pays for a
        pixel of it, which makes it 0.

    Raises:
        ValueError: if shapes differ, a logit is not finite, or eps, L or r are out of range.

    Example:
        >>> logits, label = torch.tensor([[[0.9, 0.1, -0.2, -0.9]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> [round(dice_under_attack(logits, label, eps, 1.0).item(), 3) for eps in (0.0, 0.15, 0.25)]
        [1.0, 0.667, 0.5]
    """
    return _worst(pixel_dice, logits, label, budget_of(eps, lipschitz_constant, rounding), include_background)


def iou_under_attack(
    logits: torch.Tensor,
    label: torch.Tensor,
    eps: float,
    lipschitz_constant: float,
    rounding: float = 0.0,
    include_background: bool = False,
) -> torch.Tensor:
    """Least intersection over union of each class; see `dice_under_attack`."""
    return _worst(pixel_iou, logits, label, budget_of(eps, lipschitz_constant, rounding), include_background)


def fnr_under_attack(
    logits: torch.Tensor,
    label: torch.Tensor,
    eps: float,
    lipschitz_constant: float,
    rounding: float = 0.0,
    include_background: bool = False,
) -> torch.Tensor:
    """Largest share of each class's pixels that are missed; NaN if it has none. See `dice_under_attack`."""
    spent = budget_of(eps, lipschitz_constant, rounding)
    return 1 - _worst(pixel_sensitivity, logits, label, spent, include_background)


def fpr_under_attack(
    logits: torch.Tensor,
    label: torch.Tensor,
    eps: float,
    lipschitz_constant: float,
    rounding: float = 0.0,
    include_background: bool = False,
) -> torch.Tensor:
    """Largest share of the other classes' pixels that are taken for each class; see `dice_under_attack`."""
    spent = budget_of(eps, lipschitz_constant, rounding)
    return 1 - _worst(pixel_specificity, logits, label, spent, include_background)


def certified_robust_pixel_accuracy(
    logits: torch.Tensor, label: torch.Tensor, eps: float, lipschitz_constant: float, rounding: float = 0.0
) -> torch.Tensor:
    """Least share (B,) of the pixels that have their true class (CRPA). Arguments as in `dice_under_attack`."""
    spent = budget_of(eps, lipschitz_constant, rounding)
    pairs = _pairs(logits, label)
    return torch.tensor([pixel_accuracy(z, truth).worst(spent) for z, truth in pairs], dtype=torch.float64)


def stability_under_attack(
    logits: torch.Tensor, eps: float, lipschitz_constant: float, rounding: float = 0.0
) -> torch.Tensor:
    """Least share (B,) of the pixels that keep their class; needs no truth. Arguments as in `dice_under_attack`."""
    spent = budget_of(eps, lipschitz_constant, rounding)
    shares = [pixel_stability(z).worst(spent) for z in logits.detach().cpu().numpy()]
    return torch.tensor(shares, dtype=torch.float64)


def smallest_attack(
    logits: torch.Tensor,
    label: torch.Tensor,
    target: float,
    lipschitz_constant: float,
    rounding: float = 0.0,
    figure: str = "dice",
    k: int = 1,
) -> torch.Tensor:
    """L2 size (B,) below which no change of the image brings a figure to a target or below; infinite if none can.

    Args:
        logits: see `dice_under_attack`.
        label: see `dice_under_attack`.
        target: value of the figure.
        lipschitz_constant: see `dice_under_attack`.
        rounding: see `dice_under_attack`.
        figure: ``dice``, ``iou``, ``sensitivity`` (1 - FNR), ``specificity`` (1 - FPR) or ``accuracy``.
        k: the class whose figure it is.

    Raises:
        ValueError: as for `dice_under_attack`, or for an unknown figure.
    """
    if figure not in _FIGURES:
        raise ValueError(f"figure must be one of {', '.join(_FIGURES)}, got {figure!r}")
    budget_of(0.0, lipschitz_constant, rounding)
    costs = [_FIGURES[figure](z, truth, k).least_cost(target) for z, truth in _pairs(logits, label)]
    return torch.tensor([radius_of(cost, lipschitz_constant, rounding) for cost in costs], dtype=torch.float64)


class _AttackMetric(ReducedMetric):
    """MONAI metric over one of the functions above: call with (y_pred, y), logits and label map.

    Args:
        eps: l2 size of the change of one image.
        lipschitz_constant: L of all logits, in l2.
        rounding: margin by which computed logits may move farther.
        include_background: count class 0 too.
        reduction: MONAI's reduction over images and classes; the default is the mean over the classes of an image, then
            over images, NaN left out.
    """

    _figure: Callable[..., torch.Tensor]

    def __init__(
        self,
        eps: float,
        lipschitz_constant: float,
        rounding: float = 0.0,
        include_background: bool = False,
        reduction: MetricReduction | str = MetricReduction.MEAN,
    ) -> None:
        super().__init__(include_background, reduction)
        budget_of(eps, lipschitz_constant, rounding)
        self.eps = eps
        self.lipschitz_constant = lipschitz_constant
        self.rounding = rounding

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        settings = (self.eps, self.lipschitz_constant, self.rounding, self.include_background)
        return self._figure(y_pred, y, *settings)


class WorstCaseDice(_AttackMetric):
    """MONAI twin of `dice_under_attack`; not `WorstCaseDiceMetric`, which is for maps with abstentions."""

    _figure = staticmethod(dice_under_attack)


class WorstCaseIoU(_AttackMetric):
    """MONAI twin of `iou_under_attack`; not `WorstCaseIoUMetric`, which is for maps with abstentions."""

    _figure = staticmethod(iou_under_attack)


class WorstCaseFNR(_AttackMetric):
    """MONAI twin of `fnr_under_attack`."""

    _figure = staticmethod(fnr_under_attack)


class CertifiedRobustPixelAccuracy(_AttackMetric):
    """MONAI twin of `certified_robust_pixel_accuracy`; ``include_background`` changes nothing, all pixels count."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return certified_robust_pixel_accuracy(y_pred, y, self.eps, self.lipschitz_constant, self.rounding)[:, None]


def budget_of(eps: float, lipschitz_constant: float, rounding: float) -> float:
    """The budget of `monai_cert.margins.budget`, of checked numbers."""
    if not (math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be finite and not negative, got {eps:g}")
    check_constant(lipschitz_constant, rounding)
    return budget(lipschitz_constant, eps, rounding)


def _worst(
    figure: ClassFigure, logits: torch.Tensor, label: torch.Tensor, spent: float, include_background: bool
) -> torch.Tensor:
    classes = range(0 if include_background else 1, max(2, logits.shape[1]))
    rows = [[figure(z, truth, k).worst(spent) for k in classes] for z, truth in _pairs(logits, label)]
    return torch.tensor(rows, dtype=torch.float64)


def _pairs(logits: torch.Tensor, label: torch.Tensor) -> list[tuple[Any, Any]]:
    """Logits (C, *spatial) and truth (*spatial) of each image, in numpy."""
    if label.shape != (logits.shape[0], 1, *logits.shape[2:]) or logits.ndim < 3:
        raise ValueError(
            f"label must be a label map (B, 1, *spatial) beside logits (B, C, *spatial), got {tuple(label.shape)} and "
            f"{tuple(logits.shape)}"
        )
    values = torch.as_tensor(logits).detach().cpu().numpy()
    truths = torch.as_tensor(label).detach().cpu().numpy()
    classes = max(2, logits.shape[1])
    if not ((truths >= 0) & (truths < classes)).all():
        raise ValueError(f"label maps hold classes outside 0..{classes - 1}, or NaN")
    return [(z, truth[0].astype(np.int64)) for z, truth in zip(values, truths, strict=True)]
