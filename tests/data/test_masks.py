# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""A mask is what somebody drew, whatever file it came in, or one sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_cert.data.files import LoadPicture, read_image
from monai_cert.data.masks import LoadClasses, LoadClassesd, LoadMask, LoadMaskd, RequireMaskFitsd, read_mask
from pictures import BINARY, NOISE, SMOOTH, Array, Write, nifti, pil, tif


def blob(inside: int = 1, shape: tuple[int, int] = (24, 32)) -> Array:
    drawn = np.zeros(shape, np.uint8)
    drawn[5:15, 9:26] = inside
    return drawn


def palette_of_black_and_white(path: Path) -> None:
    mask = Image.fromarray(blob()).convert("P")
    mask.putpalette([0, 0, 0, 255, 255, 255])
    mask.save(path)


MASK_FORMS: dict[str, tuple[str, Write]] = {
    "0 and 255": ("a.png", pil(blob(255))),
    "0 and 1": ("a.png", pil(blob(1))),
    "0 and 128": ("a.png", pil(blob(128))),
    "0 and 1, as color": ("a.png", pil(np.stack([blob(1)] * 3, axis=-1))),
    "one bit": ("a.png", pil(blob() > 0)),
    "16-bit, 0 and 65535": ("a.png", pil(blob().astype(np.uint16) * 65535)),
    "16-bit, 0 and 255": ("a.tif", tif(blob().astype(np.uint16) * 255)),
    "16-bit, 0 and 1": ("a.tif", tif(blob().astype(np.uint16))),
    "float, 0 and 1": ("a.tif", tif(blob().astype(np.float32))),
    "float, 0 and 255": ("a.tif", tif(blob(255).astype(np.float32))),
    "GIF": ("a.gif", pil(blob(255))),
    "palette": ("a.png", palette_of_black_and_white),
    "signed NIfTI, 0 and 1": ("a.nii.gz", nifti(blob().astype(np.int16))),
    "signed NIfTI, 0 and 255": ("a.nii.gz", nifti(blob(255).astype(np.int16))),
    "JPEG": ("a.jpg", pil(np.stack([blob(255)] * 3, axis=-1), quality=80)),
    "grey JPEG": ("a.jpg", pil(blob(255), quality=95)),
}


@pytest.mark.parametrize("form", MASK_FORMS)
def test_every_form_of_a_mask_is_the_mask_that_was_drawn(tmp_path: Path, form: str) -> None:
    name, write = MASK_FORMS[form]
    write(tmp_path / name)
    mask = LoadMask()(tmp_path / name)
    assert isinstance(mask, MetaTensor)
    assert mask.dtype == torch.float32
    np.testing.assert_array_equal(mask.numpy()[0], blob())


def test_a_mask_that_a_resize_smoothed_is_the_mask_that_was_drawn(tmp_path: Path) -> None:
    drawn = np.kron(blob(255), np.ones((4, 4), np.uint8))
    large = Image.fromarray(np.kron(drawn, np.ones((2, 2), np.uint8)))
    large.resize(drawn.shape[::-1], Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a.png")))) > 4
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png")[0], drawn > 0)


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_may_hold_no_pixel_or_all_of_them(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "none.png")
    Image.fromarray(np.full((6, 9), value, np.uint8)).save(tmp_path / "all.png")
    assert not read_mask(tmp_path / "none.png").any()
    assert read_mask(tmp_path / "all.png").all()


def test_a_scattered_mask_begins_above_127_of_255(tmp_path: Path) -> None:
    values = np.zeros((32, 32), np.uint8)
    values[:, 16:], values[3, 14:18] = 255, (1, 127, 128, 254)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png")[0], values > 127)
    assert read_mask(tmp_path / "a.png")[0, 3, 13:18].tolist() == [False, False, False, True, True]


def classes(*values: int) -> Array:
    """A disk of the first value, with a rim of the second, on the third."""
    distance = np.hypot(*np.mgrid[-64:64, -64:64])
    return np.select([distance < 5, distance < 13], values[:2], values[2]).astype(np.uint8)


NO_MASKS: dict[str, tuple[str, Write]] = {
    "a photograph": ("a.jpg", pil(SMOOTH)),
    "noise": ("a.png", pil(NOISE)),
    "numbers of classes": ("a.png", pil(classes(2, 1, 0))),
    "numbers of classes, NIfTI": ("a.nii.gz", nifti(classes(2, 1, 0))),
    "a small area between": ("a.png", pil(classes(0, 128, 255))),
    "three greys": ("a.png", pil(classes(255, 128, 0))),
    "two greys and no black": ("a.png", pil(np.where(blob(), 200, 20).astype(np.uint8))),
}


@pytest.mark.parametrize("kind", NO_MASKS)
@pytest.mark.parametrize("load", [LoadMask(), LoadClasses()], ids=["mask", "classes"])
def test_an_image_of_more_than_two_values_is_no_mask(tmp_path: Path, kind: str, load: LoadMask | LoadClasses) -> None:
    name, write = NO_MASKS[kind]
    write(tmp_path / name)
    with pytest.raises(
        ValueError, match=f"{name} (is no mask, it holds more than two values; make it 0|has pixel values)"
    ):
        load([tmp_path / name])


def test_a_color_picture_is_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.stack([blob(255), blob(0), blob(0)], axis=-1)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has three channels \(color\) where one channel \(grey\)"):
        read_mask(tmp_path / "a.png")


def test_several_masks_become_their_union(tmp_path: Path) -> None:
    left, right = np.zeros((2, 16, 24), np.uint8)
    left[2:8, 3:9], right[6:12, 13:20] = 255, 255
    Image.fromarray(left).save(tmp_path / "left.png")
    Image.fromarray(right).save(tmp_path / "right.gif")
    paths = [str(tmp_path / "left.png"), tmp_path / "right.gif"]
    union = LoadMask()(paths)
    np.testing.assert_array_equal(union.numpy()[0], (left | right) > 0)
    assert union.meta["filename_or_obj"] == str(paths[0])
    assert torch.equal(LoadMaskd("label")({"label": paths})["label"], union)
    np.testing.assert_array_equal(LoadMask()(paths[0]).numpy()[0], left > 0)


def test_one_mask_a_class_becomes_a_class_map_in_which_the_last_mask_wins(tmp_path: Path) -> None:
    masks = np.zeros((3, 16, 24), np.uint8)
    masks[0, 2:8, 3:9], masks[1, 6:12, 13:20], masks[2, 5:10, 7:15] = 255, 255, 255
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path, mask in zip(paths, masks, strict=True):
        Image.fromarray(mask).save(path)
    classes = LoadClasses()(paths)
    assert classes.shape == (1, 16, 24)
    assert classes.dtype == torch.float32
    assert classes.meta["filename_or_obj"] == paths[0]
    for number, mask in enumerate(masks, start=1):
        hidden = (masks[number:] > 0).any(axis=0)
        np.testing.assert_array_equal(classes.numpy()[0] == number, (mask > 0) & ~hidden)
    assert torch.equal(LoadClassesd("organs")({"organs": paths})["organs"], classes)
    renamed = LoadClassesd("organs", names="label")({"organs": paths, "label": "lungs.png"})
    assert renamed["organs"] == paths
    assert torch.equal(renamed["label"], classes)
    with pytest.raises(KeyError):
        LoadClassesd("absent")({"organs": paths})


@pytest.mark.parametrize("load", [LoadMask(), LoadClasses()])
def test_masks_of_different_sizes_are_refused_by_name(tmp_path: Path, load: LoadMask | LoadClasses) -> None:
    Image.fromarray(BINARY).save(tmp_path / "left.png")
    Image.fromarray(BINARY.T.copy()).save(tmp_path / "right.png")
    with pytest.raises(ValueError, match=r"left\.png \(6 x 9\), .*right\.png \(9 x 6\) differ in size"):
        load([tmp_path / "left.png", tmp_path / "right.png"])


def loaded(tmp_path: Path, image: tuple[int, int], mask: tuple[int, int]) -> dict[str, MetaTensor]:
    Image.fromarray(np.zeros(image, np.uint8)).save(tmp_path / "film.png")
    Image.fromarray(np.zeros(mask, np.uint8)).save(tmp_path / "lungs.png")
    return {"image": LoadPicture()(tmp_path / "film.png"), "label": LoadMask()(tmp_path / "lungs.png")}


@pytest.mark.parametrize("mask", [(9, 6), (6, 8), (3, 5), (12, 18), (2, 3)], ids=str)
def test_a_mask_of_another_size_than_its_image_is_refused_by_both_names(tmp_path: Path, mask: tuple[int, int]) -> None:
    rows, columns = mask
    with pytest.raises(ValueError, match=rf"lungs\.png is {rows} x {columns} pixels where .*film\.png is 6 x 9; give"):
        RequireMaskFitsd("label", coarser=(1, 2))(loaded(tmp_path, (6, 9), mask))


def test_a_mask_that_fits_its_image_is_left_as_it_is(tmp_path: Path) -> None:
    data = loaded(tmp_path, (6, 10), (6, 10))
    assert RequireMaskFitsd("label")(data) == data
    coarse = loaded(tmp_path, (6, 10), (3, 5))
    assert RequireMaskFitsd("label", coarser=(1, 2))(coarse) == coarse
    with pytest.raises(ValueError, match=r"lungs\.png is 3 x 5"):
        RequireMaskFitsd("label")(coarse)
    with pytest.raises(KeyError):
        RequireMaskFitsd("absent")(data)
    assert RequireMaskFitsd("absent", allow_missing_keys=True)(data) == data


REAL_MASKS = (
    "ManualMask/*/*.png",
    "mask/*.png",
    "SCR/*/masks/*/*.png",
    "*GroundTruth/*.png",
    "Ground Truth/*",
    "masks/*",
)


@pytest.mark.parametrize("pattern", REAL_MASKS)
def test_no_real_mask_is_refused_and_each_is_what_exceeds_127(data_root: Path, pattern: str) -> None:
    files = sorted(data_root.glob(f"*/{pattern}"))
    assert len(files) >= 276
    for file in files[::10]:
        np.testing.assert_array_equal(read_mask(file), read_image(file) > 127 / 255)


@pytest.mark.parametrize("pattern", ["CXR_png/*", "JSRT/images/*", "*Input/*", "Original/*", "Kvasir-SEG/images/*"])
def test_real_images_are_no_masks(data_root: Path, pattern: str) -> None:
    files = sorted(file for file in data_root.glob("**/*.*") if file.match(pattern))
    assert len(files) >= 247
    for file in files[::60]:
        with pytest.raises(ValueError, match=rf"{file.name} (is no mask|has three channels)"):
            read_mask(file)
