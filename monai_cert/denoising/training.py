# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Pieces for training a denoising network with MONAI's ``SupervisedTrainer`` and ``DiffusionInferer``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines.utils import DiffusionPrepareBatch
from torch import nn

from monai_cert.denoising.adapters import DiffusersNetwork
from monai_cert.denoising.schedule import NoiseSchedule

__all__ = ["FocusedDiffusionPrepareBatch", "SaveDiffusersFolder"]


class FocusedDiffusionPrepareBatch(DiffusionPrepareBatch):
    """MONAI's ``DiffusionPrepareBatch`` with most timesteps drawn from the ones that certification uses.

    Args:
        num_train_timesteps: steps of the schedule.
        focus: first and last timestep of the range to prefer; with the linear schedule, 30 to 500 covers
            sigma .05 to 1.7 on images in [0, 1].
        share: share of the draws that come from that range; the others are uniform over the whole schedule, so that
            the network remains one for every sigma.
        prediction: what the network learns to predict, ``epsilon`` (the noise) or ``sample`` (the image). A network
            with fewer features than its unshuffled pixels have channels cannot hold their noise, but the image it can.

    Raises:
        ValueError: if the range does not lie in the schedule, the share not in [0, 1], or for another prediction.
    """

    def __init__(
        self,
        num_train_timesteps: int,
        focus: tuple[int, int] = (30, 500),
        share: float = 0.8,
        prediction: str = "epsilon",
    ) -> None:
        super().__init__(num_train_timesteps=num_train_timesteps)
        if prediction not in ("epsilon", "sample"):
            raise ValueError(f"prediction must be epsilon or sample, got {prediction!r}")
        if not 0 <= focus[0] <= focus[1] < num_train_timesteps or not 0 <= share <= 1:
            raise ValueError(
                f"focus {tuple(focus)} must lie in 0..{num_train_timesteps - 1} and share {share} in [0, 1]"
            )
        self.focus = focus
        self.share = share
        self.prediction = prediction

    def get_target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What the prediction is compared with, of the shape of the images."""
        return noise if self.prediction == "epsilon" else images

    def get_timesteps(self, images: torch.Tensor) -> torch.Tensor:
        """Draw (B,) timesteps."""
        shape, (low, high) = (images.shape[0],), self.focus
        anywhere = torch.randint(0, self.num_train_timesteps, shape, device=images.device)
        focused = torch.randint(low, high + 1, shape, device=images.device)
        return torch.where(torch.rand(shape, device=images.device) < self.share, focused, anywhere)


class SaveDiffusersFolder:
    """Handler that keeps an exponential moving average of the weights and saves it as a diffusers folder every epoch.

    Args:
        network: the network in training.
        scheduler: the MONAI scheduler it is trained with, of the linear schedule.
        folder: where `config.json`, `scheduler_config.json` and the safetensors go.
        momentum: weight of the newest parameters in the average.

    Raises:
        ValueError: if the scheduler's table is not that of a linear schedule.
    """

    def __init__(
        self, network: DiffusersNetwork, scheduler: nn.Module, folder: str | Path, momentum: float = 1e-3
    ) -> None:
        self.ema = EMAHandler(network, momentum=momentum, momentum_warmup=0.05, warmup_iters=500)
        self.scheduler = _linear_scheduler(scheduler)
        self.folder = Path(folder)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        self.ema.attach(engine, event=Events.ITERATION_COMPLETED)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Engine | None = None) -> None:
        """Write the averaged network and the schedule."""
        self.ema.ema_model.model.save_pretrained(self.folder)
        self.scheduler.save_pretrained(self.folder)


def _linear_scheduler(scheduler: nn.Module) -> DDPMScheduler:
    """The diffusers scheduler of a MONAI one."""
    table = NoiseSchedule.of_scheduler(scheduler).alphas_cumprod
    first, last = float(1.0 - table[0]), float(1.0 - table[-1] / table[-2])
    if not np.allclose(NoiseSchedule.linear(len(table), first, last).alphas_cumprod, table, rtol=1e-4, atol=1e-7):
        raise ValueError("the denoiser's scheduler must have a linear schedule (schedule='linear_beta')")
    return DDPMScheduler(
        num_train_timesteps=len(table),
        beta_start=first,
        beta_end=last,
        beta_schedule="linear",
        prediction_type=str(scheduler.prediction_type),
    )
