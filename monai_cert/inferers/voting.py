# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The vote loop: noisy copies of one image through a network, counted class by class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

__all__ = ["NoiseLaw", "VoteCounter", "draw_votes"]

# A network that answers in half precision is compared in float32; double stays double.
_COMPARED_AS = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


class NoiseLaw(Protocol):
    """What the vote loop needs to know of a noise law."""

    def perturb(self, image: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Noisy copies (len(seeds), C, *spatial) of an image (C, *spatial)."""


class VoteCounter:
    """Adds up the classes of predictions; its memory does not depend on the number of draws.

    Example:
        >>> counter = VoteCounter(draws=2)
        >>> counter.update(torch.tensor([[[0.3, -1.0]], [[2.0, -0.1]]]))  # one-channel logits of 2 draws, 2 pixels
        >>> counter.votes().tolist()
        [[0, 2], [2, 0]]
    """

    def __init__(self, draws: int) -> None:
        self._dtype = torch.int16 if draws <= torch.iinfo(torch.int16).max else torch.int32
        self._draws = 0
        self._above_zero: torch.Tensor | None = None

    def update(self, logits: torch.Tensor) -> None:
        """Count the draws of a batch.

        Args:
            logits: (B, C, *spatial) of B draws. With C = 1 the class is 1 where the logit is positive, else the class
                of the largest logit, the first one in a tie.

        Raises:
            ValueError: if a logit is NaN.
        """
        _refuse_nan(logits)
        logits = logits.to(_COMPARED_AS.get(logits.dtype, logits.dtype))
        channels = logits.shape[1]
        self._draws += logits.shape[0]
        if channels == 1:
            self._add([(logits[:, 0] > 0).sum(0, dtype=self._dtype)])
        elif channels == 2:
            self._add([(logits[:, 1] > logits[:, 0]).sum(0, dtype=self._dtype)])
        else:
            labels = _argmax(logits)
            self._add([(labels == c).sum(0, dtype=self._dtype) for c in range(1, channels)])

    def votes(self) -> torch.Tensor:
        """(C, *spatial) counts, C at least 2; they sum to the number of draws."""
        if self._above_zero is None:
            raise ValueError("no draw was counted")
        rest = self._draws - self._above_zero.sum(0, keepdim=True, dtype=self._dtype)
        return torch.cat([rest.to(self._dtype), self._above_zero])

    def _add(self, counts: list[torch.Tensor]) -> None:
        stacked = torch.stack(counts)
        self._above_zero = stacked if self._above_zero is None else self._above_zero.add_(stacked)


def draw_votes(
    image: torch.Tensor,
    predict: Callable[[torch.Tensor], torch.Tensor],
    noise: NoiseLaw,
    seeds: Sequence[int],
    batch_size: int,
    done: Callable[[int], object] = lambda draws: None,
) -> torch.Tensor:
    """Count the classes that a network gives noisy copies of one image.

    Args:
        image: (C, *spatial) plain tensor.
        predict: everything between a noisy batch (B, C, *spatial) and logits (B, classes, *spatial).
        noise: the noise law.
        seeds: one a draw.
        batch_size: draws a call of ``predict``.
        done: called with the number of draws after each batch, for progress bars.

    Returns:
        (classes, *spatial) integer counts that sum to ``len(seeds)``, on the image's device.

    Raises:
        TypeError: if ``predict`` gives something else than one tensor.
        ValueError: if its shape is not (B, classes, *spatial) or it has NaN.
    """
    counter = VoteCounter(len(seeds))
    for start in range(0, len(seeds), batch_size):
        chunk = seeds[start : start + batch_size]
        logits = predict(noise.perturb(image, chunk))
        if not isinstance(logits, torch.Tensor):
            raise TypeError(f"the network must give one tensor of logits, got {type(logits).__name__}")
        if logits.ndim != image.ndim + 1 or logits.shape[0] != len(chunk):
            raise ValueError(
                f"the network must give logits ({len(chunk)}, classes, *spatial) with {image.ndim - 1} spatial "
                f"dimensions, got {tuple(logits.shape)}"
            )
        counter.update(logits)
        done(len(chunk))
    return counter.votes()


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """argmax(dim=1) as a running maximum, which is several times faster on the CPU; first class in a tie."""
    best = logits[:, 0].clone()
    labels = torch.zeros(best.shape, dtype=torch.int16, device=best.device)
    for c in range(1, logits.shape[1]):
        labels.masked_fill_(logits[:, c] > best, c)
        torch.maximum(best, logits[:, c], out=best)
    return labels


def _refuse_nan(logits: torch.Tensor) -> None:
    # One reduction settles the usual case: a finite sum has no NaN in it.
    if not bool(torch.isfinite(logits.sum())) and bool(torch.isnan(logits).any()):
        raise ValueError("the network gave NaN; a class cannot be read off it")
