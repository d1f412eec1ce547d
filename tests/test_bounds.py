# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The unit of sigma: pixel values to [-1, 1] and back, and images that are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_cert.bounds import Bounds

SOME = [Bounds(), Bounds(-1, 1), Bounds(0, 255), Bounds(-1000, 3000)]


@pytest.mark.parametrize("ends", [(1, 0), (0, 0), (math.nan, 1), (0, math.inf), (-math.inf, 0)])
def test_bounds_are_finite_and_rise(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="finite with lower < upper"):
        Bounds(*ends)


@pytest.mark.parametrize("bounds", SOME)
def test_symmetric_is_from_minus_one_to_one_and_back(bounds: Bounds) -> None:
    assert bounds.to_symmetric(bounds.lower) == -1
    assert bounds.to_symmetric(bounds.upper) == 1
    pixels = torch.linspace(2 * bounds.lower - bounds.upper, 2 * bounds.upper - bounds.lower, 31, dtype=torch.float64)
    torch.testing.assert_close(bounds.from_symmetric(bounds.to_symmetric(pixels)), pixels)
    assert bounds.to_symmetric(pixels).max() == pytest.approx(3), "values outside are mapped on, not clipped"


@pytest.mark.parametrize("bounds", SOME)
def test_symmetric_scale_is_that_of_differences(bounds: Bounds) -> None:
    a, b = bounds.lower + 0.25, bounds.lower + 0.75
    assert bounds.to_symmetric(b) - bounds.to_symmetric(a) == pytest.approx(0.5 * bounds.symmetric_scale)


def test_image_within_the_bounds_passes() -> None:
    Bounds().check(np.array([0.0, 1.0, 0.5]), "image")
    Bounds().check(np.array([-1e-6, 1 + 1e-6]), "image resampled in float32")
    Bounds(0, 255).check(np.zeros((0, 3)), "nothing")


@pytest.mark.parametrize("pixels", [[math.nan, 0.5], [math.inf, 0.5]])
def test_pixels_that_are_no_numbers_are_refused(pixels: list[float]) -> None:
    with pytest.raises(ValueError, match=r"scan\.png has pixels that are NaN or infinite"):
        Bounds().check(np.array(pixels), "scan.png")


@pytest.mark.parametrize("pixels", [[-0.001, 0.5], [0.5, 1.001], [0.0, 255.0]])
def test_pixels_outside_are_refused_with_both_ranges(pixels: list[float]) -> None:
    found = rf"scan\.png has pixel values from {pixels[0]:g} to {pixels[1]:g}, outside the bounds \[0, 1\]"
    with pytest.raises(ValueError, match=found):
        Bounds().check(np.array(pixels), "scan.png")
