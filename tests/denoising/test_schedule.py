# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""A noise level and its timestep belong together, whatever library the schedule comes from."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.networks import schedulers as monai_schedulers

from monai_cert.bounds import Bounds
from monai_cert.denoising.schedule import NoiseSchedule

STEPS = 1000
LINEAR = NoiseSchedule.linear()
SIGMAS = [LINEAR.scales(t)[1] / LINEAR.scales(t)[0] for t in range(STEPS)]
MONAI_LINEAR: dict[str, Any] = {"schedule": "linear_beta", "beta_start": 1e-4, "beta_end": 0.02}
SCHEDULERS = {
    "diffusers DDPM": lambda: diffusers.DDPMScheduler(num_train_timesteps=STEPS),
    "diffusers DDIM": lambda: diffusers.DDIMScheduler(num_train_timesteps=STEPS),
    "MONAI DDPM": lambda: monai_schedulers.DDPMScheduler(num_train_timesteps=STEPS, **MONAI_LINEAR),
    "MONAI DDIM": lambda: monai_schedulers.DDIMScheduler(num_train_timesteps=STEPS, **MONAI_LINEAR),
}


@pytest.mark.parametrize(("sigma", "timestep"), [(0.1, 57), (0.25, 144), (0.33, 185), (0.5, 258), (1.0, 396)])
def test_sigma_on_zero_to_one_has_its_timestep_in_the_linear_schedule(sigma: float, timestep: int) -> None:
    assert LINEAR.timestep(sigma * Bounds(0, 1).symmetric_scale) == timestep


def test_one_sigma_has_one_timestep_in_every_unit() -> None:
    timesteps = {
        LINEAR.timestep(0.25 * (bounds.upper - bounds.lower) * bounds.symmetric_scale)
        for bounds in (Bounds(0, 1), Bounds(0, 255), Bounds(-1, 1), Bounds(-1000, 400))
    }
    assert len(timesteps) == 1


@given(st.floats(min_value=0, max_value=LINEAR.sigma_max, exclude_min=True))
def test_no_timestep_has_a_noise_level_nearer_to_sigma(sigma: float) -> None:
    away = [abs(level - sigma) for level in SIGMAS]
    assert away[LINEAR.timestep(sigma)] <= min(away) + 1e-12 * sigma


@pytest.mark.parametrize("t", [0, 1, 57, 144, 396, 998])
def test_noise_of_a_timestep_gets_that_timestep_and_past_the_middle_the_next(t: int) -> None:
    middle = (SIGMAS[t] + SIGMAS[t + 1]) / 2
    assert LINEAR.timestep(SIGMAS[t]) == LINEAR.timestep(middle * (1 - 1e-9)) == t
    assert LINEAR.timestep(middle * (1 + 1e-9)) == t + 1


def test_every_noise_up_to_the_largest_has_a_timestep_and_none_beyond() -> None:
    assert LINEAR.timestep(1e-300) == 0
    assert LINEAR.timestep(LINEAR.sigma_max) == STEPS - 1
    with pytest.raises(ValueError, match="must lie in"):
        LINEAR.timestep(math.nextafter(LINEAR.sigma_max, math.inf))


@pytest.mark.parametrize("sigma", [0.0, -0.1, math.nan, math.inf, -math.inf])
def test_a_noise_level_that_is_none_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        LINEAR.timestep(sigma)


@pytest.mark.parametrize("t", [0, 57, 396, 999])
def test_scales_preserve_variance_and_hold_the_signal_fraction_of_the_definition(t: int) -> None:
    signal, noise = LINEAR.scales(t)
    assert signal**2 + noise**2 == pytest.approx(1.0, abs=1e-15)
    betas = [1e-4 + (0.02 - 1e-4) * step / (STEPS - 1) for step in range(t + 1)]
    assert signal**2 == pytest.approx(math.exp(math.fsum(math.log1p(-beta) for beta in betas)), rel=1e-12)


@pytest.mark.parametrize(
    "table",
    [[], [0.5, 0.6], [0.5, 0.5], [[0.9, 0.5]], [1.0, 0.5], [0.5, 0.0], [0.5, -0.1], [0.5, math.nan], 0.5],
    ids=str,
)
def test_a_table_that_does_not_fall_inside_zero_to_one_is_refused(table: Any) -> None:
    with pytest.raises(ValueError, match="strictly falling"):
        NoiseSchedule(table)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_schedulers_table_is_the_definition_within_the_error_of_float32(name: str) -> None:
    table = NoiseSchedule.of_scheduler(SCHEDULERS[name]()).alphas_cumprod
    assert table.dtype == np.float64
    # A float32 product of 1,000 factors: 1,000 roundings of 6e-8 at the very worst.
    np.testing.assert_allclose(table, LINEAR.alphas_cumprod, rtol=1000 * 2**-24)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_later_half_precision_call_of_the_scheduler_leaves_the_schedule_alone(name: str) -> None:
    scheduler = SCHEDULERS[name]()
    schedule = NoiseSchedule.of_scheduler(scheduler)
    before = schedule.alphas_cumprod.copy()
    image = torch.zeros(2, 1, 4, 4, dtype=torch.float16)
    scheduler.add_noise(image, image, torch.tensor([3, 700]))
    np.testing.assert_array_equal(schedule.alphas_cumprod, before)
    assert schedule.timestep(0.5) == NoiseSchedule(before).timestep(0.5)


def test_a_schedule_does_not_change_with_the_array_it_was_made_of() -> None:
    table = LINEAR.alphas_cumprod.copy()
    schedule = NoiseSchedule(table)
    table[:] = 0.5
    np.testing.assert_array_equal(schedule.alphas_cumprod, LINEAR.alphas_cumprod)


def test_a_schedule_that_is_not_linear_keeps_its_own_table() -> None:
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    schedule = NoiseSchedule.of_scheduler(scheduler)
    np.testing.assert_array_equal(schedule.alphas_cumprod, scheduler.alphas_cumprod.double().numpy())
    assert schedule.timestep(0.5) != LINEAR.timestep(0.5)


def test_a_scheduler_that_does_not_preserve_variance_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no alphas_cumprod"):
        NoiseSchedule.of_scheduler(diffusers.FlowMatchEulerDiscreteScheduler())
