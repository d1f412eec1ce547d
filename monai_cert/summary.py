# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation found over all images, out of their single rows: ``results.csv`` and ``results.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from monai_cert.provenance import package_versions
from monai_cert.report import write_csv, write_whole
from monai_cert.result_rows import FORMAT, ResultRows
from monai_cert.statistics.intervals import bootstrap_interval

__all__ = ["FIGURES", "summarize", "write_summary"]

FIGURES = (
    "clean_dice",
    "smoothed_dice",
    "certified_dice",
    "worst_case_dice",
    "abstention",
    "certified_fraction",
    "seconds",
    "certified_accuracy",
    "certified_information_gain",
    "draws",
    "certified_median_dice",
    "dice_under_attack",
)


def summarize(rows: ResultRows, settings: Mapping[str, Any], left_out: int = 0) -> dict[str, Any]:
    """What ``results.json`` holds.

    Args:
        rows: what was seen of the rows.
        settings: what to record as ``settings``.
        left_out: number of images that the split names but the folder lacks.

    Returns:
        ``format``, ``settings``, number of ``images``; over images, NaN left out, ``means``, their
        ``standard_errors``, and 95 % ``intervals`` (see `bootstrap_interval`); ``counts``: images ``asked`` for,
        ``done``, ``failed``, ``not_done`` yet, ``left_out``; ``failures``; digests and versions; every ``hardware``
        that took part, and the largest number of ``processes``; ``seconds``, the sum over images; when the run
        ``started`` and when its last row was ``finished``. Only JSON values: what is not known is None.
    """
    done, failed = rows.known(), rows.known("error")
    found = [figures_of(row) for row in done]
    columns = {name: np.array([figures.get(name, math.nan) for figures in found], dtype=np.float64) for name in FIGURES}
    known = {name: column[~np.isnan(column)] for name, column in columns.items()}
    intervals = {name: bootstrap_interval(column) for name, column in known.items()}
    hardware = [row["hardware"] for row in done]
    return {
        "format": FORMAT,
        "settings": dict(settings),
        "images": len(done),
        "means": {name: float(c.mean()) if c.size else None for name, c in known.items()},
        "standard_errors": {
            name: float(c.std(ddof=1) / np.sqrt(c.size)) if c.size > 1 else None for name, c in known.items()
        },
        "intervals": {name: None if found is None else asdict(found) for name, found in intervals.items()},
        "counts": {
            "asked": len(rows.ids),
            "done": len(done),
            "failed": len(failed),
            "not_done": rows.missing(),
            "left_out": left_out,
        },
        "failures": [{"id": row["id"], "error": row["error"]} for row in failed],
        "weights_sha256": rows.identity["weights_sha256"],
        "configuration_sha256": rows.identity["configuration_sha256"],
        "versions": dict(package_versions()),
        "hardware": [one for number, one in enumerate(hardware) if one not in hardware[:number]],
        "processes": max((row["processes"] for row in done), default=None),
        "seconds": math.fsum(known["seconds"]),
        "started": rows.started,
        "finished": max((row["finished"] for row in done), default=None),
    }


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row, in which JSON has no NaN."""
    return {name: math.nan if value is None else value for name, value in row["figures"].items()}


def write_summary(folder: Path, rows: ResultRows, results: Mapping[str, Any]) -> None:
    """Write ``results.csv``, a row an image in the order of the datalist, and ``results.json``."""
    table: Sequence[dict[str, Any]] = [{"id": row["id"], **figures_of(row)} for row in rows.known()]
    write_csv(folder / "results.csv", ("id", *FIGURES), table)
    write_whole(folder / "results.json", json.dumps(results, indent=4, allow_nan=False).encode())
