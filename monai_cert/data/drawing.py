# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""How the pictures of procedural phantoms are drawn in detail and averaged down.

A phantom is drawn with sides of at least `RENDER_SIDE` pixels, so that a small picture is an average of a detailed one,
and all that is random is drawn independently of the size: one seed shows the same thing at every size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, label, zoom

__all__ = ["bell", "curve", "enlargement", "mottle", "one_piece", "shrink"]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MIN_SIZE = 32
RENDER_SIDE = 512  # least side that is drawn


def enlargement(size: int) -> int:
    """How many pixels are drawn for one pixel of the picture, along each side.

    Raises:
        ValueError: if the picture's side is less than 32.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE}, got {size}")
    return -(-RENDER_SIDE // size)


def shrink(picture: Array, factor: int) -> Array:
    """Means of (..., H, W) over blocks of `factor` pixels a side."""
    *channels, height, width = picture.shape
    blocks = picture.reshape(*channels, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(-3, -1)))


def one_piece(drawn: Mask, factor: int) -> Mask:
    """A mask in pixels of the picture, as one piece: what is thin may break up in a small picture."""
    pieces, _ = label(shrink(drawn.astype(np.float64), factor) >= 0.5)
    return np.asarray(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))


def mottle(rng: np.random.Generator, side: int, width: float) -> Array:
    """Noise (side, side) of unit variance whose grains are `width` / 256 of the picture, whatever its side."""
    grain = gaussian_filter(rng.normal(size=(256, 256)), width, mode="wrap")
    return np.asarray(zoom(grain / grain.std(), side / 256, order=1), dtype=np.float64)


def curve(knots: Sequence[tuple[float, float]], at: Array) -> Array:
    """Smooth curve through (position, value) knots without overshoot, constant beyond its ends."""
    position, value = np.array(knots, dtype=np.float64).T
    return np.asarray(PchipInterpolator(position, value)(np.clip(at, position[0], position[-1])), dtype=np.float64)


def bell(offset: Array, width: float) -> Array:
    """A bell curve of height 1 and standard deviation `width`."""
    return np.exp(-0.5 * (offset / width) ** 2)
