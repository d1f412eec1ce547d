# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Counting votes: the fast counter against argmax and one-hot sums, and what is no prediction."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_cert.inferers import voting
from monai_cert.inferers.sharing import ProcessGroup
from monai_cert.inferers.voting import VoteCounter, draw, draw_votes, label_maps
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


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("beside", [0.0, torch.inf])
def test_nan_is_refused(channels: int, beside: float, waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once on the CPU; in the end, whatever came after, where a look at the logits would stop the device."""
    monkeypatch.setattr(voting, "_waits", lambda device: waits)
    bad = torch.full((2, channels, 4), beside)
    bad[1, 0, 2] = torch.nan
    good = torch.full((2, channels, 4), beside)
    assert counted([good, good]).sum() == 16
    with pytest.raises(ValueError, match="the network gave NaN"):
        counted([good, bad, good])


@pytest.mark.parametrize("batch_size", [1, 7, 255, 256, 600])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_more_draws_than_fit_a_byte(channels: int, batch_size: int) -> None:
    logits = torch.randn(600, channels, 5, generator=torch.Generator().manual_seed(0)) - 1
    logits[:, 0, 0], logits[:, -1, 1] = -5, 5  # pixels that all draws agree on
    votes = counted(logits.split(batch_size))
    assert torch.equal(votes.long(), plain_votes(logits))


@pytest.mark.parametrize("channels", [1, 3])
def test_more_draws_than_fit_16_bits(channels: int) -> None:
    votes = counted([torch.arange(1.0, 1 + channels).expand(20_000, -1)[..., None]] * 2)
    assert votes.flatten().tolist() == [0] * (max(2, channels) - 1) + [40_000]


def test_votes_between_are_left_as_they_were() -> None:
    logits = torch.randn(300, 3, 4, generator=torch.Generator().manual_seed(0))
    counter = VoteCounter(draws=300)
    counter.update(logits[:250])
    first = counter.votes()
    counter.update(logits[250:])
    assert torch.equal(first.long(), plain_votes(logits[:250]))
    first.zero_()
    assert torch.equal(counter.votes().long(), plain_votes(logits))
    assert counter.draws == 300


def test_passes_are_told_in_order() -> None:
    counter = VoteCounter(draws=20)
    for draws in (1, 1, 2, 4, 4, 4, 1):
        counter.update(torch.zeros(draws, 1, 3))
    assert counter.passes == ((1, 2), (2, 1), (4, 3), (1, 1))


def test_more_draws_than_the_counter_was_made_for_are_refused() -> None:
    counter = VoteCounter(draws=3)
    counter.update(torch.zeros(2, 1, 4))
    with pytest.raises(ValueError, match="made for 3 draws, got 4"):
        counter.update(torch.zeros(2, 1, 4))


@pytest.mark.parametrize("shape", [(2, 2, 4), (2, 3, 5), (2, 3, 1)])
def test_classes_that_change_between_draws_are_refused(shape: tuple[int, ...]) -> None:
    counter = VoteCounter(draws=4)
    counter.update(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"same \(classes, \*spatial\), got \(3, 4\), then"):
        counter.update(torch.zeros(shape))


def test_an_update_that_fails_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out half way through a batch."""
    counter, votes_of = VoteCounter(draws=1000), voting._votes
    monkeypatch.setattr(voting, "_votes", lambda logits: votes_of(logits) if len(logits) == 255 else failing_pass())
    counter.update(torch.ones(255, 1, 3))
    before = counter.votes()
    with pytest.raises(torch.OutOfMemoryError):
        counter.update(torch.ones(300, 1, 3))
    assert torch.equal(counter.votes(), before)
    assert (counter.draws, counter.passes) == (255, ((255, 1),))


def failing_pass() -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")


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


def in_place(noisy: torch.Tensor) -> torch.Tensor:
    return noisy.sub_(0.5)


def wiping(noisy: torch.Tensor) -> torch.Tensor:
    logits = noisy - 0.5
    noisy.fill_(7)
    return logits


def with_one_output_buffer() -> Callable[[torch.Tensor], torch.Tensor]:
    buffer = torch.empty(11, 1, 6, 5)
    return lambda noisy: torch.sub(noisy, 0.5, out=buffer[: len(noisy)])


def with_sliding_windows(noisy: torch.Tensor) -> torch.Tensor:
    window = SlidingWindowInferer(roi_size=(4, 4), sw_batch_size=3, overlap=0.5)
    logits: torch.Tensor = window(noisy, in_place)
    return logits


@pytest.mark.parametrize("batch_size", [1, 3, 11])
@pytest.mark.parametrize("network", [in_place, wiping, with_one_output_buffer(), with_sliding_windows])
def test_networks_that_write_where_they_should_not(
    network: Callable[[torch.Tensor], torch.Tensor], batch_size: int
) -> None:
    image = IMAGE.clone()
    votes = draw_votes(image, network, GaussianNoise(0.5), SEEDS, batch_size)
    assert torch.equal(votes, draw_votes(IMAGE, lambda x: x - 0.5, GaussianNoise(0.5), SEEDS, 1))
    assert torch.equal(image, IMAGE)


def test_a_network_may_keep_its_inputs() -> None:
    kept: list[torch.Tensor] = []

    def keeping(noisy: torch.Tensor) -> torch.Tensor:
        kept.append(noisy)
        return noisy

    draw_votes(IMAGE, keeping, GaussianNoise(0.5), SEEDS, 3)
    assert torch.equal(torch.cat(kept), GaussianNoise(0.5).perturb(IMAGE, SEEDS))


def test_a_counter_goes_on_counting() -> None:
    counter, law = VoteCounter(draws=11), GaussianNoise(0.5)
    for seeds in (SEEDS[:4], SEEDS[4:5], SEEDS[5:]):
        votes = draw_votes(IMAGE, lambda x: x - 0.5, law, seeds, 3, counter=counter)
    assert torch.equal(votes, draw_votes(IMAGE, lambda x: x - 0.5, law, SEEDS, 3))
    assert torch.equal(votes, counter.votes())


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
@pytest.mark.parametrize("fits", [1, 2, 3])
def test_out_of_memory_halves_the_batch_and_counts_every_draw_once(fits: int, error: Exception) -> None:
    done: list[int] = []

    def small(noisy: torch.Tensor) -> torch.Tensor:
        if len(noisy) > fits:
            raise error
        return noisy - 0.5

    votes = draw_votes(IMAGE, small, GaussianNoise(0.5), SEEDS, 8, done.append)
    assert torch.equal(votes, draw_votes(IMAGE, lambda x: x - 0.5, GaussianNoise(0.5), SEEDS, 11))
    assert sum(done) == 11
    assert max(done) == min(fits, 2)


def test_memory_of_the_pass_that_failed_is_free_at_the_next() -> None:
    tried: list[weakref.ref[torch.Tensor]] = []

    def small(noisy: torch.Tensor) -> torch.Tensor:
        assert all(reference() is None for reference in tried)
        tried.append(weakref.ref(noisy))
        return failing_pass() if len(noisy) > 1 else noisy - 0.5

    draw_votes(IMAGE, small, GaussianNoise(0.5), SEEDS, 8)
    assert len(tried) == 3 + 11


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_a_draw_that_does_not_fit_is_one_sentence(error: Exception) -> None:
    def large(noisy: torch.Tensor) -> torch.Tensor:
        raise error

    with pytest.raises(torch.OutOfMemoryError, match=r"one draw of an image \(1, 6, 5\) does not fit") as caught:
        draw_votes(IMAGE, large, GaussianNoise(0.5), SEEDS, 8)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


class Keeping:
    """Keeps label maps; memory runs out on more draws than fit."""

    takes_labels = True

    def __init__(self, fits: int = 100) -> None:
        self.fits = fits
        self.kept: list[torch.Tensor] = []

    def update(self, predictions: torch.Tensor) -> None:
        if len(predictions) > self.fits:
            failing_pass()
        self.kept += predictions

    def exchange(self, processes: ProcessGroup) -> None:
        raise AssertionError("one process has nothing to exchange")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_label_maps_are_what_is_counted(channels: int) -> None:
    logits = torch.randint(-1, 2, (20, channels, 6), generator=torch.Generator().manual_seed(channels)).float()
    labels = label_maps(logits)
    assert labels.shape == (20, 6)
    assert not labels.is_floating_point()
    for c, votes in enumerate(plain_votes(logits)):
        assert torch.equal((labels == c).sum(0), votes)


@pytest.mark.parametrize("fits", [1, 2, 3, 100])
@pytest.mark.parametrize("counter_first", [True, False])
def test_every_accumulator_gets_every_draw_once_and_in_order(fits: int, counter_first: bool) -> None:
    """Also those that stand before one that runs out of memory."""
    counter, first, second = VoteCounter(11), Keeping(), Keeping(fits)
    accumulators = [counter, first, second] if counter_first else [second, first, counter]
    draw(IMAGE, lambda x: x - 0.5, GaussianNoise(0.5), SEEDS, 8, accumulators)
    expected = label_maps(GaussianNoise(0.5).perturb(IMAGE, SEEDS) - 0.5)
    for keeping in (first, second):
        assert torch.equal(torch.stack(keeping.kept), expected)
    assert torch.equal(counter.votes()[1].long(), expected.sum(0))


def test_without_readers_of_labels_none_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voting, "label_maps", failing_pass)
    draw(IMAGE, lambda x: x - 0.5, GaussianNoise(0.5), SEEDS, 8, [VoteCounter(11)])


def test_votes_certify_themselves() -> None:
    counter = VoteCounter(60)
    counter.update(torch.tensor([1.0, -1.0]).expand(60, 1, 2))
    certificate = counter.certify(noise=GaussianNoise(0.5), alpha=0.01)
    assert certificate.classes.tolist() == [1, 0]


def test_other_errors_of_the_network_are_its_own() -> None:
    def broken(noisy: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        draw_votes(IMAGE, broken, GaussianNoise(0.5), SEEDS, 8)
