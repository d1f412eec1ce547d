# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""On Gaussian data the best denoiser has a closed form, which pins schedule, scaling and units together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from monai_cert.bounds import Bounds
from monai_cert.denoising.denoiser import PREDICTIONS, DiffusionDenoiser
from monai_cert.denoising.schedule import NoiseSchedule

# The definition of the linear schedule, written out once more so that no test reads it from the code under test.
ABAR = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
ALL_BOUNDS = (Bounds(0, 1), Bounds(0, 255), Bounds(-1, 1))
# Mean and standard deviation of the clean images, in [-1, 1].
MEAN, SPREAD = 0.1, 0.15


class BestPrediction(nn.Module):
    """What the best network predicts from x_t = sqrt(abar) x_0 + sqrt(1 - abar) e where x_0 ~ N(MEAN, SPREAD^2)."""

    def __init__(self, prediction: str, divisor: int = 1, learned_variance: bool = False) -> None:
        super().__init__()
        self.prediction = prediction
        self.divisor = divisor
        self.learned_variance = learned_variance

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Predict, from x (B, C, *spatial) and timesteps (B,)."""
        assert timesteps.shape == (len(x),)
        assert timesteps.dtype == torch.long
        assert all(side % self.divisor == 0 for side in x.shape[2:])
        abar = torch.from_numpy(ABAR)[timesteps].reshape(-1, *[1] * (x.ndim - 1))
        a, b, x_t = abar.sqrt(), (1 - abar).sqrt(), x.double()
        x_0 = MEAN + SPREAD**2 * a * (x_t - a * MEAN) / (a**2 * SPREAD**2 + b**2)
        e = (x_t - a * x_0) / b
        best = {"epsilon": e, "sample": x_0, "v_prediction": a * e - b * x_0}[self.prediction].to(x.dtype)
        return torch.cat([best, torch.full_like(best, 1e6)], 1) if self.learned_variance else best


class Constant(nn.Module):
    """Predicts the same numbers, one a channel, for every pixel."""

    def __init__(self, *channels: float) -> None:
        super().__init__()
        self.channels = torch.tensor(channels)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Predict."""
        values = self.channels.reshape(1, -1, *[1] * (x.ndim - 2))
        return values.expand(len(x), -1, *x.shape[2:])


def denoiser(prediction: str = "epsilon", bounds: Bounds = Bounds(), divisor: int = 1) -> DiffusionDenoiser:
    return DiffusionDenoiser(
        BestPrediction(prediction, divisor),
        NoiseSchedule.linear(),
        prediction=prediction,
        divisor=divisor,
        bounds=bounds,
    )


def sigma_of(timestep: int, bounds: Bounds) -> float:
    """The noise level that belongs to a timestep, in the units of the bounds."""
    abar = float(ABAR[timestep])
    return ((1 - abar) / abar) ** 0.5 * (bounds.upper - bounds.lower) / 2


def samples(shape: Sequence[int], sigma: float, bounds: Bounds) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean images and noisy ones, in the units of the bounds."""
    generator = torch.Generator().manual_seed(7)
    half = (bounds.upper - bounds.lower) / 2
    clean = bounds.lower + half * (1 + MEAN + SPREAD * torch.randn(*shape, generator=generator))
    return clean, clean + sigma * torch.randn(*shape, generator=generator)


@pytest.mark.parametrize("timestep", [20, 145, 396])
@pytest.mark.parametrize("bounds", ALL_BOUNDS, ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_output_is_the_posterior_mean_in_image_units(prediction: str, bounds: Bounds, timestep: int) -> None:
    half = (bounds.upper - bounds.lower) / 2
    mean, variance = bounds.lower + half * (1 + MEAN), (half * SPREAD) ** 2
    sigma = sigma_of(timestep, bounds)
    _, noisy = samples((2, 1, 16, 16), sigma, bounds)
    # A breath below the timestep's own noise, so that rounding up finds this timestep and no later one.
    out = denoiser(prediction, bounds)(noisy, sigma * (1 - 1e-9))
    expected = mean + variance / (variance + sigma**2) * (noisy.double() - mean)
    assert float((out - expected).abs().max()) < 1e-5 * half


@pytest.mark.parametrize("timestep", [57, 396])
@pytest.mark.parametrize("bounds", ALL_BOUNDS, ids=str)
def test_the_mean_squared_error_is_the_bayes_error(bounds: Bounds, timestep: int) -> None:
    variance = ((bounds.upper - bounds.lower) / 2 * SPREAD) ** 2
    sigma = sigma_of(timestep, bounds)
    clean, noisy = samples((4, 1, 256, 256), sigma, bounds)
    error = float((denoiser(bounds=bounds)(noisy, sigma * (1 - 1e-9)) - clean).double().square().mean())
    # 262,144 squared normals: a standard error of 0.3 percent.
    assert error == pytest.approx(variance * sigma**2 / (variance + sigma**2), rel=0.012)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_no_other_noise_level_denoises_as_well_as_the_true_one(factor: float) -> None:
    sigma = sigma_of(57, Bounds())
    clean, noisy = samples((4, 1, 64, 64), sigma, Bounds())
    right, wrong = (denoiser()(noisy, told * (1 - 1e-9)) for told in (sigma, factor * sigma))
    assert float((wrong - clean).square().mean()) > 1.05 * float((right - clean).square().mean())


@pytest.mark.parametrize("bounds", ALL_BOUNDS, ids=str)
def test_all_prediction_types_say_the_same(bounds: Bounds) -> None:
    width = bounds.upper - bounds.lower
    _, noisy = samples((3, 1, 8, 8), 0.25 * width, bounds)
    outs = [denoiser(prediction, bounds)(noisy, 0.25 * width) for prediction in PREDICTIONS]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=0, atol=1e-5 * width)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_learned_variance_is_ignored(prediction: str) -> None:
    _, noisy = samples((2, 1, 8, 8), 0.25, Bounds())
    network = BestPrediction(prediction, learned_variance=True)
    out = DiffusionDenoiser(network, NoiseSchedule.linear(), prediction=prediction)(noisy, 0.25)
    torch.testing.assert_close(out, denoiser(prediction)(noisy, 0.25), rtol=0, atol=0)


@pytest.mark.parametrize("divisor", [2, 8])
@pytest.mark.parametrize(
    "sides", [(16, 16), (9, 23), (17, 16), (3, 2), (1, 9), (5, 6, 7), (8, 8, 8), (1, 1, 3)], ids=str
)
def test_sides_that_do_not_divide_come_back_as_if_they_did(sides: tuple[int, ...], divisor: int) -> None:
    _, noisy = samples((2, 1, *sides), 0.25, Bounds())
    out = denoiser(divisor=divisor)(noisy, 0.25)
    assert out.shape == noisy.shape
    torch.testing.assert_close(out, denoiser()(noisy, 0.25), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sides", "mode"), [((5, 7), "reflect"), ((3, 6), "edge"), ((6, 7, 5), "reflect")], ids=str)
def test_the_network_sees_the_picture_continued_beyond_its_end(sides: tuple[int, ...], mode: str) -> None:
    class Seen(nn.Module):
        def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            self.x = x
            return x

    network = Seen()
    image = samples((1, 1, *sides), 0.25, Bounds())[1]
    DiffusionDenoiser(network, NoiseSchedule.linear(), divisor=8)(image, 0.25)
    signal = float(np.sqrt(ABAR[NoiseSchedule.linear().timestep(0.5)]))
    padding = [(0, 0), (0, 0), *((0, -side % 8) for side in sides)]
    expected = np.pad((2 * image.numpy() - 1) * signal, padding, mode=mode)  # type: ignore[call-overload]
    np.testing.assert_allclose(network.x.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_each_image_of_a_batch_is_denoised_as_if_alone(prediction: str) -> None:
    _, noisy = samples((3, 1, 8, 8), 0.25, Bounds())
    together = denoiser(prediction)(noisy, 0.25)
    alone = torch.cat([denoiser(prediction)(image[None], 0.25) for image in noisy])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("bounds", ALL_BOUNDS, ids=str)
def test_a_grey_image_passes_a_color_denoiser_as_it_passes_a_grey_one(prediction: str, bounds: Bounds) -> None:
    width = bounds.upper - bounds.lower
    _, noisy = samples((2, 1, 8, 8), 0.25 * width, bounds)
    color = DiffusionDenoiser(
        BestPrediction(prediction), NoiseSchedule.linear(), prediction=prediction, channels=3, bounds=bounds
    )
    grey = denoiser(prediction, bounds)(noisy, 0.25 * width)
    torch.testing.assert_close(color(noisy, 0.25 * width), grey, rtol=0, atol=1e-5 * width)
    each_channel = color(noisy.expand(-1, 3, -1, -1), 0.25 * width)
    torch.testing.assert_close(each_channel, grey.expand(-1, 3, -1, -1), rtol=0, atol=1e-5 * width)


def test_a_grey_image_leaves_a_color_denoiser_as_the_mean_over_channels() -> None:
    color = DiffusionDenoiser(Constant(-0.6, 0.0, 0.9), NoiseSchedule.linear(), prediction="sample", channels=3)
    out = color(torch.rand(2, 1, 4, 4), 0.25)
    assert out.shape == (2, 1, 4, 4)
    torch.testing.assert_close(out, torch.full_like(out, (0.1 + 1) / 2))


def test_a_grey_images_learned_variance_is_ignored_in_color_too() -> None:
    network = Constant(-0.6, 0.0, 0.9, 5.0, 5.0, 5.0)
    color = DiffusionDenoiser(network, NoiseSchedule.linear(), prediction="sample", channels=3)
    torch.testing.assert_close(color(torch.rand(1, 1, 2, 2), 0.25), torch.full((1, 1, 2, 2), 0.55))


@pytest.mark.parametrize("bounds", [*ALL_BOUNDS, Bounds(-1000, 400)], ids=str)
def test_no_prediction_leaves_the_bounds(bounds: Bounds) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = 3 * bounds.upper * torch.randn(2, 1, 16, 16, generator=generator)
    for prediction in PREDICTIONS:
        wild = DiffusionDenoiser(Constant(40.0), NoiseSchedule.linear(), prediction=prediction, bounds=bounds)
        out = wild(noisy, 0.25 * (bounds.upper - bounds.lower))
        assert float(out.min()) >= bounds.lower
        assert float(out.max()) <= bounds.upper
    for value, edge in ((9.0, bounds.upper), (-9.0, bounds.lower)):
        far = DiffusionDenoiser(Constant(value), NoiseSchedule.linear(), prediction="sample", bounds=bounds)
        out = far(noisy, 10.0)
        torch.testing.assert_close(out, torch.full_like(out, edge))


def test_an_unknown_prediction_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"prediction must be one of epsilon, sample, v_prediction, got 'noise'"):
        DiffusionDenoiser(Constant(0.0), NoiseSchedule.linear(), prediction="noise")


@pytest.mark.parametrize(("channels", "divisor"), [(0, 1), (1, 0), (-3, 1)])
def test_channels_and_divisor_below_one_are_refused(channels: int, divisor: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        DiffusionDenoiser(Constant(0.0), NoiseSchedule.linear(), channels=channels, divisor=divisor)


@pytest.mark.parametrize(("image", "network"), [(2, 3), (3, 1), (4, 3)])
def test_an_image_of_other_channels_is_refused(image: int, network: int) -> None:
    model = DiffusionDenoiser(BestPrediction("epsilon"), NoiseSchedule.linear(), channels=network)
    with pytest.raises(ValueError, match=f"images of 1 or {network} channels, got {image}"):
        model(torch.zeros(1, image, 4, 4), 0.25)


@pytest.mark.parametrize(("predicted", "channels"), [(3, 1), (1, 3), (4, 3)])
def test_a_network_that_gives_other_channels_than_it_takes_is_refused(predicted: int, channels: int) -> None:
    model = DiffusionDenoiser(Constant(*[0.0] * predicted), NoiseSchedule.linear(), channels=channels)
    with pytest.raises(ValueError, match=f"gave {predicted} channels where {channels}, or twice that"):
        model(torch.zeros(1, channels, 4, 4), 0.25)


@pytest.mark.parametrize("sigma", [0.0, -0.25, 1e6])
def test_noise_outside_the_schedule_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        denoiser()(torch.zeros(1, 1, 4, 4), sigma)
