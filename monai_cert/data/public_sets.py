# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""All public data sets by name, whatever their modality."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from monai_cert.data.chest_xray import CHEST_XRAY_SETS
from monai_cert.data.colonoscopy import COLONOSCOPY_GROUPS, COLONOSCOPY_SETS
from monai_cert.data.layouts import Item, list_sets
from monai_cert.data.skin_lesion import SKIN_LESION_SETS

__all__ = ["PUBLIC_SETS", "public_datalist"]

PUBLIC_SETS = {**CHEST_XRAY_SETS, **SKIN_LESION_SETS, **COLONOSCOPY_SETS}


def public_datalist(
    datasets: str | Iterable[str],
    root: str | Path,
    splits: str | Path | None = None,
    split: str | None = None,
    partial: bool = False,
) -> list[Item]:
    """List one or several of `PUBLIC_SETS`, restricted to a split if one is given; see `list_sets`.

    A table of splits that separates frames of one sequence of CVC-ClinicDB is refused.
    """
    return list_sets(PUBLIC_SETS, datasets, root, splits, split, COLONOSCOPY_GROUPS, partial)
