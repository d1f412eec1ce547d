# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The three phantoms: what they promise alike, and that each shows what its modality shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from monai_cert.data.phantoms import chest_phantom, lesion_phantom, polyp_phantom

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]
Picture = tuple[Image, Mask]
PHANTOMS: dict[str, Callable[[int, int], Picture]] = {
    "chest": chest_phantom,
    "lesion": lesion_phantom,
    "polyp": polyp_phantom,
}
CHANNELS = {"chest": 1, "lesion": 3, "polyp": 3}
NOISE = {"chest": 0.01, "lesion": 0.006, "polyp": 0.007}
SEEDS = range(6)


@cache
def cached_phantom(name: str, size: int, seed: int) -> Picture:
    return PHANTOMS[name](size, seed)


@pytest.fixture(params=PHANTOMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=SEEDS)
def phantom(request: pytest.FixtureRequest) -> Picture:
    """A chest."""
    return cached_phantom("chest", 128, request.param)


@pytest.fixture(params=range(3))
def lesion(request: pytest.FixtureRequest) -> Picture:
    return cached_phantom("lesion", 128, request.param)


@pytest.fixture(params=range(3))
def polyp(request: pytest.FixtureRequest) -> Picture:
    return cached_phantom("polyp", 128, request.param)


def averaged(pixels: npt.NDArray[np.generic], factor: int) -> npt.NDArray[np.float64]:
    *channels, height, width = pixels.shape
    return pixels.reshape(*channels, height // factor, factor, width // factor, factor).mean(axis=(-3, -1))


def pieces(mask: Mask) -> int:
    return int(ndimage.label(mask)[1])


def around(mask: Mask) -> npt.NDArray[np.bool_]:
    """A ring around what is labeled, 1 to 6 pixels away."""
    return ndimage.binary_dilation(mask, iterations=6) & ~ndimage.binary_dilation(mask)


def lungs(mask: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.bool_]]:
    """The connected parts of a label, from the left of the picture to its right."""
    parts, count = ndimage.label(mask)
    masks = [parts == index for index in range(1, count + 1)]
    return sorted(masks, key=lambda part: ndimage.center_of_mass(part)[1])


def floor(lung: npt.NDArray[np.bool_]) -> float:
    """Row of the diaphragm in the lateral half of a lung whose heart side is on the left."""
    lowest = [np.flatnonzero(column).max() for column in lung.T if column.any()]
    return float(np.mean(lowest[len(lowest) * 5 // 10 : len(lowest) * 7 // 10]))


@pytest.mark.parametrize(
    ("name", "size"),
    [("chest", 32), ("chest", 64), ("chest", 200), ("lesion", 32), ("lesion", 200), ("polyp", 32), ("polyp", 200)],
)
def test_any_size(name: str, size: int) -> None:
    image, mask = PHANTOMS[name](size, 37)  # a seed whose costophrenic angles break up when sampled coarsely
    assert image.shape == (CHANNELS[name], size, size)
    assert image.dtype == np.float32
    assert 0 <= image.min() < image.max() <= 1
    assert mask.shape == (size, size)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert pieces(mask) == (2 if name == "chest" else 1)


@pytest.mark.parametrize("size", [16, 31])
def test_small_size_is_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be at least 32, got {size}"):
        PHANTOMS[name](size, 0)


def test_seed_decides_everything_and_the_global_generator_is_left_alone(name: str) -> None:
    (image, mask), (other, mask_other) = (cached_phantom(name, 64, seed) for seed in (1, 4))
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what must not move
    again, mask_again = PHANTOMS[name](64, 1)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert np.abs(image - other).mean() > 0.02
    assert (mask != mask_other).mean() > 0.01


def test_sizes_show_the_same_anatomy(name: str) -> None:
    (small, small_mask), (large, large_mask) = cached_phantom(name, 64, 1), cached_phantom(name, 256, 1)
    assert np.abs(averaged(large, 4) - small).mean() < 0.015
    assert ((averaged(large_mask, 4) >= 0.5) != small_mask).mean() < 0.01


def test_noise_has_its_stated_deviation(name: str) -> None:
    (image, _), (fine, _) = cached_phantom(name, 256, 1), cached_phantom(name, 512, 1)
    clean = averaged(fine, 2)
    unclipped = (clean > 0.1) & (clean < 0.9)
    # the same picture twice with independent noise: in one, and in the mean of four pixels, which halves it
    assert (image - clean)[unclipped].std() == pytest.approx(NOISE[name] * np.sqrt(1.25), rel=0.1)


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
        right, left = lungs(cached_phantom("chest", 128, seed)[1])
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


def test_a_lesion_is_one_patch_of_likely_size_within_the_picture(lesion: Picture) -> None:
    mask = lesion[1]
    assert pieces(mask) == pieces(1 - mask) == 1
    assert 0.02 < mask.mean() < 0.5
    assert mask[[0, -1]].sum() + mask[:, [0, -1]].sum() == 0


def test_a_lesion_takes_most_of_the_blue_and_least_of_the_red(lesion: Picture) -> None:
    image, mask = lesion
    inside, skin = image[:, mask == 1].mean(axis=1), image[:, around(mask)].mean(axis=1)
    red, green, blue = inside / skin
    assert 0.9 > red > green > blue, "melanin absorbs the more, the shorter the wave"
    assert skin[0] > skin[1] > skin[2], "so does skin"


def test_lesions_look_as_real_ones_do_on_average() -> None:
    """Within the middle half of 150 images of ISIC 2018, for mean colors around the lesion and contrast."""
    pictures = [cached_phantom("lesion", 128, seed) for seed in range(3)]
    skin = np.mean([image[:, around(mask)].mean(axis=1) for image, mask in pictures], axis=0)
    inside = np.mean([image[:, mask == 1].mean(axis=1) for image, mask in pictures], axis=0)
    assert np.all((skin > [0.668, 0.532, 0.487]) & (skin < [0.815, 0.677, 0.651]))
    assert 0.09 < (skin - inside).mean() < 0.242


def test_a_polyp_is_one_patch_of_likely_size_within_the_octagon(polyp: Picture) -> None:
    image, mask = polyp
    assert pieces(mask) == 1
    assert 0.01 < mask.mean() < 0.4
    axis = np.abs((np.arange(128) + 0.5) / 64 - 1)
    corners = axis[:, None] + axis > 1.55
    assert image[:, corners].max() < 0.1
    assert not mask[corners].any()


def test_a_colon_is_red_bright_near_the_endoscope_and_dark_in_the_lumen(polyp: Picture) -> None:
    image = polyp[0]
    shown = image[:, image.max(axis=0) > 0.06]
    red, green, blue = shown.mean(axis=1)
    assert red > 1.3 * green > 1.3 * blue
    smooth = ndimage.gaussian_filter(image[0], 2)[32:-32, 32:-32]
    assert smooth.min() < 0.25
    assert np.percentile(shown[0], 90) > 0.6
    assert image.min(axis=0).max() > 0.6, "the wet surface mirrors the light"


def test_polyps_stand_out_from_their_shadow() -> None:
    """As in 150 images of Kvasir-SEG and CVC-ClinicDB each: brighter than what is right around, by 0.09 to 0.13."""
    contrasts = []
    for seed in range(3):
        image, mask = cached_phantom("polyp", 128, seed)
        contrasts.append(image[:, mask == 1].mean() - image[:, around(mask)].mean())
    assert 0.03 < np.mean(contrasts) < 0.4
