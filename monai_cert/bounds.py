# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The interval of pixel values, and with it the unit of every sigma and radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Bounds"]

Array = TypeVar("Array")

# Resampling in float32 may leave the range by rounding; this share of it is let pass.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Bounds:
    """The pixel values that an image may take; the unit of ``sigma`` and ``radius``.

    A standard deviation of 0.25 means nothing until one says of what: with ``Bounds(0, 1)`` it is a quarter of the
    range from black to white, with ``Bounds(0, 255)`` an invisible thousandth of it.

    Args:
        lower: value of black.
        upper: value of white.

    Raises:
        ValueError: unless both are finite and ``lower < upper``.

    Example:
        >>> Bounds(0, 1).to_symmetric(0.75)
        0.5
        >>> Bounds(0, 255).symmetric_scale
        0.00784313725490196
    """

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise ValueError(f"bounds must be finite with lower < upper, got ({self.lower}, {self.upper})")

    @property
    def symmetric_scale(self) -> float:
        """Factor by which a difference of pixel values grows on the way to [-1, 1]."""
        return 2.0 / (self.upper - self.lower)

    def to_symmetric(self, x: Array) -> Array:
        """Map ``[lower, upper]`` to [-1, 1], the range of diffusion models; values outside are not clipped."""
        return (x - self.lower) * self.symmetric_scale - 1.0  # type: ignore[operator, return-value]  # numpy or torch

    def from_symmetric(self, x: Array) -> Array:
        """Inverse of `to_symmetric`."""
        return (x + 1.0) / self.symmetric_scale + self.lower  # type: ignore[operator, return-value]  # numpy or torch

    def check(self, image: npt.NDArray[np.floating], name: str) -> None:
        """Refuse an image that has values outside the bounds or that are not finite.

        Args:
            image: pixel values, any shape.
            name: what to call the image in the message, usually its path.

        Raises:
            ValueError: with one sentence that says which values were found and which were expected.
        """
        if not np.isfinite(image).all():
            raise ValueError(f"{name} has pixels that are NaN or infinite; repair or leave out the image")
        slack = ROUNDING * (self.upper - self.lower)
        if image.size and (image.min() < self.lower - slack or image.max() > self.upper + slack):
            raise ValueError(
                f"{name} has pixel values from {image.min():g} to {image.max():g}, outside the bounds "
                f"[{self.lower:g}, {self.upper:g}]; rescale it by a fixed range (--intensity-range LOW HIGH)"
            )
