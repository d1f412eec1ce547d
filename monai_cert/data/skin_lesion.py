# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Datalist of the public set of dermoscopic photographs with lesion masks, in the layout that its makers publish.

| function | set | layout below the folder |
|---|---|---|
| `isic2018` | ISIC 2018 (Codella et al. 2019) | ``ISIC2018_Task1-2_PART_Input``, ``ISIC2018_Task1_PART_GroundTruth`` |

PART is Training, Validation or Test.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai_cert.data.layouts import Item, find_folder, find_images, find_masks, make_item

__all__ = ["SKIN_LESION_SETS", "isic2018"]

PARTS = ("Training", "Validation", "Test")


def isic2018(root: str | Path) -> list[Item]:
    """List ISIC 2018, task 1: all of its three published parts that are there.

    Args:
        root: the folder ``ISIC2018``, or the one that holds it; also one that holds the published folders themselves.

    Returns:
        One dictionary an image, part by part: ``id``, ``dataset``, ``image`` (path), ``label`` (paths: the lesion's
        mask).

    Raises:
        FileNotFoundError: if the folder is missing, holds no part, or the mask of an image is missing.
    """
    folder = find_folder(root, "ISIC2018", "")
    parts = [part for part in PARTS if (folder / f"ISIC2018_Task1-2_{part}_Input").is_dir()]
    if not parts:
        raise FileNotFoundError(
            f"{folder} has no folder ISIC2018_Task1-2_Training_Input; it should be ISIC2018, or hold it"
        )
    items = []
    for part in parts:
        images = find_images(folder / f"ISIC2018_Task1-2_{part}_Input", ".jpg")
        masks = find_masks(folder / f"ISIC2018_Task1_{part}_GroundTruth", images, ".png", ending="_segmentation")
        items += [make_item("isic2018", image, [mask]) for image, mask in zip(images, masks, strict=True)]
    return items


SKIN_LESION_SETS: dict[str, Callable[[str | Path], list[Item]]] = {"isic2018": isic2018}
