# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Noise schedules of diffusion models, as the map between a noise level and a timestep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NoiseSchedule"]


class NoiseSchedule:
    r"""The cumulative signal fractions ``alphas_cumprod`` of a variance-preserving diffusion, in float64.

    A diffusion model was trained on ``x_t = sqrt(abar_t) x + sqrt(1 - abar_t) e``. A noisy image ``x + s e`` is the
    same thing up to scale when ``(1 - abar_t) / abar_t = s^2``, so every noise level belongs to a timestep
    (Carlini et al. 2023, section 3).

    Only this table is taken over from a scheduler object: several of them cast their own table to the sample's dtype
    after one call, half precision included.

    Args:
        alphas_cumprod: abar_t for t = 0, 1, ...; strictly falling, inside (0, 1).

    Raises:
        ValueError: if the table is empty, not strictly falling, or leaves (0, 1).

    Example:
        >>> schedule = NoiseSchedule.linear()
        >>> schedule.timestep(2 * 0.25), schedule.timestep(2 * 1.0)
        (144, 396)
    """

    def __init__(self, alphas_cumprod: Sequence[float] | npt.ArrayLike) -> None:
        table = np.array(alphas_cumprod, dtype=np.float64)
        if table.ndim != 1 or table.size == 0 or not ((table > 0) & (table < 1)).all() or (np.diff(table) >= 0).any():
            raise ValueError("alphas_cumprod must be a non-empty, strictly falling sequence inside (0, 1)")
        self.alphas_cumprod: npt.NDArray[np.float64] = table
        self._sigmas = np.sqrt((1.0 - table) / table)

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """The linear schedule of Ho et al. 2020 (DDPM)."""
        return cls(np.cumprod(1.0 - np.linspace(beta_start, beta_end, steps, dtype=np.float64)))

    @classmethod
    def of_scheduler(cls, scheduler: Any) -> NoiseSchedule:
        """Copy the table of a diffusers or MONAI scheduler (anything that has ``alphas_cumprod``)."""
        table = getattr(scheduler, "alphas_cumprod", None)
        if table is None:
            raise ValueError(
                f"{type(scheduler).__name__} has no alphas_cumprod: it is no variance-preserving scheduler"
            )
        return cls(np.asarray(table.detach().cpu().double() if hasattr(table, "detach") else table))

    @property
    def sigma_max(self) -> float:
        """Largest noise level of the schedule, for images in [-1, 1]."""
        return float(self._sigmas[-1])

    def timestep(self, sigma: float) -> int:
        """Timestep whose noise level is nearest to ``sigma``.

        Args:
            sigma: standard deviation of the noise on an image in [-1, 1]; in other bounds multiply by
                `Bounds.symmetric_scale` first.

        Raises:
            ValueError: if sigma is not positive or exceeds `sigma_max`.
        """
        if not 0 < sigma <= self.sigma_max:
            raise ValueError(
                f"sigma on [-1, 1] must lie in (0, {self.sigma_max:g}] for this noise schedule, got {sigma:g}"
            )
        return int(np.argmin(np.abs(self._sigmas - sigma)))

    def scales(self, timestep: int) -> tuple[float, float]:
        """``(sqrt(abar_t), sqrt(1 - abar_t))``: the weights of image and noise in x_t."""
        abar = float(self.alphas_cumprod[timestep])
        return float(np.sqrt(abar)), float(np.sqrt(1.0 - abar))
