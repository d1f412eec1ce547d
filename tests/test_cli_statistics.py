# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The choices of statistics on the command line, and what results record of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import io

from monai_cert.bundle import load_bundle
from monai_cert.certificate import ABSTAIN, Certificate, classes_from_disk
from monai_cert.cli import main
from monai_cert.provenance import weights_sha256
from tiny import SIDE, N


def certify(tiny: Path, output: Path, *arguments: object) -> dict[str, Any]:
    """Certify the phantom and give its record."""
    options = ("--bundle", tiny, "--output", output, "--seed", 0, *arguments)
    assert main(["certify", *map(str, options)]) == 0
    return json.loads((output / "phantom.json").read_text())


def test_sequential_draws_are_recorded(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = certify(
        tiny, tmp_path, "--sequential", "--looks", 55, 60, 70, "--stop", 1, "--boundaries", "equal", "--json"
    )
    assert (record["looks"], record["boundaries"], record["stop"], record["n"]) == ([55, 60, 70], "equal", 1, 55)
    report = json.loads(capsys.readouterr().out)
    assert report["inputs"][0]["draws"] == 55
    assert (report["settings"]["looks"], report["settings"]["n"]) == ([55, 60, 70], 70)


def test_tolerated_pixels_and_randomization_are_recorded(tiny: Path, tmp_path: Path) -> None:
    record = certify(tiny, tmp_path, "--n", N, "--correction", "generalized_holm", "--k", 5, "--randomized")
    assert (record["error"], record["tolerated"], record["correction"]) == ("k-family-wise", 4, "generalized_holm")
    assert record["randomized"]
    assert "all but at most 4 of the" in record["statement"]


def test_what_a_configuration_sets_is_not_undone_by_options_that_were_not_given(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = {
        "seed": 7,
        "batch_size": 5,
        "denoise": False,
        "randomized": True,
        "test": "$monai_cert.SplitTest(12)",
        "correction": "$monai_cert.bonferroni",
    }
    (tmp_path / "own.json").write_text(json.dumps(overlay))
    options = ["--bundle", tiny, "--config", tmp_path / "own.json", "--n", N, "--json"]
    assert main(["certify", *map(str, options), "--output", str(tmp_path / "out")]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    record = json.loads((tmp_path / "out" / "phantom.json").read_text())
    for found in (settings, record | record["provenance"]):
        assert [found[name] for name in ("seed", "batch_size", "n0", "test", "correction", "randomized")] == [
            *(7, 5, 12, "split", "bonferroni", True)
        ]
    plain = load_bundle(tiny, device="cpu").network
    assert record["provenance"]["weights_sha256"] == weights_sha256([plain])  # no denoiser among the networks
    assert main(["certify", *map(str, options), "--seed", "8", "--output", str(tmp_path / "other")]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["seed"] == 8


def test_only_the_mask_is_tested(tiny: Path, tmp_path: Path) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:32] = 255
    io.imsave(tmp_path / "mask.png", mask, check_contrast=False)
    record = certify(tiny, tmp_path / "out", "--n", N, "--mask", tmp_path / "mask.png")
    assert record["tested"] == SIDE * SIDE // 2
    assert record["hypotheses"].startswith("mask file, sha256 ")
    classes = classes_from_disk(io.imread(tmp_path / "out" / "phantom_classes.png"))
    assert (classes[SIDE // 2 :] == ABSTAIN).all()
    borders = certify(tiny, tmp_path / "out", "--n", N, "--mask", "borders")
    assert borders["hypotheses"].startswith("outside dark borders")


def test_groups_of_a_hierarchy_are_written_beside_the_classes(tiny: Path, tmp_path: Path) -> None:
    overlay = {
        "class_names": ["background", "right", "left"],
        "hierarchy": {"lungs": ["right", "left"]},
        "network_def#out_channels": 3,
        "weights": str(tmp_path / "three.pt"),
    }
    three_classes(tmp_path / "three.pt")
    (tmp_path / "three.json").write_text(json.dumps(overlay))
    certify(tiny, tmp_path / "out", "--n", N, "--config", tmp_path / "three.json")
    classes, nodes = (
        classes_from_disk(io.imread(tmp_path / "out" / f"phantom_{name}.png")) for name in ("classes", "nodes")
    )
    certificate = Certificate.from_json((tmp_path / "out" / "phantom.json").read_text(), classes, nodes)
    assert certificate.hierarchy is not None
    assert certificate.hierarchy.names == ("background", "right", "left", "lungs")
    assert ((nodes == classes) | ((classes == ABSTAIN) & np.isin(nodes, (ABSTAIN, 3)))).all()


def three_classes(path: Path) -> None:
    import torch
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    network = UNet(spatial_dims=2, in_channels=1, out_channels=3, channels=(4, 8), strides=(2,))
    torch.save(network.state_dict(), path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sequential", "--n", "100"), "--sequential finds the number of draws"),
        (("--sequential", "--looks", "9", "5"), "looks must be rising"),
        (("--sequential", "--stop", "2"), "stop is a share"),
        (("--sequential", "--looks", "5", "9"), "cannot certify any of"),
        (("--mask", "absent.png"), "absent.png"),
        (("--looks", "60", "70"), "--looks goes with --sequential"),
        (("--stop", "0.5"), "--stop goes with --sequential"),
        (("--boundaries", "equal"), "--boundaries goes with --sequential"),
        (("--n0", "5"), "--n0 goes with --test split"),
        (("--k", "5"), "--k goes with --correction generalized_holm"),
    ],
)
def test_wrong_choices_are_refused(
    arguments: tuple[str, ...], message: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", "--bundle", str(tiny), "--output", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_plan_knows_the_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--shape", "256", "256", "--sequential", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["looks"] == [72, 96, 128, 200, 320, 500, 1000]
    assert plan["votes_needed_at_looks"] == [72, 94, 122, 183, 282, 429, 827]
    certified = [fate["certified"] for fate in plan["fates"]]
    draws = [fate["draws"] for fate in plan["fates"]]
    assert certified == sorted(certified)
    assert draws == sorted(draws, reverse=True)
    assert main(["plan", "--shape", "256", "256", "--n", "110"]) == 0
    assert "105 of 110" in capsys.readouterr().out
