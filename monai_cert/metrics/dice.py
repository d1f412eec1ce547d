# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified and worst-case overlap of a certified label map with the truth.

For one class of one image: G the truth, C the pixels certified as the class, A the pixels that abstain.

| metric | formula | says |
|---|---|---|
| certified Dice | 2 abs(C & G) / (abs(C) + abs(G)) | the literature's figure; abstentions outside G cost nothing |
| worst-case Dice | 2 abs(C & G) / (abs(C) + abs(G) + abs(A - G)) | smallest Dice of any labeling of A |
| certified IoU | abs(C & G) / abs(C or G) | |
| worst-case IoU | abs(C & G) / abs(C or G or A) | smallest IoU of any labeling of A |

Only the worst-case figures bound from below what the smoothed network reaches under every attack within the radius
(a labeling that breaks C & G least takes no pixel of A inside G and all of A outside: numerator and denominator are
then both at their worst). The certified figures do not, and are kept because the literature reports them.

A class absent from truth and certificate is NaN, in the worst case too, and left out of means: a decision about what is
reported, not a bound. A labeling could give such a class abstaining pixels and so a Dice of 0; the worst-case figures,
and means of them, are bounds over the classes that truth or certificate have.

References:
    Fischer et al. 2021 and Laousy et al. 2023 for certified Dice; worst-case Dice is checked against all labelings of A
    in ``tests/metrics/test_dice.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from monai.utils import MetricReduction

from monai_cert.certificate import ABSTAIN
from monai_cert.metrics.reduced import ReducedMetric

__all__ = [
    "CertifiedDiceMetric",
    "CertifiedIoUMetric",
    "WorstCaseDiceMetric",
    "WorstCaseIoUMetric",
    "certified_dice",
    "certified_iou",
    "worst_case_dice",
    "worst_case_iou",
]


class _Overlap(NamedTuple):
    """Pixel counts of each image and class, (B, K) float32."""

    both: torch.Tensor
    certified: torch.Tensor
    truth: torch.Tensor
    abstain_outside: torch.Tensor


def certified_dice(
    classes: torch.Tensor, label: torch.Tensor, num_classes: int = 2, include_background: bool = False
) -> torch.Tensor:
    """Certified Dice, the literature's; *no* lower bound under attack (see `worst_case_dice`).

    Args:
        classes: (B, 1, *spatial) certified label map with ABSTAIN = -1.
        label: (B, 1, *spatial) true label map.
        num_classes: number of classes, background included.
        include_background: count class 0 too.

    Returns:
        (B, K) in [0, 1], K the counted classes; NaN for a class absent from truth and certificate.

    Raises:
        ValueError: if the shapes differ or are no label maps, or a class is out of range.

    Example:
        >>> classes, label = torch.tensor([[[1, -1, 0, -1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> certified_dice(classes, label).item(), worst_case_dice(classes, label).item()
        (0.6666666865348816, 0.5)
    """
    o = _overlap(classes, label, num_classes, include_background)
    return 2 * o.both / _nan_if_zero(o.certified + o.truth)


def worst_case_dice(
    classes: torch.Tensor, label: torch.Tensor, num_classes: int = 2, include_background: bool = False
) -> torch.Tensor:
    """Smallest Dice that any labeling of the abstaining pixels gives: with the certificate's probability a lower bound
    on the Dice of the smoothed network under every attack within the radius. Arguments as in `certified_dice`.

    NaN, no bound, for a class absent from truth and certificate, which a labeling might give pixels (and a Dice of 0).
    """
    o = _overlap(classes, label, num_classes, include_background)
    present = _nan_if_zero(o.certified + o.truth)
    return 2 * o.both / (present + o.abstain_outside)


def certified_iou(
    classes: torch.Tensor, label: torch.Tensor, num_classes: int = 2, include_background: bool = False
) -> torch.Tensor:
    """Certified intersection over union; *no* lower bound under attack. Arguments as in `certified_dice`."""
    o = _overlap(classes, label, num_classes, include_background)
    return o.both / _nan_if_zero(o.certified + o.truth - o.both)


def worst_case_iou(
    classes: torch.Tensor, label: torch.Tensor, num_classes: int = 2, include_background: bool = False
) -> torch.Tensor:
    """Smallest intersection over union of any labeling of the abstaining pixels; NaN as in `worst_case_dice`."""
    o = _overlap(classes, label, num_classes, include_background)
    present = _nan_if_zero(o.certified + o.truth - o.both)
    return o.both / (present + o.abstain_outside)


class _OverlapMetric(ReducedMetric):
    """MONAI metric over one of the functions above.

    Args:
        num_classes: number of classes, background included.
        include_background: count class 0 too.
        reduction: MONAI's reduction over images and classes; the default is the mean over the classes of an image, then
            over images, NaN left out.
    """

    def __init__(
        self,
        num_classes: int = 2,
        include_background: bool = False,
        reduction: MetricReduction | str = MetricReduction.MEAN,
    ) -> None:
        super().__init__(include_background, reduction)
        self.num_classes = num_classes


class CertifiedDiceMetric(_OverlapMetric):
    """MONAI twin of `certified_dice`: call with (y_pred, y), the label maps (B, 1, *spatial)."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return certified_dice(y_pred, y, self.num_classes, self.include_background)


class WorstCaseDiceMetric(_OverlapMetric):
    """MONAI twin of `worst_case_dice`: call with (y_pred, y), the label maps (B, 1, *spatial)."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return worst_case_dice(y_pred, y, self.num_classes, self.include_background)


class CertifiedIoUMetric(_OverlapMetric):
    """MONAI twin of `certified_iou`: call with (y_pred, y), the label maps (B, 1, *spatial)."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return certified_iou(y_pred, y, self.num_classes, self.include_background)


class WorstCaseIoUMetric(_OverlapMetric):
    """MONAI twin of `worst_case_iou`: call with (y_pred, y), the label maps (B, 1, *spatial)."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return worst_case_iou(y_pred, y, self.num_classes, self.include_background)


def _overlap(classes: torch.Tensor, label: torch.Tensor, num_classes: int, include_background: bool) -> _Overlap:
    if classes.shape != label.shape or classes.ndim < 3 or classes.shape[1] != 1:
        raise ValueError(
            f"certified classes and truth must be label maps (B, 1, *spatial) of one shape, got {tuple(classes.shape)} "
            f"and {tuple(label.shape)}"
        )
    in_range = (classes >= ABSTAIN) & (classes < num_classes) & (label >= 0) & (label < num_classes)
    if not bool(in_range.all()):
        raise ValueError(f"label maps hold classes outside 0..{num_classes - 1}, or NaN")
    certified_map, true_map = classes.flatten(1), label.flatten(1)
    abstain = certified_map == ABSTAIN
    counts = []
    for c in range(0 if include_background else 1, num_classes):
        certified, truth = certified_map == c, true_map == c
        sets = (certified & truth, certified, truth, abstain & ~truth)
        counts.append(torch.stack([s.sum(1) for s in sets]))
    return _Overlap(*torch.stack(counts, dim=2).float())


def _nan_if_zero(denominator: torch.Tensor) -> torch.Tensor:
    return torch.where(denominator > 0, denominator, torch.nan)
