# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""A file that is no single whole image of the wanted kind gives one sentence that names it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from monai_cert.data.files import list_images, read_image
from pictures import COLOR, FLOAT, GREY, NOISE, VOLUME, Array, Write, itk, nifti, pil, stack, tif


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.png does not exist"):
        read_image(tmp_path / "nothing.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FileNotFoundError, match=r"folder\.png is a folder, not an image"):
        read_image(tmp_path / "folder.png")


def cut(write: Write, part: float) -> Write:
    def write_and_cut(path: Path) -> None:
        write(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(part * len(whole))])

    return write_and_cut


def without_its_pixels(path: Path) -> None:
    itk(GREY)(path)
    path.with_suffix(".raw").unlink()


def zipped_without_its_end(path: Path) -> None:
    """A whole gzip stream, of a NIfTI file that lacks its last rows."""
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(NOISE.T, np.eye(4)).to_bytes()[:-100]))


def text(path: Path) -> None:
    path.write_text("This is no image.\n" * 40)


HOLED, ENDLESS = FLOAT.copy(), FLOAT.copy()
HOLED[2, 2], ENDLESS[1, 1] = np.nan, np.inf
DAMAGED, NOT_FINITE, PAGES = "cannot be read as an image", "NaN or infinite", "holds several"
BAD_FILES: dict[str, tuple[str, Write, str]] = {
    "empty": ("a.png", lambda path: path.touch(), "is empty"),
    "unknown suffix": ("a.dcm", text, "no image of a known type"),
    "no suffix": ("README", text, "no image of a known type"),
    **{
        f"text named {suffix}": (f"a{suffix}", text, DAMAGED)
        for suffix in (".png", ".jpg", ".tif", ".bmp", ".gif", ".nii", ".nii.gz", ".mha", ".mhd")
    },
    **{
        f"{suffix} cut after {part:.0%}": (f"a{suffix}", cut(write, part), DAMAGED)
        for part in (0.5, 0.97)
        for suffix, write in {
            ".png": pil(NOISE),
            ".jpg": pil(NOISE),
            ".gif": pil(NOISE),
            ".bmp": pil(NOISE),
            ".tif": tif(NOISE),
            ".tiff": tif(NOISE, rowsperstrip=4),
            ".nii": itk(NOISE),
            ".nii.gz": itk(NOISE),
            ".mha": itk(NOISE),
        }.items()
    },
    "zipped NIfTI of too few bytes": ("a.nii.gz", zipped_without_its_end, DAMAGED),
    "MetaImage without its pixels": ("a.mhd", without_its_pixels, DAMAGED),
    "NaN in TIFF": ("a.tif", tif(HOLED), NOT_FINITE),
    "infinity in TIFF": ("a.tif", tif(ENDLESS), NOT_FINITE),
    "NaN in NIfTI": ("a.nii.gz", nifti(HOLED), NOT_FINITE),
    "NaN in float64 NIfTI": ("a.nii", nifti(HOLED.astype(np.float64)), NOT_FINITE),
    "infinity in NIfTI": ("a.nii", nifti(ENDLESS), NOT_FINITE),
    "NaN in MetaImage": ("a.mha", itk(HOLED), NOT_FINITE),
    "color": ("a.png", pil(COLOR), r"has three channels \(color\) where one channel \(grey\) is wanted; convert"),
    "two components": ("a.mha", itk(np.dstack([GREY, GREY]), vector=True), "has 2 channels where one channel"),
    "four components": ("a.mha", itk(np.dstack([GREY] * 4), vector=True), "has 4 channels where one channel"),
    "two pages": ("a.tif", stack(GREY, GREY), PAGES),
    "three pages": ("a.tif", stack(GREY, GREY, GREY), PAGES),
    "four pages": ("a.tif", stack(GREY, GREY, GREY, GREY), PAGES),
    "three narrow pages": ("a.tif", stack(*[GREY[:, :4]] * 3), PAGES),
    "pages of several sizes": ("a.tif", stack(GREY, NOISE), PAGES),
    "a stack of three": ("a.tif", tif(np.stack([GREY] * 3), photometric="minisblack"), PAGES),
    "an ImageJ stack": ("a.tif", tif(np.stack([GREY] * 3), imagej=True), PAGES),
    "animated GIF": ("a.gif", stack(GREY, GREY[::-1]), PAGES),
    "animated PNG": ("a.png", stack(GREY, GREY[::-1]), PAGES),
    "volumes in time": ("a.nii", nifti(np.stack([VOLUME, VOLUME])), PAGES),
    "numbers above one": ("a.tif", tif(FLOAT * 1.5), "outside the bounds"),
    "numbers below zero": ("a.nii", nifti(FLOAT - 0.5), "outside the bounds"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_single_whole_image_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    name, write, reason = BAD_FILES[kind]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"{re.escape(name)} .*{reason}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("pixels", [HOLED, ENDLESS, -ENDLESS], ids=["NaN", "infinity", "minus infinity"])
def test_an_intensity_range_does_not_hide_pixels_that_are_no_numbers(tmp_path: Path, pixels: Array) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(ValueError, match=r"a\.tif has pixels that are NaN or infinite"):
        read_image(tmp_path / "a.tif", intensity_range=(0, 1))


def test_a_grey_picture_is_no_color_picture(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError,
        match=r"a\.png has one channel \(grey\) where three channels \(color\) are wanted; .* bundle for grey images",
    ):
        read_image(tmp_path / "a.png", channels=3)


def test_a_picture_with_a_side_below_the_minimum_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", minimum_size=6).shape == (1, 6, 9)
    with pytest.raises(ValueError, match=r"a\.png is too small \(6 x 9 pixels\)"):
        read_image(tmp_path / "a.png", minimum_size=7)


def test_a_volume_is_refused_where_a_picture_is_wanted(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOLUME), str(tmp_path / "a.nii"))
    with pytest.raises(ValueError, match=r"a\.nii has 3 dimensions .* where 2 are wanted"):
        read_image(tmp_path / "a.nii", spatial_dims=2)


def test_a_jsrt_file_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "JPCLN001.IMG").write_bytes(bytes(1000))
    with pytest.raises(ValueError, match=r"JPCLN001\.IMG is no JSRT image: 8388608 bytes expected, 1000 found"):
        read_image(tmp_path / "JPCLN001.IMG")


@pytest.mark.parametrize("intensity_range", [(5.0, 5.0), (0.0, np.nan), (-np.inf, 1.0)], ids=str)
def test_an_intensity_range_that_is_none_is_refused(tmp_path: Path, intensity_range: tuple[float, float]) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="intensity_range"):
        read_image(tmp_path / "a.png", intensity_range=intensity_range)


def test_a_folder_without_images_and_a_missing_one_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no image of a known type"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        list_images(tmp_path / "nowhere")
