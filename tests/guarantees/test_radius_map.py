# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Every radius at once: exact error by enumeration, all radii of an image together, attacks of just that size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from guarantees.oracles import VALID, FloatArray, Hyperplane, Levels, exceeds, simplex
from scipy.stats import binom, norm

from monai_cert.certificate import ABSTAIN, Certificate, certify
from monai_cert.inferers.certification import CertificationInferer
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.binomial import SplitTest, joint, split
from monai_cert.statistics.multiplicity import bonferroni, generalized_holm
from monai_cert.statistics.radius_map import RadiusMap, radius_map

SIGMA = 0.1
NOISE = GaussianNoise(SIGMA)


@dataclass(frozen=True)
class OneThresholdAfterAnother(RadiusMap):
    """For each count the largest threshold at which the test of that threshold certifies it."""

    def taus(self, n: int, level: float) -> FloatArray:
        found = np.zeros(n + 1)
        for k in np.flatnonzero(self.test.p_values(n, 0.5) <= level):
            low, high = 0.5, 1.0
            for _ in range(54):
                middle = (low + high) / 2
                low, high = (middle, high) if self.test.p_values(n, middle)[k] <= level else (low, middle)
            found[k] = low
        return found


def worst_error(test: RadiusMap, n: int, level: float, classes: int) -> float:
    """max of P(top class c has P(c) < tau(count)) / level over a grid of laws and those at each threshold."""
    taus = test.taus(n, level)
    edges = [t - 1e-12 for t in taus if t > 0.5]
    laws = np.concatenate([simplex(classes, 20), [[q, 1 - q] + [0.0] * (classes - 2) for q in (0.5, *edges)]])
    counts = np.arange(n // 2 + 1, n + 1)
    chance = binom.pmf(counts[:, None, None], n, laws)
    return float((chance * (laws < taus[counts][:, None, None])).sum((0, 2)).max() / level)


@pytest.mark.parametrize("level", [0.9, 0.5, 0.2, 0.05])
@pytest.mark.parametrize("n", [7, 12, 20])
def test_the_error_of_a_pixel_is_the_level_and_never_more(n: int, level: float) -> None:
    for classes in (2, 3, 4):
        assert worst_error(radius_map, n, level, classes) <= VALID
    if joint.p_values(n, 0.5)[n] <= level:
        assert worst_error(radius_map, n, level, 2) > 0.99


def test_one_threshold_after_another_is_caught() -> None:
    """That each threshold is tested rightly is not enough: minorities are certified from the least count on."""
    for n, level in ((7, 0.5), (12, 0.9), (20, 0.1)):
        assert worst_error(OneThresholdAfterAnother(), n, level, 2) > 1.001


def falsely_certified(certificate: Certificate, probabilities: FloatArray) -> np.ndarray:
    """Certified pixels whose class does not hold as much as their radius says."""
    held = np.take_along_axis(probabilities, np.maximum(certificate.classes, 0)[None].astype(np.intp), axis=0)[0]
    return (certificate.classes != ABSTAIN) & (SIGMA * norm.ppf(held) < certificate.radius_map)


@pytest.mark.parametrize("test", [radius_map, RadiusMap(SplitTest(5))], ids=lambda test: test.name)
@pytest.mark.parametrize("alpha", [0.1, 0.2])
def test_all_radii_of_an_image_hold_together(alpha: float, test: RadiusMap) -> None:
    """Pixels at all distances from the threshold, whose counts use up most of alpha."""
    image = torch.linspace(0.5, 0.75, 12).view(1, 3, 4)
    probabilities, trials, wrong, n = Levels().eval().probabilities(image, SIGMA), 600, 0, 40
    inferer = CertificationInferer(NOISE, alpha=alpha, n=n, test=test, batch_size=n + test.n0)
    for seed in range(trials):
        inferer.seed = seed
        (certificate,) = inferer.certify(image[None], Levels().eval())
        wrong += bool(falsely_certified(certificate, probabilities).any())
    assert not exceeds(alpha, wrong, trials)
    assert wrong > 0.2 * alpha * trials
    (certificate,) = CertificationInferer(NOISE, alpha=0.9, n=n, test=test, seed=0).certify(
        image[None], Levels().eval()
    )
    assert len(np.unique(certificate.radius_map)) > 3


def test_an_attack_of_the_certified_size_turns_no_majority() -> None:
    """Straight at the plane, by just less than the radius of the pixels; beyond its distance all turn."""
    pixels = torch.linspace(0, 1, 25).view(1, 5, 5)
    weight = torch.linspace(-1, 2, 25).view(1, 5, 5)
    middle = float((weight * pixels).sum())
    for distance in (0.05, 0.1, 0.2):
        plane = Hyperplane(weight, middle - distance * float(weight.norm()), torch.ones(5, 5)).eval()
        inferer = CertificationInferer(NOISE, alpha=0.001, n=2000, test=radius_map, seed=1)
        (certificate,) = inferer.certify(pixels[None], plane)
        radius = float(certificate.radius_map.max())
        reach = SIGMA * norm.ppf(radius_map.taus(2000, 0.001 / 25)[-1])
        assert 0 < radius <= distance
        assert radius == pytest.approx(min(distance, reach), rel=0.3)
        (attacked,) = plane.worst_case(pixels, SIGMA, radius * (1 - 1e-6))
        assert (plane.majority(attacked, SIGMA) == certificate.classes).all()
        (beyond,) = plane.worst_case(pixels, SIGMA, distance * 1.01)
        assert (plane.majority(beyond, SIGMA) != certificate.classes).all()


@pytest.mark.parametrize("test", [joint, split], ids=lambda test: test.name)
def test_a_radius_is_reached_just_where_one_threshold_certifies(test: SplitTest) -> None:
    """Every single threshold is read off the map: the same pixels as with it alone and Bonferroni."""
    others = np.arange(51)
    votes = np.stack([others, 100 - others])
    selection = np.stack([np.zeros(51, int), np.full(51, test.n0)]) if test.n0 else None
    every = certify(votes, noise=NOISE, test=RadiusMap(test), selection=selection)
    for tau in (0.51, 0.6, 0.75, 0.8):
        one = certify(votes, noise=NOISE, test=test, tau=tau, correction=bonferroni, selection=selection)
        np.testing.assert_array_equal(every.radius_map >= one.radius * (1 - 1e-6), one.classes != ABSTAIN)


def test_more_draws_alpha_or_tolerance_reach_farther() -> None:
    votes = np.stack([np.arange(30), 200 - np.arange(30)])
    settings = {"noise": NOISE, "test": radius_map}
    least = certify(votes, alpha=0.001, **settings)
    for more in (
        certify(votes, alpha=0.01, **settings),
        certify(votes * 2, alpha=0.001, **settings),
        certify(votes, alpha=0.001, correction=generalized_holm(5), **settings),
        certify(votes, alpha=0.001, hypotheses=np.arange(30) < 15, **settings),
    ):
        inside = more.radius_map > 0
        assert (more.radius_map > least.radius_map)[inside].all()
    assert (least.correction, least.error, least.tolerated) == ("bonferroni", "family-wise", 0)
    lenient = certify(votes, alpha=0.001, correction=generalized_holm(5), **settings)
    assert (lenient.correction, lenient.error, lenient.tolerated) == ("bonferroni", "k-family-wise", 4)
