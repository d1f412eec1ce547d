# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""What certificates of measurements say, where they can say little, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from monai_cert.statistics.percentile import certify_measurements, certify_shares

VALUES = np.random.default_rng(0).normal(424, 3, 200)


def test_one_measurement_has_a_number_and_several_have_a_row_each() -> None:
    one = certify_measurements(VALUES, 0.25, 0.001, [0.05, 0.1])
    assert (one.estimate.shape, one.lower.shape, one.upper.shape, one.undefined.shape) == ((), (2,), (2,), ())
    three = certify_measurements(np.stack([VALUES] * 3), 0.25, 0.001, [0.05, 0.1])
    assert (three.estimate.shape, three.lower.shape, three.upper.shape) == ((3,), (3, 2), (3, 2))
    assert (three.lower <= one.lower).all()
    assert (three.upper >= one.upper).all()
    assert one.estimate == np.sort(VALUES)[99]


def test_intervals_widen_with_the_radius_and_with_smaller_alpha() -> None:
    radii = [0.2, 0.05, 0.1, 0.0]
    wide, narrow = (certify_measurements(VALUES, 0.25, alpha, radii) for alpha in (0.001, 0.1))
    order = np.argsort(radii)
    assert (np.diff(wide.lower[order]) <= 0).all()
    assert (np.diff(wide.upper[order]) >= 0).all()
    assert (wide.lower <= narrow.lower).all()
    assert (wide.upper >= narrow.upper).all()
    assert narrow.lower[3] <= narrow.estimate <= narrow.upper[3]
    looked = certify_measurements(VALUES, 0.25, 0.1, radii, looks=100)
    np.testing.assert_array_equal(looked.lower, wide.lower)


def test_other_quantiles_and_their_mirror() -> None:
    low = certify_measurements(VALUES, 0.25, 0.01, [0.1], 0.1)
    high = certify_measurements(-VALUES, 0.25, 0.01, [0.1], 0.9)
    assert (low.lower, low.upper) == (-high.upper, -high.lower)
    assert low.upper < certify_measurements(VALUES, 0.25, 0.01, [0.1]).upper
    assert "the 0.1-quantile of the " in low.statements[0]


def test_too_few_draws_give_the_natural_limit_and_say_how_many_would_do() -> None:
    c = certify_measurements(VALUES[:30], 0.25, 0.001, [0.1, 0.5], limits=(0, 1000))
    assert np.isfinite([c.lower[0], c.upper[0]]).all()
    assert (c.lower[0] > 0, c.upper[0] < 1000) == (True, True)
    assert (c.lower[1], c.upper[1]) == (0, 1000)
    assert c.needed[0] <= 30 < c.needed[1]
    assert f"From a size of 0.5 on, 30 draws are too few for both ends; {c.needed[1]:.0f} would do" in c.statements[0]
    assert certify_measurements(VALUES[:30], 0.25, 0.001, [0.5]).lower == -np.inf
    for radii in ([0.5], [0.1, 0.5], [0.3, 0.2, 0.1]):
        needed = certify_measurements(VALUES, 0.25, 0.001, radii).needed.max()
        assert needed == int(needed)
        enough = certify_measurements(np.random.default_rng(1).random(int(needed)), 0.25, 0.001, radii)
        assert np.isfinite([enough.lower, enough.upper]).all()
        assert "too few" not in enough.statements[0]


def test_without_any_value_nothing_is_said() -> None:
    c = certify_measurements(np.full(200, np.nan), 0.25, 0.001, [0.1], limits=(0, np.inf))
    assert np.isnan(c.estimate)
    assert (c.lower, c.upper) == (0, np.inf)
    assert "undefined in 200 of 200 draws" in c.statements[0]
    record = json.loads(json.dumps(c.record(), allow_nan=False))
    assert record["measurements"][0]["estimate"] is None
    assert record["measurements"][0]["intervals"] == [{"radius": 0.1, "lower": 0.0, "upper": None, "n_needed": 18}]


def test_statement_says_what_was_proved() -> None:
    values = np.stack([VALUES, VALUES / 100])
    c = certify_measurements(values, 0.25, 0.001, [0.1], names=["area of lung", "ratio"], units=["cm2", ""])
    assert c.statements[0].startswith(
        "With probability at least 0.999 over the noise draws, for all 2 measurements at once: no change "
        "of the image moves the median area of lung over the noisy predictions outside "
    )
    low, high = c.statements[0].split("outside ")[1].split(" cm2 if its l2 size is at most 0.1000")[0].split(" to ")
    assert float(low) <= c.lower[0, 0] < float(low) + 0.01
    assert float(high) - 0.01 < c.upper[0, 0] <= float(high)
    assert "(pixel values from 0 to 1)" in c.statements[0]


@pytest.mark.parametrize(
    ("measurements", "radii", "words"),
    [
        (1, [0.1], "over the noise draws: no"),
        (1, [0.1, 0.2], ", for all 2 sizes at once: no"),
        (3, [0.1, 0.2], ", for all 3 measurements and 2 sizes at once: no"),
    ],
)
def test_only_what_is_several_is_counted(measurements: int, radii: list[float], words: str) -> None:
    assert words in certify_measurements(np.stack([VALUES] * measurements), 0.25, 0.01, radii).statements[0]


def test_values_at_a_limit_are_no_want_of_draws() -> None:
    """A Dice of 1 in every draw, of just so many that all ends are proved: fewer than the union bound asks for."""
    radii = [0.19, 0.2, 0.21]
    made = [certify_measurements(np.ones(n), 0.25, 0.001, radii, limits=(0, 1)) for n in range(20, 80)]
    fewest = next(c for c in made if c.enough.all())
    assert fewest.n < fewest.needed.max()
    assert (fewest.lower == 1).all()
    assert "too few" not in fewest.statements[0]
    assert all(f"{c.n} draws are too few" in c.statements[0] for c in made if c.n < fewest.n)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("radius", [3.0, 20.0])
def test_where_no_number_of_draws_would_do_this_is_said(radius: float) -> None:
    c = certify_measurements(VALUES, 0.25, 0.001, [0.1, radius])
    assert np.isinf(c.needed).tolist() == [False, True]
    assert "draws are too few for both ends; no number that can be drawn would do for all sizes." in c.statements[0]
    intervals = json.loads(json.dumps(c.record(), allow_nan=False))["measurements"][0]["intervals"]
    assert [interval["n_needed"] is None for interval in intervals] == [False, True]


def test_infinite_values_keep_their_sign_in_the_record_and_nothing_proved_is_none() -> None:
    far, low, none = (np.full(200, value) for value in (np.inf, -np.inf, np.nan))
    record = certify_measurements(np.stack([far, low, none]), 0.25, 0.001, [0.1], limits=(-np.inf, np.inf)).record()
    found = [(m["estimate"], m["intervals"][0]["lower"], m["intervals"][0]["upper"]) for m in record["measurements"]]
    assert found == [("inf", "inf", None), ("-inf", None, "-inf"), (None, None, None)]
    assert record["measurements"][0]["limits"] == [None, None]
    json.dumps(record, allow_nan=False)


def test_undefined_values_are_taken_for_numbers_within_the_limits() -> None:
    values = np.where(np.arange(200) < 5, np.nan, VALUES)
    assert "whatever number within its natural limits" in certify_measurements(values, 0.25, 0.01, [0.1]).statements[0]


def test_what_is_asked_for_stands_in_full() -> None:
    """A threshold rounded up would claim more than was proved."""
    shares = certify_shares(VALUES, [423.1234567], 0.25, 0.001, [0.05], bounds=(-1.23456789, 1.0))
    assert "(d = 423.1234567, R = 0.0500) (pixel values from -1.23456789 to 1)." in shares.statements[0]
    assert "the 0.12345678-quantile" in certify_measurements(VALUES, 0.25, 0.001, [0.05], 0.12345678).statements[0]


def test_intervals_rest_on_the_noise_that_was_drawn() -> None:
    """0.7 in float32 is smaller: the same interval as for that, wider than for a sigma that was not drawn."""
    values = np.random.default_rng(0).random(2_000_000)
    given, drawn = (certify_measurements(values, sigma, 0.001, [2.0]) for sigma in (0.7, float(np.float32(0.7))))
    assert given.sigma == 0.7
    np.testing.assert_array_equal((given.lower, given.upper), (drawn.lower, drawn.upper))
    shares = [certify_shares(values, [0.5], sigma, 0.001, [0.5]) for sigma in (0.7, float(np.float32(0.7)))]
    assert shares[0].lower == shares[1].lower
    assert shares[0].sigma == 0.7


def test_shares_need_no_split_over_radii_and_say_so() -> None:
    dice = np.where(np.arange(200) < 190, 0.95, np.nan)
    few = certify_shares(dice, [0.9], 0.25, 0.001, [0.168])
    many = certify_shares(dice, [0.9], 0.25, 0.001, [0.168, *np.linspace(0.01, 1, 50)])
    assert few.lower[0, 0] == many.lower[0, 0] > 0
    assert (few.observed, few.lower.shape) == (0.95, (1, 1))
    assert (
        "whose Dice of lung is at least d is no less than 0."
        in (certify_shares(dice, [0.9], 0.25, 0.001, [0.168], names=["Dice of lung"]).statements[0])
    )
    record = json.loads(json.dumps(few.record(), allow_nan=False))
    (share,) = record["measurements"][0]["shares"]
    assert (share["threshold"], share["observed"]) == (0.9, 0.95)
    assert share["certified"][0]["share"] <= few.lower[0, 0]
    nothing = certify_shares(np.zeros(20), [0.9], 0.25, 0.001, [0.168])
    assert nothing.lower[0, 0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": []}, "values must be"),
        ({"values": np.zeros((2, 2, 2))}, "values must be"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": 1e-50}, "sigma must be positive"),
        ({"alpha": 1.0}, "alpha must lie"),
        ({"radii": []}, "radii must be finite"),
        ({"radii": [-0.1]}, "radii must be finite"),
        ({"radii": [np.inf]}, "radii must be finite"),
        ({"radii": [0.1, 0.1]}, "radii must differ"),
        ({"quantile": 1.0}, "quantile must lie"),
        ({"looks": 0}, "looks must be at least 1"),
        ({"names": ["a", "b"]}, "1 measurements need as many names"),
    ],
)
def test_parameters_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify_measurements(**{"values": VALUES, "sigma": 0.25, "alpha": 0.001, "radii": [0.1]} | change)
    if "thresholds" not in change and "quantile" not in change:
        with pytest.raises(ValueError, match="at least 1" if "looks" in change else message):
            certify_shares(
                **{"values": VALUES, "thresholds": [1], "sigma": 0.25, "alpha": 0.001, "radii": [0.1]} | change
            )
