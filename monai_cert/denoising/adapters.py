# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Denoisers out of diffusers and MONAI networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from monai_cert.bounds import Bounds
from monai_cert.denoising.denoiser import DiffusionDenoiser
from monai_cert.denoising.schedule import NoiseSchedule

__all__ = ["DiffusersNetwork", "diffusers_denoiser", "monai_denoiser"]


class DiffusersNetwork(nn.Module):
    """A diffusers ``UNet2DModel`` with the call of MONAI's ``DiffusionModelUNet``: ``network(x, timesteps)``.

    A model that takes ``channels * f * f`` channels works on f-by-f unshuffled pixels: it sees an image of 1/f the
    side, with every f-by-f block of pixels as channels. Unshuffling is a permutation, so white noise stays white under
    it, and the network costs about 1 / f^2.

    Args:
        model: the network, or its configuration (the content of a diffusers ``config.json``) for a fresh one.
        channels: image channels.

    Raises:
        ValueError: if the model's input channels are not ``channels`` times a square number.
    """

    def __init__(self, model: UNet2DModel | Mapping[str, Any], channels: int = 1) -> None:
        super().__init__()
        self.model = UNet2DModel.from_config(dict(model)) if isinstance(model, Mapping) else model
        self.channels = channels
        taken = self.model.config["in_channels"]
        self.unshuffle = round((taken / channels) ** 0.5)
        if self.unshuffle < 1 or self.unshuffle**2 * channels != taken:
            raise ValueError(
                f"a diffusers model with {taken} input channels does not fit images of {channels}: "
                "they must be equal, or differ by a square number (unshuffled pixels)"
            )

    @property
    def divisor(self) -> int:
        """Number that both sides of an image must be a multiple of."""
        return int(self.unshuffle * 2 ** (len(self.model.config["block_out_channels"]) - 1))

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Predict, from x (B, channels, H, W) and timesteps (B,); ``context`` is there for MONAI's call and unused."""
        out: torch.Tensor = self.model(F.pixel_unshuffle(x, self.unshuffle), timesteps, return_dict=False)[0]
        return F.pixel_shuffle(out, self.unshuffle)


def diffusers_denoiser(folder: str | Path, *, channels: int = 1, bounds: Bounds = Bounds()) -> DiffusionDenoiser:
    """Load a denoiser from a local diffusers folder.

    The folder holds a ``UNet2DModel`` (``config.json`` and ``*.safetensors``) and the ``scheduler_config.json`` that it
    was trained with; nothing is downloaded and nothing is unpickled.

    Args:
        folder: the folder.
        channels: image channels of the network (see `DiffusersNetwork` for unshuffled pixels).
        bounds: pixel values of the images to come.

    Returns:
        A denoiser in evaluation mode.

    Raises:
        FileNotFoundError: if one of the three files is missing.
        ValueError: if the weights do not fit the configuration.
    """
    folder = Path(folder)
    for needed in ("config.json", "scheduler_config.json"):
        if not (folder / needed).is_file():
            raise FileNotFoundError(
                f"{folder} has no {needed}; a diffusers folder holds config.json, "
                "scheduler_config.json and *.safetensors"
            )
    if not list(folder.glob("*.safetensors")):
        raise FileNotFoundError(f"{folder} has no *.safetensors weights")
    try:
        model, info = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
        scheduler = DDPMScheduler.from_pretrained(folder, local_files_only=True)
        schedule = NoiseSchedule.of_scheduler(scheduler)
    except (OSError, RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
        raise ValueError(f"the denoiser in {folder} does not load: {str(error).splitlines()[0]}") from error
    if any(info[keys] for keys in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise ValueError(f"the denoiser in {folder} does not load: its weights do not fit its config.json")
    network = DiffusersNetwork(model, channels)
    denoiser = DiffusionDenoiser(
        network,
        schedule,
        prediction=scheduler.config["prediction_type"],
        channels=channels,
        divisor=network.divisor,
        bounds=bounds,
    )
    return denoiser.eval()


def monai_denoiser(network: nn.Module, scheduler: nn.Module, *, bounds: Bounds = Bounds()) -> DiffusionDenoiser:
    """Make a denoiser of a MONAI ``DiffusionModelUNet`` (2-D or 3-D) and its ``DDPMScheduler`` or ``DDIMScheduler``.

    Args:
        network: the trained network.
        scheduler: the scheduler that it was trained with; its table and its prediction type are used.
        bounds: pixel values of the images to come.
    """
    return DiffusionDenoiser(
        network,
        NoiseSchedule.of_scheduler(scheduler),
        prediction=str(scheduler.prediction_type),
        channels=int(network.in_channels),  # type: ignore[arg-type]  # torch types attributes as modules
        divisor=2 ** (len(network.block_out_channels) - 1),  # type: ignore[arg-type]  # torch types attributes as modules
        bounds=bounds,
    )
