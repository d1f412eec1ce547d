# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Attacks on worst cases of a Lipschitz network: how near does a real change of an image come to the bound?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

__all__ = ["attack_logits"]

# Shares of the budget that the chosen pixels may cost; what the network does not let through makes fewer pixels pay.
_SHARES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)


def attack_logits(
    network: nn.Module,
    image: torch.Tensor,
    pixels: torch.Tensor,
    eps: float,
    figure: Callable[[torch.Tensor], float],
    *,
    lipschitz_constant: float = 1.0,
    steps: int = 30,
    shares: Sequence[float] = _SHARES,
) -> tuple[float, torch.Tensor]:
    """Lower a figure as far as projected gradient descent in l2 can.

    For each share of the budget the cheapest pixels are chosen, and the image is changed so that their logits come as
    near as possible to just beyond 0: steps of length 1 / L^2 on half the squared distance, which is what a network of
    that constant allows without overshooting. The least figure over all steps and shares counts.

    Args:
        network: gives one logit a pixel; in evaluation mode and in the type of the image.
        image: (1, C, *spatial).
        pixels: (1, 1, *spatial) True where flipping a pixel lowers the figure.
        eps: l2 size of the change.
        figure: of logits (1, 1, *spatial).
        lipschitz_constant: of the network.
        steps: gradient steps for each share.
        shares: of the budget.

    Returns:
        The least figure found, and the change (1, C, *spatial) that gives it.
    """
    with torch.no_grad():
        clean = network(image)
    best, change = figure(clean), torch.zeros_like(image)
    costs = torch.where(pixels, clean.square(), torch.inf).flatten()
    order = costs.argsort()
    spent = costs[order].cumsum(0)
    for share in shares:
        chosen = torch.zeros_like(costs, dtype=torch.bool)
        chosen[order[spent <= share * (lipschitz_constant * eps) ** 2]] = True
        if not chosen.any():
            continue
        beyond = -1e-3 * lipschitz_constant * eps * clean.sign()
        target = torch.where(chosen.reshape(clean.shape), beyond, clean)
        delta = torch.zeros_like(image)
        for _ in range(steps):
            delta.requires_grad_(True)
            logits = network(image + delta)
            # A pixel that is beyond its target already may stay there.
            short = torch.where(chosen.reshape(clean.shape) & (logits * beyond > 0), 0.0, logits - target)
            loss = 0.5 * (short.square() * chosen.reshape(clean.shape)).sum()
            (slope,) = torch.autograd.grad(loss, delta)
            delta = (delta - slope / lipschitz_constant**2).detach()
            delta = delta * min(1.0, eps / max(float(delta.norm()), 1e-30))
            with torch.no_grad():
                reached = figure(network(image + delta))
            if reached < best:
                best, change = reached, delta.clone()
    return best, change
