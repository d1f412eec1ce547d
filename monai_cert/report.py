# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Writing what a certification found: the files of one input and the summary of many. Whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import tifffile
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from PIL import Image

from monai_cert.certificate import Certificate, classes_to_disk
from monai_cert.data.files import is_medical, stem
from monai_cert.data.phantoms import PHANTOM
from monai_cert.measuring import Measured
from monai_cert.visualize import certificate_figure, interval_figure, save_png

__all__ = [
    "SaveCertificated",
    "SaveClassesd",
    "encoded",
    "title_of",
    "write_certificate",
    "write_csv",
    "write_whole",
]


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file under a temporary name beside it, then rename: readers see it whole or not at all.

    Raises:
        OSError: if it cannot be written, or a folder stands in its place.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder where a file of results belongs; move it away", str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a table, other keys of the rows left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return write_whole(path, text.getvalue().encode())


def write_certificate(
    folder: Path,
    source: str | Path,
    image: npt.NDArray[np.floating],
    certificate: Certificate,
    class_names: tuple[str, ...] | None = None,
    measured: Measured | None = None,
) -> dict[str, str]:
    """Write the files of one input, four to six.

    Args:
        folder: where they go; it exists.
        source: the input's path, whose stem names the files and whose geometry, if it is a medical file, they take.
        image: (C, *spatial) what was certified.
        certificate: its certificate.
        class_names: a name a class.
        measured: what was certified about measurements, if anything.

    Returns:
        Paths of ``classes`` (``.png`` or ``.nii.gz``, 255 = abstain), ``radius`` (``.tif`` or ``.nii.gz``, float32),
        ``overlay`` (``.png``) and ``certificate`` (``.json``, written last); with a hierarchy also ``nodes``, like
        ``classes``; with measurements also ``intervals``, a picture.
    """
    name = stem(source)
    figure = certificate_figure(image, certificate, title=title_of(source), class_names=class_names)
    labels = {"classes": certificate.classes} | ({} if certificate.nodes is None else {"nodes": certificate.nodes})
    radius = certificate.radius_map
    paths: dict[str, Path] = {}
    if is_medical(source) or certificate.classes.ndim == 3:
        geometry = Path(source) if is_medical(source) else None
        for key, label_map in labels.items():
            paths[key] = _write_nifti(folder / f"{name}_{key}.nii.gz", classes_to_disk(label_map), geometry)
        paths["radius"] = _write_nifti(folder / f"{name}_radius.nii.gz", radius, geometry)
    else:
        for key, label_map in labels.items():
            paths[key] = write_whole(folder / f"{name}_{key}.png", _png(classes_to_disk(label_map)))
        content = encoded(lambda file: tifffile.imwrite(file, radius))
        paths["radius"] = write_whole(folder / f"{name}_radius.tif", content)
    paths["overlay"] = write_whole(folder / f"{name}_overlay.png", encoded(lambda file: save_png(figure, file)))
    record = certificate.to_json()
    if measured is not None:
        bars = interval_figure(measured.certificates, title=title_of(source), left_out=tuple(measured.failures))
        paths["intervals"] = write_whole(folder / f"{name}_intervals.png", encoded(lambda file: save_png(bars, file)))
        record = json.dumps(json.loads(record) | {"measurements": measured.record()}, indent=4, allow_nan=False)
    paths["certificate"] = write_whole(folder / f"{name}.json", record.encode())
    return {key: str(path) for key, path in paths.items()}


class SaveCertificated(MapTransform):
    """Post-processing of a bundle: write the files of `write_certificate` for each certified image.

    Args:
        keys: the classes, after ``CertificateMapsd``; they carry the record that ``CertificationInferer`` left in
            their metadata.
        output_dir: where the files go; made if missing.
        image_key: the image that was certified.
        class_names: a name a class.
        node_key: the certified nodes of a hierarchy, where there is one.
        radius_key: the certified radii, which are looked at where pixels have their own.
        allow_missing_keys: skip a key that is not there.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        image_key: str = "image",
        class_names: Sequence[str] | None = None,
        node_key: str = "node",
        radius_key: str = "radius",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)
        self.image_key = image_key
        self.class_names = None if class_names is None else tuple(class_names)
        self.node_key = node_key
        self.radius_key = radius_key

    def __call__(self, data: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Write the files of one decollated item and pass it on."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        image = data[self.image_key]
        for key in self.key_iterator(data):
            classes = _label_map(data[key])
            nodes = _label_map(data[self.node_key]) if self.node_key in data else None
            radii = data[self.radius_key].as_tensor().cpu()[0].numpy() if self.radius_key in data else None
            certificate = Certificate.from_json(data[key].meta["certificate"], classes, nodes, radii)
            source = image.meta["filename_or_obj"]
            write_certificate(self.output_dir, source, image.as_tensor().cpu().numpy(), certificate, self.class_names)
        return data


class SaveClassesd(MapTransform):
    """Post-processing of a bundle: write a label map as ``STEM_classes.png``, rows before columns.

    Args:
        keys: the label map (1, H, W), which carries its file name.
        output_dir: where the files go; made if missing.
        allow_missing_keys: skip a key that is not there.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Write the file of one decollated item and pass it on."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for key in self.key_iterator(data):
            classes = _label_map(data[key])
            name = stem(data[key].meta["filename_or_obj"])
            write_whole(self.output_dir / f"{name}_classes.png", _png(classes_to_disk(classes)))
        return data


def _label_map(channel: torch.Tensor) -> npt.NDArray[np.int16]:
    """(*spatial) of a decollated (1, *spatial)."""
    return np.asarray(torch.as_tensor(channel).cpu()[0].numpy(), dtype=np.int16)


def title_of(source: str | Path) -> str:
    """What pictures call an input: its file's stem; the phantom is said to be one."""
    return f"{stem(source)} (synthetic phantom, no patient)" if source == PHANTOM else stem(source)


def encoded(write: Callable[[BinaryIO], object]) -> bytes:
    """What ``write`` writes to a file."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _png(stored: npt.NDArray[np.uint8]) -> bytes:
    return encoded(lambda file: Image.fromarray(stored).save(file, format="PNG"))


def _write_nifti(path: Path, array: npt.NDArray[Any], source: Path | None) -> Path:
    image = sitk.GetImageFromArray(array)
    if source is not None:
        _take_geometry(image, source)
    # SimpleITK writes to names alone.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.nii.gz"
        sitk.WriteImage(image, str(file), useCompression=True)
        return write_whole(path, file.read_bytes())


def _take_geometry(image: sitk.Image, source: Path) -> None:
    """Lay the grid of image over the field of view of a medical file, whose number of pixels may differ."""
    original = sitk.ReadImage(str(source))
    if original.GetDimension() == 3 and image.GetDimension() == 2:
        original = original[:, :, 0]
    spacing = [s * n / m for s, n, m in zip(original.GetSpacing(), original.GetSize(), image.GetSize(), strict=True)]
    first = [(new / old - 1) / 2 for new, old in zip(spacing, original.GetSpacing(), strict=True)]
    image.SetSpacing(spacing)
    image.SetDirection(original.GetDirection())
    image.SetOrigin(original.TransformContinuousIndexToPhysicalPoint(first))
