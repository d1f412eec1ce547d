# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Settings and fixtures of all tests: the folder of real images, where there is one, a tiny bundle, a picture."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from skimage import io

from tiny import make_tiny_bundle

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Workers, and the processes that tests start, share the cores instead of each taking all of them.
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)

# The same examples in every run, however busy the machine.
settings.register_profile("monai_cert", derandomize=True, deadline=None, database=None)
settings.load_profile("monai_cert")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real images: MONAI_CERT_DATA, else ../shared/data; skips where there is none."""
    folder = Path(os.environ.get("MONAI_CERT_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "splits.csv").is_file():
        pytest.skip(f"no real images: {folder} has no splits.csv; set MONAI_CERT_DATA to the folder that has it")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny bundle."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny_certified_segmentation")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A gray picture of noise, 48 x 40."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40), dtype=np.uint8)
    io.imsave(tmp_path / "picture.png", pixels, check_contrast=False)
    return tmp_path / "picture.png"
