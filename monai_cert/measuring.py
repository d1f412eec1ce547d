# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Measuring an image's noisy predictions in the pass that draws its votes, and certifying what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monai_cert.data.geometry import spacing_of_map
from monai_cert.inferers.certification import CertificationInferer, Sample
from monai_cert.inferers.recording import MaskRecorder, MeasurementRecorder
from monai_cert.inferers.voting import Accumulator
from monai_cert.measurements import Measurement, measurements_of
from monai_cert.metrics.whole_mask import WHOLE_MASK, whole_mask_measurements
from monai_cert.statistics.percentile import MeasurementCertificate

__all__ = ["Measured", "Measuring"]

# The first draws, up to this share of the fewest that are made, choose the reference of comparisons.
_REFERENCE_SHARE = 0.2


@dataclass(frozen=True)
class Measured:
    """What was certified about the measurements of one image.

    Args:
        certificates: one of what was measured on all draws, one of comparisons with the majority of the first draws;
            together they hold with the probability of the image's certificate.
        failures: names of measurements that raised, and what they said.
        spacing: millimeters a pixel of the label map along each axis; None if measured in pixels.
        reference_draws: number of draws whose majority is the reference of comparisons.
        alpha: failure probability of all certificates together.
    """

    certificates: tuple[MeasurementCertificate, ...]
    failures: dict[str, str]
    spacing: tuple[float, ...] | None
    reference_draws: int
    alpha: float

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "alpha": self.alpha,
            "spacing_mm": None if self.spacing is None else list(self.spacing),
            "reference_draws": self.reference_draws,
            "failures": self.failures,
            "certificates": [
                record | {"measurements": [m for m in record["measurements"] if m["name"] not in self.failures]}
                for record in (certificate.record() for certificate in self.certificates)
            ],
        }


@dataclass(frozen=True)
class Measuring:
    """What to measure on the noisy predictions of images.

    Args:
        kinds: keys of `MEASUREMENTS` and `WHOLE_MASK`, and ``cardiothoracic-ratio``.
        class_names: a name a class, the background first.
        radii: l2 radii of the certificates.
        spacing: millimeters a pixel of the files along each axis; what the files state if None.
        units: ``mm``, ``pixels``, or ``auto``: millimeters where the spacing is known.
    """

    kinds: tuple[str, ...]
    class_names: tuple[str, ...]
    radii: tuple[float, ...]
    spacing: tuple[float, ...] | None = None
    units: str = "auto"

    def spacing_of(self, source: str | Path, shape: Sequence[int]) -> tuple[float, ...] | None:
        """Millimeters a pixel of the label map of an image, None to measure in pixels.

        Raises:
            ValueError: if millimeters or milliliters are wanted and nobody states the spacing.
        """
        if self.units == "pixels":
            return None
        spacing = spacing_of_map(source, shape, self.spacing)
        if spacing is None and (self.units == "mm" or "volume" in self.kinds):
            raise ValueError(
                f"{source} does not state its pixel spacing, which millimeters need; give it with --spacing"
            )
        return spacing

    def recorders(
        self, spacing: tuple[float, ...] | None, shape: Sequence[int]
    ) -> list[Callable[[torch.Tensor], Accumulator]]:
        """Recorders of an image, for the certification inferer.

        Raises:
            ValueError: for what cannot be measured on such an image.
        """
        found: list[Callable[[torch.Tensor], Accumulator]] = []
        if measured := self._measurements(spacing, shape):
            found.append(lambda image: MeasurementRecorder(measured))
        if self._comparisons():
            found.append(lambda image: MaskRecorder(len(self.class_names)))
        return found

    def certify(self, sample: Sample, inferer: CertificationInferer, spacing: tuple[float, ...] | None) -> Measured:
        """Certify what the recorders kept; alpha is split evenly over all that is measured."""
        looks = inferer.sampling.looks
        reference_draws = max(1, int(_REFERENCE_SHARE * looks[0]))
        shape = tuple(sample.votes.shape[1:])
        compared = len(self._comparisons()) * (len(self.class_names) - 1)
        total = len(self._measurements(spacing, shape)) + compared
        bounds = (inferer.bounds.lower, inferer.bounds.upper)
        settings: dict[str, Any] = {"looks": len(looks), "bounds": bounds}
        sigma, alpha = inferer.noise.sigma, inferer.alpha
        certificates, failures = [], dict[str, str]()
        for recorder in sample.recorded:
            if isinstance(recorder, MeasurementRecorder):
                share = alpha * len(recorder.measurements) / total
                certificates.append(recorder.certify(sigma, share, self.radii, **settings))
                failures |= recorder.failures
            elif isinstance(recorder, MaskRecorder):
                share = alpha * compared / total
                made = recorder.certify(self._compared(spacing), reference_draws, sigma, share, self.radii, **settings)
                certificates.append(made)
                failures |= recorder.failures
        return Measured(tuple(certificates), failures, spacing, reference_draws if compared else 0, alpha)

    def _comparisons(self) -> list[str]:
        return [kind for kind in dict.fromkeys(self.kinds) if kind in WHOLE_MASK]

    def _measurements(self, spacing: tuple[float, ...] | None, shape: Sequence[int]) -> list[Measurement]:
        kinds = [kind for kind in self.kinds if kind not in WHOLE_MASK]
        return measurements_of(kinds, self.class_names, shape, spacing)

    def _compared(self, spacing: tuple[float, ...] | None) -> Callable[[Any], list[Measurement]]:
        def measurements(reference: Any) -> list[Measurement]:
            called = "the majority of other draws"
            return whole_mask_measurements(self._comparisons(), self.class_names, reference, spacing, called)

        return measurements
