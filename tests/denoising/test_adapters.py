# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Real diffusers and MONAI networks, at small size, denoise as their own libraries say they do."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from monai.networks import schedulers as monai_schedulers
from monai.networks.nets import DiffusionModelUNet

from monai_cert.bounds import Bounds
from monai_cert.denoising.adapters import DiffusersNetwork, diffusers_denoiser, monai_denoiser
from monai_cert.denoising.denoiser import PREDICTIONS
from tiny import tiny_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"
SIGMA = 0.25


def diffusers_unet(in_channels: int = 1, seed: int = 0) -> UNet2DModel:
    torch.manual_seed(seed)
    return tiny_unet(in_channels).eval()


def write_folder(folder: Path, model: UNet2DModel, prediction: str = "epsilon") -> Path:
    model.save_pretrained(folder)
    DDPMScheduler(prediction_type=prediction).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "denoiser", diffusers_unet())


def monai_unet(spatial_dims: int) -> DiffusionModelUNet:
    torch.manual_seed(0)
    network = DiffusionModelUNet(
        spatial_dims=spatial_dims,
        in_channels=1,
        out_channels=1,
        channels=(8, 8),
        attention_levels=(False, False),
        num_res_blocks=1,
        norm_num_groups=4,
    ).eval()
    # MONAI starts the last convolution at zero, and a network that predicts zero tests nothing.
    torch.nn.init.normal_(network.out[2].conv.weight, std=0.3)
    return network


def noisy_images(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(*shape, generator=generator) + SIGMA * torch.randn(*shape, generator=generator)


def one_step(model: UNet2DModel, noisy: torch.Tensor, prediction: str) -> torch.Tensor:
    """The one-step x_0 by hand, for images in [0, 1] under the linear schedule."""
    abar = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    t = int(np.argmin(np.abs(np.sqrt((1 - abar) / abar) - 2 * SIGMA)))
    a, b = float(abar[t] ** 0.5), float((1 - abar[t]) ** 0.5)
    x_t = a * (2 * noisy - 1)
    out = model(x_t, torch.full((len(noisy),), t)).sample
    x_0 = {"epsilon": (x_t - b * out) / a, "sample": out, "v_prediction": a * x_t - b * out}[prediction]
    return (x_0.clamp(-1, 1) + 1) / 2


@pytest.mark.parametrize("prediction", PREDICTIONS)
@torch.no_grad()
def test_a_saved_diffusers_folder_denoises_as_the_model_does_by_hand(tmp_path: Path, prediction: str) -> None:
    model, noisy = diffusers_unet(), noisy_images(2, 1, 16, 16)
    denoiser = diffusers_denoiser(write_folder(tmp_path, model, prediction))
    assert not denoiser.training
    torch.testing.assert_close(denoiser(noisy, SIGMA), one_step(model, noisy, prediction), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_bounds_of_a_loaded_denoiser_are_the_unit_of_its_images_and_sigma(folder: Path) -> None:
    noisy = noisy_images(1, 1, 16, 16)
    unit = diffusers_denoiser(folder)(noisy, SIGMA)
    bytes_ = diffusers_denoiser(folder, bounds=Bounds(0, 255))(255 * noisy, 255 * SIGMA)
    torch.testing.assert_close(bytes_ / 255, unit, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [1, 4, 8])
@pytest.mark.parametrize("sides", [(32, 32), (27, 41)], ids=str)
@torch.no_grad()
def test_an_image_of_any_size_passes_a_model_on_unshuffled_pixels(
    tmp_path: Path, factor: int, sides: tuple[int, int]
) -> None:
    denoiser = diffusers_denoiser(write_folder(tmp_path, diffusers_unet(factor**2)), channels=1)
    assert denoiser.divisor == 2 * factor
    noisy = noisy_images(2, 1, *sides)
    assert denoiser(noisy, SIGMA).shape == noisy.shape


@pytest.mark.parametrize(("channels", "factor"), [(1, 4), (1, 8), (3, 2)])
@torch.no_grad()
def test_an_unshuffling_network_sees_every_block_of_pixels_as_channels(channels: int, factor: int) -> None:
    model = diffusers_unet(channels * factor**2)
    x, t, side = noisy_images(2, channels, 32, 32), torch.tensor([3, 700]), 32 // factor
    blocks = x.reshape(2, channels, side, factor, side, factor).permute(0, 1, 3, 5, 2, 4).reshape(2, -1, side, side)
    out = model(blocks, t).sample
    back = out.reshape(2, channels, factor, factor, side, side).permute(0, 1, 4, 2, 5, 3).reshape(2, channels, 32, 32)
    torch.testing.assert_close(DiffusersNetwork(model, channels)(x, t), back, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
@torch.no_grad()
def test_white_noise_stays_white_under_unshuffling(factor: int) -> None:
    seen: list[torch.Tensor] = []
    model = diffusers_unet(factor**2)
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    draws = 4000
    noise = torch.randn(draws, 1, 2 * factor, 2 * factor, generator=torch.Generator().manual_seed(0))
    DiffusersNetwork(model)(noise, torch.zeros(draws, dtype=torch.long))
    entries = seen[0].reshape(draws, -1)
    covariance = entries.T @ entries / draws
    # The entries of the sample covariance of white noise deviate by sqrt(2 / draws) = 0.022 at most.
    assert float((covariance - torch.eye(len(covariance))).abs().max()) < 6 * (2 / draws) ** 0.5


def test_a_configuration_makes_a_fresh_network_of_the_same_call() -> None:
    config = {key: value for key, value in diffusers_unet(16).config.items() if not key.startswith("_")}
    network = DiffusersNetwork(config)
    assert network.divisor == 8
    assert network(noisy_images(1, 1, 16, 16), torch.tensor([5]), context=None).shape == (1, 1, 16, 16)


@pytest.mark.parametrize(("taken", "channels"), [(8, 1), (3, 1), (1, 3), (6, 3)])
def test_a_model_that_does_not_fit_the_image_channels_is_refused(taken: int, channels: int) -> None:
    with pytest.raises(ValueError, match=f"{taken} input channels does not fit images of {channels}"):
        DiffusersNetwork(diffusers_unet(taken), channels)


@pytest.mark.parametrize("missing", ["config.json", "scheduler_config.json", WEIGHTS])
def test_a_folder_that_lacks_a_file_is_refused_by_name(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(folder))) as caught:
        diffusers_denoiser(folder)
    assert Path(missing).suffix in str(caught.value)


def test_a_folder_that_does_not_exist_is_refused_by_name_without_asking_the_network(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such_folder has no config\.json"):
        diffusers_denoiser(tmp_path / "no_such_folder")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated weights": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000]),
    "empty weights": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "text for weights": lambda folder: (folder / WEIGHTS).write_text("These are no weights. " * 100),
    "weights of another name": lambda folder: (folder / WEIGHTS).rename(folder / "weights.safetensors"),
    "weights of another shape": lambda folder: change_config(folder, block_out_channels=[8, 16]),
    "weights of too few layers": lambda folder: change_config(folder, layers_per_block=2),
    "weights of too many layers": lambda folder: change_config(
        folder, block_out_channels=[8], down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"]
    ),
    "a configuration that is no JSON": lambda folder: (folder / "config.json").write_text("{"),
    "a configuration of unknown blocks": lambda folder: change_config(folder, up_block_types=["No", "UpBlock2D"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_name(folder: Path, damage: str) -> None:
    DAMAGES[damage](folder)
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        diffusers_denoiser(folder)


def test_pickled_weights_are_refused_and_never_unpickled(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "unpickled",)

    (folder / WEIGHTS).unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileNotFoundError, match=re.escape(f"{folder} has no *.safetensors")):
        diffusers_denoiser(folder)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("scheduler_class", [monai_schedulers.DDPMScheduler, monai_schedulers.DDIMScheduler])
@torch.no_grad()
def test_a_monai_network_denoises_as_its_own_scheduler_estimates_the_original(
    scheduler_class: type[Any], prediction: str, spatial_dims: int
) -> None:
    table = {"num_train_timesteps": 1000, "schedule": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02}
    scheduler, network = scheduler_class(**table, prediction_type=prediction), monai_unet(spatial_dims)
    noisy = noisy_images(1, 1, *[8] * spatial_dims)
    denoiser = monai_denoiser(network, scheduler)
    out = denoiser(noisy, SIGMA)
    t = denoiser.schedule.timestep(2 * SIGMA)
    x_t = (2 * noisy - 1) * float(scheduler.alphas_cumprod[t]) ** 0.5
    # Its step also gives x_0, which MONAI's DDIM scheduler calls the predicted original, clipped to [-1, 1] in both.
    ddim = monai_schedulers.DDIMScheduler(**table, prediction_type=prediction)
    ddim.set_timesteps(1000)
    original = ddim.step(network(x_t, torch.tensor([t])), t, x_t)[1]
    torch.testing.assert_close(out, (original.clamp(-1, 1) + 1) / 2, rtol=0, atol=1e-5)
    assert float(out.std()) > 0.01


@pytest.mark.parametrize("sides", [(9, 7), (9, 7, 5)], ids=str)
@torch.no_grad()
def test_sides_that_a_monai_network_cannot_halve_are_padded_and_cropped(sides: tuple[int, ...]) -> None:
    scheduler = monai_schedulers.DDPMScheduler(num_train_timesteps=1000)
    denoiser = monai_denoiser(monai_unet(len(sides)), scheduler)
    assert denoiser.divisor == 2
    noisy = noisy_images(2, 1, *sides)
    assert denoiser(noisy, SIGMA).shape == noisy.shape
