# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Figures against the radius, and the area under them."""

from __future__ import annotations

import pytest
import torch

from monai_cert.certificate import ABSTAIN
from monai_cert.metrics.abstention import certified_accuracy
from monai_cert.metrics.curves import area_under_curve, curve_over_radius
from monai_cert.metrics.dice import certified_dice, worst_case_dice


def random_maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    radius = torch.randint(0, 6, (3, 1, 8, 8), generator=generator) / 10
    classes = torch.where(radius > 0, torch.randint(0, 2, radius.shape, generator=generator), ABSTAIN)
    return classes, radius, torch.randint(0, 2, radius.shape, generator=generator)


def test_a_curve_is_the_figure_of_the_pixels_that_reach_the_radius() -> None:
    classes, radius, label = random_maps()
    radii = torch.tensor([0.1, 0.25, 0.5, 0.6])
    curve = curve_over_radius(certified_dice, classes, radius, label, radii)
    assert curve.shape == (4, 3, 1)
    assert torch.equal(curve[0], certified_dice(classes, label))
    for r, figures in zip(radii, curve, strict=True):
        kept = classes.clone()
        kept[radius < r] = ABSTAIN
        assert torch.equal(figures.nan_to_num(-1), certified_dice(kept, label).nan_to_num(-1))
    assert (curve[-1] == 0).all()


def test_worst_cases_never_rise_with_the_radius() -> None:
    classes, radius, label = random_maps()
    radii = torch.linspace(0.01, 0.7, 50)
    for figure in (worst_case_dice, certified_accuracy):
        curve = curve_over_radius(figure, classes, radius, label, radii)
        assert (torch.diff(curve, dim=0) <= 0).all()


def test_the_area_is_exact_at_all_radii_of_the_pixels_and_no_more_at_others() -> None:
    """The mean accuracy over the radius is the mean radius of the rightly certified pixels."""
    classes, radius, label = random_maps()
    exact = torch.where((classes == label) & (classes != ABSTAIN), radius, 0.0).flatten(1).mean(1)
    radii = radius.unique()[1:]
    area = area_under_curve(curve_over_radius(certified_accuracy, classes, radius, label, radii), radii)
    torch.testing.assert_close(area, exact)
    for grid in (torch.tensor([0.15, 0.5]), torch.linspace(0.03, 1, 40)):
        coarse = area_under_curve(curve_over_radius(certified_accuracy, classes, radius, label, grid), grid)
        assert (coarse < exact).all()


def test_a_radius_between_two_float32_is_not_rounded_down_to_that_of_a_pixel() -> None:
    classes, radius = torch.ones(1, 1, 1, dtype=torch.long), torch.full((1, 1, 1), 0.7)
    just_above = radius.double().ravel() + 1e-9
    assert curve_over_radius(certified_accuracy, classes, radius, classes, just_above).item() == 0
    assert curve_over_radius(certified_accuracy, classes, radius, classes, radius.double().ravel()).item() == 1


def test_radii_and_figures_may_differ_in_type() -> None:
    area = area_under_curve(torch.tensor([1.0, 0.5]), torch.tensor([0.25, 0.5], dtype=torch.float64))
    assert (area.item(), area.dtype) == (0.375, torch.float64)


def test_what_is_no_curve_is_refused() -> None:
    classes, radius, label = random_maps()
    with pytest.raises(ValueError, match="classes and radius differ in shape"):
        curve_over_radius(certified_dice, classes, radius[:1], label, torch.tensor([0.1]))
    for radii in ([0.0, 0.1], [0.2, 0.1], [0.1, 0.1], [0.1]):
        with pytest.raises(ValueError, match="radii must rise from above 0, one for each figure"):
            area_under_curve(torch.ones(2), torch.tensor(radii))
