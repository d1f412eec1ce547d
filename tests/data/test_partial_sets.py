# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""A copy of a part of a set is listed when that is asked for, and refused when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_cert.data.public_sets import public_datalist
from monai_cert.data.splits import Split
from tiny import make_tiny_set

SPLIT = Split("montgomery", "test", ("c", "a", "b"))


def items(ids: str) -> list[dict[str, str]]:
    return [{"id": image} for image in ids]


def test_a_partial_selection_keeps_the_order_of_the_split() -> None:
    assert SPLIT.select(items("abcd"), partial=True) == SPLIT.select(items("abcd")) == items("cab")
    assert SPLIT.select(items("bc"), partial=True) == items("cb")


def test_without_being_asked_missing_images_are_refused_and_none_at_all_is_always() -> None:
    with pytest.raises(FileNotFoundError, match="2 of the 3 images of montgomery/test are missing, first c"):
        SPLIT.select(items("b"))
    with pytest.raises(FileNotFoundError, match=r"3 of the 3 images .* the folder is incomplete$"):
        SPLIT.select(items("d"), partial=True)


def test_a_set_on_disk_is_listed_in_part(tmp_path: Path) -> None:
    make_tiny_set(tmp_path, 3)
    (tmp_path / "MontgomerySet" / "CXR_png" / "phantom_01.png").unlink()
    splits = tmp_path / "splits.csv"
    with pytest.raises(FileNotFoundError, match="first phantom_01"):
        public_datalist("montgomery", tmp_path, splits, "test")
    found = public_datalist("montgomery", tmp_path, splits, "test", partial=True)
    assert [item["id"] for item in found] == ["phantom_02", "phantom_00"]
