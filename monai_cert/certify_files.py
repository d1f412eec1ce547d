# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certifying input files one after another; one that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_cert.bundle import CertifiedBundle
from monai_cert.certificate import Certificate
from monai_cert.data.phantoms import PHANTOM
from monai_cert.errors import USER_ERRORS, explain
from monai_cert.measuring import Measuring
from monai_cert.report import write_certificate, write_csv

__all__ = ["certify_files", "load_image"]

_COLUMNS = ("input", "status", "error", "certified_fraction", "abstention", "radius", "draws", "seconds")


def certify_files(
    bundle: CertifiedBundle,
    inputs: Sequence[str],
    settings: dict[str, Any],
    folder: Path | None,
    say: Callable[[str], object],
    measuring: Measuring | None = None,
) -> dict[str, Any]:
    """Certify files and write their results; ``summary.csv`` is brought up to date after each.

    Args:
        bundle: the bundle.
        inputs: image files, or `PHANTOM` for the bundle's phantom.
        settings: what to record as ``settings``.
        folder: where the files go; it exists. None in a process that shares draws with another one, which writes.
        say: called with a line of text after each input.
        measuring: what to measure on the noisy predictions, if anything.

    Returns:
        The summary as the command line prints it with ``--json``. After Ctrl-C the inputs that were not reached have
        the status ``error``.
    """
    entries: list[dict[str, Any]] = []
    stopped = False
    for number, source in enumerate(inputs, start=1):
        if stopped:
            entries.append(_failed(source, "stopped before this input was done"))
            continue
        try:
            entries.append(_certify_one(bundle, source, folder, measuring))
        except KeyboardInterrupt:
            stopped = True
            entries.append(_failed(source, "stopped before this input was done"))
        except USER_ERRORS as error:
            entries.append(_failed(source, explain(error, source)))
        say(f"{number}/{len(inputs)} {_told(entries[-1])}")
        if folder is not None:
            _write_summary(folder, entries, say)
    return {"format": 1, "bundle": bundle.name, "settings": settings, "inputs": entries}


def _certify_one(
    bundle: CertifiedBundle, source: str, folder: Path | None, measuring: Measuring | None
) -> dict[str, Any]:
    image = load_image(bundle, source)
    shape = tuple(image.shape[1:])
    inferer, spacing = bundle.inferer, None
    if measuring is not None:
        spacing = measuring.spacing_of(source, shape)
        inferer.recorders = tuple(measuring.recorders(spacing, shape))
    started = time.perf_counter()
    sample = inferer.sample(image[None], bundle.network)[0]
    certificate = inferer.decide(sample)
    measured = None if measuring is None else measuring.certify(sample, inferer, spacing)
    seconds = time.perf_counter() - started
    outputs = None
    if folder is not None:
        pixels = image.cpu().numpy()
        outputs = write_certificate(folder, source, pixels, certificate, bundle.class_names, measured)
    return {
        "input": source,
        "status": "ok",
        "error": None,
        "certified_fraction": certificate.certified_fraction,
        "abstention": certificate.abstention,
        "radius": certificate.radius,
        "draws": certificate.draws,
        "seconds": seconds,
        "class_fractions": _class_fractions(certificate),
        "measurements": None if measured is None else measured.record(),
        "outputs": outputs,
    }


def load_image(bundle: CertifiedBundle, source: str) -> torch.Tensor:
    """What a bundle makes of an input, a file or `PHANTOM`: (C, *spatial) on the bundle's device.

    Raises:
        ValueError: if the phantom is asked for and the bundle has none.
    """
    device = next(bundle.network.parameters()).device
    if source == PHANTOM:
        if PHANTOM not in bundle.parser:
            raise ValueError(f"the bundle {bundle.name} has no phantom; give an image")
        return torch.as_tensor(bundle.parser.get_parsed_content(PHANTOM)).to(device)
    image: torch.Tensor = bundle.preprocessing({"image": source})["image"].as_tensor()
    return image.to(device)


def _class_fractions(certificate: Certificate) -> dict[str, float]:
    """Share of all pixels that are certified as each class."""
    return {str(c): float(np.mean(certificate.classes == c)) for c in range(certificate.num_classes)}


def _failed(source: str, error: str) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("certified_fraction", "abstention", "radius", "draws", "seconds", "class_fractions", "measurements", "outputs")
    )
    return {"input": source, "status": "error", "error": error, **empty}


def _told(entry: dict[str, Any]) -> str:
    if entry["status"] == "error":
        return f"failed: {entry['error']}"
    return f"{entry['input']}: {entry['certified_fraction']:.1%} of pixels certified in {entry['seconds']:.1f} s"


def _write_summary(folder: Path, entries: list[dict[str, Any]], say: Callable[[str], object]) -> None:
    try:
        write_csv(folder / "summary.csv", _COLUMNS, entries)
    except OSError as error:
        say(f"summary.csv could not be written: {explain(error)}")
