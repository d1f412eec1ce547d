# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Whole predictions against a reference: overlaps of sets, and distances as MONAI measures them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import directed_hausdorff

from monai_cert.metrics.whole_mask import WHOLE_MASK, whole_mask_measurements

RNG = np.random.default_rng(0)
LABELS, REFERENCE = RNG.integers(0, 3, (2, 12, 14))
NAMES = ["background", "a", "b"]


def test_overlaps_are_those_of_sets() -> None:
    measured = whole_mask_measurements(["dice", "iou"], NAMES, REFERENCE, called="the truth")
    assert [m.name for m in measured] == [f"{w} of {c} with the truth" for w in ("Dice", "IoU") for c in "ab"]
    for m, c in zip(measured, (1, 2, 1, 2), strict=True):
        ours, theirs = c == LABELS, c == REFERENCE
        both = (ours & theirs).sum()
        expected = 2 * both / (ours.sum() + theirs.sum()) if "Dice" in m.name else both / (ours | theirs).sum()
        assert m.measure(LABELS) == expected, "in float32 it may lie above what is true"
        assert m.measure(REFERENCE) == 1
        assert (m.unit, m.limits) == ("", (0, 1))


def test_distances_are_in_the_units_of_the_spacing() -> None:
    mask, reference = np.zeros((2, 20, 20), dtype=int)
    mask[5, 5], reference[5, 9], reference[8, 5] = 1, 1, 1
    (pixels,) = whole_mask_measurements(["hausdorff"], NAMES[:2], reference)
    (mm,) = whole_mask_measurements(["hausdorff"], NAMES[:2], reference, spacing=(2.0, 0.5))
    assert (pixels.unit, mm.unit) == ("pixels", "mm")
    assert pixels.measure(mask) == 4.0 == directed_hausdorff(np.argwhere(reference), np.argwhere(mask))[0]
    assert mm.measure(mask) == 6.0


def test_empty_masks_have_values() -> None:
    """Nothing is undefined: two empty masks agree, an empty one is as far as can be."""
    empty = np.zeros_like(REFERENCE)
    for m in whole_mask_measurements(list(WHOLE_MASK), NAMES[:2], empty):
        worst = 0.0 if m.unit == "" else math.inf
        assert m.measure(empty) == (1.0 if m.unit == "" else 0.0)
        assert m.measure(REFERENCE) == worst
    for m in whole_mask_measurements(list(WHOLE_MASK), NAMES[:2], REFERENCE):
        assert m.measure(empty) == (0.0 if m.unit == "" else math.inf)
        assert m.measure(REFERENCE) == (1.0 if m.unit == "" else 0.0)


def test_unknown_comparisons_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no comparison 'dise'; known are dice, iou"):
        whole_mask_measurements(["dise"], NAMES, REFERENCE)
