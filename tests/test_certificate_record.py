# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The record as JSON: everything that a certificate says comes back, old records are read, others are refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from monai_cert.bounds import Bounds
from monai_cert.certificate import (
    ABSTAIN,
    Certificate,
    Provenance,
    adjusted_p_values,
    certify,
    certify_evidence,
    classes_from_disk,
    classes_to_disk,
)
from monai_cert.evidence import weigh
from monai_cert.hierarchy import Hierarchy
from monai_cert.inferers.certification import CertificationInferer
from monai_cert.noise import GaussianNoise
from monai_cert.sequential import SequentialCertification
from monai_cert.statistics.binomial import joint
from monai_cert.statistics.looks import equal_split
from monai_cert.statistics.multiplicity import generalized_holm
from monai_cert.statistics.radius_map import radius_map

NOISE = GaussianNoise(0.25)
# Certified as class 1; as neither; as class 0; as class 0 or 1.
VOTES = np.array([[[2, 40], [98, 50]], [[98, 20], [1, 49]], [[0, 40], [1, 1]]])
MASK = np.array([[True, False], [True, True]])
TREE = Hierarchy(("a", "b", "c"), {"ab": ("a", "b")})
PROVENANCE = Provenance(
    seed=2**62 + 1,
    input_sha256="0" * 64,
    input_shape=(1, 2, 2),
    weights_sha256="1" * 64,
    batch_size=4,
    passes=((4, 10), (2, 30)),
    device="cpu",
    dtype="float32",
    autocast="bfloat16",
    compiled=True,
    processes=2,
    versions={"monai_cert": "0.2"},
)
# Written by version 0.1 for CLASSES_0_1.
RECORD_0_1 = {
    "num_classes": 3,
    "radius": 0.16862243754901982,
    "sigma": 0.25,
    "tau": 0.75,
    "alpha": 0.01,
    "n": 100,
    "n0": 0,
    "tested": 4,
    "bounds": [0.0, 1.0],
    "noise": "gaussian",
    "test": "joint",
    "correction": "holm",
    "error": "family-wise",
    "provenance": {
        "seed": 7,
        "input_sha256": "0" * 64,
        "input_shape": [1, 2, 2],
        "weights_sha256": "1" * 64,
        "batch_size": 4,
        "device": "cpu",
        "dtype": "float32",
        "versions": {"monai_cert": "0.1.0"},
    },
    "format": 1,
    "classes_shape": [2, 2],
    "classes_sha256": "259efc97dd379a85f5a978140fc7f7de2f24203747752a68fa4916c8257bdf77",
    "statement": "With probability at least 0.99 over the noise draws, for all 3 certified pixels at once (of 4): "
    "under every change of the image of l2 size below 0.1686 (pixel values from 0 to 1), the class that the network "
    "gives most often under the noise stays the certified one.",
}
CLASSES_0_1 = np.array([[1, ABSTAIN], [0, 2]], dtype=np.int16)


@pytest.fixture
def certificate() -> Certificate:
    """Every field of a probabilistic certificate other than its default."""
    table = SequentialCertification((40, 100), boundaries=equal_split).table(joint, 0.7)
    return certify_evidence(
        weigh(VOTES, lambda n: table, hierarchy=TREE),
        noise=NOISE,
        alpha=0.01,
        correction=generalized_holm(3),
        hypotheses=MASK,
        hypotheses_name="body",
        uniforms=np.full((2, 2), 0.99),
        stop=0.25,
        bounds=Bounds(-1, 1),
        provenance=PROVENANCE,
    )


def without_maps(certificate: Certificate) -> dict[str, Any]:
    maps = ("classes", "nodes", "radii")
    return {f.name: getattr(certificate, f.name) for f in fields(certificate) if f.name not in maps}


def test_certificate_says_how_it_was_made(certificate: Certificate) -> None:
    np.testing.assert_array_equal(certificate.classes, [[1, ABSTAIN], [0, ABSTAIN]])
    np.testing.assert_array_equal(certificate.nodes, [[1, ABSTAIN], [0, 3]])
    assert certificate.nodes is not None
    assert certificate.nodes.dtype == np.int16
    assert (certificate.correction, certificate.tolerated) == ("generalized_holm", 2)
    assert certificate.error == "k-family-wise"
    assert (certificate.looks, certificate.boundaries, certificate.stop) == ((40, 100), "equal", 0.25)
    assert (certificate.n, certificate.draws, certificate.tested) == (100, 100, 3)
    assert (certificate.randomized, certificate.hypotheses, certificate.hierarchy) == (True, "body", TREE)


def test_fixed_number_of_draws_leaves_no_looks() -> None:
    plain = certify(VOTES, noise=NOISE, hypotheses=MASK)
    assert (plain.looks, plain.boundaries, plain.stop, plain.hypotheses) == ((), None, None, "mask")
    assert (plain.tolerated, plain.randomized, plain.hierarchy, plain.nodes) == (0, False, None, None)
    assert certify(VOTES, noise=NOISE).hypotheses == "all"


def test_everything_comes_back(certificate: Certificate) -> None:
    least = certify(VOTES, noise=NOISE)
    for before in (certificate, certify(VOTES, noise=NOISE, provenance=PROVENANCE), least):
        back = Certificate.from_json(before.to_json(), before.classes, before.nodes)
        assert without_maps(back) == without_maps(before)
        np.testing.assert_array_equal(back.classes, before.classes)
        np.testing.assert_array_equal(back.nodes, before.nodes)
        assert back.to_json() == before.to_json()
        assert back.statement == before.statement
    defaults = without_maps(replace(certify(np.array([[0], [100]]), noise=NOISE), classes=least.classes))
    same = {name for name, value in without_maps(certificate).items() if value == defaults[name]}
    deterministic = {"kind", "lipschitz_constant", "rounding", "stability"}
    assert same <= {"radius", "sigma", "n", "n0", "noise", "test"} | deterministic


def test_maps_may_come_from_disk(certificate: Certificate) -> None:
    assert certificate.nodes is not None
    classes, nodes = (classes_from_disk(classes_to_disk(m)) for m in (certificate.classes, certificate.nodes))
    assert without_maps(Certificate.from_json(certificate.to_json(), classes, nodes)) == without_maps(certificate)


def test_record_explains_itself(certificate: Certificate) -> None:
    record = json.loads(certificate.to_json())
    assert record["statement"] == certificate.statement
    assert not {"classes", "nodes"} & set(record)
    assert record["provenance"]["seed"] == 2**62 + 1
    assert record["hierarchy"] == {"classes": ["a", "b", "c"], "groups": {"ab": ["a", "b"]}}
    assert record["looks"] == [40, 100]
    assert record["provenance"]["passes"] == [[4, 10], [2, 30]]


def test_records_of_the_first_version_mean_what_they_meant() -> None:
    back = Certificate.from_json(json.dumps(RECORD_0_1), CLASSES_0_1)
    written = Provenance(
        seed=7,
        input_sha256="0" * 64,
        input_shape=(1, 2, 2),
        weights_sha256="1" * 64,
        batch_size=4,
        device="cpu",
        dtype="float32",
        versions={"monai_cert": "0.1.0"},
    )
    votes = np.array([[[2, 40], [98, 0]], [[98, 60], [1, 0]], [[0, 0], [1, 100]]])
    assert without_maps(back) == without_maps(certify(votes, noise=NOISE, alpha=0.01, provenance=written))
    assert (back.tolerated, back.looks, back.randomized, back.nodes) == (0, (), False, None)
    np.testing.assert_array_equal(back.classes, CLASSES_0_1)


@pytest.mark.parametrize("missing", [name for name in RECORD_0_1 if name != "format"])
def test_a_record_of_the_first_version_lacks_no_other_field(missing: str) -> None:
    record = {name: value for name, value in RECORD_0_1.items() if name != missing}
    with pytest.raises(ValueError, match=f"unknown or missing fields: {missing}"):
        Certificate.from_json(json.dumps(record), CLASSES_0_1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signature": 1}, "unknown or missing fields: signature"),
        ({"tau": None}, "unknown or missing fields: tau"),
        ({"tolerated": None}, "unknown or missing fields: tolerated"),
        ({"nodes_sha256": None}, "unknown or missing fields: nodes_sha256"),
        ({"format": 2}, "no certificate of format 1"),
        ({"format": None}, "no certificate of format 1"),
        ({"provenance": {"seed": 1}}, "provenance has unknown or missing fields"),
        ({"provenance": 3}, "provenance has unknown or missing fields"),
        ({"classes_sha256": "0" * 64}, "not the one that this certificate was made for"),
        ({"classes_shape": [4]}, "not the one that this certificate was made for"),
        ({"nodes_sha256": "0" * 64}, "not the one that this certificate was made for"),
    ],
)
def test_record_of_another_kind_is_refused(certificate: Certificate, change: dict[str, Any], message: str) -> None:
    record = json.loads(certificate.to_json()) | change
    removed = {name for name, value in change.items() if value is None}
    text = json.dumps({name: value for name, value in record.items() if name not in removed})
    with pytest.raises(ValueError, match=message):
        Certificate.from_json(text, certificate.classes, certificate.nodes)


def test_maps_of_another_image_are_refused(certificate: Certificate) -> None:
    text, classes, nodes = certificate.to_json(), certificate.classes, certificate.nodes
    for other in (classes.T, classes.ravel(), np.zeros((2, 2), np.int16)):
        with pytest.raises(ValueError, match="the label map is not the one that this certificate was made for"):
            Certificate.from_json(text, other, nodes)
    for other_nodes in (None, classes, classes.T):
        with pytest.raises(ValueError, match="the map of nodes is not the one"):
            Certificate.from_json(text, classes, other_nodes)
    plain = certify(VOTES, noise=NOISE)
    with pytest.raises(ValueError, match="the map of nodes is not the one"):
        Certificate.from_json(plain.to_json(), plain.classes, nodes)


def test_a_radius_map_comes_back_with_its_radii() -> None:
    before = certify(VOTES, noise=NOISE, test=radius_map, alpha=0.01, provenance=PROVENANCE)
    assert before.radii is not None
    assert before.radii.dtype == np.float32
    certified = before.radii > 0
    np.testing.assert_array_equal(certified, before.classes != ABSTAIN)
    assert before.radius == before.radii[certified].min()
    assert NOISE.radius(before.tau) == pytest.approx(before.radius)
    back = Certificate.from_json(before.to_json(), before.classes, radii=before.radii)
    assert without_maps(back) == without_maps(before)
    np.testing.assert_array_equal(back.radius_map, before.radii)
    assert back.to_json() == before.to_json()
    for other in (None, before.radii.T * 2):
        with pytest.raises(ValueError, match="the map of radii is not the one that this certificate was made for"):
            Certificate.from_json(before.to_json(), before.classes, radii=other)
    assert "size below the pixel's own certified radius, 0." in before.statement
    nothing = certify(VOTES[:, :, 1:], noise=NOISE, test=radius_map, alpha=1e-9)
    assert (nothing.radius, nothing.tau, nothing.certified_fraction) == (0.0, 0.5, 0.0)


def test_a_radius_map_is_of_one_look_and_of_classes() -> None:
    message = "a radius map takes a fixed number of draws, no hierarchy and no randomized p-values"
    for change in ({"hierarchy": TREE}, {"uniforms": np.full((2, 2), 0.5)}):
        with pytest.raises(ValueError, match=message):
            certify(VOTES, noise=NOISE, test=radius_map, **change)
    for setting in ({"n": SequentialCertification()}, {"hierarchy": TREE}, {"randomized": True}):
        with pytest.raises(ValueError, match=message):
            CertificationInferer(NOISE, test=radius_map, **setting)
    with pytest.raises(ValueError, match="a radius map looks at its votes once"):
        SequentialCertification().table(radius_map, 0.5)
    with pytest.raises(ValueError, match="adjusted p-values are those of one majority threshold"):
        adjusted_p_values(VOTES, test=radius_map)


@pytest.mark.parametrize("text", ["", "no JSON", "[1, 2]", "null", "3"])
def test_text_that_is_no_record_is_refused(certificate: Certificate, text: str) -> None:
    with pytest.raises(ValueError, match="this is no certificate"):
        Certificate.from_json(text, certificate.classes)


def test_statement_has_all_that_weakens_or_widens_the_claim(certificate: Certificate) -> None:
    for words in (
        "With probability at least 0.99 over the noise draws and the randomization of the p-values, ",
        "for all but at most 2 of the 2 certified pixels at once (of 4, 3 of them tested): ",
        "(pixel values from -1 to 1)",
        "together with these and counting at most 2 exceptions over both, at 1 further pixels a group of classes is ",
        "stay the answer more than half of the time",
    ):
        assert words in certificate.statement


def test_statement_has_no_more_than_that() -> None:
    plain = certify(VOTES, noise=NOISE).statement
    for words in ("but at most", "randomization", "tested", "group", "exceptions"):
        assert words not in plain
    with_groups = certify(VOTES, noise=NOISE, hierarchy=TREE).statement
    assert with_groups.startswith(plain)
    assert "exceptions" not in with_groups
    assert "together with these, at 1 further pixels a group" in with_groups
    masked = certify(VOTES, noise=NOISE, hypotheses=MASK).statement
    assert "(of 4, 3 of them tested)" in masked
