# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified median Dice of an evaluation: what the noisy predictions, drawn again, say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_cert.bundle import CertifiedBundle, load_bundle
from monai_cert.certificate import Certificate
from monai_cert.evaluation import evaluate_image
from monai_cert.inferers.recording import MaskRecorder
from monai_cert.statistics.percentile import certify_measurements
from monai_cert.statistics.radius_map import radius_map
from tiny import SIDE, N

GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.rand(1, SIDE, SIDE, generator=GENERATOR)


@pytest.fixture
def bundle(tiny: Path) -> CertifiedBundle:
    settings = {"sigma": 0.25, "tau": 0.75, "alpha": 0.001, "n": N}
    return load_bundle(tiny, settings=settings, overrides={"seed": 0, "batch_size": 10, "denoise": False})


def evaluate(bundle: CertifiedBundle, truth: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Figures of the image with a truth, put where the bundle's transforms would read them from files."""
    loaded = {"image": MetaTensor(IMAGE), "label": MetaTensor(truth)}
    content = bundle.parser.get_parsed_content
    monkeypatch.setattr(
        bundle.parser,
        "get_parsed_content",
        lambda name: (lambda item: loaded) if name == "labeled_preprocessing" else content(name),
    )
    figures: dict[str, Any] = evaluate_image(bundle, {"id": "a", "image": "a.png"})["figures"]
    return figures


def test_it_is_the_certified_lower_end_of_the_median(bundle: CertifiedBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.inferer.recorders = (lambda image: MaskRecorder(2),)
    sample = bundle.inferer.sample(IMAGE[None], bundle.network)[0]
    certificate: Certificate = bundle.inferer.decide(sample)
    masks = np.stack(list(sample.recorded[0].masks()))  # type: ignore[attr-defined]
    truth = masks[0].copy()
    truth[: SIDE // 2] = 1
    dice = [2 * (m & truth).sum() / (m.sum() + truth.sum()) for m in masks]
    expected = certify_measurements(dice, 0.25, 0.001, [certificate.radius]).lower[0]
    figures = evaluate(bundle, torch.from_numpy(truth)[None].float(), monkeypatch)
    assert figures["certified_median_dice"] == pytest.approx(expected, rel=1e-6)
    assert 0 < expected < np.median(dice)


def test_a_truth_without_foreground_has_none(bundle: CertifiedBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evaluate(bundle, torch.zeros(1, SIDE, SIDE), monkeypatch)["certified_median_dice"] is None


def test_a_radius_that_the_draws_chose_proves_no_median(
    bundle: CertifiedBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is for radii fixed before the draws; that of a radius map is the least that they happened to prove."""
    bundle.inferer.test = radius_map
    figures = evaluate(bundle, torch.ones(1, SIDE, SIDE), monkeypatch)
    assert figures["certified_fraction"] > 0
    assert figures["certified_median_dice"] is None


def test_the_inferer_has_its_own_recorders_back(bundle: CertifiedBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    recorders = (lambda image: MaskRecorder(2),)
    bundle.inferer.recorders = recorders
    assert evaluate(bundle, torch.ones(1, SIDE, SIDE), monkeypatch)["certified_median_dice"] is not None
    assert bundle.inferer.recorders is recorders
