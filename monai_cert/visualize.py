# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The pictures of a certificate and of an attack on it."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
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
from monai_cert.statistics.percentile import MeasurementCertificate
from monai_cert.statistics.rounding import outward

__all__ = ["attack_figure", "certificate_figure", "interval_figure", "save_png"]

# Okabe-Ito colors: told apart by color-blind readers and on grey.
_CLASS_COLORS = ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")
_ABSTAIN_COLORS = {1: "#D55E00", 3: "#0072B2"}  # of gray pictures, and of those of skin and mucosa, which are reddish
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
        image: (C, H, W) or (C, D, H, W) in the certificate's bounds; of a volume the middle slice is shown. Three
            channels are shown in color, of any other number the first in gray.
        certificate: its certificate.
        title: what to call the image.
        class_names: a name a class; "class 0", ... if None.

    Returns:
        The figure, 15.4 inches wide.
    """
    names = class_names or _numbered(certificate)
    shown_as, share = certificate.classes, f"certified {certificate.certified_fraction:.1%} of pixels"
    if certificate.nodes is not None and certificate.hierarchy is not None:
        names, shown_as = certificate.hierarchy.names, certificate.nodes
        share += f", as a group {np.mean(shown_as >= certificate.num_classes):.1%}"
    low, high = certificate.bounds
    picture = _picture(image, certificate)
    abstain_color = _ABSTAIN_COLORS[picture.shape[-1]]
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
    _draw_classes(
        overlay,
        _slice(shown_as, 2),
        names,
        abstain_color,
        prefix="certified ",
        num_classes=certificate.num_classes,
    )
    overlay.set_title(f"{share}, abstained {np.mean(shown_as == ABSTAIN):.1%}", fontsize=11)
    shown = radii.imshow(radius, cmap="cividis", vmin=0, vmax=float(radius.max()) or 1, interpolation="nearest")
    figure.colorbar(shown, ax=radii, fraction=0.046, pad=0.02).set_label(
        f"certified l2 radius (pixel values {low:g} to {high:g}); 0 = abstains"
    )
    radii.set_title("certified radius", fontsize=11)
    tau = f"tau {certificate.tau:g}" if certificate.radii is None else "radius map"
    settings = f"sigma {certificate.sigma:g}, {tau}, alpha {certificate.alpha:g}, n {certificate.n}"
    if certificate.kind == "deterministic":
        settings = f"Lipschitz constant {outward(certificate.lipschitz_constant or 0.0, up=True)}, one pass"
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
        image: (C, H, W) or (C, D, H, W) in the certificate's bounds; of a volume the middle slice is shown. Three
            channels are shown in color, of any other number the first in gray.
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
    abstain_color = _ABSTAIN_COLORS[picture.shape[-1]]
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
        _draw_classes(axes, _slice(classes, 2), names, abstain_color, marks=(_slice(mask, 2), verb))
        axes.set_title(f"{name}\n{_pixels(mask)} {verb}", fontsize=11)
    _show(held, picture)
    marks = (_slice(flipped, 2), "proved flipped")
    _draw_classes(held, _slice(certificate.classes, 2), names, abstain_color, "certified ", marks)
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


def interval_figure(
    certificates: Sequence[MeasurementCertificate], *, title: str, left_out: Collection[str] = ()
) -> Figure:
    """Draw the certified interval of every measurement against the radius, a panel a measurement.

    Args:
        certificates: of one image.
        title: what to call the image.
        left_out: names of measurements that are not shown.

    Returns:
        The figure, four panels a row.
    """
    shown = [(c, m) for c in certificates for m, name in enumerate(c.names) if name not in left_out]
    columns = min(4, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(3.9 * columns, 3.1 * rows + 1.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (certificate, m) in zip(panels, shown, strict=False):
        _draw_intervals(axes, certificate, m)
    for axes in list(figure.axes)[len(shown) :]:
        axes.set_axis_off()
    if shown:
        settings = f"sigma {shown[0][0].sigma:g}, n {shown[0][0].n}"
        figure.suptitle(f"{title}: measurements under attack   ({settings})", fontsize=12, fontweight="bold")
    figure.supxlabel(
        "l2 size of the change of the image. Dot: median over the noisy predictions. Bar: no change of this size moves "
        "the median outside. Arrow: the draws prove no end.",
        fontsize=9,
        wrap=True,
    )
    return figure


def save_png(figure: Figure, file: BinaryIO, dpi: int = 100) -> None:
    """Write a figure as PNG."""
    figure.savefig(file, format="png", dpi=dpi)


def _draw_intervals(axes: Axes, certificate: MeasurementCertificate, m: int) -> None:
    estimate = np.atleast_1d(certificate.estimate)[m]
    lower, upper = (np.atleast_2d(ends)[m] for ends in (certificate.lower, certificate.upper))
    limits = np.atleast_2d(certificate.limits)[m]
    proved = [(low > limits[0], high < limits[1]) for low, high in zip(lower, upper, strict=True)]
    known = [
        end for ends, p in zip(zip(lower, upper, strict=True), proved, strict=True) for end in np.array(ends)[[*p]]
    ]
    values = [v for v in (*known, estimate) if np.isfinite(v)] or [0.0]
    margin = 0.15 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    low_edge, high_edge = max(limits[0], min(values) - margin), min(limits[1], max(values) + margin)
    color = _CLASS_COLORS[6]
    for radius, low, high, (from_below, from_above) in zip(certificate.radii, lower, upper, proved, strict=True):
        ends = (low if from_below else low_edge, high if from_above else high_edge)
        axes.plot([radius, radius], ends, color=color, linewidth=5, solid_capstyle="butt", alpha=0.75)
        for end, sure, marker in ((ends[0], from_below, "v"), (ends[1], from_above, "^")):
            if not sure:
                axes.plot(radius, end, marker=marker, color=color, markersize=9, clip_on=False)
    axes.plot(certificate.radii, [estimate] * len(certificate.radii), "o", color="black", markersize=4)
    axes.set_xlim(0, 1.12 * float(certificate.radii.max()) or 1)
    axes.set_ylim(low_edge - margin / 3, high_edge + margin / 3)
    unit = f" [{certificate.units[m]}]" if certificate.units[m] else ""
    axes.set_title("\n".join(textwrap.wrap(certificate.names[m] + unit, 36)), fontsize=10)
    axes.grid(alpha=0.3)


def _numbered(certificate: Certificate) -> tuple[str, ...]:
    return tuple(f"class {c}" for c in range(certificate.num_classes))


def _slice(array: npt.NDArray[Any], ndim: int) -> npt.NDArray[Any]:
    """The middle slice of a volume; a 2-D image as it is."""
    return array if array.ndim == ndim else array.take(array.shape[-3] // 2, axis=-3)


def _picture(image: npt.NDArray[np.floating], certificate: Certificate) -> npt.NDArray[np.floating]:
    """(H, W, 3), or (H, W, 1) of the first channel where there are not 3, in [0, 1]; of a volume the middle slice."""
    low, high = certificate.bounds
    shown = _slice(image if len(image) == 3 else image[:1], 3)
    return np.clip((np.moveaxis(shown, 0, -1) - low) / (high - low), 0, 1)


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
    abstain_color: str,
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
        filled = axes.contourf(abstains, levels=[0.5, 1.5], colors=[abstain_color], alpha=0.25, hatches=["/////"])
        filled.set_edgecolor(abstain_color)
        filled.set_linewidth(0.0)
        handles.append(
            Patch(facecolor=abstain_color, alpha=0.4, hatch="/////", edgecolor=abstain_color, label="abstains")
        )
    if marks is not None and marks[0].any():
        _draw_marks(axes, marks[0])
        handles.append(Line2D([], [], color=_FLIP_COLOR, marker="s", linewidth=0, label=marks[1]))
    if handles:
        axes.legend(handles=handles, loc="lower right", fontsize=8, framealpha=0.85)
