# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The record of a claim: what goes into it, what comes back from JSON, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from monai_cert.bounds import Bounds
from monai_cert.certificate import (
    ABSTAIN,
    ABSTAIN_ON_DISK,
    Certificate,
    Provenance,
    certify,
    classes_from_disk,
    classes_to_disk,
)
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.binomial import SplitTest
from monai_cert.statistics.multiplicity import bonferroni

NOISE = GaussianNoise(0.25)
VOTES = np.array([[[2, 40], [98, 0]], [[98, 60], [1, 0]], [[0, 0], [1, 100]]])
PROVENANCE = Provenance(
    seed=2**62 + 1,
    input_sha256="0" * 64,
    input_shape=(1, 2, 2),
    weights_sha256="1" * 64,
    batch_size=4,
    device="cpu",
    dtype="float32",
    versions={"monai_cert": "0.1"},
)


@pytest.fixture
def certificate() -> Certificate:
    return certify(VOTES, noise=NOISE, alpha=0.01, bounds=Bounds(-1, 1), provenance=PROVENANCE)


def test_classes_are_those_with_enough_votes(certificate: Certificate) -> None:
    np.testing.assert_array_equal(certificate.classes, [[1, ABSTAIN], [0, 2]])
    assert certificate.classes.dtype == np.int16
    assert (certificate.abstention, certificate.certified_fraction) == (0.25, 0.75)
    assert (certificate.num_classes, certificate.n, certificate.n0, certificate.draws) == (3, 100, 0, 100)
    assert (certificate.tested, certificate.bounds, certificate.sigma) == (4, (-1, 1), 0.25)
    assert (certificate.test, certificate.correction, certificate.error) == ("joint", "holm", "family-wise")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64])
def test_type_of_the_counts_changes_nothing(certificate: Certificate, dtype: type[np.integer[Any]]) -> None:
    np.testing.assert_array_equal(certify(VOTES.astype(dtype), noise=NOISE, alpha=0.01).classes, certificate.classes)
    votes = torch.from_numpy(VOTES.astype(dtype))
    np.testing.assert_array_equal(certify(votes, noise=NOISE, alpha=0.01).classes, certificate.classes)


def test_sums_of_small_integers_do_not_wrap() -> None:
    """44 + 8 * 32 is 300 draws; modulo 256 it would be 44 of 44 votes."""
    votes = np.array([[44]] + [[32]] * 8, dtype=np.uint8)
    assert certify(votes, noise=NOISE).n == 300
    assert (certify(votes, noise=NOISE).classes == ABSTAIN).all()


@pytest.mark.parametrize(("dtype", "others"), [(np.uint8, 145), (np.int8, 95), (np.int64, 145)])
def test_a_chosen_class_with_few_votes_is_not_certified_in_any_type(dtype: type[np.integer[Any]], others: int) -> None:
    """10 votes of 300 are 290 short of all; modulo 256 they would be 34 short."""
    votes = np.array([[10], [others], [others]], dtype=dtype)
    selection = np.array([[10], [0], [0]])
    assert certify(votes, selection=selection, noise=NOISE, test=SplitTest(10)).classes.tolist() == [ABSTAIN]


def test_split_test_certifies_the_chosen_class_and_no_other() -> None:
    votes = np.array([[0, 0, 100], [100, 100, 0]])
    selection = np.array([[1, 8, 9], [9, 2, 1]])
    certificate = certify(votes, selection=selection, noise=NOISE, test=SplitTest(10), correction=bonferroni)
    np.testing.assert_array_equal(certificate.classes, [1, ABSTAIN, 0])
    assert (certificate.n, certificate.n0, certificate.draws) == (100, 10, 110)
    assert (certificate.test, certificate.correction) == ("split", "bonferroni")


def test_label_maps_on_disk_are_the_ones_in_memory() -> None:
    classes = np.array([ABSTAIN, 0, 1, 254], dtype=np.int16)
    stored = classes_to_disk(classes)
    assert stored.dtype == np.uint8
    assert stored.tolist() == [ABSTAIN_ON_DISK, 0, 1, 254]
    np.testing.assert_array_equal(classes_from_disk(stored), classes)
    assert classes_from_disk(stored).dtype == np.int16
    every = np.arange(256).astype(np.uint8)
    np.testing.assert_array_equal(classes_to_disk(classes_from_disk(every)), every)
    with pytest.raises(ValueError, match="classes below 255, got 255"):
        classes_to_disk(np.array([255], dtype=np.int16))


@pytest.mark.parametrize("tau", np.linspace(0.5, 0.95, 19))
def test_radius_map_is_rounded_down(tau: float) -> None:
    certificate = certify(np.array([[0, 500], [1000, 500]]), noise=NOISE, tau=float(tau))
    stored = certificate.radius_map
    assert stored.dtype == np.float32
    assert stored[1] == 0
    assert Decimal(float(stored[0])) <= Decimal(certificate.radius)
    assert tau == 0.5 or float(np.nextafter(stored[0], np.float32(1))) > certificate.radius


def test_the_chance_is_not_rounded_up_to_certainty(certificate: Certificate) -> None:
    assert "With probability at least 0.9999999999 over" in replace(certificate, alpha=1e-11).statement
    assert "(pixel values from -1.23456789 to 1)" in replace(certificate, bounds=(-1.23456789, 1.0)).statement


def test_statement_has_the_numbers(certificate: Certificate) -> None:
    for number in (
        "at least 0.99 ",
        "for all of the 3 certified pixels at once (of 4): ",
        "below 0.1686 ",
        "from -1 to 1",
    ):
        assert number in certificate.statement
    rounded_down = replace(certificate, radius=math.nextafter(0.2, 0.0))
    assert "below 0.1999 " in rounded_down.statement


@pytest.mark.parametrize(
    "votes",
    [
        np.array([[1, 40], [98, 60]]),
        np.array([[0, 0], [0, 0]]),
        np.array([[-1, 100], [101, 0]]),
        torch.tensor([[100, 99], [0, 0]]),
    ],
)
def test_votes_that_do_not_sum_to_one_n_are_refused(votes: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="sum to the same number of draws"):
        certify(votes, noise=NOISE)


@pytest.mark.parametrize(
    "votes",
    [
        np.array([[0.0], [100.0]]),
        torch.tensor([[0.0], [100.0]]),
        np.array([[False], [True]]),
        np.array([[100, 100]]),
        np.array([0, 100]),
        np.zeros((2, 0), dtype=int),
    ],
)
def test_what_is_no_count_is_refused(votes: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(ValueError, match="votes must be integers"):
        certify(votes, noise=NOISE)


@pytest.mark.parametrize("mask", [np.ones((2, 2), dtype=int), np.ones(4, dtype=bool), np.ones((1, 2), dtype=bool)])
def test_wrong_mask_is_refused(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"hypotheses must be boolean of shape \(2, 2\)"):
        certify(VOTES, noise=NOISE, hypotheses=mask)


def test_selection_belongs_to_the_split_test() -> None:
    selection = np.array([[0], [10]])
    votes = np.array([[0], [100]])
    for settings in ({"selection": selection}, {"test": SplitTest(10)}, {"test": SplitTest(9), "selection": selection}):
        with pytest.raises(ValueError, match="were given as selection"):
            certify(votes, noise=NOISE, **settings)


@pytest.mark.parametrize(("name", "values"), [("alpha", (0.0, 1.0, -0.1, math.nan)), ("tau", (0.49, 1.0, math.nan))])
def test_probabilities_out_of_range_are_refused(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must lie in"):
            certify(VOTES, noise=NOISE, **{name: value})


def test_no_hypotheses_certify_nothing() -> None:
    certificate = certify(VOTES, noise=NOISE, hypotheses=np.zeros((2, 2), dtype=bool))
    assert (certificate.classes == ABSTAIN).all()
    assert certificate.tested == 0


def test_pixels_outside_the_hypotheses_abstain() -> None:
    mask = np.array([[True, True], [False, True]])
    certificate = certify(VOTES, noise=NOISE, hypotheses=mask)
    np.testing.assert_array_equal(certificate.classes, [[1, ABSTAIN], [ABSTAIN, 2]])
    assert certificate.tested == 3


def test_counts_beyond_the_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to the same number of draws"):
        certify(np.array([[0, 65_536], [100, 100]]), noise=NOISE)


def test_any_view_of_an_array_will_do() -> None:
    flipped = certify(np.ascontiguousarray(VOTES[..., ::-1]), noise=NOISE).classes
    np.testing.assert_array_equal(certify(VOTES[..., ::-1], noise=NOISE).classes, flipped)
    read_only = VOTES.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(certify(read_only, noise=NOISE).classes, flipped[..., ::-1])


@pytest.mark.parametrize("shape", [(2, 1), (2, 3), (3, 2)])
def test_selection_of_another_shape_is_refused(shape: tuple[int, int]) -> None:
    selection = np.zeros(shape, dtype=int)
    selection[-1] = 10
    with pytest.raises(ValueError, match="shape"):
        certify(np.array([[0, 0], [100, 100]]), noise=NOISE, test=SplitTest(10), selection=selection)
