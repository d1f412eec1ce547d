# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The vote loop: noisy copies of one image through a network, and what is kept of each prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import torch

from monai_cert.certificate import Certificate, certify
from monai_cert.inferers.batching import BatchSizer, is_out_of_memory
from monai_cert.inferers.sharing import ProcessGroup

__all__ = ["Accumulator", "NoiseLaw", "VoteCounter", "draw", "draw_votes", "label_maps"]

# A network that answers in half precision is compared in float32; double stays double.
_COMPARED_AS = {torch.float16: torch.float32, torch.bfloat16: torch.float32}

_BYTE = 255  # the most votes that a byte counts


class NoiseLaw(Protocol):
    """What the vote loop needs to know of a noise law."""

    def perturb(self, image: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        """Noisy copies (len(seeds), C, *spatial) of an image (C, *spatial), in memory of their own.

        The memory must not be used again for other draws: a network may write into its input, return it or keep it.
        """


class Accumulator(Protocol):
    """What the vote loop feeds with every draw of one image, and what is certified from in the end.

    A new kind of certificate is a new accumulator: the loop knows no more of them than this.
    """

    @property
    def takes_labels(self) -> bool:
        """Whether `update` wants label maps (B, *spatial), which the loop makes once for all; logits if not."""

    def update(self, predictions: torch.Tensor) -> None:
        """Take the draws of a batch: all of them, or none if an error is raised.

        Args:
            predictions: (B, C, *spatial) logits, or (B, *spatial) label maps.
        """

    def exchange(self, processes: ProcessGroup) -> None:
        """Take over what the others of several processes took since the last exchange, in the order of the draws."""


class VoteCounter:
    """Adds up the classes of predictions; its memory does not depend on the number of draws.

    Args:
        draws: the most draws that it will count.

    Example:
        >>> counter = VoteCounter(draws=2)
        >>> counter.update(torch.tensor([[[0.3, -1.0]], [[2.0, -0.1]]]))  # one-channel logits of 2 draws, 2 pixels
        >>> counter.votes().tolist()
        [[0, 2], [2, 0]]
    """

    takes_labels: ClassVar[bool] = False

    def __init__(self, draws: int) -> None:
        self._limit = draws
        self._dtype = torch.int16 if draws <= torch.iinfo(torch.int16).max else torch.int32
        self._draws = 0
        self._passes: list[tuple[int, int]] = []
        # Votes for each class but the first: of the last draws in bytes, which are added fastest, and of those before.
        self._earlier: torch.Tensor | None = None
        self._recent: torch.Tensor | None = None
        self._recent_draws = 0
        self._nan: torch.Tensor | None = None
        # Up to the last exchange, of all processes.
        self._exchanged: torch.Tensor | None = None
        self._exchanged_draws = 0
        self._exchanged_passes: list[tuple[int, int]] = []

    @property
    def draws(self) -> int:
        """Number of draws counted so far."""
        return self._exchanged_draws + self._draws

    @property
    def passes(self) -> tuple[tuple[int, int], ...]:
        """Run-length list of (draws a pass, number of passes), in order."""
        return (*self._exchanged_passes, *self._passes)

    def update(self, logits: torch.Tensor) -> None:
        """Count the draws of a batch: all of them, or none if an error is raised.

        Args:
            logits: (B, C, *spatial) of B draws. With C = 1 the class is 1 where the logit is positive, else the class
                of the largest logit, the first one in a tie.

        Raises:
            ValueError: if a logit is NaN (on a GPU only `votes` says so), classes or shape are not those of the draws
                before, or there are more draws than the counter was made for.
        """
        draws = len(logits)
        if self.draws + draws > self._limit:
            raise ValueError(f"the counter was made for {self._limit} draws, got {self.draws + draws}")
        # What needs memory comes first: if it runs out, nothing has been counted.
        nan = _nan(logits)
        chunks = [logits[start : start + _BYTE] for start in range(0, draws, _BYTE)]
        parts = [(_votes(chunk), len(chunk)) for chunk in chunks]
        earlier, recent = self._memory(parts[0][0])
        for votes, count in parts:
            if self._recent_draws + count > _BYTE:
                earlier += recent
                recent.zero_()
                self._recent_draws = 0
            recent += votes
            self._recent_draws += count
        if nan is not None:
            self._nan = nan if self._nan is None else self._nan.logical_or_(nan)
        self._draws += draws
        same, times = self._passes.pop() if self._passes else (draws, 0)
        self._passes += [(draws, times + 1)] if same == draws else [(same, times), (draws, 1)]

    def votes(self) -> torch.Tensor:
        """(C, *spatial) counts so far, C at least 2; they sum to the number of draws. Later draws do not change them.

        Raises:
            ValueError: if no draw was counted or a logit was NaN.
        """
        above_first = self._above_first()
        if self._exchanged is not None:
            above_first += self._exchanged
        rest = self.draws - above_first.sum(0, keepdim=True, dtype=self._dtype)
        return torch.cat([rest.to(self._dtype), above_first])

    def exchange(self, processes: ProcessGroup) -> None:
        """Add the votes of the other processes, and put their passes after one another in the order of the draws.

        Raises:
            ValueError: if no draw was counted in a process or a logit was NaN there.
        """
        total = processes.sum(processes.together(self._above_first))
        self._exchanged = total if self._exchanged is None else self._exchanged + total
        self._exchanged_draws += sum(processes.gather(self._draws))
        self._exchanged_passes += [run for runs in processes.gather(self._passes) for run in runs]
        self._earlier, self._recent = torch.zeros_like(total), torch.zeros_like(total, dtype=torch.uint8)
        self._draws, self._recent_draws, self._passes = 0, 0, []

    def certify(self, **settings: Any) -> Certificate:
        """Certify on the votes so far; settings as in `monai_cert.certify`."""
        return certify(self.votes(), **settings)

    def _above_first(self) -> torch.Tensor:
        """(C - 1, *spatial) votes for each class but the first since the last exchange."""
        if self._earlier is None or self._recent is None:
            raise ValueError("no draw was counted")
        if self._nan is not None:
            _refuse(self._nan)
        return self._earlier + self._recent

    def _memory(self, votes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._earlier is None or self._recent is None:
            self._earlier, self._recent = torch.zeros_like(votes, dtype=self._dtype), torch.zeros_like(votes)
        if self._recent.shape != votes.shape:
            before, now = ((max(2, 1 + len(v)), *v.shape[1:]) for v in (self._recent, votes))
            raise ValueError(f"the network must give each draw the same (classes, *spatial), got {before}, then {now}")
        return self._earlier, self._recent


def draw(
    image: torch.Tensor,
    predict: Callable[[torch.Tensor], Any],
    noise: NoiseLaw,
    seeds: Sequence[int],
    batch_size: int | BatchSizer,
    accumulators: Sequence[Accumulator],
    done: Callable[[int], object] = lambda draws: None,
) -> None:
    """Feed what a network makes of noisy copies of one image to accumulators.

    A pass that runs out of memory is made again with half of its draws; no accumulator gets a draw twice.

    Args:
        image: (C, *spatial) plain tensor.
        predict: everything between a noisy batch (B, C, *spatial) and logits (B, classes, *spatial).
        noise: the noise law.
        seeds: one a draw.
        batch_size: draws a call of ``predict``, or what chooses them.
        accumulators: what is kept of the predictions.
        done: called with the number of draws after each batch, for progress bars.

    Raises:
        TypeError: if ``predict`` gives something else than one tensor.
        ValueError: if its shape is not (B, classes, *spatial), or an accumulator refuses it.
        torch.OutOfMemoryError: if a single draw does not fit into memory.
    """
    sizer = BatchSizer(batch_size) if isinstance(batch_size, int) else batch_size
    taken = [0] * len(accumulators)
    start = 0
    while start < len(seeds):
        chunk = seeds[start : start + sizer.next(len(seeds) - start)]
        try:
            with sizer.timing(len(chunk), image.device):
                _feed(accumulators, taken, start, _logits(predict(noise.perturb(image, chunk)), image, len(chunk)))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        else:
            start += len(chunk)
            done(len(chunk))
            continue
        # Only here, where the error is gone, is what its traceback held on the device free again.
        torch.cuda.empty_cache()
        if len(chunk) == 1:
            raise torch.OutOfMemoryError(
                f"one draw of an image {tuple(image.shape)} does not fit into the memory of the {image.device.type}; "
                f"make the image smaller or put a SlidingWindowInferer inside ({reason})"
            )
        sizer.halve(len(chunk))


def draw_votes(
    image: torch.Tensor,
    predict: Callable[[torch.Tensor], Any],
    noise: NoiseLaw,
    seeds: Sequence[int],
    batch_size: int | BatchSizer,
    done: Callable[[int], object] = lambda draws: None,
    *,
    counter: VoteCounter | None = None,
) -> torch.Tensor:
    """Count the classes that a network gives noisy copies of one image. Other arguments and errors as in `draw`.

    Args:
        image: see `draw`.
        predict: see `draw`.
        noise: see `draw`.
        seeds: see `draw`.
        batch_size: see `draw`.
        done: see `draw`.
        counter: adds to the draws that this counter holds already; a new one if None.

    Returns:
        (classes, *spatial) integer counts of all draws of the counter, on the image's device.
    """
    counter = VoteCounter(len(seeds)) if counter is None else counter
    draw(image, predict, noise, seeds, batch_size, [counter], done)
    return counter.votes()


def label_maps(logits: torch.Tensor) -> torch.Tensor:
    """(B, *spatial) classes of logits (B, C, *spatial), as `VoteCounter.update` reads them; NaN is not looked for.

    Example:
        >>> label_maps(torch.tensor([[[0.3, -1.0]]])).tolist()
        [[1, 0]]
    """
    logits = logits.to(_COMPARED_AS.get(logits.dtype, logits.dtype))
    return _foreground(logits).byte() if logits.shape[1] <= 2 else _argmax(logits)


def _feed(accumulators: Sequence[Accumulator], taken: list[int], start: int, logits: torch.Tensor) -> None:
    """Give each accumulator the draws of a pass, but for those that it took before another one ran out of memory.

    Args:
        accumulators: the accumulators.
        taken: for each the number of draws that it has taken; brought up to date.
        start: number of draws before this pass.
        logits: of the pass.
    """
    labels = label_maps(logits) if any(accumulator.takes_labels for accumulator in accumulators) else logits
    end = start + len(logits)
    for place, accumulator in enumerate(accumulators):
        if taken[place] < end:
            predictions = labels if accumulator.takes_labels else logits
            accumulator.update(predictions[max(0, taken[place] - start) :])
            taken[place] = end


def _logits(output: Any, image: torch.Tensor, draws: int) -> torch.Tensor:
    """The network's output, if it is logits."""
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"the network must give one tensor of logits, got {type(output).__name__}")
    if output.ndim != image.ndim + 1 or output.shape[0] != draws:
        raise ValueError(
            f"the network must give logits ({draws}, classes, *spatial) with {image.ndim - 1} spatial dimensions, "
            f"got {tuple(output.shape)}"
        )
    return output


def _votes(logits: torch.Tensor) -> torch.Tensor:
    """(max(2, C) - 1, *spatial) votes in bytes for each class but the first."""
    logits = logits.to(_COMPARED_AS.get(logits.dtype, logits.dtype))
    channels = logits.shape[1]
    if channels <= 2:
        return _foreground(logits).sum(0, keepdim=True, dtype=torch.uint8)
    labels = _argmax(logits)
    return torch.stack([(labels == c).sum(0, dtype=torch.uint8) for c in range(1, channels)])


def _foreground(logits: torch.Tensor) -> torch.Tensor:
    """(B, *spatial) whether the class is 1, for one or two channels."""
    return logits[:, 0] > 0 if logits.shape[1] == 1 else logits[:, 1] > logits[:, 0]


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """argmax(dim=1) as a running maximum, which is several times faster on the CPU; first class in a tie."""
    best = logits[:, 0].clone()
    labels = torch.zeros(best.shape, dtype=torch.int16, device=best.device)
    for c in range(1, logits.shape[1]):
        labels.masked_fill_(logits[:, c] > best, c)
        torch.maximum(best, logits[:, c], out=best)
    return labels


def _nan(logits: torch.Tensor) -> torch.Tensor | None:
    """Whether there is NaN: refused at once on the CPU, elsewhere a flag on the device, to be looked at in the end."""
    if _waits(logits.device):
        return torch.isnan(logits).any()
    # One reduction settles the usual case: a finite sum has no NaN in it.
    if not bool(torch.isfinite(logits.sum())):
        _refuse(torch.isnan(logits).any())
    return None


def _waits(device: torch.device) -> bool:
    """Whether to look at a number on the device would stop the loop until the device has caught up."""
    return device.type != "cpu"


def _refuse(nan: torch.Tensor) -> None:
    if bool(nan):
        raise ValueError("the network gave NaN; a class cannot be read off it")
