# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Processes that share the draws of one image, over ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from monai_cert.errors import USER_ERRORS

__all__ = ["ALONE", "ProcessGroup", "process_group"]

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes among which the draws of an image are shared; see `process_group`.

    Every method is called by all of them, in the same order.

    Args:
        rank: number of this process.
        size: number of the processes.
    """

    rank: int
    size: int

    def share(self, draws: Sequence[T]) -> Sequence[T]:
        """This process's part of the draws; the parts of all processes one after another are the draws in order."""
        start, end = (len(draws) * rank // self.size for rank in (self.rank, self.rank + 1))
        return draws[start:end]

    def gather(self, item: T) -> list[T]:
        """What every process gives, in the order of their ranks."""
        if self.size == 1:
            return [item]
        items: list[T | None] = [None] * self.size
        distributed.all_gather_object(items, item)
        return items  # type: ignore[return-value]  # all were filled

    def sum(self, counts: torch.Tensor) -> torch.Tensor:
        """Sum over the processes of integers, which keep their type."""
        if self.size == 1:
            return counts
        total = counts.int()  # neither gloo nor NCCL adds 16-bit integers
        distributed.all_reduce(total)
        return total.to(counts.dtype)

    def together(self, work: Callable[[], T]) -> T:
        """Do this process's part; raises in all processes if it raises in one, so that none waits for it forever.

        Raises:
            RuntimeError: if it raised in another process; here its own error is raised.
        """
        if self.size == 1:
            return work()
        failure: Exception | None = None
        try:
            result = work()
        except USER_ERRORS as error:
            failure = error
        reports = self.gather(None if failure is None else str(failure) or type(failure).__name__)
        if failure is not None:
            raise failure
        for rank, report in enumerate(reports):
            if report is not None:
                raise RuntimeError(f"process {rank} of {self.size} failed: {report}")
        return result

    def agree(self, facts: dict[str, object]) -> None:
        """Refuse, with a ValueError, facts that are not the same in all processes."""
        for name, values in ((name, self.gather(value)) for name, value in facts.items()):
            if any(value != values[0] for value in values):
                raise ValueError(f"processes that share draws must have the same {name}; they differ")


ALONE = ProcessGroup(rank=0, size=1)


def process_group() -> ProcessGroup:
    """The processes of the initialized default process group.

    Raises:
        RuntimeError: if there is none.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(
            "draws can only be shared in a process group: start the processes with torchrun and call "
            "torch.distributed.init_process_group first"
        )
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size())
