# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Procedural chest radiographs with their lung fields: inputs that need no download and belong to no patient.

Lengths are in picture widths (about 40 cm), `x` to the right and `y` downwards. A lung has its own frame: `u` is 0 at
the midline and 1 at the widest point of its lateral wall, `v` is 0 at the apex and 1 at the costophrenic angle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.signal import oaconvolve

from monai_cert.data.drawing import Array, Mask, bell, curve, enlargement, mottle, one_piece, shrink

__all__ = ["chest_phantom"]

RIGHT, LEFT = -1, 1  # the patient's sides, as the direction of x in the picture
MARGIN = 0.15  # drawn beyond the picture: what crosses the border must cast its part inside
SOFT, BONE = 8.0, 20.0  # attenuation per picture width: about 0.2 / cm, and what bone adds to it

CALIBERS = (0.0013, 0.002, 0.003, 0.0045, 0.0065, 0.01)  # radii of the vessels that are drawn

# Outlines as (position, value) knots, fitted to the median of 437 annotated lung pairs.
LATERAL = ((0, 0.33), (0.02, 0.46), (0.05, 0.58), (0.1, 0.67), (0.17, 0.77), (0.26, 0.84), (0.38, 0.89), (0.5, 0.92),
           (0.66, 0.95), (0.83, 0.98), (1, 0.985))  # fmt: skip
MEDIAL = {
    RIGHT: ((0, 0.33), (0.02, 0.21), (0.05, 0.15), (0.1, 0.12), (0.17, 0.115), (0.26, 0.13), (0.38, 0.165), (0.5, 0.2),
            (0.62, 0.255), (0.74, 0.27), (0.9, 0.25)),
    LEFT: ((0, 0.34), (0.02, 0.22), (0.05, 0.155), (0.1, 0.122), (0.15, 0.125), (0.2, 0.16), (0.25, 0.205),
           (0.285, 0.212), (0.34, 0.195), (0.39, 0.21), (0.46, 0.265), (0.54, 0.35), (0.62, 0.445), (0.7, 0.52),
           (0.78, 0.55), (0.9, 0.545)),
}  # fmt: skip
FLOOR = {
    RIGHT: ((0.1, 0.82), (0.3, 0.81), (0.45, 0.8), (0.6, 0.82), (0.7, 0.842), (0.8, 0.88), (0.9, 0.935), (1, 1)),
    LEFT: ((0.3, 0.85), (0.5, 0.83), (0.6, 0.83), (0.7, 0.85), (0.8, 0.885), (0.9, 0.935), (1, 1)),
}


@dataclass(frozen=True)
class _Anatomy:
    """What one seed fixes, drawn before anything is rendered."""

    midline: float  # x of the spine
    apex: float  # y of the lung apices
    height: float  # apex to costophrenic angle
    width: dict[int, float]  # midline to lateral wall, for each side
    dome: dict[int, float]  # height of each hemidiaphragm over its costophrenic angle, relative to the median
    heart: float  # how far the heart reaches to the side beyond the median, in u
    pitch: float  # distance of neighbouring vertebrae, hence of ribs
    rib_drop: float  # fall of a rib from spine to sternum, in v
    flesh: float  # soft tissue over the lateral ribs
    depth: float  # front to back of the chest
    breast: float  # thickness of the breasts
    shoulder: float  # y of the shoulders under the apices
    gas: float  # radius of the gastric bubble
    hardness: float  # 0: wide latitude (computed radiography), 1: high contrast (film)
    angle: float  # rotation of the patient in the picture, radians

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Anatomy:
        width, dome = rng.uniform(0.33, 0.39), rng.uniform(0.95, 1.15)
        height = rng.uniform(0.57, 0.71)
        return cls(
            midline=rng.uniform(0.48, 0.52),
            apex=rng.uniform(0.09, 0.16),
            height=height,
            width={RIGHT: width, LEFT: width * rng.uniform(0.96, 1.0)},
            dome={RIGHT: dome, LEFT: dome - rng.uniform(0.06, 0.16)},
            heart=rng.uniform(-0.05, 0.06),
            pitch=height * rng.uniform(0.098, 0.108),
            rib_drop=rng.uniform(0.44, 0.52),
            flesh=rng.uniform(0.035, 0.07),
            depth=rng.uniform(0.47, 0.54),
            breast=max(0.0, rng.uniform(-0.08, 0.08)),
            shoulder=rng.uniform(0.0, 0.06),
            gas=rng.uniform(0.025, 0.05),
            hardness=rng.uniform(0.0, 1.0),
            angle=np.deg2rad(rng.uniform(-3, 3)),
        )


def _rounded(depth: Array, radius: float) -> Array:
    """Thickness profile of a rounded body, 0 at its edge and 1 from `radius` inward, of the depth under the edge."""
    return np.sqrt(1 - (1 - np.clip(depth / radius, 0, 1)) ** 2)


class _Canvas:
    """Pixel coordinates in the patient's frame, and line integrals through tubes."""

    def __init__(self, side: int, anatomy: _Anatomy) -> None:
        self.side, self.anatomy = side, anatomy
        axis = (np.arange(side) + 0.5) / side - 0.5
        cos, sin = np.cos(anatomy.angle), np.sin(anatomy.angle)
        self.x: Array = 0.5 + cos * axis[None, :] + sin * axis[:, None]
        self.y: Array = 0.5 - sin * axis[None, :] + cos * axis[:, None]
        self.v: Array = (self.y - anatomy.apex) / anatomy.height

    def u(self, side: int) -> Array:
        """Lateral position in the frame of one lung; negative beyond the midline."""
        return side * (self.x - self.anatomy.midline) / self.anatomy.width[side]

    def paths(self, *knots: tuple[float, float], lower: float = 0.0) -> list[Array]:
        """A smooth path (N, 2) through knots (u, v) on each side, in picture coordinates, `lower` by so much of v."""
        steps = np.linspace(0, len(knots) - 1, 60)
        u = curve(tuple(enumerate(knot[0] for knot in knots)), steps)
        v = curve(tuple(enumerate(knot[1] for knot in knots)), steps) + lower
        anatomy = self.anatomy
        x = [anatomy.midline + side * anatomy.width[side] * u for side in (RIGHT, LEFT)]
        return [np.stack([across, anatomy.apex + anatomy.height * v], axis=1) for across in x]

    def tubes(self, paths: Sequence[Array], radius: float, hollow: float = 0.0) -> Array:
        """Thickness in the beam of round tubes along `paths`, each (N, 2), or (N, 3) with the depth in the beam.

        `hollow` is the fraction that is missing from a core of 0.72 radii, as marrow is from a bone.
        """
        middle, length = self._pieces(paths)
        pad = round(MARGIN * self.side)
        total, pixel = self.side + 2 * pad, np.floor(middle * self.side).astype(int) + pad
        inside = ((pixel >= 0) & (pixel < total)).all(axis=1)
        line = np.zeros((total, total))
        np.add.at(line, (pixel[inside, 1], pixel[inside, 0]), length[inside])
        reach = int(np.ceil(radius * self.side)) + 1
        offset = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
        disc, core = (np.clip(part * radius * self.side - offset + 0.5, 0, 1) for part in (1, 0.72))
        cast = oaconvolve(line, disc - hollow * core, mode="same")[pad : pad + self.side, pad : pad + self.side]
        return np.maximum(np.asarray(cast, dtype=np.float64), 0)

    def _pieces(self, paths: Sequence[Array]) -> tuple[Array, Array]:
        """Middles (N, 2), rotated into the picture, and lengths (N,) of pieces of at most half a pixel."""
        start = np.concatenate([path[:-1] for path in paths])
        delta = np.concatenate([np.diff(path, axis=0) for path in paths])
        length = np.linalg.norm(delta, axis=1)
        count = np.ceil(2 * length * self.side).astype(int) + 1
        owner = np.repeat(np.arange(len(count)), count)
        part = (np.arange(len(owner)) - (np.cumsum(count) - count)[owner] + 0.5) / count[owner]
        middle = start[owner] + part[:, None] * delta[owner]
        cos, sin = np.cos(self.anatomy.angle), np.sin(self.anatomy.angle)
        turned = (middle[:, :2] - 0.5) @ np.array([[cos, sin], [-sin, cos]]) + 0.5
        return turned, (length / count)[owner]


def _lung(canvas: _Canvas, side: int) -> Mask:
    """The lung field that an annotator outlines: aerated lung, without heart, mediastinum and what the dome hides."""
    u, v, anatomy = canvas.u(side), canvas.v, canvas.anatomy
    reach = anatomy.heart * (1.0 if side == LEFT else 0.4)
    medial = curve(MEDIAL[side], v) + reach * bell(v - 0.74, 0.16)
    floor = 1 - (1 - curve(FLOOR[side], u)) * anatomy.dome[side]
    return (v > 0) & (u > medial) & (u < curve(LATERAL, v)) & (v < floor)


def _air(canvas: _Canvas, lungs: Mask) -> Array:
    """Thickness of air: the rib cage's depth, less what heart, mediastinum and the domes of the diaphragm displace."""
    u, v = np.maximum(canvas.u(RIGHT), canvas.u(LEFT)), canvas.v
    cage = (v > 0) & (v < 1.2) & (u < curve((*LATERAL, (1.2, 0.8)), v))
    wall = distance_transform_edt(cage) / canvas.side
    covered = distance_transform_edt(~lungs) / canvas.side
    displaced = curve(((0, 1), (0.2, 1), (0.4, 0.86), (0.74, 0.8), (0.86, 0.95), (1, 1)), v)
    depth = 0.68 * canvas.anatomy.depth * curve(((0, 0.72), (0.3, 0.92), (0.6, 1), (1, 0.9), (1.2, 0)), v)
    return depth * _rounded(wall, 0.085) * (1 - displaced * _rounded(covered, 0.08))


def _body(canvas: _Canvas) -> Array:
    """Thickness of the body's soft tissue, bones included: chest, neck, shoulders, arms and breasts."""
    anatomy, v = canvas.anatomy, canvas.v
    u = np.maximum(canvas.u(RIGHT), canvas.u(LEFT))
    flank = curve(((-0.2, 0.4), (0, 0.75), (0.2, 1.1), (0.4, 1.1), (0.8, 1.02), (1.1, 1), (1.5, 1.08)), v)
    front = curve(((-0.14, 0), (0, 0.42), (0.2, 0.82), (0.5, 1), (0.9, 1), (1.2, 1.12)), v)
    span = flank + anatomy.flesh / anatomy.width[RIGHT]
    chest = anatomy.depth * front * np.sqrt(1 - np.clip(u / span, 0, 1) ** 4)
    collar = curve(((-0.3, 0.33), (-0.1, 0.4), (0.05, 0.65), (0.2, 1)), v)
    neck = 0.3 * np.sqrt(np.clip(1 - (u / collar) ** 2, 0, 1)) * curve(((0, 1), (0.4, 0)), v)
    top = anatomy.shoulder / anatomy.height
    girdle = canvas.paths((0.1, 0.06), (0.5, 0.12 + top / 2), (1.08, 0.16 + top))
    arms = canvas.paths((1.1, 0.16 + top), (1.3, 0.55), (1.55, 1.15))
    parts = [chest, neck, 1.5 * canvas.tubes(girdle, 0.115), 1.6 * canvas.tubes(arms, 0.1)]
    merged = np.cbrt(np.sum([part**3 for part in parts], axis=0))  # a maximum without creases
    vessels = 0.06 * bell(u, 0.15) * curve(((-0.1, 0), (0.1, 1), (0.9, 1), (1, 0)), v)
    from_nipple = np.hypot((u - 0.6) / 0.45, (v - 0.66) / 0.27)
    return np.asarray(merged + vessels + anatomy.breast * _rounded(1 - from_nipple, 1))


def _ribs(canvas: _Canvas) -> Array:
    """Twelve pairs of ribs as tubes of compact bone around a spongy core, from the spine around the chest wall."""
    anatomy = canvas.anatomy
    turn = np.linspace(0.012, 0.8, 60) * np.pi  # from the spine over the lateral wall to the cartilage
    backs, fronts = [], []
    for index in range(12):
        start, drop = 0.02 + index * anatomy.pitch / anatomy.height, anatomy.rib_drop * (0.8 + 0.25 * min(index, 8) / 8)
        v = start - 0.015 * np.sin(np.clip(2.2 * turn, 0, np.pi)) + drop * (turn / np.pi) ** 1.35
        reach = float(curve(LATERAL, np.array(np.interp(np.pi / 2, turn, v)))) + 0.01
        reach *= (0.75, 0.93, 1)[min(index, 2)]
        depth = -0.25 * np.cos(turn) * min(1, 0.4 + index / 5)
        for side in (RIGHT, LEFT):
            x = anatomy.midline + side * anatomy.width[side] * reach * np.sin(turn) ** 0.75
            path = np.stack([x, anatomy.apex + anatomy.height * v, depth], axis=1)
            backs.append(path[: (38 if index < 10 else 30)])
            fronts.append(path[37 : (60 if index < 8 else 45)])
    return canvas.tubes(backs, 0.0125, hollow=0.6) + 0.6 * canvas.tubes(fronts, 0.0135, hollow=0.6)


def _spine(canvas: _Canvas) -> Array:
    """Vertebral bodies with end plates, pedicles and spinous processes, one vertebra per pitch."""
    anatomy = canvas.anatomy
    x = np.abs(canvas.x - anatomy.midline)
    phase = (canvas.y - anatomy.apex) / anatomy.pitch % 1 - 0.5
    waist = 1 - 0.12 * np.cos(2 * np.pi * phase)
    half = curve(((-0.3, 0.03), (0, 0.034), (1, 0.044), (1.5, 0.05)), canvas.v) * waist
    plates, discs = bell(np.abs(phase) - 0.38, 0.05), bell(np.abs(phase) - 0.5, 0.07)
    thickness = curve(((-0.2, 0.35), (0.1, 0.5), (0.5, 1)), canvas.v) * (0.06 + 0.025 * plates - 0.03 * discs)
    bodies = thickness * np.sqrt(np.clip(1 - (x / half) ** 2, 0, 1))
    pedicle = np.hypot((x - 0.62 * half) / 0.011, (phase + 0.12) / 0.2)
    process = np.hypot(x / 0.006, (phase - 0.25) / 0.28)
    return np.asarray(bodies + 0.012 * bell(pedicle - 0.8, 0.25) + 0.014 * bell(process - 0.6, 0.3))


def _shoulders(canvas: _Canvas) -> Array:
    """Clavicles, scapulae and the upper ends of the humeri."""
    top = canvas.anatomy.shoulder / canvas.anatomy.height
    clavicle = canvas.paths((0.1, 0.17), (0.3, 0.135), (0.6, 0.03 + top / 2), (0.85, top - 0.03), (1.06, top - 0.02))
    humerus = canvas.paths((1.12, 0.15), (1.22, 0.4), (1.6, 1.3), lower=top)
    head = canvas.paths((1.07, 0.05), (1.13, 0.14), lower=top)
    border = canvas.paths((1, 0.13), (0.99, 0.3), (0.95, 0.45), lower=top)
    spine = canvas.paths((0.8, 0.09), (0.95, 0.03), (1.12, 0), lower=top)
    blade: list[Array] = []
    for t in np.linspace(0, 1, 12):
        blade += canvas.paths((0.8 + 0.2 * t, 0.09), (0.86 + 0.11 * t, 0.28), (0.95, 0.46), lower=top)
    scapula = canvas.tubes(border + spine, 0.011) + 0.15 * canvas.tubes(blade, 0.008)
    arm = canvas.tubes(humerus, 0.022, hollow=0.8) + canvas.tubes(head, 0.042, hollow=0.6)
    return scapula + arm + canvas.tubes(clavicle, 0.0175, hollow=0.5)


def _airways(canvas: _Canvas) -> Array:
    """Thickness of the air in trachea and main bronchi."""
    trachea, bronchi = canvas.paths((0, -0.4), (0, 0.34))[:1], canvas.paths((0, 0.33), (0.2, 0.415))
    return 2 * canvas.tubes(trachea, 0.022) + 1.5 * canvas.tubes(bronchi, 0.014)


def _vessels(canvas: _Canvas, rng: np.random.Generator) -> Array:
    """Thickness of blood in the hila and in the vessels that leave them."""
    anatomy, thickness = canvas.anatomy, np.zeros_like(canvas.x)
    paths: dict[float, list[Array]] = {caliber: [] for caliber in CALIBERS}
    for side, top, bottom in ((RIGHT, (0.16, 0.37), (0.24, 0.54)), (LEFT, (0.21, 0.33), (0.32, 0.5))):
        part = np.append(np.linspace(0, 1, 14) + rng.normal(0, 0.03, 14), 0)
        direction = np.deg2rad(-75 + 140 * part + rng.normal(0, 12, 15))
        radius = rng.uniform(0.0045, 0.0075, 15)
        direction[-1], radius[-1] = np.deg2rad(75), 0.013  # the descending pulmonary artery
        scale = np.array([side * anatomy.width[side], anatomy.height])
        start = np.array(top) + part[:, None] * np.subtract(bottom, top)
        for path, caliber in _branches(rng, start, direction, radius):
            paths[caliber].append(path * scale + np.array([anatomy.midline, anatomy.apex]))
        thickness += 0.025 * bell(np.hypot(canvas.u(side) - 0.2, (canvas.v - 0.42) / 1.6), 0.06)
    drawn = [canvas.tubes(paths[caliber], caliber) for caliber in CALIBERS if paths[caliber]]
    return np.asarray(np.sum([thickness, *drawn], axis=0))


def _branches(rng: np.random.Generator, start: Array, direction: Array, radius: Array) -> Iterator[tuple[Array, float]]:
    """Vessels as paths (5, 2) in (u, v) with their caliber, generation by generation, each fork sharing the flow."""
    while len(radius):
        count = len(radius)
        turns = direction[:, None] + np.cumsum(rng.normal(0, 0.14, (count, 4)), axis=1)
        step = np.stack([np.cos(turns), 0.6 * np.sin(turns)], axis=2) * rng.uniform(0.5, 1.2, (count, 1, 1))
        step *= radius[:, None, None] ** 0.6
        path = start[:, None] + np.concatenate([np.zeros((count, 1, 2)), np.cumsum(step, axis=1)], axis=1)
        nearest = np.abs(np.log(radius[:, None] / np.array(CALIBERS))).argmin(axis=1)
        yield from zip(path, (CALIBERS[index] for index in nearest), strict=True)
        forks = np.tile(radius > CALIBERS[0], 2)
        share, angle = rng.uniform(0.15, 0.5, count), rng.choice([-1, 1], count) * rng.uniform(0.5, 0.9, count)
        start = np.tile(path[:, -1], (2, 1))[forks]
        direction = (np.tile(turns[:, -1], 2) + np.append(angle * (1 - share), -angle * share))[forks]
        radius = np.append(radius * share**0.4, radius * (1 - share) ** 0.4)[forks]


def _stomach_gas(canvas: _Canvas) -> Array:
    """Thickness of the gas under the left dome, over a level of fluid."""
    anatomy = canvas.anatomy
    u, v = canvas.u(LEFT), canvas.v
    bubble = np.hypot((u - 0.55) * anatomy.width[LEFT] / 1.6, (v - 0.95) * anatomy.height) / anatomy.gas
    return np.asarray(3 * anatomy.gas * _rounded(1 - bubble, 1) * (v < 0.96))


def _marker(canvas: _Canvas) -> Array:
    """Thickness of the lead letter L that marks the patient's left."""
    x, y = canvas.x - 0.93, canvas.y - 0.04
    stem = (np.abs(x) < 0.003) & (np.abs(y) < 0.017)
    foot = (np.abs(x - 0.008) < 0.01) & (np.abs(y - 0.015) < 0.003)
    return np.where(stem | foot, 0.5, 0.0)


def _attenuation(canvas: _Canvas, lungs: Mask, rng: np.random.Generator) -> Array:
    """Optical depth along each ray, the line integral of Beer and Lambert's law."""
    air = _air(canvas, lungs)
    aerated = air / air.max()
    lobules, organs = 0.012 * sum(mottle(rng, canvas.side, w) for w in (1.2, 6)), 0.02 * mottle(rng, canvas.side, 12)
    tissue = _body(canvas) * (1 + organs) - air * (1 + lobules) - _airways(canvas) - _stomach_gas(canvas)
    bone = _ribs(canvas) + _spine(canvas) + _shoulders(canvas)
    depth = SOFT * (tissue + 1.6 * aerated * _vessels(canvas, rng)) + BONE * (bone + _marker(canvas))
    return np.maximum(np.asarray(depth, dtype=np.float64), 0)


def _expose(depth: Array, anatomy: _Anatomy) -> Array:
    """Displayed brightness of an optical depth: scatter, then the detector's characteristic curve."""
    side = depth.shape[0]
    primary = np.exp(-depth)
    scatter: Array = gaussian_filter(primary * (1 - primary), 0.06 * side, mode="nearest")
    seen = -np.log(0.97 * primary + 0.05 * scatter + 0.007)
    half, slope = 1.45 + 0.7 * anatomy.hardness, 1.7 + 1.3 * anatomy.hardness
    base = 0.1 * (1 - anatomy.hardness)
    return base + (1 - base) / (1 + (half / np.maximum(seen, 1e-6)) ** slope)


def chest_phantom(size: int = 256, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A procedural frontal chest radiograph and its lung field. It is a phantom: it shows no patient.

    Tissue thickness along each ray gives the attenuation; scatter, a detector curve, blur and quantum noise follow.
    Dense is bright. The patient's left lung, narrowed by the heart, is on the right of the picture.

    Args:
        size: side of the square picture in pixels, at least 32. One seed shows the same anatomy at every size.
        seed: chooses the anatomy and the exposure; the same seed gives the same picture.

    Returns:
        The image (1, size, size) in [0, 1], and the label (size, size), 1 inside the lungs and 0 elsewhere.

    Raises:
        ValueError: if `size` is less than 32.

    Example:
        >>> image, label = chest_phantom(size=64, seed=0)
        >>> image.shape, label.shape
        ((1, 64, 64), (64, 64))
        >>> bool(image[0][label == 1].mean() < image[0][label == 0].mean())
        True
    """
    factor = enlargement(size)
    rng = np.random.default_rng(seed)
    anatomy = _Anatomy.draw(rng)
    canvas = _Canvas(size * factor, anatomy)
    right, left = _lung(canvas, RIGHT), _lung(canvas, LEFT)
    exposed = _expose(_attenuation(canvas, right | left, rng), anatomy)
    image = shrink(gaussian_filter(exposed, 0.0015 * canvas.side), factor) + rng.normal(0, 0.01, (size, size))
    mask = one_piece(right, factor) | one_piece(left, factor)
    return np.clip(image, 0, 1).astype(np.float32)[None], mask.astype(np.uint8)
