# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certificates in one pass, of networks whose Lipschitz constant is known: a MONAI inferer without any noise."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from monai_cert.bounds import Bounds
from monai_cert.certificate import ABSTAIN, Certificate, Provenance
from monai_cert.inferers.certifying import CertifyingInferer
from monai_cert.margins import budget, check_logits, pixel_classes, pixel_radii, pixel_stability
from monai_cert.networks.constants import LipschitzBound, UnknownBoundError, lipschitz_bound, multiplies_exactly
from monai_cert.noise import image_key
from monai_cert.provenance import network_sha256, package_versions, weights_sha256

__all__ = ["LipschitzCertificationInferer", "LipschitzSample"]


class LipschitzSample(NamedTuple):
    """What one pass gave for one image.

    Args:
        logits: (C, *spatial) of the pass.
        votes: (classes, *spatial) int16, 1 for the class of each pixel: those of a vote with one voter.
        rounding: margin of rounding, see `LipschitzBound.rounding`, for changes of the image up to ``reach``; None if
            it is not known, and taken as 0.
        reach: l2 size of a change that turns the image all black or white; no larger radius is claimed.
        constant: Lipschitz constant of the network that gave them.
        provenance: how they were computed.
        recorded: nothing; there are no draws to record.
    """

    logits: npt.NDArray[np.floating[Any]]
    votes: torch.Tensor
    rounding: float | None
    reach: float
    constant: float
    provenance: Provenance
    recorded: tuple[()] = ()


class LipschitzCertificationInferer(CertifyingInferer[LipschitzSample]):
    """Certifies the segmentation of every image of a batch from one pass of a network of known Lipschitz constant.

    *Claim*, without any probability: at every pixel that does not abstain, every change of the image of l2 size below
    the pixel's own radius leaves the network's class as it is; this radius is at least ``radius`` (`monai_cert.margins`
    proves it, for all pixels at once). Pixels of a smaller radius abstain, so that the certificate is one for changes
    below ``radius`` like that of smoothing; with ``radius=0`` hardly any does, and the map of radii says it all. That
    all pixels share one budget is stronger still: the record's ``stability`` is the share of the pixels, whichever they
    be, that keep their class under any one change of that size. Metrics that use it: `monai_cert.metrics.worst_case`.

    *What runs* is a pass in float64 by default, which is slower: the claim is about the network as computed so. The
    margin of rounding is derived, not measured: in float64 some 1e-8, in float32 several units of l2, since rounding
    errors might all add up; in fact they do not, but nothing proves it.

    Args:
        lipschitz_constant: L of the network, from l2 of the image to l2 of all logits; a `LipschitzBound`, which also
            refuses another network than it was computed for; a number that you answer for, good for the network of the
            first call (one that is no module cannot be told from another); or None: what `lipschitz_bound` finds, again
            whenever the network has changed.
        radius: l2 size of the changes that classes and abstentions refer to, in the units of the bounds.
        inferer: what runs the network; anything but MONAI's ``SimpleInferer`` makes a function whose constant is not
            the network's, and needs a number as ``lipschitz_constant``.
        bounds: pixel values of the inputs, the unit of all radii. Inputs outside are refused.
        dtype: floating-point type of the pass, ``torch.float64`` or ``torch.float32``; on a GPU float64 alone, and
            without cuDNN, whose Fourier algorithms have no known bound of rounding. With a number as constant of a
            network that `lipschitz_bound` does not know, the margin of rounding is unknown too: float64 alone, and the
            claim says so.

    Raises:
        ValueError: for a constant, radius or type out of range; on a call, see `sample`.

    References:
        Massena, Friedrich, Mamalet, Serrurier 2025, Fast and Flexible Robustness Certificates for Semantic
        Segmentation.

    Example:
        >>> from monai_cert.networks.segmenter import LipschitzSegmenter
        >>> network = LipschitzSegmenter(channels=(4,), depths=(1,)).eval()
        >>> LipschitzCertificationInferer()(torch.zeros(1, 1, 16, 16), network).shape
        torch.Size([1, 2, 16, 16])
    """

    def __init__(
        self,
        lipschitz_constant: float | LipschitzBound | None = None,
        *,
        radius: float = 0.17,
        inferer: Inferer | None = None,
        bounds: Bounds = Bounds(),
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        constant = lipschitz_constant.constant if isinstance(lipschitz_constant, LipschitzBound) else lipschitz_constant
        if constant is not None and not (math.isfinite(constant) and constant > 0):
            raise ValueError(f"lipschitz_constant must be positive and finite, got {constant:g}")
        if not (math.isfinite(radius) and radius >= 0):
            raise ValueError(f"radius must be finite and not negative, got {radius:g}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        if isinstance(lipschitz_constant, LipschitzBound) and type(inferer) not in (type(None), SimpleInferer):
            raise ValueError(f"a LipschitzBound is that of a network alone, not inside {type(inferer).__name__}")
        self.lipschitz_constant = lipschitz_constant
        self.radius = radius
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.bounds = bounds
        self.dtype = dtype
        self._known: LipschitzBound | None = None
        self._first: str | None = None
        self._copy: tuple[tuple[str, torch.device], nn.Module] | None = None

    def sample(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> list[LipschitzSample]:
        """Run the network once without deciding yet. Arguments as in `__call__`.

        Raises:
            ValueError: if an input is not finite or outside the bounds, the network is in training mode, its constant
                unknown or that of another network, or its logits are not finite.
        """
        images = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).detach()
        # Any other type fits into float32 without being changed.
        images = images if images.dtype == torch.float64 else images.float()
        self._check(images, network)
        weights = weights_sha256([network]) if isinstance(network, nn.Module) else None
        digest = network_sha256(network, weights) if isinstance(network, nn.Module) else None
        bound, constant = self._constant(network, digest)
        typed = self._typed(network, digest, images.device)
        products = torch.backends.cudnn.flags(enabled=False) if images.device.type == "cuda" else nullcontext()
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False), products:
            logits = self.inferer(images.to(self.dtype), typed, *args, **kwargs)
        if not isinstance(logits, torch.Tensor) or logits.ndim != images.ndim or len(logits) != len(images):
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(f"the network must give logits ({len(images)}, classes, *spatial), got {shape}")
        return [
            self._sample(image, part.cpu().numpy(), bound, constant, weights, len(images))
            for image, part in zip(images, logits, strict=True)
        ]

    def decide(self, sample: LipschitzSample) -> Certificate:
        """Certify what `sample` found."""
        rounding = sample.rounding or 0.0
        radii = np.minimum(pixel_radii(sample.logits, sample.constant, rounding), np.float32(sample.reach))
        own = pixel_classes(sample.logits)
        # A radius of 0 proves nothing, and a class is certified for the changes below its radius. The two are compared
        # in float64: in float32 the radius that was asked for might be rounded down.
        certified = (radii > 0) & (radii.astype(np.float64) >= self.radius)
        kept = pixel_stability(sample.logits).worst(budget(sample.constant, self.radius, rounding))
        return Certificate(
            classes=np.where(certified, own, np.int16(ABSTAIN)).astype(np.int16),
            num_classes=len(sample.votes),
            radius=self.radius,
            sigma=0.0,
            tau=1.0,
            alpha=0.0,
            n=1,
            n0=0,
            tested=own.size,
            bounds=(self.bounds.lower, self.bounds.upper),
            noise="none",
            test="none",
            correction="none",
            error="none",
            provenance=sample.provenance,
            kind="deterministic",
            lipschitz_constant=sample.constant,
            rounding=sample.rounding,
            stability=kept,
            radii=np.where(certified, radii, np.float32(0)),
        )

    def constant(self, network: Any) -> float:
        """The Lipschitz constant that a call would use; errors as in `sample`."""
        return self._constant(network, network_sha256(network) if isinstance(network, nn.Module) else None)[1]

    def _sample(
        self,
        image: torch.Tensor,
        logits: npt.NDArray[np.floating[Any]],
        bound: LipschitzBound | None,
        constant: float,
        weights: str | None,
        batch: int,
    ) -> LipschitzSample:
        reach = max(self.radius, (self.bounds.upper - self.bounds.lower) * math.sqrt(image.numel()))
        rounding = None if bound is None else bound.rounding(image, reach * (1 + 1e-6), self.dtype)
        check_logits(logits)
        own = torch.from_numpy(pixel_classes(logits))
        classes = max(2, len(logits))
        provenance = Provenance(
            input_sha256=image_key(image),
            input_shape=tuple(image.shape),
            weights_sha256=weights,
            batch_size=batch,
            device=image.device.type,
            dtype=str(self.dtype).removeprefix("torch."),
            versions=dict(package_versions()),
        )
        votes = torch.stack([own == c for c in range(classes)]).to(torch.int16)
        return LipschitzSample(logits, votes, rounding, reach, constant, provenance)

    def _constant(self, network: Any, digest: str | None) -> tuple[LipschitzBound | None, float]:
        """The bound that rounding is taken from, if there is one, and the constant for the network as it is now."""
        given = self.lipschitz_constant
        if isinstance(given, LipschitzBound):
            given.check(network)
            return given, given.constant
        if given is None:
            found = self._bound(network, digest)
            return found, found.constant
        if self._first not in (None, digest):
            raise ValueError(
                "the network's weights are not those of the first call, for which lipschitz_constant was given; give "
                "the constant of these weights"
            )
        self._first = digest
        try:
            return self._bound(network, digest), float(given)
        except UnknownBoundError as error:
            if self.dtype != torch.float64:
                raise ValueError(f"no bound of rounding is known for {self.dtype}; use torch.float64") from error
            return None, float(given)

    def _bound(self, network: Any, digest: str | None) -> LipschitzBound:
        """The bound of the network, computed when it is new."""
        if not isinstance(network, nn.Module) or type(self.inferer) is not SimpleInferer:
            inside = "" if isinstance(network, nn.Module) else f" {type(network).__name__}"
            raise UnknownBoundError(
                f"the Lipschitz constant of the network{inside} inside {type(self.inferer).__name__} is unknown; give "
                "it as lipschitz_constant"
            )
        if self._known is None or self._known.network_sha256 != digest:
            self._known = lipschitz_bound(network)
        return self._known

    def _typed(self, network: Any, digest: str | None, device: torch.device) -> Any:
        """The network in the type of the pass: itself, or a copy that is kept while the network does not change."""
        if not isinstance(network, nn.Module) or all(p.dtype == self.dtype for p in network.parameters()):
            return network
        if self.dtype == torch.float32:
            raise ValueError("the network has weights that float32 would change; run it in torch.float64")
        assert digest is not None
        if self._copy is None or self._copy[0] != (digest, device):
            self._copy = ((digest, device), copy.deepcopy(network).to(self.dtype))
        return self._copy[1]

    def _check(self, images: torch.Tensor, network: Any) -> None:
        if isinstance(network, nn.Module) and any(part.training for part in network.modules()):
            raise ValueError(
                f"{type(network).__name__} is in training mode, where statistics of the batch would make it another "
                "function; call its eval() first"
            )
        if images.ndim < 3:
            raise ValueError(f"images must be (B, C, *spatial), got shape {tuple(images.shape)}")
        if self.dtype == torch.float32 and images.dtype == torch.float64:
            raise ValueError("the image has values that float32 would change; run it in torch.float64")
        on_cpu = images.device.type == "cpu"
        if not (multiplies_exactly(self.dtype) and (on_cpu or self.dtype == torch.float64)):
            where = f"on {images.device.type}" if not on_cpu else "with products of lower precision"
            raise ValueError(f"no bound of rounding is known for float32 {where}; use torch.float64")
        self.bounds.check(images.cpu().numpy(), "the image")
