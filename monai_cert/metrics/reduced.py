# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What metrics of each image and class have in common: how they are brought to one figure."""

from __future__ import annotations

import torch
from monai.metrics import CumulativeIterationMetric, do_metric_reduction
from monai.utils import MetricReduction

__all__ = ["ReducedMetric"]


class ReducedMetric(CumulativeIterationMetric):
    """MONAI metric that gathers figures (B, K) of each image and class, and reduces them in the end.

    Args:
        include_background: count class 0 too.
        reduction: MONAI's reduction over images and classes; the default is the mean over the classes of an image, then
            over images, NaN left out.
    """

    def __init__(
        self, include_background: bool = False, reduction: MetricReduction | str = MetricReduction.MEAN
    ) -> None:
        super().__init__()
        self.include_background = include_background
        self.reduction = reduction

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Reduce what was gathered since the last ``reset``."""
        figure, _ = do_metric_reduction(self.get_buffer(), reduction or self.reduction)
        result: torch.Tensor = figure
        return result
