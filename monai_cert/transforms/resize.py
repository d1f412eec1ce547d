# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Resizing to the same pixels, bit by bit, whatever the number of threads."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from monai.transforms import Resize, Resized

__all__ = ["ReproducibleResize", "ReproducibleResized"]


class ReproducibleResize(Resize):
    """``monai.transforms.Resize`` on one thread.

    The noise of a certificate is keyed by the exact pixels (see `monai_cert.noise.image_key`), and MONAI's
    anti-aliasing filter rounds them differently with each number of threads: a certificate could not be drawn again
    with another number. On one machine the pixels of this transform are the same.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Resize as MONAI does; arguments and errors are those of ``Resize``."""
        with _one_thread():
            resized: torch.Tensor = super().__call__(*args, **kwargs)
        return resized


class ReproducibleResized(Resized):
    """``monai.transforms.Resized`` on one thread, see `ReproducibleResize`."""

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        """Resize as MONAI does; arguments and errors are those of ``Resized``."""
        with _one_thread():
            resized: dict[Hashable, torch.Tensor] = super().__call__(data, lazy)
        return resized


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
