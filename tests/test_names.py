# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""No public name of ours may equal one of MONAI's: bundle configurations resolve short names over both."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from monai.bundle import ComponentLocator

import monai_cert


def public_objects() -> dict[str, str]:
    """Name and module of every class and function that is defined in the package."""
    found: dict[str, str] = {}
    for info in pkgutil.walk_packages(monai_cert.__path__, "monai_cert."):
        if info.name.endswith("__main__") or ".bundles" in info.name:
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == info.name and not name.startswith("_")
            if own and (inspect.isclass(value) or inspect.isfunction(value)):
                found[name] = info.name
    return found


def test_no_name_of_ours_is_one_of_monais() -> None:
    components = ComponentLocator(excludes=["monai_cert"]).get_component_module_name
    assert components("SpatialPad"), "the locator finds MONAI's names at all"
    clashes = {name: module for name, module in public_objects().items() if components(name)}
    assert not clashes


def test_the_flat_names_are_the_defined_ones() -> None:
    for name, module in public_objects().items():
        if name in monai_cert.__all__:
            assert getattr(monai_cert, name) is getattr(importlib.import_module(module), name)
