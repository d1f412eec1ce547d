# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The denoising transforms are the denoiser, image by image, in the type that the image came in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_cert.bounds import Bounds
from monai_cert.denoising.denoiser import DiffusionDenoiser
from monai_cert.denoising.schedule import NoiseSchedule
from monai_cert.transforms.array import DenoiseImage
from monai_cert.transforms.dictionary import DenoiseImaged

SIGMA = 64.0


@pytest.fixture(scope="module")
def denoiser() -> DiffusionDenoiser:
    class Blur(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return self.convolution(x)

    return DiffusionDenoiser(Blur(), NoiseSchedule.linear(), divisor=4, bounds=Bounds(0, 255)).eval()


@pytest.fixture
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 255 * torch.rand(1, 10, 13, generator=generator) + SIGMA * torch.randn(1, 10, 13, generator=generator)


def expected(denoiser: DiffusionDenoiser, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return denoiser(image[None], SIGMA)[0]


def test_the_transform_is_the_denoiser(denoiser: DiffusionDenoiser, image: torch.Tensor) -> None:
    out = DenoiseImage(denoiser, SIGMA)(image)
    assert torch.equal(out, expected(denoiser, image))
    assert not out.requires_grad


def test_the_image_keeps_its_type_and_metadata(denoiser: DiffusionDenoiser, image: torch.Tensor) -> None:
    transform = DenoiseImage(denoiser, SIGMA)
    array = transform(image.numpy())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, expected(denoiser, image).numpy())
    meta = transform(MetaTensor(image, meta={"filename_or_obj": "a.png"}))
    assert isinstance(meta, MetaTensor)
    assert meta.meta["filename_or_obj"] == "a.png"
    assert torch.equal(meta.as_tensor(), expected(denoiser, image))


def test_any_type_of_pixels_comes_out_as_float32(denoiser: DiffusionDenoiser, image: torch.Tensor) -> None:
    for given in (image.double(), image.numpy().astype(np.float64), image.clamp(0, 255).byte()):
        out = DenoiseImage(denoiser, SIGMA)(given)
        assert out.dtype in (torch.float32, np.float32)


def test_the_dictionary_twin_denoises_its_keys_and_nothing_else(
    denoiser: DiffusionDenoiser, image: torch.Tensor
) -> None:
    data = {"image": image, "other": image + 1, "name": "a"}
    out = DenoiseImaged(["image", "absent"], denoiser, SIGMA, allow_missing_keys=True)(data)
    assert torch.equal(out["image"], expected(denoiser, image))
    assert torch.equal(out["other"], image + 1)
    assert out["name"] == "a"
    assert data["image"] is image
    with pytest.raises(KeyError):
        DenoiseImaged("absent", denoiser, SIGMA)(data)


@pytest.mark.parametrize("sigma", [0.0, -1.0, 1e5])
def test_a_sigma_outside_the_schedule_is_refused_at_construction(denoiser: DiffusionDenoiser, sigma: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        DenoiseImage(denoiser, sigma)
    with pytest.raises(ValueError, match="must lie in"):
        DenoiseImaged("image", denoiser, sigma)
