# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The real sets are whole: their splits, their sizes, and masks of what they should show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monai_cert.data.files import LoadPicture
from monai_cert.data.masks import LoadMask, RequireMaskFitsd
from monai_cert.data.public_sets import public_datalist

COLOR_SETS = {"isic2018": (512, 512), "cvc_clinicdb": (288, 384), "kvasir_seg": (256, 256)}
SPLITS = {"isic2018": (350, 50, 100), "cvc_clinicdb": (250, 32, 88), "kvasir_seg": (490, 70, 140)}
TEST_IMAGES = {"montgomery": 27, "shenzhen": 60, "jsrt": 49, **{name: counts[2] for name, counts in SPLITS.items()}}


@pytest.mark.parametrize(("name", "count"), TEST_IMAGES.items())
def test_the_real_sets_have_the_published_split(data_root: Path, name: str, count: int) -> None:
    table = data_root / "splits.csv"
    ids = {
        split: {item["id"] for item in public_datalist(name, data_root, table, split)}
        for split in ("train", "val", "test")
    }
    assert len(ids["test"]) == count
    if name in SPLITS:
        assert tuple(map(len, ids.values())) == SPLITS[name]
    assert not ids["train"] & ids["test"]
    assert not ids["train"] & ids["val"]
    assert not ids["val"] & ids["test"]
    assert set.union(*ids.values()) == {item["id"] for item in public_datalist(name, data_root)}


@pytest.mark.parametrize(("name", "size"), COLOR_SETS.items())
def test_real_color_images_and_their_masks_load_at_their_size(
    data_root: Path, name: str, size: tuple[int, int]
) -> None:
    for item in public_datalist(name, data_root)[::35]:
        data = {"image": LoadPicture(channels=3)(item["image"]), "label": LoadMask()(item["label"])}
        assert data["image"].shape == (3, *size)
        assert data["label"].shape == (1, *size)
        RequireMaskFitsd("label")(data)
        assert data["image"].std() > 0.05
        assert np.ptp(data["image"].numpy(), axis=0).mean() > 0.02, "it has color"
        assert 0 < float(data["label"].mean()) < 1


@pytest.mark.parametrize("name", COLOR_SETS)
def test_real_lesions_differ_from_what_surrounds_them(data_root: Path, name: str) -> None:
    differences = []
    for item in public_datalist(name, data_root)[::20]:
        image, mask = LoadPicture(channels=3)(item["image"]).numpy(), LoadMask()(item["label"]).numpy()[0] > 0
        differences.append(image[:, mask].mean(axis=1) - image[:, ~mask].mean(axis=1))
    # Masks of other images would leave no difference: here it is five standard errors of its mean in some channel.
    errors = np.std(differences, axis=0, ddof=1) / np.sqrt(len(differences))
    assert np.abs(np.mean(differences, axis=0) / errors).max() > 5
