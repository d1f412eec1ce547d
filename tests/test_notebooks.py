# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The notebooks run from top to bottom, asserts included, and are stored as their authors' text alone."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS_A_CELL = 600

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@notebooks
def test_it_is_stored_without_outputs_and_reads_well_in_a_diff(path: Path) -> None:
    stored = json.loads(path.read_text())
    nbformat.validate(nbformat.from_dict(stored))
    assert path.read_text() == json.dumps(stored, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    assert stored["metadata"]["kernelspec"]["name"] == "python3"
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    for number, cell in enumerate(stored["cells"], start=1):
        assert cell["id"] == f"cell-{number:02d}"
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_they_are_numbered_and_their_titles_say_so() -> None:
    assert NOTEBOOKS
    for number, path in enumerate(NOTEBOOKS, start=1):
        assert re.fullmatch(rf"{number:02d}_[a-z_]+", path.stem)
        first = nbformat.read(path, as_version=4).cells[0]
        assert first.cell_type == "markdown"
        assert first.source.startswith(f"# {number}. ")


def test_the_readme_names_each() -> None:
    text = (REPOSITORY / "README.md").read_text()
    for path in NOTEBOOKS:
        assert f"(notebooks/{path.name})" in text


@notebooks
def test_it_runs_from_top_to_bottom(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # this checkout, whatever is installed
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix) / "share" / "jupyter"))  # the kernel of this interpreter
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    shown = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("image/png" in out.get("data", {}) for out in shown)
