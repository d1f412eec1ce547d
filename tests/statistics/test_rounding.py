# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
"""Numbers and their text never say more than was proved."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_cert.noise import GaussianNoise
from monai_cert.statistics.rounding import as_drawn, chance, exactly, outward, rounded_down

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(sigma=st.floats(0.01, 10))
def test_sigma_as_drawn_is_no_larger_than_the_noise_or_what_was_given(sigma: float) -> None:
    ones = torch.ones(1)
    factor = float(ones.mul(sigma))  # as noise is scaled
    assert as_drawn(sigma) == min(sigma, factor)
    assert as_drawn(sigma) >= sigma * (1 - 2.0**-24)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 1e-50, 1e50])
def test_sigma_that_float32_does_not_hold_is_refused(sigma: float) -> None:
    for refuse in (as_drawn, GaussianNoise):
        with pytest.raises(ValueError, match="sigma must be positive and finite, in float32 too"):
            refuse(sigma)


@given(alpha=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_a_chance_is_never_rounded_up(alpha: float) -> None:
    assert 1 - Fraction(repr(alpha)) - Fraction(1, 10**10) <= Fraction(chance(alpha)) <= 1 - Fraction(repr(alpha))


@given(value=FINITE)
def test_decimal_text_lies_on_its_side_and_near(value: float) -> None:
    low, high = Fraction(outward(value, up=False)), Fraction(outward(value, up=True))
    assert low <= Fraction(value) <= high
    assert high - low <= max(abs(Fraction(value)) / 10**4, Fraction(0))
    assert 0 <= Fraction(value) - Fraction(rounded_down(value)) < Fraction(1, 10**4)
    assert float(exactly(value)) == value


def test_infinity_has_words() -> None:
    assert (outward(np.inf, up=True), outward(-np.inf, up=False)) == ("infinity", "minus infinity")
