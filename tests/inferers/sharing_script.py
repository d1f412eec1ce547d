# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What `test_sharing.py` runs in two processes and in one: certificates as JSON, or what they were refused for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import UNet
from torch import distributed

from monai_cert.inferers.certification import CertificationInferer
from monai_cert.inferers.recording import MeasurementRecorder
from monai_cert.measurements import measurements_of
from monai_cert.noise import GaussianNoise
from monai_cert.sequential import SequentialCertification
from monai_cert.statistics.binomial import SplitTest

CASES: dict[str, dict[str, Any]] = {
    "fixed": {"n": 51},
    "split": {"n": 50, "test": SplitTest(5)},
    "sequential": {"n": SequentialCertification((30, 51, 80), stop=0.0), "tau": 0.9},
    "fresh seed": {"n": 50, "seed": None},
    "more processes than draws": {"n": 50, "test": SplitTest(1)},
}


def network() -> UNet:
    torch.manual_seed(0)
    return UNet(2, 1, 3, channels=(4, 8), strides=(2,)).eval()


def images() -> torch.Tensor:
    return torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def certificates(batch: torch.Tensor, net: Any, **settings: Any) -> Any:
    """Record and votes of each image, or the error."""
    noise = GaussianNoise(0.1)
    settings = {"alpha": 0.05, "seed": 3, "batch_size": 4, "recorders": [areas], **settings}
    inferer = CertificationInferer(noise, **settings)
    try:
        samples = inferer.sample(batch, net)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return [
        {
            "record": json.loads(inferer.decide(s).to_json()),
            "votes": s.votes.tolist(),
            "areas": s.recorded[0].values().tolist(),
        }
        for s in samples
    ]


def areas(image: torch.Tensor) -> MeasurementRecorder:
    return MeasurementRecorder(measurements_of(["area"], ["background", "a", "b"], image.shape[1:]))


def failing_in(process: int) -> Any:
    def call(x: torch.Tensor) -> torch.Tensor:
        return x.log() - 100 if distributed.get_rank() == process else x

    return call


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    output: Path = parser.parse_args().output
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    found = {name: certificates(images(), network(), share_draws=True, **case) for name, case in CASES.items()}
    found["other image"] = certificates(images() * (1 - rank / 2), network(), share_draws=True, n=50)
    found["failing"] = certificates(images(), failing_in(1), share_draws=True, n=50)
    found["after all"] = certificates(images(), network(), share_draws=True, n=50)
    (output / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
