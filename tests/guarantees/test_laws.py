# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Laws that hold whatever the network and the votes."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import torch
from guarantees.oracles import Levels, noise_faults
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from monai.networks.nets import UNet
from scipy.stats import binom, kstest
from statsmodels.stats.multitest import multipletests

from monai_cert.certificate import ABSTAIN, certify
from monai_cert.inferers.certification import CertificationInferer
from monai_cert.noise import GaussianNoise, draw_seeds, image_key
from monai_cert.statistics.binomial import (
    SplitTest,
    VoteTest,
    certified_radius,
    joint,
    min_samples,
    split,
    tau_for_radius,
    tau_max,
    votes_needed,
)
from monai_cert.statistics.multiplicity import Correction, bonferroni, holm

N = 100
NOISE = GaussianNoise(0.25)
BOTH_TESTS = pytest.mark.parametrize("test", [joint, split], ids=lambda test: test.name)
BOTH_CORRECTIONS = pytest.mark.parametrize("correction", [holm, bonferroni])
LAW = settings(max_examples=40)

Votes = npt.NDArray[np.int64]


@st.composite
def random_votes(draw: st.DrawFn, n: int = N) -> Votes:
    """Votes of up to 60 pixels, many of them nearly unanimous and many tied."""
    sizes = st.lists(st.integers(0, n // 2) | st.integers(0, n // 10), min_size=1, max_size=60)
    others = np.array(draw(sizes))
    second = draw(st.integers(0, 3))
    split_others = np.minimum(others, second)
    votes = np.stack([n - others, split_others, others - split_others])
    return votes[draw(st.permutations(range(3)))]


def decided(
    votes: Votes,
    alpha: float,
    test: VoteTest,
    correction: Correction = holm,
    mask: npt.NDArray[np.bool_] | None = None,
    tau: float = 0.75,
) -> npt.NDArray[np.int16]:
    """Classes of a certificate; the split test has chosen the class with the most votes."""
    selection = test.n0 * np.eye(len(votes), dtype=int)[votes.argmax(axis=0)].T if test.n0 else None
    settings_ = {"noise": NOISE, "tau": tau, "alpha": alpha, "test": test, "correction": correction}
    return certify(votes, selection=selection, hypotheses=mask, **settings_).classes


@BOTH_CORRECTIONS
@BOTH_TESTS
@LAW
@given(votes=random_votes(), seed=st.integers(0, 2**32 - 1))
def test_permuting_pixels_permutes_the_certificate(
    test: VoteTest, correction: Correction, votes: Votes, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(votes.shape[1])
    np.testing.assert_array_equal(
        decided(votes[:, order], 0.01, test, correction), decided(votes, 0.01, test, correction)[order]
    )


@pytest.mark.parametrize(("n", "tau"), [(N, 0.75), (12, 0.6), (5, 0.5)])
@BOTH_CORRECTIONS
@BOTH_TESTS
@LAW
@given(data=st.data(), alphas=st.tuples(*[st.floats(1e-9, 0.99)] * 2))
def test_larger_alpha_never_certifies_less(
    n: int, tau: float, test: VoteTest, correction: Correction, data: st.DataObject, alphas: tuple[float, float]
) -> None:
    """Also in so few draws that strays cost the joint test much."""
    votes = data.draw(random_votes(n))
    less, more = (decided(votes, alpha, test, correction, tau=tau) for alpha in sorted(alphas))
    assert (more == less)[less != ABSTAIN].all()


@BOTH_TESTS
@LAW
@given(votes=random_votes(), alpha=st.floats(1e-9, 0.5))
def test_holm_contains_bonferroni(test: VoteTest, votes: Votes, alpha: float) -> None:
    fewer, more = (decided(votes, alpha, test, correction) for correction in (bonferroni, holm))
    assert (more == fewer)[fewer != ABSTAIN].all()


@pytest.mark.parametrize(("correction", "method"), [(holm, "holm"), (bonferroni, "bonferroni")])
@BOTH_TESTS
def test_decisions_are_those_of_statsmodels(correction: Correction, method: str, test: VoteTest) -> None:
    rng = np.random.default_rng(0)
    for alpha, pixels, difficulty in [(0.2, 50, 0.2), (0.05, 1000, 0.15), (0.01, 5000, 0.1), (0.001, 40_000, 0.1)]:
        others = rng.binomial(N, rng.uniform(0, difficulty, pixels))
        expected = multipletests(test.p_values(N, 0.75)[N - others], alpha, method)[0]
        assert 0 < expected.sum() < pixels
        np.testing.assert_array_equal(decided(np.stack([others, N - others]), alpha, test, correction) >= 0, expected)


@BOTH_CORRECTIONS
@BOTH_TESTS
@LAW
@given(votes=random_votes(), seed=st.integers(0, 2**32 - 1))
def test_a_mask_of_hypotheses_never_hurts_the_pixels_inside(
    test: VoteTest, correction: Correction, votes: Votes, seed: int
) -> None:
    mask = np.random.default_rng(seed).random(votes.shape[1]) < 0.5
    without, within = (decided(votes, 0.001, test, correction, m) for m in (None, mask))
    assert (within == without)[mask & (without != ABSTAIN)].all()
    assert (within[~mask] == ABSTAIN).all()


@pytest.mark.parametrize("test", [joint, SplitTest(5)], ids=lambda test: test.name)
def test_votes_sum_to_n_and_the_certificate_is_that_of_the_votes(test: VoteTest) -> None:
    torch.manual_seed(0)
    network = UNet(2, 1, 3, channels=(4, 8), strides=(2,)).eval()
    image = torch.rand(2, 1, 8, 8)
    inferer = CertificationInferer(NOISE, n=40, alpha=0.1, test=test, seed=1)
    assert (inferer.votes(image, network).sum(1) == 40).all()
    for sample, certificate in zip(inferer.sample(image, network), inferer.certify(image, network), strict=True):
        np.testing.assert_array_equal(inferer.decide(sample).classes, certificate.classes)
        assert (certificate.n, certificate.n0, certificate.tested) == (40, test.n0, 64)


def test_draws_that_choose_are_not_tested() -> None:
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.extend(x)
        return x - 0.5

    image = torch.full((1, 1, 4, 4), 0.5)
    (sample,) = CertificationInferer(NOISE, n=40, alpha=0.1, test=SplitTest(5), seed=1).sample(image, network)
    draws = torch.cat(seen)
    assert len(draws.unique(dim=0)) == 45
    assert sample.selection is not None
    assert torch.equal(sample.selection[1], (draws[:5] > 0.5).sum(0))
    assert torch.equal(sample.votes[1], (draws[5:] > 0.5).sum(0))


def test_noise_of_a_draw_depends_on_seed_image_and_draw_alone() -> None:
    image, other = torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(0))
    seeds = draw_seeds(7, image_key(image), range(10))
    together = NOISE.perturb(image, seeds)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 -- the global state must not matter
    assert torch.equal(together, torch.cat([NOISE.perturb(image, seeds[j : j + 1]) for j in range(10)]))
    assert torch.equal(together, NOISE.perturb(image, seeds[::-1]).flip(0))
    assert torch.equal(together[3:7], NOISE.perturb(image, draw_seeds(7, image_key(image), range(3, 7))))
    streams = [draw_seeds(seed, image_key(x), range(10)) for seed in (7, 8) for x in (image, other)]
    assert len({seed for stream in streams for seed in stream}) == 40


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_certificate_of_an_image_depends_on_no_other_image(batch_size: int) -> None:
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    inferer = CertificationInferer(NOISE, n=40, seed=5, alpha=0.1)
    alone = torch.cat([inferer.votes(image[None], Levels().eval()) for image in images])
    inferer.batch_size = batch_size
    assert torch.equal(inferer.votes(images, Levels().eval()), alone)
    assert torch.equal(inferer.votes(images.flip(0), Levels().eval()), alone.flip(0))
    assert len(alone.unique(dim=0)) == 3


@pytest.mark.parametrize("sigma", [0.1, 0.25, 1.0])
def test_noise_is_gaussian_white_and_of_deviation_sigma(sigma: float) -> None:
    seeds = draw_seeds(3, "noise", range(64))
    assert noise_faults(GaussianNoise(sigma), sigma, seeds) == []
    noise = GaussianNoise(sigma).perturb(torch.zeros(3, 16, 16), seeds).numpy().ravel()
    assert kstest(noise / sigma, "norm").pvalue > 1e-6


def test_no_two_draws_are_correlated() -> None:
    """Also draws of different seeds and images, whose streams are not neighbors."""
    seeds = [s for seed in range(4) for key in "ab" for s in draw_seeds(seed, key, range(8))]
    noise = GaussianNoise(1).perturb(torch.zeros(1, 64, 64), seeds).flatten(1).double().numpy()
    correlation = np.corrcoef(noise)[np.triu_indices(len(seeds), 1)]
    assert abs(correlation).max() < 6 / 64


@BOTH_TESTS
@pytest.mark.parametrize("pixels", [1, 64, 65_536, 262_144])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.5])
@pytest.mark.parametrize("tau", [0.5, 0.6, 0.75, 0.9, 0.99])
def test_min_samples_is_tight(tau: float, alpha: float, pixels: int, test: VoteTest) -> None:
    n = min_samples(tau, alpha, pixels, test)
    assert test.p_values(n, tau)[n] <= alpha / pixels
    assert n == 1 or test.p_values(n - 1, tau)[n - 1] > alpha / pixels
    assert votes_needed(n, tau, alpha / pixels, test) == n


@BOTH_TESTS
@pytest.mark.parametrize("n", [30, 100, 1000])
def test_tau_max_is_the_largest_tau_that_all_votes_prove(n: int, test: VoteTest) -> None:
    level = 0.001 / 65_536
    tau = tau_max(n, 0.001, 65_536, test)
    assert test.p_values(n, tau)[n] <= level < test.p_values(n, tau + 1e-12)[n]
    assert min_samples(tau, 0.001, 65_536, test) == n
    assert tau == pytest.approx(level ** (1 / n), abs=1e-4)


def test_numbers_of_the_documentation() -> None:
    level = 0.001 / 65_536
    assert votes_needed(110, 0.75, level, joint) == 105
    assert votes_needed(100, 0.75, level, split) == 97
    certified = [[binom.sf(k - 1, n, p) for n, k in ((110, 105), (100, 97))] for p in (0.95, 0.97)]
    np.testing.assert_allclose(certified, [[0.53, 0.26], [0.89, 0.65]], atol=0.005)
    assert tau_max(100, 0.001, 512 * 512) == pytest.approx(0.824, abs=5e-4)
    assert GaussianNoise(1).radius(0.824) == pytest.approx(0.93, abs=5e-3)
    needed = votes_needed(100, 0.75, 0.001)
    assert needed is not None
    assert joint.strays(100, 0.75)[needed] < 1e-36
    assert votes_needed(20, 0.75, level) is None


@settings(max_examples=40, phases=[Phase.generate])
@given(sigma=st.floats(0.01, 2), tau=st.floats(0.5, 0.9999))
def test_radius_is_rounded_toward_zero(sigma: float, tau: float) -> None:
    """Against the quantile in 40 digits, of the noise as it is drawn, in float32."""
    with mpmath.workdps(40):
        drawn = mpmath.mpf(min(sigma, float(np.float32(sigma))))
        exact = drawn * mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(tau) - 1)
        assert exact * (1 - mpmath.mpf("1e-14")) - mpmath.mpf("1e-16") <= certified_radius(sigma, tau) <= exact


@LAW
@given(sigma=st.floats(0.05, 2), radius=st.floats(0, 2))
def test_tau_for_radius_is_the_inverse_of_radius(sigma: float, radius: float) -> None:
    if radius > 5 * sigma:
        radius = 5 * sigma
    tau = tau_for_radius(sigma, radius)
    assert certified_radius(sigma, tau) >= radius
    assert tau == 0.5 or certified_radius(sigma, tau - 1e-13) < radius


def test_impossible_requests_are_refused() -> None:
    for tau in (0.4, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"tau must lie in \[1/2, 1\)"):
            min_samples(tau, 0.001, 1)
        with pytest.raises(ValueError, match=r"tau must lie in \[1/2, 1\)"):
            joint.p_values(10, tau)
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"alpha must lie in \(0, 1\)"):
            min_samples(0.75, alpha, 1)
    with pytest.raises(ValueError, match="at least one pixel must be tested"):
        min_samples(0.75, 0.001, 0)
    with pytest.raises(ValueError, match="n must be at least 1"):
        split.p_values(0, 0.75)
    with pytest.raises(ValueError, match="at least one draw to choose with"):
        SplitTest(0)
    with pytest.raises(ValueError, match="at least n = 27 are needed"):
        tau_max(20, 0.001, 65_536)
    for radius in (-1.0, math.nan):
        with pytest.raises(ValueError, match="radius must not be negative"):
            tau_for_radius(0.25, radius)
    with pytest.raises(ValueError, match="take a larger sigma"):
        tau_for_radius(0.25, 10)
