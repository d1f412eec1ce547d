# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""How near a whole prediction comes to a fixed reference: overlaps, and MONAI's distances, as measurements.

The reference must be fixed before the draws that are measured: the truth, or a majority of *other* draws.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from monai_cert.measurements import Measurement

__all__ = ["WHOLE_MASK", "whole_mask_measurements"]

LabelMap = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]
Spacing = Sequence[float] | None


def _dice(mask: Mask, reference: Mask, spacing: Spacing) -> float:
    """1 where both are empty. From counts in float64: MONAI's is float32, which may lie above the true one."""
    total = int(mask.sum()) + int(reference.sum())
    return 2 * int((mask & reference).sum()) / total if total else 1.0


def _iou(mask: Mask, reference: Mask, spacing: Spacing) -> float:
    """As `_dice`."""
    total = int((mask | reference).sum())
    return int((mask & reference).sum()) / total if total else 1.0


def _distance(compute: Callable[..., torch.Tensor], mask: Mask, reference: Mask, spacing: Spacing) -> float:
    """0 where both are empty, infinite where one is."""
    if not (mask.any() and reference.any()):
        return math.inf if mask.any() or reference.any() else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI's, of an argument that it gives itself
        return float(compute(_batch(mask), _batch(reference), include_background=True, spacing=spacing))


_hausdorff = partial(_distance, compute_hausdorff_distance)
_hausdorff_95 = partial(_distance, partial(compute_hausdorff_distance, percentile=95))
_surface = partial(_distance, partial(compute_average_surface_distance, symmetric=True))

# Name on the command line: what it is called, how it is computed, whether it is a length, its limits.
WHOLE_MASK: Mapping[str, tuple[str, Callable[[Mask, Mask, Spacing], float], bool, tuple[float, float]]] = {
    "dice": ("Dice", _dice, False, (0.0, 1.0)),
    "iou": ("IoU", _iou, False, (0.0, 1.0)),
    "hausdorff": ("Hausdorff distance", _hausdorff, True, (0.0, math.inf)),
    "hausdorff-95": ("95 % Hausdorff distance", _hausdorff_95, True, (0.0, math.inf)),
    "surface-distance": ("mean surface distance", _surface, True, (0.0, math.inf)),
}


def whole_mask_measurements(
    kinds: Sequence[str],
    class_names: Sequence[str],
    reference: LabelMap,
    spacing: Spacing = None,
    called: str = "the reference",
) -> list[Measurement]:
    """Measurements of how near each foreground class comes to the reference.

    Args:
        kinds: keys of `WHOLE_MASK`.
        class_names: a name a class, the background first.
        reference: (*spatial) label map.
        spacing: millimeters a pixel along each axis; distances are in pixels if None.
        called: what certificates call the reference.

    Raises:
        ValueError: for an unknown kind.

    Example:
        >>> (dice,) = whole_mask_measurements(["dice"], ["background", "lung"], np.array([[0, 1, 1]]))
        >>> dice.name, dice.measure(np.array([[1, 1, 1]]))
        ('Dice of lung with the reference', 0.8)
    """
    found = []
    for kind in dict.fromkeys(kinds):
        if kind not in WHOLE_MASK:
            raise ValueError(f"there is no comparison {kind!r}; known are {', '.join(WHOLE_MASK)}")
        word, compare, length, limits = WHOLE_MASK[kind]
        unit = ("pixels" if spacing is None else "mm") if length else ""
        for c, name in enumerate(class_names[1:], start=1):

            def measure(
                x: LabelMap,
                c: int = c,
                compare: Callable[[Mask, Mask, Spacing], float] = compare,
                fixed: Mask = reference == c,
            ) -> float:
                return compare(x == c, fixed, spacing)

            found.append(Measurement(f"{word} of {name} with {called}", unit, measure, limits))
    return found


def _batch(mask: Mask) -> torch.Tensor:
    """(1, 1, *spatial)."""
    return torch.from_numpy(np.ascontiguousarray(mask))[None, None]
