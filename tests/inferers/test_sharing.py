# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Draws that two processes share: the certificate of one process, in both; errors in both, written once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from inferers.sharing_script import CASES, certificates, images, network

from monai_cert.cli import main
from monai_cert.inferers.certification import CertificationInferer
from monai_cert.inferers.sharing import ProcessGroup
from monai_cert.noise import GaussianNoise
from tiny import N

SCRIPT = Path(__file__).with_name("sharing_script.py")


def in_two_processes(*command: str) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path]),
    }
    return subprocess.run(torchrun, capture_output=True, text=True, timeout=300, env=environment, check=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("shared")
    run = in_two_processes(str(SCRIPT), str(folder))
    assert run.returncode == 0, run.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def without(record: dict[str, Any], *fields: str) -> dict[str, Any]:
    made = {name: value for name, value in record["provenance"].items() if name not in fields}
    return record | {"provenance": made}


@pytest.mark.parametrize("case", ["fixed", "split", "sequential"])
def test_two_processes_find_what_one_finds(shared: list[dict[str, Any]], case: str) -> None:
    alone = certificates(images(), network(), **CASES[case])
    assert shared[0][case] == shared[1][case]
    for ours, theirs in zip(shared[0][case], alone, strict=True):
        assert ours["votes"] == theirs["votes"]
        assert ours["areas"] == theirs["areas"]
        assert without(ours["record"], "passes", "processes") == without(theirs["record"], "passes", "processes")
        assert (ours["record"]["provenance"]["processes"], theirs["record"]["provenance"]["processes"]) == (2, 1)


@pytest.mark.parametrize("case", ["fixed", "split", "sequential"])
def test_one_process_draws_the_shared_passes_again(shared: list[dict[str, Any]], case: str) -> None:
    for image, ours in zip(images(), shared[0][case], strict=True):
        made = ours["record"]["provenance"]
        assert sum(draws * times for draws, times in made["passes"]) == ours["record"]["n"] + ours["record"]["n0"]
        (again,) = certificates(image[None], network(), **CASES[case] | {"batch_size": made["passes"]})
        assert again["votes"] == ours["votes"]
        assert again["record"]["provenance"]["passes"] == made["passes"]


def test_a_fresh_seed_is_that_of_the_first_process(shared: list[dict[str, Any]]) -> None:
    ours, theirs = (found["fresh seed"] for found in shared)
    assert ours == theirs
    first, second = (one["record"]["provenance"]["seed"] for one in ours)
    assert first != second
    again = certificates(images()[:1], network(), **CASES["fresh seed"] | {"seed": first})
    assert again[0]["votes"] == ours[0]["votes"]


def test_what_fails_in_one_process_fails_in_both_with_the_reason(shared: list[dict[str, Any]]) -> None:
    for found in shared:
        assert found["more processes than draws"].startswith("ValueError: 1 draws cannot be shared among 2 processes")
        assert found["other image"] == "ValueError: processes that share draws must have the same image; they differ"
    assert shared[1]["failing"] == "ValueError: the network gave NaN; a class cannot be read off it"
    assert shared[0]["failing"] == f"RuntimeError: process 1 of 2 failed: {shared[1]['failing'].split(': ', 1)[1]}"
    assert shared[0]["after all"] == shared[1]["after all"]
    assert len(shared[0]["after all"]) == 2


@pytest.mark.parametrize(("draws", "size"), [(10, 1), (10, 3), (2, 2), (1, 2), (0, 3)])
def test_shares_are_the_draws_in_order(draws: int, size: int) -> None:
    shares = [ProcessGroup(rank, size).share(range(draws)) for rank in range(size)]
    assert [draw for share in shares for draw in share] == list(range(draws))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_sharing_needs_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="draws can only be shared in a process group"):
        CertificationInferer(GaussianNoise(0.1), n=50, alpha=0.05, share_draws=True)(images(), network())
    with pytest.raises(ValueError, match="recorded passes are drawn again in one process"):
        CertificationInferer(GaussianNoise(0.1), n=50, batch_size=[(5, 10)], share_draws=True)


def test_the_command_line_writes_once(tiny: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    arguments = ["certify", str(picture), str(tmp_path / "empty.png"), "--bundle", str(tiny), "--n", str(N)]
    arguments += ["--seed", "3", "--batch-size", "4", "--json"]
    run = in_two_processes("-m", "--", "monai_cert", *arguments, "--share-draws", "--output", str(tmp_path / "two"))
    report = json.loads(run.stdout)
    assert [entry["status"] for entry in report["inputs"]] == ["ok", "error"]
    assert run.stderr.count("1 of 2 inputs certified") == 1
    main([*arguments, "--output", str(tmp_path / "one")])
    ours, theirs = (json.loads((tmp_path / name / "picture.json").read_text()) for name in ("two", "one"))
    assert without(ours, "passes", "processes") == without(theirs, "passes", "processes")
    assert ours["provenance"]["processes"] == 2


def test_the_command_line_refuses_to_share_alone(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert main(["certify", "--bundle", str(tiny), "--share-draws", "--output", str(tmp_path)]) == 2
    assert "start them with torchrun" in capsys.readouterr().err
