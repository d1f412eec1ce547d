# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The picture of a certificate."""

from __future__ import annotations

import textwrap
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from monai_cert.certificate import ABSTAIN, Certificate

__all__ = ["certificate_figure", "save_png"]

# Okabe-Ito colors: told apart by color-blind readers and on grey.
_CLASS_COLORS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_ABSTAIN_COLOR = "#D55E00"


def certificate_figure(
    image: npt.NDArray[np.floating],
    certificate: Certificate,
    *,
    title: str,
    class_names: tuple[str, ...] | None = None,
) -> Figure:
    """Draw image, certified classes and radius side by side, with the claim below.

    Args:
        image: (C, H, W) or (C, D, H, W) in the certificate's bounds, C 1 or 3; of a volume the middle slice is shown.
        certificate: its certificate.
        title: what to call the image.
        class_names: a name a class; "class 0", ... if None.

    Returns:
        The figure, 15 inches wide.
    """
    names = class_names or tuple(f"class {c}" for c in range(certificate.num_classes))
    low, high = certificate.bounds
    picture = np.clip((np.moveaxis(_slice(image, 3), 0, -1) - low) / (high - low), 0, 1)
    classes, radius = _slice(certificate.classes, 2), _slice(certificate.radius_map, 2)
    height = 5.0 * picture.shape[0] / picture.shape[1]
    figure = Figure(figsize=(15.4, height + 1.1), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plain, overlay, radii = figure.subplots(1, 3)
    for axes in (plain, overlay, radii):
        axes.set_axis_off()
    _show(plain, picture)
    plain.set_title("image", fontsize=11)
    _show(overlay, picture)
    _draw_classes(overlay, classes, names)
    overlay.set_title(
        f"certified {certificate.certified_fraction:.1%} of pixels, abstained {certificate.abstention:.1%}", fontsize=11
    )
    shown = radii.imshow(radius, cmap="cividis", vmin=0, vmax=certificate.radius or 1, interpolation="nearest")
    figure.colorbar(shown, ax=radii, fraction=0.046, pad=0.02).set_label(
        f"certified l2 radius (pixel values {low:g} to {high:g}); 0 = abstains"
    )
    radii.set_title("certified radius", fontsize=11)
    settings = f"sigma {certificate.sigma:g}, tau {certificate.tau:g}, alpha {certificate.alpha:g}, n {certificate.n}"
    figure.suptitle(f"{title}   ({settings})", fontsize=12, fontweight="bold")
    figure.supxlabel("\n".join(textwrap.wrap(certificate.statement, 175)), fontsize=9)
    return figure


def save_png(figure: Figure, file: BinaryIO, dpi: int = 100) -> None:
    """Write a figure as PNG."""
    figure.savefig(file, format="png", dpi=dpi)


def _slice(array: npt.NDArray[Any], ndim: int) -> npt.NDArray[Any]:
    """The middle slice of a volume; a 2-D image as it is."""
    return array if array.ndim == ndim else array.take(array.shape[-3] // 2, axis=-3)


def _show(axes: Axes, picture: npt.NDArray[np.floating]) -> None:
    if picture.shape[-1] == 1:
        axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(picture, interpolation="nearest")


def _draw_classes(axes: Axes, classes: npt.NDArray[np.integer], names: tuple[str, ...]) -> None:
    """Contours of the certified classes, hatching where the certificate abstains."""
    handles: list[Line2D | Patch] = []
    for c in sorted(set(np.unique(classes).tolist()) - {ABSTAIN, 0}):
        color = _CLASS_COLORS[(c - 1) % len(_CLASS_COLORS)]
        axes.contour(classes == c, levels=[0.5], colors=[color], linewidths=1.6)
        handles.append(Line2D([], [], color=color, linewidth=1.6, label=f"certified {names[c]}"))
    abstains = classes == ABSTAIN
    if abstains.any():
        filled = axes.contourf(abstains, levels=[0.5, 1.5], colors=[_ABSTAIN_COLOR], alpha=0.25, hatches=["/////"])
        filled.set_edgecolor(_ABSTAIN_COLOR)
        filled.set_linewidth(0.0)
        handles.append(
            Patch(facecolor=_ABSTAIN_COLOR, alpha=0.4, hatch="/////", edgecolor=_ABSTAIN_COLOR, label="abstains")
        )
    if handles:
        axes.legend(handles=handles, loc="lower right", fontsize=8, framealpha=0.85)
