# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The bundles' recipes for training and evaluation run, on a few phantoms in the layout of the real sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from skimage import io

from monai_cert import chest_phantom, diffusers_denoiser, lesion_phantom, polyp_phantom
from monai_cert.bundle import DEFAULT_BUNDLE, find_bundle
from tiny import BUNDLES, COLON_BUNDLE, SKIN_BUNDLE, N, make_tiny_bundle

ROOT = find_bundle(DEFAULT_BUNDLE)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantoms in the layout of each set: two for training and one for validation."""
    root = tmp_path_factory.mktemp("data")
    rows = ["dataset,id,split"]
    for number in range(3):
        image, label = chest_phantom(64, seed=number)
        film, lungs = np.round(image[0] * 255).astype(np.uint8), label * np.uint8(255)
        left, right = lungs.copy(), lungs.copy()
        left[:, :32], right[:, 32:] = 0, 0
        heart = np.zeros_like(lungs)
        heart[32:48, 26:42] = 255
        files = {
            f"MontgomerySet/CXR_png/m{number}.png": film,
            f"MontgomerySet/ManualMask/leftMask/m{number}.png": left,
            f"MontgomerySet/ManualMask/rightMask/m{number}.png": right,
            f"ChinaSet_AllFiles/CXR_png/s{number}.png": film[::-1],
            f"ChinaSet_AllFiles/mask/s{number}_mask.png": lungs[::-1],
            f"JSRT/images/j{number}.png": film,
            f"JSRT/SCR/fold1/masks/left lung/j{number}.png": left,
            f"JSRT/SCR/fold1/masks/right lung/j{number}.png": right,
            f"JSRT/SCR/fold1/masks/heart/j{number}.png": heart,
        }
        (photo, lesion), (frame, polyp) = (draw(64, number) for draw in (lesion_phantom, polyp_phantom))
        photo, frame = (np.round(rgb.transpose(1, 2, 0) * 255).astype(np.uint8) for rgb in (photo, frame))
        lesion, polyp = lesion * np.uint8(255), polyp * np.uint8(255)
        files |= {
            f"ISIC2018/ISIC2018_Task1-2_Training_Input/i{number}.jpg": photo,
            f"ISIC2018/ISIC2018_Task1_Training_GroundTruth/i{number}_segmentation.png": lesion,
            f"CVC-ClinicDB/Original/{1 + 30 * number}.png": frame,
            f"CVC-ClinicDB/Ground Truth/{1 + 30 * number}.png": polyp,
            f"Kvasir-SEG/images/k{number}.jpg": frame[::-1],
            f"Kvasir-SEG/masks/k{number}.jpg": polyp[::-1],
        }
        for name, pixels in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            io.imsave(root / name, pixels, check_contrast=False)
        split = "val" if number == 2 else "train"
        rows += [f"montgomery,m{number},{split}", f"shenzhen,s{number},{split}", f"jsrt,j{number},{split}"]
        rows += [f"isic2018,i{number},{split}", f"kvasir_seg,k{number},{split}"]
        rows += [f"cvc_clinicdb,{1 + 30 * number},{split}"]  # frames of three sequences, which no split may separate
    (root / "splits.csv").write_text("\n".join(rows) + "\n")
    return root


def run(launcher: list[str], configs: list[str], root: Path, **options: object) -> None:
    files = "[" + ",".join(f"'{root}/configs/{name}'" for name in configs) + "]"
    command = [*launcher, "monai.bundle", "run", "--config_file", files]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]


def shapes(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


PYTHON = [sys.executable, "-m"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m"]


@pytest.mark.parametrize("launcher", [PYTHON, TORCHRUN], ids=["one process", "two processes"])
def test_the_segmenter_and_the_denoiser_train(phantoms: Path, tmp_path: Path, launcher: list[str]) -> None:
    two = launcher is TORCHRUN
    shared = {"dataset_dir": phantoms, "max_epochs": 1, "batch_size": 2}
    segmenter = {"ckpt_dir": tmp_path, "train#handlers#1#interval": 1}
    run(launcher, ["train.json", *["multi_gpu_train.json"] * two], ROOT, **shared, **segmenter)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    shipped = torch.load(ROOT / "models" / "model.pt", weights_only=True)
    assert shapes(state) == shapes(shipped)
    run(
        launcher,
        ["train_denoiser.json", *["multi_gpu_train_denoiser.json"] * two],
        ROOT,
        **shared,
        output_dir=tmp_path / "denoiser",
    )
    assert diffusers_denoiser(tmp_path / "denoiser").schedule.timestep(2.0) == 396


def test_the_segmenter_trains_on_denoised_images(phantoms: Path, tmp_path: Path) -> None:
    options = {"dataset_dir": phantoms, "max_epochs": 1, "batch_size": 2, "ckpt_dir": tmp_path, "bundle_root": ROOT}
    run(PYTHON, ["train.json", "train_denoised.json"], ROOT, **options)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    shipped = torch.load(ROOT / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(state[name], shipped[name]) for name in shipped)


@pytest.mark.parametrize("name", [SKIN_BUNDLE, COLON_BUNDLE])
def test_the_networks_of_color_images_train_one_after_another(phantoms: Path, tmp_path: Path, name: str) -> None:
    """Segmenter, denoiser, and the segmenter again on what the denoiser, hardly trained, makes of noisy images."""
    root, models = find_bundle(name), tmp_path / "models"
    # Two epochs: in the first step of a warm-up, which is all that two images give, the learning rate is 0.
    shared = {"dataset_dir": phantoms, "max_epochs": 2, "batch_size": 2}
    segmenter = {"ckpt_dir": models, "train#handlers#1#interval": 1}
    run(PYTHON, ["train.json"], root, **shared, **segmenter)
    state = torch.load(models / "model.pt", weights_only=True)
    network = json.loads((root / "configs" / "inference.json").read_text())["network_def"]
    del network["_target_"]
    assert shapes(state) == shapes(UNet(**network).state_dict())
    run(PYTHON, ["train_denoiser.json"], root, **shared, output_dir=models / "denoiser")
    denoiser = diffusers_denoiser(models / "denoiser", channels=3)
    assert denoiser.prediction == "sample"
    assert denoiser.schedule.timestep(2.0) == 396
    run(
        PYTHON, ["train.json", "train_denoised.json"], root, **shared, bundle_root=tmp_path, ckpt_dir=tmp_path / "again"
    )
    again = torch.load(tmp_path / "again" / "model.pt", weights_only=True)
    assert shapes(again) == shapes(state)
    assert any(not torch.equal(again[key], state[key]) for key in state)


def test_the_organ_network_trains_from_the_lung_network(phantoms: Path, tmp_path: Path) -> None:
    options = {"dataset_dir": phantoms, "max_epochs": 1, "batch_size": 1, "ckpt_dir": tmp_path, "bundle_root": ROOT}
    run(PYTHON, ["train.json", "train_organs.json"], ROOT, **options, **{"train#handlers#1#interval": 1})
    state = torch.load(tmp_path / "organs.pt", weights_only=True)
    shipped = torch.load(ROOT / "models" / "organs.pt", weights_only=True)
    assert shapes(state) == shapes(shipped)
    lungs = torch.load(ROOT / "models" / "model.pt", weights_only=True)
    shared = [name for name in state if state[name].shape == lungs[name].shape]
    assert len(shared) == len(state) - 4
    # A step of AdamW moves a weight by no more than about the learning rate, 0.002; there are two.
    assert 0 < max(float((state[name] - lungs[name]).abs().max()) for name in shared) < 5e-3


def test_the_network_of_lungs_and_heart_trains_from_the_organ_network(phantoms: Path, tmp_path: Path) -> None:
    options = {"dataset_dir": phantoms, "max_epochs": 1, "batch_size": 1, "ckpt_dir": tmp_path, "bundle_root": ROOT}
    recipe = ["train.json", "train_organs.json", "train_lungs_heart.json"]
    run(PYTHON, recipe, ROOT, **options, **{"train#handlers#1#interval": 1})
    shipped = torch.load(ROOT / "models" / "lungs_heart.pt", weights_only=True)
    assert shapes(torch.load(tmp_path / "lungs_heart.pt", weights_only=True)) == shapes(shipped)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_network_trains_on_noise_of_the_sigma_that_its_file_names(phantoms: Path, tmp_path: Path, name: str) -> None:
    root = find_bundle(name)
    # Two epochs: in the first step of a warm-up, which is all that two images give, the learning rate is 0.
    options = {"dataset_dir": phantoms, "max_epochs": 2, "batch_size": 2, "ckpt_dir": tmp_path, "sigma": 0.5}
    run(PYTHON, ["train.json", "train_noise.json"], root, **options, bundle_root=root)
    state = torch.load(tmp_path / "noise_0.5.pt", weights_only=True)
    start = torch.load(root / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(state[key], start[key]) for key in start)


@pytest.mark.parametrize(
    ("name", "overlay", "dataset"),
    [
        (DEFAULT_BUNDLE, [], "montgomery"),
        (DEFAULT_BUNDLE, ["organs.json"], "jsrt"),
        (SKIN_BUNDLE, [], "isic2018"),
        (COLON_BUNDLE, [], "cvc_clinicdb"),
    ],
    ids=["lungs", "organs", "skin", "colon"],
)
def test_the_evaluation_configuration_reports_the_metrics(
    phantoms: Path, tmp_path: Path, name: str, overlay: list[str], dataset: str
) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny_certified_segmentation", name)
    if overlay:
        organs = UNet(spatial_dims=2, in_channels=1, out_channels=4, channels=[4, 8], strides=[2])
        torch.save(organs.state_dict(), bundle / "models" / "organs.pt")
    options = {"dataset_dir": phantoms, "dataset_name": dataset, "split": "val", "bundle_root": bundle}
    configs = ["inference.json", "certify.json", "evaluate.json", *overlay]
    run(PYTHON, configs, bundle, **options, output_dir=tmp_path / "out", **{"displayable_configs#n": N})
    means = dict(line.split(",") for line in (tmp_path / "out" / "metrics.csv").read_text().splitlines())
    assert set(means) == {"certified_dice", "worst_case_dice", "abstention_rate", "certified_accuracy"}
    assert float(means["worst_case_dice"]) <= float(means["certified_dice"])
    assert json.loads((bundle / "configs" / "certify.json").read_text())["displayable_configs"]["n"] == 100
