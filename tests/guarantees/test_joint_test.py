# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The tests of one pixel, by enumeration of everything that can happen to it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from guarantees.oracles import simplex, table_faults, worst_error_ratio, worst_split_ratio

from monai_cert.certificate import ABSTAIN, certify
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.binomial import VoteTest, joint, split

TAUS = (0.5, 0.6, 0.75, 0.9)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("n", [7, 12, 20])
def test_joint_test_is_valid_and_tight(n: int, tau: float, classes: int) -> None:
    p_values = joint.p_values(n, tau)
    assert (p_values[: n // 2 + 1] == 1).all()
    assert 0.999 <= worst_error_ratio(p_values, tau, classes) <= 1 + 1e-12


@pytest.mark.parametrize("tau", TAUS)
def test_every_outcome_of_seven_draws_of_three_classes(tau: float) -> None:
    """The same without the reduction to tails: the certificate of each outcome, weighted by its probability."""
    n, noise = 7, GaussianNoise(1)
    outcomes = np.array([o for o in itertools.product(range(n + 1), repeat=3) if sum(o) == n])
    ways = np.array([math.factorial(n) / math.prod(map(math.factorial, o)) for o in outcomes])
    vectors = np.concatenate([simplex(3, 12), [[tau, 1 - tau, 0], [tau, 0, 1 - tau], [1 - tau, tau, 0]]])
    chances = ways * np.prod(vectors[:, None] ** outcomes, axis=2)
    np.testing.assert_allclose(chances.sum(1), 1)
    worst = 0.0
    for t in np.unique(joint.p_values(n, tau)):
        if t == 1:
            continue
        classes = np.array([certify(o[:, None], noise=noise, tau=tau, alpha=t).classes[0] for o in outcomes])
        wrong = (classes != ABSTAIN) & (vectors[:, np.maximum(classes, 0)] <= tau)
        worst = max(worst, float((chances * wrong).sum(1).max() / t))
    assert 0.999 <= worst <= 1 + 1e-12


@pytest.mark.parametrize("n0", [1, 3])
@pytest.mark.parametrize("tau", TAUS)
def test_split_test_is_valid(tau: float, n0: int) -> None:
    assert worst_split_ratio(tau, n0, n=7) <= 1 + 1e-12


@pytest.mark.parametrize("test", [joint, split], ids=lambda test: test.name)
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("n", [1, 2, 7, 20, 100])
def test_p_values_are_those_of_scipy(n: int, tau: float, test: VoteTest) -> None:
    assert table_faults(test, n, tau) == []


@pytest.mark.parametrize("test", [joint, split], ids=lambda test: test.name)
def test_p_values_fall_with_the_count_and_grow_with_tau(test: VoteTest) -> None:
    tables = np.array([test.p_values(50, tau) for tau in np.linspace(0.5, 0.99, 50)])
    assert (np.diff(tables, axis=1) <= 0).all()
    assert (np.diff(tables, axis=0) >= 0).all()
    assert tables.max() <= 1
