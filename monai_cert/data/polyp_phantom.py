# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Procedural frames of a colonoscopy with their polyps: inputs that need no download and belong to no patient.

Points are (N, 3), lengths in radii of the colon (about 25 mm). The colon runs along `z`, the endoscope's tip is at the
origin, and a distance is positive in the lumen, where light travels, and negative in tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, map_coordinates, minimum_filter
from scipy.spatial import cKDTree

from monai_cert.data.drawing import Array, Mask, bell, enlargement, one_piece, shrink

__all__ = ["polyp_phantom"]

FIELD = np.deg2rad(68)  # half of the field of view, along the picture's axes
BLOOD = np.array([0.3, 1.0, 0.85])  # what a unit of blood takes from red, green and blue, as an optical depth
FAR = 9.0  # where a ray that met nothing ends
CHUNK = 8192  # rays at a time, so that what is known of them stays in the cache
NOISE = 0.007


@dataclass(frozen=True)
class _Scene:
    """What one seed fixes, drawn before anything is rendered."""

    azimuth: float  # of the polyp, around the colon
    depth: float  # of its base, along the colon
    area: float  # of the picture that the polyp is to cover, about
    aside: float  # how far from the middle of the picture it is seen, in half fields of view
    roll: float  # of the endoscope
    offset: float  # of the endoscope from the colon's axis, away from the polyp
    stalk: float  # length of the stalk; 0 for a sessile polyp
    lift: float  # of the polyp's middle over the wall, in heights
    shape: tuple[float, float, float]  # of the polyp: along the colon, around it, and high
    lobes: float  # how lobulated it is
    folds: Array  # (K, 5): place, height, width, tilt and its direction
    bend: tuple[float, float]
    mucosa: tuple[float, float, float]  # color of the wall
    flush: float  # how much more blood the polyp has
    vessels: float  # contrast of the wall's vessels
    exposure: float
    gloss: float
    cut: float  # of the picture's corners

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _Scene:
        depth, count = rng.uniform(0.7, 1.5), 7
        folds = np.stack(
            [
                np.append(rng.uniform(-0.1, 0.3), depth + 0.15 + np.cumsum(rng.uniform(0.4, 0.7, count - 1))),
                np.append(rng.uniform(0.03, 0.1), rng.uniform(0.12, 0.36, count - 1)),
                np.append(0.16, rng.uniform(0.06, 0.12, count - 1)),
                rng.uniform(0.0, 0.3, count),
                rng.uniform(0, 2 * np.pi, count),
            ],
            axis=1,
        )
        pale, orange = rng.uniform(0, 1), rng.uniform(0, 1)
        return cls(
            azimuth=rng.uniform(0, 2 * np.pi),
            depth=depth,
            area=np.exp(rng.uniform(np.log(0.07), np.log(0.3))),
            aside=rng.uniform(0.0, 0.42),
            roll=rng.uniform(0, 2 * np.pi),
            offset=rng.uniform(0.0, 0.35),
            stalk=max(0.0, rng.uniform(-0.4, 0.45)),
            lift=rng.uniform(-0.25, 0.3),
            shape=(rng.uniform(0.9, 1.25), rng.uniform(0.85, 1.1), rng.uniform(0.65, 1.0)),
            lobes=rng.uniform(0.03, 0.14),
            folds=folds,
            bend=(rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)),
            mucosa=(0.97, 0.36 + 0.11 * pale, 0.19 + 0.12 * pale + 0.07 * (1 - orange)),
            flush=rng.uniform(0.05, 0.5),
            vessels=rng.uniform(0.3, 1.0),
            exposure=rng.uniform(1.1, 1.7),
            gloss=rng.uniform(0.6, 1.2),
            cut=rng.uniform(1.36, 1.5),
        )


class _Waves:
    """A smooth random function of points, about of unit variance: waves of about one length in all directions."""

    def __init__(self, rng: np.random.Generator, length: float, count: int = 8) -> None:
        direction = rng.normal(size=(3, count))
        direction /= np.linalg.norm(direction, axis=0)
        self.vectors = direction * 2 * np.pi / (length * rng.uniform(0.7, 1.4, count))
        self.phases = rng.uniform(0, 2 * np.pi, count)
        self.height = np.sqrt(2 / count)

    def __call__(self, points: Array) -> Array:
        return np.asarray(np.sin(points @ self.vectors + self.phases).sum(axis=1) * self.height)

    def slope(self, points: Array) -> Array:
        """Gradients (N, 3)."""
        return np.asarray(self.height * np.cos(points @ self.vectors + self.phases) @ self.vectors.T)


def _joined(one: Array, other: Array, width: float) -> Array:
    """The smaller of two distances, the crease between them rounded over `width`."""
    part = np.clip(0.5 + 0.5 * (other - one) / width, 0, 1)
    return other + (one - other) * part - width * part * (1 - part)


class _Colon:
    """Distances to the wall and to the polyp."""

    def __init__(self, scene: _Scene, rng: np.random.Generator) -> None:
        self.scene = scene
        out = np.array([np.cos(scene.azimuth), np.sin(scene.azimuth), 0.0])
        self.axes = np.stack([np.array([0.0, 0.0, 1.0]), np.array([-out[1], out[0], 0.0]), -out])  # along, around, up
        self.middle = -scene.offset * out  # of the colon, seen from the endoscope
        self.base = self.middle + out + np.array([0, 0, scene.depth]) + self._bent(np.array([scene.depth]))[0]
        reach = float(np.linalg.norm(self.base))
        angle = 2 * FIELD * np.sqrt(scene.area / np.pi)
        self.size = float(min(0.85 * reach * np.tan(angle), 0.42))
        lift = self.size * scene.lift * scene.shape[2] + scene.stalk
        self.head = self.base - lift * out - 0.35 * scene.stalk * self.axes[0]
        self.lumps = _Waves(rng, 1.5 * self.size)
        self.radius = self._unrolled(_Waves(rng, 1.1))

    def _bent(self, z: Array) -> Array:
        """Where the colon's axis is at `z`, (N, 3)."""
        x, y = self.scene.bend
        return np.stack([x * z**2, y * z**2, np.zeros_like(z)], axis=1)

    def _unrolled(self, lumps: _Waves) -> Array:
        """Radius of the wall by angle, once around, and `z`, from -1 to `FAR`: folds have three crests around."""
        around, z = np.meshgrid(
            np.linspace(-np.pi, np.pi, 192, endpoint=False), np.linspace(-1, FAR, 1000), indexing="ij"
        )
        on_tube = np.stack([np.cos(around), np.sin(around), z], axis=-1).reshape(-1, 3)
        radius = 1 + 0.05 * lumps(on_tube).reshape(z.shape)
        for place, height, width, tilt, turn in self.scene.folds:
            crest = height * (0.65 + 0.35 * np.cos(3 * (around - turn)))
            radius -= crest * bell(z - place - tilt * np.cos(around - turn), width)
        return np.asarray(np.concatenate([radius, radius[:1]]))

    def cylindrical(self, points: Array) -> tuple[Array, Array]:
        """Angle (N,) around the colon's axis, and distance (N,) from it."""
        off = points - self.middle - self._bent(np.clip(points[:, 2], 0, 3))
        return np.arctan2(off[:, 1], off[:, 0]), np.hypot(off[:, 0], off[:, 1])

    def wall(self, points: Array) -> Array:
        around, off = self.cylindrical(points)
        place = np.stack([(around / (2 * np.pi) + 0.5) * 192, (points[:, 2] + 1) / (FAR + 1) * 999])
        return np.asarray(map_coordinates(self.radius, place, order=1, mode="nearest") - off)

    def polyp(self, points: Array) -> Array:
        middle = 0.5 * (self.head + self.base)
        reach = 0.5 * float(np.linalg.norm(self.head - self.base)) + 1.4 * self.size * max(self.scene.shape)
        bound = np.linalg.norm(points - middle, axis=1) - reach
        close = bound < 0.45  # farther than light is looked for around a point, a bound is enough
        bound[close] = self._polyp(points[close])
        return np.asarray(bound)

    def _polyp(self, points: Array) -> Array:
        local = (points - self.head) @ self.axes.T / (self.size * np.array(self.scene.shape))
        head = (np.linalg.norm(local, axis=1) - 1) * self.size * min(self.scene.shape)
        head = head - self.scene.lobes * self.size * self.lumps(points)
        if self.scene.stalk == 0:
            return np.asarray(head)
        line = self.head - self.base
        along = np.clip((points - self.base) @ line / (line @ line), 0, 1)
        thick = 0.38 * self.size * (1.2 - 0.3 * along)
        stalk = np.linalg.norm(points - self.base - along[:, None] * line, axis=1) - thick
        return _joined(head, stalk, 0.15 * self.size)

    def distance(self, points: Array) -> Array:
        """Distance to tissue, about: it never overestimates by more than a factor of two."""
        return _joined(self.wall(points), self.polyp(points), 0.25 * self.size)


def _rays(scene: _Scene, colon: _Colon, side: int) -> tuple[Array, Array, Array]:
    """Directions (N, 3) of the pixels' rays, and where the pixels are, -1 to 1."""
    axis = (np.arange(side) + 0.5) / side * 2 - 1
    y, x = (part.ravel() for part in np.meshgrid(axis, axis, indexing="ij"))
    to_polyp = colon.head / np.linalg.norm(colon.head)
    sideways = np.cross(to_polyp, [0.0, 0.0, 1.0])
    sideways /= np.linalg.norm(sideways)
    turn = scene.aside * FIELD
    ahead = np.cos(turn) * to_polyp + np.sin(turn) * np.cross(sideways, to_polyp)
    right = np.cos(scene.roll) * sideways + np.sin(scene.roll) * np.cross(ahead, sideways)
    down = np.cross(ahead, right)
    angle, around = np.hypot(x, y) * FIELD, np.arctan2(y, x)
    across = np.sin(angle)[:, None] * (np.cos(around)[:, None] * right + np.sin(around)[:, None] * down)
    return across + np.cos(angle)[:, None] * ahead, x, y


def _met(colon: _Colon, rays: Array, reach: Array) -> Array:
    """How far along each ray tissue is met, walking on from `reach` by a part of the distance to it."""
    reach, walking = reach.copy(), np.arange(len(rays))
    for _ in range(90):
        gap = colon.distance(reach[walking, None] * rays[walking])
        reach[walking] += 0.6 * gap
        walking = walking[(gap > 0.002 * reach[walking]) & (reach[walking] < FAR)]
        if not len(walking):
            break
    return np.clip(reach, 0.03, FAR)


def _started(scene: _Scene, colon: _Colon, side: int) -> Array:
    """Where the rays of a picture may start: a little before what is met in one of an eighth of its side."""
    few = side // 8
    reach = _met(colon, _rays(scene, colon, few)[0], np.full(few * few, 0.03)).reshape(few, few)
    before = np.clip(0.85 * minimum_filter(reach, 3, mode="nearest"), 0.03, 0.97 * FAR)
    return np.repeat(np.repeat(before, -(-side // few), axis=0), -(-side // few), axis=1)[:side, :side].ravel()


def _slope(colon: _Colon, points: Array) -> Array:
    """Gradients (N, 3) of the distance: they point into the lumen."""
    step, here = 2e-3, colon.distance(points)
    return np.stack([(colon.distance(points + step * unit) - here) / step for unit in np.eye(3)], axis=1)


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _vessel_tree(rng: np.random.Generator) -> tuple[Array, Array]:
    """Points (N, 2) of branching vessels on the unrolled wall, (angle, z), and their calibers (N,)."""
    start = np.stack([rng.uniform(-np.pi, np.pi, 60), rng.uniform(-0.5, 4.5, 60)], axis=1)
    direction, caliber = rng.uniform(0, 2 * np.pi, 60), rng.uniform(0.009, 0.016, 60)
    places, calibers = [], []
    for _ in range(6):
        count = len(start)
        turns = direction[:, None] + np.cumsum(rng.normal(0, 0.17, (count, 24)), axis=1)
        steps = rng.uniform(0.006, 0.018, (count, 1, 1)) * np.stack([np.cos(turns), np.sin(turns)], axis=2)
        path = start[:, None] + np.cumsum(steps, axis=1)
        places.append(path.reshape(-1, 2))
        calibers.append(np.repeat(caliber, 24))
        start, caliber = np.tile(path[:, -1], (2, 1)), np.tile(caliber * 0.74, 2)
        fork = rng.uniform(0.3, 0.75, count)
        direction = np.append(turns[:, -1] + fork, turns[:, -1] - fork * rng.uniform(0.3, 1, count))
    place, thick = np.concatenate(places), np.concatenate(calibers)
    copies = np.concatenate([place + np.array([turn, 0]) for turn in (-2 * np.pi, 0, 2 * np.pi)])
    return copies, np.tile(thick, 3)


class _Surface:
    """What the tissue looks like: blood in it, grains on it, and the light that it sends back."""

    def __init__(self, scene: _Scene, colon: _Colon, rng: np.random.Generator) -> None:
        self.scene, self.colon = scene, colon
        places, self.calibers = _vessel_tree(rng)
        self.vessels = cKDTree(places)
        self.shown, self.patches, self.blush = (_Waves(rng, length) for length in (1.3, 0.8, 0.5))
        self.fine = _Waves(rng, 0.15, 12)
        self.pits = _Waves(rng, max(0.3 * colon.size, 0.04), 16)
        self.folds, self.wet = _Waves(rng, 0.22, 10), _Waves(rng, 0.08, 16)

    def tissue(self, points: Array, on_polyp: Mask) -> Array:
        """Color (N, 3) of the tissue at each point."""
        unrolled = np.stack([self.colon.cylindrical(points)[0], points[:, 2]], axis=1)
        away, nearest = self.vessels.query(unrolled, distance_upper_bound=0.06)
        caliber = np.append(self.calibers, 1e-3)[nearest]  # no vessel within the bound: the index after the last one
        vessel = np.sqrt(caliber / 0.016) * bell(np.minimum(away, 1), 0.75 * caliber)
        shown = np.clip(0.6 + 0.5 * self.shown(points), 0, 1)
        blood = self.scene.vessels * vessel * shown + 0.07 * self.patches(points) + 0.03 * self.fine(points)
        pits = np.clip(self.pits(points), 0, None)
        swollen = self.scene.flush * (0.8 + 0.3 * self.blush(points)) + 0.16 * pits
        blood = np.where(on_polyp, swollen, blood)
        return np.asarray(np.array(self.scene.mucosa) * np.exp(-blood[:, None] * BLOOD))

    def light(self, rays: Array, reach: Array) -> tuple[Array, Mask]:
        """Light (N, 3) that comes back along each ray, without exposure, and which rays meet the polyp."""
        colon, points = self.colon, reach[:, None] * rays
        on_polyp = (colon.polyp(points) < colon.wall(points)) & (reach < FAR)
        tissue, smooth = self.tissue(points, on_polyp), _slope(colon, points)
        grains = np.where(on_polyp[:, None], 0.0012 * self.pits.slope(points), 0.0035 * self.folds.slope(points))
        normal = _unit(smooth - grains)
        open_to = np.ones(len(points))
        for height, weight in ((0.05, 0.45), (0.16, 0.55), (0.4, 0.5)):
            gap = colon.distance(points + height * normal) / height
            open_to *= 1 - weight * (1 - np.clip(gap, 0, 1))
        facing = np.clip(-(normal * rays).sum(axis=1), 0, 1)
        near = 1 / (reach**2 + 0.3)
        diffuse = (0.25 + 0.75 * facing) * open_to * near
        glow = 0.05 * open_to[:, None] * tissue / (reach[:, None] + 0.6)  # what the walls throw at each other
        mirrored = np.clip(-(_unit(smooth - grains - 0.0022 * self.wet.slope(points)) * rays).sum(axis=1), 0, 1)
        shine = self.scene.gloss * (1.9 * mirrored**200 + 0.07 * mirrored**12) * open_to * np.sqrt(near)
        return tissue * diffuse[:, None] + glow + 0.35 * shine[:, None] * np.array([1, 0.97, 0.93]), on_polyp


def polyp_phantom(size: int = 256, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """A procedural frame of a colonoscopy and its polyp. It is a phantom: it shows no patient.

    Rays meet the wall of a folded tube or a polyp on it; the endoscope's own light falls off with the square of the
    distance and is reflected by the tissue, in all directions, and by the wet surface; exposure, blur and noise follow.

    Args:
        size: side of the square picture in pixels, at least 32. One seed shows the same scene at every size.
        seed: chooses colon, polyp, view and light; the same seed gives the same picture.

    Returns:
        The image (3, size, size), red, green and blue in [0, 1], and the label (size, size), 1 on the polyp, its stalk
        included, and 0 elsewhere.

    Raises:
        ValueError: if `size` is less than 32.

    Example:
        >>> image, label = polyp_phantom(size=64, seed=0)
        >>> image.shape, label.shape
        ((3, 64, 64), (64, 64))
        >>> bool(image[:, 0, 0].max() < 0.1)  # outside the octagon that the endoscope shows
        True
    """
    factor = enlargement(size)
    rng = np.random.default_rng(seed)
    scene = _Scene.draw(rng)
    colon, side = _Colon(scene, rng), size * factor
    rays, x, y = _rays(scene, colon, side)
    start, surface = _started(scene, colon, side), _Surface(scene, colon, rng)
    border = np.minimum(scene.cut - np.abs(x) - np.abs(y), 0.985 - np.maximum(np.abs(x), np.abs(y)))
    seen = np.clip(border * side / 4, 0, 1)
    light, on_polyp, inside = np.zeros_like(rays), np.zeros(len(rays), dtype=bool), np.flatnonzero(seen)
    for part in (inside[first : first + CHUNK] for first in range(0, len(inside), CHUNK)):
        light[part], on_polyp[part] = surface.light(rays[part], _met(colon, rays[part], start[part]))
    gain = scene.exposure / np.percentile(light[seen == 1, 0], 75)
    exposed = (1 - np.exp(-gain * light)) ** 0.85 * seen[:, None] + 0.02 * (1 - seen[:, None])
    frame = np.moveaxis(exposed.reshape(side, side, 3), -1, 0)
    blurred = gaussian_filter(frame, (0, 0.0013 * side, 0.0013 * side))
    image = shrink(blurred, factor) + rng.normal(0, NOISE, (3, size, size))
    mask = one_piece((on_polyp & (seen > 0.5)).reshape(side, side), factor)
    return np.clip(image, 0, 1).astype(np.float32), mask.astype(np.uint8)
