# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The certification inferer: a MONAI inferer whose prediction is a certificate."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from monai.utils import convert_to_dst_type
from torch import nn
from tqdm import tqdm

from monai_cert.bounds import Bounds
from monai_cert.certificate import Certificate, Provenance, certify
from monai_cert.inferers.voting import draw_votes
from monai_cert.noise import GaussianNoise, draw_seeds, image_key
from monai_cert.provenance import package_versions, weights_sha256
from monai_cert.statistics.binomial import VoteTest, joint, min_samples
from monai_cert.statistics.multiplicity import Correction, holm

__all__ = ["CertificationInferer", "Sample"]

Hypotheses = Callable[[torch.Tensor], npt.NDArray[np.bool_]]

# Small batches are fastest on CPUs, whose caches they fit; on GPUs a launch has to be worth it.
_BATCH_SIZE = {"cpu": 4}
_BATCH_SIZE_ELSEWHERE = 32


class Sample(NamedTuple):
    """The votes on one image.

    Args:
        votes: (classes, *spatial) counts of the n tested draws.
        selection: (classes, *spatial) counts of the n0 draws that choose (split test), else None.
        hypotheses: (*spatial) the tested pixels; all if None.
        provenance: how the votes were drawn.
    """

    votes: torch.Tensor
    selection: torch.Tensor | None
    hypotheses: npt.NDArray[np.bool_] | None
    provenance: Provenance


class CertificationInferer(Inferer):
    """Certifies the segmentation of every image of a batch by randomized smoothing.

    What is claimed, and why it holds, stands at `monai_cert.certify`. The function being smoothed is everything between
    the noisy tensor and the label map: put denoising and sliding windows *inside*, as ``inferer``.

    Args:
        noise: the smoothing noise.
        tau: majority threshold tested at each pixel, in [1/2, 1); gives the radius ``noise.radius(tau)``.
        alpha: failure probability of the certificate of one image.
        n: draws that are tested.
        test: `joint`, or a `SplitTest` which spends n0 further draws.
        correction: `holm` or `bonferroni`.
        batch_size: draws a forward pass; if None, 4 on the CPU and 32 elsewhere.
        inferer: what turns a noisy batch into logits with the network; MONAI's ``SimpleInferer`` if None.
        seed: seed of the noise. The noise of draw j depends on (seed, content of the image, j) alone. If None, fresh
            entropy is taken for every image and recorded in its certificate. The probability in the claim is over the
            seed: fix it before seeing results, and do not try several.
        progress: show a progress bar, one step a draw.
        bounds: pixel values of the inputs, the unit of sigma. Inputs outside are refused: they were scaled otherwise.
        hypotheses: from an image (C, *spatial) to the pixels (*spatial, bool) to be tested; must look at nothing
            but the image. All pixels if None.

    Raises:
        ValueError: for parameters out of range.

    References:
        Fischer, Baader, Vechev 2021, Scalable Certified Segmentation via Randomized Smoothing, ICML.
    """

    def __init__(
        self,
        noise: GaussianNoise,
        *,
        tau: float = 0.75,
        alpha: float = 0.001,
        n: int = 100,
        test: VoteTest = joint,
        correction: Correction = holm,
        batch_size: int | None = None,
        inferer: Inferer | None = None,
        seed: int | None = None,
        progress: bool = False,
        bounds: Bounds = Bounds(),
        hypotheses: Hypotheses | None = None,
    ) -> None:
        super().__init__()
        min_samples(tau, alpha, 1, test)  # refuses tau and alpha out of range
        if n < 1 or (batch_size is not None and batch_size < 1):
            raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.noise = noise
        self.tau = tau
        self.alpha = alpha
        self.n = n
        self.test = test
        self.correction = correction
        self.batch_size = batch_size
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.seed = seed
        self.progress = progress
        self.bounds = bounds
        self.hypotheses = hypotheses

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Certify a batch.

        Args:
            inputs: (B, C, *spatial) images within the bounds, tensor or MetaTensor.
            network: the network, in evaluation mode.
            args: further arguments of the network.
            kwargs: further keyword arguments of the network.

        Returns:
            (B, 2, *spatial) float32 of the type of the inputs, metadata kept: channel 0 the certified class (ABSTAIN is
            -1), channel 1 the certified l2 radius (0 where it abstains), rounded toward zero.

        Raises:
            ValueError: if an input is not finite or outside the bounds, n draws cannot certify a single pixel, or a
                network is in training mode.
        """
        certificates = self.certify(inputs, network, *args, **kwargs)
        maps = np.stack([np.stack([c.classes.astype(np.float32), c.radius_map]) for c in certificates])
        out: torch.Tensor = convert_to_dst_type(torch.from_numpy(maps), inputs, dtype=torch.float32)[0]
        if isinstance(out, MetaTensor):
            out.meta["certificate"] = [certificate.to_json() for certificate in certificates]
        return out

    def certify(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> list[Certificate]:
        """Certify a batch; one whole claim an image. Arguments and errors as in `__call__`."""
        return [self.decide(sample) for sample in self.sample(inputs, network, *args, **kwargs)]

    def votes(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(B, classes, *spatial) counts of the n tested draws. Arguments and errors as in `__call__`."""
        return torch.stack([sample.votes for sample in self.sample(inputs, network, *args, **kwargs)])

    def sample(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> list[Sample]:
        """Draw the votes of a batch without deciding yet. Arguments and errors as in `__call__`."""
        images = _plain(inputs)
        self._check(images, network)
        modules = [m for m in (network, *_modules(self.inferer)) if isinstance(m, nn.Module)]
        weights = weights_sha256(modules) if isinstance(network, nn.Module) else None
        return [self._sample_one(image, network, weights, args, kwargs) for image in images]

    def decide(self, sample: Sample) -> Certificate:
        """Certify on votes that `sample` drew."""
        return certify(
            sample.votes,
            noise=self.noise,
            tau=self.tau,
            alpha=self.alpha,
            test=self.test,
            correction=self.correction,
            selection=sample.selection,
            hypotheses=sample.hypotheses,
            bounds=self.bounds,
            provenance=sample.provenance,
        )

    def _sample_one(self, image: torch.Tensor, network: Any, weights: str | None, args: Any, kwargs: Any) -> Sample:
        hypotheses = None if self.hypotheses is None else self.hypotheses(image)
        self.check_reach(int(np.prod(image.shape[1:])) if hypotheses is None else int(hypotheses.sum()))
        seed = secrets.randbits(63) if self.seed is None else self.seed
        key = image_key(image)
        n0, draws = self.test.n0, self.test.n0 + self.n
        size = self.batch_size or _BATCH_SIZE.get(image.device.type, _BATCH_SIZE_ELSEWHERE)
        seeds = draw_seeds(seed, key, range(draws))

        def predict(noisy: torch.Tensor) -> Any:
            return self.inferer(noisy, network, *args, **kwargs)

        with torch.no_grad(), tqdm(total=draws, unit="draw", disable=not self.progress, leave=False) as bar:
            selection = draw_votes(image, predict, self.noise, seeds[:n0], size, bar.update) if n0 else None
            votes = draw_votes(image, predict, self.noise, seeds[n0:], size, bar.update)
        provenance = Provenance(
            seed=seed,
            input_sha256=key,
            input_shape=tuple(image.shape),
            weights_sha256=weights,
            batch_size=size,
            device=image.device.type,
            dtype=str(image.dtype).removeprefix("torch."),
            versions=dict(package_versions()),
        )
        return Sample(votes, selection, hypotheses, provenance)

    def _check(self, images: torch.Tensor, network: Any) -> None:
        for module in (network, *_modules(self.inferer)):
            if isinstance(module, nn.Module) and any(part.training for part in module.modules()):
                raise ValueError(f"{type(module).__name__} is in training mode; call its eval() first")
        if images.ndim < 3:
            raise ValueError(f"images must be (B, C, *spatial), got shape {tuple(images.shape)}")
        self.bounds.check(images.cpu().numpy(), "the image")

    def check_reach(self, pixels: int) -> None:
        """Refuse, with a ValueError that names the n that would do, what n draws cannot certify in so many pixels."""
        needed = min_samples(self.tau, self.alpha, max(1, pixels), self.test)
        if self.n < needed:
            raise ValueError(
                f"n = {self.n} draws cannot certify any of {pixels} pixels at tau = {self.tau:g}, alpha = "
                f"{self.alpha:g}; at least n = {needed} are needed"
            )


def _plain(inputs: torch.Tensor) -> torch.Tensor:
    """float32 without metadata, which would cost several times the operation it rides on."""
    tensor = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
    return tensor.detach().float()


def _modules(inferer: Inferer) -> Iterator[nn.Module]:
    """Networks that an inferer carries within, in itself or in inferers inside it."""
    for value in vars(inferer).values():
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, Inferer):
            yield from _modules(value)
