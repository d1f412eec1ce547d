# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Figures against the radius, of certificates in which each pixel has a radius of its own.

All radii of such a certificate hold together (see `monai_cert.statistics.radius_map`), so a curve may be read at any
radius after the fact. A certificate of one majority threshold has one point of it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from monai_cert.certificate import ABSTAIN

__all__ = ["area_under_curve", "curve_over_radius"]


def curve_over_radius(
    figure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    classes: torch.Tensor,
    radius: torch.Tensor,
    label: torch.Tensor,
    radii: torch.Tensor,
) -> torch.Tensor:
    """A figure of certified label maps at several radii; pixels with a smaller one abstain.

    Args:
        figure: of (classes, label), such as `worst_case_dice` or `certified_accuracy`.
        classes: (B, 1, *spatial) certified label map with ABSTAIN = -1.
        radius: (B, 1, *spatial) certified radius of each pixel.
        label: (B, 1, *spatial) true label map.
        radii: (R,) at which to read; what is said at r holds under every change of l2 size below r.

    Returns:
        (R, ...) figures. A figure that is NaN for a class absent from truth and certificate, as overlaps are, becomes
        NaN at the radius from which on the class is certified nowhere, if the truth does not have it.

    Raises:
        ValueError: if classes and radius differ in shape.

    Example:
        >>> from monai_cert.metrics.dice import worst_case_dice
        >>> classes, radius = torch.tensor([[[1, 1, 0]]]), torch.tensor([[[0.2, 0.1, 0.1]]])
        >>> curve_over_radius(worst_case_dice, classes, radius, classes, torch.tensor([0.1, 0.2])).flatten().tolist()
        [1.0, 0.5]
    """
    if classes.shape != radius.shape:
        raise ValueError(f"classes and radius differ in shape: {tuple(classes.shape)} and {tuple(radius.shape)}")
    # Compared in float64: torch would cast the single number to the type of the map, down as well as up.
    reaches = radius.double()
    return torch.stack([figure(torch.where(reaches >= r, classes, ABSTAIN), label) for r in radii.double()])


def area_under_curve(figures: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
    """Area under a curve from radius 0 to the last, in units of the radius.

    Between two radii the curve is taken where it is read on the right: exact where ``radii`` has all radii of the
    pixels, else no more than the area for figures that never rise with the radius. Worst-case figures of one class
    never do, but for turning NaN where the class is absent from truth and certificate; then the area is NaN, and a mean
    that leaves the class out may rise there.

    Args:
        figures: (R, ...) from `curve_over_radius`.
        radii: (R,) rising, the first above 0.

    Returns:
        (...) areas, in the wider type of the two.

    Raises:
        ValueError: if the radii do not rise from above 0 or are of another number.

    Example:
        >>> area_under_curve(torch.tensor([1.0, 0.5]), torch.tensor([0.25, 0.5])).item()
        0.375
    """
    widths = torch.diff(radii, prepend=torch.zeros(1, dtype=radii.dtype, device=radii.device))
    if len(radii) != len(figures) or not bool((widths > 0).all()):
        raise ValueError("radii must rise from above 0, one for each figure")
    dtype = torch.promote_types(widths.dtype, figures.dtype)
    area: torch.Tensor = torch.tensordot(widths.to(dtype), figures.to(dtype), dims=1)
    return area
