# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Fixed splits of data sets, as a table ``dataset,id,split``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Split", "read_split"]


@dataclass(frozen=True)
class Split:
    """The images of one split of one data set.

    Args:
        dataset: the data set.
        name: the split.
        ids: the images, in the order of the table.
    """

    dataset: str
    name: str
    ids: tuple[str, ...]

    def select(
        self, items: list[dict[str, Any]], partial: bool = False, folder: str | Path = "the folder"
    ) -> list[dict[str, Any]]:
        """Keep the items of this split, in its order.

        Args:
            items: all items of the data set that there are.
            partial: leave out images of the split that are not among the items.
            folder: where the items were found, for the message.

        Raises:
            FileNotFoundError: if one of its images is not among the items; with ``partial``, if none is.
        """
        by_id = {item["id"]: item for item in items}
        missing = [image for image in self.ids if image not in by_id]
        if missing and (len(missing) == len(self.ids) or not partial):
            mend = "" if len(missing) == len(self.ids) else "; --partial (partial=True) leaves them out"
            raise FileNotFoundError(
                f"{len(missing)} of the {len(self.ids)} images of {self.dataset}/{self.name} are missing, "
                f"first {', '.join(missing[:3])}: {folder} is incomplete{mend}"
            )
        return [by_id[image] for image in self.ids if image in by_id]


def read_split(path: str | Path, dataset: str, split: str, group: Callable[[str], str] | None = None) -> Split:
    """Read one split of one data set from a CSV file with the columns ``dataset,id,split``.

    Args:
        path: the CSV file.
        dataset: the data set.
        split: the split.
        group: from the id of an image to the name of what it belongs to and may not be separated from.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, the split has no images, or a group is in two splits of the table.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the table of splits {path} does not exist")
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"dataset", "id", "split"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path} must have the columns dataset,id,split")
        table = [(row["id"], row["split"]) for row in rows if row["dataset"] == dataset]
    ids = tuple(image for image, name in table if name == split)
    if not ids:
        raise ValueError(f"{path} has no images of data set {dataset!r}, split {split!r}")
    if group is not None:
        _check_groups(path, dataset, table, group)
    return Split(dataset, split, ids)


def _check_groups(path: Path, dataset: str, table: Iterable[tuple[str, str]], group: Callable[[str], str]) -> None:
    """What was learned from one image of a group would be tested on another."""
    splits: dict[str, str] = {}
    for image, name in table:
        other = splits.setdefault(group(image), name)
        if other != name:
            raise ValueError(
                f"{path} puts {group(image)} of {dataset} into two splits, {other} and {name}; it belongs into one"
            )
