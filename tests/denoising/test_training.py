# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""A MONAI trainer trains a denoiser, and what it leaves behind loads as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler

from monai_cert.denoising.adapters import DiffusersNetwork, diffusers_denoiser
from monai_cert.denoising.schedule import NoiseSchedule
from monai_cert.denoising.training import FocusedDiffusionPrepareBatch, SaveDiffusersFolder
from tiny import tiny_unet

DRAWS = 20_000


def tiny_network() -> DiffusersNetwork:
    torch.manual_seed(0)
    return DiffusersNetwork(tiny_unet(4))


def linear_scheduler(prediction: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=0.02, prediction_type=prediction
    )


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def timesteps(prepare: FocusedDiffusionPrepareBatch) -> torch.Tensor:
    torch.manual_seed(0)
    return prepare.get_timesteps(torch.empty(DRAWS, 1, 1, 1))


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_stated_share_of_timesteps_comes_from_the_focus_and_the_rest_from_everywhere(share: float) -> None:
    drawn = timesteps(FocusedDiffusionPrepareBatch(1000, focus=(30, 129), share=share))
    inside = float(((drawn >= 30) & (drawn <= 129)).float().mean())
    expected = share + (1 - share) * 0.1
    assert abs(inside - expected) < 5 * (expected * (1 - expected) / DRAWS) ** 0.5
    assert int(drawn.min()) < 30
    assert int(drawn.max()) > 950


def test_a_share_of_one_stays_in_the_focus_and_reaches_both_of_its_ends() -> None:
    drawn = timesteps(FocusedDiffusionPrepareBatch(1000, focus=(30, 35), share=1.0))
    assert sorted(set(drawn.tolist())) == [30, 31, 32, 33, 34, 35]


def test_a_share_of_zero_is_uniform_over_the_schedule() -> None:
    drawn = timesteps(FocusedDiffusionPrepareBatch(10, focus=(2, 3), share=0.0))
    frequencies = np.bincount(drawn.numpy(), minlength=10) / DRAWS
    assert np.abs(frequencies - 0.1).max() < 5 * (0.09 / DRAWS) ** 0.5


def test_a_focus_of_the_whole_schedule_is_allowed() -> None:
    drawn = timesteps(FocusedDiffusionPrepareBatch(4, focus=(0, 3), share=1.0))
    assert sorted(set(drawn.tolist())) == [0, 1, 2, 3]


def test_a_prepared_batch_asks_for_the_noise_that_it_hides() -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 1, 8, 8)
    out, target, _, extra = FocusedDiffusionPrepareBatch(1000)({"image": images, "label": images})
    assert torch.equal(out, images)
    assert torch.equal(target, extra["noise"])
    assert extra["timesteps"].shape == (5,)


@pytest.mark.parametrize(
    ("focus", "share"),
    [((-1, 500), 0.8), ((500, 30), 0.8), ((30, 1000), 0.8), ((30, 500), -0.1), ((30, 500), 1.1)],
    ids=str,
)
def test_a_focus_outside_the_schedule_or_a_share_that_is_none_is_refused(focus: tuple[int, int], share: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.999 and share"):
        FocusedDiffusionPrepareBatch(1000, focus=focus, share=share)


def test_a_run_of_the_trainer_leaves_the_averaged_weights_in_a_folder_that_loads(tmp_path: Path) -> None:
    network, scheduler = tiny_network(), linear_scheduler()
    generator = torch.Generator().manual_seed(0)
    images = [{"image": 2 * torch.rand(1, 16, 16, generator=generator) - 1} for _ in range(6)]
    torch.manual_seed(0)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(images), batch_size=2),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=0.01),
        loss_function=torch.nn.MSELoss(),
        inferer=DiffusionInferer(scheduler),
        prepare_batch=FocusedDiffusionPrepareBatch(1000),
    )
    passed = [weights_of(network)]
    SaveDiffusersFolder(network, scheduler, tmp_path / "denoiser", momentum=0.01).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: passed.append(weights_of(network)))
    trainer.run()
    assert len(passed) == 1 + 2 * 3

    denoiser = diffusers_denoiser(tmp_path / "denoiser")
    saved = weights_of(denoiser.network)
    assert saved.keys() == passed[0].keys()
    for name, average in saved.items():
        path = torch.stack([weights[name] for weights in passed])
        # An average of the weights that training passed through, the first ones included, lies between them.
        assert bool((average >= path.amin(0) - 1e-6).all()), name
        assert bool((average <= path.amax(0) + 1e-6).all()), name
    assert any(not torch.equal(saved[name], passed[0][name]) for name in saved)
    assert all(not torch.equal(saved[name], passed[-1][name]) for name in saved)

    noisy = torch.rand(1, 1, 16, 16, generator=generator)
    with torch.no_grad():
        assert denoiser(noisy, 0.25).shape == noisy.shape
    np.testing.assert_allclose(denoiser.schedule.alphas_cumprod, NoiseSchedule.linear().alphas_cumprod, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_saved_folder_keeps_the_prediction_type_it_was_trained_for(tmp_path: Path, prediction: str) -> None:
    SaveDiffusersFolder(tiny_network(), linear_scheduler(prediction), tmp_path).save()
    assert diffusers_denoiser(tmp_path).prediction == prediction


def test_saving_again_overwrites(tmp_path: Path) -> None:
    network = tiny_network()
    handler = SaveDiffusersFolder(network, linear_scheduler(), tmp_path)
    handler.save()
    before = diffusers_denoiser(tmp_path)(torch.full((1, 1, 8, 8), 0.5), 0.25)
    torch.nn.init.ones_(handler.ema.ema_model.model.conv_out.bias)
    handler.save()
    assert not torch.equal(diffusers_denoiser(tmp_path)(torch.full((1, 1, 8, 8), 0.5), 0.25), before)


def test_a_schedule_that_the_folder_could_not_state_is_refused_before_training(tmp_path: Path) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=1000, schedule="scaled_linear_beta")
    with pytest.raises(ValueError, match="linear schedule"):
        SaveDiffusersFolder(tiny_network(), scheduler, tmp_path)
