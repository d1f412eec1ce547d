# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The loss that trades accuracy for margins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ["TemperatureCrossEntropyLoss"]


class TemperatureCrossEntropyLoss(nn.Module):
    """Cross-entropy of logits multiplied by a temperature.

    The logits of a network of Lipschitz constant 1 are small, so that plain cross-entropy would be far from its minimum
    at every pixel and push for margins alone. A higher temperature pushes for accuracy. One channel z is taken for the
    two logits ``(-z, z) / sqrt(2)``, of the same certified radius, so that a temperature means the same to both.

    Args:
        temperature: positive; 8 for Kvasir-SEG in the paper.
        class_weights: a weight a class, for classes of few pixels: the loss is the mean weighted by that of the true
            class, as in ``torch.nn.CrossEntropyLoss``. All alike if None.

    Raises:
        ValueError: if a number is not positive and finite; on a call, if the shapes do not fit.

    Example:
        >>> logits, label = torch.tensor([[[0.2, -0.1]]]), torch.tensor([[[1, 0]]])
        >>> pair = torch.cat([-logits, logits], dim=1) / 2**0.5
        >>> loss = TemperatureCrossEntropyLoss(8.0)
        >>> torch.isclose(loss(logits, label), loss(pair, label)).item()
        True

    References:
        Massena, Friedrich, Mamalet, Serrurier 2025, Fast and Flexible Robustness Certificates for Semantic
        Segmentation.
    """

    class_weights: torch.Tensor | None

    def __init__(self, temperature: float = 8.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        for name, number in [("temperature", temperature), *(("weight of a class", w) for w in class_weights or ())]:
            if not (math.isfinite(number) and number > 0):
                raise ValueError(f"the {name} must be positive and finite, got {number:g}")
        self.temperature = temperature
        self.register_buffer("class_weights", None if class_weights is None else torch.tensor(class_weights).float())

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Mean loss of logits (B, C, *spatial) and true label maps (B, 1, *spatial)."""
        if label.shape != (logits.shape[0], 1, *logits.shape[2:]):
            raise ValueError(
                f"label must be (B, 1, *spatial) beside logits {tuple(logits.shape)}, got {tuple(label.shape)}"
            )
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        if weights is not None and len(weights) != max(2, logits.shape[1]):
            raise ValueError(f"class_weights must be one a class, {max(2, logits.shape[1])}, got {len(weights)}")
        if logits.shape[1] == 1:
            scaled = logits * (self.temperature * math.sqrt(2))
            of_pixels = torch.ones_like(logits) if weights is None else weights[label.long()]
            total = functional.binary_cross_entropy_with_logits(
                scaled, label.to(logits.dtype), of_pixels, reduction="sum"
            )
            return total / of_pixels.sum()
        return functional.cross_entropy(logits * self.temperature, label[:, 0].long(), weights)
