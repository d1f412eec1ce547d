# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Digests and versions: what a record needs so that its votes can be drawn again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata

import torch
from torch import nn

__all__ = ["package_versions", "weights_sha256"]


def weights_sha256(modules: Iterable[nn.Module]) -> str:
    """SHA-256 of the names, types, shapes and values of all parameters and buffers of some modules, in order."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@cache
def package_versions() -> Mapping[str, str]:
    """Versions of the packages that take part in a certificate."""
    return {name: metadata.version(name) for name in ("monai_cert", "monai", "torch", "numpy", "scipy")}
