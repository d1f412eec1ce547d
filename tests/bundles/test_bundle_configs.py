# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The bundles as MONAI's own tools see them: run, verify, export; and that their configurations are what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, verify_net_in_out
from monai.metrics import compute_dice
from skimage import io

from monai_cert import chest_phantom, public_datalist
from monai_cert.bundle import DEFAULT_BUNDLE, CertifiedBundle, find_bundle, load_bundle
from monai_cert.cli import main
from tiny import BUNDLES, COLON_BUNDLE, SKIN_BUNDLE

CONFIGS = [file for name in BUNDLES for file in sorted((find_bundle(name) / "configs").glob("*.json"))]
# The sets that a bundle is tested on.
SETS = {
    DEFAULT_BUNDLE: ("montgomery", "shenzhen"),
    SKIN_BUNDLE: ("isic2018",),
    COLON_BUNDLE: ("cvc_clinicdb", "kvasir_seg"),
}
# Mean Dice that a segmenter reaches at least on a dozen clean images of the test splits.
LEAST_DICE = {DEFAULT_BUNDLE: 0.93, SKIN_BUNDLE: 0.75, COLON_BUNDLE: 0.55}
# What denoising adds to the peak signal-to-noise ratio of an image at least, in dB, by sigma.
LEAST_GAIN = {0.25: 9.0, 0.5: 12.5, 1.0: 15.0}

named = pytest.mark.parametrize("name", BUNDLES)


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request: pytest.FixtureRequest) -> CertifiedBundle:
    return load_bundle(request.param, device="cpu")


def monai_bundle(root: Path, *arguments: str, **options: str) -> None:
    command = [sys.executable, "-m", "monai.bundle", *arguments]
    command += [word for name, value in options.items() for word in (f"--{name}", value)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]


def phantom_of(bundle: CertifiedBundle) -> torch.Tensor:
    """The bundle's own phantom, (1, C, *spatial)."""
    return torch.as_tensor(bundle.parser.get_parsed_content("phantom"))[None]


def items_of(data_root: Path, name: str, count: int) -> list[dict[str, str]]:
    """A few images of the test split of each of a bundle's sets, from all over it."""
    items = []
    for dataset in SETS[name]:
        found = public_datalist(dataset, data_root, data_root / "splits.csv", "test")
        items += found[:: len(found) // count][:count]
    return items


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parents[1].name.split('_')[0]}/{file.name}")
def test_configurations_are_plain_json_of_monai_and_this_package(file: Path) -> None:
    text = file.read_text()
    config = json.loads(text)
    assert text == json.dumps(config, indent=4) + "\n"
    assert "lambda" not in text

    def targets(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["_target_"]] if "_target_" in node else []
            return own + [t for value in node.values() for t in targets(value)]
        return [t for value in node for t in targets(value)] if isinstance(node, list) else []

    for target in targets(config):
        assert target.split(".")[0] in {"monai", "monai_cert", "torch"} or "." not in target, target


def test_metadata_tells_the_truth(bundle: CertifiedBundle) -> None:
    metadata = json.loads((bundle.root / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    inputs = metadata["network_data_format"]["inputs"]["image"]
    assert [bundle.inferer.bounds.lower, bundle.inferer.bounds.upper] == inputs["value_range"]
    assert tuple(metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values()) == bundle.class_names
    for described in (inputs, metadata["denoiser_data_format"]["inputs"]["image"]):
        assert described["num_channels"] == phantom_of(bundle).shape[1]
    assert len(inputs["channel_def"]) == inputs["num_channels"]


@named
def test_a_bundle_is_complete_and_none_of_its_files_is_large(name: str) -> None:
    root = find_bundle(name)
    for part in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf", "models/model.pt"):
        assert (root / part).is_file(), part
    weights = {file.name for file in (root / "models" / "denoiser").iterdir()}
    assert weights == {"config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"}
    for file in root.rglob("*"):
        assert not file.is_file() or file.stat().st_size < 25 * 1024**2, file


@named
def test_the_networks_of_training_are_those_of_inference(name: str) -> None:
    root = find_bundle(name)
    train, denoising, inference = (
        json.loads((root / "configs" / file).read_text())
        for file in ("train.json", "train_denoiser.json", "inference.json")
    )
    assert train["network_def"] == inference["network_def"]
    shipped = json.loads((root / "models" / "denoiser" / "config.json").read_text())
    trained = denoising["network_def"]["model"]
    assert {key: shipped[key] for key in trained} == trained
    scheduler = json.loads((root / "models" / "denoiser" / "scheduler_config.json").read_text())
    assert scheduler["prediction_type"] == denoising["scheduler"].get("prediction_type", "epsilon")


@pytest.mark.parametrize("name", [SKIN_BUNDLE, COLON_BUNDLE])
def test_several_processes_train_every_bundle_in_the_same_way(name: str) -> None:
    for file in ("multi_gpu_train.json", "multi_gpu_train_denoiser.json"):
        own, chest = (find_bundle(bundle) / "configs" / file for bundle in (name, DEFAULT_BUNDLE))
        assert own.read_text() == chest.read_text()


@named
def test_verify_net_in_out_passes(name: str) -> None:
    root = find_bundle(name)
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(root / "configs" / "metadata.json"),
        config_file=str(root / "configs" / "inference.json"),
        device="cpu",
        n=8,
        p=1,
        any=1,
        bundle_root=str(root),
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_exported_network_gives_the_same_logits(tmp_path: Path, bundle: CertifiedBundle) -> None:
    image = phantom_of(bundle)
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(bundle.root / "models" / "model.pt"),
        meta_file=str(bundle.root / "configs" / "metadata.json"),
        config_file=str(bundle.root / "configs" / "inference.json"),
        bundle_root=str(bundle.root),
        use_trace=True,
        input_shape=list(image.shape),
    )
    exported = torch.jit.load(tmp_path / "model.ts").eval()
    with torch.no_grad():
        torch.testing.assert_close(exported(image), bundle.network(image), atol=1e-4, rtol=1e-4)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as `monai_bundle` takes: networks round by the number of threads, and a logit of nearly 0 may change."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@named
@pytest.mark.usefixtures("one_thread")
def test_a_bundle_run_writes_the_classes_of_the_command_line(name: str, tmp_path: Path, data_root: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    sources = [Path(item["image"]) for item in items_of(data_root, name, 1)]
    for source in sources:
        (images / source.name).write_bytes(source.read_bytes())
    monai_bundle(
        find_bundle(name),
        "run",
        config_file="['configs/inference.json','configs/certify.json']",
        bundle_root=".",
        dataset_dir=str(images),
        output_dir=str(tmp_path / "run"),
        seed="7",
        batch_size="4",
        **{"displayable_configs#n": "80"},
    )
    options = ["--seed", "7", "--batch-size", "4", "--n", "80", "--output", str(tmp_path / "cli")]
    assert main(["certify", str(images), "--bundle", name, *options]) == 0
    for source in sources:
        written = [io.imread(tmp_path / way / f"{source.stem}_classes.png") for way in ("run", "cli")]
        np.testing.assert_array_equal(*written)
        claims = [json.loads((tmp_path / way / f"{source.stem}.json").read_text()) for way in ("run", "cli")]
        assert claims[0] == claims[1]


@pytest.mark.parametrize(
    ("name", "overlay"),
    [(DEFAULT_BUNDLE, []), (DEFAULT_BUNDLE, ["organs.json"]), (SKIN_BUNDLE, []), (COLON_BUNDLE, [])],
    ids=["lungs", "organs", "skin", "colon"],
)
def test_the_plain_inference_configuration_segments(tmp_path: Path, name: str, overlay: list[str]) -> None:
    bundle = load_bundle(name, configs=overlay, device="cpu")
    images = tmp_path / "images"
    images.mkdir()
    pixels = np.round(phantom_of(bundle)[0].movedim(0, -1).squeeze(-1).numpy() * 255).astype(np.uint8)
    io.imsave(images / "phantom.png", pixels, check_contrast=False)
    monai_bundle(
        bundle.root,
        "run",
        config_file=str([f"configs/{file}" for file in ("inference.json", *overlay)]),
        bundle_root=".",
        dataset_dir=str(images),
        output_dir=str(tmp_path / "out"),
    )
    with torch.no_grad():
        logits = bundle.network(bundle.preprocessing({"image": str(images / "phantom.png")})["image"].as_tensor()[None])
    expected = logits[0].argmax(0) if overlay else (logits[0, 0] > 0).int()
    written = io.imread(tmp_path / "out" / "phantom_classes.png")
    assert (written != expected.numpy()).mean() < 1e-4  # a logit of nearly 0 may fall to either side


@pytest.mark.parametrize("seed", range(4))
def test_the_segmenter_finds_the_phantoms_lungs(seed: int) -> None:
    bundle = load_bundle(DEFAULT_BUNDLE, device="cpu")
    image, truth = chest_phantom(256, seed=seed)
    with torch.no_grad():
        lungs = bundle.network(torch.from_numpy(image)[None])[0, 0].numpy() > 0
    assert 2 * (lungs & (truth == 1)).sum() / (lungs.sum() + truth.sum()) >= 0.90


def test_the_segmenter_finds_what_annotators_outlined(data_root: Path, bundle: CertifiedBundle) -> None:
    read = bundle.parser.get_parsed_content("labeled_preprocessing")
    found = []
    for item in items_of(data_root, bundle.name, 12 // len(SETS[bundle.name])):
        data = read(item)
        with torch.no_grad():
            classes = (bundle.network(data["image"].as_tensor()[None]) > 0).long()
        found.append(
            compute_dice(classes, data["label"].as_tensor()[None].long(), include_background=False, num_classes=2)
        )
    assert torch.cat(found).nanmean() > LEAST_DICE[bundle.name]


def decibels(image: torch.Tensor, other: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of images in [0, 1]."""
    return float(-10 * torch.log10((image - other).square().mean()))


def assert_denoised(bundle: CertifiedBundle, images: list[torch.Tensor]) -> None:
    denoiser = bundle.parser.get_parsed_content("denoiser")
    for sigma, least in LEAST_GAIN.items():
        generator = torch.Generator().manual_seed(0)
        for image in images:
            noisy = image + sigma * torch.randn(image.shape, generator=generator)
            with torch.no_grad():
                gain = decibels(image, denoiser(noisy, sigma)) - decibels(image, noisy)
            assert gain > least, f"{gain:.1f} dB at sigma {sigma:g}"


def test_the_denoiser_takes_noise_away_from_the_phantom(bundle: CertifiedBundle) -> None:
    assert_denoised(bundle, [phantom_of(bundle)])


def test_the_denoiser_takes_noise_away_from_real_images(data_root: Path, bundle: CertifiedBundle) -> None:
    items = items_of(data_root, bundle.name, 6 // len(SETS[bundle.name]))
    assert_denoised(bundle, [bundle.preprocessing({"image": i["image"]})["image"].as_tensor()[None] for i in items])


def test_the_phantom_is_an_image_of_the_bundles_own_kind(bundle: CertifiedBundle) -> None:
    phantom = phantom_of(bundle)
    assert list(phantom.shape[2:]) == bundle.parser.get_parsed_content("spatial_size")
    assert bundle.bounds.lower <= phantom.min() < phantom.max() <= bundle.bounds.upper
    with torch.no_grad():
        assert bundle.network(phantom).shape[2:] == phantom.shape[2:]
