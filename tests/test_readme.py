# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The README's Python blocks run, and its commands name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {number}" for number in range(1, len(BLOCKS) + 1)])
def test_python_blocks_run(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_both_commands_are_there() -> None:
    text = README.read_text()
    for command in ("run", "test"):
        assert re.search(rf"<!-- command: {command} -->\n```bash\n.+\n```", text)


def test_linked_files_exist() -> None:
    for link in re.findall(r"\]\(([^)]+)\)", README.read_text()):
        if not link.startswith("http"):
            assert (README.parent / link).exists(), link
