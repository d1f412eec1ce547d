# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The chest bundle with four classes and with three, and configurations laid over a bundle's own."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.metrics import compute_dice
from monai.networks.nets import UNet
from skimage import io

from monai_cert import chest_xray_datalist
from monai_cert.bundle import DEFAULT_BUNDLE, CertifiedBundle, find_bundle, load_bundle
from monai_cert.certificate import classes_from_disk
from monai_cert.cli import main
from tiny import N, make_tiny_bundle, make_tiny_set

CONFIGS = find_bundle(DEFAULT_BUNDLE) / "configs"
NAMES = {
    "organs": ("background", "right lung", "left lung", "heart"),
    "lungs_heart": ("background", "lungs", "heart"),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle that has the weights of four classes as well."""
    folder = make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny_certified_segmentation")
    torch.manual_seed(1)
    network = UNet(spatial_dims=2, in_channels=1, out_channels=4, channels=[4, 8], strides=[2])
    torch.save(network.state_dict(), folder / "models" / "organs.pt")
    return folder


@pytest.fixture(scope="module", params=NAMES)
def organs(request: pytest.FixtureRequest) -> tuple[str, CertifiedBundle]:
    """The name of a configuration and the bundle with it."""
    return request.param, load_bundle(DEFAULT_BUNDLE, configs=[f"{request.param}.json"], device="cpu")


def test_names_channels_and_metadata_agree(organs: tuple[str, CertifiedBundle]) -> None:
    config, bundle = organs
    with torch.no_grad():
        logits = bundle.network(torch.rand(1, 1, 64, 64))
    assert logits.shape == (1, len(NAMES[config]), 64, 64)
    described = bundle.parser["_meta_"][f"{config}_data_format"]["outputs"]["pred"]
    assert bundle.class_names == tuple(described["channel_def"].values()) == NAMES[config]
    assert described["num_channels"] == len(NAMES[config])
    assert (bundle.root / "models" / f"{config}.pt").stat().st_size < 8 * 1024**2


@pytest.mark.parametrize("config", NAMES)
def test_the_hierarchy_leads_from_every_organ_to_the_thorax(config: str) -> None:
    hierarchy = json.loads((CONFIGS / f"{config}.json").read_text())["hierarchy"]
    parents = {child: parent for parent, children in hierarchy.items() for child in children}
    for organ in NAMES[config][1:]:
        while organ in parents:
            organ = parents[organ]
        assert organ == "thorax"
    assert set(parents) <= {*NAMES[config], *hierarchy}


def test_the_unet_of_training_is_the_one_of_inference(organs: tuple[str, CertifiedBundle]) -> None:
    config, bundle = organs
    recipes = ["train.json", "train_organs.json", *["train_lungs_heart.json"] * (config == "lungs_heart")]
    assert ConfigParser.load_config_files([CONFIGS / r for r in recipes])["network_def"] == bundle.parser["network_def"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_organs_of_real_images_are_found(data_root: Path, organs: tuple[str, CertifiedBundle], split: str) -> None:
    config, bundle = organs
    read, count = bundle.parser.get_parsed_content("labeled_preprocessing"), len(NAMES[config])
    for item in chest_xray_datalist("jsrt", data_root, data_root / "splits.csv", split)[::10][:3]:
        data = read(item)
        with torch.no_grad():
            found = bundle.network(data["image"].as_tensor()[None]).argmax(1, keepdim=True)
        dice = compute_dice(found, data["label"].as_tensor()[None].long(), include_background=False, num_classes=count)
        assert dice.shape == (1, count - 1)
        assert dice.mean() > 0.9
        assert dice.min() > 0.8


def test_the_command_line_certifies_four_classes(tiny: Path, tmp_path: Path) -> None:
    options = ["--bundle", str(tiny), "--n", str(N), "--tau", "0.5", "--seed", "0", "--output"]
    assert main(["certify", "--config", "organs.json", *options, str(tmp_path / "four")]) == 0
    assert main(["certify", *options, str(tmp_path / "two")]) == 0
    four, two = (json.loads((tmp_path / name / "phantom.json").read_text()) for name in ("four", "two"))
    assert (four["num_classes"], two["num_classes"]) == (4, 2)
    assert four["provenance"]["weights_sha256"] != two["provenance"]["weights_sha256"]
    classes = classes_from_disk(io.imread(tmp_path / "four" / "phantom_classes.png"))
    assert np.isin(classes, [-1, 0, 1, 2, 3]).all()


def test_overlays_are_read_in_their_order_and_settings_win(tiny: Path, tmp_path: Path) -> None:
    for name, tau in (("a.json", 0.6), ("b.json", 0.7)):
        (tmp_path / name).write_text(json.dumps({"displayable_configs#tau": tau, "class_names": [name, "lung"]}))
    both = [tmp_path / "a.json", str(tmp_path / "b.json")]
    bundle = load_bundle(tiny, configs=both, device="cpu")
    assert (bundle.inferer.tau, bundle.class_names) == (0.7, ("b.json", "lung"))
    assert load_bundle(tiny, configs=both[::-1], device="cpu").inferer.tau == 0.6
    assert load_bundle(tiny, configs=both, device="cpu", settings={"tau": 0.8}).inferer.tau == 0.8
    assert load_bundle(tiny, device="cpu").inferer.tau == 0.75


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("organ.json", None, "there is no configuration .*organ.json.*; the bundle .* has .*organs.json"),
        ("cut.json", '{"seed": ', "cut.json is no JSON file of named entries"),
        ("list.json", "[1, 2]", "list.json is no JSON file of named entries"),
        ("picture.png", "not text", "picture.png is no JSON file of named entries"),
        ("apart.json", '{"absent#entry": 1}', "apart.json replaces a part that no configuration before it has"),
        ("heavy.json", '{"weights": "models/heavy.pt"}', "weights models/heavy.pt are missing"),
        ("three.json", '{"network_def#out_channels": 3}', "model.pt do not fit the bundle's network"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    output = ["--bundle", str(tiny), "--output", str(tmp_path / "out")]
    assert main(["certify", "--config", str(tmp_path / name), *output]) == 2
    told = capsys.readouterr().err.splitlines()
    assert re.search(words, told[-1])
    assert not any("Traceback" in line for line in told)


def test_a_bundle_without_an_entry_is_refused_by_its_name(tmp_path: Path) -> None:
    folder = make_tiny_bundle(tmp_path / "tiny_certified_segmentation")
    inference = folder / "configs" / "inference.json"
    config = json.loads(inference.read_text())
    del config["weights"]
    inference.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no entry 'weights'"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("command", "file", "entry"),
    [
        ("evaluate", "certify.json", "labeled_preprocessing"),
        ("evaluate", "certify.json", "plain_inferer"),
        ("attack", "certify.json", "plain_inferer"),
        ("certify", "certify.json", "displayable_configs"),
        ("certify --sigma 0.5", "certify.json", "displayable_configs"),
        ("certify", "inference.json", "spatial_size"),
        ("certify --mask borders --measure area", "inference.json", "spatial_size"),
    ],
)
def test_an_entry_that_a_command_needs_is_missed_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, file: str, entry: str
) -> None:
    make_tiny_set(tmp_path, 1)
    folder = make_tiny_bundle(tmp_path / "tiny_certified_segmentation")
    changed = folder / "configs" / file
    config = json.loads(changed.read_text())
    del config[entry]
    if entry == "spatial_size":
        config["preprocessing"] = {"_target_": "Identityd", "keys": "image"}
    changed.write_text(json.dumps(config))
    more = ["--dataset", "montgomery", "--data-root", str(tmp_path)] if command == "evaluate" else []
    more += [] if command == "certify" else ["--n", str(N)]
    arguments = [*command.split(), *more, "--bundle", str(folder), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert entry in told
    assert str(changed) in told
    assert not (tmp_path / "out").exists()


def test_configurations_that_do_not_go_together_and_missing_weights_are_told_with_a_mend(
    tiny: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny / "models" / "model.pt", tmp_path / "organs.pt")
    (tmp_path / "organs.json").write_text(json.dumps({"weights": str(tmp_path / "organs.pt")}))
    configs = ["inference_lipschitz.json", tmp_path / "organs.json"]
    with pytest.raises(ValueError, match=r"fit the bundle's network: Missing key\(s\) in state_dict: .*") as refusal:
        load_bundle(tiny, configs=configs)
    told = str(refusal.value)
    assert told.endswith("the configurations inference_lipschitz.json and organs.json may not go together")
    assert len(told) < 500
    (tmp_path / "organs.pt").unlink()
    with pytest.raises(FileNotFoundError, match="train them with the bundle's recipe, or install the bundle again"):
        load_bundle(tiny, configs=configs)
