# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The certification inferer: a MONAI inferer whose prediction is a certificate."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SimpleInferer
from torch import nn
from tqdm import tqdm

from monai_cert.bounds import Bounds
from monai_cert.certificate import Certificate, Provenance, certify_evidence
from monai_cert.evidence import Evidence, weigh
from monai_cert.hierarchy import Hierarchy
from monai_cert.inferers.batching import BatchSizer, RecordedPasses
from monai_cert.inferers.certifying import CertifyingInferer
from monai_cert.inferers.sharing import ALONE, process_group
from monai_cert.inferers.voting import Accumulator, VoteCounter, draw
from monai_cert.noise import GaussianNoise, draw_seeds, image_key, pixel_uniforms
from monai_cert.provenance import package_versions, weights_sha256
from monai_cert.sequential import FixedSample, Sampling
from monai_cert.statistics.binomial import VoteTest, joint, min_samples
from monai_cert.statistics.multiplicity import Correction, holm
from monai_cert.statistics.radius_map import LEAST_TAU, RadiusMap

__all__ = ["CertificationInferer", "Sample", "networks_within"]

Hypotheses = Callable[[torch.Tensor], npt.NDArray[np.bool_]]


class Sample(NamedTuple):
    """The votes on one image.

    Args:
        votes: (classes, *spatial) counts of all tested draws.
        selection: (classes, *spatial) counts of the n0 draws that choose (split test), else None.
        evidence: the strongest evidence of all looks at the votes.
        hypotheses: (*spatial) the tested pixels; all if None.
        provenance: how the votes were drawn.
        recorded: what the inferer's recorders kept of the tested draws.
    """

    votes: torch.Tensor
    selection: torch.Tensor | None
    evidence: Evidence
    hypotheses: npt.NDArray[np.bool_] | None
    provenance: Provenance
    recorded: tuple[Accumulator, ...] = ()


class CertificationInferer(CertifyingInferer[Sample]):
    """Certifies the segmentation of every image of a batch by randomized smoothing.

    What is claimed, and why it holds, stands at `monai_cert.certify`. The function being smoothed is everything between
    the noisy tensor and the label map: put denoising and sliding windows *inside*, as ``inferer``.

    Args:
        noise: the smoothing noise.
        tau: majority threshold tested at each pixel, in [1/2, 1); gives the radius ``noise.radius(tau)``.
        alpha: failure probability of the certificate of one image.
        n: draws that are tested: a number, or a `SequentialCertification`, which finds it.
        test: `joint`; a `SplitTest` which spends n0 further draws; or `radius_map`, which gives each pixel a radius of
            its own in place of the one of tau.
        correction: `holm`, `bonferroni`, or `generalized_holm(k)`, whose claim allows k - 1 wrong pixels.
        batch_size: draws a forward pass; if None, the fastest, found in the first draws. Out of memory halves it. The
            ``passes`` of a certificate's provenance draw its votes again bit by bit.
        inferer: what turns a noisy batch into logits with the network; MONAI's ``SimpleInferer`` if None.
        seed: seed of the noise. The noise of draw j depends on (seed, content of the image, j) alone. If None, fresh
            entropy is taken for every image and recorded in its certificate. The probability in the claim is over the
            seed: fix it before seeing results, and do not try several.
        progress: show a progress bar, one step a draw.
        bounds: pixel values of the inputs, the unit of sigma. Inputs outside are refused: they were scaled otherwise.
        hypotheses: from an image (C, *spatial) to the pixels (*spatial, bool) to be tested; must look at nothing
            but the image. All pixels if None. Its ``name``, if it has one, goes into the record.
        hierarchy: groups of classes that may be certified where the class may not.
        randomized: randomize p-values between two counts with a number drawn once a pixel from the seed: certifies a
            little more, and says so in the record.
        autocast: run the networks in this lower precision, ``torch.bfloat16`` or ``torch.float16``. It changes the
            function that is certified, not the claim, and is recorded.
        compile: compile the network (``torch.compile``) at its first call, which takes a minute; networks that
            ``inferer`` holds are left as they are. Recorded.
        recorders: each makes, from an image (C, *spatial), an accumulator that is fed the tested draws beside the
            votes and comes back in the `Sample`: measurements, masks.
        share_draws: share the draws of each image among the processes of the initialized ``torch.distributed`` process
            group and add the votes up. All of them call the inferer with the same images and get the same
            certificates, which do not depend on the number of processes but for the rounding of batches; where the
            seed is None it is that of the first process.

    Raises:
        ValueError: for parameters out of range; on a call, if processes that share draws do not have the same image,
            seed and weights, or are more than the draws.
        RuntimeError: on the first call, if the network cannot be compiled; on a call, if draws shall be shared without
            a process group, or another process failed.
        torch.OutOfMemoryError: on a call, if a single draw does not fit into memory.

    References:
        Fischer, Baader, Vechev 2021, Scalable Certified Segmentation via Randomized Smoothing, ICML.
    """

    def __init__(
        self,
        noise: GaussianNoise,
        *,
        tau: float = 0.75,
        alpha: float = 0.001,
        n: int | Sampling = 100,
        test: VoteTest = joint,
        correction: Correction = holm,
        batch_size: int | Sequence[tuple[int, int]] | None = None,
        inferer: Inferer | None = None,
        seed: int | None = None,
        progress: bool = False,
        bounds: Bounds = Bounds(),
        hypotheses: Hypotheses | None = None,
        hierarchy: Hierarchy | None = None,
        randomized: bool = False,
        autocast: torch.dtype | None = None,
        compile: bool = False,
        recorders: Sequence[Callable[[torch.Tensor], Accumulator]] = (),
        share_draws: bool = False,
    ) -> None:
        super().__init__()
        min_samples(tau, alpha, 1, test)  # refuses tau and alpha out of range
        self.sampling = FixedSample(n) if isinstance(n, int) else n
        if isinstance(batch_size, int) and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if seed is not None and seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise ValueError(f"autocast must be torch.bfloat16 or torch.float16, got {autocast}")
        if share_draws and not (batch_size is None or isinstance(batch_size, int)):
            raise ValueError("recorded passes are drawn again in one process; leave out share_draws")
        if isinstance(test, RadiusMap) and (self.sampling.stop is not None or hierarchy is not None or randomized):
            raise ValueError("a radius map takes a fixed number of draws, no hierarchy and no randomized p-values")
        self.noise = noise
        self.tau = LEAST_TAU if isinstance(test, RadiusMap) else tau
        self.alpha = alpha
        self.test = test
        self.correction = correction
        self.batch_size = batch_size
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.seed = seed
        self.progress = progress
        self.bounds = bounds
        self.hypotheses = hypotheses
        self.hierarchy = hierarchy
        self.randomized = randomized
        self.autocast = autocast
        self.compile = compile
        self.recorders = tuple(recorders)
        self.share_draws = share_draws
        self._sizers: dict[tuple[str, torch.Size, int | None], BatchSizer] = {}

    def sample(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> list[Sample]:
        """Draw the votes of a batch without deciding yet. Arguments as in `__call__`.

        Raises:
            ValueError: if an input is not finite or outside the bounds, n draws cannot certify a single pixel, or a
                network is in training mode.
        """
        images = _plain(inputs)
        self._check(images, network)
        modules = [m for m in (network, *networks_within(self.inferer)) if isinstance(m, nn.Module)]
        weights = weights_sha256(modules) if isinstance(network, nn.Module) else None
        callee = _compiled(network) if self.compile else network
        return [self._sample_one(image, callee, weights, args, kwargs) for image in images]

    def decide(self, sample: Sample) -> Certificate:
        """Certify on votes that `sample` drew."""
        made = sample.provenance
        uniforms = None
        if self.randomized and made.seed is not None and made.input_sha256 is not None:
            uniforms = pixel_uniforms(made.seed, made.input_sha256, sample.evidence.shape)
        return certify_evidence(
            sample.evidence,
            noise=self.noise,
            alpha=self.alpha,
            correction=self.correction,
            hypotheses=sample.hypotheses,
            hypotheses_name=getattr(self.hypotheses, "name", None),
            uniforms=uniforms,
            stop=self.sampling.stop,
            bounds=self.bounds,
            provenance=made,
        )

    def _sample_one(self, image: torch.Tensor, network: Any, weights: str | None, args: Any, kwargs: Any) -> Sample:
        processes = process_group() if self.share_draws else ALONE
        hypotheses = processes.together(lambda: self._tested(image))
        self.check_reach(int(np.prod(image.shape[1:])) if hypotheses is None else int(hypotheses.sum()))
        key = image_key(image)
        n0, looks = self.test.n0, self.sampling.looks
        draws = n0 + looks[-1]
        if processes.size > (least := min(n0 or looks[0], looks[0])):
            raise ValueError(f"{least} draws cannot be shared among {processes.size} processes; start fewer")
        seed = processes.gather(secrets.randbits(63))[0] if self.seed is None else self.seed
        processes.agree({"image": key, "seed": seed, "weights": weights})
        sizer = self._sizer(image)
        seeds = draw_seeds(seed, key, range(draws))
        chosen, tested = VoteCounter(n0), VoteCounter(looks[-1])
        accumulators = [tested, *(make(image) for make in self.recorders)]
        table = self.sampling.table(self.test, self.tau)
        mask = None if hypotheses is None else torch.from_numpy(hypotheses)
        evidence: Evidence | None = None
        device = image.device.type
        precision = self.autocast or _ambient_autocast(device)

        def predict(noisy: torch.Tensor) -> Any:
            with torch.autocast(device, precision, enabled=precision is not None):
                return self.inferer(noisy, network, *args, **kwargs)

        def feed(fresh: Sequence[int], fed: Sequence[Accumulator]) -> None:
            share = processes.share(fresh)
            processes.together(lambda: draw(image, predict, self.noise, share, sizer, fed, bar.update))
            for accumulator in fed if processes.size > 1 else ():
                accumulator.exchange(processes)

        # The outer autocast changes nothing by itself, but keeps what the inner one casts until the last draw.
        with (
            torch.no_grad(),
            torch.autocast(device, enabled=False),
            tqdm(total=draws // processes.size, unit="draw", disable=not self.progress, leave=False) as bar,
        ):
            if n0:
                feed(seeds[:n0], [chosen])
            selection = chosen.votes() if n0 else None
            for start, look in zip((0, *looks), looks, strict=False):
                feed(seeds[n0 + start : n0 + look], accumulators)
                votes = tested.votes()
                now = weigh(votes, lambda n: table, selection=selection, hierarchy=self.hierarchy)
                evidence = now.strongest(evidence)
                if self.sampling.enough(evidence, votes, self.alpha, self.correction, mask):
                    break
        assert evidence is not None  # a sampling has at least one look
        provenance = Provenance(
            seed=seed,
            input_sha256=key,
            input_shape=tuple(image.shape),
            weights_sha256=weights,
            batch_size=sizer.size,
            passes=(*chosen.passes, *tested.passes),
            device=device,
            dtype=_name(image.dtype),
            autocast=None if precision is None else _name(precision),
            compiled=self.compile,
            processes=processes.size,
            versions=dict(package_versions()),
        )
        return Sample(votes, selection, evidence, hypotheses, provenance, tuple(accumulators[1:]))

    def _tested(self, image: torch.Tensor) -> npt.NDArray[np.bool_] | None:
        """(*spatial) the pixels to be tested, refused before anything is drawn where they are none; all if None."""
        if self.hypotheses is None:
            return None
        tested = np.asarray(self.hypotheses(image))
        if tested.dtype != np.bool_ or tested.shape != image.shape[1:]:
            shape = tuple(image.shape[1:])
            raise ValueError(f"hypotheses must be boolean of shape {shape}, got {tested.dtype} of {tested.shape}")
        return tested

    def _sizer(self, image: torch.Tensor) -> BatchSizer:
        """What chooses the batch sizes; shared by images of one shape, so that the second starts settled."""
        if not (self.batch_size is None or isinstance(self.batch_size, int)):
            return RecordedPasses(self.batch_size)
        place = (image.device.type, image.shape, self.batch_size)
        return self._sizers.setdefault(place, BatchSizer(self.batch_size, image.device.type))

    def _check(self, images: torch.Tensor, network: Any) -> None:
        for module in (network, *networks_within(self.inferer)):
            if isinstance(module, nn.Module) and any(part.training for part in module.modules()):
                raise ValueError(f"{type(module).__name__} is in training mode; call its eval() first")
        if images.ndim < 3:
            raise ValueError(f"images must be (B, C, *spatial), got shape {tuple(images.shape)}")
        self.bounds.check(images.cpu().numpy(), "the image")

    def check_reach(self, pixels: int) -> None:
        """Refuse, with a ValueError that names the n that would do, so many pixels that no draws can certify one."""
        hypotheses = max(1, pixels // (self.correction.tolerated + 1))
        table = self.sampling.table(self.test, self.tau)
        if all(count is None for count in table.counts(self.alpha / hypotheses)):
            needed = min_samples(self.tau, self.alpha, hypotheses, self.test)
            paid = "" if len(table.looks) == 1 else " and some more to pay for the looks"
            raise ValueError(
                f"n = {table.looks[-1]} draws cannot certify any of {pixels} pixels at tau = {self.tau:g}, alpha = "
                f"{self.alpha:g}; at least n = {needed}{paid} are needed"
            )


def _plain(inputs: torch.Tensor) -> torch.Tensor:
    """float32 without metadata, which would cost several times the operation it rides on."""
    tensor = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
    return tensor.detach().float()


def _ambient_autocast(device: str) -> torch.dtype | None:
    """The precision of an autocast around the call, such as an evaluator's with ``amp``."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _compiled(network: Any) -> Callable[..., Any]:
    """The network behind torch.compile, whose failures become one sentence."""
    call: Callable[..., Any] = torch.compile(network)

    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            # The compiler's errors have no public base class.
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RuntimeError(f"torch.compile cannot compile the network ({reason}); certify without compile")

    return checked


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def networks_within(inferer: Inferer) -> Iterator[nn.Module]:
    """Networks that an inferer carries within, in itself or in inferers inside it."""
    for value in vars(inferer).values():
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, Inferer):
            yield from networks_within(value)
