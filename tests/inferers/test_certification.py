# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""The certification inferer where MONAI uses inferers: tensors in and out, other inferers inside, evaluators around."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from guarantees.oracles import Levels
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import Compose, EnsureTyped
from torch import nn

from monai_cert.bounds import Bounds
from monai_cert.certificate import ABSTAIN, Certificate
from monai_cert.inferers.certification import CertificationInferer
from monai_cert.metrics.abstention import AbstentionRateMetric, CertifiedAccuracyMetric, abstention_rate
from monai_cert.metrics.dice import CertifiedDiceMetric, WorstCaseDiceMetric, certified_dice, worst_case_dice
from monai_cert.noise import GaussianNoise
from monai_cert.statistics.binomial import SplitTest
from monai_cert.transforms.dictionary import CertificateMapsd

NOISE = GaussianNoise(0.1)


def images(batch: int, *spatial: int) -> torch.Tensor:
    return torch.rand(batch, 1, *spatial, generator=torch.Generator().manual_seed(0))


def inferer(**settings: Any) -> CertificationInferer:
    return CertificationInferer(NOISE, **{"n": 50, "alpha": 0.05, "seed": 3} | settings)


def unet(dimensions: int, channels: int) -> UNet:
    torch.manual_seed(0)
    return UNet(dimensions, 1, channels, channels=(4, 8), strides=(2,)).eval()


class Counting(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x - 0.5


class Returning(nn.Module):
    """Gives what a function makes of the logits."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(x - 0.5)


class Before(Inferer):
    """Runs a module before what another inferer does."""

    def __init__(self, module: nn.Module, inner: Inferer) -> None:
        super().__init__()
        self.module = module
        self.inner = inner

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.inner(self.module(inputs), network)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("spatial", [(8, 8), (4, 8, 6)])
def test_any_image_and_any_number_of_classes(spatial: tuple[int, ...], channels: int) -> None:
    network, batch = unet(len(spatial), channels), images(2, *spatial)
    out = inferer()(batch, network)
    assert out.shape == (2, 2, *spatial)
    assert out.dtype == torch.float32
    votes = inferer().votes(batch, network)
    assert votes.shape == (2, max(2, channels), *spatial)
    certified = out[:, 0] != ABSTAIN
    assert certified.any()
    assert torch.equal(out[:, 0][certified].long(), votes.argmax(1)[certified])
    radius = NOISE.radius(0.75)
    assert torch.equal(out[:, 1] > 0, certified)
    assert (out[:, 1].double() <= radius).all()
    assert out[:, 1].max() == pytest.approx(radius)


def test_maps_are_those_of_the_certificates() -> None:
    out = inferer()(images(2, 8, 8), unet(2, 3))
    for maps, certificate in zip(out, inferer().certify(images(2, 8, 8), unet(2, 3)), strict=True):
        np.testing.assert_array_equal(maps[0].numpy(), certificate.classes)
        np.testing.assert_array_equal(maps[1].numpy(), certificate.radius_map)
        assert certificate.provenance.input_shape == (1, 8, 8)
        assert certificate.provenance.dtype == "float32"
        assert set(certificate.provenance.versions) >= {"monai_cert", "monai", "torch"}


def test_plain_tensor_in_plain_tensor_out() -> None:
    assert type(inferer()(images(1, 8, 8), Levels().eval())) is torch.Tensor


def test_metadata_is_kept() -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    volumes = [
        MetaTensor(x, affine=affine, meta={"filename_or_obj": f"{i}.nii"}) for i, x in enumerate(images(2, 8, 8))
    ]
    (batch,) = DataLoader(volumes, batch_size=2)
    out = inferer()(batch, Levels().eval())
    assert isinstance(out, MetaTensor)
    assert torch.equal(out.affine, batch.affine)
    assert "certificate" not in batch.meta
    for i, one in enumerate(decollate_batch(out)):
        assert one.meta["filename_or_obj"] == f"{i}.nii"
        assert torch.equal(one.affine, affine)
        record = Certificate.from_json(one.meta["certificate"], one[0].numpy().astype(np.int16))
        assert record.provenance.input_shape == (1, 8, 8)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 50, 64])
@pytest.mark.parametrize("test", [None, SplitTest(5)])
def test_batches_change_nothing(batch_size: int, test: SplitTest | None) -> None:
    settings = {} if test is None else {"test": test}
    batch, network = images(3, 8, 8), Levels(0.3, 0.6).eval()
    together = inferer(batch_size=batch_size, **settings)(batch, network)
    alone = torch.cat([inferer(**settings)(image[None], network) for image in batch])
    assert torch.equal(together, alone)


def test_fresh_seeds_are_recorded_and_reproduce() -> None:
    batch, network = images(2, 8, 8), Levels().eval()
    certificates = inferer(seed=None).certify(batch, network) + inferer(seed=None).certify(batch, network)
    seeds = [certificate.provenance.seed for certificate in certificates]
    assert len(set(seeds)) == 4
    for image, certificate in zip([*batch, *batch], certificates, strict=True):
        made = certificate.provenance
        (again,) = inferer(seed=made.seed, batch_size=made.passes).certify(image[None], network)
        assert again.to_json() == certificate.to_json()
        np.testing.assert_array_equal(again.classes, certificate.classes)


def test_weights_are_recorded() -> None:
    network = unet(2, 2)
    digests = []
    for _ in range(2):
        digests.append(inferer().certify(images(1, 8, 8), network)[0].provenance.weights_sha256)
        with torch.no_grad():
            next(network.parameters()).add_(1e-3)
    before = Before(nn.BatchNorm2d(1).eval(), SimpleInferer())
    digests.append(inferer(inferer=before).certify(images(1, 8, 8), network)[0].provenance.weights_sha256)
    assert None not in digests
    assert len(set(digests)) == 3
    assert inferer().certify(images(1, 8, 8), lambda x: x - 0.5)[0].provenance.weights_sha256 is None


def test_sliding_window_inside() -> None:
    batch, network = images(2, 12, 12), Levels().eval()
    window = SlidingWindowInferer(roi_size=(8, 8), sw_batch_size=4, overlap=0.5)
    assert torch.equal(inferer(inferer=window)(batch, network), inferer()(batch, network))


def test_further_arguments_reach_the_network() -> None:
    def network(x: torch.Tensor, threshold: float, *, sign: float) -> torch.Tensor:
        return sign * (x - threshold)

    out = inferer()(images(1, 8, 8), network, 0.5, sign=1.0)
    assert torch.equal(out, inferer()(images(1, 8, 8), Levels().eval()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits(dtype: torch.dtype) -> None:
    network = Returning(lambda logits: torch.cat([-logits, logits], dim=1).to(dtype)).eval()
    assert torch.equal(inferer()(images(1, 8, 8), network), inferer()(images(1, 8, 8), Levels().eval()))


def test_bounds_are_the_unit() -> None:
    """The same image and noise in other units give the same classes, and the radius in these units."""
    unit, wide = images(1, 8, 8), 256 * images(1, 8, 8)
    settings = {"n": 50, "alpha": 0.05, "seed": 3, "bounds": Bounds(0, 256)}
    (certificate,) = CertificationInferer(GaussianNoise(25.6), **settings).certify(wide, Levels(128).eval())
    assert certificate.bounds == (0, 256)
    assert certificate.radius == pytest.approx(256 * inferer().certify(unit, Levels().eval())[0].radius)
    assert (certificate.classes[(unit[0, 0] > 0.8).numpy()] == 1).all()


def test_hypotheses_see_the_image_and_abstain_outside() -> None:
    def bright(image: torch.Tensor) -> np.ndarray:
        return (image[0] > 0.4).numpy()

    (certificate,) = inferer(hypotheses=bright).certify(images(1, 8, 8), Levels().eval())
    mask = bright(images(1, 8, 8)[0])
    assert certificate.tested == mask.sum()
    assert (certificate.classes[~mask] == ABSTAIN).all()
    assert (certificate.classes[mask] == 1).any()


@pytest.mark.parametrize("wrong", [np.ones((8, 8)), np.ones((8, 7), dtype=bool), np.ones((1, 8, 8), dtype=bool)])
def test_hypotheses_that_are_no_pixels_are_refused_before_the_network_is_called(wrong: np.ndarray[Any, Any]) -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("called")

    with pytest.raises(ValueError, match=r"hypotheses must be boolean of shape \(8, 8\)"):
        inferer(hypotheses=lambda image: wrong).certify(images(1, 8, 8), network)


def test_progress_bar_counts_draws(capsys: pytest.CaptureFixture[str]) -> None:
    inferer(progress=True, test=SplitTest(5))(images(1, 4, 4), Levels().eval())
    assert "/55" in capsys.readouterr().err


def test_too_few_draws_are_refused_before_the_network_is_called() -> None:
    network = Counting().eval()
    with pytest.raises(ValueError, match=r"n = 50 draws cannot certify any of 262144 pixels .*at least n = 68"):
        CertificationInferer(NOISE, n=50)(images(1, 512, 512), network)
    assert network.calls == 0


def test_anything_in_training_mode_is_refused() -> None:
    network = Counting()
    with pytest.raises(ValueError, match=r"Counting is in training mode; call its eval\(\) first"):
        inferer()(images(1, 8, 8), network)
    partly = nn.Sequential(network, nn.BatchNorm2d(1)).eval()
    partly[1].train()
    with pytest.raises(ValueError, match="Sequential is in training mode"):
        inferer()(images(1, 8, 8), partly)
    within = Before(nn.Identity().eval(), Before(nn.Dropout(), SimpleInferer()))
    with pytest.raises(ValueError, match="Dropout is in training mode"):
        inferer(inferer=within)(images(1, 8, 8), network.eval())
    assert network.calls == 0


@pytest.mark.parametrize(
    ("pixel", "message"), [(torch.nan, "NaN or infinite"), (torch.inf, "NaN or infinite"), (1.5, "outside the bounds")]
)
def test_inputs_that_are_no_images_are_refused(pixel: float, message: str) -> None:
    batch, network = images(2, 8, 8), Counting().eval()
    batch[1, 0, 3, 3] = pixel
    with pytest.raises(ValueError, match=message):
        inferer()(batch, network)
    assert network.calls == 0


def test_batch_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"images must be \(B, C, \*spatial\), got shape \(8, 8\)"):
        inferer()(images(1, 8, 8)[0, 0], Levels().eval())


def test_nan_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="the network gave NaN"):
        inferer()(images(1, 8, 8), Returning(lambda logits: logits.log()).eval())


def test_list_of_logits_is_refused() -> None:
    with pytest.raises(TypeError, match="one tensor of logits, got list"):
        inferer()(images(1, 8, 8), Returning(lambda logits: [logits, logits]).eval())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 0.4}, "tau must lie"),
        ({"tau": 1.0}, "tau must lie"),
        ({"alpha": 0.0}, "alpha must lie"),
        ({"alpha": 1.0}, "alpha must lie"),
        ({"n": 0}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inferer(**settings)


def test_inside_a_supervised_evaluator() -> None:
    """Evaluator, decollation, maps and metrics as a bundle runs them; three images in batches of two."""
    pictures = images(3, 8, 8)
    labels = (pictures > 0.5).float()
    items = [{"image": image, "label": label} for image, label in zip(pictures, labels, strict=True)]
    names = {
        "certified_dice": CertifiedDiceMetric(),
        "worst_case_dice": WorstCaseDiceMetric(),
        "abstention": AbstentionRateMetric(),
        "accuracy": CertifiedAccuracyMetric(),
    }
    handlers = {
        name: IgniteMetricHandler(metric_fn=metric, output_transform=from_engine(["pred", "label"]))
        for name, metric in names.items()
    }
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(items, EnsureTyped(["image", "label"])), batch_size=2),
        network=unet(2, 2).train(),
        inferer=inferer(),
        postprocessing=Compose([CertificateMapsd("pred")]),
        key_val_metric={"certified_dice": handlers.pop("certified_dice")},
        additional_metrics=handlers,
        decollate=True,
    )
    evaluator.run()
    classes = inferer()(pictures, unet(2, 2))[:, :1]
    expected = {
        "certified_dice": certified_dice(classes, labels).nanmean(),
        "worst_case_dice": worst_case_dice(classes, labels).nanmean(),
        "abstention": abstention_rate(classes).mean(),
        "accuracy": (classes == labels).float().mean(),
    }
    assert 0 < expected["abstention"] < 1
    for name, value in expected.items():
        assert evaluator.state.metrics[name] == pytest.approx(float(value), abs=1e-6), name
    (last,) = evaluator.state.output
    assert torch.equal(last["pred"], classes[2])
    assert last["radius"].shape == last["abstain"].shape == (1, 8, 8)
    assert json.loads(last["pred"].meta["certificate"])["n"] == 50
