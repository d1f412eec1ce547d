# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Several processes, on one or more machines, that share a list of jobs; one process alone is a count of one.

``torchrun`` starts them and says in the environment who is who. All that they share while they run is the key-value
store that it keeps for them: a counter hands out the jobs, so that nobody waits for anybody, a fast process takes more
of them than a slow one, and one that dies takes no other's work with it. Results go through files.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import HashStore, PrefixStore, Store, rendezvous  # type: ignore[attr-defined]  # not in its stubs

__all__ = ["Processes", "own_device"]

_PATIENCE = timedelta(minutes=5)  # to reach the store
_uses = itertools.count()


def own_device(asked: str | None, local_rank: int) -> str | None:
    """The torch device of one of several processes: of several GPUs on its machine its own.

    Args:
        asked: the device that was asked for; a GPU if there is one, where None.
        local_rank: number of the process on its machine.
    """
    if asked not in (None, "cuda") or not torch.cuda.is_available():
        return asked
    return f"cuda:{local_rank % torch.cuda.device_count()}"


class Processes:
    """This process among those that ``torchrun`` started: ``rank`` of ``count``.

    Every process makes one for each piece of work that they share, in the same order.

    Raises:
        ValueError: if the environment names a rank but not where to meet the others.
        RuntimeError: if the others cannot be reached.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if self.count == 1:
            self._store: Store = HashStore()
            return
        store = next(rendezvous("env://", timeout=_PATIENCE))[0]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
        self._store = PrefixStore(f"monai_cert/{attempt}/{next(_uses)}", store)

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def device(self, asked: str | None) -> str | None:
        """See `own_device`."""
        return asked if self.count == 1 else own_device(asked, self.local_rank)

    def tell(self, key: str, value: Any) -> None:
        """Let all processes hear something that JSON can hold."""
        self._store.set(key, json.dumps(value))

    def hear(self, key: str) -> Any:
        """Wait for what a process tells."""
        while not self._store.check([key]):
            time.sleep(0.05)
        return json.loads(self._store.get(key))

    def share(self, jobs: int) -> Iterator[int]:
        """Numbers of the jobs, 0 to jobs - 1, that fall to this process: each goes to one process, when it is free."""
        while (number := self._store.add("next", 1) - 1) < jobs:
            yield number

    def finish(self) -> None:
        """Say that this process has done its last job."""
        self._store.add("finished", 1)

    def all_finished(self) -> bool:
        """Whether all processes have."""
        return bool(self._store.add("finished", 0) == self.count)
