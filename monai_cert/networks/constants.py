# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
r"""The Lipschitz constant of a network, layer by layer, and what rounding adds to it.

*Constant.* Every layer is bounded by a number c with ||layer(x) - layer(y)|| <= c ||x - y||, l2 norms over everything
that enters or leaves; one after another they multiply, and `SplitSkip` takes the larger of 1 and its inner constant.

*Rounding.* The network that runs computes in floating point with unit roundoff u. Let N bound the l2 norm of what the
exact network passes on, and E the l2 distance of what runs from it. A convolution with kernel K, A a bound of the norm
of the convolution with abs(K), bias b and sums of n terms, in any order, with or without fused multiply-add, errs at
each output by at most gamma_n (abs(K) * abs(x) + abs(b)), gamma_n = n u / (1 - n u) (Higham 2002, section 3.1). Hence

    N' <= c N + ||b|| sqrt(pixels)
    E' <= c E + gamma_n (A (N + E) + ||b|| sqrt(pixels))

and likewise, with A = c and no bias, for a division or multiplication of every element. `PixelStandardization` stands
first, if anywhere, so that N starts with ||x - mean||; its subtraction and division are two operations. Maxima, minima,
shuffles of pixels and concatenations round nothing. `LayerBound` holds the coefficients. Two runs of the network differ
from the exact change by E of each: the margin is the sum.

This holds where convolutions are sums of products: on CPUs, in float32 and in float64. Winograd and Fourier algorithms
and TF32, which GPUs choose for float32, are not covered.

References:
    Higham 2002, Accuracy and Stability of Numerical Algorithms, 2nd edition, SIAM.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from monai_cert.networks.layers import ClassScale, MaxMin, PixelStandardization, SplitSkip
from monai_cert.networks.spectral import absolute_norm, convolution_norm
from monai_cert.provenance import weights_sha256

__all__ = ["LayerBound", "LipschitzBound", "lipschitz_bound"]

_UP = 1 + 2.0**-48  # what a handful of float64 operations may have rounded away
_SCALAR = 1 + 2.0**-22  # what a scalar may have been rounded to float32 by, with room


@dataclass(frozen=True)
class LayerBound:
    """How far a layer carries a change, a norm and an error of rounding; see this module.

    Args:
        name: where the layer stands in the network.
        kind: its class.
        constant: c.
        gain: A, the norm of the layer with absolute values; 0 if it rounds nothing.
        terms: n, the operations that one output accumulates.
        bias: ||b||, the l2 norm of the bias over channels.
        pixels: bound of the outputs of the layer for one pixel of the image, per channel.
        center: the mean that the layer subtracts.
        inside: the layers of a skip's inner part, in order; its other half passes unchanged.
    """

    name: str
    kind: str
    constant: float
    gain: float = 0.0
    terms: int = 0
    bias: float = 0.0
    pixels: float = 1.0
    center: float = 0.0
    inside: tuple[LayerBound, ...] = ()


@dataclass(frozen=True)
class LipschitzBound:
    """An upper bound of a network's Lipschitz constant, bound to the weights that it was computed for.

    Args:
        constant: L, from l2 of the image to l2 of all logits.
        layers: what it is made of.
        weights_sha256: `monai_cert.provenance.weights_sha256` of the network.
    """

    constant: float
    layers: tuple[LayerBound, ...]
    weights_sha256: str

    def check(self, network: nn.Module) -> None:
        """Refuse, with a ValueError, a network with other weights."""
        if weights_sha256([network]) != self.weights_sha256:
            raise ValueError(
                "the Lipschitz constant was computed for other weights than the network has now; compute it again "
                "(lipschitz_bound(network))"
            )

    def rounding(self, image: torch.Tensor, eps: float, dtype: torch.dtype) -> float:
        """Margin of rounding: how much farther than L ||d|| the logits of two images may lie apart as computed.

        Args:
            image: (C, *spatial) one of them.
            eps: bound of the l2 distance of the other one.
            dtype: in which the network runs.
        """
        norm = float((image.double() - self.layers[0].center).norm()) * _SCALAR + eps if self.layers else 0.0
        unit = torch.finfo(dtype).eps / 2
        _, error = _propagate(self.layers, norm, 0.0, image[0].numel(), unit)
        return 2 * error * _UP

    def as_dict(self) -> dict[str, Any]:
        """The bound for JSON."""
        return asdict(self)

    def flat(self) -> Iterator[tuple[int, LayerBound]]:
        """All layers with their depth in skips, in the order in which an image meets them."""
        yield from _flat(self.layers, 0)


def lipschitz_bound(network: nn.Module) -> LipschitzBound:
    """Bound the Lipschitz constant of a network of known layers.

    Args:
        network: an ``nn.Sequential`` of convolutions (plain, strided, transposed; zero or circular padding), pixel
            shuffles, and the layers of `monai_cert.networks.layers`; in evaluation mode.

    Raises:
        ValueError: if the network is in training mode, has a layer with no known bound, or weights that are not finite.

    Example:
        >>> layer = nn.Conv2d(4, 4, 1, bias=False)
        >>> _ = nn.init.orthogonal_(layer.weight)
        >>> round(lipschitz_bound(nn.Sequential(layer, ClassScale(2.0)).eval()).constant, 5)
        2.0
    """
    if any(part.training for part in network.modules()):
        raise ValueError(f"{type(network).__name__} is in training mode; call its eval() first")
    with torch.no_grad():
        layers = tuple(_bounds(network, "", 1.0))
    if any(layer.kind == PixelStandardization.__name__ for _, layer in list(_flat(layers, 0))[1:]):
        raise ValueError("no bound is known for a PixelStandardization that is not the network's first layer")
    return LipschitzBound(_product(layers), layers, weights_sha256([network]))


def _bounds(module: nn.Module, name: str, pixels: float) -> list[LayerBound]:
    """Bounds of the layers of a module, whose input has so many pixels for one pixel of the image."""
    kind = type(module).__name__
    if isinstance(module, nn.Sequential):
        bounds: list[LayerBound] = []
        for key, child in module.named_children():
            bounds += _bounds(child, f"{name}.{key}".lstrip("."), bounds[-1].pixels if bounds else pixels)
        return bounds
    if isinstance(module, SplitSkip):
        inside = tuple(_bounds(module.inner, f"{name}.inner", pixels))
        return [LayerBound(name, kind, max(1.0, _product(inside)), pixels=pixels, inside=inside)]
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return [_convolution(module, name, pixels)]
    if isinstance(module, nn.PixelUnshuffle):
        return [LayerBound(name, kind, 1.0, pixels=pixels / module.downscale_factor**2)]
    if isinstance(module, nn.PixelShuffle):
        return [LayerBound(name, kind, 1.0, pixels=pixels * module.upscale_factor**2)]
    if isinstance(module, PixelStandardization):
        constant = 1 / module.std * _SCALAR
        return [LayerBound(name, kind, constant, constant, 2, pixels=pixels, center=module.mean)]
    if isinstance(module, ClassScale):
        constant = module.scale * _SCALAR
        return [LayerBound(name, kind, constant, constant, 1, pixels=pixels)]
    if isinstance(module, MaxMin | nn.Identity):
        return [LayerBound(name, kind, 1.0, pixels=pixels)]
    raise ValueError(
        f"no bound is known for the layer {name or 'itself'} ({kind}); if you know the network's Lipschitz constant, "
        "give it as lipschitz_constant"
    )


def _convolution(layer: nn.Conv2d | nn.ConvTranspose2d, name: str, pixels: float) -> LayerBound:
    size, stride = layer.kernel_size, layer.stride
    transposed = isinstance(layer, nn.ConvTranspose2d)
    padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
    # An output may not be larger than its share of the input: of that the norm of the bias is bounded.
    grows = (
        any(k + o - 2 * p > stride[0] for k, o, p in zip(size, layer.output_padding, padding, strict=True))
        if isinstance(layer, nn.ConvTranspose2d)
        else any(2 * p > k - 1 for k, p in zip(size, padding, strict=True))
    )
    unknown = (
        layer.groups != 1
        or set(layer.dilation) != {1}
        or stride[0] != stride[1]
        or layer.padding_mode not in ("zeros", "circular")
        or (layer.padding_mode == "circular" and stride[0] != 1)
        or grows
    )
    if unknown:
        raise ValueError(
            f"no bound is known for the convolution {name}: it must have one group, no dilation, one stride, zero "
            "padding or, without stride, circular padding, and no larger output than its input calls for"
        )
    kernel = layer.weight
    products = kernel.shape[0 if transposed else 1] * math.prod(size)
    return LayerBound(
        name=name,
        kind=type(layer).__name__,
        constant=convolution_norm(kernel, stride[0]),
        gain=absolute_norm(kernel),
        terms=products + 1,
        bias=0.0 if layer.bias is None else float(layer.bias.double().norm()) * _UP,
        pixels=pixels * stride[0] ** 2 if transposed else _share(pixels, size, stride[0]),
    )


def _share(pixels: float, size: tuple[int, ...], stride: int) -> float:
    """Outputs of a strided convolution: overlapping kernels may give up to twice the share of rows and of columns."""
    return pixels / stride**2 * (1 if max(size) <= stride or stride == 1 else 4)


def _propagate(
    layers: tuple[LayerBound, ...], norm: float, error: float, pixels: int, unit: float
) -> tuple[float, float]:
    """Bounds of the norm and of the error behind some layers."""
    for layer in layers:
        if layer.inside:
            # Of the halves (a, b): ||(a, g(b))|| <= max(1, c) ||(a, b)|| + what g adds at b = 0, and so for the error.
            inner_norm, inner_error = _propagate(layer.inside, norm, error, pixels, unit)
            raw = _product(layer.inside)
            norm = (layer.constant * norm + max(0.0, inner_norm - raw * norm)) * _UP
            error = (layer.constant * error + max(0.0, inner_error - raw * error)) * _UP
        else:
            gamma = layer.terms * unit / (1 - layer.terms * unit)
            bias = layer.bias * math.sqrt(layer.pixels * pixels)
            error = (layer.constant * error + gamma * (layer.gain * (norm + error) + bias)) * _UP
            norm = (layer.constant * norm + bias) * _UP
    return norm, error


def _product(layers: tuple[LayerBound, ...]) -> float:
    return math.prod(layer.constant for layer in layers) * (_UP if layers else 1.0)


def _flat(layers: tuple[LayerBound, ...], depth: int) -> Iterator[tuple[int, LayerBound]]:
    for layer in layers:
        yield depth, replace(layer, inside=())
        yield from _flat(layer.inside, depth + 1)
