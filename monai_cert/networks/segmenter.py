# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""A small encoder-decoder of orthogonal layers, for training and, with the same weights, as plain convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from monai_cert.networks.checkpoints import misfit, read_weights
from monai_cert.networks.constants import LipschitzBound, lipschitz_bound
from monai_cert.networks.layers import ClassScale, MaxMin, PixelStandardization, SizedSequential, SplitSkip

__all__ = ["LipschitzSegmenter", "bound_of_checkpoint", "export_lipschitz"]


_SETTINGS = "settings_of_network"


class LipschitzSegmenter(SizedSequential):
    """Segments images with logits that change no more than the image does, in l2, up to the two scales given.

    Pixels are unshuffled, so that all work is done on a quarter of the rows and columns; each level is orthogonal
    convolutions with `MaxMin`, then half of the channels goes one level down through a strided orthogonal convolution
    and comes back through a transposed one (`SplitSkip`), then convolutions again. No resize, no batch statistics.

    Args:
        in_channels: channels of the images.
        out_channels: classes; 1 means a sigmoid.
        channels: of each level, even.
        depths: convolutions before and after each descent, one number a level.
        unshuffle: side of the pixel blocks that become channels.
        mean: see `PixelStandardization`.
        std: see `PixelStandardization`; the constant has 1 / std in it.
        class_scale: see `ClassScale`.
        orthogonal: train orthogonal kernels (needs orthogonium, the extra ``lipschitz``); else plain convolutions, as
            `export` makes them, which are what `lipschitz_bound` finds them to be.

    Raises:
        ValueError: for levels that do not fit.
        ImportError: if ``orthogonal`` and orthogonium is not there.

    Example:
        >>> network = LipschitzSegmenter(channels=(16, 32), depths=(1, 1))
        >>> network(torch.zeros(1, 1, 64, 64)).shape
        torch.Size([1, 1, 64, 64])

    References:
        Boissin et al. 2025, An Adaptive Orthogonal Convolution Scheme for Efficient and Flexible CNN Architectures
        (the orthogonal kernels).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128, 128),
        depths: Sequence[int] = (2, 2, 1, 1),
        unshuffle: int = 4,
        mean: float = 0.5,
        std: float = 1.0,
        class_scale: float = 1.0,
        orthogonal: bool = False,
    ) -> None:
        if len(channels) != len(depths) or not channels or any(c < 2 or c % 2 for c in channels) or min(depths) < 1:
            raise ValueError(
                f"channels must be even and as many as depths, all of these positive, got {tuple(channels)} and "
                f"{tuple(depths)}"
            )
        make = _Orthogonal() if orthogonal else _Plain()
        block = unshuffle * unshuffle
        body = _level(make, list(channels), list(depths))
        super().__init__(
            PixelStandardization(mean, std),
            nn.PixelUnshuffle(unshuffle),
            make.convolution(in_channels * block, channels[0], 3),
            MaxMin(),
            *body,
            make.convolution(channels[0], out_channels * block, 1),
            nn.PixelShuffle(unshuffle),
            ClassScale(class_scale),
            multiple=unshuffle * 2 ** (len(channels) - 1),
        )
        self.settings: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "channels": tuple(channels),
            "depths": tuple(depths),
            "unshuffle": unshuffle,
            "mean": mean,
            "std": std,
            "class_scale": class_scale,
        }
        numbers = [in_channels, out_channels, len(channels), unshuffle, mean, std, class_scale, *channels, *depths]
        # A checkpoint so describes its network by itself.
        self.register_buffer(_SETTINGS, torch.tensor(numbers, dtype=torch.float64))

    def export(self) -> LipschitzSegmenter:
        """The same network as plain convolutions, in evaluation mode: nothing is orthogonalized any more, only run."""
        plain = LipschitzSegmenter(**self.settings)
        training = self.training
        self.eval()
        with torch.no_grad():
            for mine, theirs in zip(_convolutions(self), _convolutions(plain), strict=True):
                theirs.weight.copy_(mine.weight)
                if mine.bias is not None and theirs.bias is not None:
                    theirs.bias.copy_(mine.bias)
        self.train(training)
        return plain.eval()

    @classmethod
    def of_state(cls, state: dict[str, torch.Tensor]) -> LipschitzSegmenter:
        """The plain network, with its weights, of a checkpoint that `export_lipschitz` wrote.

        Raises:
            ValueError: if the checkpoint has no settings of such a network, or does not fit them.
        """
        if _SETTINGS not in state:
            raise ValueError("this is no checkpoint of a Lipschitz network: it has no settings in it")
        if state[_SETTINGS].dtype != torch.float64:
            raise ValueError("the checkpoint was cast to another type, and its settings with it; save it as it was")
        values = state[_SETTINGS].tolist()
        levels = int(values[2])
        network = cls(
            in_channels=int(values[0]),
            out_channels=int(values[1]),
            channels=[int(v) for v in values[7 : 7 + levels]],
            depths=[int(v) for v in values[7 + levels : 7 + 2 * levels]],
            unshuffle=int(values[3]),
            mean=values[4],
            std=values[5],
            class_scale=values[6],
        )
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"the checkpoint does not fit its settings: {misfit(error)}") from error
        return network.eval()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        """Load what belongs to this module itself, its settings: those of another network are refused."""
        stored, own = state_dict.get(prefix + _SETTINGS), self.get_buffer(_SETTINGS)
        if stored is not None and not (stored.shape == own.shape and torch.equal(stored.to(own), own)):
            errors = lists[-1]
            errors.append(
                "the weights are those of a network with other settings; make it with LipschitzSegmenter.of_state"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)


def export_lipschitz(network: LipschitzSegmenter, checkpoint: str | Path, output: str | Path) -> None:
    """Load the weights that training kept, and write them as plain convolutions.

    Args:
        network: the network that was trained.
        checkpoint: what training kept of it; overwritten if it is also the output.
        output: where the plain weights go.
    """
    network.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    torch.save(network.cpu().export().state_dict(), output)


def bound_of_checkpoint(checkpoint: str | Path) -> LipschitzBound:
    """The bound of the network in a checkpoint that `export_lipschitz` wrote.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged, or no such checkpoint.
    """
    return lipschitz_bound(LipschitzSegmenter.of_state(read_weights(checkpoint)))


class _Plain:
    """Makes convolutions whose norm is whatever their weights make it."""

    def convolution(self, inputs: int, outputs: int, size: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, size, padding=size // 2)

    def down(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 2, stride=2)

    def up(self, inputs: int, outputs: int) -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)


class _Orthogonal:
    """Makes convolutions of orthogonium, orthogonal all through the training."""

    def __init__(self) -> None:
        try:
            from orthogonium.layers.conv.AOC import AdaptiveOrthoConv2d, AdaptiveOrthoConvTranspose2d
        except ImportError as error:
            raise ImportError(
                'training a Lipschitz network needs orthogonium: pip install "monai_cert[lipschitz]"'
            ) from error
        self._convolution = AdaptiveOrthoConv2d
        self._transposed = AdaptiveOrthoConvTranspose2d

    def convolution(self, inputs: int, outputs: int, size: int) -> nn.Module:
        made: nn.Module = self._convolution(inputs, outputs, size, padding=size // 2, padding_mode="zeros")
        return made

    def down(self, inputs: int, outputs: int) -> nn.Module:
        made: nn.Module = self._convolution(inputs, outputs, 2, stride=2, padding=0, padding_mode="zeros")
        return made

    def up(self, inputs: int, outputs: int) -> nn.Module:
        made: nn.Module = self._transposed(inputs, outputs, 2, stride=2)
        # The library starts from normal weights, which its few iterations do not orthogonalize.
        nn.init.orthogonal_(made.parametrizations["weight"].original)  # type: ignore[index, union-attr]  # torch types them as modules
        return made


def _level(make: _Plain | _Orthogonal, channels: list[int], depths: list[int]) -> list[nn.Module]:
    """The layers of a level and of all below it, from channels[0] to channels[0]."""

    def convolutions() -> list[nn.Module]:
        return [layer for _ in range(depths[0]) for layer in (make.convolution(channels[0], channels[0], 3), MaxMin())]

    if len(channels) == 1:
        return convolutions()
    half = channels[0] // 2
    inner = _level(make, channels[1:], depths[1:])
    below = nn.Sequential(make.down(half, channels[1]), MaxMin(), *inner, make.up(channels[1], half))
    return [*convolutions(), SplitSkip(below), MaxMin(), *convolutions()]


def _convolutions(network: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d]:
    return [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d)]
