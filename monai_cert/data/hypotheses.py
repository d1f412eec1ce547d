# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Which pixels to test: the fewer, the fewer votes each needs. Always a function of the image, never of the draws."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Resize
from skimage.segmentation import clear_border

from monai_cert.data.masks import LoadMask

__all__ = ["MaskFile", "OutsideBorders"]


class OutsideBorders:
    """All pixels but the dark margins of an image: those connected to its edge through dark pixels.

    Args:
        level: the largest value, of the brightest channel, that is dark, in the units of the image.

    Raises:
        ValueError: when called on an image that is dark all over.

    Example:
        >>> image = torch.ones(1, 2, 4)
        >>> image[..., 0] = 0
        >>> OutsideBorders()(image).tolist()
        [[False, True, True, True], [False, True, True, True]]
    """

    def __init__(self, level: float = 0.02) -> None:
        self.level = level
        self.name = f"outside dark borders (level {level:g})"

    def __call__(self, image: torch.Tensor) -> npt.NDArray[np.bool_]:
        """Tested pixels (*spatial) of an image (C, *spatial)."""
        dark = (image.amax(dim=0) <= self.level).cpu().numpy()
        tested: npt.NDArray[np.bool_] = ~dark | (clear_border(dark.astype(np.uint8)) > 0)
        if not tested.any():
            raise ValueError(f"the image is dark all over (no pixel above {self.level:g}): there is nothing to test")
        return tested


class MaskFile:
    """The pixels of a mask that was drawn, or computed, without the votes.

    Args:
        path: a mask file of any size, as `LoadMask` reads it; brought to the image's grid by nearest neighbors.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no mask, or marks no pixel.
    """

    def __init__(self, path: str | Path) -> None:
        self.mask = LoadMask()(path)
        if not bool(self.mask.any()):
            raise ValueError(f"the mask {path} marks no pixel; it should be white where to test, black elsewhere")
        self.name = f"mask file, sha256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
        self.path = path

    def __call__(self, image: torch.Tensor) -> npt.NDArray[np.bool_]:
        """Tested pixels (*spatial) of an image (C, *spatial)."""
        grid = tuple(image.shape[1:])
        if len(grid) != self.mask.ndim - 1:
            raise ValueError(f"the mask {self.path} has {self.mask.ndim - 1} dimensions, the image {len(grid)}")
        tested: npt.NDArray[np.bool_] = Resize(grid, mode="nearest")(self.mask).numpy()[0] > 0.5
        if not tested.any():
            raise ValueError(f"the mask {self.path} marks no pixel at the size {grid} of the image")
        return tested
