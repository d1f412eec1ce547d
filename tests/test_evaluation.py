# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""An evaluation can be stopped and continued, never mixes results that were made differently, and says what it did."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from monai_cert import evaluation
from monai_cert.cli import main
from monai_cert.result_rows import OtherRunError, ResultRows, differences
from tiny import N, make_tiny_set

COUNT = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set, which no test changes."""
    root = tmp_path_factory.mktemp("data")
    make_tiny_set(root, COUNT)
    return root


def evaluate(tiny: Path, data: Path, output: Path, *arguments: object) -> int:
    options: dict[str, object] = {
        "--bundle": tiny,
        "--dataset": "montgomery",
        "--data-root": data,
        "--output": output,
        "--n": N,
        "--seed": 0,
        "--batch-size": 10,
    }
    words = [str(word) for pair in options.items() for word in pair]
    return main(["evaluate", *words, "--no-denoise", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tiny: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run, which no test changes."""
    folder = tmp_path_factory.mktemp("whole")
    assert evaluate(tiny, data, folder) == 0
    return folder


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed run."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def table(folder: Path) -> list[dict[str, str]]:
    """``results.csv`` without the column that no two runs share."""
    with (folder / "results.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = strict((folder / "results.json").read_text())
    return loaded


def rows(folder: Path) -> list[Path]:
    return sorted((folder / "rows").iterdir())


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def computed(*arguments: object) -> None:
        raise AssertionError("an image was certified")

    monkeypatch.setattr(evaluation, "evaluate_image", computed)


def stop_after(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Ctrl-C in the image after so many."""
    certify, calls = evaluation.evaluate_image, iter(range(images))

    def interrupted(*arguments: Any) -> dict[str, Any]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return certify(*arguments)

    monkeypatch.setattr(evaluation, "evaluate_image", interrupted)


def test_results_say_what_was_done_on_what_and_how_sure_the_means_are(whole: Path) -> None:
    found = results(whole)
    assert (found["format"], found["images"], found["processes"]) == (1, COUNT, 1)
    assert found["counts"] == {"asked": COUNT, "done": COUNT, "failed": 0, "not_done": 0, "left_out": 0}
    assert found["started"] <= found["finished"]
    assert found["hardware"][0]["threads"] == torch.get_num_threads()
    assert len(found["weights_sha256"]) == len(found["configuration_sha256"]) == 64
    assert found["settings"]["dataset"] == "montgomery"
    with (whole / "results.csv").open() as file:
        read = list(csv.DictReader(file))
    assert found["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in read))
    for name, mean in found["means"].items():
        values = np.array([float(row[name]) for row in read])
        if name == "dice_under_attack":  # of Lipschitz networks alone
            assert np.isnan(values).all()
            assert mean is found["intervals"][name] is None
            continue
        assert mean == pytest.approx(values.mean())
        if np.ptp(values) == 0:
            assert found["intervals"][name] is None
            continue
        expected = stats.bootstrap((values,), np.mean, method="BCa", random_state=np.random.default_rng(0))
        assert found["intervals"][name]["method"] == "BCa"
        assert found["intervals"][name]["low"] == pytest.approx(expected.confidence_interval.low)
        assert found["intervals"][name]["high"] == pytest.approx(expected.confidence_interval.high)
    assert found["intervals"]["draws"] is None
    assert found["intervals"]["seconds"]["low"] < found["means"]["seconds"] < found["intervals"]["seconds"]["high"]


def test_one_image_has_no_interval_and_an_image_without_a_class_no_dice(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_set(tmp_path, 1)
    state = {name: torch.zeros_like(value) for name, value in torch.load(tiny / "models" / "model.pt").items()}
    blind = Path(shutil.copytree(tiny, tmp_path / "blind_certified_segmentation"))
    for name in [name for name in state if name.endswith("bias")]:
        state[name] -= 1
    torch.save(state, blind / "models" / "model.pt")
    for mask in (tmp_path / "MontgomerySet" / "ManualMask").rglob("*.png"):
        from PIL import Image

        Image.new("L", (8, 8)).resize(Image.open(mask).size).save(mask)
    assert evaluate(blind, tmp_path, tmp_path / "out", "--json") == 0
    found = strict(capsys.readouterr().out)
    assert found == results(tmp_path / "out")
    assert found["means"]["certified_dice"] is None
    assert set(found["intervals"].values()) == {None}
    assert table(tmp_path / "out")[0]["certified_dice"] == "nan"


def test_running_again_computes_nothing_and_changes_no_result(
    tiny: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(out)
    forbid(monkeypatch)
    assert evaluate(tiny, data, out) == 0
    assert f"all {COUNT} images are done already; nothing was computed" in capsys.readouterr().err
    after = contents(out)
    assert {name: content for name, (content, _) in after.items()} == {n: content for n, (content, _) in before.items()}
    assert all(after[name] == before[name] for name in before if name.startswith("rows") or name == "run.json")


@pytest.mark.parametrize("images", range(COUNT))
def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been_stopped(
    tiny: Path, data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], images: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, images)
        assert evaluate(tiny, data, tmp_path) == 1
    assert "stopped" in capsys.readouterr().err
    assert results(tmp_path)["counts"]["not_done"] == COUNT - images
    kept = {file.name: file.read_bytes() for file in rows(tmp_path)}
    assert len(kept) == images
    assert evaluate(tiny, data, tmp_path) == 0
    assert kept.items() <= {file.name: file.read_bytes() for file in rows(tmp_path)}.items()
    assert table(tmp_path) == table(whole)
    same = [key for key in results(whole) if key not in ("started", "finished", "seconds")]
    theirs, ours = results(whole), results(tmp_path)
    for found in (theirs, ours):
        for part in ("means", "standard_errors", "intervals"):
            del found[part]["seconds"]
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


def test_the_time_left_is_told(tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tiny, data, tmp_path) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(tuple("1234"))]
    assert [line.split()[0] for line in lines] == [f"{number}/{COUNT}" for number in range(1, COUNT + 1)]
    assert all(line.endswith("left") for line in lines)
    assert lines[-1].endswith(" 0 s left")


def test_the_limit_may_grow(tiny: Path, data: Path, whole: Path, tmp_path: Path) -> None:
    assert evaluate(tiny, data, tmp_path, "--limit", 2) == 0
    assert table(tmp_path) == table(whole)[:2]
    kept = {file.name: file.read_bytes() for file in rows(tmp_path)}
    assert evaluate(tiny, data, tmp_path, "--limit", COUNT) == 0
    assert table(tmp_path) == table(whole)
    assert kept.items() <= {file.name: file.read_bytes() for file in rows(tmp_path)}.items()
    assert results(tmp_path)["settings"]["limit"] == COUNT


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sigma", 0.5], "sigma (0.25, now 0.5);"),
        (["--tau", 0.6], "tau (0.75, now 0.6);"),
        (["--alpha", 0.01], "alpha (0.001, now 0.01);"),
        (["--n", 60], f"n ({N}, now 60)"),
        (["--test", "split"], "test (joint, now split)"),
        (["--correction", "bonferroni"], "correction (holm, now bonferroni);"),
        (["--correction", "generalized_holm", "--k", 3], "tolerated (0, now 2)"),
        (["--seed", 1], "seed (0, now 1);"),
        (["--randomized"], "randomized (False, now True);"),
        (["--mask", "borders"], "hypotheses (all, now outside dark borders (level 0.02));"),
        (["--batch-size", 5], "batch_size (10, now 5);"),
        (["--autocast", "bfloat16"], "autocast (None, now bfloat16);"),
    ],
)
def test_a_changed_setting_is_refused_by_name_and_nothing_is_touched(
    tiny: Path,
    data: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[object],
    words: str,
) -> None:
    assert_refused(tiny, data, out, words, monkeypatch, capsys, *arguments)


def assert_refused(
    bundle: Path,
    data: Path,
    out: Path,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *arguments: object,
) -> None:
    before = contents(out)
    forbid(monkeypatch)
    capsys.readouterr()
    assert evaluate(bundle, data, out, *arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "holds results already" in error
    assert "give another folder with --output" in error
    assert error.count("\n") == 1
    assert contents(out) == before


def change_weights(bundle: Path) -> None:
    file = bundle / "models" / "model.pt"
    state = torch.load(file)
    next(iter(state.values())).mul_(1.001)
    torch.save(state, file)


def change_configuration(bundle: Path) -> None:
    file = bundle / "configs" / "inference.json"
    file.write_text(file.read_text().replace('"anti_aliasing": true', '"anti_aliasing": false'))


def change_schedule(bundle: Path) -> None:
    file = bundle / "models" / "denoiser" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_end": 0.03}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_weights, "weights_sha256;"),
        (change_configuration, "configuration_sha256;"),
        (change_schedule, "configuration_sha256;"),
    ],
)
def test_a_changed_bundle_is_refused(
    tiny: Path,
    data: Path,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    words: str,
) -> None:
    changed = Path(shutil.copytree(tiny, tmp_path / tiny.name))
    change(changed)
    assert_refused(changed, data, out, words, monkeypatch, capsys)


@pytest.mark.parametrize(("part", "word"), [("CXR_png", "image"), ("ManualMask/leftMask", "label")])
def test_a_changed_image_or_mask_is_refused(
    tiny: Path,
    data: Path,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
    word: str,
) -> None:
    changed = Path(shutil.copytree(data, tmp_path / "data"))
    with (changed / "MontgomerySet" / part / "phantom_02.png").open("ab") as file:
        file.write(b"\0")
    assert_refused(tiny, changed, out, f"{word} files of phantom_02 have changed", monkeypatch, capsys)


def test_another_split_and_another_set_are_refused(
    tiny: Path,
    data: Path,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    splits = tmp_path / "splits.csv"
    splits.write_text("dataset,id,split\nmontgomery,phantom_00,val\nkvasir_seg,a,test\n")
    words = "split (test, now val);"
    assert_refused(tiny, data, out, words, monkeypatch, capsys, "--splits", splits, "--split", "val")
    from PIL import Image

    for part in ("images", "masks"):
        (tmp_path / "Kvasir-SEG" / part).mkdir(parents=True)
        Image.new("L", (32, 32)).save(tmp_path / "Kvasir-SEG" / part / "a.jpg")
    words = "dataset (montgomery, now kvasir_seg);"
    assert_refused(tiny, tmp_path, out, words, monkeypatch, capsys, "--dataset", "kvasir_seg", "--splits", splits)


def test_another_version_is_refused(
    tiny: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = evaluation.package_versions()
    monkeypatch.setattr(evaluation, "package_versions", lambda: dict(versions) | {"monai_cert": "99"})
    words = f"monai_cert version ({versions['monai_cert']}, now 99);"
    assert_refused(tiny, data, out, words, monkeypatch, capsys)


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite_row(out: Path, **changes: object) -> None:
    """A row with changes and the digest that goes with them."""
    writer = ResultRows(out, [], json.loads((out / "run.json").read_text())["identity"])
    row = json.loads(rows(out)[0].read_text())
    del row["sha256"]
    writer.write(row | changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda out: rewrite(out / "run.json", format=2), "they have format 2, not 1"),
        (lambda out: (out / "run.json").write_text("{"), "its run.json is damaged"),
        (lambda out: rewrite(out / "run.json", identity=3), "its run.json is damaged"),
        (lambda out: (shutil.rmtree(out / "rows"), (out / "run.json").unlink()), "it has no run.json"),
        (lambda out: rewrite_row(out, format=2), "has format 2, not 1"),
        (lambda out: rewrite_row(out, run="another"), "was made with other settings than run.json says"),
    ],
)
def test_a_folder_or_row_that_was_written_otherwise_is_refused(
    tiny: Path,
    data: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    words: str,
) -> None:
    change(out)
    assert_refused(tiny, data, out, words, monkeypatch, capsys)


def swap_figure(text: str) -> str:
    row = json.loads(text)
    row["figures"]["certified_dice"] = 1.0
    return json.dumps(row)


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: "", lambda text: "[]", swap_figure])
def test_a_damaged_row_is_named_and_done_again(
    tiny: Path,
    data: Path,
    whole: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[str], str],
) -> None:
    file = rows(out)[0]
    name = json.loads(file.read_text())["id"]
    file.write_text(damage(file.read_text()))
    assert evaluate(tiny, data, out) == 0
    error = capsys.readouterr().err
    assert f"{file} is damaged; {name} is done again" in error
    assert f"{COUNT - 1} of {COUNT} images are done already" in error
    assert table(out) == table(whole)


def test_what_killed_writes_left_behind_is_removed_and_nothing_else(tiny: Path, data: Path, out: Path) -> None:
    left = [out / ".results.csv.0123abcd", out / ".run.json.00000000", out / "rows" / f".{rows(out)[0].name}.89abcdef"]
    foreign = [out / ".hidden", out / "rows" / "notes.txt"]
    for file in left + foreign:
        file.write_text('{"half')
    assert evaluate(tiny, data, out) == 0
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in foreign)


def test_an_image_that_failed_is_tried_again(
    tiny: Path, data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(data, tmp_path / "data"))
    image = broken / "MontgomerySet" / "CXR_png" / "phantom_01.png"
    good = image.read_bytes()
    for attempt in range(2):
        image.write_bytes(good[:100])
        assert evaluate(tiny, broken, tmp_path / "out") == 1
        error = capsys.readouterr().err
        assert ("all" in error.splitlines()[0]) is False, attempt
        assert "phantom_01.png" in error
        assert "1 image has no result; the same command tries it again" in error
        found = results(tmp_path / "out")
        assert found["counts"] == {"asked": COUNT, "done": COUNT - 1, "failed": 1, "not_done": 0, "left_out": 0}
        assert [failure["id"] for failure in found["failures"]] == ["phantom_01"]
    image.write_bytes(good)
    assert evaluate(tiny, broken, tmp_path / "out") == 0
    assert table(tmp_path / "out") == table(whole)
    assert results(tmp_path / "out")["failures"] == []


def test_without_a_seed_each_image_has_its_own_and_the_run_goes_on(
    tiny: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["evaluate", "--bundle", tiny, "--dataset", "montgomery", "--data-root", data, "--n", N]
    words = [*map(str, arguments), "--no-denoise", "--output", str(tmp_path)]
    assert main([*words, "--limit", "2"]) == 0
    first = {file.name: file.read_bytes() for file in rows(tmp_path)}
    assert main(words) == 0
    assert first.items() <= {file.name: file.read_bytes() for file in rows(tmp_path)}.items()
    assert len({json.loads(file.read_text())["seed"] for file in rows(tmp_path)}) == COUNT
    forbid(monkeypatch)
    assert main(words) == 0


def test_a_partial_copy_is_refused_until_that_is_asked_for(
    tiny: Path, data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Path(shutil.copytree(data, tmp_path / "data"))
    for name in ("phantom_03", "phantom_01"):
        (part / "MontgomerySet" / "CXR_png" / f"{name}.png").unlink()
    assert evaluate(tiny, part, tmp_path / "out") == 2
    assert f"2 of the {COUNT} images of montgomery/test are missing, first phantom_03" in capsys.readouterr().err
    assert evaluate(tiny, part, tmp_path / "out", "--partial") == 0
    assert "2 images of montgomery/test are not in the folder and are left out" in capsys.readouterr().err
    found = results(tmp_path / "out")
    assert (found["images"], found["counts"]["left_out"], found["settings"]["partial"]) == (COUNT - 2, 2, True)
    assert table(tmp_path / "out") == [row for row in table(whole) if row["id"] in ("phantom_02", "phantom_00")]
    assert evaluate(tiny, part, tmp_path / "one", "--partial", "--limit", 1) == 0
    assert [row["id"] for row in table(tmp_path / "one")] == ["phantom_02"]
    assert evaluate(tiny, data, tmp_path / "out") == 0, "the whole set goes on with the part's rows"
    assert table(tmp_path / "out") == table(whole)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("file", ["row", "results.csv", "results.json", "run.json"])
def test_a_full_disk_ends_the_run_with_a_sentence_and_leaves_no_half_file(
    tiny: Path,
    data: Path,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
) -> None:
    opened = Path.open
    name = rows(whole)[-1].name if file == "row" else file

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        broken = self.name.startswith(f".{name}") and "w" in mode
        return opened(Path("/dev/full") if broken else self, mode, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", full)
        assert evaluate(tiny, data, tmp_path) == 1
    error = capsys.readouterr().err
    assert "No space left" in error
    assert "Traceback" not in error
    assert not (tmp_path / name).exists()
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert evaluate(tiny, data, tmp_path) == 0
    assert table(tmp_path) == table(whole)


def test_an_unknown_set_names_the_known_ones(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tiny, data, tmp_path, "--dataset", "chestomery") == 2
    error = capsys.readouterr().err
    assert all(name in error for name in ("montgomery", "shenzhen", "jsrt", "isic2018", "cvc_clinicdb", "kvasir_seg"))


def test_without_any_result_no_means_are_told(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_set(tmp_path, 2)
    for image in (tmp_path / "MontgomerySet" / "CXR_png").iterdir():
        image.write_bytes(image.read_bytes()[:100])
    assert evaluate(tiny, tmp_path, tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert "means" not in told
    assert told.endswith("2 images have no result; the same command tries them again\n")


def test_a_file_in_the_place_of_the_rows_is_named(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows").touch()
    assert evaluate(tiny, data, tmp_path) == 2
    told = f"{tmp_path / 'rows'} is a file where the folder of results belongs; move it away"
    assert capsys.readouterr().err == f"monai-cert: {told}\n"


def test_of_another_kind_of_certificate_only_that_is_told() -> None:
    smoothing, lipschitz = {"sigma": 0.25, "n": 100}, {"lipschitz_constant": 1.0, "dtype": "float32"}
    assert differences(smoothing, lipschitz) == (
        "the kind of their certificates (of smoothing, now of a Lipschitz network)"
    )
    assert differences(lipschitz, lipschitz | {"lipschitz_constant": 2.0}) == "lipschitz_constant (1.0, now 2.0)"


def test_ids_are_never_paths_and_never_shared(tmp_path: Path) -> None:
    strange = ["../../etc/passwd", "/etc/passwd", "a" * 400, "con.", "", "a/b", "A/B", "ä\0"]
    files = {ResultRows(tmp_path, strange, {}).path(image) for image in strange}
    assert len(files) == len(strange)
    assert {file.parent for file in files} == {tmp_path / "rows"}
    with pytest.raises(OtherRunError, match="two images have the id 'a'"):
        ResultRows(tmp_path, ["a", "b", "a"], {})
