# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Reading pictures and medical images into fixed-range, channel-first arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from skimage import io

__all__ = ["IMAGE_SUFFIXES", "ImageFile", "LoadMask", "LoadMaskd", "LoadPicture", "LoadPictured", "read_image"]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
MEDICAL_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd")
JSRT_SUFFIX = ".img"
IMAGE_SUFFIXES = PICTURE_SUFFIXES + MEDICAL_SUFFIXES + (JSRT_SUFFIX,)

# The largest difference between colour channels that JPEG compression leaves in a grey picture.
GREY_TOLERANCE = 8 / 255


@dataclass(frozen=True)
class ImageFile:
    """What a file held: pixel values in [0, 1] or as stored, and the geometry that belongs to them.

    Args:
        path: the file.
        pixels: (C, *spatial) float32; spatial order is rows before columns, slices first.
        geometry: the SimpleITK image of a medical file, from which results take spacing, origin and direction.
    """

    path: Path
    pixels: npt.NDArray[np.float32]
    geometry: sitk.Image | None = None


def read_image(
    path: str | Path, channels: int = 1, intensity_range: tuple[float, float] | None = None
) -> ImageFile:
    """Read an image file and scale it by a *fixed* range, never by its own minimum and maximum.

    Integer pixels are divided by the largest value of their type (8-bit by 255, 16-bit by 65535), floating-point
    pixels are taken as they are. Palettes are resolved, opacity channels composed over black, and grey pictures that
    were stored as RGB are recognized. ``.IMG`` is the headerless 2048x2048 big-endian 12-bit form of JSRT.

    Args:
        path: PNG, JPEG, TIFF, BMP, GIF, NIfTI, MetaImage or JSRT .IMG.
        channels: 1 for grey, 3 for RGB.
        intensity_range: stored values that become 0 and 1, for files whose values do not fill their type (a 12-bit
            radiograph in a 16-bit file); values outside are clipped.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, unreadable, of an unknown type, of other channels than asked for, or has pixels
            that are not finite; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is a folder, not an image" if path.is_dir() else f"{path} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    name = path.name.lower()
    geometry = None
    if name.endswith(MEDICAL_SUFFIXES):
        stored, geometry = _read_medical(path)
    elif name.endswith(JSRT_SUFFIX):
        stored, intensity_range = _read_jsrt(path), intensity_range or (4095.0, 0.0)
    elif name.endswith(PICTURE_SUFFIXES):
        stored = _read_picture(path)
    else:
        raise ValueError(f"{path} is no image of a known type ({' '.join(IMAGE_SUFFIXES)})")
    pixels = _fixed_range(stored, intensity_range)
    if not np.isfinite(pixels).all():
        raise ValueError(f"{path} has pixels that are NaN or infinite; repair or leave out the image")
    return ImageFile(path, _with_channels(pixels, channels, path), geometry)


def _read_picture(path: Path) -> npt.NDArray[Any]:
    """(C, H, W) as stored."""
    try:
        stored = np.asarray(io.imread(path))
    except Exception as error:  # the readers raise whatever they like, from SyntaxError to struct.error
        raise ValueError(f"{path} cannot be read as an image; it is damaged, cut short or of another type") from error
    if stored.ndim == 2:
        return stored[None]
    if stored.ndim == 3 and stored.shape[-1] <= 4:
        return np.moveaxis(stored, -1, 0)
    if stored.ndim == 4 and stored.shape[0] == 1:
        return np.moveaxis(stored[0], -1, 0)
    raise ValueError(f"{path} holds several pages (stored shape {stored.shape}); give one picture a file")


def _read_medical(path: Path) -> tuple[npt.NDArray[Any], sitk.Image]:
    """(C, *spatial) as stored, and the image for its geometry."""
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read as an image; it is damaged, cut short or of another type") from error
    stored = sitk.GetArrayFromImage(image)
    return (np.moveaxis(stored, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else stored[None]), image


def _read_jsrt(path: Path) -> npt.NDArray[Any]:
    """(1, 2048, 2048) of the original JSRT files, in which 0 is the whitest value."""
    side = 2048
    if path.stat().st_size != 2 * side * side:
        raise ValueError(f"{path} is no JSRT image: {2 * side * side} bytes expected, {path.stat().st_size} found")
    return np.fromfile(path, dtype=">u2").reshape(1, side, side)


def _fixed_range(stored: npt.NDArray[Any], intensity_range: tuple[float, float] | None) -> npt.NDArray[np.float32]:
    if intensity_range is not None:
        low, high = intensity_range
        return np.clip((stored.astype(np.float64) - low) / (high - low), 0.0, 1.0).astype(np.float32)
    if stored.dtype == np.bool_:
        return stored.astype(np.float32)
    if stored.dtype in (np.uint8, np.uint16):
        return (stored.astype(np.float64) / np.iinfo(stored.dtype).max).astype(np.float32)
    return stored.astype(np.float32)


def _with_channels(pixels: npt.NDArray[np.float32], channels: int, path: Path) -> npt.NDArray[np.float32]:
    """Compose opacity over black, recognize grey stored as color, and check the number of channels."""
    if pixels.shape[0] in (2, 4):
        pixels = pixels[:-1] * pixels[-1:]
    if pixels.shape[0] == 3 and channels == 1 and np.ptp(pixels, axis=0).max(initial=0.0) <= GREY_TOLERANCE:
        pixels = pixels.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
    if pixels.shape[0] != channels:
        kind = {1: "one channel (grey)", 3: "three channels (color)"}.get(channels, f"{channels} channels")
        raise ValueError(f"{path} has {pixels.shape[0]} channels where {kind} is wanted; convert it first")
    return np.ascontiguousarray(pixels)


class LoadPicture(Transform):  # type: ignore[misc]
    """Load an image file by `read_image`, as a MetaTensor (C, *spatial) float32 that knows its file name.

    Unlike MONAI's ``LoadImage`` it scales by a fixed range, keeps rows before columns, and resolves palettes, opacity
    and 16-bit files, so that the pixel values have the unit that sigma is stated in.

    Args:
        channels: 1 for grey, 3 for RGB.
        intensity_range: see `read_image`.
    """

    def __init__(self, channels: int = 1, intensity_range: tuple[float, float] | None = None) -> None:
        self.channels = channels
        self.intensity_range = intensity_range

    def __call__(self, path: str | Path) -> MetaTensor:
        """Load one file."""
        image = read_image(path, self.channels, self.intensity_range)
        return MetaTensor(torch.from_numpy(image.pixels), meta={"filename_or_obj": str(path)})


class LoadMask(Transform):  # type: ignore[misc]
    """Load the union of binary mask files (left and right lung, say) as a MetaTensor (1, H, W) of 0.0 and 1.0.

    A pixel belongs to the mask where its value exceeds 127 of 255, as masks stored as JPEG need.
    """

    def __call__(self, paths: str | Path | Sequence[str | Path]) -> MetaTensor:
        """Load one mask from one or several files.

        Raises:
            ValueError: if the files differ in size.
        """
        files = [paths] if isinstance(paths, str | Path) else list(paths)
        masks = [read_image(file).pixels > 127 / 255 for file in files]
        if len({mask.shape for mask in masks}) != 1:
            raise ValueError(f"the masks {', '.join(map(str, files))} differ in size")
        union = np.logical_or.reduce(masks).astype(np.float32)
        return MetaTensor(torch.from_numpy(union), meta={"filename_or_obj": str(files[0])})


class LoadPictured(MapTransform):  # type: ignore[misc]
    """Dictionary twin of `LoadPicture`."""

    def __init__(
        self,
        keys: KeysCollection,
        channels: int = 1,
        intensity_range: tuple[float, float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadPicture(channels, intensity_range)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Load the files that the keys name."""
        return {**data, **{key: self.load(data[key]) for key in self.key_iterator(data)}}


class LoadMaskd(MapTransform):  # type: ignore[misc]
    """Dictionary twin of `LoadMask`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadMask()

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Load the masks that the keys name."""
        return {**data, **{key: self.load(data[key]) for key in self.key_iterator(data)}}
