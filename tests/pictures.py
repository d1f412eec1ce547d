# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Small pictures, and what writes them to a file of a kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
import tifffile
from PIL import Image

Array = np.ndarray[Any, Any]
Write = Callable[[Path], object]

# 6 rows, 9 columns, no symmetry; the smooth one is for JPEG, the noise does not compress.
GREY = (np.arange(54, dtype=np.int64) * 37 % 256).astype(np.uint8).reshape(6, 9)
DEEP = (np.arange(54, dtype=np.int64) * 12345 % 65536).astype(np.uint16).reshape(6, 9)
COLOR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
OPACITY = np.linspace(0, 255, 54).astype(np.uint8).reshape(6, 9)
FLOAT = np.linspace(0, 1, 54, dtype=np.float32).reshape(6, 9)
BINARY = GREY > 127
SMOOTH = (np.add.outer(np.linspace(0, 100, 32), np.linspace(0, 120, 48))).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 50), dtype=np.uint8)
VOLUME = (np.arange(60) * 4).astype(np.uint8).reshape(3, 4, 5)  # slices, rows, columns


def pil(pixels: Array, **options: Any) -> Write:
    return lambda path: Image.fromarray(pixels).save(path, **options)


def palette(pixels: Array, **options: Any) -> Write:
    return lambda path: Image.fromarray(pixels).quantize(54, dither=Image.Dither.NONE).save(path, **options)


def tif(pixels: Array, **options: Any) -> Write:
    return lambda path: tifffile.imwrite(path, pixels, **options)


def itk(pixels: Array, vector: bool = False) -> Write:
    return lambda path: SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=vector), str(path))


def nifti(pixels: Array) -> Write:
    """By nibabel, whose arrays go columns, rows, slices."""
    return lambda path: nibabel.save(nibabel.Nifti1Image(pixels.T, np.eye(4)), path)


def stack(*pages: Array) -> Write:
    first, *others = (Image.fromarray(page) for page in pages)
    return lambda path: first.save(path, save_all=True, append_images=others)
