# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Datalists of public chest radiograph sets with lung masks, in the layouts that their makers publish.

| function | set | layout below the folder |
|---|---|---|
| `montgomery` | Montgomery (Jaeger et al. 2014) | ``CXR_png``, ``ManualMask/leftMask``, ``ManualMask/rightMask`` |
| `shenzhen` | Shenzhen (Jaeger et al. 2014), masks by Stirenko et al. 2018 | ``CXR_png``, ``mask`` (or ``mask/mask``) |
| `jsrt` | JSRT (Shiraishi et al. 2000), SCR (van Ginneken et al. 2006) | ``images`` or ``All247images``, ``SCR`` |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from monai_cert.data.layouts import Item, find_folder, find_images, list_sets, make_item

__all__ = ["CHEST_XRAY_SETS", "chest_xray_datalist", "jsrt", "montgomery", "shenzhen"]


def montgomery(root: str | Path) -> list[Item]:
    """List the Montgomery set.

    Args:
        root: the folder ``MontgomerySet``, or the one that holds it.

    Returns:
        One dictionary an image: ``id``, ``dataset``, ``image`` (path), ``label`` (paths of both lung masks).

    Raises:
        FileNotFoundError: if the folder, a part of it, or the mask of an image is missing.
    """
    folder = find_folder(root, "MontgomerySet", "CXR_png")
    masks = folder / "ManualMask"
    return [
        make_item("montgomery", image, [masks / side / f"{image.stem}.png" for side in ("leftMask", "rightMask")])
        for image in find_images(folder / "CXR_png", ".png")
    ]


def shenzhen(root: str | Path) -> list[Item]:
    """List the Shenzhen set; of the 662 published radiographs, the ones without a published mask are left out.

    Args:
        root: the folder ``ChinaSet_AllFiles``, or the one that holds it.

    Returns:
        See `montgomery`.

    Raises:
        FileNotFoundError: if the folder or a part of it is missing, or no image has a mask.
    """
    folder = find_folder(root, "ChinaSet_AllFiles", "CXR_png")
    masks = folder / "mask" / "mask" if (folder / "mask" / "mask").is_dir() else folder / "mask"
    pairs = [(image, masks / f"{image.stem}_mask.png") for image in find_images(folder / "CXR_png", ".png")]
    items = [make_item("shenzhen", image, [mask]) for image, mask in pairs if mask.is_file()]
    if not items:
        raise FileNotFoundError(f"{masks} holds no mask (ID_mask.png) of any image in {folder / 'CXR_png'}")
    return items


def jsrt(root: str | Path) -> list[Item]:
    """List the JSRT set with the lung masks of SCR, original (.IMG, .gif) or converted (.png).

    Args:
        root: the folder ``JSRT``, or the one that holds it.

    Returns:
        See `montgomery`; also ``heart``, the path of the heart mask, and ``organs``, the paths of the masks of the
        patient's right lung, left lung (at the right of the image) and heart, as `LoadClasses` reads them.

    Raises:
        FileNotFoundError: if the folder, a part of it, or the mask of an image is missing.
    """
    folder = find_folder(root, "JSRT", "")
    images = folder / "images" if (folder / "images").is_dir() else folder / "All247images"
    items = []
    for image in find_images(images, ".png", ".img"):
        masks = {organ: _scr_mask(folder, organ, image.stem) for organ in ("left lung", "right lung", "heart")}
        item = make_item("jsrt", image, [masks["left lung"], masks["right lung"]])
        organs = [str(masks[organ]) for organ in ("right lung", "left lung", "heart")]
        items.append(item | {"heart": organs[-1], "organs": organs})
    return items


CHEST_XRAY_SETS: dict[str, Callable[[str | Path], list[Item]]] = {
    "montgomery": montgomery,
    "shenzhen": shenzhen,
    "jsrt": jsrt,
}


def chest_xray_datalist(
    datasets: str | Iterable[str], root: str | Path, splits: str | Path | None = None, split: str | None = None
) -> list[Item]:
    """List one or several of `CHEST_XRAY_SETS`, restricted to a split if one is given; see `list_sets`."""
    return list_sets(CHEST_XRAY_SETS, datasets, root, splits, split)


def _scr_mask(folder: Path, organ: str, stem: str) -> Path:
    """SCR keeps odd and even images in two folds; in the original archive the folder is called scratch or scr."""
    tops = [folder / top for top in ("SCR", "scr", "scratch")] + [folder]
    places = [top / fold / "masks" / organ for top in tops for fold in ("fold1", "fold2")]
    found = [mask for place in places for mask in (place / f"{stem}.png", place / f"{stem}.gif") if mask.is_file()]
    return found[0] if found else places[0] / f"{stem}.png"
