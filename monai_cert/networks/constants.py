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

This holds where convolutions are sums of products in the type of their input: on CPUs, in float64, and in float32
unless told to multiply in fewer bits (`multiplies_exactly`). Winograd and Fourier algorithms and TF32, which GPUs
choose for float32, are not covered.

References:
    Higham 2002, Accuracy and Stability of Numerical Algorithms, 2nd edition, SIAM.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from monai_cert.networks.layers import ClassScale, MaxMin, PixelStandardization, SizedSequential, SplitSkip
from monai_cert.networks.spectral import absolute_norm, convolution_norm
from monai_cert.provenance import network_sha256, weights_sha256

__all__ = ["LayerBound", "LipschitzBound", "UnknownBoundError", "lipschitz_bound", "multiplies_exactly"]

_UP = 1 + 2.0**-48  # what a handful of float64 operations may have rounded away
_SCALAR = 1 + 2.0**-22  # what a scalar may have been rounded to float32 by, with room


class UnknownBoundError(ValueError):
    """A network has a layer whose Lipschitz constant is not known here."""


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
    """An upper bound of a network's Lipschitz constant, bound to the layers and weights that it was computed for.

    Args:
        constant: L, from l2 of the image to l2 of all logits.
        layers: what it is made of.
        weights_sha256: `monai_cert.provenance.weights_sha256` of the network.
        network_sha256: `monai_cert.provenance.network_sha256` of the network.
    """

    constant: float
    layers: tuple[LayerBound, ...]
    weights_sha256: str
    network_sha256: str

    def check(self, network: nn.Module) -> None:
        """Refuse, with a ValueError, a network with other weights or other layers."""
        if network_sha256(network) != self.network_sha256:
            raise ValueError(
                "the Lipschitz constant was computed for other weights than the network has now, or for other layers; "
                "compute it again (lipschitz_bound(network))"
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
            shuffles, and the layers of `monai_cert.networks.layers`; in evaluation mode. These very classes: what is
            derived from them, parametrized or hooked may compute something else.

    Raises:
        UnknownBoundError: a ValueError, if the network has a layer with no known bound.
        ValueError: if the network is in training mode, or has weights that are not finite, or all 0.

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
        raise UnknownBoundError("no bound is known for a PixelStandardization that is not the network's first layer")
    constant = _product(layers)
    if constant == 0:
        raise ValueError("the network has a layer whose weights are all 0: its logits are the same for every image")
    weights = weights_sha256([network])
    return LipschitzBound(constant, layers, weights, network_sha256(network, weights))


def multiplies_exactly(dtype: torch.dtype) -> bool:
    """Whether convolutions on the CPU multiply in their own type, as the margin of rounding supposes.

    float32 may have been told to multiply in bfloat16, by torch's settings or oneDNN's.
    """
    return dtype == torch.float64 or (
        torch.get_float32_matmul_precision() == "highest"
        and torch.backends.mkldnn.conv.fp32_precision in ("none", "ieee")  # type: ignore[attr-defined]  # set at run time
        and os.environ.get("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT").upper() == "STRICT"
    )


def _bounds(module: nn.Module, name: str, pixels: float) -> list[LayerBound]:
    """Bounds of the layers of a module, whose input has so many pixels for one pixel of the image."""
    kind = type(module).__name__
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise UnknownBoundError(f"no bound is known for the layer {name or 'itself'} ({kind}), which has hooks")
    if type(module).forward in (nn.Sequential.forward, SizedSequential.forward):
        bounds: list[LayerBound] = []
        # Not named_children(), which names a layer that stands twice only once.
        for key, child in module._modules.items():
            assert child is not None
            bounds += _bounds(child, f"{name}.{key}".lstrip("."), bounds[-1].pixels if bounds else pixels)
        return bounds
    if type(module) is SplitSkip:
        inside = tuple(_bounds(module.inner, f"{name}.inner", pixels))
        return [LayerBound(name, kind, max(1.0, _product(inside)), pixels=pixels, inside=inside)]
    if type(module) is nn.Conv2d or type(module) is nn.ConvTranspose2d:
        return [_convolution(module, name, pixels)]
    if type(module) is nn.PixelUnshuffle:
        return [LayerBound(name, kind, 1.0, pixels=pixels / module.downscale_factor**2)]
    if type(module) is nn.PixelShuffle:
        return [LayerBound(name, kind, 1.0, pixels=pixels * module.upscale_factor**2)]
    if type(module) is PixelStandardization:
        constant = 1 / module.std * _SCALAR
        return [LayerBound(name, kind, constant, constant, 2, pixels=pixels, center=module.mean)]
    if type(module) is ClassScale:
        constant = module.scale * _SCALAR
        return [LayerBound(name, kind, constant, constant, 1, pixels=pixels)]
    if type(module) is MaxMin or type(module) is nn.Identity:
        return [LayerBound(name, kind, 1.0, pixels=pixels)]
    raise UnknownBoundError(
        f"no bound is known for the layer {name or 'itself'} ({kind}); a LipschitzSegmenter that was trained needs its "
        "export(); if you know the network's Lipschitz constant, give it as lipschitz_constant"
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
        raise UnknownBoundError(
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
        pixels=pixels * stride[0] ** 2 if transposed else _outputs(pixels, size, stride[0], padding),
    )


def _outputs(pixels: float, size: tuple[int, ...], stride: int, padding: tuple[int, ...]) -> float:
    """Outputs of a convolution, floor((n + 2 p - k) / s) + 1 of n rows: at most n / s if k - 2 p >= s, else n."""
    exact = all(k - 2 * p >= stride for k, p in zip(size, padding, strict=True))
    return pixels / stride**2 if exact else pixels


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
