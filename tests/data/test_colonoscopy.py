# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Frames of CVC-ClinicDB are numbered and belong to sequences."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from layouts import cvc_clinicdb_files, cvc_clinicdb_files_of_both_kinds, picture
from monai_cert.data.colonoscopy import cvc_clinicdb, cvc_sequence


def test_the_sequences_are_those_of_the_published_frames(data_root: Path) -> None:
    with (data_root / "CVC-ClinicDB" / "sequences.csv").open(newline="") as file:
        published = {int(row["frame"]): int(row["sequence"]) for row in csv.DictReader(file)}
    assert len(published) >= 370
    assert {frame: cvc_sequence(frame) for frame in published} == published


def test_the_29_sequences_follow_one_another_over_all_612_frames() -> None:
    sequences = [cvc_sequence(frame) for frame in range(1, 613)]
    assert sequences == sorted(sequences)
    assert set(sequences) == set(range(1, 30))
    for frame in (0, -1, 613):
        with pytest.raises(ValueError, match=f"frames 1 to 612, not {frame}"):
            cvc_sequence(frame)


def test_of_a_frame_in_both_kinds_the_png_and_its_mask_are_taken(tmp_path: Path) -> None:
    cvc_clinicdb_files_of_both_kinds(tmp_path, ".", ".")
    for item in cvc_clinicdb(tmp_path):
        assert [Path(path).suffix for path in (item["image"], *item["label"])] == [".png", ".png"]


def test_a_picture_that_is_no_numbered_frame_is_refused_by_name(tmp_path: Path) -> None:
    cvc_clinicdb_files(tmp_path)
    picture(tmp_path / "CVC-ClinicDB" / "Original" / "overview.png")
    with pytest.raises(ValueError, match=r"overview\.png is no frame of CVC-ClinicDB: its name is not a number"):
        cvc_clinicdb(tmp_path)


def test_every_real_frame_has_the_published_size(data_root: Path) -> None:
    for item in cvc_clinicdb(data_root)[::30]:
        for path in (item["image"], *item["label"]):
            with Image.open(path) as image:
                assert image.size == (384, 288)
