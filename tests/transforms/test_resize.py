# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Resizing gives the same pixels with any number of threads: those that MONAI gives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from monai.transforms import Resize

from monai_cert import ReproducibleResize, ReproducibleResized
from monai_cert.bundle import load_bundle
from tiny import BUNDLES

SETTINGS = {"spatial_size": (256, 256), "mode": "bilinear", "anti_aliasing": True}


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [(1, 512, 512), (3, 288, 384), (3, 512, 512), (3, 200, 300)])
def test_the_number_of_threads_does_not_change_a_bit(size: tuple[int, ...]) -> None:
    image = torch.rand(size, generator=torch.Generator().manual_seed(0))
    resized = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        resized.append(ReproducibleResize(**SETTINGS)(image))
        resized.append(ReproducibleResized(keys="image", **SETTINGS)({"image": image})["image"])
        assert torch.get_num_threads() == count
    for other in resized[1:]:
        assert torch.equal(resized[0], other)
    torch.testing.assert_close(resized[0], Resize(**SETTINGS)(image))


def test_an_error_gives_the_threads_back() -> None:
    torch.set_num_threads(3)
    with pytest.raises(ValueError, match="spatial_size"):
        ReproducibleResize(spatial_size=(8,))(torch.rand(1, 16, 16))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("name", BUNDLES)
def test_every_bundle_resizes_so(name: str) -> None:
    parser = load_bundle(name, device="cpu").parser
    for preprocessing in ("preprocessing", "labeled_preprocessing"):
        resizing = [t for t in parser.get_parsed_content(preprocessing).transforms if "image" in t.keys]
        assert isinstance(resizing[-1], ReproducibleResized)
