# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The results of a data set's images on disk, a file each, and the record of the settings that they share.

What an evaluation has done is what these files say: each is written whole or not at all, so that a run can be stopped
at any moment, and any number of processes can work on one folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_cert.report import write_whole

__all__ = ["OtherRunError", "ResultRows", "differences", "input_digests", "now"]

FORMAT = 1
_TEMPORARY = re.compile(r"\.([0-9a-f]{64}\.json|run\.json|results\.json|results\.csv)\.[0-9a-f]{8}")

Row = dict[str, Any]


class OtherRunError(ValueError):
    """A folder holds results that must not be mixed with those of this run."""


class ResultRows:
    """The results in one output folder: ``run.json``, and ``rows/HASH.json`` for each image.

    A row has ``format``, ``run`` (digest of the settings), ``id``, ``status`` (``ok`` or ``error``), what was found,
    and ``sha256``, a digest of all this.

    Args:
        folder: the output folder; it exists.
        ids: the images that are asked for, in their order.
        identity: what all rows must have been made with, as JSON values: settings, digests, versions.

    Raises:
        OtherRunError: if two images have one id.
    """

    def __init__(self, folder: Path, ids: Sequence[str], identity: Mapping[str, Any]) -> None:
        repeated = [image for image, count in Counter(ids).items() if count > 1]
        if repeated:
            raise OtherRunError(f"two images have the id {repeated[0]!r}: their results could not be told apart")
        self.folder = folder
        self.ids = tuple(ids)
        self.identity = dict(identity)
        self.started = now()
        self._rows: dict[str, Row] = {}

    def open(self, items: Sequence[Mapping[str, Any]], say: Callable[[str], object]) -> list[str]:
        """Take up what the folder holds, or begin in an empty one. One process does it before all others start.

        Files that were being written when a run was killed are removed; so are the rows of images that failed, and
        damaged ones, both of which are to be done again.

        Args:
            items: the datalist, an item an id.
            say: called with a line of text for each damaged row.

        Returns:
            The ids that are to be done.

        Raises:
            OtherRunError: if anything in the folder was made with other settings, from other images, or by another
                version, or a file stands in the place of ``rows``; nothing is changed then.
            OSError: if the folder or an image cannot be read, or the folder not be written.
        """
        if (place := self.folder / "rows").exists() and not place.is_dir():
            raise OtherRunError(f"{place} is a file where the folder of results belongs; move it away")
        self._check_run()
        again: list[Path] = []
        for item in items:
            path = self.path(item["id"])
            row = self._read(path) if path.is_file() else None
            if path.is_file() and row is None:
                say(f"{path} is damaged; {item['id']} is done again")
            if row is not None and row["status"] == "ok":
                changed = [k for k, digest in input_digests(item).items() if row["inputs"].get(k) != digest]
                if changed:
                    raise self._other(f"{changed[0]} files of {item['id']} have changed since it was evaluated")
                self._rows[item["id"]] = row
            elif path.is_file():
                again.append(path)
        (self.folder / "rows").mkdir(exist_ok=True)
        leftovers = [f for place in (self.folder, self.folder / "rows") for f in place.iterdir()]
        for file in again + [f for f in leftovers if _TEMPORARY.fullmatch(f.name)]:
            file.unlink(missing_ok=True)
        if not (self.folder / "run.json").is_file():
            record = {"format": FORMAT, "started": self.started, "identity": self.identity}
            write_whole(self.folder / "run.json", json.dumps(record, indent=4, allow_nan=False).encode())
        return [image for image in self.ids if image not in self._rows]

    @property
    def run(self) -> str:
        """Digest of what all rows are made with."""
        return _digest(self.identity)

    def path(self, image: str) -> Path:
        """The file of an image's row; its name says nothing to the file system, whatever the id."""
        return self.folder / "rows" / f"{hashlib.sha256(image.encode()).hexdigest()}.json"

    def write(self, row: Mapping[str, Any]) -> None:
        """Write what was found about an image: ``id``, ``status`` and more, as JSON values."""
        content = {"format": FORMAT, "run": self.run, **row}
        content["sha256"] = _digest(content)
        write_whole(self.path(row["id"]), json.dumps(content, indent=4, allow_nan=False).encode())

    def fresh(self) -> list[Row]:
        """Rows that were written, by whatever process, since the last look."""
        there = {file.name for file in (self.folder / "rows").iterdir()}
        found = []
        for image in self.ids:
            path = self.path(image)
            if image not in self._rows and path.name in there and (row := self._read(path)) is not None:
                self._rows[image] = row
                found.append(row)
        return found

    def known(self, status: str = "ok") -> list[Row]:
        """All rows of a status that were seen, in the order of the ids."""
        rows = (self._rows.get(image) for image in self.ids)
        return [row for row in rows if row is not None and row["status"] == status]

    def missing(self) -> int:
        """Number of images without a row so far."""
        return len(self.ids) - len(self._rows)

    def _check_run(self) -> None:
        file = self.folder / "run.json"
        if not file.is_file():
            if any((self.folder / name).exists() for name in ("results.csv", "results.json")):
                raise self._other("it has no run.json, as those of another version")
            return
        try:
            record = json.loads(file.read_bytes())
            written, identity, started = record["format"], dict(record["identity"]), str(record["started"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._other("its run.json is damaged") from error
        if written != FORMAT:
            raise self._other(f"they have format {written}, not {FORMAT}")
        found = differences(identity, self.identity)
        if found:
            raise self._other(f"they differ in {found}")
        self.identity, self.started = identity, started

    def _read(self, path: Path) -> Row | None:
        """One row; None if it is damaged."""
        try:
            row = json.loads(path.read_bytes())
            digest = row.pop("sha256")
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if digest != _digest(row):
            return None
        if row["format"] != FORMAT:
            raise self._other(f"{path.name} has format {row['format']}, not {FORMAT}")
        if row["run"] != self.run:
            raise self._other(f"{path.name} was made with other settings than run.json says")
        return dict(row)

    def _other(self, reason: str) -> OtherRunError:
        return OtherRunError(
            f"{self.folder} holds results already that cannot be continued: {reason}; give another folder with --output"
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What differs between two identities, as words: ``sigma (0.25, now 0.5), n (100, now 50)``; empty if nothing does.

    Smoothing and one pass through a Lipschitz network have few settings in common, so of these only that is told.

    Example:
        >>> differences({"sigma": 0.25, "weights_sha256": "a3"}, {"sigma": 0.5, "weights_sha256": "bb"})
        'sigma (0.25, now 0.5), weights_sha256'
    """
    kinds = ["of a Lipschitz network" if "lipschitz_constant" in run else "of smoothing" for run in (theirs, ours)]
    if kinds[0] != kinds[1]:
        return f"the kind of their certificates ({kinds[0]}, now {kinds[1]})"
    names = [name for name in dict.fromkeys([*ours, *theirs]) if theirs.get(name) != ours.get(name)]
    return ", ".join(
        name if name.endswith("sha256") else f"{name} ({theirs.get(name)}, now {ours.get(name)})" for name in names
    )


def input_digests(item: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that an item of a datalist names, one a key: image, masks."""
    digests = {}
    for key, value in item.items():
        files = [Path(f) for f in ([value] if isinstance(value, str) else value if isinstance(value, list) else [])]
        if key not in ("id", "dataset") and files and all(file.is_file() for file in files):
            digests[key] = _digest([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    return digests


def now() -> str:
    """Date and time, UTC, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
