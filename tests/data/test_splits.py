# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""A split is exactly its images, and nothing that belongs together is separated by one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from layouts import cvc_clinicdb_files, montgomery_files, shenzhen_files
from monai_cert.data.chest_xray import chest_xray_datalist, montgomery, shenzhen
from monai_cert.data.layouts import list_sets
from monai_cert.data.public_sets import public_datalist
from monai_cert.data.splits import Split, read_split


def write_splits(path: Path, *rows: str, header: str = "dataset,id,split") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_datalist_keeps_the_order_of_the_names_and_of_the_ids(tmp_path: Path) -> None:
    montgomery_files(tmp_path)
    shenzhen_files(tmp_path)
    both = chest_xray_datalist(["shenzhen", "montgomery"], tmp_path)
    assert both == shenzhen(tmp_path) + montgomery(tmp_path)
    assert chest_xray_datalist("montgomery", tmp_path) == montgomery(tmp_path)


def test_a_split_keeps_its_own_images_in_the_order_of_the_table(tmp_path: Path) -> None:
    montgomery_files(tmp_path)
    table = write_splits(
        tmp_path / "splits.csv",
        "montgomery,MCUCXR_0104_1,test",
        "montgomery,MCUCXR_0002_0,train",
        "shenzhen,MCUCXR_0002_0,test",
        "montgomery,MCUCXR_0001_0,test",
    )
    items = chest_xray_datalist("montgomery", tmp_path, table, "test")
    assert [item["id"] for item in items] == ["MCUCXR_0104_1", "MCUCXR_0001_0"]
    assert read_split(table, "montgomery", "test") == Split("montgomery", "test", ("MCUCXR_0104_1", "MCUCXR_0001_0"))


def test_an_image_that_the_split_names_and_the_folder_lacks_is_refused_by_name(tmp_path: Path) -> None:
    montgomery_files(tmp_path)
    table = write_splits(tmp_path / "t.csv", "montgomery,MCUCXR_0001_0,test", "montgomery,MCUCXR_0777_1,test")
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 2 images of montgomery/test are missing, first MCUCXR_0777_1"
    ):
        chest_xray_datalist("montgomery", tmp_path, table, "test")


def test_a_split_that_no_image_belongs_to_is_refused(tmp_path: Path) -> None:
    montgomery_files(tmp_path)
    table = write_splits(tmp_path / "t.csv", "montgomery,MCUCXR_0001_0,test")
    with pytest.raises(ValueError, match=r"t\.csv has no images of data set 'montgomery', split 'holdout'"):
        chest_xray_datalist("montgomery", tmp_path, table, "holdout")
    with pytest.raises(ValueError, match="data set 'jsrt', split 'test'"):
        read_split(table, "jsrt", "test")


def test_a_split_without_its_table_does_not_become_the_whole_set(tmp_path: Path) -> None:
    montgomery_files(tmp_path)
    table = write_splits(tmp_path / "t.csv", "montgomery,MCUCXR_0001_0,test")
    with pytest.raises(ValueError, match="splits and split go together"):
        chest_xray_datalist("montgomery", tmp_path, split="test")
    with pytest.raises(ValueError, match="splits and split go together"):
        chest_xray_datalist("montgomery", tmp_path, splits=table)


@pytest.mark.parametrize("header", ["dataset,image,split", "id,split", ""])
def test_a_table_of_other_columns_is_refused(tmp_path: Path, header: str) -> None:
    table = write_splits(tmp_path / "t.csv", "montgomery,MCUCXR_0001_0,test", header=header)
    with pytest.raises(ValueError, match=r"t\.csv must have the columns dataset,id,split"):
        read_split(table, "montgomery", "test")


def test_a_table_that_a_spreadsheet_saved_is_read_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfsplit,dataset,id,comment\r\ntest,jsrt,JPCLN001,a\r\n")
    assert read_split(tmp_path / "t.csv", "jsrt", "test").ids == ("JPCLN001",)


def test_a_missing_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"t\.csv does not exist"):
        read_split(tmp_path / "t.csv", "montgomery", "test")


def test_an_unknown_set_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    known = "montgomery, shenzhen, jsrt"
    with pytest.raises(ValueError, match=f"unknown data set 'padchest'; known are {known}$"):
        chest_xray_datalist(["montgomery", "padchest"], tmp_path)
    with pytest.raises(
        ValueError, match=f"unknown data set 'padchest'; known are {known}, isic2018, cvc_clinicdb, kvasir_seg$"
    ):
        public_datalist("padchest", tmp_path)


def test_many_missing_images_are_counted_and_the_first_few_named(tmp_path: Path) -> None:
    montgomery_files(tmp_path)
    rows = [f"montgomery,MCUCXR_{number:04}_0,test" for number in range(1, 8)]
    with pytest.raises(
        FileNotFoundError,
        match="5 of the 7 images of montgomery/test are missing, "
        rf"first MCUCXR_0003_0, MCUCXR_0004_0, MCUCXR_0005_0: {re.escape(str(tmp_path))} is incomplete; --partial",
    ):
        public_datalist("montgomery", tmp_path, write_splits(tmp_path / "t.csv", *rows), "test")


def test_frames_of_one_sequence_stay_in_one_split(tmp_path: Path) -> None:
    cvc_clinicdb_files(tmp_path)
    together = write_splits(
        tmp_path / "together.csv",
        *(
            f"cvc_clinicdb,{frame},{split}"
            for frame, split in ((1, "train"), (10, "train"), (2, "train"), (26, "test"))
        ),
        "kvasir_seg,1,test",
    )
    items = public_datalist("cvc_clinicdb", tmp_path, together, "train")
    assert [item["id"] for item in items] == ["1", "10", "2"]
    # The separated frames need not be of the split that is asked for.
    apart = write_splits(tmp_path / "apart.csv", "cvc_clinicdb,26,test", "cvc_clinicdb,1,train", "cvc_clinicdb,10,val")
    for split in ("train", "val", "test"):
        with pytest.raises(
            ValueError, match=r"apart\.csv puts sequence 1 of cvc_clinicdb into two splits, train and val; it belongs"
        ):
            public_datalist("cvc_clinicdb", tmp_path, apart, split)


@pytest.mark.parametrize(("frame", "words"), [("a", "'a' is no frame of CVC-ClinicDB"), ("613", "1 to 612, not 613")])
def test_a_table_of_what_is_no_frame_is_refused(tmp_path: Path, frame: str, words: str) -> None:
    cvc_clinicdb_files(tmp_path)
    table = write_splits(tmp_path / "t.csv", "cvc_clinicdb,1,test", f"cvc_clinicdb,{frame},train")
    with pytest.raises(ValueError, match=words):
        public_datalist("cvc_clinicdb", tmp_path, table, "test")


def test_any_set_can_say_what_belongs_together(tmp_path: Path) -> None:
    montgomery_files(tmp_path)
    table = write_splits(tmp_path / "t.csv", "montgomery,MCUCXR_0001_0,test", "montgomery,MCUCXR_0002_0,train")
    for patient, words in ((lambda image: image, None), (lambda image: image[:10], "MCUCXR_000 of montgomery")):
        groups = {"montgomery": patient}
        if words is None:
            assert len(list_sets({"montgomery": montgomery}, "montgomery", tmp_path, table, "test", groups)) == 1
        else:
            with pytest.raises(ValueError, match=re.escape(words) + " into two splits, test and train"):
                list_sets({"montgomery": montgomery}, "montgomery", tmp_path, table, "test", groups)
