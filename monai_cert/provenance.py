# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Digests, versions, hardware: what a record needs so that its votes can be drawn again, and its times understood."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

__all__ = ["hardware", "network_sha256", "package_versions", "weights_sha256"]


def weights_sha256(modules: Iterable[nn.Module]) -> str:
    """SHA-256 of the names, types, shapes and values of all parameters and buffers of some modules, in order."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def network_sha256(network: nn.Module, weights: str | None = None) -> str:
    """SHA-256 of a network's weights and of its layers: their names, classes, settings as printed, and hooks, in order.

    Two networks of one digest compute the same, as far as their layers print all their settings, as those of torch do.

    Args:
        network: the network.
        weights: its `weights_sha256`, where it is known already.
    """
    digest = hashlib.sha256((weights or weights_sha256([network])).encode())
    for name, part in network.named_modules(remove_duplicate=False):
        kind = type(part)
        hooks = len(part._forward_hooks) + len(part._forward_pre_hooks) + ("forward" in vars(part))
        digest.update(f"\n{name} {kind.__module__}.{kind.__qualname__} {part.extra_repr()} {hooks}".encode())
    return digest.hexdigest()


@cache
def package_versions() -> Mapping[str, str]:
    """Versions of the packages that take part in a certificate."""
    return {name: metadata.version(name) for name in ("monai_cert", "monai", "torch", "numpy", "scipy")}


def hardware(device: torch.device) -> dict[str, str | int | None]:
    """What a process computes on: the CPU's model, its logical ``cores``, torch's ``threads``, and the GPU's name."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


@cache
def _cpu_model() -> str:
    """As Linux tells it, else as Python does."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
