# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Bounds of convolutions against the singular values of their matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from monai_cert.networks import spectral
from monai_cert.networks.spectral import absolute_norm, convolution_norm, polyphase

Layer = nn.Conv2d | nn.ConvTranspose2d

# Kernels, strides, paddings and sizes of images.
SHAPES = [
    *[(2, 3, 3, 1, 1, 8), (3, 2, 3, 1, 1, 7), (1, 1, 5, 1, 2, 12), (2, 2, 2, 2, 0, 8), (2, 2, 3, 2, 1, 8)],
    *[(4, 1, 1, 1, 0, 4), (1, 4, 4, 4, 0, 8), (2, 2, 3, 1, 0, 9)],
]


def matrix(layer: Layer, side: int) -> torch.Tensor:
    """The layer without its bias as a dense matrix, column by column."""
    channels = layer.in_channels
    basis = torch.eye(channels * side * side, dtype=torch.float64).reshape(-1, channels, side, side)
    with torch.no_grad():
        return layer.double()(basis).flatten(1).T


def norm(layer: Layer, side: int) -> float:
    return float(torch.linalg.matrix_norm(matrix(layer, side), 2))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_a_bound_is_above_the_largest_singular_value_and_near_it(shape: tuple[int, ...], seed: int) -> None:
    inputs, outputs, size, stride, padding, side = shape
    torch.manual_seed(seed)
    layer = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
    bound, exact = convolution_norm(layer.weight, stride), norm(layer, side)
    assert exact <= bound
    larger = norm(layer, 4 * side) if side <= 8 and inputs <= 2 else exact
    assert larger <= bound
    # Borders take away from small images what the bound, which is for all sizes, must allow.
    assert bound <= 1.35 * larger


@pytest.mark.parametrize("seed", range(3))
def test_with_circular_padding_the_bound_is_the_exact_norm(seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular", bias=False)
    exact = max(norm(layer, side) for side in (8, 12, 16))
    assert exact <= convolution_norm(layer.weight) <= 1.03 * exact


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 1, 1), (4, 2, 1)])
def test_a_transposed_convolution_has_the_norm_of_its_adjoint(size: int, stride: int, padding: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(3, 2, size, stride, padding, bias=False)
    exact = norm(layer, 8)
    assert exact <= convolution_norm(layer.weight, stride) <= 1.2 * exact


@pytest.mark.parametrize("channels", [1, 8, 32])
def test_an_orthogonal_kernel_is_seen_to_be_one(channels: int) -> None:
    torch.manual_seed(0)
    kernel = nn.init.orthogonal_(torch.empty(channels, channels, dtype=torch.float64))[:, :, None, None]
    shifted = nn.functional.pad(kernel, (2, 0, 0, 2))
    assert 1 <= convolution_norm(shifted) <= 1 + 1e-7


def test_a_bound_holds_between_the_points_of_its_grid() -> None:
    # cos(4 w) is 1 at all eight points of the coarsest grid and -1 between them.
    kernel = torch.zeros(1, 1, 1, 9, dtype=torch.float64)
    kernel[0, 0, 0, [0, 8]], kernel[0, 0, 0, 4] = -0.5, 1.0
    assert 2 <= convolution_norm(kernel) <= 2.2


def test_phases_hold_all_of_the_kernel() -> None:
    kernel = torch.randn(2, 3, 3, 3)
    phases = polyphase(kernel, 2)
    assert phases.shape == (2, 12, 2, 2)
    assert phases.square().sum() == pytest.approx(kernel.square().sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_norm_of_absolute_values_is_bounded(seed: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    bound = absolute_norm(layer.weight)
    with torch.no_grad():
        layer.weight.abs_()
    assert norm(layer, 8) <= bound


def power_iteration(matrices: torch.Tensor) -> float:
    """A lower bound, as spectral normalization takes it."""
    v = torch.ones(matrices.shape[-1], 1, dtype=matrices.dtype)
    v = v / v.norm()
    for _ in range(2):
        v = matrices @ v
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-12)
    return float(torch.linalg.vector_norm(matrices @ v, dim=1).max())


def test_a_lower_bound_in_place_of_the_upper_one_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "_hermitian_norm", power_iteration)
    below = 0
    for seed in range(10):
        torch.manual_seed(seed)
        layer = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False)
        below += convolution_norm(layer.weight) < norm(layer, 16)
    assert below > 0


def test_a_reshaped_kernel_is_not_the_convolution() -> None:
    kernel = torch.full((1, 1, 3, 3), 1 / 3)
    assert float(torch.linalg.matrix_norm(kernel.reshape(1, 9), 2)) == pytest.approx(1)
    assert convolution_norm(kernel) >= 3 - 1e-6


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        convolution_norm(torch.full((1, 1, 3, 3), value))
