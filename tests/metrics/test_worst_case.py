# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Metrics of worst cases under a budget: their twins, their order, their limits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.metrics import CumulativeIterationMetric, DiceMetric, MeanIoU
from monai.networks.utils import one_hot

from monai_cert.metrics.worst_case import (
    CertifiedRobustPixelAccuracy,
    WorstCaseDice,
    WorstCaseFNR,
    WorstCaseIoU,
    certified_robust_pixel_accuracy,
    dice_under_attack,
    fnr_under_attack,
    fpr_under_attack,
    iou_under_attack,
    smallest_attack,
    stability_under_attack,
)

Figure = Callable[..., torch.Tensor]

TWINS = (
    (WorstCaseDice, dice_under_attack),
    (WorstCaseIoU, iou_under_attack),
    (WorstCaseFNR, fnr_under_attack),
    (CertifiedRobustPixelAccuracy, certified_robust_pixel_accuracy),
)
FALLING = (dice_under_attack, iou_under_attack, certified_robust_pixel_accuracy)
RISING = (fnr_under_attack, fpr_under_attack)


def example(batch: int, channels: int, *spatial: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(channels)
    logits = torch.randn(batch, channels, *spatial, generator=generator)
    return logits, torch.randint(0, max(2, channels), (batch, 1, *spatial), generator=generator)


@pytest.mark.parametrize("channels", [2, 3])
def test_without_a_change_they_are_the_plain_figures(channels: int) -> None:
    logits, label = example(4, channels, 8, 8)
    predicted, truth = one_hot(logits.argmax(1, keepdim=True), channels), one_hot(label, channels)
    for figure, metric in ((dice_under_attack, DiceMetric()), (iou_under_attack, MeanIoU())):
        found = figure(logits, label, 0.0, 1.0, include_background=True)
        torch.testing.assert_close(found, metric(predicted, truth).double(), atol=1e-6, rtol=1e-6)
    accuracy = (logits.argmax(1, keepdim=True) == label).double().flatten(1).mean(1)
    torch.testing.assert_close(certified_robust_pixel_accuracy(logits, label, 0.0, 1.0), accuracy)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_larger_change_never_helps(channels: int) -> None:
    logits, label = example(4, channels, 8, 8)
    for figure in FALLING + RISING:
        values = torch.stack([figure(logits, label, eps, 1.0) for eps in (0.0, 0.3, 1.0, 3.0)])
        steps = values.diff(dim=0)
        assert (steps <= 0).all() if figure in FALLING else (steps >= 0).all()
        assert not torch.equal(values[0], values[-1])
        larger = figure(logits, label, 0.5, 1.0, rounding=0.3)
        torch.testing.assert_close(larger, figure(logits, label, 0.8, 1.0))
        torch.testing.assert_close(figure(logits, label, 0.4, 2.0), figure(logits, label, 0.8, 1.0))


def test_stability_bounds_every_accuracy() -> None:
    logits, _ = example(3, 2, 8, 8)
    own = logits.argmax(1, keepdim=True)
    stable = stability_under_attack(logits, 0.7, 1.0)
    torch.testing.assert_close(stable, certified_robust_pixel_accuracy(logits, own, 0.7, 1.0))


def test_one_channel_and_its_two_logits_have_the_same_worst_cases() -> None:
    logits, label = example(3, 1, 8, 8)
    pair = torch.cat([-logits, logits], dim=1) / 2**0.5
    for figure in FALLING + RISING:
        for eps in (0.31, 1.17):
            torch.testing.assert_close(figure(logits, label, eps, 1.0), figure(pair, label, eps, 1.0))


@pytest.mark.parametrize(("metric", "figure"), TWINS)
def test_a_metric_is_the_mean_of_its_function_over_batches(
    metric: type[CumulativeIterationMetric], figure: Figure
) -> None:
    logits, label = example(7, 3, 6, 6)
    expected = figure(logits, label, 0.4, 2.0)
    cumulative = metric(0.4, 2.0)
    for part in torch.arange(7).split(3):
        found = cumulative(logits[part], label[part])
        torch.testing.assert_close(found.reshape(expected[part].shape), expected[part])
    assert float(cumulative.aggregate()) == pytest.approx(float(expected.mean()), rel=1e-6)


def test_an_attack_of_the_smallest_size_is_infinite_where_none_can() -> None:
    label = torch.tensor([[[1, 1, 0, 0]]])
    logits = torch.tensor([[[0.5, 0.5, -0.5, -0.5]]])
    assert smallest_attack(logits, label, 1.0, 2.0) == 0
    assert smallest_attack(logits, label, 0.9, 2.0) == pytest.approx(0.25)
    assert smallest_attack(logits, label, 0.5, 2.0, figure="accuracy") == pytest.approx(0.25 * 2**0.5)
    assert smallest_attack(logits, label, -0.1, 2.0) == float("inf")
    with pytest.raises(ValueError, match="figure must be one of dice"):
        smallest_attack(logits, label, 0.5, 1.0, figure="hausdorff")


def test_what_does_not_fit_is_refused() -> None:
    logits, label = example(2, 1, 4, 4)
    for figure in FALLING + RISING:
        with pytest.raises(ValueError, match="label must be a label map"):
            figure(logits, label[:, 0], 0.1, 1.0)
        with pytest.raises(ValueError, match=r"classes outside 0\.\.1"):
            figure(logits, label + 1, 0.1, 1.0)
        with pytest.raises(ValueError, match="eps must be finite"):
            figure(logits, label, -0.1, 1.0)
        with pytest.raises(ValueError, match="margin of rounding"):
            figure(logits, label, 0.1, 1.0, -1.0)
    with pytest.raises(ValueError, match="eps must be finite"):
        WorstCaseDice(float("nan"), 1.0)
