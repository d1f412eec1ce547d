# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Layers that neither amplify a change of their input nor lose one, beside convolutions."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["ClassScale", "MaxMin", "PixelStandardization", "SizedSequential", "SplitSkip"]


class MaxMin(nn.Module):
    """Larger and smaller of the first and second half of the channels: a permutation of two numbers, hence of norm 1.

    Sorting halves instead of neighboring channels needs no strided memory, several times faster on a CPU.

    References:
        Anil, Lucas, Grosse 2019, Sorting Out Lipschitz Function Approximation, ICML.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activate x (B, C, *spatial), C even."""
        first, second = _halves(x)
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)


class PixelStandardization(nn.Module):
    """(x - mean) / std with one mean and one std for all pixels: amplifies every change by 1 / std.

    It is the first layer of a network, if there is one.

    Args:
        mean: gray value that becomes 0.
        std: positive.
    """

    def __init__(self, mean: float = 0.5, std: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"mean must be finite and std positive, got {mean:g} and {std:g}")
        self.mean = mean
        self.std = std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Standardize x (B, C, *spatial)."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """The numbers that make the layer what it is."""
        return f"mean={self.mean!r}, std={self.std!r}"


class ClassScale(nn.Module):
    """Multiplies all logits by one number, and every change of them too.

    Args:
        scale: positive.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"the scale must be positive and finite, got {scale:g}")
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale logits x (B, C, *spatial)."""
        return x * self.scale

    def extra_repr(self) -> str:
        """The number that makes the layer what it is."""
        return f"scale={self.scale!r}"


class SplitSkip(nn.Module):
    """Half of the channels skips what the other half goes through: ``(a, b) -> (a, inner(b))``.

    The two halves are orthogonal, so that the constant is the larger of 1 and that of the inner part. Adding the two
    would cost a factor 2, concatenating the whole input sqrt(2).

    Args:
        inner: keeps the shape of its input.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Transform x (B, C, *spatial), C even."""
        first, second = _halves(x)
        return torch.cat([first, self.inner(second)], dim=1)


class SizedSequential(nn.Sequential):
    """Layers in a row, for images whose sides are multiples of a number.

    Args:
        layers: the layers.
        multiple: of which each side of an image must be one.
    """

    def __init__(self, *layers: nn.Module, multiple: int) -> None:
        super().__init__(*layers)
        self.multiple = multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pass images x (B, C, H, W) through all layers.

        Raises:
            ValueError: if a side is no multiple of `multiple`.
        """
        if x.ndim != 4 or any(side % self.multiple for side in x.shape[2:]):
            raise ValueError(f"images must be (B, C, H, W) with sides of {self.multiple}, got {tuple(x.shape)}")
        for layer in self:
            x = layer(x)
        return x


def _halves(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two halves of the channels; of an odd number one would be taken twice, and count twice."""
    if x.shape[1] % 2:
        raise ValueError(f"the number of channels must be even, got {x.shape[1]}")
    first, second = x.chunk(2, dim=1)
    return first, second
