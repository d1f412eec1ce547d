# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Pixel spacing is what a file states, or what a user gives; never a guess."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from monai_cert.data.geometry import file_spacing, spacing_of_map


def write(path: Path, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Path:
    image = sitk.GetImageFromArray(np.zeros(shape, dtype=np.float32))
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mha", "a.mhd"])
def test_medical_files_state_it(tmp_path: Path, name: str) -> None:
    """Rows before columns, slices first; a file of one slice is a picture."""
    assert file_spacing(write(tmp_path / name, (4, 6, 8), (3.0, 0.5, 0.25))) == (3.0, 0.5, 0.25)
    assert file_spacing(write(tmp_path / name, (6, 8), (0.5, 0.25))) == (0.5, 0.25)
    assert file_spacing(write(tmp_path / name, (1, 6, 8), (3.0, 0.5, 0.25))) == (0.5, 0.25)


def test_files_that_state_nothing_have_none(tmp_path: Path) -> None:
    """Readers answer 1 where nothing is stated; that is not a millimeter."""
    header = nib.Nifti1Header()
    header["qform_code"] = header["sform_code"] = header["xyzt_units"] = 0
    plain = nib.Nifti1Image(np.zeros((8, 6, 1), dtype=np.float32), None, header)
    nib.save(plain, tmp_path / "plain.nii")
    assert file_spacing(tmp_path / "plain.nii") is None
    placed = nib.Nifti1Image(np.zeros((8, 6, 4), dtype=np.float32), np.diag([0.25, 0.5, 3.0, 1.0]))
    nib.save(placed, tmp_path / "placed.nii")
    assert file_spacing(tmp_path / "placed.nii") == (3.0, 0.5, 0.25)
    write(tmp_path / "a.mha", (6, 8), (1.0, 1.0))
    stated = (tmp_path / "a.mha").read_bytes()
    bare = b"\n".join(line for line in stated.split(b"\n") if not line.startswith(b"ElementSpacing"))
    (tmp_path / "bare.mha").write_bytes(bare)
    assert (file_spacing(tmp_path / "a.mha"), file_spacing(tmp_path / "bare.mha")) == ((1.0, 1.0), None)
    Image.new("L", (8, 6)).save(tmp_path / "a.png", dpi=(300, 300))
    assert file_spacing(tmp_path / "a.png") is None


def test_the_map_lies_over_the_field_of_view(tmp_path: Path) -> None:
    volume = write(tmp_path / "a.nii.gz", (4, 6, 8), (3.0, 0.5, 0.25))
    assert spacing_of_map(volume, (2, 3, 16)) == (6.0, 1.0, 0.125)
    assert spacing_of_map(volume, (4, 6, 8), (1.0, 2.0, 4.0)) == (1.0, 2.0, 4.0)
    pixels = np.zeros((6, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    np.zeros((6, 6), dtype=">u2").tofile(tmp_path / "a.IMG")
    assert spacing_of_map(tmp_path / "a.png", (3, 16)) is None
    for name in ("a.png", "a.tif"):
        assert spacing_of_map(tmp_path / name, (3, 16), (0.5, 0.25)) == (1.0, 0.125)
    assert spacing_of_map(tmp_path / "a.IMG", (3, 3), (0.5, 0.5)) == (1.0, 1.0)
    assert spacing_of_map("phantom", (32, 32), (1.0, 2.0)) == (1.0, 2.0)
    assert spacing_of_map("phantom", (32, 32)) is None


@pytest.mark.parametrize("given", [(1.0,), (1.0, -1.0), (1.0, float("nan")), (1.0, 1.0, 1.0)])
def test_spacing_that_cannot_be_is_refused(given: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must be 2 positive numbers of millimeters, rows before columns"):
        spacing_of_map("phantom", (32, 32), given)
