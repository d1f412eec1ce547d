# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Small copies of the public data sets in the layouts that their makers publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ORGANS = ("left lung", "right lung", "heart")
FOLDERS = {
    "montgomery": "MontgomerySet",
    "shenzhen": "ChinaSet_AllFiles",
    "jsrt": "JSRT",
    "isic2018": "ISIC2018",
    "cvc_clinicdb": "CVC-ClinicDB",
    "kvasir_seg": "Kvasir-SEG",
}


def picture(path: Path, value: int = 0) -> None:
    """A small picture; with a value, one bright block in those rows, so that masks can be told apart."""
    pixels = np.zeros((64, 64), np.uint8)
    if value:
        pixels[8 * value : 8 * value + 8] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def strange_files(folder: Path) -> None:
    """What archives and systems leave between the images."""
    for name in (
        "Thumbs.db",
        "LICENSE.txt",
        "ATTRIBUTION.txt",
        ".DS_Store",
        "._MCUCXR_0001_0.png",
        "._1.tif",
        "._a.jpg",
    ):
        (folder / name).write_text("no image")


def montgomery_files(root: Path) -> None:
    for name in ("MCUCXR_0002_0", "MCUCXR_0001_0", "MCUCXR_0104_1"):
        picture(root / "MontgomerySet" / "CXR_png" / f"{name}.png")
        for row, side in enumerate(("leftMask", "rightMask"), start=1):
            picture(root / "MontgomerySet" / "ManualMask" / side / f"{name}.png", row)
    strange_files(root / "MontgomerySet" / "CXR_png")


def shenzhen_files(root: Path, masks: str = "mask") -> None:
    for name in ("CHNCXR_0001_0", "CHNCXR_0002_0", "CHNCXR_0330_1"):
        picture(root / "ChinaSet_AllFiles" / "CXR_png" / f"{name}.png")
    for name in ("CHNCXR_0001_0", "CHNCXR_0330_1"):
        picture(root / "ChinaSet_AllFiles" / masks / f"{name}_mask.png", 1)


def jsrt_files(root: Path) -> None:
    """The converted form: small PNG everywhere, SCR's two folds."""
    for fold, name in (("fold1", "JPCLN001"), ("fold2", "JPCLN002"), ("fold1", "JPCNN001")):
        picture(root / "JSRT" / "images" / f"{name}.png")
        for row, organ in enumerate(ORGANS, start=1):
            picture(root / "JSRT" / "SCR" / fold / "masks" / organ / f"{name}.png", row)


def jsrt_original_files(root: Path) -> None:
    """The published form: headerless .IMG beside SCR's archive, a folder called scratch of masks in GIF."""
    for fold, name in (("fold1", "JPCLN001"), ("fold2", "JPCLN002")):
        path = root / "JSRT" / "All247images" / f"{name}.IMG"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.full((2048, 2048), 4095, dtype=">u2").tofile(path)
        for row, organ in enumerate(ORGANS, start=1):
            picture(root / "JSRT" / "scratch" / fold / "masks" / organ / f"{name}.gif", row)


def isic2018_files(root: Path, *parts: str, folder: str = "ISIC2018", suffix: str = ".jpg") -> None:
    for number, part in enumerate(parts):
        images = root / folder / f"ISIC2018_Task1-2_{part}_Input"
        masks = root / folder / f"ISIC2018_Task1_{part}_GroundTruth"
        for name in (f"ISIC_000{number}003", f"ISIC_000{number}001"):
            picture(images / f"{name}{suffix}")
            picture(masks / f"{name}_segmentation.png", 1)
        strange_files(images)
        strange_files(masks)


def cvc_clinicdb_files(root: Path, suffix: str = ".tif", masks: str | None = None, folder: str = ".") -> None:
    for frame in (1, 2, 10, 26):
        picture(root / "CVC-ClinicDB" / folder / "Original" / f"{frame}{suffix}")
        picture(root / "CVC-ClinicDB" / folder / "Ground Truth" / f"{frame}{masks or suffix}", 1)
    strange_files(root / "CVC-ClinicDB" / folder / "Original")
    (root / "CVC-ClinicDB" / "metadata.csv").write_text("frame_id,sequence_id\n")


def cvc_clinicdb_files_of_both_kinds(root: Path, *folders: str) -> None:
    for suffix, folder in zip((".png", ".tif"), folders, strict=True):
        cvc_clinicdb_files(root, suffix, folder=folder)


def kvasir_seg_files(root: Path, suffix: str = ".jpg") -> None:
    for name in ("cju2", "cju0", "ck2b"):
        picture(root / "Kvasir-SEG" / "images" / f"{name}{suffix}")
        picture(root / "Kvasir-SEG" / "masks" / f"{name}.jpg", 1)
    strange_files(root / "Kvasir-SEG" / "images")
    (root / "Kvasir-SEG" / "kvasir_bboxes.json").write_text("{}")


@dataclass(frozen=True)
class Layout:
    """One published layout.

    Args:
        dataset: the set.
        write: writes a small copy below a folder.
        ids: its images in the order in which they are listed.
    """

    dataset: str
    write: Callable[[Path], None]
    ids: tuple[str, ...]


MONTGOMERY = ("MCUCXR_0001_0", "MCUCXR_0002_0", "MCUCXR_0104_1")
SHENZHEN = ("CHNCXR_0001_0", "CHNCXR_0330_1")
TRAINING, TEST = ("ISIC_0000001", "ISIC_0000003"), ("ISIC_0001001", "ISIC_0001003")
FRAMES = ("1", "2", "10", "26")
KVASIR = ("cju0", "cju2", "ck2b")
LAYOUTS = {
    "Montgomery": Layout("montgomery", montgomery_files, MONTGOMERY),
    "Shenzhen": Layout("shenzhen", shenzhen_files, SHENZHEN),
    "Shenzhen, masks as published": Layout("shenzhen", lambda root: shenzhen_files(root, "mask/mask"), SHENZHEN),
    "JSRT": Layout("jsrt", jsrt_files, ("JPCLN001", "JPCLN002", "JPCNN001")),
    "JSRT as published": Layout("jsrt", jsrt_original_files, ("JPCLN001", "JPCLN002")),
    "ISIC 2018": Layout("isic2018", lambda root: isic2018_files(root, "Training"), TRAINING),
    "ISIC 2018, two parts": Layout("isic2018", lambda root: isic2018_files(root, "Training", "Test"), TRAINING + TEST),
    "ISIC 2018, upper case": Layout("isic2018", lambda root: isic2018_files(root, "Training", suffix=".JPG"), TRAINING),
    "CVC-ClinicDB": Layout("cvc_clinicdb", cvc_clinicdb_files, FRAMES),
    "CVC-ClinicDB in PNG": Layout("cvc_clinicdb", lambda root: cvc_clinicdb_files(root, ".png"), FRAMES),
    "CVC-ClinicDB, upper case": Layout("cvc_clinicdb", lambda root: cvc_clinicdb_files(root, ".TIFF"), FRAMES),
    "CVC-ClinicDB, masks in PNG": Layout("cvc_clinicdb", lambda root: cvc_clinicdb_files(root, ".tif", ".png"), FRAMES),
    "CVC-ClinicDB, TIFF below TIF": Layout("cvc_clinicdb", lambda root: cvc_clinicdb_files(root, folder="TIF"), FRAMES),
    "CVC-ClinicDB of both kinds, apart": Layout(
        "cvc_clinicdb", lambda root: cvc_clinicdb_files_of_both_kinds(root, "PNG", "TIF"), FRAMES
    ),
    "CVC-ClinicDB of both kinds, mixed": Layout(
        "cvc_clinicdb", lambda root: cvc_clinicdb_files_of_both_kinds(root, ".", "."), FRAMES
    ),
    "Kvasir-SEG": Layout("kvasir_seg", kvasir_seg_files, KVASIR),
    "Kvasir-SEG, upper case": Layout("kvasir_seg", lambda root: kvasir_seg_files(root, ".JPG"), KVASIR),
}
