# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Procedural dermoscopic photographs with their lesions: inputs that need no download and belong to no patient.

Lengths are in picture widths (about 10 mm), `x` to the right and `y` downwards. `depth` is 0 at the lesion's border, 1
at its center and negative outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_fill_holes, gaussian_filter
from scipy.spatial import cKDTree

from monai_cert.data.drawing import Array, bell, curve, enlargement, mottle, one_piece, shrink

__all__ = ["lesion_phantom"]

# What a unit of each pigment takes from red, green and blue, as an optical depth of the displayed picture.
MELANIN = (1.0, 2.05, 2.75)
BLOOD = (0.12, 0.95, 0.8)
VEIL = (0.42, 0.45, 0.56)  # melanin deep in the skin scatters blue light back
HAIR = (0.13, 0.09, 0.07)
CELL = 0.019  # distance of neighboring holes of the pigment network
NOISE = 0.006


@dataclass(frozen=True)
class _Lesion:
    """What one seed fixes, drawn before anything is rendered."""

    melanin: float  # of the skin around
    blood: float
    light: tuple[float, float, float]  # color and strength of the lamp
    falloff: float  # how much darker the corners are
    center: tuple[float, float]
    area: float  # of the picture
    elongation: float
    angle: float
    waves: npt.NDArray[np.complex128]  # of the outline, from two lobes on
    roughness: float  # of the outline, in radii
    pigment: float
    redness: float
    edge: float  # width over which the border fades, in depth
    network: float  # how much of the pigment lies in the lines of a network, and in globules
    globules: float
    veil: float  # strength of the blue-grey area, and of the pale one
    regression: float
    hairs: int
    bubbles: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Lesion:
        lobes = np.arange(2, 10)
        waves = rng.normal(0, 0.13, (2, len(lobes))) / lobes**0.8
        light = rng.uniform(0.8, 0.94) * rng.uniform((1, 0.95, 0.9), (1, 1, 1))
        return cls(
            melanin=0.03 + 0.12 * rng.beta(1.2, 2.5),
            blood=rng.uniform(0.08, 0.32),
            light=(light[0], light[1], light[2]),
            falloff=rng.uniform(0.08, 0.3),
            center=(rng.normal(0.5, 0.03), rng.normal(0.5, 0.03)),
            area=np.exp(rng.uniform(np.log(0.06), np.log(0.32))),
            elongation=rng.uniform(1.0, 1.6),
            angle=rng.uniform(0, np.pi),
            waves=waves[0] + 1j * waves[1],
            roughness=rng.uniform(0.02, 0.07),
            pigment=np.exp(rng.uniform(np.log(0.12), np.log(0.42))),
            redness=0.02 + 0.28 * rng.beta(1, 2.5),
            edge=rng.uniform(0.12, 0.4),
            network=rng.uniform(0.2, 1.0),
            globules=rng.uniform(0.0, 1.0),
            veil=max(0.0, rng.uniform(-0.5, 0.7)),
            regression=max(0.0, rng.uniform(-0.4, 0.6)),
            hairs=int(rng.integers(2, 12)),
            bubbles=int(rng.integers(6, 30)),
        )


class _Skin:
    """Pixel coordinates, the depth of each in the lesion, and the random fields of one picture."""

    def __init__(self, side: int, lesion: _Lesion, rng: np.random.Generator) -> None:
        self.side, self.lesion, self.rng = side, lesion, rng
        axis = (np.arange(side) + 0.5) / side
        self.y, self.x = np.meshgrid(axis, axis, indexing="ij")
        self.pixels = np.stack([self.x, self.y], axis=-1).reshape(-1, 2)
        self.depth = self._depth()

    def _depth(self) -> Array:
        lesion, radius = self.lesion, np.sqrt(self.lesion.area / np.pi)
        x, y = (
            place
            - middle
            + lesion.roughness * radius * (self.mottle(7) + 0.6 * self.mottle(3) + 0.3 * self.mottle(1.2))
            for place, middle in zip((self.x, self.y), lesion.center, strict=True)
        )
        cos, sin, stretch = np.cos(lesion.angle), np.sin(lesion.angle), np.sqrt(lesion.elongation)
        along, across = (cos * x + sin * y) / stretch, (cos * y - sin * x) * stretch
        direction = np.arctan2(across, along)
        lobed = [(wave * np.exp(1j * n * direction)).real for n, wave in enumerate(lesion.waves, start=2)]
        outline = np.exp(np.sum(lobed, axis=0))
        return np.asarray(1 - np.hypot(along, across) / (radius * outline))

    def mottle(self, width: float) -> Array:
        return mottle(self.rng, self.side, width)

    def patch(self, size: float, distance: float) -> Array:
        """A soft area inside the lesion with a ragged edge, 0 to 1, off the center by `distance` radii."""
        radius = np.sqrt(self.lesion.area / np.pi)
        turn, reach = self.rng.uniform(0, 2 * np.pi), distance * radius
        x, y = self.lesion.center[0] + reach * np.cos(turn), self.lesion.center[1] + reach * np.sin(turn)
        away = np.hypot(self.x - x, self.y - y) / (size * radius) + 0.22 * self.mottle(6) + 0.1 * self.mottle(2)
        return np.asarray(1 / (1 + np.exp(7 * (away - 1))))

    def lattice(self, pitch: float, disorder: float) -> tuple[Array, Array]:
        """Distances to the nearest and to the second nearest point of a disordered hexagonal lattice, in pitches."""
        count = int(1 / pitch) + 4
        column, row = np.meshgrid(np.arange(count), np.arange(int(count * 1.16)))
        points = np.stack([column + 0.5 * (row % 2), row * np.sqrt(0.75)], axis=-1).reshape(-1, 2) - 1.0
        points = (points + self.rng.uniform(-disorder, disorder, points.shape)) * pitch
        near, _ = cKDTree(points).query(self.pixels, k=2)
        first, second = np.moveaxis(near.reshape(self.side, self.side, 2) / pitch, -1, 0)
        return first, second


def _pigment(skin: _Skin) -> tuple[Array, Array]:
    """Melanin and blood at each pixel, the lesion's and that of the skin around it."""
    lesion, depth = skin.lesion, skin.depth
    first, second = skin.lattice(0.03, 0.45)
    furrows = bell(second - first, 0.09) * np.clip(0.5 + skin.mottle(20), 0, 1)
    melanin = lesion.melanin * (1 + 0.1 * skin.mottle(20) + 0.07 * (skin.mottle(3) + skin.mottle(1))) + 0.012 * furrows
    blood = lesion.blood * (1 + 0.16 * skin.mottle(24) + 0.06 * skin.mottle(5) + 0.07 * skin.mottle(1.1))

    fade = lesion.edge * np.clip(1 + 0.5 * skin.mottle(24), 0.3, 2)
    present = np.clip((depth + 0.03) / fade, 0, 1) ** 0.8
    pattern = np.clip(0.5 + 0.6 * skin.mottle(16), 0, 1)
    first, second = skin.lattice(CELL, 0.36)
    lines = bell(second - first, 0.24) - 0.35
    dots = curve(((0, 1), (0.25, 0.9), (0.5, 0)), skin.lattice(0.026, 0.42)[0])
    dark = 0.7 * skin.patch(0.55, 0.4) + 0.6 * skin.patch(0.4, 0.45) + 0.5 * skin.patch(0.3, 0.6)
    pale = lesion.regression * skin.patch(0.45, 0.5)
    amount = 0.55 + 0.25 * np.clip(depth, 0, 1) + 0.16 * skin.mottle(9) + 0.1 * skin.mottle(2.5) + dark
    amount += 0.75 * lesion.network * pattern * lines + 0.8 * lesion.globules * (1 - pattern) * dots
    amount *= 1 - pale
    melanin = melanin + lesion.pigment * present * np.clip(amount, 0.08, None)
    flush = skin.patch(0.6, 0.5)
    blood = blood + lesion.redness * present * (0.4 + 0.8 * flush) + 0.1 * lesion.redness * bell(depth, 0.25)
    return melanin, np.maximum(blood, 0)


def _hairs(skin: _Skin) -> Array:
    """Cover of hairs at each pixel, 0 to 1: slightly bent, much the same way."""
    rng, count = skin.rng, skin.lesion.hairs
    stream, t = rng.uniform(0, 2 * np.pi), np.linspace(0, 1, 600)[None, :, None]
    start, length = rng.uniform(-0.1, 1.1, (count, 1, 2)), rng.uniform(0.15, 0.9, (count, 1, 1))
    turn = stream + rng.normal(0, 0.6, (count, 1, 1))
    bent = turn + rng.normal(0, 0.5, (count, 1, 1))
    first, second = (length / 2 * np.concatenate([np.cos(angle), np.sin(angle)], axis=2) for angle in (turn, bent))
    path = start + 2 * t * (1 - t) * first + t**2 * (first + second)
    taper = rng.uniform(0.0013, 0.0026, (count, 1)) * np.sqrt(1 - 0.9 * t[:, :, 0])
    away, at = cKDTree(path.reshape(-1, 2)).query(skin.pixels, distance_upper_bound=0.01)
    width = np.append(taper.ravel(), 0)[at]  # no hair within the bound: the index after the last one
    return np.asarray(np.clip((width - np.minimum(away, 1)) * skin.side + 0.5, 0, 1).reshape(skin.x.shape))


def _bubbles(skin: _Skin) -> tuple[Array, Array]:
    """Light that bubbles in the gel add and take: bright rims and glints, dim insides. They gather near a border."""
    rng, glow, dim = skin.rng, np.zeros((skin.side, skin.side)), np.zeros((skin.side, skin.side))
    nest = rng.uniform(0, 1, 2)
    nest[rng.integers(2)] = rng.choice([0.06, 0.94])
    for _ in range(skin.lesion.bubbles):
        x, y = nest + rng.normal(0, 0.13, 2)
        radius = np.exp(rng.uniform(np.log(0.002), np.log(0.014)))
        away = np.hypot(skin.x - x, skin.y - y) / radius
        glint = np.hypot(skin.x - x + 0.35 * radius, skin.y - y + 0.4 * radius) / radius
        glow = np.maximum(glow, 0.22 * bell(away - 1, 0.16) + 0.6 * bell(glint, 0.22))
        dim = np.maximum(dim, 0.1 * (away < 0.9))
    return glow, dim


def lesion_phantom(size: int = 256, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A procedural dermoscopic photograph and its lesion. It is a phantom: it shows no patient.

    Melanin and blood at each pixel give the color by Beer and Lambert's law; hairs, bubbles in the gel, the lamp's
    falloff, blur and noise follow.

    Args:
        size: side of the square picture in pixels, at least 32. One seed shows the same lesion at every size.
        seed: chooses skin, lesion and light; the same seed gives the same picture.

    Returns:
        The image (3, size, size), red, green and blue in [0, 1], and the label (size, size), 1 inside the lesion and 0
        elsewhere.

    Raises:
        ValueError: if `size` is less than 32.

    Example:
        >>> image, label = lesion_phantom(size=64, seed=0)
        >>> image.shape, label.shape
        ((3, 64, 64), (64, 64))
        >>> bool(image[:, label == 1].mean() < image[:, label == 0].mean())
        True
    """
    factor = enlargement(size)
    rng = np.random.default_rng(seed)
    lesion = _Lesion.draw(rng)
    skin = _Skin(size * factor, lesion, rng)
    melanin, blood = _pigment(skin)
    tints = (np.array(tint)[:, None, None] for tint in (MELANIN, BLOOD, VEIL, HAIR, lesion.light))
    by_melanin, by_blood, blue, hair, light = tints
    color = np.exp(-by_melanin * melanin - by_blood * blood)
    veil = lesion.veil * skin.patch(0.45, 0.35) * np.clip(4 * skin.depth, 0, 1)
    color = color + veil * (blue * (0.7 + 0.3 * color) - color)
    cover = _hairs(skin)
    color = color + 0.85 * cover * (hair - color)
    glow, dim = _bubbles(skin)
    lit = 1 - lesion.falloff * (2 * ((skin.x - 0.5) ** 2 + (skin.y - 0.5) ** 2)) + 0.015 * skin.mottle(40)
    exposed = light * lit * color * (1 - dim) + glow
    blurred = gaussian_filter(exposed, (0, 0.0011 * skin.side, 0.0011 * skin.side))
    image = shrink(blurred, factor) + rng.normal(0, NOISE, (3, size, size))
    mask = binary_fill_holes(one_piece(skin.depth > 0, factor))
    return np.clip(image, 0, 1).astype(np.float32), mask.astype(np.uint8)
