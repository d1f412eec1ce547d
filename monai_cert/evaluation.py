# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Certifying the images of a data set and comparing with the truth, in as many runs and processes as it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.metrics import compute_dice

from monai_cert.bundle import CertifiedBundle
from monai_cert.certificate import Certificate
from monai_cert.errors import USER_ERRORS, explain
from monai_cert.hierarchy import Hierarchy
from monai_cert.inferers.certification import CertificationInferer, Sample, networks_within
from monai_cert.inferers.lipschitz import LipschitzSample
from monai_cert.inferers.recording import MeasurementRecorder
from monai_cert.inferers.voting import VoteCounter
from monai_cert.measurements import Measurement
from monai_cert.metrics.abstention import certified_accuracy
from monai_cert.metrics.dice import certified_dice, worst_case_dice
from monai_cert.metrics.information import certified_information_gain
from monai_cert.metrics.whole_mask import whole_mask_measurements
from monai_cert.metrics.worst_case import dice_under_attack
from monai_cert.processes import Processes
from monai_cert.provenance import hardware, package_versions, weights_sha256
from monai_cert.result_rows import OtherRunError, ResultRows, Row, differences, input_digests, now
from monai_cert.summary import figures_of, summarize, write_summary

__all__ = ["certified_median_dice", "evaluate_dataset", "evaluate_image"]

_MAY_DIFFER = ("limit", "partial", "configs", "radius")  # of the settings; the last two are told by others
_SUMMARY_EVERY = 10.0  # seconds
_LATE = 30.0  # seconds


def evaluate_image(bundle: CertifiedBundle, item: dict[str, Any]) -> dict[str, Any]:
    """Certify one image with a known truth.

    Args:
        bundle: the bundle; its ``labeled_preprocessing`` reads image and truth.
        item: one item of a datalist.

    Returns:
        JSON values. ``figures``, where None stands for NaN: Dice means over the foreground classes of the image (NaN
        classes left out) of the plain network on the clean image, of the majority vote, and of the certificate;
        ``seconds`` of certification; certified accuracy, and certified information gain, which is the same without a
        hierarchy; all draws; `certified_median_dice`; `dice_under_attack` within the radius, which takes a Lipschitz
        network. Also the ``seed`` and ``batch_size`` of the draws, and the ``hardware``.
    """
    data = bundle.parser.get_parsed_content("labeled_preprocessing")(item)
    device = next(bundle.network.parameters()).device
    image, truth = data["image"].as_tensor()[None].to(device), data["label"].as_tensor()[None].long()
    with _recording(bundle.inferer, _comparisons(bundle, truth)):
        started = time.perf_counter()
        sample = bundle.inferer.sample(image, bundle.network)[0]
        certificate = bundle.inferer.decide(sample)
        seconds = time.perf_counter() - started
    classes = torch.from_numpy(certificate.classes.astype(np.int64))[None, None]
    hierarchy = certificate.hierarchy or Hierarchy(bundle.class_names, {})
    nodes = classes if certificate.nodes is None else torch.from_numpy(certificate.nodes.astype(np.int64))[None, None]
    # One pass has no majority.
    majority = sample.votes.cpu().argmax(0)[None, None] if certificate.kind == "probabilistic" else None
    figures = {
        "clean_dice": _mean(_dice(_clean_prediction(bundle, image), truth, certificate)),
        "smoothed_dice": np.nan if majority is None else _mean(_dice(majority, truth, certificate)),
        "certified_dice": _mean(certified_dice(classes, truth, certificate.num_classes)),
        "worst_case_dice": _mean(worst_case_dice(classes, truth, certificate.num_classes)),
        "abstention": certificate.abstention,
        "certified_fraction": certificate.certified_fraction,
        "seconds": seconds,
        "certified_accuracy": _mean(certified_accuracy(classes, truth)),
        "certified_information_gain": _mean(certified_information_gain(nodes, truth, hierarchy)),
        "draws": certificate.draws,
        "certified_median_dice": certified_median_dice(sample, certificate),
        "dice_under_attack": _dice_under_attack(sample, certificate, truth),
    }
    return {
        "figures": {name: None if np.isnan(value) else value for name, value in figures.items()},
        "seed": certificate.provenance.seed,
        "batch_size": certificate.provenance.batch_size,
        "hardware": hardware(device),
    }


def certified_median_dice(sample: Sample, certificate: Certificate) -> float:
    """What no attack within the certificate's radius can bring the median Dice of the noisy predictions below.

    The statement is distributional, where worst-case Dice speaks of the one map of majority classes: for each class, at
    least half of the noisy predictions keep at least its bound, and this is the mean of these bounds. It is not said
    that half of them keep all bounds at once. The claim is that of `certify_measurements`, with the certificate's alpha
    for all classes of the image together.

    Args:
        sample: with one recorder of measurements, of the Dice of each foreground class that the truth has, or none.
        certificate: its certificate.

    Returns:
        The mean over these classes. NaN if there are none; and for a radius map, whose ``radius`` is the least that the
        votes of the same draws have proved, while the claim holds for radii that were fixed before the draws.
    """
    recorders = [recorder for recorder in sample.recorded if isinstance(recorder, MeasurementRecorder)]
    chosen_by_draws = certificate.radii is not None and certificate.kind == "probabilistic"
    if not recorders or chosen_by_draws:
        return np.nan
    (recorder,) = recorders
    looks = max(1, len(certificate.looks))
    found = recorder.certify(certificate.sigma, certificate.alpha, [certificate.radius], looks=looks)
    return float(found.lower.mean())


def _dice_under_attack(sample: Sample | LipschitzSample, certificate: Certificate, truth: torch.Tensor) -> float:
    """Least Dice of the network itself within the certificate's radius, one budget for all pixels; NaN of votes."""
    if not isinstance(sample, LipschitzSample):
        return np.nan
    logits = torch.from_numpy(sample.logits)[None]
    return _mean(dice_under_attack(logits, truth, certificate.radius, sample.constant, sample.rounding or 0.0))


def evaluate_dataset(
    bundle: CertifiedBundle,
    items: Sequence[dict[str, Any]],
    settings: dict[str, Any],
    folder: Path,
    say: Callable[[str], object],
    *,
    left_out: int = 0,
    processes: Processes | None = None,
) -> dict[str, Any] | None:
    """Evaluate images, each of which leaves a row on disk; what the folder holds already is not done again.

    Any number of processes may share the images; the results do not depend on how many. The first one says what all do
    and writes ``results.csv`` and ``results.json``: from time to time, when it is stopped, and at the end.

    Args:
        bundle: the bundle.
        items: a datalist.
        settings: what to record as ``settings``. All but ``limit``, ``partial`` and the number of a device must be
            the same when a run is continued; of ``configs`` the content, by its digest, and ``radius`` follows from
            the others.
        folder: where the files go; it exists.
        say: called with a line of text after each image.
        left_out: number of images that are not among the items for want of files, to be recorded.
        processes: who shares the images; what the environment says if None.

    Returns:
        What ``results.json`` holds, see `summarize`; None in all processes but the first.

    Raises:
        OtherRunError: if the folder holds results that were made otherwise, or processes differ in what they would do.
        OSError: if a result cannot be written.
    """
    processes = processes or Processes()
    by_id = {item["id"]: item for item in items}
    rows = ResultRows(folder, [item["id"] for item in items], _identity(bundle, settings))
    pending = _begin(rows, items, processes, say)
    if not processes.leads:
        _work(bundle, [by_id[image] for image in pending], rows, processes)
        return None
    report = _Report(rows, settings, left_out, len(pending), say)
    try:
        _work(bundle, [by_id[image] for image in pending], rows, processes, report.look)
        _wait_for_others(rows, processes, report.look)
    finally:
        results = report.write()
    return results


def _begin(
    rows: ResultRows, items: Sequence[dict[str, Any]], processes: Processes, say: Callable[[str], object]
) -> list[str]:
    """The images to be done: the first process looks what the folder holds, all others hear of it."""
    if processes.leads:
        try:
            pending = rows.open(items, say)
        except (OtherRunError, OSError) as error:
            processes.tell("refused", explain(error))
            processes.tell("begin", None)
            raise
        processes.tell("begin", {"identity": rows.identity, "pending": pending})
        return pending
    begin = processes.hear("begin")
    if begin is None:
        raise OtherRunError(processes.hear("refused"))
    found = differences(begin["identity"], rows.identity)
    if found or not set(begin["pending"]) <= set(rows.ids):
        raise OtherRunError(f"process {processes.rank} differs from the first in {found or 'the images that it finds'}")
    rows.identity = begin["identity"]
    return list(begin["pending"])


def _work(
    bundle: CertifiedBundle,
    items: Sequence[dict[str, Any]],
    rows: ResultRows,
    processes: Processes,
    after_each: Callable[[], object] = lambda: None,
) -> None:
    """Evaluate the images that fall to this process."""
    for number in processes.share(len(items)):
        item = items[number]
        try:
            row = {"id": item["id"], "status": "ok", "inputs": input_digests(item), **evaluate_image(bundle, item)}
        except USER_ERRORS as error:
            row = {"id": item["id"], "status": "error", "error": explain(error, item["image"])}
        rows.write(row | {"rank": processes.rank, "processes": processes.count, "finished": now()})
        after_each()
    processes.finish()


def _wait_for_others(rows: ResultRows, processes: Processes, look: Callable[[], object]) -> None:
    """Until all have done their last image and their rows are seen, which a network's disks may show late."""
    seen_by = float("inf")
    while rows.missing() and processes.count > 1 and time.monotonic() < seen_by:
        if seen_by == float("inf") and processes.all_finished():
            seen_by = time.monotonic() + _LATE
        time.sleep(0.1)
        look()


class _Report:
    """What the first process tells and writes while all work."""

    def __init__(
        self, rows: ResultRows, settings: dict[str, Any], left_out: int, pending: int, say: Callable[[str], object]
    ) -> None:
        self.rows, self.settings, self.left_out, self.pending, self.say = rows, settings, left_out, pending, say
        self.started = self.written = time.monotonic()
        total = len(rows.ids)
        if not pending:
            say(f"all {total} images are done already; nothing was computed")
        elif pending < total:
            say(f"{total - pending} of {total} images are done already")

    def look(self) -> None:
        """Tell of rows that are new, and bring the summary up to date from time to time."""
        self._tell()
        if time.monotonic() - self.written > _SUMMARY_EVERY:
            self.write()

    def write(self) -> dict[str, Any]:
        """Write the summary of all rows there are."""
        self._tell()
        results = summarize(self.rows, self.settings, self.left_out)
        write_summary(self.rows.folder, self.rows, results)
        self.written = time.monotonic()
        return results

    def _tell(self) -> None:
        total, before = len(self.rows.ids), self.rows.missing()
        for done, row in enumerate(self.rows.fresh(), start=total - before + 1):
            new = done - total + self.pending
            left = (time.monotonic() - self.started) / new * (total - done)
            self.say(f"{done}/{total} {_told(row)}, {_duration(left)} left")


def _identity(bundle: CertifiedBundle, settings: dict[str, Any]) -> dict[str, Any]:
    """What makes rows comparable: settings, networks, configuration, versions."""
    same = {name: value for name, value in settings.items() if name not in _MAY_DIFFER}
    identity = same | {
        "device": str(settings["device"]).partition(":")[0],
        "weights_sha256": weights_sha256([bundle.network, *networks_within(bundle.inferer)]),
        "configuration_sha256": bundle.configuration_sha256,
        **{f"{package} version": version for package, version in package_versions().items()},
    }
    jsonable: dict[str, Any] = json.loads(json.dumps(identity))
    return jsonable


@contextmanager
def _recording(inferer: Inferer, compared: Sequence[Measurement]) -> Iterator[None]:
    """Record these of the draws in place of what the inferer records otherwise, which it has back afterwards."""
    if not isinstance(inferer, CertificationInferer):
        yield
        return
    before = inferer.recorders
    inferer.recorders = (lambda image: MeasurementRecorder(compared),) if compared else ()
    try:
        yield
    finally:
        inferer.recorders = before


def _comparisons(bundle: CertifiedBundle, truth: torch.Tensor) -> list[Measurement]:
    """Dice of the foreground classes that the truth has; a function of the truth alone, so fixed before the draws."""
    reference = truth[0, 0].numpy()
    every = whole_mask_measurements(["dice"], bundle.class_names, reference, called="the truth")
    return [measurement for c, measurement in enumerate(every, start=1) if (reference == c).any()]


def _clean_prediction(bundle: CertifiedBundle, image: torch.Tensor) -> torch.Tensor:
    """(1, 1, *spatial) class map of the plain network: no noise, no denoising."""
    counter = VoteCounter(draws=1)
    with torch.no_grad():
        counter.update(bundle.parser.get_parsed_content("plain_inferer")(image, bundle.network))
    return counter.votes().cpu().argmax(0)[None, None]


def _dice(prediction: torch.Tensor, truth: torch.Tensor, certificate: Certificate) -> torch.Tensor:
    dice: torch.Tensor = compute_dice(prediction, truth, include_background=False, num_classes=certificate.num_classes)
    return dice


def _mean(figures: torch.Tensor) -> float:
    return float(figures.nanmean())


def _told(row: Row) -> str:
    if row["status"] == "error":
        return f"failed: {row['error']}"
    figures = figures_of(row)
    one_budget = figures.get("dice_under_attack", np.nan)
    worst = figures["worst_case_dice"] if np.isnan(one_budget) else one_budget
    return (
        f"{row['id']}: certified Dice {figures['certified_dice']:.4f}, "
        f"worst case {worst:.4f}, {figures['seconds']:.1f} s"
    )


def _duration(seconds: float) -> str:
    """As people say it.

    Example:
        >>> _duration(12), _duration(200), _duration(4000)
        ('12 s', '3 min', '1 h 7 min')
    """
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
