# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Denoising first and segmenting then is the composition of the two, whoever composes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import DiffusionModelUNet, UNet
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from monai_cert.denoising.adapters import monai_denoiser
from monai_cert.denoising.denoiser import DiffusionDenoiser
from monai_cert.inferers.denoise import DenoisedNetwork, DiffusionDenoiseInferer

SIGMA = 0.25


@pytest.fixture(scope="module")
def denoiser() -> DiffusionDenoiser:
    torch.manual_seed(0)
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(8, 8),
        attention_levels=(False, False),
        num_res_blocks=1,
        norm_num_groups=4,
    )
    # MONAI starts the last convolution at zero, and a network that predicts zero tests nothing.
    nn.init.normal_(network.out[2].conv.weight, std=0.3)
    scheduler = DDPMScheduler(num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02)
    return monai_denoiser(network, scheduler).eval()


@pytest.fixture(scope="module")
def segmenter() -> nn.Module:
    torch.manual_seed(1)
    return UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,)).eval()


@pytest.fixture
def noisy() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 1, 32, 32, generator=generator) + SIGMA * torch.randn(2, 1, 32, 32, generator=generator)


@torch.no_grad()
def test_inferer_and_network_and_composition_by_hand_agree(
    denoiser: DiffusionDenoiser, segmenter: nn.Module, noisy: torch.Tensor
) -> None:
    by_hand = segmenter(denoiser(noisy, SIGMA))
    assert torch.equal(DiffusionDenoiseInferer(denoiser, SIGMA)(noisy, segmenter), by_hand)
    assert torch.equal(DenoisedNetwork(denoiser, segmenter, SIGMA)(noisy), by_hand)
    assert not torch.allclose(segmenter(noisy), by_hand, atol=1e-3)


@torch.no_grad()
def test_a_sliding_window_runs_over_the_denoised_image(
    denoiser: DiffusionDenoiser, segmenter: nn.Module, noisy: torch.Tensor
) -> None:
    window = SlidingWindowInferer(roi_size=(16, 16), sw_batch_size=3, overlap=0.25, progress=False)
    out = DiffusionDenoiseInferer(denoiser, SIGMA, inferer=window)(noisy, segmenter)
    assert torch.equal(out, window(denoiser(noisy, SIGMA), segmenter))
    denoised_in_pieces = window(noisy, DenoisedNetwork(denoiser, segmenter, SIGMA))
    assert not torch.allclose(out, denoised_in_pieces, atol=1e-4)


@torch.no_grad()
def test_further_arguments_reach_the_network(denoiser: DiffusionDenoiser, noisy: torch.Tensor) -> None:
    def shifted(x: torch.Tensor, shift: float, *, scale: float) -> torch.Tensor:
        return scale * (x + shift)

    out = DiffusionDenoiseInferer(denoiser, SIGMA)(noisy, shifted, 1.0, scale=3.0)
    torch.testing.assert_close(out, 3.0 * (denoiser(noisy, SIGMA) + 1.0))


@torch.no_grad()
def test_metadata_does_not_change_the_result(
    denoiser: DiffusionDenoiser, segmenter: nn.Module, noisy: torch.Tensor
) -> None:
    inferer = DiffusionDenoiseInferer(denoiser, SIGMA)
    out = inferer(inputs=MetaTensor(noisy), network=segmenter)
    torch.testing.assert_close(torch.Tensor(out), inferer(noisy, segmenter), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_inputs_stay_as_they_were(denoiser: DiffusionDenoiser, segmenter: nn.Module, noisy: torch.Tensor) -> None:
    before = noisy.clone()
    DiffusionDenoiseInferer(denoiser, SIGMA)(noisy, segmenter)
    assert torch.equal(noisy, before)


@pytest.mark.parametrize("sigma", [0.0, -0.25, 500.0])
def test_a_sigma_outside_the_schedule_is_refused_at_construction(
    denoiser: DiffusionDenoiser, segmenter: nn.Module, sigma: float
) -> None:
    makers: tuple[Callable[[], object], ...] = (
        lambda: DiffusionDenoiseInferer(denoiser, sigma),
        lambda: DenoisedNetwork(denoiser, segmenter, sigma),
    )
    for make in makers:
        with pytest.raises(ValueError, match="must lie in"):
            make()
