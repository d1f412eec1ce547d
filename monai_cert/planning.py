# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What a certificate will need and reach, before a single draw is made."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from monai_cert.bundle import CertifiedBundle
from monai_cert.statistics.binomial import VoteTest, certified_radius, joint, min_samples, tau_max, votes_needed

__all__ = ["Plan", "make_plan", "seconds_per_draw"]


@dataclass(frozen=True)
class Plan:
    """Answers of `make_plan`.

    Args:
        pixels: number of pixels that are tested.
        sigma: standard deviation of the noise.
        tau: majority threshold.
        alpha: failure probability.
        radius: certified radius.
        min_n: least n that can certify a pixel.
        n: draws asked for, or the least n.
        votes_needed: votes of n that a pixel needs at Bonferroni's first step; None if n is too small.
        largest_tau: largest tau at which n of n votes certify; None if n is too small for any.
        largest_radius: its radius.
        seconds: expected time of one image on this machine; None if not measured.
    """

    pixels: int
    sigma: float
    tau: float
    alpha: float
    radius: float
    min_n: int
    n: int
    votes_needed: int | None
    largest_tau: float | None
    largest_radius: float | None
    seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return asdict(self)


def make_plan(
    shape: Sequence[int],
    *,
    sigma: float,
    tau: float,
    alpha: float,
    n: int | None = None,
    test: VoteTest = joint,
    seconds_per_draw: float | None = None,
) -> Plan:
    """Work out what a certificate of an image needs.

    Args:
        shape: spatial shape of the image.
        sigma: standard deviation of the noise.
        tau: majority threshold.
        alpha: failure probability.
        n: draws; the least that can certify if None.
        test: the test.
        seconds_per_draw: time of one draw, see `seconds_per_draw`.

    Example:
        >>> plan = make_plan((512, 512), sigma=0.25, tau=0.75, alpha=0.001, n=100)
        >>> plan.min_n, plan.votes_needed, round(plan.largest_tau, 3)
        (68, 97, 0.824)
    """
    pixels = math.prod(shape)
    least = min_samples(tau, alpha, pixels, test)
    draws = least if n is None else n
    reachable = min_samples(0.5, alpha, pixels, test) <= draws
    largest = tau_max(draws, alpha, pixels, test) if reachable else None
    return Plan(
        pixels=pixels,
        sigma=sigma,
        tau=tau,
        alpha=alpha,
        radius=certified_radius(sigma, tau),
        min_n=least,
        n=draws,
        votes_needed=votes_needed(draws, tau, alpha / pixels, test),
        largest_tau=largest,
        largest_radius=None if largest is None else certified_radius(sigma, largest),
        seconds=None if seconds_per_draw is None else (test.n0 + draws) * seconds_per_draw,
    )


def seconds_per_draw(bundle: CertifiedBundle, shape: Sequence[int], draws: int = 6) -> float:
    """Measure the time of one draw of a bundle's networks at a spatial shape on this machine."""
    device = next(bundle.network.parameters()).device
    channels = int(bundle.parser["_meta_"]["network_data_format"]["inputs"]["image"]["num_channels"])
    noisy = torch.rand(1, channels, *shape, device=device)
    with torch.no_grad():
        bundle.inferer.inferer(noisy, bundle.network)
        started = time.perf_counter()
        for _ in range(draws):
            bundle.inferer.inferer(noisy, bundle.network).sum().item()
    return (time.perf_counter() - started) / draws
