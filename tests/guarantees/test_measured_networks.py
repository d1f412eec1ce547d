# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certified measurements of real networks under the real noise, whose laws are known; attacked by construction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from guarantees.oracles import Hyperplane, Levels, Oracle, exceeds
from scipy.stats import binom, norm

from monai_cert.inferers.certification import CertificationInferer
from monai_cert.inferers.recording import MaskRecorder, MeasurementRecorder
from monai_cert.measurements import measurements_of
from monai_cert.metrics.whole_mask import whole_mask_measurements
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.percentile import MeasurementCertificate

SIGMA, TRIALS, N = 0.1, 300, 50
RADII = (0.03, 0.06)
NAMES = ["background", "bright"]
FLAT = torch.full((1, 3, 3), 0.55)


def certified(oracle: Oracle, image: torch.Tensor, seed: int, alpha: float, n: int = N) -> MeasurementCertificate:
    recorders = [lambda x: MeasurementRecorder(measurements_of(["area"], NAMES, x.shape[1:]))]
    inferer = CertificationInferer(
        GaussianNoise(SIGMA), tau=0.5, alpha=0.5, n=n, batch_size=n, seed=seed, recorders=recorders
    )
    (recorder,) = inferer.sample(image[None], oracle.eval())[0].recorded
    assert isinstance(recorder, MeasurementRecorder)
    return recorder.certify(SIGMA, alpha, RADII)


def median_areas(oracle: Oracle, image: torch.Tensor, attacks: list[torch.Tensor]) -> list[float]:
    """Medians under attack, of pixels that are independent (or all one): from the oracle's own probabilities."""
    medians = []
    for attack in attacks:
        p = oracle.probabilities(image + attack, SIGMA)[1].ravel()
        if isinstance(oracle, Hyperplane):
            medians.append(float(len(p) * (p[0] > 0.5)))
            continue
        law = np.ones(1)
        for one in p:
            law = np.convolve(law, [1 - one, one])
        medians.append(float(np.searchsorted(law.cumsum(), 0.5)))
    return medians


def attacks_on_pixels(radius: float) -> list[torch.Tensor]:
    """Up or down by this l2 size, on one pixel, on two, ..., on all."""
    attacks = []
    for moved in range(1, 10):
        mask = (torch.arange(9) < moved).view(1, 3, 3).double()
        attacks += [sign * radius / moved**0.5 * mask for sign in (-1, 1)]
    return attacks


def test_area_of_a_threshold_network_is_binomial() -> None:
    """The law that the tests below rest on."""
    recorder = MeasurementRecorder(measurements_of(["area"], NAMES, (3, 3)))
    CertificationInferer(
        GaussianNoise(SIGMA), tau=0.5, alpha=0.5, n=4000, seed=0, recorders=[lambda image: recorder]
    ).sample(FLAT[None], Levels().eval())
    counts = np.bincount(recorder.values()[0].astype(int), minlength=10)
    law = binom.pmf(np.arange(10), 9, norm.cdf(0.05 / SIGMA))
    assert (abs(counts - 4000 * law) < 5 * np.sqrt(4000 * law * (1 - law)) + 5).all()


@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_median_area_of_a_threshold_network_stays_within(alpha: float) -> None:
    oracle, wrong = Levels().eval(), 0
    moved = [median_areas(oracle, FLAT, attacks_on_pixels(radius * (1 - 1e-6))) for radius in RADII]
    lowest, highest = np.min(moved, axis=1), np.max(moved, axis=1)
    assert (lowest < highest).all()
    for seed in range(TRIALS):
        c = certified(oracle, FLAT, seed, alpha)
        wrong += bool(((c.lower[0] > lowest) | (c.upper[0] < highest)).any())
    assert not exceeds(alpha, wrong, TRIALS)


@pytest.mark.parametrize("alpha", [0.1, 0.2])
@pytest.mark.parametrize("distance", [0.045, 0.0599])
def test_median_area_of_a_hyperplane_stays_within(distance: float, alpha: float) -> None:
    """All pixels or none: between the radii, and just within the second, an attack along the normal turns all."""
    weight = torch.ones(1, 3, 3)
    plane = Hyperplane(weight, float(FLAT.sum()) - distance * 3, torch.ones(3, 3)).eval()
    normal = weight.double() / 3
    turned = [median_areas(plane, FLAT, [-radius * normal])[0] for radius in RADII]
    assert turned == [9, 0]
    wrong = 0
    for seed in range(TRIALS):
        c = certified(plane, FLAT, seed, alpha)
        wrong += bool((c.lower[0] > turned).any() or (c.upper[0] < 9).any())
    assert not exceeds(alpha, wrong, TRIALS)


def test_bounds_of_a_hyperplane_are_met_by_its_normal() -> None:
    """Just beyond what is certified to hold, the attack along the normal makes it fail: the bound is tight."""
    weight = torch.ones(1, 3, 3)
    plane = Hyperplane(weight, float(FLAT.sum()) - 0.055 * 3, torch.ones(3, 3)).eval()
    c = certified(plane, FLAT, 0, 0.001, n=4000)
    assert c.lower[0].tolist() == [9, 0]
    assert median_areas(plane, FLAT, [-0.056 * weight.double() / 3]) == [0]


@pytest.mark.parametrize("alpha", [0.2])
def test_dice_with_the_majority_of_other_draws_stays_within(alpha: float) -> None:
    """The reference differs from trial to trial; given it, the median Dice under each attack is found by drawing."""
    oracle, wrong = Levels().eval(), 0
    image = torch.linspace(0.42, 0.62, 9).view(1, 3, 3)
    noise = np.random.default_rng(0).normal(0, SIGMA, (2000, 9))
    attacks = attacks_on_pixels(RADII[0] * (1 - 1e-6))[::3]
    attacked = [(image + attack).double().numpy().ravel() + noise > 0.5 for attack in attacks]
    for seed in range(TRIALS):
        inferer = CertificationInferer(
            GaussianNoise(SIGMA),
            tau=0.5,
            alpha=0.5,
            n=N,
            batch_size=N,
            seed=seed,
            recorders=[lambda x: MaskRecorder(2)],
        )
        (recorder,) = inferer.sample(image[None], oracle)[0].recorded
        assert isinstance(recorder, MaskRecorder)
        c = recorder.certify(lambda r: whole_mask_measurements(["dice"], NAMES, r), 10, SIGMA, alpha, RADII[:1])
        reference = recorder.majority(10).ravel() > 0
        both = [(masks & reference).sum(1) * 2 / (masks.sum(1) + reference.sum()) for masks in attacked]
        medians = [np.quantile(dice, 0.5, method="inverted_cdf") for dice in both]
        wrong += bool(min(medians) < c.lower[0, 0] - 1e-6 or max(medians) > c.upper[0, 0] + 1e-6)
    assert not exceeds(alpha, wrong, TRIALS)
