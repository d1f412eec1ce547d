# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""How much of an image a certificate covers, and how much of it rightly."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric

from monai_cert.certificate import ABSTAIN

__all__ = ["AbstentionRateMetric", "CertifiedAccuracyMetric", "abstention_rate", "certified_accuracy"]


def abstention_rate(classes: torch.Tensor) -> torch.Tensor:
    """Share of pixels that abstain, (B,), of certified label maps (B, 1, *spatial).

    Example:
        >>> abstention_rate(torch.tensor([[[1, -1, 0, -1]]])).tolist()
        [0.5]
    """
    return (classes == ABSTAIN).flatten(1).float().mean(1)


def certified_accuracy(classes: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Share of pixels whose certified class is the true one, (B,); an abstention counts as wrong.

    With the certificate's probability a lower bound on the pixel accuracy of the smoothed network under every attack
    within the radius.

    Args:
        classes: (B, 1, *spatial) certified label map with ABSTAIN = -1.
        label: (B, 1, *spatial) true label map.

    Raises:
        ValueError: if the shapes differ.
    """
    if classes.shape != label.shape:
        raise ValueError(f"label maps differ in shape: {tuple(classes.shape)} and {tuple(label.shape)}")
    return ((classes == label) & (classes != ABSTAIN)).flatten(1).float().mean(1)


class AbstentionRateMetric(CumulativeIterationMetric):
    """MONAI twin of `abstention_rate`, averaged over images; takes (y_pred, y) as handlers give them and ignores y."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        return abstention_rate(y_pred)[:, None]

    def aggregate(self) -> torch.Tensor:
        """Mean over the images since the last ``reset``."""
        mean: torch.Tensor = self.get_buffer().mean()
        return mean


class CertifiedAccuracyMetric(CumulativeIterationMetric):
    """MONAI twin of `certified_accuracy`, averaged over images: call with (y_pred, y), label maps (B, 1, *spatial)."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return certified_accuracy(y_pred, y)[:, None]

    def aggregate(self) -> torch.Tensor:
        """Mean over the images since the last ``reset``."""
        mean: torch.Tensor = self.get_buffer().mean()
        return mean
