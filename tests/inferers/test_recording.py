# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Recorders beside the votes: one pass over the noise serves them all, and what fails fails alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from guarantees.oracles import Levels

from monai_cert.inferers.certification import CertificationInferer
from monai_cert.inferers.recording import MaskRecorder, MeasurementRecorder
from monai_cert.inferers.sharing import ProcessGroup
from monai_cert.inferers.voting import label_maps
from monai_cert.measurements import Measurement, measurements_of
from monai_cert.metrics.whole_mask import whole_mask_measurements
from monai_cert.noise import GaussianNoise, draw_seeds, image_key
from monai_cert.sequential import SequentialCertification
from monai_cert.statistics.binomial import SplitTest
from monai_cert.statistics.percentile import certify_measurements

NOISE, NAMES = GaussianNoise(0.1), ["background", "bright"]
IMAGE = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORK = Levels().eval()


def predictions(draws: range, seed: int = 3) -> torch.Tensor:
    """(draws, 8, 8) label maps of the network, straight from the noise."""
    return label_maps(NOISE.perturb(IMAGE, draw_seeds(seed, image_key(IMAGE), draws)) - 0.5)


def recorded(*recorders: Any, **settings: Any) -> Any:
    inferer = CertificationInferer(NOISE, **{"n": 60, "alpha": 0.05, "seed": 3, "recorders": recorders} | settings)
    return inferer.sample(IMAGE[None], NETWORK)[0]


def areas(image: torch.Tensor) -> MeasurementRecorder:
    return MeasurementRecorder(measurements_of(["area", "components"], NAMES, image.shape[1:]))


def masks(image: torch.Tensor) -> MaskRecorder:
    return MaskRecorder(2)


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_one_pass_serves_all(batch_size: int) -> None:
    """Values and masks are those of the counted draws, in order, whatever the batches."""
    sample = recorded(areas, masks, batch_size=batch_size)
    measured, kept = sample.recorded
    expected = predictions(range(60))
    assert torch.equal(sample.votes[1].long(), expected.sum(0))
    np.testing.assert_array_equal(measured.values()[0], expected.flatten(1).sum(1))
    np.testing.assert_array_equal(np.stack(list(kept.masks())), expected)
    assert torch.equal(sample.votes, recorded().votes)


def test_draws_that_choose_are_not_measured() -> None:
    measured, kept = recorded(areas, masks, test=SplitTest(5)).recorded
    expected = predictions(range(5, 65))
    np.testing.assert_array_equal(measured.values()[0], expected.flatten(1).sum(1))
    assert len(kept) == 60


def test_sequential_draws_are_measured_up_to_the_stop() -> None:
    sampling = SequentialCertification((20, 40, 80))
    sample = recorded(areas, n=sampling, tau=0.6)
    (measured,) = sample.recorded
    values = measured.values()
    assert values.shape == (2, sample.evidence.draws)
    np.testing.assert_array_equal(values[0], predictions(range(sample.evidence.draws)).flatten(1).sum(1))
    paid = measured.certify(0.1, 0.05, [0.05], looks=3)
    free = measured.certify(0.1, 0.05, [0.05])
    assert (paid.lower <= free.lower).all()
    assert (paid.upper >= free.upper).all()


def test_every_image_has_recorders_of_its_own() -> None:
    inferer = CertificationInferer(NOISE, n=60, alpha=0.05, seed=3, recorders=[areas])
    first, second = inferer.sample(torch.stack([IMAGE, IMAGE.flip(-1)]), NETWORK)
    assert first.recorded[0] is not second.recorded[0]
    assert first.recorded[0].values().shape == second.recorded[0].values().shape == (2, 60)


def test_a_recorder_certifies_what_it_measured() -> None:
    (measured,) = recorded(areas).recorded
    c = measured.certify(0.1, 0.05, [0.02, 0.05])
    plain = certify_measurements(measured.values(), 0.1, 0.05, [0.02, 0.05], limits=[(0, 64), (0, np.inf)])
    np.testing.assert_array_equal(c.lower, plain.lower)
    np.testing.assert_array_equal(c.upper, plain.upper)
    assert c.names == ("area of bright", "number of components of bright")
    assert c.units == ("pixels", "")
    assert c.limits.tolist() == [[0, 64], [0, np.inf]]


def test_a_measurement_that_raises_is_named_and_the_others_are_kept() -> None:
    calls: list[int] = []

    def moody(labels: np.ndarray) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("no such vessel")
        return 1.0

    (area,) = measurements_of(["area"], NAMES, (8, 8))
    recorder = MeasurementRecorder([area, Measurement("vessels", "", moody, (0, 9))])
    recorder.update(predictions(range(60)))
    assert recorder.failures == {"vessels": "'no such vessel'"}
    assert len(calls) == 3
    values = recorder.values()
    assert np.isnan(values[1]).all()
    assert not np.isnan(values[0]).any()
    c = recorder.certify(0.1, 0.05, [0.05])
    assert (c.lower[1, 0], c.upper[1, 0]) == (0, 9)
    assert 0 < c.lower[0, 0] < c.upper[0, 0] < 64


def test_an_undefined_measurement_is_counted_and_kept_sound() -> None:
    """The mean brightness position of an empty prediction: undefined in some draws."""
    values = iter(np.where(np.arange(60) % 20 == 0, np.nan, np.arange(60.0)))
    recorder = MeasurementRecorder([Measurement("odd", "mm", lambda labels: next(values))])
    recorder.update(predictions(range(60)))
    c = recorder.certify(0.1, 0.05, [0.05])
    assert c.undefined.tolist() == [3]
    assert "undefined in 3 of 60 draws" in c.statements[0]


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to measure"):
        MeasurementRecorder([])


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 20, 256, 300])
def test_masks_come_back_from_few_bits(classes: int) -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, max(2, classes), (9, 5, 7)).astype(np.int16))
    labels[0, 0, 0] = max(2, classes) - 1
    recorder = MaskRecorder(classes)
    for batch in labels.split(4):
        recorder.update(batch)
    np.testing.assert_array_equal(np.stack(list(recorder.masks())), labels)
    np.testing.assert_array_equal(np.stack(list(recorder.masks(2, 5))), labels[2:5])
    planes = max(1, (classes - 1).bit_length())
    assert recorder.nbytes == 9 * planes * 5  # 35 pixels are 5 bytes
    with pytest.raises(ValueError, match="made for"):
        recorder.update(torch.full((1, 5, 7), 2**planes))


def test_the_majority_is_that_of_the_first_draws_alone() -> None:
    recorder = masks(IMAGE)
    recorder.update(predictions(range(60)))
    majority = recorder.majority(11)
    np.testing.assert_array_equal(majority, predictions(range(11)).sum(0) > 5.5)
    seen: list[np.ndarray] = []

    def measured(reference: np.ndarray) -> list[Measurement]:
        seen.append(reference)
        return whole_mask_measurements(["dice"], NAMES, reference)

    c = recorder.certify(measured, 11, 0.1, 0.05, [0.02])
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], majority)
    assert c.n == 49
    (dice,) = whole_mask_measurements(["dice"], NAMES, majority)
    values = [dice.measure(labels.numpy()) for labels in predictions(range(11, 60))]
    assert c.estimate[0] == np.sort(values)[24]
    for draws in (0, 60, 61):
        with pytest.raises(ValueError, match="a majority of"):
            recorder.majority(draws)


def test_a_comparison_that_raises_is_named_and_the_others_are_kept() -> None:
    def moody(labels: np.ndarray) -> float:
        raise KeyError("no such vessel")

    recorder = masks(IMAGE)
    recorder.update(predictions(range(60)))
    dice = whole_mask_measurements(["dice"], NAMES, predictions(range(1))[0].numpy())
    c = recorder.certify(lambda reference: [*dice, Measurement("vessels", "", moody, (0, 9))], 11, 0.1, 0.05, [0.02])
    assert recorder.failures == {"vessels": "'no such vessel'"}
    assert (c.lower[1, 0], c.upper[1, 0], c.undefined[1]) == (0, 9, 49)
    assert 0 < c.lower[0, 0] < 1


class TwoProcesses(ProcessGroup):
    """Stands in for a group: gathers what this process and another one give."""

    def __init__(self, other: list[Any]) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "other", other)

    def gather(self, item: Any) -> list[Any]:
        return [item, self.other.pop(0)]  # type: ignore[attr-defined]


def test_exchanged_draws_are_in_order() -> None:
    """Looks of 6 and 4 draws, each shared between two processes."""
    every = predictions(range(10))
    measured, kept = areas(IMAGE), masks(IMAGE)
    for mine, theirs in ((range(3), range(3, 6)), (range(6, 8), range(8, 10))):
        their_areas, their_masks = areas(IMAGE), masks(IMAGE)
        for recorder, draws in ((measured, mine), (kept, mine), (their_areas, theirs), (their_masks, theirs)):
            recorder.update(every[draws])
        measured.exchange(TwoProcesses([their_areas._rows, {}]))
        kept.exchange(TwoProcesses([their_masks._packed]))
    np.testing.assert_array_equal(measured.values()[0], every.flatten(1).sum(1))
    np.testing.assert_array_equal(np.stack(list(kept.masks())), every)
