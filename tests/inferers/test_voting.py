# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Counting votes: the fast counter against argmax and one-hot sums, and what is no prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from monai_cert.inferers.voting import VoteCounter, draw_votes
from monai_cert.noise import GaussianNoise, draw_seeds

IMAGE = torch.rand(1, 6, 5, generator=torch.Generator().manual_seed(0))
SEEDS = draw_seeds(0, "voting", range(11))


def plain_votes(logits: torch.Tensor) -> torch.Tensor:
    """The definition: labels by argmax, the first class in a tie, counted one by one."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    labels = torch.stack([draw.argmax(dim=0) for draw in logits])
    return torch.nn.functional.one_hot(labels, logits.shape[1]).sum(0).movedim(-1, 0)


def counted(batches: Sequence[torch.Tensor]) -> torch.Tensor:
    counter = VoteCounter(sum(len(batch) for batch in batches))
    for batch in batches:
        counter.update(batch)
    return counter.votes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spatial", [(7,), (6, 5), (4, 3, 5)])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_votes_are_those_of_argmax(channels: int, spatial: tuple[int, ...], dtype: torch.dtype) -> None:
    """Small integers, so that most pixels are tied."""
    generator = torch.Generator().manual_seed(channels)
    logits = torch.randint(-1, 2, (20, channels, *spatial), generator=generator).to(dtype)
    votes = counted(logits.split(3))
    assert votes.shape == (max(2, channels), *spatial)
    assert not votes.is_floating_point()
    assert (votes.sum(0) == 20).all()
    assert torch.equal(votes.long(), plain_votes(logits))


def test_ties_go_to_the_first_class() -> None:
    for channels in (1, 2, 3, 5):
        votes = counted([torch.zeros(4, channels, 2)])
        assert (votes[0] == 4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [2, 3])
def test_logits_one_unit_apart_are_told_apart(channels: int, dtype: torch.dtype) -> None:
    """In whatever precision the network answers, nothing is compared in a lower one."""
    logits = torch.ones(1, channels, 1, dtype=dtype)
    logits[:, -1] += torch.finfo(dtype).eps
    assert counted([logits])[-1] == 1
    smallest = torch.full((1, 1, 1), torch.finfo(dtype).tiny, dtype=dtype)
    assert counted([smallest])[-1] == 1


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_infinite_logits_are_votes(channels: int) -> None:
    logits = torch.zeros(3, channels, 2)
    logits[0, -1], logits[1, 0] = torch.inf, -torch.inf
    assert torch.equal(counted([logits]).long(), plain_votes(logits))


def test_half_precision_sums_that_overflow_are_votes() -> None:
    logits = torch.full((4, 2, 100), 60_000.0, dtype=torch.float16)
    assert (counted([logits])[0] == 4).all()


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("beside", [0.0, torch.inf])
def test_nan_is_refused(channels: int, beside: float) -> None:
    logits = torch.full((2, channels, 4), beside)
    logits[1, 0, 2] = torch.nan
    with pytest.raises(ValueError, match="the network gave NaN"):
        counted([logits])


def test_more_draws_than_fit_16_bits() -> None:
    votes = counted([torch.ones(20_000, 1, 1)] * 2)
    assert votes.flatten().tolist() == [0, 40_000]


def test_no_draw_is_no_vote() -> None:
    with pytest.raises(ValueError, match="no draw was counted"):
        VoteCounter(3).votes()


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_batch_size_changes_neither_votes_nor_order(batch_size: int) -> None:
    sizes: list[int] = []
    votes = draw_votes(IMAGE, lambda x: x - 0.5, GaussianNoise(0.5), SEEDS, batch_size, sizes.append)
    noisy = GaussianNoise(0.5).perturb(IMAGE, SEEDS)
    assert torch.equal(votes.long(), plain_votes(noisy - 0.5))
    assert sum(sizes) == 11
    assert max(sizes) == min(batch_size, 11)


@pytest.mark.parametrize("output", [[torch.zeros(11, 1, 6, 5)], {"out": torch.zeros(11, 1, 6, 5)}, None])
def test_network_gives_one_tensor(output: Any) -> None:
    with pytest.raises(TypeError, match=f"one tensor of logits, got {type(output).__name__}"):
        draw_votes(IMAGE, lambda x: output, GaussianNoise(0.5), SEEDS, 11)


@pytest.mark.parametrize("shape", [(11, 6, 5), (1, 1, 6, 5), (11, 1, 6, 5, 1), (11,)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the network must give logits"):
        draw_votes(IMAGE, lambda x: torch.zeros(shape), GaussianNoise(0.5), SEEDS, 11)
