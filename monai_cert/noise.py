# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The smoothing noise: reproducible draws, and the radius that a majority under it proves."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from monai_cert.statistics.binomial import certified_radius

__all__ = ["GaussianNoise", "draw_seeds", "image_key"]


@dataclass(frozen=True)
class GaussianNoise:
    """Isotropic Gaussian noise e ~ N(0, sigma^2 I), added to every element of an image and never clipped.

    Args:
        sigma: standard deviation, in the units of the image's `Bounds`.

    Raises:
        ValueError: unless sigma is positive and finite.

    References:
        Cohen, Rosenfeld, Kolter 2019, Certified Adversarial Robustness via Randomized Smoothing, ICML.
    """

    sigma: float
    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"sigma must be positive and finite, got {self.sigma}")

    def perturb(self, image: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Draw noisy copies of an image.

        The noise is a function of the seed and the image's shape alone: it is drawn on the CPU, one generator a
        draw (the counter-based Philox, whose streams cannot overlap), so neither batch nor device changes it.

        Args:
            image: (C, *spatial), on any device.
            seeds: one number a draw, see `draw_seeds`.

        Returns:
            (len(seeds), C, *spatial) float32 on the image's device.
        """
        noisy = np.empty((len(seeds), *image.shape), dtype=np.float32)
        for draw, seed in zip(noisy, seeds, strict=True):
            generator = np.random.Generator(np.random.Philox(key=seed >> 64, counter=(seed & (2**64 - 1)) << 192))
            generator.standard_normal(out=draw, dtype=np.float32)
        batch = torch.from_numpy(noisy).to(image.device)
        return batch.mul_(self.sigma).add_(image)

    def radius(self, tau: float) -> float:
        """Radius of the l2 ball on which a class that holds more than tau of the noise stays the majority."""
        return certified_radius(self.sigma, tau)


def image_key(image: torch.Tensor) -> str:
    """SHA-256 of an image's shape and float32 values: names an image by its content, wherever it stands in a batch."""
    pixels = np.ascontiguousarray(image.detach().cpu().float().numpy())
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()


def draw_seeds(seed: int, key: str, draws: Iterable[int]) -> list[int]:
    """Seeds of single draws: 128 bits out of (seed, image key), 64 bits for the number of the draw.

    Args:
        seed: seed of the certificate.
        key: `image_key` of the image.
        draws: numbers of the draws.

    Example:
        >>> draw_seeds(0, "a", [0, 1])[0] != draw_seeds(0, "b", [0, 1])[0]
        True
    """
    stream = int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:16], "big")
    return [(stream << 64) | draw for draw in draws]
