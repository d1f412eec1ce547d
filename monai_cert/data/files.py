# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Reading pictures and medical images into fixed-range, channel-first arrays."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from PIL import Image, ImageOps
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile

from monai_cert.bounds import Bounds

__all__ = [
    "IMAGE_SUFFIXES",
    "LoadPicture",
    "LoadPictured",
    "is_medical",
    "list_images",
    "read_image",
    "read_stored",
    "stem",
]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
MEDICAL_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd")
JSRT_SUFFIX = ".img"
IMAGE_SUFFIXES = PICTURE_SUFFIXES + MEDICAL_SUFFIXES + (JSRT_SUFFIX,)

# Pillow's modes, TIFF's photometric interpretations and the codecs that need no conversion or further package.
PIXELS_AS_STORED = ("1", "L", "LA", "I;16", "I", "F", "RGB", "RGBA")
TIFF_AS_STORED = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB)
TIFF_CODECS = (COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.PACKBITS)

# What brings pixels (H, W) or (H, W, C) of each orientation tag upright, as Pillow does with all but these TIFF files.
UPRIGHT: dict[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: np.swapaxes(stored, 0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(np.swapaxes(stored, 0, 1), 2),
    8: np.rot90,
}

# The largest difference between colour channels that JPEG compression leaves in a grey picture.
GREY_TOLERANCE = 8 / 255


def is_medical(path: str | Path) -> bool:
    """Whether a file name is that of a NIfTI or MetaImage file, which has a geometry."""
    return str(path).lower().endswith(MEDICAL_SUFFIXES)


def stem(path: str | Path) -> str:
    """File name without its image suffix (both parts of .nii.gz)."""
    name = Path(path).name
    return name[:-7] if name.lower().endswith(".nii.gz") else Path(name).stem


def list_images(folder: str | Path) -> list[Path]:
    """Image files of known types in a folder, sorted; hidden files are left out.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist")
    found = [f for f in sorted(folder.iterdir()) if f.name.lower().endswith(IMAGE_SUFFIXES) and f.name[0] != "."]
    if not found:
        raise FileNotFoundError(f"the folder {folder} holds no image of a known type ({' '.join(IMAGE_SUFFIXES)})")
    return found


def read_image(
    path: str | Path,
    channels: int = 1,
    intensity_range: tuple[float, float] | None = None,
    minimum_size: int = 1,
    spatial_dims: int | None = None,
) -> npt.NDArray[np.float32]:
    """Read an image file and scale it by a *fixed* range, never by its own minimum and maximum.

    Unsigned pixels are divided by the largest value of their type (8-bit by 255, 16-bit by 65535), pixels of all other
    types are taken as they are. Palettes are resolved, opacity channels composed over black, TIFF files in which 0 is
    white inverted, pictures turned upright as the orientation tag of a camera says, and grey pictures that were stored
    as RGB are recognized. ``.IMG`` is the headerless 2048x2048 big-endian 12-bit form of JSRT.

    Args:
        path: PNG, JPEG, TIFF, BMP, GIF, NIfTI, MetaImage or JSRT .IMG.
        channels: 1 for grey, 3 for RGB.
        intensity_range: stored values that become 0 and 1, for files whose values do not fill their type (a 12-bit
            radiograph in a 16-bit file); values outside are clipped.
        minimum_size: least number of pixels a side.
        spatial_dims: 2 or 3 to refuse the other; a medical file of one slice counts as 2. Either if None.

    Returns:
        (C, *spatial) float32 in [0, 1]; rows before columns, slices first.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, unreadable, of an unknown type, of other channels or dimensions than asked for, or
            has pixels that are not finite or, if floating-point, outside [0, 1]; the message names the file.
    """
    path = Path(path)
    if intensity_range is None and path.name.lower().endswith(JSRT_SUFFIX):
        intensity_range = (4095.0, 0.0)
    pixels = _fixed_range(read_stored(path), intensity_range)
    if spatial_dims is not None and pixels.ndim - 1 != spatial_dims:
        shape = " x ".join(map(str, pixels.shape[1:]))
        raise ValueError(f"{path} has {pixels.ndim - 1} dimensions ({shape}) where {spatial_dims} are wanted")
    if min(pixels.shape[1:]) < minimum_size:
        raise ValueError(
            f"{path} is too small ({' x '.join(map(str, pixels.shape[1:]))} pixels): every side needs "
            f"{minimum_size} at least"
        )
    Bounds(0.0, 1.0).check(pixels, str(path))
    return _with_channels(pixels, channels, path)


def read_stored(path: str | Path) -> npt.NDArray[Any]:
    """Read the numbers that an image file stores: (C, *spatial), in the file's type, otherwise as `read_image` does.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, unreadable or of an unknown type; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is a folder, not an image" if path.is_dir() else f"{path} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    name = path.name.lower()
    if name.endswith(MEDICAL_SUFFIXES):
        return _read_medical(path)
    if name.endswith(JSRT_SUFFIX):
        return _read_jsrt(path)
    if name.endswith(PICTURE_SUFFIXES):
        return _read_picture(path)
    raise ValueError(f"{path} is no image of a known type ({' '.join(IMAGE_SUFFIXES)})")


def _unreadable(path: Path) -> ValueError:
    return ValueError(f"{path} cannot be read as an image; it is damaged, cut short or of another type")


def _read_picture(path: Path) -> npt.NDArray[Any]:
    """(C, H, W) as stored, without palette and opacity."""
    try:
        stored, pages = (_decode_tiff if path.suffix.lower() in (".tif", ".tiff") else _decode)(path)
    except Exception as error:  # the readers raise whatever they like, from SyntaxError to struct.error
        raise _unreadable(path) from error
    if pages != 1:
        raise ValueError(f"{path} holds several pages ({pages}); give one picture a file")
    return _over_black(np.moveaxis(np.atleast_3d(stored), -1, 0))


def _decode(path: Path) -> tuple[npt.NDArray[Any], int]:
    """One picture (H, W) or (H, W, C) as stored, and the number of pages in the file."""
    with Image.open(path) as image:
        # MPO is what phones and cameras call a JPEG that carries previews of itself.
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode not in PIXELS_AS_STORED:
            return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB")), pages
        # PNG has no 32-bit pixels, but older Pillows give 16-bit ones in that type.
        short = image.format == "PNG" and image.mode == "I"
        return np.asarray(image, dtype=np.uint16 if short else None), pages


def _decode_tiff(path: Path) -> tuple[npt.NDArray[Any], int]:
    """As `_decode`; 16-bit color and floating-point pixels keep their precision where no rare codec is needed."""
    with TiffFile(path) as tiff:
        pages = sum(
            math.prod(length for axis, length in zip(series.axes, series.shape, strict=True) if axis not in "YXS")
            for series in tiff.series
        )
        page = tiff.pages.first
        white_is_zero = page.photometric == PHOTOMETRIC.MINISWHITE
        if page.photometric in TIFF_AS_STORED and page.compression in TIFF_CODECS:
            stored = np.moveaxis(page.asarray(), 0, -1) if page.axes == "SYX" else page.asarray()
            stored = UPRIGHT.get(page.tags.valueof("Orientation", default=1), np.asarray)(stored)
            return stored ^ stored.dtype.type(2**page.bitspersample - 1) if white_is_zero else stored, pages
        if white_is_zero and page.bitspersample > 8:
            raise ValueError("Pillow does not invert 16-bit pixels in which 0 is white")
    return _decode(path)[0], pages


def _over_black(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Compose opacity, the last of two or four channels, over black."""
    if stored.shape[0] not in (2, 4):
        return stored
    composed = stored[:-1] * _fixed_range(stored[-1:], None)
    return (composed if stored.dtype.kind == "f" else np.rint(composed)).astype(stored.dtype)


def _read_medical(path: Path) -> npt.NDArray[Any]:
    """(C, *spatial) as stored; a single slice is a picture."""
    try:
        image = sitk.ReadImage(str(path))
        finite = _nifti_is_finite(path, image) if path.name.lower().endswith((".nii", ".nii.gz")) else True
    except (RuntimeError, EOFError, OSError, zlib.error) as error:
        raise _unreadable(path) from error
    if not finite:
        raise ValueError(f"{path} has pixels that are NaN or infinite; repair or leave out the image")
    if image.GetDimension() > 3:
        raise ValueError(f"{path} holds several volumes (size {image.GetSize()}); give one volume a file")
    stored: npt.NDArray[Any] = sitk.GetArrayFromImage(image)
    stored = np.moveaxis(stored, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else stored[None]
    return stored[:, 0] if stored.ndim == 4 and stored.shape[1] == 1 else stored


def _nifti_is_finite(path: Path, image: sitk.Image) -> bool:
    """Look at the bytes themselves: SimpleITK reads what is missing from a NIfTI file, and NaN, as zero.

    Raises:
        EOFError: if the file was cut short.
    """
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        raw = file.read()
    field = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    count = math.prod(int(field[f"dim[{axis}]"]) for axis in range(1, int(field["dim[0]"]) + 1))
    start = int(float(field["vox_offset"]))
    if len(raw) < start + count * int(field["bitpix"]) // 8:
        raise EOFError
    order = "<" if int.from_bytes(raw[:4], "little") == 348 else ">"
    floating = {"16": "f4", "64": "f8"}.get(field["datatype"])
    return floating is None or bool(np.isfinite(np.frombuffer(raw, order + floating, count, start)).all())


def _read_jsrt(path: Path) -> npt.NDArray[Any]:
    """(1, 2048, 2048) of the original JSRT files, in which 0 is the whitest value."""
    side = 2048
    if path.stat().st_size != 2 * side * side:
        raise ValueError(f"{path} is no JSRT image: {2 * side * side} bytes expected, {path.stat().st_size} found")
    return np.fromfile(path, dtype=">u2").reshape(1, side, side)


def _fixed_range(stored: npt.NDArray[Any], intensity_range: tuple[float, float] | None) -> npt.NDArray[np.float32]:
    if intensity_range is not None and not (np.isfinite(intensity_range).all() and np.ptp(intensity_range)):
        raise ValueError(f"intensity_range must be two different finite numbers, got {tuple(intensity_range)}")
    if stored.dtype in (np.uint8, np.uint16):
        # A table of all values, not arithmetic in float64 on all pixels: photographs are large.
        values = np.arange(np.iinfo(stored.dtype).max + 1)
        pixels: npt.NDArray[np.float32] = _scaled(values, intensity_range or (0, values[-1]))[stored]
        return pixels
    return stored.astype(np.float32) if intensity_range is None else _scaled(stored, intensity_range)


def _scaled(stored: npt.NDArray[Any], intensity_range: tuple[float, float]) -> npt.NDArray[np.float32]:
    low, high = intensity_range
    scaled = (stored.astype(np.float64) - low) / (high - low)
    # An infinite pixel stays one, to be refused.
    return np.where(np.isinf(scaled), scaled, np.clip(scaled, 0.0, 1.0)).astype(np.float32)


def _with_channels(pixels: npt.NDArray[np.float32], channels: int, path: Path) -> npt.NDArray[np.float32]:
    """Recognize grey stored as color, and check the number of channels."""
    if pixels.shape[0] == 3 and channels == 1 and np.ptp(pixels, axis=0).max(initial=0.0) <= GREY_TOLERANCE:
        pixels = pixels.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
    found = pixels.shape[0]
    if found != channels:
        kinds = {1: "one channel (grey)", 3: "three channels (color)"}
        mend = {
            (3, 1): "convert it to grey, or take a bundle for color images",
            (1, 3): "give the color image, or take a bundle for grey images",
        }.get((found, channels), "convert it first")
        raise ValueError(
            f"{path} has {kinds.get(found, f'{found} channels')} where {kinds.get(channels, f'{channels} channels')} "
            f"{'is' if channels == 1 else 'are'} wanted; {mend}"
        )
    return np.ascontiguousarray(pixels)


class LoadPicture(Transform):
    """Load an image file by `read_image`, as a MetaTensor (C, *spatial) float32 that knows its file name.

    Unlike MONAI's ``LoadImage`` it scales by a fixed range, keeps rows before columns, and resolves palettes, opacity
    and 16-bit files, so that the pixel values have the unit that sigma is stated in.

    Args:
        channels: 1 for grey, 3 for RGB.
        intensity_range: see `read_image`.
        minimum_size: see `read_image`.
        spatial_dims: see `read_image`.
    """

    def __init__(
        self,
        channels: int = 1,
        intensity_range: tuple[float, float] | None = None,
        minimum_size: int = 1,
        spatial_dims: int | None = None,
    ) -> None:
        if intensity_range is not None and intensity_range[0] == intensity_range[1]:
            raise ValueError(f"the intensity range must have two different values, got {tuple(intensity_range)}")
        self.channels = channels
        self.intensity_range = intensity_range
        self.minimum_size = minimum_size
        self.spatial_dims = spatial_dims

    def __call__(self, path: str | Path) -> MetaTensor:
        """Load one file."""
        pixels = read_image(path, self.channels, self.intensity_range, self.minimum_size, self.spatial_dims)
        return MetaTensor(torch.from_numpy(pixels), meta={"filename_or_obj": str(path)})


class LoadPictured(MapTransform):
    """Dictionary twin of `LoadPicture`."""

    def __init__(
        self,
        keys: KeysCollection,
        channels: int = 1,
        intensity_range: tuple[float, float] | None = None,
        minimum_size: int = 1,
        spatial_dims: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadPicture(channels, intensity_range, minimum_size, spatial_dims)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Load the files that the keys name."""
        return {**data, **{key: self.load(data[key]) for key in self.key_iterator(data)}}
