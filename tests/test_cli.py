# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The command line on good and bad input: exit status, one clear sentence, nothing lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from skimage import io

from monai_cert.bundle import DEFAULT_BUNDLE, load_bundle
from monai_cert.certificate import Certificate, classes_from_disk
from monai_cert.cli import main
from tiny import BUNDLES, SIDE, N, make_tiny_bundle


def certify(tiny: Path, output: Path, *arguments: object) -> int:
    options = ("--bundle", tiny, "--output", output, "--n", N)
    return main(["certify", *map(str, options), *map(str, arguments)])


def test_certify_writes_the_four_files_and_the_summary(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(tiny, tmp_path / "out", picture, "--seed", 3, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == 1
    entry = report["inputs"][0]
    assert (entry["input"], entry["status"], entry["error"], entry["draws"]) == (str(picture), "ok", None, N)
    outputs = {kind: Path(path) for kind, path in entry["outputs"].items()}
    assert {path.name for path in outputs.values()} == {
        "picture_classes.png",
        "picture_radius.tif",
        "picture_overlay.png",
        "picture.json",
    }
    classes = classes_from_disk(io.imread(outputs["classes"]))
    claim = Certificate.from_json(outputs["certificate"].read_text(), classes)
    np.testing.assert_array_equal(claim.radius_map, tifffile.imread(outputs["radius"]))
    assert claim.provenance.seed == 3
    assert claim.certified_fraction == entry["certified_fraction"] == 1 - entry["abstention"]
    assert sum(entry["class_fractions"].values()) == pytest.approx(entry["certified_fraction"])
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["ok"]
    assert io.imread(outputs["overlay"]).shape[2] in (3, 4)
    assert sorted(f.name for f in (tmp_path / "out").iterdir() if f.name.startswith(".")) == []


def test_the_same_seed_gives_the_same_certificate(tiny: Path, picture: Path, tmp_path: Path) -> None:
    for out in ("a", "b"):
        assert certify(tiny, tmp_path / out, picture, "--seed", 3, "--batch-size", 4) == 0
    assert (tmp_path / "a" / "picture.json").read_text() == (tmp_path / "b" / "picture.json").read_text()


@pytest.mark.parametrize("name", BUNDLES)
def test_without_input_the_bundles_own_phantom_is_certified_and_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / f"tiny_{name}", name)
    assert certify(bundle, tmp_path / "out", "--seed", 0) == 0
    assert f"the phantom of tiny_{name}, a synthetic image of nobody" in capsys.readouterr().err
    picture = io.imread(tmp_path / "out" / "phantom_overlay.png")[..., :3].astype(int)
    panel = picture[100:400, 50:400]
    colorful = (panel.max(axis=-1) - panel.min(axis=-1)).mean() > 5
    assert colorful == (name != DEFAULT_BUNDLE), "a color image is drawn in its colors"
    shown = load_bundle(bundle, device="cpu").parser.get_parsed_content("phantom")
    record = json.loads((tmp_path / "out" / "phantom.json").read_text())
    assert record["provenance"]["input_shape"] == list(shown.shape)


def test_a_bundle_without_a_phantom_asks_for_an_image(
    tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "bare_certified_segmentation")
    inference = bundle / "configs" / "inference.json"
    config = json.loads(inference.read_text())
    del config["phantom"]
    inference.write_text(json.dumps(config))
    assert certify(bundle, tmp_path / "out") == 2
    assert main(["attack", "--bundle", str(bundle), "--output", str(tmp_path / "out"), "--n", str(N)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == ["monai-cert: the bundle bare_certified_segmentation has no phantom; give an image"] * 2
    assert not (tmp_path / "out").exists()
    assert certify(bundle, tmp_path / "out", picture) == 0


def test_the_split_test_spends_its_own_draws(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--test", "split", "--n0", 5, "--correction", "bonferroni", "--json")
    assert certify(tiny, tmp_path / "out", picture, *arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["inputs"][0]["draws"] == N + 5
    claim = json.loads((tmp_path / "out" / "picture.json").read_text())
    assert (claim["test"], claim["n0"], claim["correction"]) == ("split", 5, "bonferroni")


def test_a_medical_file_gets_its_results_in_its_own_space(tiny: Path, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).random((48, 64), dtype=np.float32))
    image.SetSpacing((0.5, 0.75))
    image.SetOrigin((10.0, -20.0))
    sitk.WriteImage(image, str(tmp_path / "film.nii.gz"))
    assert certify(tiny, tmp_path / "out", tmp_path / "film.nii.gz") == 0
    classes = sitk.ReadImage(str(tmp_path / "out" / "film_classes.nii.gz"))
    assert classes.GetSize() == (SIDE, SIDE)
    for index in ((-0.5, -0.5), (1.0, 1.0)):  # corners of the field of view, in fractions of each grid
        ours = [i if i < 0 else s - 0.5 for i, s in zip(index, classes.GetSize(), strict=True)]
        theirs = [i if i < 0 else s - 0.5 for i, s in zip(index, image.GetSize(), strict=True)]
        np.testing.assert_allclose(
            classes.TransformContinuousIndexToPhysicalPoint(ours)[:2],
            image.TransformContinuousIndexToPhysicalPoint(theirs),
            atol=1e-4,
        )


def bad_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in ("missing.png", "empty.png", "text.png", "cut.png", "strange.xyz")}
    files["empty.png"].touch()
    files["text.png"].write_text("not a picture")
    files["strange.xyz"].write_text("?")
    io.imsave(folder / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    files["cut.png"].write_bytes((folder / "whole.png").read_bytes()[:900])
    (folder / "whole.png").unlink()
    pixels = np.full((48, 48), 0.5, dtype=np.float32)
    for name, value in (("nan.tif", np.nan), ("inf.tif", np.inf), ("outside.tif", 3.0)):
        pixels[0, 0] = value
        tifffile.imwrite(folder / name, pixels)
        files[name] = folder / name
    io.imsave(folder / "small.png", np.zeros((8, 40), dtype=np.uint8), check_contrast=False)
    color = np.zeros((48, 48, 3), dtype=np.uint8)
    color[..., 0] = 200
    io.imsave(folder / "color.png", color, check_contrast=False)
    return files | {name: folder / name for name in ("small.png", "color.png")}


def test_bad_files_fail_alone_each_with_a_sentence_that_names_it(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = bad_files(tmp_path)
    assert certify(tiny, tmp_path / "out", *files.values(), picture, "--json") == 1
    captured = capsys.readouterr()
    entries = {entry["input"]: entry for entry in json.loads(captured.out)["inputs"]}
    for file in files.values():
        entry = entries[str(file)]
        assert entry["status"] == "error"
        assert file.name in entry["error"]
        assert "\n" not in entry["error"]
        assert file.name in captured.err
    assert entries[str(picture)]["status"] == "ok"
    assert "Traceback" not in captured.err
    with (tmp_path / "out" / "summary.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(files) + 1


def sixteen_bit(pixels: np.ndarray, file: Path) -> None:
    io.imsave(file, pixels.astype(np.uint16) * 257, check_contrast=False)


def test_sixteen_bit_palette_and_opacity_give_what_eight_bit_gray_gives(tiny: Path, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (48, 40), dtype=np.uint8)
    io.imsave(tmp_path / "gray.png", pixels, check_contrast=False)
    sixteen_bit(pixels, tmp_path / "sixteen.png")
    palette = Image.fromarray(pixels).convert("P")
    palette.putpalette([level for level in range(256) for _ in range(3)])
    palette.save(tmp_path / "palette.png")
    opaque = np.dstack([pixels] * 3 + [np.full_like(pixels, 255)])
    io.imsave(tmp_path / "rgba.png", opaque, check_contrast=False)
    names = ("gray", "sixteen", "palette", "rgba")
    assert certify(tiny, tmp_path / "out", *(tmp_path / f"{name}.png" for name in names), "--seed", 1) == 0
    first, *others = (io.imread(tmp_path / "out" / f"{name}_classes.png") for name in names)
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sigma", "0"], "sigma must be positive"),
        (["--sigma", "-0.1"], "sigma must be positive"),
        (["--sigma", "nan"], "sigma must be positive"),
        (["--sigma", "1000"], "sigma must lie in"),
        (["--tau", "0.4"], "tau must lie in [1/2, 1)"),
        (["--tau", "1"], "tau must lie in [1/2, 1)"),
        (["--alpha", "0"], "alpha must lie in (0, 1)"),
        (["--alpha", "1"], "alpha must lie in (0, 1)"),
        (["--n", "0"], "at least"),
        (["--n", "20"], "at least n ="),
        (["--seed", "-1"], "seed must not be negative"),
        (["--device", "abacus"], "abacus"),
        (["--bundle", "no_such_bundle"], "there is no bundle 'no_such_bundle'"),
        (["--test", "split", "--n0", "0"], "n0 = 0"),
        (["--intensity-range", "1", "1"], "intensity range"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_computed(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert certify(tiny, tmp_path / "out", picture, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "picture.json").exists()


def test_too_few_draws_are_refused_with_the_number_that_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--shape", "512", "512", "--n", "50", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["min_n"], plan["votes_needed"]) == (68, None)


def test_weights_that_do_not_fit_are_named(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken_certified_segmentation"
    make_tiny_bundle(broken)
    torch.save({"wrong": torch.zeros(3)}, broken / "models" / "model.pt")
    assert certify(broken, tmp_path / "out", picture) == 2
    assert "do not fit the bundle's network" in capsys.readouterr().err
    whole = (tiny / "models" / "model.pt").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        (broken / "models" / "model.pt").write_bytes(whole[:size])
        assert certify(broken, tmp_path / "out", picture) == 2
        told = capsys.readouterr().err
        assert f"the weights {broken}/models/model.pt are damaged or cut short; fetch them again" in told, size
    (broken / "models" / "model.pt").write_bytes(b"no weights")
    assert certify(broken, tmp_path / "out", picture) == 2
    assert "model.pt" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_refused(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert certify(tiny, tmp_path / "file" / "out", picture) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert certify(tiny, tmp_path / "file", picture) == 2
    assert capsys.readouterr().err == f"monai-cert: {tmp_path / 'file'} is a file; give a folder with --output\n"


@pytest.mark.parametrize(("kind", "result"), [("png", "film_overlay.png"), ("nii.gz", "film_radius.nii.gz")])
def test_a_folder_in_the_place_of_a_result_is_named(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, result: str
) -> None:
    film = tmp_path / f"film.{kind}"
    if kind == "png":
        picture.rename(film)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(np.full((48, 64), 0.5, dtype=np.float32)), str(film))
    place = tmp_path / "out" / result
    place.mkdir(parents=True)
    assert certify(tiny, tmp_path / "out", film) == 1
    assert f"{place}: is a folder where a file of results belongs; move it away" in capsys.readouterr().err
    assert not [file for file in place.parent.iterdir() if file.name.startswith(".")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tiny: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert certify(tiny, tmp_path / "locked" / "out", picture) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_fails_the_input_and_leaves_no_half_file(
    tiny: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        return opened(Path("/dev/full"), mode) if self.name.startswith(".picture_radius") else opened(self, mode)

    monkeypatch.setattr(Path, "open", full)
    assert certify(tiny, tmp_path / "out", picture) == 1
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "out" / "picture.json").exists()
    assert not (tmp_path / "out" / "picture_radius.tif").exists()


def test_two_inputs_of_one_name_are_refused(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = tmp_path / "other" / "picture.png"
    twin.parent.mkdir()
    twin.write_bytes(picture.read_bytes())
    assert certify(tiny, tmp_path / "out", picture, twin) == 2
    assert "same name" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["certify", "attack"])
@pytest.mark.parametrize("place", ["same", "other/../same", "link"])
def test_results_are_never_written_among_the_images(
    tiny: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, place: str
) -> None:
    same = tmp_path / "same"
    same.mkdir()
    (tmp_path / "link").symlink_to(same)
    (tmp_path / "other").mkdir()
    for name in ("a.png", "a_classes.png"):
        (same / name).write_bytes(picture.read_bytes())
    options = ["--bundle", str(tiny), "--n", str(N), "--output", str(tmp_path / place)]
    assert main([command, str(same / "a.png"), *options]) == 2
    told = f"results would be written among the images in {tmp_path / place}; give another folder with --output"
    assert capsys.readouterr().err == f"monai-cert: {told}\n"
    assert main([command, *options, "--mask", str(same / "a_classes.png")]) == 2
    assert sorted(file.name for file in same.iterdir()) == ["a.png", "a_classes.png"]
    assert (same / "a_classes.png").read_bytes() == picture.read_bytes()


def test_control_c_keeps_finished_results(tiny: Path, tmp_path: Path) -> None:
    for number in range(120):
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        io.imsave(tmp_path / f"{number:02}.png", pixels, check_contrast=False)
    command = [sys.executable, "-m", "monai_cert", "certify", str(tmp_path), "--bundle", str(tiny), "--n", str(N)]
    process = subprocess.Popen([*command, "--output", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "02.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in error
    assert "stopped" in error
    with (tmp_path / "out" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    done = [Path(row["input"]).stem for row in rows if row["status"] == "ok"]
    assert 2 <= len(done) < 40
    assert all((tmp_path / "out" / f"{name}.json").is_file() for name in done)


def test_evaluate_writes_rows_and_means(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    root = tmp_path / "MontgomerySet"
    for part in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask"):
        (root / part).mkdir(parents=True)
        for name in ("a", "b", "c"):
            pixels = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            stored = pixels if part == "CXR_png" else np.where(pixels > 200, 255, 0).astype(np.uint8)
            io.imsave(root / part / f"{name}.png", stored, check_contrast=False)
    (tmp_path / "splits.csv").write_text("dataset,id,split\nmontgomery,a,test\nmontgomery,c,test\nmontgomery,b,train\n")
    arguments = ["evaluate", "--bundle", str(tiny), "--dataset", "montgomery", "--data-root", str(tmp_path)]
    arguments += ["--n", str(N), "--seed", "0", "--json"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["images"] == 2
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["a", "c"]
    assert results["means"].pop("dice_under_attack") is None  # of a network that votes
    for name, mean in results["means"].items():
        found = np.mean([float(row[name]) for row in rows])
        assert np.isnan(found) if mean is None else mean == pytest.approx(found)
    for row in rows:
        assert float(row["worst_case_dice"]) <= float(row["certified_dice"])
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == results | {"means": results["means"] | {"dice_under_attack": None}}
    assert "all 2 images are done already; nothing was computed" in captured.err
    assert main([*arguments, "--sigma", "0.3", "--output", str(tmp_path / "out")]) == 2
    assert "holds results already" in capsys.readouterr().err
    assert main([*arguments, "--no-denoise", "--limit", "1", "--output", str(tmp_path / "plain")]) == 0
    assert json.loads((tmp_path / "plain" / "results.json").read_text())["settings"]["denoise"] is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--dataset": "chestomery"}, "unknown data set"),
        ({"--data-root": "/no/such/folder"}, "does not exist"),
        ({"--split": "exam"}, "no images"),
    ],
)
def test_evaluate_refuses_what_is_not_there(
    tiny: Path, tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], words: str
) -> None:
    options = {
        "--bundle": str(tiny),
        "--dataset": "montgomery",
        "--data-root": str(data_root),
        "--output": str(tmp_path / "out"),
    } | changes
    assert main(["evaluate", *(word for pair in options.items() for word in pair)]) == 2
    assert words in capsys.readouterr().err


def test_plan_answers_what_the_statistics_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--shape", "256", "256", "--n", "110"]) == 0
    answer = capsys.readouterr().out
    assert "105 of 110" in answer
    assert main(["plan", "--shape", "256", "256", "--sigma", "0.5", "--radius", "0.33", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["radius"] >= 0.33
    assert plan["n"] == plan["min_n"]
    assert main(["plan", "--shape", "256", "256", "--radius", "-1"]) == 2


def test_plan_measures_the_time_of_a_bundle(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--shape", "32", "32", "--bundle", str(tiny), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 0
