# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Imports point downward only: the layers of CONTRIBUTING.md."""

from __future__ import annotations

import ast
from pathlib import Path

import monai_cert

PACKAGE = Path(monai_cert.__file__).parent

# A module may import from layers before its own, and from its own package (statistics, denoising, ...).
LAYERS = [
    ("statistics", "bounds", "errors", "hierarchy", "margins", "measurements", "memory"),
    ("noise", "denoising.schedule", "provenance", "evidence", "processes"),
    ("certificate", "sequential", "denoising.denoiser", "denoising.adapters", "denoising.training", "networks"),
    ("metrics", "transforms"),
    ("inferers",),
    ("data", "measuring", "report", "visualize", "attack", "logit_attack"),
    ("bundle", "result_rows"),
    ("summary",),
    ("certify_files", "evaluation", "planning"),
    ("arguments", "attack_files"),
    ("cli",),
]
SAME_LAYER_ALLOWED = {
    ("denoising.adapters", "denoising.denoiser"),
    ("denoising.training", "denoising.adapters"),
    ("measuring", "data"),
    ("report", "data"),
    ("report", "measuring"),
    ("report", "visualize"),
}


def rank(module: str) -> tuple[int, str]:
    for level, layer in enumerate(LAYERS):
        for unit in layer:
            if module == unit or module.startswith(unit + "."):
                return level, unit
    raise AssertionError(f"{module} stands in no layer")


def imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def modules() -> dict[str, Path]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        if not name.endswith("__init__") and name != "__main__":
            found[name] = file
    return found


def test_imports_point_downward() -> None:
    for module, file in modules().items():
        level, unit = rank(module)
        for name in imports(file):
            if name.startswith("monai_cert."):
                other_level, other = rank(name.removeprefix("monai_cert."))
                allowed = other_level < level or other == unit or (unit, other) in SAME_LAYER_ALLOWED
                assert allowed, f"{module} imports {name}"


def test_statistics_know_no_torch() -> None:
    for module, file in modules().items():
        if module.startswith("statistics.") or module == "margins":
            roots = {name.split(".")[0] for name in imports(file)}
            assert not roots & {"torch", "monai"}, module


def test_diffusers_is_imported_where_networks_enter_and_nowhere_else() -> None:
    users = {module for module, file in modules().items() if any(n.startswith("diffusers") for n in imports(file))}
    assert users == {"denoising.adapters", "denoising.training"}
