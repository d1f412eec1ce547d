# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Numbers that are read off a label map: what a physician measures, with its unit.

Every function takes a mask (*spatial) and the spacing of its pixels: millimeters along each axis, rows before columns
and slices first; None measures in pixels. Spacing is never guessed. An empty mask has an area of 0, but no diameter, no
center and no bounding box: these are NaN, undefined, which `certify_measurements` takes for any number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects, generate_binary_structure, label
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from skimage.measure import find_contours

__all__ = [
    "MEASUREMENTS",
    "Measurement",
    "area",
    "bounding_box",
    "cardiothoracic_ratio",
    "centroid",
    "components",
    "largest_diameter",
    "measurements_of",
    "perimeter",
    "volume",
]

Mask = npt.NDArray[np.bool_]
LabelMap = npt.NDArray[np.integer[Any]]
Spacing = Sequence[float] | None
Selector = Callable[[LabelMap], Mask]


@dataclass(frozen=True)
class Measurement:
    """One number of a label map. Any function makes one: ``Measurement("vessel tips", "", count_tips)``.

    Args:
        name: what it is called in certificates.
        unit: its unit; empty for a pure number.
        measure: from a label map (*spatial) to the number; NaN where it is undefined.
        limits: least and largest value that it can take at all.
    """

    name: str
    unit: str
    measure: Callable[[LabelMap], float]
    limits: tuple[float, float] = (-math.inf, math.inf)


def area(mask: Mask, spacing: Spacing = None) -> float:
    """Number of pixels, or area in mm2.

    Example:
        >>> area(np.ones((2, 3), dtype=bool)), area(np.ones((2, 3), dtype=bool), (0.5, 0.5))
        (6.0, 1.5)
    """
    return float(mask.sum()) * math.prod(_steps(mask, spacing))


def volume(mask: Mask, spacing: Spacing) -> float:
    """Volume in mL.

    Raises:
        ValueError: without spacing.
    """
    if spacing is None:
        raise ValueError("a volume in mL needs the spacing of the voxels")
    return area(mask, spacing) / 1000


def largest_diameter(mask: Mask, spacing: Spacing = None) -> float:
    """Largest distance between two corners of pixels of one connected component; NaN for an empty mask."""
    labeled, count = label(mask, _neighbors(mask))
    steps = _steps(mask, spacing)
    boxes = find_objects(labeled)
    diagonals = [math.dist([0] * mask.ndim, _size(box, steps)) for box in boxes]
    largest = -math.inf
    for place in np.argsort(diagonals)[::-1]:
        if diagonals[place] <= largest:
            break
        largest = max(largest, _diameter(labeled[boxes[place]] == place + 1, steps))
    return largest if count else math.nan


def perimeter(mask: Mask, spacing: Spacing = None) -> float:
    """Length of the outlines, holes included, drawn by marching squares halfway between pixels; 2-D only.

    Raises:
        ValueError: for a volume.
    """
    if mask.ndim != 2:
        raise ValueError(f"a perimeter is measured in two dimensions, got {mask.ndim}")
    outlines = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    steps = np.asarray(_steps(mask, spacing))
    return float(sum(np.linalg.norm(np.diff(line, axis=0) * steps, axis=1).sum() for line in outlines))


def centroid(mask: Mask, spacing: Spacing = None) -> tuple[float, ...]:
    """Mean position along each axis, from the outer edge of the first pixel; NaN for an empty mask."""
    steps = _steps(mask, spacing)
    if not mask.any():
        return (math.nan,) * mask.ndim
    return tuple(float(places.mean() + 0.5) * step for places, step in zip(np.nonzero(mask), steps, strict=True))


def bounding_box(mask: Mask, spacing: Spacing = None) -> tuple[tuple[float, float], ...]:
    """First and last outer edge along each axis, from the outer edge of the first pixel; NaN for an empty mask."""
    steps = _steps(mask, spacing)
    if not mask.any():
        return ((math.nan, math.nan),) * mask.ndim
    (box,) = find_objects(mask.astype(np.uint8))
    return tuple((part.start * step, part.stop * step) for part, step in zip(box, steps, strict=True))


def components(mask: Mask) -> float:
    """Number of connected components; pixels that touch at a corner belong together."""
    return float(label(mask, _neighbors(mask))[1])


def cardiothoracic_ratio(labels: LabelMap, lungs: Sequence[int], heart: Sequence[int]) -> float:
    """Width of the heart over the width of the thorax, from the outer edge of one lung to that of the other.

    Args:
        labels: (H, W) label map of a frontal radiograph.
        lungs: classes of the lungs.
        heart: classes of the heart.

    Returns:
        The ratio; NaN where there is no heart or no lung.
    """
    widths = [bounding_box(np.isin(labels, classes))[-1] for classes in (heart, lungs)]
    (left, right), (first, last) = widths
    return (right - left) / (last - first)


def _length(spacing: Spacing) -> str:
    return "pixels" if spacing is None else "mm"


def _areas(name: str, of: Selector, spacing: Spacing, shape: Sequence[int]) -> list[Measurement]:
    if len(shape) != 2:
        raise ValueError(f"an area is measured in two dimensions, got {len(shape)}; measure the volume")
    most = math.prod(shape) * math.prod(spacing or ())
    unit = "pixels" if spacing is None else "mm2"
    return [Measurement(f"area of {name}", unit, lambda x: area(of(x), spacing), (0.0, most))]


def _volumes(name: str, of: Selector, spacing: Spacing, shape: Sequence[int]) -> list[Measurement]:
    if spacing is None or len(shape) != 3:
        raise ValueError("a volume in mL needs a volume image and the spacing of its voxels")
    most = math.prod(shape) * math.prod(spacing) / 1000
    return [Measurement(f"volume of {name}", "mL", lambda x: volume(of(x), spacing), (0.0, most))]


def _diameters(name: str, of: Selector, spacing: Spacing, shape: Sequence[int]) -> list[Measurement]:
    most = math.dist([0] * len(shape), [n * s for n, s in zip(shape, spacing or [1.0] * len(shape), strict=True)])

    def measure(x: LabelMap) -> float:
        # Computed otherwise than the limit, of which it may be a rounding too long. NaN stays.
        return min(largest_diameter(of(x), spacing), most)

    return [Measurement(f"largest diameter of {name}", _length(spacing), measure, (0.0, most))]


def _perimeters(name: str, of: Selector, spacing: Spacing, shape: Sequence[int]) -> list[Measurement]:
    if len(shape) != 2:
        raise ValueError(f"a perimeter is measured in two dimensions, got {len(shape)}")
    measure: Callable[[LabelMap], float] = lambda x: perimeter(of(x), spacing)  # noqa: E731
    return [Measurement(f"perimeter of {name}", _length(spacing), measure, (0.0, math.inf))]


def _centroids(name: str, of: Selector, spacing: Spacing, shape: Sequence[int]) -> list[Measurement]:
    return [
        Measurement(
            f"center of {name} along {axis}",
            _length(spacing),
            lambda x, place=place: centroid(of(x), spacing)[place],  # type: ignore[misc]  # mypy infers no lambda with defaults
            (0.0, shape[place] * (spacing[place] if spacing else 1.0)),
        )
        for place, axis in enumerate(_axes(shape))
    ]


def _boxes(name: str, of: Selector, spacing: Spacing, shape: Sequence[int]) -> list[Measurement]:
    return [
        Measurement(
            f"{which} edge of {name} along {axis}",
            _length(spacing),
            lambda x, place=place, end=end: bounding_box(of(x), spacing)[place][end],  # type: ignore[misc]  # as above
            (0.0, shape[place] * (spacing[place] if spacing else 1.0)),
        )
        for place, axis in enumerate(_axes(shape))
        for end, which in enumerate(("first", "last"))
    ]


def _counts(name: str, of: Selector, spacing: Spacing, shape: Sequence[int]) -> list[Measurement]:
    return [Measurement(f"number of components of {name}", "", lambda x: components(of(x)), (0.0, math.inf))]


# What can be measured of each class, by the name that the command line gives it.
MEASUREMENTS: Mapping[str, Callable[..., list[Measurement]]] = {
    "area": _areas,
    "volume": _volumes,
    "diameter": _diameters,
    "perimeter": _perimeters,
    "centroid": _centroids,
    "bounding-box": _boxes,
    "components": _counts,
}

_RATIO = "cardiothoracic-ratio"


def measurements_of(
    kinds: Sequence[str], class_names: Sequence[str], shape: Sequence[int], spacing: Spacing = None
) -> list[Measurement]:
    """Measurements of every foreground class of a network.

    Args:
        kinds: keys of `MEASUREMENTS`, or ``cardiothoracic-ratio``, for which classes must be named after lungs and
            heart.
        class_names: a name a class, the background first.
        shape: (*spatial) shape of the label maps.
        spacing: millimeters a pixel along each axis; in pixels if None.

    Raises:
        ValueError: for an unknown kind, spacing of another number of axes, or what cannot be measured here.

    Example:
        >>> [m.name for m in measurements_of(["area", "components"], ["background", "lung"], (256, 256))]
        ['area of lung', 'number of components of lung']
    """
    if spacing is not None and (len(spacing) != len(shape) or not all(math.isfinite(s) and s > 0 for s in spacing)):
        raise ValueError(f"spacing must be {len(shape)} positive numbers of millimeters, got {list(spacing)}")
    found: list[Measurement] = []
    for kind in dict.fromkeys(kinds):
        if kind == _RATIO:
            found.append(_ratio(class_names))
        elif kind not in MEASUREMENTS:
            raise ValueError(f"there is no measurement {kind!r}; known are {', '.join((*MEASUREMENTS, _RATIO))}")
        else:
            for c, name in enumerate(class_names[1:], start=1):
                found += MEASUREMENTS[kind](name, lambda x, c=c: x == c, spacing, shape)
    return found


def _ratio(class_names: Sequence[str]) -> Measurement:
    lungs = [c for c, name in enumerate(class_names) if "lung" in name]
    heart = [c for c, name in enumerate(class_names) if "heart" in name]
    if not (lungs and heart):
        raise ValueError(f"a cardiothoracic ratio needs classes of lungs and heart, not {', '.join(class_names)}")
    return Measurement("cardiothoracic ratio", "", lambda x: cardiothoracic_ratio(x, lungs, heart), (0.0, math.inf))


def _axes(shape: Sequence[int]) -> tuple[str, ...]:
    return ("slices", "rows", "columns")[-len(shape) :]


def _steps(mask: Mask, spacing: Spacing) -> tuple[float, ...]:
    if spacing is not None and len(spacing) != mask.ndim:
        raise ValueError(f"spacing must have {mask.ndim} numbers, got {list(spacing)}")
    return (1.0,) * mask.ndim if spacing is None else tuple(spacing)


def _neighbors(mask: Mask) -> Mask:
    structure: Mask = generate_binary_structure(mask.ndim, mask.ndim)
    return structure


def _size(box: Sequence[slice], steps: Sequence[float]) -> list[float]:
    return [(part.stop - part.start) * step for part, step in zip(box, steps, strict=True)]


def _diameter(mask: Mask, steps: Sequence[float]) -> float:
    """Of one component: between corners of the hull, which are corners of the first and last pixel of some row."""
    lines = mask.any(axis=-1)
    first, last = mask.argmax(axis=-1)[lines], mask.shape[-1] - mask[..., ::-1].argmax(axis=-1)[lines]
    places = np.stack(np.nonzero(lines), axis=1)
    ends = [np.column_stack([places, edge]) for edge in (first, last)]
    shifts = np.array(np.meshgrid(*[[0, 1]] * (mask.ndim - 1))).reshape(mask.ndim - 1, -1).T
    corners = np.concatenate([end + np.append(shift, 0) for end in ends for shift in shifts])
    points = corners * np.asarray(steps)
    if len(points) > 3**mask.ndim:
        points = points[_hull(points)]
    return float(pdist(points).max())


def _hull(points: npt.NDArray[np.floating]) -> npt.NDArray[np.intp]:
    try:
        vertices: npt.NDArray[np.intp] = ConvexHull(points).vertices
    except QhullError:  # corners of pixels span their space; what is left is rounding
        return np.arange(len(points))
    return vertices
