# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Numbers rounded so that they say no more than was proved: sigma as it was drawn, and decimal text."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

import numpy as np

__all__ = ["as_drawn", "chance", "exactly", "outward", "rounded_down"]

# Holds every digit of every float64.
_CONTEXT = Context(prec=1200)


def as_drawn(sigma: float) -> float:
    """The standard deviation to compute radii with: that of the noise as drawn, where it is the smaller one.

    Noise is float32: standard normal draws times sigma rounded to float32, up to 6e-8 of it below the one given. Radii
    are proportional to sigma, so one in float64 would be larger than the drawn noise supports; where the rounding goes
    up, the smaller one that was given proves a little less than was drawn.

    Args:
        sigma: standard deviation as it was given.

    Raises:
        ValueError: unless sigma is positive and finite, in float32 too.

    Example:
        >>> as_drawn(0.25), as_drawn(0.7), as_drawn(0.1)
        (0.25, 0.699999988079071, 0.1)
    """
    with np.errstate(over="ignore", under="ignore"):
        drawn = float(np.float32(sigma))
    if not (math.isfinite(drawn) and drawn > 0):
        raise ValueError(f"sigma must be positive and finite, in float32 too, got {sigma}")
    return min(float(sigma), drawn)


def chance(alpha: float) -> str:
    """1 - alpha to ten digits, rounded down.

    Example:
        >>> chance(0.001), chance(1e-11)
        ('0.999', '0.9999999999')
    """
    return f"{_decimal(_CONTEXT.subtract(Decimal(1), Decimal(repr(float(alpha)))), 10, up=False).normalize():f}"


def rounded_down(value: float, digits: int = 4) -> str:
    """A finite number to some digits behind the point, rounded down.

    Example:
        >>> rounded_down(0.16865), rounded_down(-0.00001)
        ('0.1686', '-0.0001')
    """
    return f"{_decimal(Decimal(value), digits, up=False):f}"


def outward(value: float, up: bool, digits: int = 5) -> str:
    """A number to some significant digits, rounded up or down.

    Example:
        >>> outward(421.034, up=False), outward(421.034, up=True), outward(float("inf"), up=True)
        ('421.03', '421.04', 'infinity')
    """
    if not math.isfinite(value):
        return "infinity" if value > 0 else "minus infinity"
    exact = Decimal(value)
    places = max(0, digits - 1 - exact.adjusted()) if value else 0
    return f"{_decimal(exact, places, up).normalize(_CONTEXT):f}"


def exactly(value: float) -> str:
    """The shortest decimal text that stands for this number and no other.

    Example:
        >>> exactly(0.9), exactly(255.0), exactly(0.123456789)
        ('0.9', '255', '0.123456789')
    """
    return str(np.format_float_positional(value, trim="-"))


def _decimal(value: Decimal, places: int, up: bool) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-places), ROUND_CEILING if up else ROUND_FLOOR, _CONTEXT)
