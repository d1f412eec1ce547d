# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certificates in one pass: their maps, their record, what they refuse, and attacks that must not get through."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from torch import nn

from monai_cert.certificate import ABSTAIN, Certificate
from monai_cert.inferers.lipschitz import LipschitzCertificationInferer
from monai_cert.logit_attack import attack_logits
from monai_cert.margins import pixel_radii
from monai_cert.metrics.worst_case import (
    certified_robust_pixel_accuracy,
    dice_under_attack,
    fnr_under_attack,
    smallest_attack,
)
from monai_cert.networks.constants import lipschitz_bound
from monai_cert.networks.layers import ClassScale
from monai_cert.networks.segmenter import LipschitzSegmenter

Inferer = LipschitzCertificationInferer


def network(seed: int = 0, **settings: Any) -> LipschitzSegmenter:
    torch.manual_seed(seed)
    return LipschitzSegmenter(channels=(8, 8), depths=(1, 1), unshuffle=2, **settings).eval()


def images(count: int = 2, channels: int = 1) -> torch.Tensor:
    return torch.rand(count, channels, 16, 16, generator=torch.Generator().manual_seed(0))


class Blind(nn.Module):
    """Gives logits that are no numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * math.nan


def threshold() -> nn.Sequential:
    """One logit a pixel, its gray value doubled: every radius is known."""
    return nn.Sequential(nn.Identity(), ClassScale(2.0))


def known() -> tuple[torch.Tensor, LipschitzCertificationInferer]:
    """Pixels whose logits are 2 x, and an inferer that is told L = 2."""
    return torch.tensor([[[[0.0, 0.1, 0.17, 0.9]]]]), Inferer(2.0, radius=0.17)


def test_a_pixel_is_certified_up_to_its_own_radius_and_abstains_below_the_asked_one() -> None:
    x, inferer = known()
    classes, radius = inferer(x, threshold().eval())[0].unbind()
    assert classes.tolist() == [[ABSTAIN, ABSTAIN, ABSTAIN, 1]]
    assert radius[0, 3] <= 0.9
    assert radius[0, 3] == pytest.approx(0.9, rel=1e-5)
    assert (radius[0, :3] == 0).all()
    own = Inferer(2.0, radius=0.0)(x, threshold().eval())[0, 1, 0]
    assert own.tolist() == pytest.approx([0, 0.1, 0.17, 0.9], rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"out_channels": 3, "in_channels": 3}])
def test_the_maps_are_those_of_the_margins(settings: dict[str, int]) -> None:
    net, x = network(**settings), images(channels=settings.get("in_channels", 1))
    inferer = Inferer(radius=0.002)
    bound = lipschitz_bound(net)
    with torch.no_grad():
        logits = net.double()(x.double()).numpy()
    net.float()
    maps = inferer(x, net)
    assert (maps.shape, maps.dtype) == ((2, 2, 16, 16), torch.float32)
    for image, z, (classes, radius) in zip(x, logits, maps, strict=True):
        radii = pixel_radii(z, bound.constant, bound.rounding(image, 16.0 * math.sqrt(len(image)), torch.float64))
        certified = radii >= np.float32(0.002)
        np.testing.assert_allclose(radius.numpy()[certified], radii[certified], rtol=1e-5)
        np.testing.assert_array_equal(classes.numpy() == ABSTAIN, ~certified)
        labels = z[0] > 0 if len(z) == 1 else z.argmax(0)
        np.testing.assert_array_equal(classes.numpy()[certified], labels[certified])
    assert 0 < float((maps[:, 0] == ABSTAIN).float().mean()) < 1


def test_metadata_and_record_go_along() -> None:
    x = MetaTensor(images(1), meta={"filename_or_obj": ["a.png"]})
    out = Inferer(radius=0.001)(x, network())
    assert isinstance(out, MetaTensor)
    assert out.meta["filename_or_obj"] == ["a.png"]
    classes, radii = out.as_tensor()[0].numpy()
    back = Certificate.from_json(out.meta["certificate"][0], classes.astype(np.int16), None, radii)
    assert (back.kind, back.alpha, back.sigma, back.draws) == ("deterministic", 0.0, 0.0, 1)
    np.testing.assert_array_equal(back.radius_map, radii)
    assert back.provenance.dtype == "float64"
    record = json.loads(back.to_json())
    assert record["lipschitz_constant"] == lipschitz_bound(network()).constant
    assert 0 < record["rounding"] < 1e-8
    with pytest.raises(ValueError, match="the map of radii is not the one"):
        Certificate.from_json(back.to_json(), back.classes)
    record.pop("stability")
    with pytest.raises(ValueError, match="unknown or missing fields: stability"):
        Certificate.from_json(json.dumps(record), back.classes, None, radii)


def test_the_statement_has_no_probability_in_it() -> None:
    x, inferer = known()
    certificate = inferer.certify(x, threshold().eval())[0]
    for words in ("Without any noise", "than 2 times", "1 certified pixels (of 4)", "below 0.1700", "50.00 %"):
        assert words in certificate.statement
    assert "probability" not in certificate.statement


def test_votes_are_those_of_one_voter() -> None:
    votes = Inferer().votes(images(), network())
    assert votes.shape == (2, 2, 16, 16)
    assert (votes.sum(1) == 1).all()


def test_a_given_bound_is_that_of_these_weights_alone() -> None:
    net = network()
    inferer = Inferer(lipschitz_bound(net))
    inferer(images(), net)
    with torch.no_grad():
        net[2].weight.mul_(2)
    with pytest.raises(ValueError, match="for other weights than the network has now"):
        inferer(images(), net)
    number = Inferer(1000.0)
    number(images(), net)
    with torch.no_grad():
        net[2].weight.mul_(0.5)
    with pytest.raises(ValueError, match="not those of the first call"):
        number(images(), net)


def test_without_a_given_constant_edited_weights_get_a_new_bound() -> None:
    net, inferer = network(), Inferer(radius=0.0)
    before = inferer.certify(images(1), net)[0]
    with torch.no_grad():
        net[-3].weight.mul_(4)
    after = inferer.certify(images(1), net)[0]
    assert after.lipschitz_constant == pytest.approx(4 * before.lipschitz_constant)
    assert after.provenance.weights_sha256 != before.provenance.weights_sha256


def test_another_network_of_the_same_weights_gets_a_bound_and_a_pass_of_its_own() -> None:
    inferer, x = Inferer(radius=0.0), torch.rand(1, 1, 4, 4)
    for scale in (2.0, 10.0):
        net = nn.Sequential(nn.Conv2d(1, 1, 1), ClassScale(scale)).eval()
        nn.init.ones_(net[0].weight)
        nn.init.constant_(net[0].bias, -0.5)
        sample = inferer.sample(x, net)[0]
        assert sample.constant == pytest.approx(scale, rel=1e-5)
        np.testing.assert_allclose(sample.logits, scale * (x[0].numpy() - 0.5), atol=1e-6)


def test_without_a_bound_of_rounding_the_record_and_the_statement_say_so() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")).eval()
    certificate = Inferer(10.0).certify(images(1), net)[0]
    assert certificate.rounding is None
    assert "rounding, of which no bound is known, left out" in certificate.statement
    with pytest.raises(ValueError, match=r"use torch\.float64"):
        Inferer(10.0, dtype=torch.float32).certify(images(1), net)


def test_images_and_weights_in_float64_are_not_rounded() -> None:
    x = images(1).double() * (1 + 1e-12)
    sample = Inferer().sample(x, network().double())[0]
    with torch.no_grad():
        np.testing.assert_array_equal(sample.logits, network().double()(x)[0].numpy())
    for image, net in ((x, network()), (images(1), network().double())):
        with pytest.raises(ValueError, match="float32 would change"):
            Inferer(dtype=torch.float32).sample(image, net)


def test_a_radius_that_float32_rounds_down_is_not_certified_by_it() -> None:
    # In float32 the pixel's own radius is the number below .7, of which numpy says that it is at least .7.
    x = torch.tensor([[[[0.699999995]]]], dtype=torch.float64)
    assert (Inferer(2.0, radius=0.7)(x, threshold().eval())[0, 0] == ABSTAIN).all()


def test_products_of_lower_precision_are_refused_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    Inferer().certify(images(1), network())
    with pytest.raises(ValueError, match="products of lower precision"):
        Inferer(dtype=torch.float32).certify(images(1), network())


def test_an_unknown_constant_is_refused_with_how_to_give_it() -> None:
    net = UNet(spatial_dims=2, in_channels=1, out_channels=1, channels=(4, 8), strides=(2,)).eval()
    for refused, inner in ((net, None), (lambda x: x, None), (network(), SlidingWindowInferer(roi_size=(16, 16)))):
        with pytest.raises(ValueError, match="as lipschitz_constant"):
            Inferer(inferer=inner)(images(), refused)
    assert Inferer(100.0)(images(), net).shape == (2, 2, 16, 16)
    with pytest.raises(ValueError, match="not inside SlidingWindowInferer"):
        Inferer(lipschitz_bound(network()), inferer=SlidingWindowInferer(roi_size=(16, 16)))


def test_batch_statistics_are_refused() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1))
    with pytest.raises(ValueError, match=r"statistics of the batch.*call its eval\(\) first"):
        Inferer(1.0)(images(), net)


@pytest.mark.parametrize("constant", [0.0, -1.0, math.inf, math.nan])
def test_a_constant_that_is_none_is_refused(constant: float) -> None:
    with pytest.raises(ValueError, match="must be positive and finite"):
        Inferer(constant)
    for figure in (dice_under_attack, fnr_under_attack, certified_robust_pixel_accuracy):
        with pytest.raises(ValueError, match="must be positive and finite"):
            figure(images(), images().round(), 0.1, constant)


def test_other_bad_input_is_refused() -> None:
    for options, message in (({"radius": -1.0}, "radius must be"), ({"dtype": torch.float16}, "dtype must be")):
        with pytest.raises(ValueError, match=message):
            Inferer(**options)
    with pytest.raises(ValueError, match="outside the bounds"):
        Inferer()(images() + 1, network())
    with pytest.raises(ValueError, match="NaN or infinite"):
        Inferer(1.0)(images(), Blind().eval())
    with pytest.raises(ValueError, match=r"images must be \(B, C, \*spatial\)"):
        Inferer()(images()[0, 0], network())


def test_in_float32_the_margin_of_rounding_is_honest_and_large() -> None:
    double, single = (
        Inferer(radius=0.0, dtype=d).certify(images(1), network())[0] for d in (torch.float64, torch.float32)
    )
    assert single.rounding > 1e6 * double.rounding
    assert (single.radius_map <= double.radius_map).all()


@pytest.mark.parametrize("eps", [0.05, 0.25, 1.0])
def test_attacks_do_not_get_below_the_worst_cases_and_get_near_them(eps: float) -> None:
    torch.manual_seed(0)
    trained = LipschitzSegmenter(channels=(8, 8), depths=(1, 1), unshuffle=2, orthogonal=True).train()
    x = images(1)
    with torch.no_grad():
        truth = (trained.eval()(x) > 0.05).long()
    net = trained.export().double()
    bound = lipschitz_bound(net)
    with torch.no_grad():
        clean = net(x.double())
    right = (clean > 0) == (truth == 1)
    margin = bound.rounding(x[0], eps, torch.float64)
    budgeted = (eps, bound.constant, margin)
    cases = {
        "accuracy": (right, lambda z: certified_robust_pixel_accuracy(z, truth, 0.0, 1.0)),
        "dice": (right, lambda z: dice_under_attack(z, truth, 0.0, 1.0)),
        "sensitivity": (right & (truth == 1), lambda z: 1 - fnr_under_attack(z, truth, 0.0, 1.0)),
    }
    worst = {
        "accuracy": certified_robust_pixel_accuracy(clean, truth, *budgeted),
        "dice": dice_under_attack(clean, truth, *budgeted),
        "sensitivity": 1 - fnr_under_attack(clean, truth, *budgeted),
    }
    for name, (only, figure) in cases.items():
        reached, change = attack_logits(net, x.double(), only, eps, lambda z, of=figure: float(of(z)))
        assert float(change.norm()) <= eps * (1 + 1e-12)
        assert float(worst[name]) <= reached
        # An attack reaches a good share of what the bound allows, so that the bound says something.
        lost, allowed = float(figure(clean)) - reached, float(figure(clean)) - float(worst[name])
        assert lost >= 0.09 * allowed
        assert allowed > 0 or eps < 0.1


def test_no_attack_smaller_than_the_smallest_one_brings_the_figure_down() -> None:
    net, x = network().double(), images(2)
    with torch.no_grad():
        clean = net(x.double())
    truth = (clean > 0).long()
    bound = lipschitz_bound(net)
    eps = smallest_attack(clean, truth, 0.9, bound.constant)
    for z, t, size in zip(clean, truth, eps.tolist(), strict=True):
        above, below = (dice_under_attack(z[None], t[None], f * size, bound.constant).item() for f in (0.999, 1.001))
        assert below <= 0.9 < above
