# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The claim: from votes to certified classes, and the record that states what was proved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import ROUND_DOWN, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from monai_cert.bounds import Bounds
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.binomial import VoteTest, joint
from monai_cert.statistics.multiplicity import Correction, holm

__all__ = ["ABSTAIN", "ABSTAIN_ON_DISK", "Certificate", "Provenance", "certify", "classes_from_disk", "classes_to_disk"]

ABSTAIN = -1
ABSTAIN_ON_DISK = 255

FORMAT = 1

UNEQUAL = "votes must sum to the same number of draws at every pixel"

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Provenance:
    """Where votes came from: everything needed to draw them again. None where it is not known.

    Args:
        seed: seed of the certificate, given or taken from the system's entropy.
        input_sha256: `monai_cert.noise.image_key` of the tensor that was certified.
        input_shape: its shape (C, *spatial).
        weights_sha256: digest of all parameters and buffers of the networks.
        batch_size: draws a forward pass; it changes logits by rounding.
        device: the device's type.
        dtype: the input's type on the way through the networks.
        versions: package versions.
    """

    seed: int | None = None
    input_sha256: str | None = None
    input_shape: tuple[int, ...] | None = None
    weights_sha256: str | None = None
    batch_size: int | None = None
    device: str | None = None
    dtype: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Certificate:
    """What was proved about one image, stated without the code that proved it.

    The meaning of a field never changes; a new meaning is a new field. `from_json` refuses what it does not know.

    Args:
        classes: (*spatial) int16 certified label map, `ABSTAIN` where nothing was proved.
        num_classes: number of classes of the network.
        radius: l2 radius of the claim, rounded toward zero, in the units of ``bounds``.
        sigma: standard deviation of the noise, in the units of ``bounds``.
        tau: majority threshold tested at each pixel.
        alpha: failure probability of the whole certificate.
        n: draws that were tested.
        n0: draws spent on choosing the classes (split test), else 0.
        tested: number of pixels among the hypotheses; the others abstain.
        bounds: (lower, upper) pixel values that give the unit.
        noise: name of the noise law.
        test: name of the test of one pixel.
        correction: name of the correction for testing many pixels.
        error: kind of error that alpha bounds; ``family-wise``: any wrong pixel at all.
        provenance: how the votes were drawn.
    """

    classes: npt.NDArray[np.int16]
    num_classes: int
    radius: float
    sigma: float
    tau: float
    alpha: float
    n: int
    n0: int
    tested: int
    bounds: tuple[float, float] = (0.0, 1.0)
    noise: str = "gaussian"
    test: str = "joint"
    correction: str = "holm"
    error: str = "family-wise"
    provenance: Provenance = Provenance()

    @property
    def abstention(self) -> float:
        """Share of all pixels that abstain, untested ones included."""
        return float(np.mean(self.classes == ABSTAIN))

    @property
    def certified_fraction(self) -> float:
        """Share of all pixels that are certified."""
        return 1.0 - self.abstention

    @property
    def draws(self) -> int:
        """All draws, n0 + n."""
        return self.n0 + self.n

    @property
    def radius_map(self) -> npt.NDArray[np.float32]:
        """(*spatial) float32: the radius, rounded toward zero, where a class is certified, and 0 where it is not."""
        return np.where(self.classes == ABSTAIN, np.float32(0), _float32_down(self.radius))

    @property
    def statement(self) -> str:
        """The claim in a sentence."""
        certified, radius = int((self.classes != ABSTAIN).sum()), _down_to_digits(self.radius)
        return (
            f"With probability at least {1 - self.alpha:.10g} over the noise draws, for all {certified} certified "
            f"pixels at once (of {self.classes.size}): under every change of the image of l2 size below {radius} "
            f"(pixel values from {self.bounds[0]:g} to {self.bounds[1]:g}), the class that the network gives most "
            "often under the noise stays the certified one."
        )

    def to_json(self) -> str:
        """The record as JSON: all fields but the label map, which is saved beside and bound to it by its digest."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "classes"}
        record |= {
            "format": FORMAT,
            "bounds": list(self.bounds),
            "provenance": asdict(self.provenance),
            "classes_shape": list(self.classes.shape),
            "classes_sha256": _digest(self.classes),
            "statement": self.statement,
        }
        return json.dumps(record, indent=4)

    @classmethod
    def from_json(cls, text: str, classes: IntArray) -> Certificate:
        """Read a record back, together with its label map.

        Args:
            text: what `to_json` wrote.
            classes: (*spatial) label map with `ABSTAIN`, see `classes_from_disk`.

        Raises:
            ValueError: if the text is no record, of another format, has unknown or missing fields, or belongs to
                another label map.
        """
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"this is no certificate: {error}") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(f"this is no certificate of format {FORMAT}")
        derived = {"format", "classes_shape", "classes_sha256", "statement"}
        known = {f.name for f in fields(cls)} - {"classes"}
        if set(record) != known | derived:
            wrong = sorted(set(record) ^ (known | derived))
            raise ValueError(f"the certificate has unknown or missing fields: {', '.join(wrong)}")
        provenance = record["provenance"]
        if not isinstance(provenance, dict) or set(provenance) != {f.name for f in fields(Provenance)}:
            raise ValueError("the certificate's provenance has unknown or missing fields")
        label_map: npt.NDArray[np.int16] = np.asarray(classes, dtype=np.int16)
        if _digest(label_map) != record["classes_sha256"] or list(label_map.shape) != record["classes_shape"]:
            raise ValueError("the label map is not the one that this certificate was made for")
        shape = provenance["input_shape"]
        values = {name: record[name] for name in known - {"provenance", "bounds"}}
        return cls(
            classes=label_map,
            bounds=(record["bounds"][0], record["bounds"][1]),
            provenance=Provenance(**provenance | {"input_shape": None if shape is None else tuple(shape)}),
            **values,
        )


def certify(
    votes: IntArray | torch.Tensor,
    *,
    noise: GaussianNoise,
    tau: float = 0.75,
    alpha: float = 0.001,
    test: VoteTest = joint,
    correction: Correction = holm,
    selection: IntArray | torch.Tensor | None = None,
    hypotheses: npt.NDArray[np.bool_] | None = None,
    bounds: Bounds = Bounds(),
    provenance: Provenance = Provenance(),
) -> Certificate:
    r"""Turn votes into a certificate.

    *Claim.* With probability at least 1 - alpha over the draws, for every pixel i that does not abstain, all of them at
    once, and every delta with ||delta||_2 < R = sigma Phi^-1(tau): argmax_c P(f(x + delta + e)_i = c) = class_i.

    *Proof.* A class that holds more than tau of the noise at x holds more than 1/2 of it at x + delta (Cohen et al.
    2019, theorem 1, from the Neyman-Pearson lemma). "At most tau" is rejected at each certified pixel by a valid test
    (see the test's docstring), for all pixels together by a correction that bounds the family-wise error by alpha
    under any dependence (Fischer et al. 2021, proposition 2).

    It is the majority class that is constant on the ball: to certify x + delta again may abstain somewhere.

    Args:
        votes: (C, *spatial) integer counts of the tested draws; at each pixel they sum to n.
        noise: the law that the draws came from.
        tau: majority threshold, in [1/2, 1); fixed before the votes were seen.
        alpha: failure probability of the whole certificate.
        test: `joint` or a `SplitTest`.
        correction: `holm` or `bonferroni`.
        selection: (C, *spatial) counts of n0 other draws, for the split test alone.
        hypotheses: (*spatial), True where a pixel is tested; a function of the image, never of the draws.
        bounds: unit of sigma.
        provenance: where the votes came from.

    Raises:
        ValueError: if the votes do not sum to one n, the shapes differ, or tau or alpha are out of range.

    Example:
        >>> import numpy as np
        >>> votes = np.array([[2, 40, 98], [98, 60, 2]])  # 2 classes, 3 pixels, n = 100
        >>> certify(votes, noise=GaussianNoise(0.25)).classes.tolist()
        [1, -1, 0]
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha:g}")
    counted = _counts(votes)
    leader, top, n = _leaders(counted)
    n0 = 0
    if selection is not None:
        chosen = _counts(selection)
        if chosen.shape != counted.shape:
            raise ValueError(
                f"selection must have the shape of the votes, {tuple(counted.shape)}, got {tuple(chosen.shape)}"
            )
        leader, _, n0 = _leaders(chosen)
        top = counted.gather(0, leader[None].long())[0]
    if n0 != test.n0:
        raise ValueError(f"the {test.name} test chooses with {test.n0} draws, but {n0} were given as selection")
    p_values = test.p_values(n, tau)
    mask = None if hypotheses is None else _mask(hypotheses, top.shape)
    tested = top if mask is None else top[mask]
    histogram = torch.bincount(tested.flatten(), minlength=n + 1).numpy()
    rejected = correction(histogram, p_values, alpha, test.step_down_slack(n, tau, alpha))
    # p-values never rise with the count, so what is rejected is every count from a threshold on.
    threshold = int(np.argmax(rejected)) if rejected.any() else n + 1
    certified = top >= threshold if mask is None else (top >= threshold) & mask
    classes = torch.where(certified, leader, ABSTAIN)
    return Certificate(
        classes=classes.numpy().astype(np.int16, copy=False),
        num_classes=counted.shape[0],
        radius=noise.radius(tau),
        sigma=noise.sigma,
        tau=tau,
        alpha=alpha,
        n=n,
        n0=n0,
        tested=tested.numel(),
        bounds=(bounds.lower, bounds.upper),
        noise=noise.name,
        test=test.name,
        correction=getattr(correction, "__name__", type(correction).__name__),
        provenance=provenance,
    )


def classes_to_disk(classes: IntArray) -> npt.NDArray[np.uint8]:
    """Label map as stored in files: uint8 with `ABSTAIN_ON_DISK` for `ABSTAIN`.

    Raises:
        ValueError: if a class does not fit beside the code for abstention.
    """
    if classes.size and classes.max() >= ABSTAIN_ON_DISK:
        raise ValueError(f"label maps on disk hold classes below {ABSTAIN_ON_DISK}, got {classes.max()}")
    return np.where(classes == ABSTAIN, ABSTAIN_ON_DISK, classes).astype(np.uint8)


def classes_from_disk(stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Inverse of `classes_to_disk`."""
    return np.where(stored == ABSTAIN_ON_DISK, np.int16(ABSTAIN), stored.astype(np.int16))


def _counts(votes: IntArray | torch.Tensor) -> torch.Tensor:
    counts = votes.detach().cpu() if isinstance(votes, torch.Tensor) else _tensor(votes)
    integer = not (counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool)
    if counts.ndim < 2 or counts.shape[0] < 2 or not counts.numel() or not integer:
        raise ValueError(f"votes must be integers (C >= 2, *spatial), got {counts.dtype} {tuple(counts.shape)}")
    return counts


def _tensor(array: IntArray) -> torch.Tensor:
    """Share the memory of an array where torch can."""
    contiguous = np.ascontiguousarray(array)
    return torch.from_numpy(contiguous if contiguous.flags.writeable else contiguous.copy())


def _leaders(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The class with the most votes at each pixel (the first in a tie), its votes, and the n that all pixels sum to.

    One pass over the classes: count and class are packed into one number, whose maximum is the answer.
    """
    n, last = int(counts.flatten(1)[:, 0].sum()), counts.shape[0] - 1
    bits = last.bit_length()
    least, most = (int(extreme) for extreme in counts.aminmax())
    if n < 1 or least < 0 or most > n:
        raise ValueError(UNEQUAL)
    counts = counts.to(torch.int16 if (n + 1) << bits <= torch.iinfo(torch.int16).max else torch.int64)
    total = counts[0].clone()
    packed = (counts[0] << bits) + last
    candidate = torch.empty_like(packed)
    for c in range(1, last + 1):
        torch.add(torch.tensor(last - c, dtype=packed.dtype), counts[c], alpha=1 << bits, out=candidate)
        torch.maximum(packed, candidate, out=packed)
        total += counts[c]
    if not bool((total == n).all()):
        raise ValueError(UNEQUAL)
    return last - (packed & ((1 << bits) - 1)), packed >> bits, n


def _mask(hypotheses: npt.NDArray[np.bool_], shape: torch.Size) -> torch.Tensor:
    if hypotheses.dtype != np.bool_ or hypotheses.shape != shape:
        raise ValueError(
            f"hypotheses must be boolean of shape {tuple(shape)}, got {hypotheses.dtype} of {hypotheses.shape}"
        )
    return torch.from_numpy(hypotheses)


def _digest(classes: IntArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(classes, dtype="<i2").tobytes()).hexdigest()


def _float32_down(value: float) -> np.float32:
    nearest = np.float32(value)
    below: np.float32 = np.nextafter(nearest, np.float32(0))
    return nearest if float(nearest) <= value else below


def _down_to_digits(value: float, digits: int = 4) -> str:
    """Decimal text of a number, rounded toward zero."""
    return str(Decimal(value).quantize(Decimal(10) ** -digits, rounding=ROUND_DOWN))
