# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""An evaluation survives what kills processes, and is the same over any number of them."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from monai_cert.cli import main
from tiny import N, make_tiny_set

COUNT = 20
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def words(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command but for its output folder."""
    root = tmp_path_factory.mktemp("data")
    make_tiny_set(root, COUNT)
    options = ("--bundle", tiny, "--dataset", "montgomery", "--data-root", root, "--n", N, "--seed", 0)
    return ["evaluate", *map(str, options), "--sigma", "0.05", "--batch-size", "10", "--no-denoise", "--output"]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run of one process."""
    folder = tmp_path_factory.mktemp("whole")
    assert main([*words, str(folder)]) == 0
    return folder


def run(words: list[str]) -> None:
    raise SystemExit(main(words))


def start(words: list[str]) -> BaseProcess:
    """A process of its own; what it imports is imported once for all of them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["monai_cert.evaluation", "monai_cert.cli"])
    process = context.Process(target=run, args=(words,))
    process.start()
    return process


def wait_for(folder: Path, count: int, alive: Callable[[], bool]) -> None:
    """Until there are so many rows."""
    while len(list((folder / "rows").glob("[!.]*"))) < count:
        assert alive()
        time.sleep(0.002)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def rows(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "rows").glob("[!.]*")}


def test_killed_at_ten_random_moments_nothing_is_lost_or_repeated(
    words: list[str], whole: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    an_image = json.loads((whole / "results.json").read_text())["seconds"] / COUNT
    (tmp_path / "rows").mkdir()
    kept: dict[str, bytes] = {}
    for attempt in range(10):
        process = start([*words, str(tmp_path)])
        if attempt >= 2:  # the first two die before or while anything is loaded
            wait_for(tmp_path, len(kept) + 1, process.is_alive)
        time.sleep(rng.uniform(0, an_image))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        found = rows(tmp_path)
        assert kept.items() <= found.items()
        assert all(json.loads(content)["status"] == "ok" for content in found.values())
        kept = found
    assert 8 <= len(kept) < COUNT, "it was killed while it worked, and went on each time"
    process = start([*words, str(tmp_path)])
    process.join()
    assert process.exitcode == 0
    assert table(tmp_path) == table(whole)
    assert kept.items() <= rows(tmp_path).items()
    with (tmp_path / "results.csv").open() as file:
        seconds = {row["id"]: float(row["seconds"]) for row in csv.DictReader(file)}
    for content in kept.values():
        assert json.loads(content)["figures"]["seconds"] == seconds[json.loads(content)["id"]]
    assert not list(tmp_path.rglob(".*"))


def test_sigterm_is_as_control_c(words: list[str], whole: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    process = start([*words, str(tmp_path)])
    wait_for(tmp_path, 1, process.is_alive)
    process.terminate()
    process.join()
    assert process.exitcode == 1
    done = table(tmp_path)
    assert len(done) == len(rows(tmp_path)) < COUNT
    assert [row for row in table(whole) if row in done] == done


@pytest.fixture
def torchrun(words: list[str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts two processes; ends them if the test fails."""
    started: list[subprocess.Popen[str]] = []

    def start_two(*options: str) -> subprocess.Popen[str]:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options]
        places = [str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places)), "OMP_NUM_THREADS": "1"}
        command = [*launch, "-m", "--", "monai_cert", *words, str(tmp_path), "--json"]  # torchrun takes --n for its own
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield start_two
    for process in started:
        process.terminate()
        process.wait()


def test_two_processes_find_what_one_finds_and_one_speaks_for_both(
    torchrun: Callable[..., subprocess.Popen[str]], whole: Path, tmp_path: Path
) -> None:
    process = torchrun()
    out, error = process.communicate()
    assert process.returncode == 0, error
    assert table(tmp_path) == table(whole)
    found, alone = json.loads(out), json.loads((whole / "results.json").read_text())
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert (found["processes"], alone["processes"]) == (2, 1)
    assert {json.loads(row)["rank"] for row in rows(tmp_path).values()} == {0, 1}
    for part in ("means", "standard_errors", "intervals"):
        del found[part]["seconds"], alone[part]["seconds"]
        assert found[part] == alone[part]
    told = [line.split("/")[0] for line in error.splitlines() if f"/{COUNT} phantom" in line]
    assert told == [str(number) for number in range(1, COUNT + 1)]
    assert error.count("means over") == 1


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the process in /proc")
def test_a_process_that_dies_takes_no_results_with_it(
    torchrun: Callable[..., subprocess.Popen[str]], whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    process = torchrun("--max-restarts=1")
    wait_for(tmp_path, 2, lambda: process.poll() is None)
    os.kill(child(process.pid, "RANK=1"), signal.SIGKILL)
    kept = rows(tmp_path)
    assert len(kept) < COUNT
    out, error = process.communicate()  # torchrun ends the other process and starts both again
    assert process.returncode == 0, error
    assert "images are done already" in error
    assert kept.items() <= rows(tmp_path).items()
    assert table(tmp_path) == table(whole)
    assert json.loads(out)["counts"]["done"] == COUNT


def child(parent: int, variable: str) -> int:
    """The child of a process whose environment has a variable."""
    for number in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if variable.encode() in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
            return int(number)
    raise AssertionError(f"no child with {variable}")
