# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The noise law: what it refuses, what it returns, and how its draws are numbered."""

from __future__ import annotations

import math

import pytest
import torch

from monai_cert.noise import GaussianNoise, draw_seeds, image_key

IMAGE = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [0.0, -0.1, math.inf, math.nan])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be positive and finite"):
        GaussianNoise(sigma)


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 4), (3, 4, 4), (1, 4, 4, 4)])
def test_draws_of_any_shape(shape: tuple[int, ...]) -> None:
    noisy = GaussianNoise(0.25).perturb(torch.zeros(shape), [1, 2, 3])
    assert noisy.shape == (3, *shape)
    assert noisy.dtype == torch.float32
    assert len(noisy.unique()) == noisy.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.uint8])
def test_noise_is_float32_whatever_the_image_is(dtype: torch.dtype) -> None:
    noisy = GaussianNoise(0.25).perturb(torch.ones(1, 4, dtype=dtype), [5])
    assert torch.equal(noisy, GaussianNoise(0.25).perturb(torch.ones(1, 4), [5]))


def test_image_is_left_as_it_is() -> None:
    image = IMAGE.clone()
    GaussianNoise(0.25).perturb(image, [1])
    assert torch.equal(image, IMAGE)


def test_noise_scales_with_sigma_and_does_not_depend_on_the_image() -> None:
    seeds = draw_seeds(0, "a", range(3))
    one = GaussianNoise(1).perturb(torch.zeros_like(IMAGE), seeds)
    torch.testing.assert_close(GaussianNoise(0.25).perturb(IMAGE, seeds), IMAGE + one / 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_is_the_same_on_every_device() -> None:
    on_gpu = GaussianNoise(0.25).perturb(IMAGE.cuda(), [1, 2])
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), GaussianNoise(0.25).perturb(IMAGE, [1, 2]))


def test_image_key_names_the_content() -> None:
    assert image_key(IMAGE) == image_key(IMAGE.double()) == image_key(IMAGE.clone().requires_grad_())
    assert image_key(IMAGE) == image_key(IMAGE.transpose(1, 2).contiguous().transpose(1, 2))
    assert image_key(IMAGE) != image_key(IMAGE.reshape(2, 4, 5))
    changed = IMAGE.clone()
    changed[0, 0, 0] = torch.nextafter(changed[0, 0, 0], torch.tensor(2.0))
    assert image_key(IMAGE) != image_key(changed)


def test_draw_seeds_are_numbered() -> None:
    seeds = draw_seeds(3, "key", range(5))
    assert draw_seeds(3, "key", [4, 2]) == [seeds[4], seeds[2]]
    assert [seed - seeds[0] for seed in seeds] == [0, 1, 2, 3, 4]
    assert len({draw_seeds(s, k, [0])[0] for s in (0, 1, 2**63) for k in ("a", "b")}) == 6


def test_far_draws_are_different() -> None:
    seeds = draw_seeds(0, "key", [0, 1, 2**32, 2**64 - 1])
    assert len(GaussianNoise(1).perturb(torch.zeros(1, 8), seeds).unique()) == 32


def test_every_bit_of_a_seed_matters() -> None:
    seeds = [0, *(1 << bit for bit in range(192))]
    assert len(GaussianNoise(1).perturb(torch.zeros(1, 4), seeds).unique(dim=0)) == len(seeds)


def test_radius_grows_with_tau_and_sigma() -> None:
    assert GaussianNoise(0.25).radius(0.5) == 0
    assert GaussianNoise(0.25).radius(0.75) == pytest.approx(0.16862, abs=1e-5)
    assert GaussianNoise(0.5).radius(0.75) == pytest.approx(2 * GaussianNoise(0.25).radius(0.75))
    assert GaussianNoise(0.25).radius(0.9) > GaussianNoise(0.25).radius(0.75)
