# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Real things at small size: a bundle's configurations with networks of few random weights, phantoms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from monai.networks.nets import UNet
from PIL import Image

from monai_cert.bundle import DEFAULT_BUNDLE, find_bundle
from monai_cert.data.phantoms import chest_phantom

SKIN_BUNDLE = "skin_lesion_certified_segmentation"
COLON_BUNDLE = "colonoscopy_polyp_certified_segmentation"
BUNDLES = (DEFAULT_BUNDLE, SKIN_BUNDLE, COLON_BUNDLE)
SIDE = 32
N = 50  # just enough draws for 32 x 32 pixels at the default tau and alpha


def tiny_unet(channels: int) -> UNet2DModel:
    """A denoising network of a few thousand random weights, drawn from torch's own generator."""
    return UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        add_attention=False,
    )


def make_tiny_bundle(folder: Path, bundle: str = DEFAULT_BUNDLE) -> Path:
    """Write the bundle and return its folder."""
    shutil.copytree(find_bundle(bundle) / "configs", folder / "configs")
    inference = folder / "configs" / "inference.json"
    config = json.loads(inference.read_text())
    channels = config["network_def"]["in_channels"]
    network = {"spatial_dims": 2, "in_channels": channels, "out_channels": 1, "channels": [4, 8], "strides": [2]}
    config |= {"network_def": {"_target_": "UNet", **network}, "spatial_size": [SIDE, SIDE], "minimum_size": 16}
    inference.write_text(json.dumps(config, indent=4))
    torch.manual_seed(0)
    (folder / "models").mkdir()
    torch.save(UNet(**network).state_dict(), folder / "models" / "model.pt")
    tiny_unet(4 * channels).save_pretrained(folder / "models" / "denoiser")
    trained = json.loads((folder / "configs" / "train_denoiser.json").read_text())["scheduler"]
    scheduler = DDPMScheduler(num_train_timesteps=1000, prediction_type=trained.get("prediction_type", "epsilon"))
    scheduler.save_pretrained(folder / "models" / "denoiser")
    return folder


def make_tiny_set(root: Path, count: int) -> None:
    """Write a phantom, moved down row by row, in the layout of the Montgomery set, and a table with its split test."""
    ids = [f"phantom_{number:02}" for number in range(count)][::-1]
    image, lungs = (pixels.squeeze() for pixels in chest_phantom(2 * SIDE))
    right = np.arange(2 * SIDE) < SIDE
    parts = {
        "CXR_png": image,
        "ManualMask/rightMask": (lungs > 0) & right,
        "ManualMask/leftMask": (lungs > 0) & ~right,
    }
    for number, name in enumerate(ids):
        for part, pixels in parts.items():
            file = root / "MontgomerySet" / part / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((np.roll(pixels, number, axis=0) * 255).astype(np.uint8)).save(file)
    table = "".join(f"montgomery,{name},test\n" for name in ids)
    (root / "splits.csv").write_text(f"dataset,id,split\n{table}")
