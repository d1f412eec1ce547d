# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Chest radiograph sets: lungs are both lungs, a heart is a heart, and what nobody outlined is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from layouts import jsrt_files, jsrt_original_files, shenzhen_files
from monai_cert.data.chest_xray import CHEST_XRAY_SETS, chest_xray_datalist, jsrt, shenzhen
from monai_cert.data.files import LoadPicture
from monai_cert.data.masks import LoadClasses, LoadMask


def test_the_organs_of_jsrt_are_right_lung_left_lung_and_heart(tmp_path: Path) -> None:
    jsrt_files(tmp_path)
    item = jsrt(tmp_path)[0]
    assert np.unique(np.flatnonzero(LoadMask()(item["heart"]).numpy()[0].any(axis=1)) // 8).tolist() == [3]
    # The blocks of the masks are in the order of ORGANS: left lung, right lung, heart.
    assert LoadClasses()(item["organs"]).numpy()[0, 8:32:8, 0].tolist() == [2, 1, 3]


def test_an_original_jsrt_image_loads_with_zero_as_white(tmp_path: Path) -> None:
    jsrt_original_files(tmp_path)
    image = LoadPicture()(jsrt(tmp_path)[0]["image"])
    assert image.shape == (1, 2048, 2048)
    assert not image.any()


def test_shenzhen_leaves_out_the_images_that_nobody_outlined_but_not_all_of_them(tmp_path: Path) -> None:
    shenzhen_files(tmp_path)
    assert "CHNCXR_0002_0" not in [item["id"] for item in shenzhen(tmp_path)]
    for mask in (tmp_path / "ChinaSet_AllFiles" / "mask").iterdir():
        mask.unlink()
    with pytest.raises(FileNotFoundError, match="holds no mask"):
        shenzhen(tmp_path)


@pytest.mark.parametrize("name", CHEST_XRAY_SETS)
def test_every_real_mask_loads_and_holds_a_plausible_pair_of_lungs(data_root: Path, name: str) -> None:
    shares, offsets = [], []
    for item in chest_xray_datalist(name, data_root):
        mask = LoadMask()(item["label"]).numpy()[0]
        assert np.unique(mask).tolist() == [0.0, 1.0]
        shares.append(float(mask.mean()))
        columns = np.flatnonzero(mask.any(axis=0))
        offsets.append((columns[0] + columns[-1]) / 2 / mask.shape[1])
    assert min(shares) > 0.05
    assert max(shares) < 0.55
    assert 0.2 < np.mean(shares) < 0.35
    # Both lungs, so the middle of the mask is about that of the picture.
    assert abs(np.mean(offsets) - 0.5) < 0.03


def test_the_left_lung_of_real_patients_lies_at_the_right_of_the_image_and_their_heart_between(data_root: Path) -> None:
    for item in chest_xray_datalist("jsrt", data_root)[::20]:
        classes = LoadClasses()(item["organs"]).numpy()[0]
        assert np.unique(classes).tolist() == [0, 1, 2, 3]
        right, left, heart = (np.nonzero(classes == number)[1].mean() for number in (1, 2, 3))
        assert right < heart < left
        assert np.array_equal(classes == 3, LoadMask()(item["heart"]).numpy()[0] > 0)


@pytest.mark.parametrize("name", CHEST_XRAY_SETS)
def test_real_lungs_are_darker_than_what_surrounds_them(data_root: Path, name: str) -> None:
    table = data_root / "splits.csv"
    darker = []
    for item in chest_xray_datalist(name, data_root, table, "test")[::3]:
        image, mask = LoadPicture()(item["image"]).numpy(), LoadMask()(item["label"]).numpy() > 0
        assert image.shape == mask.shape
        darker.append(image[mask].mean() < image[~mask].mean())
    assert np.mean(darker) > 0.75
