# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Datalists of public colonoscopy sets with polyp masks, in the layouts that their makers publish.

| function | set | layout below the folder |
|---|---|---|
| `cvc_clinicdb` | CVC-ClinicDB (Bernal et al. 2015) | ``Original``, ``Ground Truth``, or both in ``PNG`` or ``TIF`` |
| `kvasir_seg` | Kvasir-SEG (Jha et al. 2020) | ``images``, ``masks``: ID.jpg |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai_cert.data.layouts import Item, find_folder, find_images, find_masks, make_item

__all__ = ["COLONOSCOPY_GROUPS", "COLONOSCOPY_SETS", "cvc_clinicdb", "cvc_sequence", "kvasir_seg"]

# Last frame of each of the 29 sequences of CVC-ClinicDB, which are numbered through (Bernal et al. 2015).
LAST_FRAMES = (25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317, 342, 363, 383, 408, 428, 447, 466,
               478, 503, 528, 546, 571, 591, 612)  # fmt: skip

FRAME_SUFFIXES = (".png", ".tif", ".tiff")


def cvc_sequence(frame: int) -> int:
    """Number, 1 to 29, of the sequence that a frame of CVC-ClinicDB, 1 to 612, was taken from.

    Frames of one sequence show one polyp and nearly the same picture: they belong into one split.

    Raises:
        ValueError: if there is no such frame.
    """
    if not 1 <= frame <= LAST_FRAMES[-1]:
        raise ValueError(f"CVC-ClinicDB has frames 1 to {LAST_FRAMES[-1]}, not {frame}")
    return next(number for number, last in enumerate(LAST_FRAMES, start=1) if frame <= last)


def cvc_clinicdb(root: str | Path) -> list[Item]:
    """List CVC-ClinicDB, whose frames and masks are published as TIFF and as PNG; where both are there, PNG is taken.

    Args:
        root: the folder ``CVC-ClinicDB``, or the one that holds it.

    Returns:
        One dictionary a frame, in their order: ``id``, ``dataset``, ``image`` (path), ``label`` (paths: the polyps'
        mask).

    Raises:
        FileNotFoundError: if the folder or a part of it is missing, or the mask of a frame.
        ValueError: if a picture in ``Original`` is not named by a frame's number.
    """
    folder = find_folder(root, "CVC-ClinicDB", "")
    tops = [top for top in (folder, folder / "PNG", folder / "TIF") if (top / "Original").is_dir()]
    if not tops:
        raise FileNotFoundError(f"{folder} has no folder Original; it should be CVC-ClinicDB as published, or hold it")
    frames = find_images(tops[0] / "Original", *FRAME_SUFFIXES)
    for frame in frames:
        if not frame.stem.isdecimal():
            raise ValueError(f"{frame} is no frame of CVC-ClinicDB: its name is not a number")
    frames.sort(key=lambda frame: int(frame.stem))
    masks = find_masks(tops[0] / "Ground Truth", frames, *FRAME_SUFFIXES)
    return [make_item("cvc_clinicdb", frame, [mask]) for frame, mask in zip(frames, masks, strict=True)]


def kvasir_seg(root: str | Path) -> list[Item]:
    """List Kvasir-SEG, whose masks are JPEG: see `read_mask`.

    Args:
        root: the folder ``Kvasir-SEG``, or the one that holds it.

    Returns:
        One dictionary an image: ``id``, ``dataset``, ``image`` (path), ``label`` (paths: the polyps' mask).

    Raises:
        FileNotFoundError: if the folder or a part of it is missing, or the mask of an image.
    """
    folder = find_folder(root, "Kvasir-SEG", "images")
    images = find_images(folder / "images", ".jpg")
    masks = find_masks(folder / "masks", images, ".jpg")
    return [make_item("kvasir_seg", image, [mask]) for image, mask in zip(images, masks, strict=True)]


def _sequence_name(frame: str) -> str:
    if not frame.isdecimal():
        raise ValueError(f"{frame!r} is no frame of CVC-ClinicDB, which has frames 1 to {LAST_FRAMES[-1]}")
    return f"sequence {cvc_sequence(int(frame))}"


COLONOSCOPY_SETS: dict[str, Callable[[str | Path], list[Item]]] = {
    "cvc_clinicdb": cvc_clinicdb,
    "kvasir_seg": kvasir_seg,
}

# What belongs together, for `list_sets`.
COLONOSCOPY_GROUPS: dict[str, Callable[[str], str]] = {"cvc_clinicdb": _sequence_name}
