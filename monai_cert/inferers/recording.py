# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Accumulators beside the votes: what is measured on every noisy prediction, and the predictions themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from monai_cert.errors import explain
from monai_cert.inferers.sharing import ProcessGroup
from monai_cert.measurements import Measurement
from monai_cert.statistics.percentile import MeasurementCertificate, certify_measurements

__all__ = ["MaskRecorder", "MeasurementRecorder"]

LabelMap = npt.NDArray[np.integer[Any]]


class MeasurementRecorder:
    """Measures every prediction; keeps the numbers alone.

    A measurement that raises is not made again: it is named in `failures`, all its values are undefined, and the others
    go on.

    Args:
        measurements: what to measure; of fixed references, not of ones that the same draws made.

    Raises:
        ValueError: if there are none.

    Example:
        >>> from monai_cert.measurements import measurements_of
        >>> recorder = MeasurementRecorder(measurements_of(["area"], ["background", "lung"], (1, 3)))
        >>> recorder.update(torch.tensor([[[0, 1, 1]], [[0, 0, 1]]]))
        >>> recorder.values().tolist()
        [[2.0, 1.0]]
    """

    takes_labels: ClassVar[bool] = True

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        if not measurements:
            raise ValueError("there is nothing to measure")
        self.measurements = tuple(measurements)
        self.failures: dict[str, str] = {}
        """Names of the measurements that raised, and what they said."""
        self._rows: list[list[float]] = []
        self._exchanged: list[list[float]] = []

    def update(self, predictions: torch.Tensor) -> None:
        """Measure label maps (B, *spatial)."""
        self._rows += [self._measured(labels) for labels in predictions.cpu().numpy()]

    def exchange(self, processes: ProcessGroup) -> None:
        """Take over the numbers of the other processes."""
        self._exchanged += [row for rows in processes.gather(self._rows) for row in rows]
        self._rows = []
        for failures in processes.gather(self.failures):
            self.failures |= failures

    def values(self) -> npt.NDArray[np.float64]:
        """(M, n) numbers so far; NaN where a measurement was undefined or failed."""
        rows = [*self._exchanged, *self._rows]
        values: npt.NDArray[np.float64] = np.array(rows, dtype=np.float64).reshape(-1, len(self.measurements)).T
        values[[m.name in self.failures for m in self.measurements]] = np.nan
        return values

    def certify(self, sigma: float, alpha: float, radii: Sequence[float], **settings: Any) -> MeasurementCertificate:
        """Certify all measurements together; settings as in `certify_measurements`, looks included."""
        about: dict[str, Any] = {
            "names": [m.name for m in self.measurements],
            "units": [m.unit for m in self.measurements],
            "limits": [m.limits for m in self.measurements],
        }
        return certify_measurements(self.values(), sigma, alpha, radii, **about | settings)

    def _measured(self, labels: LabelMap) -> list[float]:
        return [self._one(measurement, labels) for measurement in self.measurements]

    def _one(self, measurement: Measurement, labels: LabelMap) -> float:
        if measurement.name in self.failures:
            return np.nan
        try:
            return float(measurement.measure(labels))
        except MemoryError:
            raise
        except Exception as error:  # a user's function may raise whatever it likes
            self.failures[measurement.name] = explain(error)
            return np.nan


class MaskRecorder:
    """Keeps every prediction, packed into as few bits as its classes need.

    Args:
        num_classes: number of classes of the network; 1 counts as 2.
    """

    takes_labels: ClassVar[bool] = True

    def __init__(self, num_classes: int) -> None:
        self._planes = max(1, (num_classes - 1).bit_length())
        self._shape: tuple[int, ...] = ()
        self.failures: dict[str, str] = {}
        """Names of the measurements that raised when they were certified, and what they said."""
        self._packed: list[npt.NDArray[np.uint8]] = []
        self._exchanged: list[npt.NDArray[np.uint8]] = []

    def __len__(self) -> int:
        """Number of draws so far."""
        return len(self._exchanged) + len(self._packed)

    @property
    def nbytes(self) -> int:
        """Memory of the packed masks."""
        return sum(packed.nbytes for packed in (*self._exchanged, *self._packed))

    def update(self, predictions: torch.Tensor) -> None:
        """Keep label maps (B, *spatial).

        Raises:
            ValueError: if a class needs more bits than there are.
        """
        labels = predictions.cpu().numpy()
        if int(labels.max(initial=0)) >= 2**self._planes:
            raise ValueError(f"the recorder was made for {2**self._planes} classes, got class {labels.max()}")
        self._shape = labels.shape[1:]
        bits = [np.packbits((labels >> plane & 1).reshape(len(labels), -1), axis=1) for plane in range(self._planes)]
        self._packed += list(np.stack(bits, axis=1))

    def exchange(self, processes: ProcessGroup) -> None:
        """Take over the masks of the other processes."""
        self._exchanged += [packed for kept in processes.gather(self._packed) for packed in kept]
        self._packed = []

    def masks(self, start: int = 0, stop: int | None = None) -> Iterator[LabelMap]:
        """Label maps (*spatial) of some draws, in order."""
        pixels, dtype = int(np.prod(self._shape)), np.min_scalar_type(2**self._planes - 1)
        for packed in (*self._exchanged, *self._packed)[start:stop]:
            planes = np.unpackbits(packed, axis=1, count=pixels)
            label_map: LabelMap = sum(plane.astype(dtype) << place for place, plane in enumerate(planes))
            yield label_map.reshape(self._shape)

    def majority(self, draws: int) -> LabelMap:
        """(*spatial) the most frequent class of the first draws, the first in a tie.

        Raises:
            ValueError: if there are not so many draws and one more.
        """
        if not 1 <= draws < len(self):
            raise ValueError(f"a majority of {draws} draws leaves none of {len(self)} to be measured, or is of none")
        counts = np.zeros((2**self._planes, *self._shape), dtype=np.int32)
        for label_map in self.masks(0, draws):
            for c in range(len(counts)):
                counts[c] += label_map == c
        winner: LabelMap = counts.argmax(axis=0)
        return winner

    def certify(
        self,
        measurements: Callable[[LabelMap], Sequence[Measurement]],
        reference_draws: int,
        sigma: float,
        alpha: float,
        radii: Sequence[float],
        **settings: Any,
    ) -> MeasurementCertificate:
        """Certify measurements against the majority of the first draws, on all the others.

        The first draws are independent of the others: given them the reference is fixed, and the claim of
        `certify_measurements` holds whatever it is. A measurement that raises is named in `failures`, all its values
        are undefined, and the others are kept.

        Args:
            measurements: from the majority (*spatial) to what is measured, see `whole_mask_measurements`.
            reference_draws: number of the first draws; fixed before they were seen.
            sigma: see `certify_measurements`.
            alpha: see `certify_measurements`.
            radii: see `certify_measurements`.
            settings: further ones of `certify_measurements`.

        Raises:
            ValueError: if the draws are too few.
        """
        measuring = MeasurementRecorder(measurements(self.majority(reference_draws)))
        for label_map in self.masks(reference_draws):
            measuring.update(torch.from_numpy(label_map)[None])
        self.failures = measuring.failures
        return measuring.certify(sigma, alpha, radii, **settings)
