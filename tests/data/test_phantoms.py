# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from monai_cert.data.phantoms import chest_phantom

Picture = tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]
SEEDS = range(6)


@cache
def cached_phantom(seed: int) -> Picture:
    return chest_phantom(128, seed)


@pytest.fixture(params=SEEDS)
def phantom(request: pytest.FixtureRequest) -> Picture:
    return cached_phantom(request.param)


def lungs(mask: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.bool_]]:
    """The connected parts of a label, from the left of the picture to its right."""
    parts, count = ndimage.label(mask)
    masks = [parts == index for index in range(1, count + 1)]
    return sorted(masks, key=lambda part: ndimage.center_of_mass(part)[1])


def floor(lung: npt.NDArray[np.bool_]) -> float:
    """Row of the diaphragm in the lateral half of a lung whose heart side is on the left."""
    lowest = [np.flatnonzero(column).max() for column in lung.T if column.any()]
    return float(np.mean(lowest[len(lowest) * 5 // 10 : len(lowest) * 7 // 10]))


@pytest.mark.parametrize("size", [32, 64, 200, 256])
def test_any_size(size: int) -> None:
    image, mask = chest_phantom(size, seed=37)  # a seed whose costophrenic angles break up when sampled coarsely
    assert image.shape == (1, size, size)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1
    assert mask.shape == (size, size)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert len(lungs(mask)) == 2


@pytest.mark.parametrize("size", [16, 31])
def test_small_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be at least 32, got {size}"):
        chest_phantom(size)


def test_seed_decides_everything() -> None:
    (image, mask), (again, mask_again), (other, mask_other) = (chest_phantom(64, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert np.abs(image - other).mean() > 0.02
    assert (mask != mask_other).mean() > 0.01


def test_global_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what must not move
    chest_phantom(32)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_sizes_show_the_same_anatomy() -> None:
    (small, small_mask), (large, large_mask) = chest_phantom(64, seed=1), chest_phantom(256, seed=1)
    averaged = large[0].reshape(64, 4, 64, 4).mean(axis=(1, 3))
    fraction = large_mask.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.abs(averaged - small[0]).mean() < 0.015
    assert ((fraction >= 0.5) != small_mask).mean() < 0.01


def test_noise_has_its_stated_deviation() -> None:
    (image, _), (fine, _) = chest_phantom(256, seed=2), chest_phantom(512, seed=2)
    averaged = fine[0].reshape(256, 2, 256, 2).mean(axis=(1, 3))
    abdomen = np.s_[-30:, 60:190]
    # the same picture twice with independent noise: 0.01 in one, 0.01 / 2 in the mean of four pixels
    assert (image[0] - averaged)[abdomen].std() == pytest.approx(0.01 * np.sqrt(1.25), rel=0.1)


def test_two_lungs_of_human_size(phantom: Picture) -> None:
    _, mask = phantom
    right, left = lungs(mask)
    assert 0.18 < mask.mean() < 0.32
    assert 0.7 < left.sum() / right.sum() < 0.95, "the heart narrows the patient's left lung"
    assert not mask[[0, -1]].any()
    assert not mask[:, [0, -1]].any()


def test_right_dome_is_higher() -> None:
    """On average: a rotation of the patient can lift the left dome of one picture."""
    domes = []
    for seed in SEEDS:
        right, left = lungs(cached_phantom(seed)[1])
        domes.append([floor(right[:, ::-1]), floor(left)])
    right_dome, left_dome = np.mean(domes, axis=0)
    assert right_dome + 1 < left_dome


def test_brightness_follows_density(phantom: Picture) -> None:
    image, mask = phantom[0][0], phantom[1]
    right, left = lungs(mask)
    inner = [np.flatnonzero(right.any(axis=0)).max(), np.flatnonzero(left.any(axis=0)).min()]
    rows = np.flatnonzero(mask.any(axis=1))
    middle = (rows[0] + rows[-1]) // 2
    mediastinum = image[middle : rows[-1], inner[0] : inner[1]].mean()
    abdomen = image[-15:, 48:80].mean()
    for lung in (right, left):
        darkness = image[lung].mean()
        assert darkness < mediastinum - 0.2
        assert darkness < abdomen - 0.2
    assert image[:10, :10].mean() < image[mask == 1].mean(), "air around the body is darkest"


def test_heart_lies_to_the_patients_left(phantom: Picture) -> None:
    right, left = lungs(phantom[1])
    top, bottom = np.flatnonzero(right.any(axis=1))[[0, -1]]
    spine = (np.flatnonzero(right[top + 8]).max() + np.flatnonzero(left[top + 8]).min()) / 2
    level = int(top + 0.72 * (bottom - top))
    to_right, to_left = spine - np.flatnonzero(right[level]).max(), np.flatnonzero(left[level]).min() - spine
    assert to_left > 1.2 * to_right
