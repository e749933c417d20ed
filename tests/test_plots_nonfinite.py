"""Counting NaN and Inf."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from see_rnn_like.errors import ArgumentTypeError
from see_rnn_like.stats import count_nonfinite, detect_nans


def with_bad(size, nan=0, inf=0):
    data = np.zeros(size)
    data[:nan] = np.nan
    data[nan : nan + inf] = np.inf
    data[nan : nan + inf : 2] *= -1
    return data


@pytest.mark.parametrize(
    ("size", "nan", "inf", "text"),
    [
        (10_000, 1, 0, "1 NaN"),  # see-rnn: "1% NaN"
        (1_002, 1, 0, "1 NaN"),  # see-rnn: "0% NaN"
        (1_000, 1, 0, "0.1% NaN"),
        (200, 3, 0, "1.5% NaN"),
        (200, 3, 3, "1.5% NaN, 1.5% Inf"),
        (10_000, 150, 3, "1.5% NaN, 3 Inf"),
        (10_000, 9_999, 0, "99.9% NaN"),
        (4, 4, 0, "100.0% NaN"),
        (4, 0, 0, None),
        (0, 0, 0, None),  # see-rnn: ''
    ],
)
def test_detect_nans_tells_counts_and_shares_as_they_are(size, nan, inf, text):
    assert detect_nans(with_bad(size, nan, inf)) == text


def test_inf_is_left_out_if_asked():
    assert detect_nans(with_bad(100, 1, 5), include_inf=False) == "1.0% NaN"
    assert detect_nans(with_bad(100, 0, 5), include_inf=False) is None


def test_lists_whole_numbers_and_small_floats_are_counted():
    assert detect_nans([1, 2, 3]) is None
    assert detect_nans(np.array([True])) is None
    assert detect_nans([np.zeros(3), np.full((1, 1), np.nan)]) == "25.0% NaN"
    assert detect_nans(np.array([1, np.nan], ml_dtypes.bfloat16)) == "50.0% NaN"
    assert detect_nans(float("inf")) == "100.0% Inf"


@pytest.mark.parametrize("data", ["text", [None], {"a": 1}])
def test_what_is_no_number_is_refused(data):
    with pytest.raises(ArgumentTypeError, match="expected numbers; got an array of"):
        detect_nans(data)


@given(st.lists(st.floats(width=32), max_size=50))
def test_counts_are_those_of_a_loop(values):
    nan = sum(value != value for value in values)
    inf = sum(abs(value) == float("inf") for value in values)
    assert count_nonfinite(np.array(values, "float32")) == (nan, inf)
    assert (detect_nans(np.array(values, "float32")) is None) == (nan + inf == 0)
