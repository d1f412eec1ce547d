# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""How near a whole prediction comes to a fixed reference: MONAI's metrics as measurements.

The reference must be fixed before the draws that are measured: the truth, or a majority of *other* draws.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance, compute_iou

from monai_cert.measurements import Measurement

__all__ = ["WHOLE_MASK", "whole_mask_measurements"]

LabelMap = npt.NDArray[np.integer[Any]]
Distance = Callable[..., torch.Tensor]


def _overlap(compute: Distance, mask: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float] | None) -> float:
    """1 where both are empty."""
    return float(compute(mask, reference, include_background=True, ignore_empty=False))


def _distance(compute: Distance, mask: torch.Tensor, reference: torch.Tensor, spacing: Sequence[float] | None) -> float:
    """0 where both are empty, infinite where one is."""
    if not (mask.any() and reference.any()):
        return math.inf if mask.any() or reference.any() else 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI's, of an argument that it gives itself
        return float(compute(mask, reference, include_background=True, spacing=spacing))


def _hausdorff_95(mask: torch.Tensor, reference: torch.Tensor, **settings: Any) -> torch.Tensor:
    distance: torch.Tensor = compute_hausdorff_distance(mask, reference, percentile=95, **settings)
    return distance


def _surface(mask: torch.Tensor, reference: torch.Tensor, **settings: Any) -> torch.Tensor:
    distance: torch.Tensor = compute_average_surface_distance(mask, reference, symmetric=True, **settings)
    return distance


# Name on the command line: what it is called, how it is computed, whether it is a length, its limits.
WHOLE_MASK: Mapping[str, tuple[str, Callable[..., float], Distance, bool, tuple[float, float]]] = {
    "dice": ("Dice", _overlap, compute_dice, False, (0.0, 1.0)),
    "iou": ("IoU", _overlap, compute_iou, False, (0.0, 1.0)),
    "hausdorff": ("Hausdorff distance", _distance, compute_hausdorff_distance, True, (0.0, math.inf)),
    "hausdorff-95": ("95 % Hausdorff distance", _distance, _hausdorff_95, True, (0.0, math.inf)),
    "surface-distance": ("mean surface distance", _distance, _surface, True, (0.0, math.inf)),
}


def whole_mask_measurements(
    kinds: Sequence[str],
    class_names: Sequence[str],
    reference: LabelMap,
    spacing: Sequence[float] | None = None,
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
        ('Dice of lung with the reference', 0.800000011920929)
    """
    found = []
    for kind in dict.fromkeys(kinds):
        if kind not in WHOLE_MASK:
            raise ValueError(f"there is no comparison {kind!r}; known are {', '.join(WHOLE_MASK)}")
        word, reduce, compute, length, limits = WHOLE_MASK[kind]
        unit = ("pixels" if spacing is None else "mm") if length else ""
        for c, name in enumerate(class_names[1:], start=1):

            def measure(
                x: LabelMap,
                c: int = c,
                reduce: Callable[..., float] = reduce,
                compute: Distance = compute,
                fixed: torch.Tensor = _batch(reference == c),
            ) -> float:
                return reduce(compute, _batch(x == c), fixed, spacing)

            found.append(Measurement(f"{word} of {name} with {called}", unit, measure, limits))
    return found


def _batch(mask: npt.NDArray[np.bool_]) -> torch.Tensor:
    """(1, 1, *spatial)."""
    return torch.from_numpy(np.ascontiguousarray(mask))[None, None]
