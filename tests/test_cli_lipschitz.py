# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The command line with a Lipschitz network: its bound, its certificates, and what has no meaning without noise."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from skimage import io

from monai_cert.bundle import load_bundle
from monai_cert.certificate import Certificate, classes_from_disk
from monai_cert.cli import main
from monai_cert.data.public_sets import public_datalist
from monai_cert.margins import budget, pixel_dice
from monai_cert.networks.segmenter import LipschitzSegmenter
from tiny import SIDE, make_tiny_bundle, make_tiny_set

CONFIG = "inference_lipschitz.json"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle whose Lipschitz network is tiny too."""
    folder = make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny_certified_segmentation")
    file = folder / "configs" / CONFIG
    config = json.loads(file.read_text())
    config["network_def"] |= {"channels": [8, 8], "depths": [1, 1]}
    # Random weights have small margins.
    config["radius"] = 0.001
    file.write_text(json.dumps(config))
    torch.manual_seed(0)
    network = LipschitzSegmenter(channels=(8, 8), depths=(1, 1))
    torch.save(network.state_dict(), folder / "models" / "lipschitz.pt")
    return folder


def certify(bundle: Path, output: Path, *arguments: object) -> int:
    options = ("--bundle", bundle, "--config", CONFIG, "--output", output)
    return main(["certify", *map(str, options), *map(str, arguments)])


def test_certify_writes_what_it_writes_for_smoothing(
    bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(bundle, tmp_path / "out", picture, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["lipschitz_constant"] > 0
    entry = report["inputs"][0]
    assert (entry["status"], entry["draws"], entry["radius"]) == ("ok", 1, 0.001)
    outputs = {kind: Path(path) for kind, path in entry["outputs"].items()}
    radii = tifffile.imread(outputs["radius"])
    claim = Certificate.from_json(
        outputs["certificate"].read_text(), classes_from_disk(io.imread(outputs["classes"])), None, radii
    )
    assert claim.kind == "deterministic"
    assert radii.shape == (SIDE, SIDE)
    assert len(np.unique(radii)) > 10
    assert (radii[radii > 0] >= np.float32(0.001)).all()
    assert io.imread(outputs["overlay"]).shape[2] in (3, 4)


@pytest.mark.parametrize(
    "option",
    [
        *(("--sigma", "0.5"), ("--n", "100"), ("--seed", "0"), ("--sequential",), ("--mask", "borders")),
        *(("--radius-map",), ("--measure", "area"), ("--test", "split"), ("--correction", "bonferroni")),
        *(("--batch-size", "4"), ("--compile",), ("--randomized",)),
    ],
)
def test_what_only_noise_has_is_refused(
    bundle: Path, picture: Path, tmp_path: Path, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(bundle, tmp_path / "out", picture, *option) == 2
    assert f"{option[0]} goes with smoothing" in capsys.readouterr().err


def test_attack_is_refused(bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["attack", picture, "--bundle", bundle, "--config", CONFIG, "--output", tmp_path / "out"]
    assert main([str(a) for a in arguments]) == 2
    assert "has no votes to judge" in capsys.readouterr().err


def evaluate(bundle: Path, data_root: Path, output: Path, *arguments: str) -> int:
    options = ["--dataset", "montgomery", "--data-root", data_root, "--output", output]
    return main(["evaluate", *map(str, [*options, "--bundle", bundle, "--config", CONFIG]), *arguments])


def test_evaluate_tells_the_worst_case_of_one_budget_and_goes_on(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_set(tmp_path, 3)
    assert evaluate(bundle, tmp_path, tmp_path / "results", "--limit", "2") == 0
    assert evaluate(bundle, tmp_path, tmp_path / "results", "--json") == 0
    captured = capsys.readouterr()
    assert "2 of 3 images are done already" in captured.err
    results = json.loads(captured.out)
    means = results["means"]
    assert results["settings"]["lipschitz_constant"] > 0
    assert means["smoothed_dice"] is None
    assert means["worst_case_dice"] <= means["dice_under_attack"] < means["clean_dice"]
    assert (means["draws"], means["certified_median_dice"]) == (1, None)
    loaded = load_bundle(bundle, configs=[CONFIG], device="cpu")
    with (tmp_path / "results" / "results.csv").open() as file:
        told = {row["id"]: float(row["dice_under_attack"]) for row in csv.DictReader(file)}
    for item in public_datalist("montgomery", tmp_path, tmp_path / "splits.csv", "test"):
        data = loaded.parser.get_parsed_content("labeled_preprocessing")(item)
        sample = loaded.inferer.sample(data["image"][None], loaded.network)[0]
        spent = budget(sample.constant, 0.001, sample.rounding)
        worst = pixel_dice(sample.logits, data["label"][0].numpy().astype(int), 1).worst(spent)
        assert told[item["id"]] == pytest.approx(worst, abs=1e-9)


def test_evaluate_refuses_what_only_smoothing_has(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_set(tmp_path, 1)
    assert evaluate(bundle, tmp_path, tmp_path / "results", "--no-denoise") == 2
    assert "--no-denoise goes with smoothing" in capsys.readouterr().err


def test_lipschitz_prints_the_bound_layer_by_layer(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(bundle / "models" / "lipschitz.pt")
    assert main(["lipschitz", checkpoint]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("Conv2d" in line for line in lines) == 6
    assert any("Lipschitz constant at most" in line for line in lines)
    assert main(["lipschitz", checkpoint, "--json"]) == 0
    bound = json.loads(capsys.readouterr().out)
    skip = next(layer for layer in bound["layers"] if layer["inside"])
    outer = np.prod([layer["constant"] for layer in bound["layers"]])
    assert bound["constant"] == pytest.approx(outer)
    assert skip["constant"] == pytest.approx(max(1, np.prod([layer["constant"] for layer in skip["inside"]])))


def test_lipschitz_refuses_what_is_no_such_checkpoint(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.pt").write_text("text")
    for file in (tmp_path / "missing.pt", tmp_path / "text.pt", bundle / "models" / "model.pt"):
        assert main(["lipschitz", str(file)]) == 2
        assert file.name in capsys.readouterr().err
