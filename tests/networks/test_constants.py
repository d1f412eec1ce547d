# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The constant of a whole network and its margin of rounding: no pair of images may exceed them."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from monai_cert.networks.constants import lipschitz_bound
from monai_cert.networks.layers import ClassScale, MaxMin, PixelStandardization, SplitSkip
from monai_cert.networks.losses import TemperatureCrossEntropyLoss
from monai_cert.networks.segmenter import LipschitzSegmenter, bound_of_checkpoint, export_lipschitz

SMALL = {"channels": (8, 8), "depths": (1, 1), "unshuffle": 2}


def plain(seed: int = 0, **settings: object) -> LipschitzSegmenter:
    """A small network of arbitrary weights, of a constant that is not 1."""
    torch.manual_seed(seed)
    return LipschitzSegmenter(**SMALL, **settings).eval()


def stretched(network: nn.Module, x: torch.Tensor, steps: int) -> float:
    """The largest ||f(x + d) - f(x)|| / ||d|| that gradient ascent finds from x."""
    x = x.double()
    delta = 1e-2 * torch.randn_like(x)
    with torch.no_grad():
        there = network(x)
    best = 0.0
    for _ in range(steps):
        delta.requires_grad_(True)
        ratio = (network(x + delta) - there).norm() / delta.norm()
        best = max(best, float(ratio.detach()))
        (slope,) = torch.autograd.grad(ratio, delta)
        delta = (delta + 0.3 * delta.norm() * slope / slope.norm().clamp_min(1e-12)).detach()
    return best


@pytest.mark.parametrize("settings", [{}, {"std": 0.25, "class_scale": 3.0}, {"in_channels": 3, "out_channels": 4}])
def test_no_pair_of_images_exceeds_the_constant(settings: dict[str, float]) -> None:
    for seed in range(3):
        network = plain(seed, **settings).double()
        bound = lipschitz_bound(network)
        channels = int(network.settings["in_channels"])
        x = torch.rand(200, channels, 16, 16, dtype=torch.float64)
        with torch.no_grad():
            for size in (1e-3, 1.0, 10.0):
                delta = size * torch.randn_like(x)
                change = (network(x + delta) - network(x)).flatten(1).norm(dim=1)
                assert (change <= bound.constant * delta.flatten(1).norm(dim=1)).all()
        assert stretched(network, x[:1], 60) <= bound.constant


def test_the_constant_of_an_orthogonal_network_is_hardly_above_what_an_attack_reaches() -> None:
    torch.manual_seed(0)
    network = LipschitzSegmenter(**SMALL, orthogonal=True).train()
    network(torch.rand(1, 1, 16, 16))
    exported = network.export().double()
    bound = lipschitz_bound(exported)
    assert bound.constant < 1.001
    assert 0.9 < stretched(exported, torch.rand(1, 1, 16, 16), 100) <= bound.constant


def test_normalization_and_scale_are_in_the_constant() -> None:
    one = lipschitz_bound(plain()).constant
    assert lipschitz_bound(plain(std=0.25, class_scale=3.0)).constant == pytest.approx(12 * one, rel=1e-5)


def test_a_skip_takes_the_larger_of_its_halves() -> None:
    half, triple = (nn.Sequential(ClassScale(scale)) for scale in (0.5, 3.0))
    assert lipschitz_bound(nn.Sequential(SplitSkip(half)).eval()).constant == pytest.approx(1)
    assert lipschitz_bound(nn.Sequential(SplitSkip(triple)).eval()).constant == pytest.approx(3, rel=1e-6)


def test_layers_that_only_sort_or_shuffle_round_nothing() -> None:
    bound = lipschitz_bound(nn.Sequential(nn.PixelUnshuffle(2), MaxMin(), nn.PixelShuffle(2)).eval())
    assert (bound.constant, bound.rounding(torch.rand(1, 8, 8), 1.0, torch.float32)) == (pytest.approx(1), 0)


@pytest.mark.parametrize("seed", range(3))
def test_rounding_stays_within_its_margin(seed: int) -> None:
    network = plain(seed, std=0.5)
    exact = copy.deepcopy(network).double()
    bound = lipschitz_bound(network)
    x = torch.rand(20, 1, 32, 32)
    with torch.no_grad():
        errors = (network(x).double() - exact(x.double())).flatten(1).norm(dim=1)
    for image, error in zip(x, errors, strict=True):
        # Half of the margin is that of one of the two images; float64's own error is far below it.
        assert 0 < error <= bound.rounding(image, 0.0, torch.float32) / 2
    margin = bound.rounding(x[0], 0.25, torch.float64)
    assert 0 < margin < 1e-8 * bound.rounding(x[0], 0.25, torch.float32)
    assert bound.rounding(x[0], 1.0, torch.float64) > margin


def test_export_is_the_network_in_plain_convolutions() -> None:
    torch.manual_seed(0)
    network = LipschitzSegmenter(in_channels=3, out_channels=2, **SMALL, orthogonal=True).train()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(3):
        loss = TemperatureCrossEntropyLoss()(network(torch.rand(2, 3, 16, 16)), torch.ones(2, 1, 16, 16))
        loss.backward()
        optimizer.step()
    exported = network.export()
    assert network.training
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(exported(x), network.eval()(x), atol=1e-4, rtol=1e-4)
    assert not any("parametrizations" in name for name in exported.state_dict())


def test_a_checkpoint_describes_its_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = LipschitzSegmenter(**SMALL, std=0.5, orthogonal=True)
    torch.save(network.state_dict(), tmp_path / "trained.pt")
    export_lipschitz(LipschitzSegmenter(**SMALL, std=0.5, orthogonal=True), tmp_path / "trained.pt", tmp_path / "l.pt")
    bound = bound_of_checkpoint(tmp_path / "l.pt")
    assert bound.constant == pytest.approx(2, rel=0.02)
    bound.check(LipschitzSegmenter.of_state(torch.load(tmp_path / "l.pt", weights_only=True)))
    with pytest.raises(ValueError, match="does not fit its settings"):
        bound_of_checkpoint(tmp_path / "trained.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no checkpoint of a Lipschitz network"):
        bound_of_checkpoint(tmp_path / "other.pt")
    (tmp_path / "none.pt").write_text("no weights")
    with pytest.raises(ValueError, match="is no checkpoint"):
        bound_of_checkpoint(tmp_path / "none.pt")


def test_a_checkpoint_that_was_cut_short_is_told_so(tmp_path: Path) -> None:
    torch.save(plain().state_dict(), tmp_path / "l.pt")
    whole = (tmp_path / "l.pt").read_bytes()
    for size in (0, 10_000, len(whole) - 10):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"the weights .*cut\.pt are damaged or cut short; fetch them again"):
            bound_of_checkpoint(tmp_path / "cut.pt")
    with pytest.raises(FileNotFoundError):
        bound_of_checkpoint(tmp_path / "missing.pt")


def test_weights_edited_after_the_bound_are_noticed() -> None:
    network = plain()
    bound = lipschitz_bound(network)
    bound.check(network)
    with torch.no_grad():
        network[2].weight[0, 0, 0, 0] += 1e-3
    with pytest.raises(ValueError, match="for other weights than the network has now"):
        bound.check(network)


class Residual(nn.Sequential):
    """Layers in a row, and around them: of twice the constant of the row."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


def hooked() -> nn.Module:
    """A layer that computes something else than its class says."""
    layer = ClassScale(1.0)
    layer.register_forward_hook(lambda module, inputs, output: 5 * output)
    return layer


def test_a_layer_that_stands_twice_counts_twice() -> None:
    layer = ClassScale(3.0)
    assert lipschitz_bound(nn.Sequential(layer, layer).eval()).constant == pytest.approx(9, rel=1e-6)


def test_a_bound_is_that_of_the_layers_too() -> None:
    network = plain()
    bound = lipschitz_bound(network)
    network[-1].scale = 100.0
    with pytest.raises(ValueError, match="or for other layers"):
        bound.check(network)
    network[-1].scale = 1.0
    bound.check(network)
    network.append(ClassScale(50.0).eval())
    with pytest.raises(ValueError, match="or for other layers"):
        bound.check(network)
    with pytest.raises(ValueError, match="or for other layers"):
        bound.check(plain(class_scale=10.0))
    hooked_network = plain()
    hooked_network[-1].register_forward_hook(lambda module, inputs, output: 5 * output)
    with pytest.raises(ValueError, match="or for other layers"):
        bound.check(hooked_network)


def test_weights_of_a_network_with_other_settings_are_refused() -> None:
    network = plain()
    with pytest.raises(RuntimeError, match="other settings"):
        network.load_state_dict(plain(class_scale=10.0).state_dict())
    assert LipschitzSegmenter.of_state(network.state_dict()).settings["class_scale"] == 1.0
    with pytest.raises(ValueError, match="cast to another type"):
        LipschitzSegmenter.of_state(plain(mean=0.485).half().state_dict())


def test_an_odd_number_of_channels_has_no_halves() -> None:
    for layer in (MaxMin(), SplitSkip(nn.Identity())):
        with pytest.raises(ValueError, match="must be even"):
            layer(torch.rand(1, 3, 4, 4))


def test_a_network_that_says_nothing_has_no_constant() -> None:
    layer = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(layer.weight)
    with pytest.raises(ValueError, match="weights are all 0"):
        lipschitz_bound(nn.Sequential(layer).eval())


@pytest.mark.parametrize("shape", [(1, 2, 0), (3, 3, 1), (3, 4, 1), (5, 4, 2), (3, 2, 1), (2, 2, 0), (4, 2, 1)])
def test_outputs_of_strided_convolutions_are_bounded_on_images_of_every_size(shape: tuple[int, int, int]) -> None:
    size, stride, padding = shape
    layer = nn.Conv2d(1, 1, size, stride, padding)
    share = lipschitz_bound(nn.Sequential(layer).eval()).layers[0].pixels
    for side in range(max(1, size - 2 * padding), 12):
        assert layer(torch.rand(1, 1, side, side)).numel() <= share * side**2


@pytest.mark.parametrize(
    "layer",
    [
        Residual(ClassScale(1.0)),
        hooked(),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3, padding=1)),
        nn.Conv2d(2, 2, 3, padding=1, groups=2),
        nn.Conv2d(2, 2, 3, padding=2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 2, 3, stride=2, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.ConvTranspose2d(2, 2, 3, stride=2),
        nn.BatchNorm2d(2),
        nn.Sequential(MaxMin(), PixelStandardization()),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_without_a_known_bound_are_refused(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="no bound is known"):
        lipschitz_bound(nn.Sequential(layer).eval())


def test_a_network_that_is_no_row_of_layers_is_refused_with_what_to_do() -> None:
    network = UNet(spatial_dims=2, in_channels=1, out_channels=1, channels=(4, 8), strides=(2,))
    with pytest.raises(ValueError, match="give it as lipschitz_constant"):
        lipschitz_bound(network.eval())
    with pytest.raises(ValueError, match="call its eval"):
        lipschitz_bound(plain().train())


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_scales_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        ClassScale(value)
    with pytest.raises(ValueError, match="positive"):
        PixelStandardization(std=value)
    with pytest.raises(ValueError, match="positive"):
        TemperatureCrossEntropyLoss(value)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="channels must be even"):
        LipschitzSegmenter(channels=(3,), depths=(1,))
    with pytest.raises(ValueError, match="sides of 4"):
        plain()(torch.zeros(1, 1, 18, 16))
    with pytest.raises(ValueError, match="label must be"):
        TemperatureCrossEntropyLoss()(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))


def test_classes_weigh_the_same_in_one_channel_as_in_its_two_logits() -> None:
    torch.manual_seed(0)
    logits, label = torch.randn(2, 1, 4, 4), torch.randint(0, 2, (2, 1, 4, 4))
    pair = torch.cat([-logits, logits], dim=1) / math.sqrt(2)
    plain = TemperatureCrossEntropyLoss(8.0)(logits, label)
    weighted = TemperatureCrossEntropyLoss(8.0, [1.0, 3.0])
    assert weighted(logits, label) == pytest.approx(float(weighted(pair, label)))
    assert TemperatureCrossEntropyLoss(8.0, [2.0, 2.0])(logits, label) == pytest.approx(float(plain))
    assert weighted(logits, label) != pytest.approx(float(plain))
    with pytest.raises(ValueError, match="one a class, 2, got 3"):
        TemperatureCrossEntropyLoss(8.0, [1.0, 1.0, 1.0])(logits, label)
    with pytest.raises(ValueError, match="weight of a class must be positive"):
        TemperatureCrossEntropyLoss(8.0, [1.0, 0.0])


def test_a_higher_temperature_asks_for_less_margin() -> None:
    logits, label = torch.full((1, 1, 2, 2), 0.3), torch.ones(1, 1, 2, 2)
    cold, hot = (TemperatureCrossEntropyLoss(t)(logits, label) for t in (1.0, 16.0))
    assert hot < cold
