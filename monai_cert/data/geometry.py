# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""How large the pixels of a file are, where it says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image
from tifffile import TiffFile

from monai_cert.data.files import is_medical
from monai_cert.data.phantoms import PHANTOM

__all__ = ["file_spacing", "spacing_of_map"]


def file_spacing(path: str | Path) -> tuple[float, ...] | None:
    """Millimeters from pixel to pixel along each axis, rows before columns and slices first, as the file states them.

    NIfTI files state it where they have a unit or an orientation, MetaImage files where the header has the element
    spacing. Pictures never do: the resolution that some carry is that of a screen or printer, not of a patient.

    Returns:
        As many numbers as the file has axes, one of length 1 among three left out; None if nothing is stated.
    """
    if not is_medical(path):
        return None
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if str(path).lower().endswith((".mha", ".mhd")):
        with Path(path).open("rb") as file:
            header = file.read(4096).partition(b"ElementDataFile")[0]
        stated = b"ElementSpacing" in header or b"ElementSize" in header
    else:
        known = set(reader.GetMetaDataKeys())
        fields = [reader.GetMetaData(key) for key in ("xyzt_units", "qform_code", "sform_code") if key in known]
        stated = any(int(float(field)) != 0 for field in fields)
    if not stated:
        return None
    spacing: tuple[float, ...] = reader.GetSpacing()[::-1]
    size = reader.GetSize()[::-1]
    return spacing[1:] if len(size) == 3 and size[0] == 1 else spacing


def spacing_of_map(
    source: str | Path, shape: Sequence[int], given: Sequence[float] | None = None
) -> tuple[float, ...] | None:
    """Millimeters from pixel to pixel of a label map that was laid over the whole field of view of a file.

    Args:
        source: the file, or `PHANTOM`, whose pixels are those of the map.
        shape: (*spatial) of the map.
        given: spacing of the file's pixels, in place of what the file states.

    Returns:
        A number an axis; None if neither the file nor ``given`` states it.

    Raises:
        ValueError: if the numbers given are not positive, or not one an axis.
    """
    spacing = (None if source == PHANTOM else file_spacing(source)) if given is None else tuple(given)
    if spacing is None:
        return None
    if len(spacing) != len(shape) or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(
            f"the pixel spacing must be {len(shape)} positive numbers of millimeters, "
            f"{'rows before columns' if len(shape) == 2 else 'slices first'}, got {' '.join(f'{s:g}' for s in spacing)}"
        )
    size = tuple(shape) if source == PHANTOM else _file_shape(source)
    return tuple(step * n / m for step, n, m in zip(spacing, size, shape, strict=True))


def _file_shape(path: str | Path) -> tuple[int, ...]:
    """(*spatial) of a file that is known to be readable."""
    if is_medical(path):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        size: tuple[int, ...] = reader.GetSize()[::-1]
        return size[1:] if len(size) == 3 and size[0] == 1 else size
    if str(path).lower().endswith(".img"):
        side = math.isqrt(Path(path).stat().st_size // np.dtype(np.uint16).itemsize)
        return side, side
    if str(path).lower().endswith((".tif", ".tiff")):
        with TiffFile(path) as tiff:
            page = tiff.pages.first
            return page.imagelength, page.imagewidth
    with Image.open(path) as image:
        return image.height, image.width
