# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Abstention and certified accuracy, image by image and over batches."""

from __future__ import annotations

import pytest
import torch

from monai_cert.certificate import ABSTAIN
from monai_cert.metrics.abstention import (
    AbstentionRateMetric,
    CertifiedAccuracyMetric,
    abstention_rate,
    certified_accuracy,
)

GENERATOR = torch.Generator().manual_seed(0)
CLASSES = torch.randint(ABSTAIN, 3, (5, 1, 4, 6), generator=GENERATOR)
LABEL = torch.randint(0, 3, (5, 1, 4, 6), generator=GENERATOR)


def test_shares_are_those_of_the_pixels() -> None:
    for i in range(5):
        pixels = list(zip(CLASSES[i].flatten().tolist(), LABEL[i].flatten().tolist(), strict=True))
        assert abstention_rate(CLASSES)[i].item() == pytest.approx(sum(c == ABSTAIN for c, _ in pixels) / 24)
        assert certified_accuracy(CLASSES, LABEL)[i].item() == pytest.approx(sum(c == g for c, g in pixels) / 24)


def test_certified_accuracy_is_the_least_of_all_labelings() -> None:
    """Abstentions count as wrong, so no labeling of them does worse, and one by wrong classes does as badly."""
    worst = torch.where(CLASSES == ABSTAIN, (LABEL + 1) % 3, CLASSES)
    assert torch.equal(certified_accuracy(CLASSES, LABEL), certified_accuracy(worst, LABEL))
    best = torch.where(CLASSES == ABSTAIN, LABEL, CLASSES)
    gained = certified_accuracy(best, LABEL) - certified_accuracy(CLASSES, LABEL)
    torch.testing.assert_close(gained, abstention_rate(CLASSES))


def test_metrics_are_means_of_their_functions_over_batches() -> None:
    abstention, accuracy = AbstentionRateMetric(), CertifiedAccuracyMetric()
    for part in torch.arange(5).split(2):
        abstention(CLASSES[part], LABEL[part])
        accuracy(CLASSES[part], LABEL[part])
    assert abstention.aggregate().item() == pytest.approx(abstention_rate(CLASSES).mean().item())
    assert accuracy.aggregate().item() == pytest.approx(certified_accuracy(CLASSES, LABEL).mean().item())
    abstention.reset()
    abstention(list(CLASSES[:2]))
    assert abstention.aggregate().item() == pytest.approx(abstention_rate(CLASSES[:2]).mean().item())


def test_label_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="label maps differ in shape"):
        certified_accuracy(CLASSES, LABEL[:1])


def test_an_abstention_is_never_right() -> None:
    assert certified_accuracy(torch.full((1, 1, 2), ABSTAIN), torch.full((1, 1, 2), -1)) == 0
