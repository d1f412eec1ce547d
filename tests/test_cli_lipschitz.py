# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The command line with a Lipschitz network: its bound, its certificates, and what has no meaning without noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from skimage import io

from monai_cert.certificate import Certificate, classes_from_disk
from monai_cert.cli import main
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
    assert certify(bundle, tmp_path, picture, "--json") == 0
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
    ],
)
def test_what_only_noise_has_is_refused(
    bundle: Path, picture: Path, tmp_path: Path, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert certify(bundle, tmp_path, picture, *option) == 2
    assert f"{option[0]} goes with smoothing" in capsys.readouterr().err


def test_attack_is_refused(bundle: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["attack", picture, "--bundle", bundle, "--config", CONFIG, "--output", tmp_path]
    assert main([str(a) for a in arguments]) == 2
    assert "has no votes to judge" in capsys.readouterr().err


def test_evaluate_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_set(tmp_path, 1)
    output = tmp_path / "results"
    arguments = ["evaluate", "--dataset", "montgomery", "--data-root", tmp_path, "--output", output]
    assert main([str(a) for a in [*arguments, "--bundle", bundle, "--config", CONFIG]]) == 2
    assert "evaluate takes certificates of smoothing" in capsys.readouterr().err
    assert not output.exists()


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
