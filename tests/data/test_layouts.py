# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Public sets are found in the layouts that their makers publish, and an incomplete one is never silent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layouts import FOLDERS, LAYOUTS, isic2018_files
from monai_cert.data.masks import LoadMask
from monai_cert.data.public_sets import PUBLIC_SETS

IMAGES = {
    "montgomery": "CXR_png",
    "shenzhen": "CXR_png",
    "jsrt": "images",
    "isic2018": "ISIC2018_Task1-2_Training_Input",
    "cvc_clinicdb": "Original",
    "kvasir_seg": "images",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inside", [False, True], ids=["the folder above", "the folder itself"])
def test_every_published_layout_is_listed_in_the_order_of_its_ids(tmp_path: Path, layout: str, inside: bool) -> None:
    name = LAYOUTS[layout].dataset
    LAYOUTS[layout].write(tmp_path)
    items = PUBLIC_SETS[name](tmp_path / FOLDERS[name] if inside else str(tmp_path))
    assert tuple(item["id"] for item in items) == LAYOUTS[layout].ids
    assert {item["dataset"] for item in items} == {name}
    for item in items:
        assert Path(item["image"]).stem == item["id"]
        assert Path(item["image"]).is_file()
        assert all(Path(mask).is_file() and item["id"] in Path(mask).name for mask in item["label"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_label_of_every_layout_is_both_lungs_and_no_heart_or_the_only_mask(tmp_path: Path, layout: str) -> None:
    name = LAYOUTS[layout].dataset
    LAYOUTS[layout].write(tmp_path)
    rows = LoadMask()(PUBLIC_SETS[name](tmp_path)[0]["label"]).numpy()[0].any(axis=1)
    assert np.unique(np.flatnonzero(rows) // 8).tolist() == ([1, 2] if name in ("montgomery", "jsrt") else [1])


def test_items_of_all_sets_have_the_keys_that_a_batch_of_several_sets_needs(tmp_path: Path) -> None:
    for layout in LAYOUTS.values():
        layout.write(tmp_path)
        for item in PUBLIC_SETS[layout.dataset](tmp_path):
            organs = {"heart", "organs"} if layout.dataset == "jsrt" else set()
            assert item.keys() == {"id", "dataset", "image", "label"} | organs


def test_published_folders_of_isic_2018_need_no_folder_around_them(tmp_path: Path) -> None:
    isic2018_files(tmp_path, "Training", "Validation", folder=".")
    assert len(PUBLIC_SETS["isic2018"](tmp_path)) == 4


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_a_missing_folder_is_refused_with_its_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"nowhere does not exist; it should be the folder {FOLDERS[name]}"):
        PUBLIC_SETS[name](tmp_path / "nowhere")


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_a_folder_without_the_set_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        PUBLIC_SETS[name](tmp_path)


@pytest.mark.parametrize(("name", "images"), IMAGES.items())
def test_a_folder_of_no_images_is_refused_by_name(tmp_path: Path, name: str, images: str) -> None:
    (tmp_path / FOLDERS[name] / images).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=rf"{images} holds no \.(png|jpg)"):
        PUBLIC_SETS[name](tmp_path)


@pytest.mark.parametrize(
    ("layout", "mask"),
    [
        ("Montgomery", "MontgomerySet/ManualMask/rightMask/MCUCXR_0002_0.png"),
        ("JSRT", "JSRT/SCR/fold2/masks/left lung/JPCLN002.png"),
        ("JSRT as published", "JSRT/scratch/fold1/masks/right lung/JPCLN001.gif"),
        ("ISIC 2018", "ISIC2018/ISIC2018_Task1_Training_GroundTruth/ISIC_0000003_segmentation.png"),
        ("CVC-ClinicDB", "CVC-ClinicDB/Ground Truth/10.tif"),
        ("CVC-ClinicDB of both kinds, apart", "CVC-ClinicDB/PNG/Ground Truth/2.png"),
        ("Kvasir-SEG", "Kvasir-SEG/masks/cju2.jpg"),
    ],
)
def test_a_missing_mask_is_refused_by_name(tmp_path: Path, layout: str, mask: str) -> None:
    LAYOUTS[layout].write(tmp_path)
    (tmp_path / mask).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{Path(mask).stem}\..*is missing: the folder is incomplete"):
        PUBLIC_SETS[LAYOUTS[layout].dataset](tmp_path)


@pytest.mark.parametrize(
    ("layout", "folder"),
    [
        ("ISIC 2018", "ISIC2018/ISIC2018_Task1_Training_GroundTruth"),
        ("CVC-ClinicDB", "CVC-ClinicDB/Ground Truth"),
        ("Kvasir-SEG", "Kvasir-SEG/masks"),
    ],
)
def test_a_missing_folder_of_masks_is_refused_by_name(tmp_path: Path, layout: str, folder: str) -> None:
    LAYOUTS[layout].write(tmp_path)
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{folder} holds no"):
        PUBLIC_SETS[LAYOUTS[layout].dataset](tmp_path)
