# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified and worst-case overlap against all labelings of the abstaining pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from monai.metrics import CumulativeIterationMetric, DiceMetric, MeanIoU
from monai.networks.utils import one_hot

from monai_cert.certificate import ABSTAIN
from monai_cert.metrics.dice import (
    CertifiedDiceMetric,
    CertifiedIoUMetric,
    WorstCaseDiceMetric,
    WorstCaseIoUMetric,
    certified_dice,
    certified_iou,
    worst_case_dice,
    worst_case_iou,
)

Figure = Callable[..., torch.Tensor]

FIGURES = (certified_dice, worst_case_dice, certified_iou, worst_case_iou)
PAIRS = ((certified_dice, worst_case_dice), (certified_iou, worst_case_iou))
TWINS = (
    (CertifiedDiceMetric, certified_dice),
    (WorstCaseDiceMetric, worst_case_dice),
    (CertifiedIoUMetric, certified_iou),
    (WorstCaseIoUMetric, worst_case_iou),
)


def label_maps(batch: int, num_classes: int, *spatial: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Certified and true label maps at random, with a good deal of abstention."""
    generator = torch.Generator().manual_seed(num_classes)
    classes = torch.randint(ABSTAIN, num_classes, (batch, 1, *spatial), generator=generator)
    return classes, torch.randint(0, num_classes, (batch, 1, *spatial), generator=generator)


def plain_figure(dice: bool, labeled: torch.Tensor, truth: torch.Tensor, c: int) -> float:
    """Dice or IoU of one class of two full label maps, by definition; NaN where neither has it."""
    a, b = labeled == c, truth == c
    both, either, total = int((a & b).sum()), int((a | b).sum()), int(a.sum() + b.sum())
    if not either:
        return float("nan")
    return 2 * both / total if dice else both / either


@pytest.mark.parametrize("figure", [worst_case_dice, worst_case_iou])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_worst_case_is_the_least_of_all_labelings(num_classes: int, figure: Figure) -> None:
    certified, truth = label_maps(25, num_classes, 2, 3)
    found = figure(certified, truth, num_classes, include_background=True)
    for classes, label, values in zip(certified, truth, found, strict=True):
        abstain = classes == ABSTAIN
        for c, value in enumerate(values.tolist()):
            figures = []
            for labels in itertools.product(range(num_classes), repeat=int(abstain.sum())):
                labeled = classes.clone()
                labeled[abstain] = torch.tensor(labels, dtype=classes.dtype)
                figures.append(plain_figure(figure is worst_case_dice, labeled, label, c))
            if ((classes == c) | (label == c)).any():
                assert value == pytest.approx(min(figures), abs=1e-7)
            else:
                assert value != value, "a class absent from truth and certificate is NaN"


@pytest.mark.parametrize(("certified", "worst"), PAIRS)
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_worst_case_is_never_above_certified(certified: Figure, worst: Figure, num_classes: int) -> None:
    maps = label_maps(50, num_classes, 4, 4)
    figures = [f(*maps, num_classes, include_background=True) for f in (certified, worst)]
    there = ~figures[0].isnan()
    assert torch.equal(there, ~figures[1].isnan())
    assert (figures[1] <= figures[0])[there].all()
    assert ((figures[1] >= 0) & (figures[0] <= 1))[there].all()


@pytest.mark.parametrize("figure", FIGURES)
def test_without_abstention_all_are_the_plain_figure(figure: Figure) -> None:
    _, truth = label_maps(4, 3, 6, 6)
    classes = truth.roll(1, dims=2)
    monai = DiceMetric() if figure in PAIRS[0] else MeanIoU()
    expected = monai(one_hot(classes, 3), one_hot(truth, 3))
    torch.testing.assert_close(figure(classes, truth, 3, include_background=True), expected)


@pytest.mark.parametrize("figure", FIGURES)
def test_what_is_absent_is_nan_and_what_is_missed_is_zero(figure: Figure) -> None:
    nothing, one = torch.zeros(1, 1, 2, 2, dtype=torch.long), torch.ones(1, 1, 2, 2, dtype=torch.long)
    abstain = torch.full_like(one, ABSTAIN)
    assert figure(nothing, nothing).isnan()
    assert figure(abstain, nothing).isnan()
    assert figure(abstain, one) == 0
    assert figure(nothing, one) == 0
    assert figure(one, nothing) == 0
    assert figure(one, one) == 1


def test_abstention_outside_the_truth_costs_the_worst_case_alone() -> None:
    truth = torch.tensor([[[1, 1, 0, 0]]])
    sure, outside = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 1, ABSTAIN, 0]]])
    for certified, worst in PAIRS:
        assert certified(outside, truth) == certified(sure, truth) == worst(sure, truth) == 1
        assert worst(outside, truth) < 1


@pytest.mark.parametrize("figure", FIGURES)
def test_background_is_one_class_more(figure: Figure) -> None:
    maps = label_maps(3, 4, 5, 5)
    foreground, every = figure(*maps, 4), figure(*maps, 4, include_background=True)
    assert foreground.shape == (3, 3)
    assert every.shape == (3, 4)
    assert torch.equal(foreground, every[:, 1:])


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
@pytest.mark.parametrize("figure", FIGURES)
def test_type_and_dimensions_do_not_matter(figure: Figure, dtype: torch.dtype) -> None:
    classes, truth = label_maps(3, 2, 4, 4, 4)
    flat = figure(classes.flatten(2), truth.flatten(2))
    assert torch.equal(figure(classes.to(dtype), truth.to(dtype)), flat)


@pytest.mark.parametrize(("metric", "figure"), TWINS)
def test_metric_is_the_mean_of_its_function_over_batches(
    metric: type[CumulativeIterationMetric], figure: Figure
) -> None:
    classes, truth = label_maps(7, 3, 3, 3)
    truth[2] = 0
    classes[2] = 0
    expected = figure(classes, truth, 3)
    assert expected[2].isnan().all()
    cumulative = metric(num_classes=3)
    for part in torch.arange(7).split(3):
        torch.testing.assert_close(cumulative(classes[part], truth[part]), expected[part], equal_nan=True)
    per_image = expected.nanmean(1)
    assert cumulative.aggregate() == pytest.approx(per_image[~per_image.isnan()].mean().item())
    per_class = cumulative.aggregate("mean_batch")
    torch.testing.assert_close(per_class, expected.nanmean(0))
    cumulative.reset()
    cumulative(list(classes[:2]), list(truth[:2]))
    assert cumulative.aggregate() == pytest.approx(expected[:2].nanmean().item())


@pytest.mark.parametrize("figure", FIGURES)
def test_what_is_no_label_map_is_refused(figure: Figure) -> None:
    good = torch.zeros(2, 1, 4, 4)
    for classes, truth in [(good, good[:1]), (good[:, 0], good[:, 0]), (good.expand(-1, 2, -1, -1),) * 2]:
        with pytest.raises(ValueError, match=r"label maps \(B, 1, \*spatial\) of one shape"):
            figure(classes, truth)
    for classes, truth in [(good + 2, good), (good, good + 2), (good, good - 1), (good - 2, good)]:
        with pytest.raises(ValueError, match=r"classes outside 0\.\.1"):
            figure(classes, truth)


def test_nan_in_a_label_map_is_refused() -> None:
    good = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="classes outside"):
        worst_case_dice(good, torch.full_like(good, torch.nan))
