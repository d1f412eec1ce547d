# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What the datalists of all published layouts share: folders, files, items, splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_cert.data.splits import read_split

__all__ = ["Item", "find_folder", "find_images", "find_masks", "list_sets", "make_item"]

Item = dict[str, Any]


def list_sets(
    known: Mapping[str, Callable[[str | Path], list[Item]]],
    datasets: str | Iterable[str],
    root: str | Path,
    splits: str | Path | None = None,
    split: str | None = None,
    groups: Mapping[str, Callable[[str], str]] | None = None,
    partial: bool = False,
) -> list[Item]:
    """List one or several sets, restricted to a split if one is given.

    Args:
        known: the sets there are: a name and the function that lists its folder.
        datasets: names out of these.
        root: the folder that holds the sets' folders (or, for one set, its own).
        splits: CSV file with the columns ``dataset,id,split``.
        split: name of the split to keep; goes with ``splits``.
        groups: for sets whose images belong together: see ``group`` of `read_split`.
        partial: leave out the images that the split names but the folder lacks, as in a copy of a part of a set.

    Returns:
        One dictionary an image (``id``, ``dataset``, ``image``, ``label``, and what the set has besides), in the order
        of the names and, within a set, of the table of splits or of the ids.

    Raises:
        FileNotFoundError: for a missing folder, mask, or image that the split names; with ``partial``, if it lacks all
            images of the split.
        ValueError: for an unknown set, a split without images, a group that the table of splits separates, or only one
            of ``splits`` and ``split``.
    """
    if (splits is None) != (split is None):
        raise ValueError(f"splits and split go together, got {splits!r} and {split!r}")
    names = [datasets] if isinstance(datasets, str) else list(datasets)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown data set {unknown[0]!r}; known are {', '.join(known)}")
    items: list[Item] = []
    for name in names:
        found = known[name](root)
        if splits is not None and split is not None:
            found = read_split(splits, name, split, (groups or {}).get(name)).select(found, partial, root)
        items += found
    return items


def find_folder(root: str | Path, name: str, part: str) -> Path:
    """The set's own folder: root itself or the folder of that name in it.

    Args:
        root: where to look.
        name: the folder's name as published.
        part: what it must hold; nothing in particular if empty.

    Raises:
        FileNotFoundError: if there is no such folder, or it lacks that part.
    """
    root = Path(root)
    folder = root / name if (root / name).is_dir() else root
    if not folder.is_dir():
        raise FileNotFoundError(f"{root} does not exist; it should be the folder {name} or the one that holds it")
    if part and not (folder / part).is_dir():
        raise FileNotFoundError(f"{folder} has no folder {part}; it should be {name} as published, or hold it")
    return folder


def find_images(folder: Path, *suffixes: str) -> list[Path]:
    """Files of a folder with one of the suffixes, sorted, one of each stem; hidden ones are left out.

    Args:
        folder: where to look.
        suffixes: in lower case, found in any; of several files of one stem the one whose suffix stands first is taken.

    Raises:
        FileNotFoundError: if there is none.
    """
    files = [f for f in folder.glob("[!.]*") if f.suffix.lower() in suffixes] if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{folder} holds no {' or '.join(suffixes)} images")
    last_is_first = sorted(files, key=lambda file: suffixes.index(file.suffix.lower()), reverse=True)
    return sorted({file.stem: file for file in last_is_first}.values())


def find_masks(folder: Path, images: list[Path], *suffixes: str, ending: str = "") -> list[Path]:
    """The mask of each image: the file of its stem and that ending, found as `find_images` does.

    Where there is none, its path would be the one with the first suffix: `make_item` will refuse it by that name.

    Raises:
        FileNotFoundError: if there is no mask at all.
    """
    masks = {mask.stem: mask for mask in find_images(folder, *suffixes)}
    expected = [folder / f"{image.stem}{ending}{suffixes[0]}" for image in images]
    return [masks.get(mask.stem, mask) for mask in expected]


def make_item(dataset: str, image: Path, masks: list[Path]) -> Item:
    """The dictionary of one image and its masks.

    Raises:
        FileNotFoundError: if a mask is missing.
    """
    for mask in masks:
        if not mask.is_file():
            raise FileNotFoundError(f"{mask}, a mask of {image.name}, is missing: the folder is incomplete")
    return {"id": image.stem, "dataset": dataset, "image": str(image), "label": [str(mask) for mask in masks]}
