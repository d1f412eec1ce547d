# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The pictures of a certificate and of an attack on it."""

from __future__ import annotations

import textwrap
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Patch
from scipy.ndimage import binary_dilation, find_objects, label

from monai_cert.certificate import ABSTAIN, Certificate

__all__ = ["attack_figure", "certificate_figure", "save_png"]

# Okabe-Ito colors: told apart by color-blind readers and on grey.
_CLASS_COLORS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_ABSTAIN_COLOR = "#D55E00"
_FLIP_COLOR = "#E6007E"

ClassMap = npt.NDArray[np.integer[Any]]
Mask = npt.NDArray[np.bool_]


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
    names = class_names or _numbered(certificate)
    shown_as, share = certificate.classes, f"certified {certificate.certified_fraction:.1%} of pixels"
    if certificate.nodes is not None and certificate.hierarchy is not None:
        names, shown_as = certificate.hierarchy.names, certificate.nodes
        share += f", as a group {np.mean(shown_as >= certificate.num_classes):.1%}"
    low, high = certificate.bounds
    picture = _picture(image, certificate)
    radius = _slice(certificate.radius_map, 2)
    height = 5.0 * picture.shape[0] / picture.shape[1]
    figure = Figure(figsize=(15.4, height + 1.1), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plain, overlay, radii = figure.subplots(1, 3)
    for axes in (plain, overlay, radii):
        axes.set_axis_off()
    _show(plain, picture)
    plain.set_title("image", fontsize=11)
    _show(overlay, picture)
    _draw_classes(overlay, _slice(shown_as, 2), names, prefix="certified ", num_classes=certificate.num_classes)
    overlay.set_title(f"{share}, abstained {np.mean(shown_as == ABSTAIN):.1%}", fontsize=11)
    largest = certificate.radius if certificate.radii is None else float(radius.max())
    shown = radii.imshow(radius, cmap="cividis", vmin=0, vmax=largest or 1, interpolation="nearest")
    figure.colorbar(shown, ax=radii, fraction=0.046, pad=0.02).set_label(
        f"certified l2 radius (pixel values {low:g} to {high:g}); 0 = abstains"
    )
    radii.set_title("certified radius", fontsize=11)
    settings = f"sigma {certificate.sigma:g}, tau {certificate.tau:g}, alpha {certificate.alpha:g}, n {certificate.n}"
    if certificate.kind == "deterministic":
        settings = f"Lipschitz constant {certificate.lipschitz_constant:.4g}, one pass"
    figure.suptitle(f"{title}   ({settings})", fontsize=12, fontweight="bold")
    figure.supxlabel("\n".join(textwrap.wrap(certificate.statement, 175)), fontsize=9)
    return figure


def attack_figure(
    image: npt.NDArray[np.floating],
    delta: npt.NDArray[np.floating],
    certificate: Certificate,
    *,
    plain: tuple[ClassMap, Mask],
    smoothed: tuple[ClassMap, Mask],
    flipped: Mask,
    title: str,
    caption: str,
    class_names: tuple[str, ...] | None = None,
) -> Figure:
    """Draw an attack on a certificate: image, attacked image, both networks' answers to it, and what held.

    Args:
        image: (C, H, W) or (C, D, H, W) in the certificate's bounds, C 1 or 3; of a volume the middle slice is shown.
        delta: its change, of the same shape.
        certificate: the certificate that was attacked.
        plain: (*spatial) classes that the plain network gives under its own attack, and the pixels that changed.
        smoothed: (*spatial) majority under noise under the attack, and certified pixels at which it is another one.
        flipped: (*spatial) certified pixels that were proved to flip.
        title: what to call the image.
        caption: what the attack shows.
        class_names: a name a class; "class 0", ... if None.

    Returns:
        The figure, 20 inches wide.
    """
    names = class_names or _numbered(certificate)
    picture = _picture(image, certificate)
    size = float(np.linalg.norm(delta.astype(np.float64)))
    figure = Figure(figsize=(20.0, 4.0 * picture.shape[0] / picture.shape[1] + 1.25), layout="constrained")
    FigureCanvasAgg(figure)
    clean, changed, by_plain, by_majority, held = figure.subplots(1, 5)
    for axes in (clean, changed, by_plain, by_majority, held):
        axes.set_axis_off()
    _show(clean, picture)
    clean.set_title("image", fontsize=11)
    _show(changed, _picture(image + delta, certificate))
    changed.set_title(f"attacked image\nchanged by an l2 size of {size:.3f}", fontsize=11)
    _inset(changed, _slice(delta, 3).mean(axis=0))
    for axes, (classes, mask), name, verb in (
        (by_plain, plain, "plain network, under its own attack", "flipped"),
        (by_majority, smoothed, "majority under noise, attacked", "outvoted"),
    ):
        _show(axes, picture)
        _draw_classes(axes, _slice(classes, 2), names, marks=(_slice(mask, 2), verb))
        axes.set_title(f"{name}\n{_pixels(mask)} {verb}", fontsize=11)
    _show(held, picture)
    _draw_classes(held, _slice(certificate.classes, 2), names, "certified ", (_slice(flipped, 2), "proved flipped"))
    count = int((certificate.classes != ABSTAIN).sum())
    held.set_title(f"certificate\n{_pixels(flipped)} of {count:,} proved flipped", fontsize=11)
    settings = f"sigma {certificate.sigma:g}, tau {certificate.tau:g}, alpha {certificate.alpha:g}"
    figure.suptitle(
        f"{title}: attack of l2 size {size:.3f} on a certificate of radius {certificate.radius:.4f}   ({settings})",
        fontsize=12,
        fontweight="bold",
    )
    figure.supxlabel("\n".join(textwrap.wrap(caption, 210)), fontsize=10)
    return figure


def save_png(figure: Figure, file: BinaryIO, dpi: int = 100) -> None:
    """Write a figure as PNG."""
    figure.savefig(file, format="png", dpi=dpi)


def _numbered(certificate: Certificate) -> tuple[str, ...]:
    return tuple(f"class {c}" for c in range(certificate.num_classes))


def _slice(array: npt.NDArray[Any], ndim: int) -> npt.NDArray[Any]:
    """The middle slice of a volume; a 2-D image as it is."""
    return array if array.ndim == ndim else array.take(array.shape[-3] // 2, axis=-3)


def _picture(image: npt.NDArray[np.floating], certificate: Certificate) -> npt.NDArray[np.floating]:
    """(H, W, C) in [0, 1] of an image or of the middle slice of a volume."""
    low, high = certificate.bounds
    return np.clip((np.moveaxis(_slice(image, 3), 0, -1) - low) / (high - low), 0, 1)


def _pixels(mask: Mask) -> str:
    return f"{int(mask.sum()):,} pixel{'' if mask.sum() == 1 else 's'}"


def _inset(axes: Axes, change: npt.NDArray[np.floating]) -> None:
    """The change alone, amplified, in the corner of a panel."""
    largest = float(np.abs(change).max()) or 1.0
    inset = axes.inset_axes((0.0, 0.0, 0.36, 0.36))
    inset.imshow(change, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    inset.set_title(f"change, at most {largest:.3f}", fontsize=8, pad=2, color="white", backgroundcolor="#00000080")


def _draw_marks(axes: Axes, marks: Mask) -> None:
    """Fill marked pixels, and ring each small group of them so that a single one is seen."""
    _fill(axes, marks, _FLIP_COLOR)
    margin = max(1, marks.shape[1] // 64)
    groups = label(binary_dilation(marks, iterations=margin))[0]
    for rows, columns in find_objects(groups):
        center = ((columns.start + columns.stop - 1) / 2, (rows.start + rows.stop - 1) / 2)
        width, height = columns.stop - columns.start + margin, rows.stop - rows.start + margin
        if max(width, height) < marks.shape[1] / 8:
            axes.add_patch(Ellipse(center, width, height, fill=False, edgecolor=_FLIP_COLOR, linewidth=1.4, zorder=3))


def _fill(axes: Axes, mask: Mask, color: str) -> None:
    shown = np.zeros((*mask.shape, 4))
    shown[mask] = to_rgba(color)
    axes.imshow(shown, interpolation="nearest", zorder=3)


def _show(axes: Axes, picture: npt.NDArray[np.floating]) -> None:
    if picture.shape[-1] == 1:
        axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(picture, interpolation="nearest")


def _draw_classes(
    axes: Axes,
    classes: ClassMap,
    names: tuple[str, ...],
    prefix: str = "",
    marks: tuple[Mask, str] | None = None,
    num_classes: int | None = None,
) -> None:
    """Contours of the classes, groups of a hierarchy (from num_classes on) filled, abstention hatched, marks on top."""
    handles: list[Line2D | Patch] = []
    for c in sorted(set(np.unique(classes).tolist()) - {ABSTAIN, 0}):
        color = _CLASS_COLORS[(c - 1) % len(_CLASS_COLORS)]
        if num_classes is not None and c >= num_classes:
            _fill(axes, classes == c, color)
            handles.append(Patch(facecolor=color, label=f"{prefix}{names[c]} (group)"))
            continue
        axes.contour(classes == c, levels=[0.5], colors=[color], linewidths=1.6)
        handles.append(Line2D([], [], color=color, linewidth=1.6, label=f"{prefix}{names[c]}"))
    abstains = classes == ABSTAIN
    if abstains.any():
        filled = axes.contourf(abstains, levels=[0.5, 1.5], colors=[_ABSTAIN_COLOR], alpha=0.25, hatches=["/////"])
        filled.set_edgecolor(_ABSTAIN_COLOR)
        filled.set_linewidth(0.0)
        handles.append(
            Patch(facecolor=_ABSTAIN_COLOR, alpha=0.4, hatch="/////", edgecolor=_ABSTAIN_COLOR, label="abstains")
        )
    if marks is not None and marks[0].any():
        _draw_marks(axes, marks[0])
        handles.append(Line2D([], [], color=_FLIP_COLOR, marker="s", linewidth=0, label=marks[1]))
    if handles:
        axes.legend(handles=handles, loc="lower right", fontsize=8, framealpha=0.85)
