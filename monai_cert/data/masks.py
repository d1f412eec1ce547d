# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Reading masks, one file or one a class, and holding them against their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import ensure_tuple_rep

from monai_cert.data.files import read_image, read_stored

__all__ = ["LoadClasses", "LoadClassesd", "LoadMask", "LoadMaskd", "RequireMaskFitsd", "read_mask"]

# What scatters around 0 and 255 stays below and above these; the real masks keep 99.3% of their pixels there.
DARK, BRIGHT = 32 / 255, 223 / 255
# Share of pixels that may lie between, and their number for each pixel of the outline (0.7% and 0.54 in real masks;
# 25% and 3.4 at least in photographs).
BETWEEN, BESIDE = 0.1, 2


def read_mask(path: str | Path) -> npt.NDArray[np.bool_]:
    """Read a mask: an image of two values.

    The values are 0 and any other one: 255, or 1, or 65535. Masks that JPEG or a resize made scatter around 0 and 255:
    then a pixel belongs to the mask where it exceeds 127 of 255. Many values between them, as in a photograph, or areas
    of a value between, as in a map of several classes, are refused.

    Args:
        path: a grey image, as `read_image` reads it.

    Returns:
        (1, *spatial), true inside. It may be empty.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no grey image, or not of two values; the message names the file.
    """
    stored = read_stored(path)
    brightest = stored.max()
    if brightest > 0 and ((stored == 0) | (stored == brightest)).all() and (stored == stored[:1]).all():
        inside: npt.NDArray[np.bool_] = stored[:1] == brightest
        return inside
    values = read_image(path)
    mask = values > 127 / 255
    between = np.count_nonzero((values >= DARK) & (values <= BRIGHT))
    outline = sum(np.count_nonzero(np.diff(mask, axis=axis)) for axis in range(1, mask.ndim))
    if 0 < values.max() <= BRIGHT or between > min(BETWEEN * values.size, BESIDE * outline):
        raise ValueError(
            f"{path} is no mask, it holds more than two values; make it 0 outside and 255 inside, a file for each class"
        )
    return mask


class LoadMask(Transform):
    """Load the union of mask files (left and right lung, say) as a MetaTensor (1, *spatial) of 0.0 and 1.0.

    Each is read by `read_mask`. A union without a pixel is a value as well: the image shows nothing of the class.
    """

    def __call__(self, paths: str | Path | Sequence[str | Path]) -> MetaTensor:
        """Load one mask from one or several files.

        Raises:
            ValueError: if a file is no mask, or the files differ in size.
        """
        files = [paths] if isinstance(paths, str | Path) else list(paths)
        union = np.logical_or.reduce(_read_masks(files)).astype(np.float32)
        return MetaTensor(torch.from_numpy(union), meta={"filename_or_obj": str(files[0])})


class LoadClasses(Transform):
    """Load one mask file a class as a class map: a MetaTensor (1, *spatial) float32 of 0 to the number of files.

    The k-th file, counted from 1, is class k; where masks overlap the last one wins, so what lies in front comes last;
    0 is what no mask holds. Each is read by `read_mask`.
    """

    def __call__(self, paths: Sequence[str | Path]) -> MetaTensor:
        """Load one class map.

        Raises:
            ValueError: if a file is no mask, or the files differ in size.
        """
        masks = _read_masks(paths)
        classes = np.zeros_like(masks[0], dtype=np.float32)
        for number, mask in enumerate(masks, start=1):
            classes[mask] = number
        return MetaTensor(torch.from_numpy(classes), meta={"filename_or_obj": str(paths[0])})


def _read_masks(files: Sequence[str | Path]) -> list[npt.NDArray[np.bool_]]:
    masks = [read_mask(file) for file in files]
    if len({mask.shape for mask in masks}) != 1:
        sizes = ", ".join(f"{file} ({_size(mask)})" for file, mask in zip(files, masks, strict=True))
        raise ValueError(f"the masks {sizes} differ in size")
    return masks


class LoadMaskd(MapTransform):
    """Dictionary twin of `LoadMask`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadMask()

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Load the masks that the keys name."""
        return {**data, **{key: self.load(data[key]) for key in self.key_iterator(data)}}


class LoadClassesd(MapTransform):
    """Dictionary twin of `LoadClasses`.

    Args:
        keys: keys of the lists of mask files.
        names: keys of the class maps; ``keys`` themselves if None.
        allow_missing_keys: do not raise if a key is missing.
    """

    def __init__(
        self, keys: KeysCollection, names: KeysCollection | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.names = ensure_tuple_rep(keys if names is None else names, len(self.keys))
        self.load = LoadClasses()

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Load the class maps that the keys name."""
        return {**data, **{name: self.load(data[key]) for key, name in self.key_iterator(data, self.names)}}


class RequireMaskFitsd(MapTransform):
    """Refuse a mask of another size than its image, which a resize of both would hide; changes nothing.

    Args:
        keys: keys of loaded masks, or class maps.
        image_key: key of the loaded image.
        coarser: how many times coarser than the image a mask may be. SCR, for one, outlines the 2048 x 2048 pixels of
            JSRT on 1024 x 1024: 1 and 2.
        allow_missing_keys: do not raise if a mask is missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str = "image",
        coarser: Sequence[int] = (1,),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.coarser = tuple(coarser)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Give the data back.

        Raises:
            ValueError: if a mask is of another size; the message names both files and sizes.
        """
        image = data[self.image_key]
        grid = tuple(image.shape[1:])
        for key in self.key_iterator(data):
            mask = data[key]
            if all(tuple(times * side for side in mask.shape[1:]) != grid for times in self.coarser):
                raise ValueError(
                    f"{mask.meta['filename_or_obj']} is {_size(mask)} pixels where its image "
                    f"{image.meta['filename_or_obj']} is {_size(image)}; give the mask that was drawn on this image"
                )
        return dict(data)


def _size(picture: torch.Tensor | npt.NDArray[Any]) -> str:
    return " x ".join(map(str, picture.shape[1:]))
