# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Evaluation on truth that shows nothing of a class, and on truth that is none; images of the wrong color."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from monai_cert.bundle import load_bundle
from monai_cert.cli import main
from monai_cert.evaluation import evaluate_dataset, evaluate_image
from monai_cert.summary import FIGURES
from tiny import SIDE, N

NOISE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
LUNGS = np.zeros((SIDE, SIDE), np.uint8)
LUNGS[8:24, 4:28] = 255
SETTINGS = {"device": "cpu"}


def save(path: Path, pixels: np.ndarray[Any, Any]) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def item(folder: Path, name: str, mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    image = save(folder / f"{name}.png", NOISE)
    return {"id": name, "dataset": "phantoms", "image": image, "label": [save(folder / f"{name}_mask.png", mask)]}


def test_an_image_that_shows_nothing_of_a_class_has_no_dice_and_spoils_no_mean(tiny: Path, tmp_path: Path) -> None:
    bundle = load_bundle(tiny, device="cpu", settings={"n": N})
    with torch.no_grad():  # a network that finds lungs nowhere, so that the class is absent from everything
        for parameter in bundle.network.parameters():
            parameter.zero_()
        list(bundle.network.parameters())[-1].fill_(-1.0)
    row = evaluate_image(bundle, item(tmp_path, "empty", np.zeros_like(LUNGS)))["figures"]
    assert set(row) == set(FIGURES)
    for figure in ("clean_dice", "smoothed_dice", "certified_dice", "worst_case_dice"):
        assert row[figure] is None
    assert row["certified_accuracy"] == row["certified_fraction"] == 1.0
    items = [item(tmp_path, "empty", np.zeros_like(LUNGS)), item(tmp_path, "lungs", LUNGS)]
    results = evaluate_dataset(bundle, items, SETTINGS, tmp_path, lambda line: None)
    assert results["failures"] == []
    assert (results["images"], results["means"]["certified_dice"]) == (2, 0.0)
    assert results["standard_errors"]["certified_dice"] is None
    json.dumps(results, allow_nan=False)
    (tmp_path / "alone").mkdir()
    alone = evaluate_dataset(bundle, items[:1], SETTINGS, tmp_path / "alone", lambda line: None)
    assert alone["means"]["certified_dice"] is None


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (NOISE, "film_mask.png is no mask, it holds more than two values"),
        (LUNGS[:, :-2], f"film_mask.png is {SIDE} x {SIDE - 2} pixels where its image .*film.png is {SIDE} x {SIDE};"),
        (np.stack([LUNGS, NOISE, LUNGS], axis=-1), "film_mask.png has three channels .color. where one channel"),
    ],
    ids=["a photograph", "another size", "color"],
)
def test_truth_that_is_none_is_one_sentence_and_the_others_are_evaluated(
    tiny: Path, tmp_path: Path, mask: np.ndarray[Any, Any], words: str
) -> None:
    bundle = load_bundle(tiny, device="cpu", settings={"n": N})
    items = [item(tmp_path, "film", mask), item(tmp_path, "lungs", LUNGS)]
    results = evaluate_dataset(bundle, items, SETTINGS, tmp_path, lambda line: None)
    assert results["images"] == 1
    (failure,) = results["failures"]
    assert failure["id"] == "film"
    assert "\n" not in failure["error"]
    assert re.search(words, failure["error"])


def test_a_color_photograph_in_a_bundle_for_grey_images_is_one_sentence_with_the_mend(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = save(tmp_path / "mole.jpg", np.stack([NOISE, LUNGS, LUNGS], axis=-1))
    output = ["--bundle", str(tiny), "--output", str(tmp_path / "out"), "--json"]
    assert main(["certify", photograph, *output]) == 1
    (entry,) = json.loads(capsys.readouterr().out)["inputs"]
    assert entry["error"] == (
        f"{photograph} has three channels (color) where one channel (grey) is wanted; "
        "convert it to grey, or take a bundle for color images"
    )
