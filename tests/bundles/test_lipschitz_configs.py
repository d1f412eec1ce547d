# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The recipes of Lipschitz networks in all bundles: what trains is what runs, and it trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import io

from monai_cert import chest_phantom
from monai_cert.networks.segmenter import LipschitzSegmenter, bound_of_checkpoint

BUNDLES = Path(__file__).parents[2] / "bundles"
ROOTS = sorted(file.parents[1] for file in BUNDLES.glob("*/configs/train_lipschitz.json"))
CHEST = BUNDLES / "chest_xray_lung_certified_segmentation"


def test_every_bundle_has_a_recipe() -> None:
    assert len(ROOTS) == 3


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.name)
def test_the_network_of_training_is_the_one_of_inference_and_small(root: Path) -> None:
    files = [root / "configs" / f"{name}_lipschitz.json" for name in ("train", "inference")]
    for file in files:
        assert file.read_text() == json.dumps(json.loads(file.read_text()), indent=4) + "\n"
    training, inference = (json.loads(file.read_text())["network_def"] for file in files)
    assert training == inference | {"orthogonal": True}
    image = json.loads((root / "configs" / "train.json").read_text())["network_def"]
    assert (training["in_channels"], training["out_channels"]) == (image["in_channels"], image["out_channels"])
    settings = {name: value for name, value in inference.items() if name != "_target_"}
    weights = sum(parameter.numel() * 4 for parameter in LipschitzSegmenter(**settings).parameters())
    assert weights < 3 * 2**20


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.name)
def test_the_weights_are_those_of_the_configuration(root: Path) -> None:
    checkpoint = root / "models" / "lipschitz.pt"
    settings = json.loads((root / "configs" / "inference_lipschitz.json").read_text())["network_def"]
    del settings["_target_"]
    network = LipschitzSegmenter.of_state(torch.load(checkpoint, weights_only=True))
    stored = json.loads(json.dumps(network.settings))
    assert {name: stored[name] for name in settings} == settings


def test_the_chest_network_trains_and_is_exported(tmp_path: Path) -> None:
    rows = ["dataset,id,split"]
    for number in range(3):
        image, label = chest_phantom(64, seed=number)
        lungs = label * np.uint8(255)
        left, right = lungs.copy(), lungs.copy()
        left[:, :32], right[:, 32:] = 0, 0
        film = np.round(image[0] * 255).astype(np.uint8)
        for name, pixels in {
            f"MontgomerySet/CXR_png/m{number}.png": film,
            f"MontgomerySet/ManualMask/leftMask/m{number}.png": left,
            f"MontgomerySet/ManualMask/rightMask/m{number}.png": right,
            f"ChinaSet_AllFiles/CXR_png/s{number}.png": film,
            f"ChinaSet_AllFiles/mask/s{number}_mask.png": lungs,
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            io.imsave(tmp_path / name, pixels, check_contrast=False)
        split = "val" if number == 2 else "train"
        rows += [f"montgomery,m{number},{split}", f"shenzhen,s{number},{split}"]
    (tmp_path / "splits.csv").write_text("\n".join(rows) + "\n")
    files = "[" + ",".join(f"'{CHEST}/configs/{name}.json'" for name in ("train", "train_lipschitz")) + "]"
    options = {"dataset_dir": tmp_path, "ckpt_dir": tmp_path, "max_epochs": 1, "batch_size": 2, "bundle_root": CHEST}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command += ["--train#handlers#1#interval", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert 1 <= bound_of_checkpoint(tmp_path / "lipschitz.pt").constant < 1.01
