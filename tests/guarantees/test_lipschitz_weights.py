# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The trained Lipschitz networks of the bundles: no pair of images exceeds L, no attack undercuts a worst case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monai_cert import chest_phantom
from monai_cert.logit_attack import attack_logits
from monai_cert.margins import budget, pixel_accuracy, pixel_dice, pixel_sensitivity
from monai_cert.networks.constants import LipschitzBound, lipschitz_bound
from monai_cert.networks.segmenter import LipschitzSegmenter

BUNDLES = Path(__file__).parents[2] / "bundles"
CHECKPOINTS = [root.parent / "models" / "lipschitz.pt" for root in sorted(BUNDLES.glob("*/configs"))]


@pytest.fixture(scope="module", params=CHECKPOINTS, ids=lambda file: file.parts[-3])
def trained(request: pytest.FixtureRequest) -> tuple[LipschitzSegmenter, LipschitzBound]:
    """A network in float64 and its bound."""
    network = LipschitzSegmenter.of_state(torch.load(request.param, weights_only=True)).double()
    return network, lipschitz_bound(network)


def phantoms(network: LipschitzSegmenter, count: int, side: int) -> tuple[torch.Tensor, np.ndarray]:
    pairs = [chest_phantom(side, seed=seed) for seed in range(count)]
    images = torch.from_numpy(np.stack([image for image, _ in pairs])).double()
    return images.expand(-1, network.settings["in_channels"], -1, -1), np.stack([truth for _, truth in pairs])


def test_the_constant_is_hardly_above_one(trained: tuple[LipschitzSegmenter, LipschitzBound]) -> None:
    assert trained[1].constant < 1.001


def test_a_thousand_random_pairs_stay_within_the_constant(
    trained: tuple[LipschitzSegmenter, LipschitzBound],
) -> None:
    network, bound = trained
    images, _ = phantoms(network, 8, 64)
    torch.manual_seed(0)
    with torch.no_grad():
        clean = network(images)
        for number in range(128):
            delta = torch.randn_like(images) * 10 ** (number % 4 - 3)
            if number % 2:
                # Smooth changes and changes of one place stretch a network otherwise than noise does.
                delta = torch.nn.functional.avg_pool2d(delta, 9, 1, 4)
                delta[..., : 8 * (number % 8), :] = 0
            moved = (network(images + delta) - clean).flatten(1).norm(dim=1)
            assert (moved <= bound.constant * delta.flatten(1).norm(dim=1) * (1 + 1e-12)).all()


def test_changes_that_climb_the_ratio_stay_within_the_constant(
    trained: tuple[LipschitzSegmenter, LipschitzBound],
) -> None:
    network, bound = trained
    images, _ = phantoms(network, 4, 64)
    with torch.no_grad():
        clean = network(images)
    torch.manual_seed(0)
    delta = 1e-2 * torch.randn_like(images)
    ratio = torch.zeros(4)
    for _ in range(50):
        delta.requires_grad_(True)
        ratio = (network(images + delta) - clean).flatten(1).norm(dim=1) / delta.flatten(1).norm(dim=1)
        assert (ratio <= bound.constant).all()
        (slope,) = torch.autograd.grad(ratio.sum(), delta)
        size = delta.detach().flatten(1).norm(dim=1) / slope.flatten(1).norm(dim=1).clamp_min(1e-12)
        delta = (delta + 0.3 * size[:, None, None, None] * slope).detach()
    assert (ratio > 0.5).all(), "an orthogonal network lets some change through nearly whole"


@pytest.mark.parametrize("eps", [0.17, 1.0])
def test_attacks_stay_above_the_worst_cases(trained: tuple[LipschitzSegmenter, LipschitzBound], eps: float) -> None:
    network, bound = trained
    images, _ = phantoms(network, 1, 64)
    with torch.no_grad():
        logits = network(images)
    # The truth is what the network says but for a patch, so that it has something to lose on any image.
    truth = (logits[0, 0] > 0).numpy().astype(np.int64)
    truth[30:38, 30:38] = 1 - truth[30:38, 30:38]
    spent = budget(bound.constant, eps, bound.rounding(images[0], eps, torch.float64))
    right = torch.from_numpy((logits[0, 0].numpy() > 0) == (truth > 0))[None, None]
    for figure, pixels in (
        (lambda z: pixel_dice(z, truth, 1), right),
        (lambda z: pixel_accuracy(z, truth), right),
        (lambda z: pixel_sensitivity(z, truth, 1), right & torch.from_numpy(truth > 0)[None, None]),
    ):
        worst = figure(logits[0].numpy()).worst(spent)
        reached, _ = attack_logits(
            network, images, pixels, eps, lambda z, of=figure: of(z[0].numpy()).clean, steps=8, shares=(0.8, 0.4)
        )
        assert reached >= worst or np.isnan(worst)
