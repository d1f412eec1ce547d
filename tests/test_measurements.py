# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What is measured on a mask: shapes whose measures are known, spacing, empty masks, what cannot be measured."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import numpy.typing as npt
import pytest

from monai_cert.measurements import (
    MEASUREMENTS,
    area,
    bounding_box,
    cardiothoracic_ratio,
    centroid,
    components,
    largest_diameter,
    measurements_of,
    perimeter,
    volume,
)

Mask = npt.NDArray[np.bool_]
NAMES = ["background", "right lung", "left lung", "heart"]


def rectangle() -> Mask:
    """Rows 2 to 4, columns 3 to 8 of 10 x 12."""
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:9] = True
    return mask


def disk(radius: float, side: int = 201) -> Mask:
    rows, columns = np.indices((side, side)) - side // 2
    return rows**2 + columns**2 <= radius**2


def test_a_rectangle_has_its_measures() -> None:
    mask = rectangle()
    assert area(mask) == 18
    assert largest_diameter(mask) == pytest.approx(math.hypot(3, 6))
    assert perimeter(mask) == pytest.approx(2 * (2 + 5) + 4 * math.sqrt(0.5))  # corners are cut
    assert centroid(mask) == (3.5, 6.0)
    assert bounding_box(mask) == ((2, 5), (3, 9))
    assert components(mask) == 1


def test_spacing_scales_each_axis() -> None:
    mask, spacing = rectangle(), (2.0, 0.5)
    assert area(mask, spacing) == 18
    assert area(mask, (2.0, 1.0)) == 36
    assert largest_diameter(mask, spacing) == pytest.approx(math.hypot(6, 3))
    assert centroid(mask, spacing) == (7.0, 3.0)
    assert bounding_box(mask, spacing) == ((4, 10), (1.5, 4.5))
    assert perimeter(mask, (2.0, 2.0)) == pytest.approx(2 * perimeter(mask))
    assert volume(np.ones((2, 3, 4), dtype=bool), (5.0, 10.0, 10.0)) == 12.0


def test_a_disk_is_measured_as_one() -> None:
    mask = disk(80)
    assert area(mask) == pytest.approx(math.pi * 80**2, rel=0.01)
    assert largest_diameter(mask) == pytest.approx(161, rel=0.01)
    assert perimeter(mask) == pytest.approx(2 * math.pi * 80, rel=0.07)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 4)])
def test_largest_diameter_is_that_of_all_pairs_of_corners(shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.15
    spacing = rng.uniform(0.5, 2, len(shape))
    largest = math.nan
    labeled = label_by_hand(mask)
    for c in range(1, labeled.max() + 1):
        corners = {
            tuple(np.add(pixel, shift) * spacing)
            for pixel in np.argwhere(labeled == c)
            for shift in product((0, 1), repeat=len(shape))
        }
        found = max(math.dist(a, b) for a, b in combinations(corners, 2))
        largest = found if math.isnan(largest) else max(largest, found)
    assert largest_diameter(mask, tuple(spacing)) == pytest.approx(largest, nan_ok=True)
    assert components(mask) == labeled.max()


def label_by_hand(mask: Mask) -> npt.NDArray[np.int64]:
    """Components of pixels that touch, at a corner too, by flooding."""
    labeled, left, count = np.zeros(mask.shape, dtype=np.int64), {tuple(p) for p in np.argwhere(mask)}, 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            pixel = edge.pop()
            labeled[pixel] = count
            near = {n for n in left if max(abs(np.subtract(n, pixel))) == 1}
            left -= near
            edge += near
    return labeled


def test_empty_masks_have_an_area_and_no_diameter() -> None:
    empty = np.zeros((5, 6), dtype=bool)
    assert (area(empty), perimeter(empty), components(empty)) == (0, 0, 0)
    assert np.isnan([largest_diameter(empty), *centroid(empty), *np.ravel(bounding_box(empty))]).all()
    labels = np.zeros((5, 6), dtype=np.uint8)
    labels[:, :2], labels[:, 4:] = 1, 2
    assert math.isnan(cardiothoracic_ratio(labels, [1, 2], [3]))
    assert math.isnan(cardiothoracic_ratio(np.full((5, 6), 3), [1, 2], [3]))


def test_cardiothoracic_ratio_is_of_outer_widths() -> None:
    labels = np.zeros((10, 20), dtype=np.uint8)
    labels[2:8, 1:7], labels[2:8, 13:19], labels[5:9, 6:14] = 1, 2, 3
    assert cardiothoracic_ratio(labels, [1, 2], [3]) == 8 / 18
    (ratio,) = measurements_of(["cardiothoracic-ratio"], NAMES, (10, 20))
    assert ratio.measure(labels) == 8 / 18
    with pytest.raises(ValueError, match="needs classes of lungs and heart, not background, lesion"):
        measurements_of(["cardiothoracic-ratio"], ["background", "lesion"], (10, 20))


@pytest.mark.parametrize("spacing", [None, (0.5, 0.25)])
def test_measurements_are_of_every_class_with_units_and_within_limits(spacing: tuple[float, ...] | None) -> None:
    kinds = [kind for kind in MEASUREMENTS if kind != "volume"]
    measurements = measurements_of(kinds, NAMES, (40, 50), spacing)
    assert len({m.name for m in measurements}) == len(measurements) == 3 * (4 + 2 + 4)
    labels = np.random.default_rng(0).integers(0, 4, (40, 50))
    for m in measurements:
        low, high = m.limits
        assert low <= m.measure(labels) <= high
        assert m.unit == (
            "" if "number" in m.name else ("pixels" if spacing is None else "mm2" if "area" in m.name else "mm")
        )
    areas = [m for m in measurements if m.name.startswith("area")]
    scale = 1.0 if spacing is None else 0.125
    assert [m.measure(labels) for m in areas] == [scale * (labels == c).sum() for c in (1, 2, 3)]
    assert areas[0].limits == (0, 2000 * scale)


def test_the_diagonal_of_the_image_is_within_its_limit() -> None:
    (diameter,) = measurements_of(["diameter"], NAMES[:2], (17, 13), (0.76, 0.37))
    assert diameter.measure(np.ones((17, 13), int)) == diameter.limits[1]
    assert math.isnan(diameter.measure(np.zeros((17, 13), int)))


def test_volumes_of_volumes() -> None:
    (measured,) = measurements_of(["volume"], NAMES[:2], (4, 5, 6), (2.0, 1.0, 1.0))
    assert (measured.unit, measured.measure(np.ones((4, 5, 6), int)), measured.limits) == ("mL", 0.24, (0, 0.24))


@pytest.mark.parametrize(
    ("kinds", "shape", "spacing", "message"),
    [
        (["girth"], (8, 8), None, "there is no measurement 'girth'; known are area, "),
        (["volume"], (8, 8), (1.0, 1.0), "needs a volume image and the spacing"),
        (["volume"], (8, 8, 8), None, "needs a volume image and the spacing"),
        (["area"], (8, 8, 8), None, "two dimensions, got 3; measure the volume"),
        (["perimeter"], (8, 8, 8), None, "two dimensions, got 3"),
        (["area"], (8, 8), (1.0,), "spacing must be 2 positive numbers"),
        (["area"], (8, 8), (1.0, 0.0), "spacing must be 2 positive numbers"),
        (["area"], (8, 8), (1.0, math.inf), "spacing must be 2 positive numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    kinds: list[str], shape: tuple[int, ...], spacing: tuple[float, ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measurements_of(kinds, ["background", "lung"], shape, spacing)
    with pytest.raises(ValueError, match="in mL needs the spacing"):
        volume(np.ones((2, 2, 2), dtype=bool), None)
