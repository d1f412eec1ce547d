# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The claim: from votes to certified classes, and the record that states what was proved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from monai_cert.bounds import Bounds
from monai_cert.evidence import Evidence, weigh
from monai_cert.hierarchy import Hierarchy
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.binomial import VoteTest, joint
from monai_cert.statistics.looks import single_look
from monai_cert.statistics.multiplicity import Correction, bonferroni, holm
from monai_cert.statistics.radius_map import LEAST_TAU, RadiusMap
from monai_cert.statistics.rounding import chance, exactly, outward, rounded_down

__all__ = [
    "ABSTAIN",
    "ABSTAIN_ON_DISK",
    "Certificate",
    "Provenance",
    "adjusted_p_values",
    "certify",
    "certify_evidence",
    "classes_from_disk",
    "classes_to_disk",
]

ABSTAIN = -1
ABSTAIN_ON_DISK = 255

FORMAT = 1

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
        passes: run-length list of (draws a pass, number of passes), in order; with the seed it redraws the votes bit by
            bit on the same device.
        device: the device's type; CPUs and other devices draw different noise from a seed.
        dtype: the input's type on the way through the networks.
        autocast: the lower precision in which autocast ran the networks.
        compiled: whether the network was compiled.
        processes: number of processes that shared the draws; one process redraws their votes.
        versions: package versions.
    """

    seed: int | None = None
    input_sha256: str | None = None
    input_shape: tuple[int, ...] | None = None
    weights_sha256: str | None = None
    batch_size: int | None = None
    passes: tuple[tuple[int, int], ...] = ()
    device: str | None = None
    dtype: str | None = None
    autocast: str | None = None
    compiled: bool = False
    processes: int = 1
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
        error: kind of error that alpha bounds; ``family-wise``: any wrong pixel at all; ``k-family-wise``: more than
            ``tolerated`` wrong pixels.
        provenance: how the votes were drawn.
        tolerated: number of wrong pixels that the claim allows.
        looks: numbers of draws at which a sequential certification would look at the votes; empty for a fixed n.
        boundaries: how the looks were paid for; None for a fixed n.
        stop: share of the pixels whose expected gain ended a sequential certification early; None for a fixed n.
        randomized: whether p-values were randomized between two counts, with a number drawn once a pixel.
        hypotheses: what chose the tested pixels: ``all``, or the name of a mask that was made without the draws.
        hierarchy: groups of classes that may be certified in place of a class.
        nodes: (*spatial) int16 finest certified node of the hierarchy, `ABSTAIN` where there is none; it is that of
            ``classes`` where these do not abstain.
        radii: (*spatial) float32 certified radius of each pixel, rounded toward zero, 0 where it abstains; None where
            all have ``radius``. Where pixels have their own, ``radius`` and ``tau`` are the least of the certified ones
            (0 and 1/2 if there are none); a deterministic claim has the radius that was asked for, and pixels whose own
            is smaller abstain.
        kind: ``probabilistic``: a claim about the majority under noise, which fails with probability alpha;
            ``deterministic``: one about the network itself, from its Lipschitz constant. The latter has no noise (sigma
            0), one pass (n = 1, tau = 1), no tests, and does not fail (alpha 0).
        lipschitz_constant: of a deterministic claim: that of all logits of the network, in l2.
        rounding: of a deterministic claim: how much farther logits may move as they are computed; None if that is not
            known, and taken as 0.
        stability: of a deterministic claim: the least share of all pixels that keep their class, certified or not,
            under any one change of the image of l2 size at most ``radius``.
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
    tolerated: int = 0
    looks: tuple[int, ...] = ()
    boundaries: str | None = None
    stop: float | None = None
    randomized: bool = False
    hypotheses: str = "all"
    hierarchy: Hierarchy | None = None
    nodes: npt.NDArray[np.int16] | None = None
    radii: npt.NDArray[np.float32] | None = None
    kind: str = "probabilistic"
    lipschitz_constant: float | None = None
    rounding: float | None = None
    stability: float | None = None

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
        if self.radii is not None:
            return self.radii
        return np.where(self.classes == ABSTAIN, np.float32(0), _float32_down(self.radius))

    @property
    def statement(self) -> str:
        """The claim in plain sentences."""
        if self.kind == "deterministic":
            return self._deterministic_statement
        certified, radius = int((self.classes != ABSTAIN).sum()), rounded_down(self.radius)
        draws = "the noise draws" + (" and the randomization of the p-values" if self.randomized else "")
        tested = "" if self.tested == self.classes.size else f", {self.tested} of them tested"
        all_but = f" but at most {self.tolerated}" if self.tolerated else ""
        unit = f"pixel values from {exactly(self.bounds[0])} to {exactly(self.bounds[1])}"
        size = f"{radius} ({unit})"
        if self.radii is not None:
            largest = rounded_down(float(self.radii.max(initial=0.0)))
            size = f"the pixel's own certified radius, {radius} to {largest} ({unit})"
        change = f"under every change of the image of l2 size below {size}, "
        sentence = (
            f"With probability at least {chance(self.alpha)} over {draws}, for all{all_but} of the {certified} "
            f"certified pixels at once (of {self.classes.size}{tested}): {change}the class that the network gives most "
            "often under the noise stays the certified one."
        )
        if self.nodes is not None:
            groups = int(((self.nodes != ABSTAIN) & (self.classes == ABSTAIN)).sum())
            counted = f" and counting at most {self.tolerated} exceptions over both" if self.tolerated else ""
            sentence += (
                f" With the same probability, together with these{counted}, at {groups} further pixels a group of "
                f"classes is certified: {change}the classes of the group together stay the answer more than half of "
                "the time."
            )
        return sentence

    @property
    def _deterministic_statement(self) -> str:
        certified, radius = int((self.classes != ABSTAIN).sum()), rounded_down(self.radius)
        constant = outward(self.lipschitz_constant or 0.0, up=True)
        share = rounded_down(100 * (self.stability or 0.0), 2)
        rounding = "rounding apart" if self.rounding is not None else "rounding, of which no bound is known, left out"
        computed = f" as computed in {self.provenance.dtype}" if self.provenance.dtype else ""
        return (
            "Without any noise and any chance: since no change of the image moves the logits by more than "
            f"{constant} times its l2 size, {rounding}, for all of the {certified} certified pixels (of "
            f"{self.classes.size}): under every change of the image of l2 size below {radius} (pixel values from "
            f"{self.bounds[0]:g} to {self.bounds[1]:g}) the class of the network{computed} stays the certified one, at "
            f"each of them up to its own radius; and under any one change of at most that size {share} % of all "
            "pixels, certified or not, keep their class."
        )

    def to_json(self) -> str:
        """The record as JSON: all fields but the maps, which are saved beside and bound to it by their digests."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _MAPS}
        record |= {
            "format": FORMAT,
            "bounds": list(self.bounds),
            "provenance": asdict(self.provenance),
            "hierarchy": None if self.hierarchy is None else asdict(self.hierarchy),
            "classes_shape": list(self.classes.shape),
            "classes_sha256": _digest(self.classes),
            "nodes_sha256": None if self.nodes is None else _digest(self.nodes),
            "radii_sha256": None if self.radii is None else _digest(self.radii, "<f4"),
            "statement": self.statement,
        }
        if self.kind == "probabilistic":
            record = {name: value for name, value in record.items() if name not in _DETERMINISTIC_FIELDS}
        return json.dumps(record, indent=4)

    @classmethod
    def from_json(
        cls,
        text: str,
        classes: IntArray,
        nodes: IntArray | None = None,
        radii: npt.NDArray[np.float32] | None = None,
    ) -> Certificate:
        """Read a record back, together with its maps.

        Args:
            text: what `to_json` wrote.
            classes: (*spatial) label map with `ABSTAIN`, see `classes_from_disk`.
            nodes: (*spatial) map of the nodes, if the record has a hierarchy.
            radii: (*spatial) map of the radii, if pixels have their own; not looked at if not.

        Raises:
            ValueError: if the text is no record, of another format, has unknown or missing fields, or belongs to other
                maps.
        """
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"this is no certificate: {error}") from error
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(f"this is no certificate of format {FORMAT}")
        record = {name: value for name, value in record.items() if name not in _BESIDE}
        known = {f.name for f in fields(cls)} - _MAPS
        _check_fields(record, known | _DERIVED, _ADDED_FIELDS, "the certificate")
        _check_fields(record["provenance"], {f.name for f in fields(Provenance)}, _ADDED_FIELDS, "its provenance")
        label_map: npt.NDArray[np.int16] = np.asarray(classes, dtype=np.int16)
        if _digest(label_map) != record["classes_sha256"] or list(label_map.shape) != record["classes_shape"]:
            raise ValueError("the label map is not the one that this certificate was made for")
        node_map: npt.NDArray[np.int16] | None = None if nodes is None else np.asarray(nodes, dtype=np.int16)
        if (None if node_map is None else _digest(node_map)) != record.get("nodes_sha256"):
            raise ValueError("the map of nodes is not the one that this certificate was made for, or is missing")
        of_pixels = record.get("radii_sha256")
        if of_pixels is not None and (radii is None or _digest(radii, "<f4") != of_pixels):
            raise ValueError("the map of radii is not the one that this certificate was made for, or is missing")
        values = {name: _tuples(record[name]) for name in known & set(record)}
        values["provenance"] = Provenance(**{name: _tuples(value) for name, value in record["provenance"].items()})
        if record.get("hierarchy") is not None:
            values["hierarchy"] = Hierarchy(**record["hierarchy"])
        return cls(classes=label_map, nodes=node_map, radii=None if of_pixels is None else radii, **values)


# Fields that hold maps, fields of the JSON that follow from others, fields of deterministic records alone, and fields
# that a record may lack, by generation: it has all fields of a generation and of those before it, or none.
_MAPS = {"classes", "nodes", "radii"}
_DERIVED = {"format", "classes_shape", "classes_sha256", "nodes_sha256", "radii_sha256", "statement"}
_BESIDE = {"measurements"}  # other certificates of the same image in the same file
_DETERMINISTIC_FIELDS = {"kind", "lipschitz_constant", "rounding", "stability"}
_ADDED_FIELDS = (
    {
        *("tolerated", "looks", "boundaries", "stop", "randomized", "hypotheses", "hierarchy", "nodes_sha256"),
        "radii_sha256",
        *("passes", "autocast", "compiled", "processes"),
    },
    _DETERMINISTIC_FIELDS,
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
    hierarchy: Hierarchy | None = None,
    uniforms: npt.NDArray[np.float64] | None = None,
    bounds: Bounds = Bounds(),
    provenance: Provenance = Provenance(),
) -> Certificate:
    r"""Turn the votes of a fixed number of draws into a certificate.

    *Claim.* With probability at least 1 - alpha over the draws, for every pixel i that does not abstain, all of them at
    once, and every delta with ||delta||_2 < R = sigma Phi^-1(tau): argmax_c P(f(x + delta + e)_i = c) = class_i.

    *Proof.* A class that holds more than tau of the noise at x holds more than 1/2 of it at x + delta (Cohen et al.
    2019, theorem 1, from the Neyman-Pearson lemma). "At most tau" is rejected at each certified pixel by a valid test
    (see the test's docstring), for all pixels together by a correction that bounds the family-wise error by alpha
    under any dependence (Fischer et al. 2021, proposition 2). The theorem holds for a set of classes as for one, so
    with a hierarchy the certified node, its classes taken together, holds more than 1/2 on the ball (see `Evidence`).

    It is the majority class that is constant on the ball: to certify x + delta again may abstain somewhere.

    *Randomized p-values.* With U uniform on [0, 1] and independent of the votes, p = (1 - U) p' + U p'', p'' the
    p-value of the pixel's count and p' that of the next larger one (0 above n), is valid where these are: {p <= t} is,
    for each value of U, the event that a count is reached, k or k + 1, and the probabilities mix as the p-values do.
    For the split test it is P(B > k) + U P(B = k).

    *Radius map.* With ``test=radius_map`` each pixel has its own radius in place of R (see `RadiusMap`), without tau.
    The correction is that of Bonferroni, at (k + 1) alpha / N where the one given tolerates k pixels: the expected
    number of wrong ones is then at most (k + 1) alpha.

    Args:
        votes: (C, *spatial) integer counts of the tested draws; at each pixel they sum to n.
        noise: the law that the draws came from.
        tau: majority threshold, in [1/2, 1); fixed before the votes were seen.
        alpha: failure probability of the whole certificate.
        test: `joint`, a `SplitTest`, or `radius_map`.
        correction: `holm`, `bonferroni`, or `generalized_holm(k)`, which allows k - 1 wrong pixels.
        selection: (C, *spatial) counts of n0 other draws, for the split test alone.
        hypotheses: (*spatial), True where a pixel is tested; a function of the image, never of the draws.
        hierarchy: groups of classes that may be certified where the class may not.
        uniforms: (*spatial) in [0, 1], drawn once a pixel and independently of the votes, see
            `monai_cert.noise.pixel_uniforms`: randomizes the p-values.
        bounds: unit of sigma.
        provenance: where the votes came from.

    Raises:
        ValueError: if the votes do not sum to one n, the shapes differ, or tau or alpha are out of range.

    References:
        Voracek 2024, Treatment of Statistical Estimation Problems in Randomized Smoothing for Adversarial Robustness,
        NeurIPS (randomized p-values).

    Example:
        >>> import numpy as np
        >>> votes = np.array([[2, 40, 98], [98, 60, 2]])  # 2 classes, 3 pixels, n = 100
        >>> certify(votes, noise=GaussianNoise(0.25)).classes.tolist()
        [1, -1, 0]
    """
    evidence = weigh(votes, lambda n: single_look(n, test, tau), selection=selection, hierarchy=hierarchy)
    return certify_evidence(
        evidence,
        noise=noise,
        alpha=alpha,
        correction=correction,
        hypotheses=hypotheses,
        uniforms=uniforms,
        bounds=bounds,
        provenance=provenance,
    )


def certify_evidence(
    evidence: Evidence,
    *,
    noise: GaussianNoise,
    alpha: float = 0.001,
    correction: Correction = holm,
    hypotheses: npt.NDArray[np.bool_] | None = None,
    hypotheses_name: str | None = None,
    uniforms: npt.NDArray[np.float64] | None = None,
    stop: float | None = None,
    bounds: Bounds = Bounds(),
    provenance: Provenance = Provenance(),
) -> Certificate:
    """Turn evidence, of one look or of the strongest of several, into a certificate; the claim is that of `certify`.

    Args:
        evidence: see `monai_cert.evidence.weigh`.
        noise: the law that the draws came from.
        alpha: failure probability of the whole certificate.
        correction: correction for testing many pixels.
        hypotheses: (*spatial), True where a pixel is tested.
        hypotheses_name: what to call them in the record.
        uniforms: see `certify`.
        stop: the stop of a sequential certification, for the record.
        bounds: unit of sigma.
        provenance: where the votes came from.

    Raises:
        ValueError: if shapes differ or alpha is out of range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha:g}")
    table = evidence.table
    mask = None if hypotheses is None else _mask(hypotheses, evidence.shape)
    tested = evidence.nodes[0].numel() if mask is None else int(mask.sum())
    radii, tau, radius = None, table.tau, noise.radius(table.tau)
    if isinstance(table.test, RadiusMap):
        if table.boundaries != "single" or evidence.hierarchy is not None or uniforms is not None:
            raise ValueError("a radius map takes a fixed number of draws, no hierarchy and no randomized p-values")
        radii, tau, radius = _radii(
            evidence, table.test, (correction.tolerated + 1) * alpha / max(1, tested), noise, mask
        )
    certified = (
        [torch.from_numpy(radii > 0)] if radii is not None else _passing(evidence, alpha, correction, mask, uniforms)
    )
    nodes = None
    if evidence.hierarchy is not None:
        nodes = torch.full(evidence.shape, ABSTAIN, dtype=torch.int16)
        for node, passes in zip(reversed(evidence.nodes), reversed(certified), strict=True):
            nodes = torch.where(passes, node, nodes)
    sequential = table.boundaries != "single"
    return Certificate(
        classes=torch.where(certified[0], evidence.nodes[0], ABSTAIN).numpy().astype(np.int16, copy=False),
        num_classes=evidence.num_classes,
        radius=radius,
        sigma=noise.sigma,
        tau=tau,
        alpha=alpha,
        n=evidence.draws,
        n0=evidence.n0,
        tested=tested,
        bounds=(bounds.lower, bounds.upper),
        noise=noise.name,
        test=table.test.name,
        correction=correction.name if radii is None else bonferroni.name,
        error=correction.error,
        provenance=provenance,
        tolerated=correction.tolerated,
        looks=table.looks if sequential else (),
        boundaries=table.boundaries if sequential else None,
        stop=stop,
        randomized=uniforms is not None,
        hypotheses=hypotheses_name or ("all" if mask is None else "mask"),
        hierarchy=evidence.hierarchy,
        nodes=None if nodes is None else nodes.numpy(),
        radii=radii,
    )


def adjusted_p_values(
    votes: IntArray | torch.Tensor,
    *,
    tau: float = 0.75,
    test: VoteTest = joint,
    correction: Correction = holm,
    selection: IntArray | torch.Tensor | None = None,
    hypotheses: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.float64]:
    """Adjusted p-value of each pixel: the least alpha at which `certify` would certify it.

    A map to explore with. A claim at an alpha that was chosen after looking at this map is void.

    Args:
        votes: see `certify`.
        tau: see `certify`.
        test: see `certify`.
        correction: see `certify`.
        selection: see `certify`.
        hypotheses: see `certify`.

    Returns:
        (*spatial) in [0, 1]; 1 where a pixel is not tested.

    Example:
        >>> votes = np.array([[1, 40, 98], [99, 60, 2]])
        >>> [f"{p:.1e}" for p in adjusted_p_values(votes)]
        ['3.3e-11', '1.0e+00', '3.7e-10']
    """
    if isinstance(test, RadiusMap):
        raise ValueError("adjusted p-values are those of one majority threshold; a radius map has many")
    evidence = weigh(votes, lambda n: single_look(n, test, tau), selection=selection)
    mask = None if hypotheses is None else _mask(hypotheses, evidence.shape)
    table = evidence.table
    adjusted = correction.adjusted(evidence.histogram(mask), table.p_values, table.strays)
    found: npt.NDArray[np.float64] = adjusted[evidence.levels[0].numpy()]
    return found if hypotheses is None else np.where(hypotheses, found, 1.0)


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


def _passing(
    evidence: Evidence,
    alpha: float,
    correction: Correction,
    mask: torch.Tensor | None,
    uniforms: npt.NDArray[np.float64] | None,
) -> list[torch.Tensor]:
    """Whether the leading node of each pixel is certified, at each level of the hierarchy, (*spatial) each."""
    table = evidence.table
    if uniforms is None:
        threshold = correction.threshold(evidence.histogram(mask), table.p_values, alpha, table.strays)
        passing = int(np.searchsorted(table.p_values, threshold, side="right"))
        certified = [level < passing for level in evidence.levels]
    else:
        if uniforms.shape != tuple(evidence.shape):
            raise ValueError(f"uniforms must have the shape {tuple(evidence.shape)}, got {uniforms.shape}")
        if not ((uniforms >= 0) & (uniforms <= 1)).all():
            raise ValueError(f"uniforms must lie in [0, 1], got {uniforms.min():g} to {uniforms.max():g}")
        below = np.concatenate([[0.0], table.p_values[:-1]])
        levels = [level.numpy() for level in evidence.levels]
        p_values = [below[at] + uniforms * (table.p_values[at] - below[at]) for at in levels]
        tested = np.sort(p_values[0].ravel() if mask is None else p_values[0][mask.numpy()])
        threshold = correction.threshold(np.ones(tested.size, dtype=np.int64), tested, alpha, table.strays)
        certified = [torch.from_numpy(p <= threshold) for p in p_values]
    return certified if mask is None else [passes & mask for passes in certified]


def _radii(
    evidence: Evidence, test: RadiusMap, level: float, noise: GaussianNoise, mask: torch.Tensor | None
) -> tuple[npt.NDArray[np.float32], float, float]:
    """(*spatial) radius of each pixel, 0 where none is proved; and the least tau and radius of the others."""
    taus = test.taus(evidence.draws, level)
    table = np.array([_float32_down(noise.radius(tau)) if tau else np.float32(0) for tau in taus])
    counts = evidence.draws - evidence.levels[0].numpy()
    radii: npt.NDArray[np.float32] = table[counts] if mask is None else np.where(mask.numpy(), table[counts], 0)
    if not (radii > 0).any():
        return radii, LEAST_TAU, 0.0
    return radii, float(taus[counts[radii > 0].min()]), float(radii[radii > 0].min())


def _mask(hypotheses: npt.NDArray[np.bool_], shape: torch.Size) -> torch.Tensor:
    if hypotheses.dtype != np.bool_ or hypotheses.shape != shape:
        raise ValueError(
            f"hypotheses must be boolean of shape {tuple(shape)}, got {hypotheses.dtype} of {hypotheses.shape}"
        )
    return torch.from_numpy(hypotheses)


def _check_fields(record: Any, known: set[str], added: tuple[set[str], ...], what: str) -> None:
    """Refuse unknown fields and missing ones; those of later generations than it has are not missing."""
    present = set(record) if isinstance(record, dict) else set()
    required = set(known)
    for generation in reversed(added):
        if present & generation:
            break
        required -= generation
    if wrong := sorted((present - known) | (required - present)):
        raise ValueError(f"{what} has unknown or missing fields: {', '.join(wrong)}")


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _digest(values: npt.NDArray[Any], dtype: str = "<i2") -> str:
    return hashlib.sha256(np.ascontiguousarray(values, dtype=dtype).tobytes()).hexdigest()


def _float32_down(value: float) -> np.float32:
    nearest = np.float32(value)
    below: np.float32 = np.nextafter(nearest, np.float32(0))
    return nearest if float(nearest) <= value else below
