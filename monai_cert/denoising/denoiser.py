# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""One-step denoising with a diffusion model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from monai_cert.bounds import Bounds
from monai_cert.denoising.schedule import NoiseSchedule

__all__ = ["PREDICTIONS", "DiffusionDenoiser"]

PREDICTIONS = ("epsilon", "sample", "v_prediction")


class DiffusionDenoiser(nn.Module):
    """Estimates the clean image behind ``x + sigma e`` with a single call of a diffusion network.

    The image goes to [-1, 1], where the noise has standard deviation ``sigma * bounds.symmetric_scale``; the timestep
    of that level gives the scaling (Carlini et al. 2023, algorithm 1); the network's prediction gives x_0, which is
    clamped to [-1, 1] and mapped back. Sides that ``divisor`` does not divide are padded by reflection before and
    cropped after; a one-channel image enters a many-channel network by repetition (after the noise, so the
    certificate stays one about the grey image) and leaves it as the mean over channels.

    A poor denoiser, or a poor timestep, costs accuracy and never soundness: it is part of the function being smoothed.

    Args:
        network: ``network(x, timesteps)`` with x (B, channels, *spatial) and timesteps (B,) gives
            (B, channels, *spatial), or twice the channels where the variance was learned (the second half is dropped).
        schedule: the schedule that the network was trained with.
        prediction: what the network predicts: one of `PREDICTIONS`.
        channels: image channels that the network takes.
        divisor: number that every spatial side must be a multiple of for this network.
        bounds: pixel values of the images, and the unit of sigma.

    Raises:
        ValueError: for an unknown prediction type, or channels or divisor below 1.

    References:
        Carlini et al. 2023, (Certified!!) Adversarial Robustness for Free!, ICLR.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        *,
        prediction: str = "epsilon",
        channels: int = 1,
        divisor: int = 1,
        bounds: Bounds = Bounds(),
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")
        if channels < 1 or divisor < 1:
            raise ValueError(f"channels and divisor must be at least 1, got {channels} and {divisor}")
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        self.channels = channels
        self.divisor = divisor
        self.bounds = bounds

    def timestep(self, sigma: float) -> int:
        """Timestep of the noise level ``sigma``, in the units of ``bounds``.

        Raises:
            ValueError: if sigma lies outside the noise schedule.
        """
        scale = self.bounds.symmetric_scale
        if not 0 < sigma * scale <= self.schedule.sigma_max:
            raise ValueError(
                f"sigma must lie in (0, {self.schedule.sigma_max / scale:g}] for this denoiser, got {sigma:g}"
            )
        return self.schedule.timestep(sigma * scale)

    def forward(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        """Denoise a batch.

        Args:
            noisy: (B, C, *spatial) images plus noise, in the units of ``bounds``; C is 1 or ``channels``.
            sigma: standard deviation of the noise, in the units of ``bounds``.

        Returns:
            (B, C, *spatial) images within ``bounds``.

        Raises:
            ValueError: for a number of channels that the network cannot take, or sigma outside the schedule.
        """
        if noisy.shape[1] not in (1, self.channels):
            raise ValueError(f"the denoiser takes images of 1 or {self.channels} channels, got {noisy.shape[1]}")
        t = self.timestep(sigma)
        signal, noise = self.schedule.scales(t)
        x_t = self.bounds.to_symmetric(noisy) * signal
        timesteps = torch.full((x_t.shape[0],), t, dtype=torch.long, device=x_t.device)
        x_0 = self._clean(self._predict(x_t, timesteps), x_t, signal, noise)
        return self.bounds.from_symmetric(x_0.clamp(-1.0, 1.0))

    def _predict(self, x_t: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Call the network with its own number of channels and a size that it divides; undo both on the way out."""
        channels, sides = x_t.shape[1], x_t.shape[2:]
        expanded = x_t.expand(-1, self.channels, *sides) if channels != self.channels else x_t
        prediction: torch.Tensor = self.network(pad_to_multiple(expanded, self.divisor), timesteps)
        if prediction.shape[1] not in (self.channels, 2 * self.channels):
            raise ValueError(
                f"the denoising network gave {prediction.shape[1]} channels where {self.channels}, or twice that with "
                "a learned variance, were expected"
            )
        inside = (slice(None), slice(self.channels)) + tuple(slice(side) for side in sides)
        prediction = prediction[inside]
        if channels == 1 != self.channels:
            prediction = prediction.mean(1, keepdim=True)
        return prediction

    def _clean(self, prediction: torch.Tensor, x_t: torch.Tensor, signal: float, noise: float) -> torch.Tensor:
        if self.prediction == "epsilon":
            return (x_t - noise * prediction) / signal
        if self.prediction == "sample":
            return prediction
        return signal * x_t - noise * prediction


def pad_to_multiple(x: torch.Tensor, divisor: int) -> torch.Tensor:
    """Pad the end of every spatial side of (B, C, *spatial) to a multiple of divisor, by reflection if it can."""
    extra = [-side % divisor for side in x.shape[2:]]
    if not any(extra):
        return x
    mode = "reflect" if all(e < side for e, side in zip(extra, x.shape[2:], strict=True)) else "replicate"
    pad = [amount for e in reversed(extra) for amount in (0, e)]
    return F.pad(x, pad, mode=mode)
