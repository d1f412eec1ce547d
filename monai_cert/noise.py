# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The smoothing noise: reproducible draws, and the radius that a majority under it proves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch

from monai_cert.statistics.binomial import certified_radius
from monai_cert.statistics.rounding import as_drawn

__all__ = ["GaussianNoise", "draw_seeds", "image_key", "pixel_uniforms"]


@dataclass(frozen=True)
class GaussianNoise:
    """Isotropic Gaussian noise e ~ N(0, sigma^2 I), added to every element of an image and never clipped.

    Args:
        sigma: standard deviation, in the units of the image's `Bounds`.

    Raises:
        ValueError: unless sigma is positive and finite, in float32 too.

    References:
        Cohen, Rosenfeld, Kolter 2019, Certified Adversarial Robustness via Randomized Smoothing, ICML.
    """

    sigma: float
    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        as_drawn(self.sigma)  # refuses what is out of range

    def perturb(self, image: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Draw noisy copies of an image.

        A draw's noise is a function of its seed and the image's shape, never of the batch. On the CPU it comes from
        numpy's counter-based Philox, whose streams cannot overlap. On other devices it comes from the device's own
        generator: other numbers, which may also differ between models of a device and versions of torch.

        Args:
            image: (C, *spatial), on any device.
            seeds: one number a draw, see `draw_seeds`.

        Returns:
            (len(seeds), C, *spatial) float32 on the image's device, in memory of its own.
        """
        noisy = torch.empty((len(seeds), *image.shape), dtype=torch.float32, device=image.device)
        (_draw_on_cpu if image.device.type == "cpu" else _draw_on_device)(noisy, seeds)
        # Not in one step with alpha=sigma, which may round once where this rounds twice, and not at every element.
        return noisy.mul_(self.sigma).add_(image)

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


def pixel_uniforms(seed: int, key: str, shape: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers on [0, 1), one a pixel, that randomize p-values: fixed by (seed, image key), apart from all draws.

    Args:
        seed: seed of the certificate.
        key: `image_key` of the image.
        shape: (*spatial).
    """
    stream = hashlib.sha256(f"uniforms:{seed}:{key}".encode()).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(stream, "big"))).random(tuple(shape))


def _draw_on_cpu(noise: torch.Tensor, seeds: Sequence[int]) -> None:
    """Fill (len(seeds), ...) with standard normal noise, draw by draw in several threads."""

    def draw(values: np.ndarray[Any, np.dtype[np.float32]], seed: int) -> None:
        generator = np.random.Generator(np.random.Philox(key=seed >> 64, counter=(seed & (2**64 - 1)) << 192))
        generator.standard_normal(out=values, dtype=np.float32)

    threads = torch.get_num_threads()
    several = threads > 1 and len(seeds) > 1
    for _ in (_pool(os.getpid(), threads).map if several else map)(draw, noise.numpy(), seeds):
        pass


def _draw_on_device(noise: torch.Tensor, seeds: Sequence[int]) -> None:
    """Fill (len(seeds), ...) with standard normal noise of the device's generator, without leaving the device."""
    generator = torch.Generator(device=noise.device)
    for values, seed in zip(noise, seeds, strict=True):
        # The generator takes 64 bits of the seed's 192, hashed so that neighboring draws get unrelated ones.
        digest = hashlib.sha256(seed.to_bytes(24, "big")).digest()
        values.normal_(generator=generator.manual_seed(int.from_bytes(digest[:8], "big")))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of a process: one that was forked has none of its parent's."""
    return ThreadPoolExecutor(threads)
