# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Denoise first, then segment: any network survives the smoothing noise."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from monai_cert.denoising.denoiser import DiffusionDenoiser

__all__ = ["DenoisedNetwork", "DiffusionDenoiseInferer"]


class DiffusionDenoiseInferer(Inferer):
    """Removes Gaussian noise of a known level with a diffusion model, then runs any inferer on any network.

    Args:
        denoiser: the denoiser, in evaluation mode.
        sigma: standard deviation of the noise on the inputs, in the units of the denoiser's bounds; the same number as
            in ``GaussianNoise(sigma)``. Another value costs accuracy, not soundness.
        inferer: what runs the network on the denoised images; MONAI's ``SimpleInferer`` if None.

    Raises:
        ValueError: if sigma lies outside the denoiser's noise schedule.

    Example:
        ``CertificationInferer(GaussianNoise(0.25), inferer=DiffusionDenoiseInferer(denoiser, sigma=0.25))``

    References:
        Carlini et al. 2023, (Certified!!) Adversarial Robustness for Free!, ICLR;
        Laousy et al. 2023, Certification of Deep Learning Models for Medical Image Segmentation, MICCAI.
    """

    def __init__(self, denoiser: DiffusionDenoiser, sigma: float, inferer: Inferer | None = None) -> None:
        super().__init__()
        denoiser.timestep(sigma)  # refuses what the schedule cannot reach
        self.denoiser = denoiser
        self.sigma = sigma
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Denoise inputs (B, C, *spatial) and return what the inner inferer makes of them with the network."""
        return self.inferer(self.denoiser(inputs, self.sigma), network, *args, **kwargs)


class DenoisedNetwork(nn.Module):
    """Denoiser and network as one module with one tensor in and one out, for export and for tools that want that.

    Args:
        denoiser: the denoiser.
        network: the network that sees denoised images.
        sigma: standard deviation of the noise on the inputs, in the units of the denoiser's bounds.
    """

    def __init__(self, denoiser: DiffusionDenoiser, network: nn.Module, sigma: float) -> None:
        super().__init__()
        denoiser.timestep(sigma)  # refuses what the schedule cannot reach
        self.denoiser = denoiser
        self.network = network
        self.sigma = sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of noisy images x (B, C, *spatial)."""
        logits: torch.Tensor = self.network(self.denoiser(x, self.sigma))
        return logits
