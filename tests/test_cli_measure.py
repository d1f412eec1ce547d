# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Measurements and radius maps on the command line: one document an image, with a sentence for each certificate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from skimage import io

from monai_cert.arguments import MEASURED
from monai_cert.certificate import Certificate, classes_from_disk
from monai_cert.cli import main
from monai_cert.measurements import MEASUREMENTS
from monai_cert.metrics.whole_mask import WHOLE_MASK
from tiny import SIDE, N


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A medical file of 48 x 64 pixels of 0.75 x 0.5 mm."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((48, 64), dtype=np.float32))
    image.SetSpacing((0.5, 0.75))
    sitk.WriteImage(image, str(tmp_path / "film.nii.gz"))
    return tmp_path / "film.nii.gz"


def certify(tiny: Path, output: Path, *arguments: object) -> int:
    return main(["certify", "--bundle", str(tiny), "--output", str(output), "--n", str(N), *map(str, arguments)])


def test_one_document_has_all_certificates(
    tiny: Path, film: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = (film, picture, "--seed", 3, "--json", "--measure", "area", "centroid", "dice", "--radii", 0.05, 0.1)
    assert certify(tiny, out, *arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["measure"] == ["area", "centroid", "dice"]
    for entry, unit in zip(report["inputs"], ("mm", "pixels"), strict=True):
        record = json.loads(Path(entry["outputs"]["certificate"]).read_text())
        assert record["measurements"] == entry["measurements"]
        measured, compared = record["measurements"]["certificates"]
        assert measured["alpha"] + compared["alpha"] == pytest.approx(record["alpha"])
        assert (measured["n"], compared["n"], record["measurements"]["reference_draws"]) == (N, N - N // 5, N // 5)
        names = [m["name"] for m in measured["measurements"]]
        assert names == ["area of lung", "center of lung along rows", "center of lung along columns"]
        assert [m["name"] for m in compared["measurements"]] == ["Dice of lung with the majority of other draws"]
        assert [i["radius"] for i in measured["measurements"][0]["intervals"]] == [0.05, 0.1]
        assert measured["measurements"][1]["unit"] == unit
        for m in (*measured["measurements"], *compared["measurements"]):
            assert m["name"] in m["statement"]
        classes = read_classes(Path(entry["outputs"]["classes"]))
        assert Certificate.from_json(json.dumps(record), classes).provenance.seed == 3
        assert io.imread(entry["outputs"]["intervals"]).ndim == 3
    spacing = (0.75 * 48 / SIDE, 0.5 * 64 / SIDE)
    assert report["inputs"][0]["measurements"]["spacing_mm"] == pytest.approx(spacing)
    areas = [entry["measurements"]["certificates"][0]["measurements"][0] for entry in report["inputs"]]
    assert areas[0]["limits"] == pytest.approx([0, 48 * 64 * 0.375])
    assert areas[1]["limits"] == [0, SIDE * SIDE]


def read_classes(path: Path) -> np.ndarray:
    stored = io.imread(path) if path.suffix == ".png" else sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return classes_from_disk(np.asarray(stored, dtype=np.uint8).reshape(SIDE, SIDE))


def test_millimeters_without_spacing_fail_alone_and_say_so(
    tiny: Path, film: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(tiny, tmp_path / "out", picture, film, "--measure", "area", "--units", "mm", "--json") == 1
    bad, good = json.loads(capsys.readouterr().out)["inputs"]
    assert bad["status"] == "error"
    assert (
        "picture.png does not state its pixel spacing, which millimeters need; give it with --spacing" in bad["error"]
    )
    assert good["status"] == "ok"
    assert good["measurements"]["certificates"][0]["measurements"][0]["unit"] == "mm2"


def test_a_comparison_that_fails_is_named_and_one_asked_for_twice_counts_once(
    tiny: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> float:
        raise ArithmeticError("no luck")

    monkeypatch.setitem(WHOLE_MASK, "iou", ("IoU", broken, False, (0.0, 1.0)))  # type: ignore[index]
    assert certify(tiny, tmp_path / "out", picture, "--measure", "area", "dice", "dice", "iou") == 0
    record = json.loads((tmp_path / "out" / "picture.json").read_text())["measurements"]
    assert record["failures"] == {"IoU of lung with the majority of other draws": "no luck"}
    measured, compared = record["certificates"]
    assert [m["name"] for m in compared["measurements"]] == ["Dice of lung with the majority of other draws"]
    assert compared["alpha"] == pytest.approx(2 * measured["alpha"])


def test_a_radius_map_of_one_certificate(tiny: Path, picture: Path, tmp_path: Path) -> None:
    assert certify(tiny, tmp_path / "out", picture, "--seed", 3, "--radius-map", "--measure", "components") == 0
    radii = tifffile.imread(tmp_path / "out" / "picture_radius.tif")
    classes = read_classes(tmp_path / "out" / "picture_classes.png")
    text = (tmp_path / "out" / "picture.json").read_text()
    claim = Certificate.from_json(text, classes, radii=radii)
    assert (claim.test, claim.correction) == ("radius_map", "bonferroni")
    np.testing.assert_array_equal(claim.radius_map, radii)
    assert "the pixel's own certified radius" in json.loads(text)["statement"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--measure", "volume"), "a volume in mL needs a volume image"),
        (("--measure", "cardiothoracic-ratio"), "needs classes of lungs and heart"),
        (("--measure", "area", "--spacing", 1), "--spacing takes 2 positive numbers"),
        (("--measure", "area", "--spacing", 1, 0), "--spacing takes 2 positive numbers"),
        (("--measure", "area", "--radii", 0.1, 0.1), "--radii must be positive and differ"),
        (("--measure", "area", "--radii", 0), "--radii must be positive and differ"),
        (("--radius-map", "--tau", 0.8), "--radius-map gives each pixel its own radius"),
        (("--spacing", 1, 1), "--spacing, --units and --radii go with --measure"),
    ],
)
def test_wrong_use_is_told_before_anything_is_drawn(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], words: str
) -> None:
    assert certify(tiny, tmp_path / "out", *arguments) == 2
    assert words in capsys.readouterr().err


def test_the_names_are_those_of_the_library() -> None:
    assert {*MEASURED} == {*MEASUREMENTS, *WHOLE_MASK, "cardiothoracic-ratio"}
