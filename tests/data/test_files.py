# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Every file type gives the same pixels in the same units."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
import torch
from monai.data import MetaTensor
from PIL import Image

from monai_cert.data.files import LoadPicture, LoadPictured, is_medical, list_images, read_image, stem
from pictures import (
    BINARY,
    COLOR,
    DEEP,
    FLOAT,
    GREY,
    OPACITY,
    SMOOTH,
    VOLUME,
    Array,
    Write,
    itk,
    nifti,
    palette,
    pil,
    tif,
)


def quantized(pixels: Array) -> Array:
    return np.asarray(Image.fromarray(pixels).quantize(54, dither=Image.Dither.NONE).convert("RGB"))


OVER_BLACK = COLOR / 255 * OPACITY[..., None] / 255
GREY_FORMS: dict[str, tuple[str, Write, Array]] = {
    "8-bit PNG": ("a.png", pil(GREY), GREY / 255),
    "16-bit PNG": ("a.png", pil(DEEP), DEEP / 65535),
    "1-bit PNG": ("a.png", pil(BINARY), BINARY),
    "palette PNG of greys": ("a.png", lambda path: Image.fromarray(GREY).convert("P").save(path), GREY / 255),
    "LA PNG": ("a.png", pil(np.stack([GREY, OPACITY], axis=-1)), GREY / 255 * OPACITY / 255),
    "RGBA PNG of greys": ("a.png", pil(np.stack([GREY] * 3 + [OPACITY], axis=-1)), GREY / 255 * OPACITY / 255),
    "RGB PNG of greys": ("a.png", pil(np.stack([GREY] * 3, axis=-1)), GREY / 255),
    "upper-case suffix": ("A.PNG", lambda path: Image.fromarray(GREY).save(path, format="PNG"), GREY / 255),
    "BMP": ("a.bmp", pil(GREY), GREY / 255),
    "GIF": ("a.gif", pil(GREY), GREY / 255),
    "8-bit TIFF": ("a.tif", tif(GREY), GREY / 255),
    "16-bit TIFF": ("a.tiff", tif(DEEP), DEEP / 65535),
    "16-bit big-endian TIFF": ("a.tif", tif(DEEP, byteorder=">"), DEEP / 65535),
    "float32 TIFF": ("a.tif", tif(FLOAT), FLOAT),
    "float64 TIFF": ("a.tif", tif(FLOAT.astype(np.float64)), FLOAT),
    "1-bit TIFF": ("a.tif", pil(BINARY), BINARY),
    "LZW TIFF": ("a.tif", pil(GREY, compression="tiff_lzw"), GREY / 255),
    "LZW TIFF, 16-bit": ("a.tif", pil(DEEP, compression="tiff_lzw"), DEEP / 65535),
    "deflated TIFF": ("a.tif", pil(DEEP, compression="tiff_adobe_deflate"), DEEP / 65535),
    "fax TIFF": ("a.tif", pil(BINARY, compression="group4"), BINARY),
    "TIFF in which 0 is white": ("a.tif", tif(255 - GREY, photometric="miniswhite"), GREY / 255),
    "16-bit TIFF in which 0 is white": ("a.tif", tif(65535 - DEEP, photometric="miniswhite"), DEEP / 65535),
    "1-bit TIFF in which 0 is white": ("a.tif", tif(~BINARY, photometric="miniswhite"), BINARY),
    "one page among empty axes": ("a.tif", tif(GREY[None, None], photometric="minisblack"), GREY / 255),
    "NIfTI by SimpleITK": ("a.nii.gz", itk(GREY), GREY / 255),
    "NIfTI by nibabel": ("a.nii", nifti(GREY), GREY / 255),
    "16-bit NIfTI": ("a.nii.gz", nifti(DEEP), DEEP / 65535),
    "float32 NIfTI": ("a.nii", nifti(FLOAT), FLOAT),
    "float64 NIfTI": ("a.nii.gz", nifti(FLOAT.astype(np.float64)), FLOAT),
    "MetaImage": ("a.mha", itk(GREY), GREY / 255),
    "MetaImage in two files": ("a.mhd", itk(DEEP), DEEP / 65535),
    "float32 MetaImage": ("a.mha", itk(FLOAT), FLOAT),
}
COLOR_FORMS: dict[str, tuple[str, Write, Array]] = {
    "RGB PNG": ("a.png", pil(COLOR), COLOR / 255),
    "palette PNG": ("a.png", palette(COLOR), quantized(COLOR) / 255),
    "palette TIFF": ("a.tif", palette(COLOR), quantized(COLOR) / 255),
    "palette GIF": ("a.gif", palette(COLOR), quantized(COLOR) / 255),
    "palette BMP": ("a.bmp", palette(COLOR), quantized(COLOR) / 255),
    "RGBA PNG": ("a.png", pil(np.dstack([COLOR, OPACITY])), OVER_BLACK),
    "palette PNG with opacity": (
        "a.png",
        lambda path: (
            Image.fromarray(COLOR).quantize(54, dither=Image.Dither.NONE).save(path, transparency=b"\x80" * 54)
        ),
        quantized(COLOR) / 255 * 128 / 255,
    ),
    "RGBA TIFF": (
        "a.tif",
        tif(np.dstack([COLOR, OPACITY]), photometric="rgb", extrasamples=["unassalpha"]),
        OVER_BLACK,
    ),
    "RGB TIFF": ("a.tif", tif(COLOR, photometric="rgb"), COLOR / 255),
    "RGB TIFF, 16-bit": ("a.tif", tif(COLOR.astype(np.uint16) * 257, photometric="rgb"), COLOR / 255),
    "RGB TIFF, a plane a color": (
        "a.tif",
        tif(np.moveaxis(COLOR, -1, 0).copy(), photometric="rgb", planarconfig="separate"),
        COLOR / 255,
    ),
    "RGB TIFF, LZW": ("a.tif", pil(COLOR, compression="tiff_lzw"), COLOR / 255),
    "printing-color TIFF": (
        "a.tif",
        lambda path: Image.fromarray(COLOR).convert("CMYK").save(path),
        np.asarray(Image.fromarray(COLOR).convert("CMYK").convert("RGB")) / 255,
    ),
    "RGB MetaImage": ("a.mha", itk(COLOR, vector=True), COLOR / 255),
}


@pytest.mark.parametrize("form", GREY_FORMS)
def test_every_form_of_a_grey_picture_gives_its_values_row_by_row(tmp_path: Path, form: str) -> None:
    name, write, expected = GREY_FORMS[form]
    write(tmp_path / name)
    pixels = read_image(tmp_path / name)
    assert pixels.dtype == np.float32
    # Opacity is composed in whole steps of the stored type.
    np.testing.assert_allclose(pixels, expected[None], rtol=0, atol=0.51 / 255 if "A PNG" in form else 1e-6)


@pytest.mark.parametrize("form", COLOR_FORMS)
def test_every_form_of_a_color_picture_gives_its_values_channel_first(tmp_path: Path, form: str) -> None:
    name, write, expected = COLOR_FORMS[form]
    write(tmp_path / name)
    pixels = read_image(tmp_path / name, channels=3)
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(
        pixels, np.moveaxis(expected, -1, 0), rtol=0, atol=0.51 / 255 if "RGBA" in form or "opacity" in form else 1e-6
    )


@pytest.mark.parametrize("stored", [SMOOTH, np.stack([SMOOTH] * 3, axis=-1)], ids=["grey", "RGB"])
def test_a_grey_jpeg_is_grey_however_it_was_stored(tmp_path: Path, stored: Array) -> None:
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=90)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg")[0], SMOOTH / 255, rtol=0, atol=4 / 255)


def test_the_previews_in_a_cameras_jpeg_are_no_pages(tmp_path: Path) -> None:
    preview = Image.fromarray(SMOOTH[::2, ::2])
    Image.fromarray(SMOOTH).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview], quality=90)
    assert read_image(tmp_path / "a.jpg").shape == (1, 32, 48)


# Where the first stored row and column lie in the upright picture (TIFF 6.0, field 274).
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_held(upright: Array, orientation: int) -> Array:
    """What a camera stores that was held so that the orientation's row and column come first."""
    sides = ORIENTATIONS[orientation]
    stored = upright if sides[0] in ("top", "bottom") else np.swapaxes(upright, 0, 1)
    for axis, side in enumerate(sides):
        stored = np.flip(stored, axis) if side in ("bottom", "right") else stored
    return np.ascontiguousarray(stored)


def tagged(pixels: Array, orientation: int, name: str) -> Write:
    if name.startswith("plain"):
        return tif(pixels, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    if name.startswith("packed"):
        return pil(pixels, compression="tiff_lzw", tiffinfo={274: orientation})
    exif = Image.Exif()
    exif[274] = orientation
    return pil(pixels, exif=exif, quality=100, subsampling=0)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "plain.tif", "packed.tif"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_picture_is_read_as_a_viewer_shows_it_however_the_camera_was_held(
    tmp_path: Path, name: str, orientation: int
) -> None:
    upright = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]], axis=-1)
    tagged(as_held(upright, orientation), orientation, name)(tmp_path / name)
    expected = np.moveaxis(upright, -1, 0) / 255
    np.testing.assert_allclose(
        read_image(tmp_path / name, channels=3), expected, rtol=0, atol=12 / 255 if name == "a.jpg" else 1e-6
    )


def test_a_large_photograph_is_read_in_little_more_memory_than_it_takes(tmp_path: Path) -> None:
    Image.fromarray(np.full((1200, 1600, 3), 90, np.uint8)).save(tmp_path / "a.png")
    tracemalloc.start()
    size = read_image(tmp_path / "a.png", channels=3).nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.5 * size


def test_a_jpeg_in_printing_colors_is_no_picture_with_opacity(tmp_path: Path) -> None:
    smooth = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]], axis=-1)
    printed = Image.fromarray(smooth).convert("CMYK")
    printed.save(tmp_path / "a.jpg", quality=100)
    expected = np.moveaxis(np.asarray(printed.convert("RGB")), -1, 0) / 255
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg", channels=3), expected, rtol=0, atol=8 / 255)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.nii", itk(VOLUME)), ("a.nii.gz", itk(VOLUME)), ("a.nii.gz", nifti(VOLUME)), ("a.mha", itk(VOLUME))],
    ids=["NIfTI", "NIfTI, zipped", "NIfTI by nibabel", "MetaImage"],
)
def test_a_volume_comes_slices_before_rows_before_columns(tmp_path: Path, name: str, write: Write) -> None:
    write(tmp_path / name)
    np.testing.assert_allclose(read_image(tmp_path / name), VOLUME[None] / 255, rtol=0, atol=1e-6)


def test_a_medical_file_of_one_slice_is_a_picture(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(FLOAT[None]), str(tmp_path / "a.nii"))
    np.testing.assert_allclose(read_image(tmp_path / "a.nii", spatial_dims=2), FLOAT[None], rtol=0, atol=1e-4)


def test_stored_integers_with_a_scale_come_as_the_numbers_they_stand_for(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(FLOAT.T, np.eye(4))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii"), FLOAT[None], rtol=0, atol=1e-4)


def test_the_scale_is_that_of_the_type_and_not_of_the_picture(tmp_path: Path) -> None:
    for value in (0, 10, 20, 255):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / "a.png")
        np.testing.assert_allclose(read_image(tmp_path / "a.png"), value / 255, rtol=0, atol=1e-7)


@pytest.fixture(scope="module")
def jsrt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in JSRT's form: 12-bit densities (0 is the clearest film) as big-endian 16-bit numbers, no header."""
    densities = np.full((2048, 2048), 4095, dtype=">u2")
    densities[0, :3] = 0, 1024, 4094
    densities[1, 0] = 2048
    path = tmp_path_factory.mktemp("jsrt") / "JPCLN001.IMG"
    densities.tofile(path)
    return path


def test_a_jsrt_file_is_big_endian_and_its_zero_is_white(jsrt: Path) -> None:
    pixels = read_image(jsrt)
    assert pixels.shape == (1, 2048, 2048)
    np.testing.assert_allclose(pixels[0, 0, :4], [1, 1 - 1024 / 4095, 1 / 4095, 0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(pixels[0, 1, :2], [1 - 2048 / 4095, 0], rtol=0, atol=1e-6)
    assert not pixels[0, 2:].any()


def test_a_jsrt_file_takes_another_intensity_range(jsrt: Path) -> None:
    np.testing.assert_allclose(
        read_image(jsrt, intensity_range=(0, 4095))[0, 0, :4],
        [0, 1024 / 4095, 4094 / 4095, 1],
        rtol=0,
        atol=1e-6,
    )


def test_an_intensity_range_says_which_stored_values_are_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 100, 1000, 4095, 65535]], np.uint16)).save(path)
    np.testing.assert_allclose(
        read_image(path, intensity_range=(0, 4095))[0, 0], [0, 100 / 4095, 1000 / 4095, 1, 1], atol=1e-6
    )
    np.testing.assert_allclose(read_image(path, intensity_range=(100, 1000))[0, 0], [0, 0, 1, 1, 1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        read_image(path, intensity_range=(4095, 0))[0, 0], [1, 3995 / 4095, 3095 / 4095, 0, 0], atol=1e-6
    )


def test_an_intensity_range_brings_any_number_type_into_the_bounds(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[-1000.0, -300.0, 400.0, 3000.0]], np.float32))
    pixels = read_image(tmp_path / "a.tif", intensity_range=(-1000, 400))
    np.testing.assert_allclose(pixels[0, 0], [0, 0.5, 1, 1], rtol=0, atol=1e-6)
    nibabel.save(nibabel.Nifti1Image(GREY.T.astype(np.int16), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a\.nii has pixel values from 0 to \d+, outside .*intensity-range"):
        read_image(tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii", intensity_range=(0, 255))[0], GREY / 255, atol=1e-6)


def test_an_intensity_range_is_one_of_pixels_and_not_of_opacity(tmp_path: Path) -> None:
    Image.fromarray(np.stack([GREY, np.full_like(GREY, 255)], axis=-1)).save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png", intensity_range=(255, 0))
    np.testing.assert_allclose(pixels[0], 1 - GREY / 255, rtol=0, atol=1e-6)


def test_the_transform_gives_the_read_pixels_and_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(DEEP).save(path)
    picture = LoadPicture(intensity_range=(0, 4095))(path)
    assert isinstance(picture, MetaTensor)
    assert picture.dtype == torch.float32
    assert picture.meta["filename_or_obj"] == str(path)
    np.testing.assert_array_equal(picture.numpy(), read_image(path, intensity_range=(0, 4095)))


def test_the_dictionary_twin_loads_its_keys_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOR).save(path)
    load = LoadPictured(["image", "absent"], channels=3, allow_missing_keys=True)
    data = {"image": str(path), "other": str(path)}
    out = load(data)
    assert torch.equal(out["image"], LoadPicture(channels=3)(path))
    assert out["other"] == str(path)
    assert data["image"] == str(path)
    with pytest.raises(KeyError):
        LoadPictured("absent")(data)


def test_a_folder_lists_its_images_in_order_and_leaves_the_rest(tmp_path: Path) -> None:
    for name in ("b.png", "a.nii.gz", "C.IMG", "notes.txt", ".hidden.png", "d.JPG"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["C.IMG", "a.nii.gz", "b.png", "d.JPG"]


@pytest.mark.parametrize(
    ("name", "expected", "medical"),
    [
        ("a.png", "a", False),
        ("a.b.tif", "a.b", False),
        ("a.nii.gz", "a", True),
        ("A.NII.GZ", "A", True),
        ("a.mha", "a", True),
    ],
)
def test_a_stem_is_the_name_without_its_image_suffix(name: str, expected: str, medical: bool) -> None:
    assert stem(f"/folder.x/{name}") == expected
    assert is_medical(name) is medical
