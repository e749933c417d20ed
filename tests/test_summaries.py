"""The reductions inside the graph equal those in NumPy, on every kind of float and for every odd value."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from see_rnn_like import stats
from see_rnn_like.engine.summaries import summarize

compiled = tf.function(summarize)

DTYPES = {"float16": 16, "float32": 32, "float64": 64}


def agree(tensor, array, gates):
    axis = None if gates == 1 else array.ndim - 1
    split = array if gates == 1 else array.reshape(*array.shape[:-1], gates, -1)
    moments, histogram = compiled(tensor, gates)
    np.testing.assert_array_equal(histogram, stats.histogram(split, axis))
    expected = stats.moments(split, axis)
    exact = [stats.MOMENTS.index(name) for name in ("count", "nan", "inf", "zero", "min", "max")]
    np.testing.assert_array_equal(moments.numpy()[:, exact], expected[:, exact])
    np.testing.assert_allclose(moments, expected, rtol=1e-12, atol=1e-300)


@settings(max_examples=60)
@given(st.data(), st.sampled_from(sorted(DTYPES)), st.sampled_from([1, 3, 4]))
def test_any_numbers_of_any_gates(draw, dtype, gates):
    shape = (draw.draw(st.integers(1, 5)), gates * draw.draw(st.integers(1, 4)))
    numbers = st.floats(width=DTYPES[dtype], allow_subnormal=False)
    # Sums of numbers of very different size depend on their order; the exact columns do not.
    array = draw.draw(hnp.arrays(dtype, shape, elements=st.one_of(numbers, st.just(0.0))))
    split = array if gates == 1 else array.reshape(*shape[:-1], gates, -1)
    axis = None if gates == 1 else 1
    # Eagerly: each new shape would be compiled anew.
    moments, histogram = summarize(tf.constant(array), gates)
    np.testing.assert_array_equal(histogram, stats.histogram(split, axis))
    expected = stats.moments(split, axis)
    exact = [stats.MOMENTS.index(name) for name in ("count", "nan", "inf", "zero", "min", "max")]
    np.testing.assert_array_equal(moments.numpy()[:, exact], expected[:, exact])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("gates", [1, 4])
def test_a_million_values_with_all_odd_ones(dtype, gates):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((1000, 400)) * 10.0 ** rng.integers(-6, 4, (1000, 400))
    array[rng.random(array.shape) < 0.01] = 0.0
    array[3, 5], array[7, 200], array[9, 399], array[11, 0] = np.nan, np.inf, -np.inf, -0.0
    tensor = tf.cast(tf.constant(array), dtype)
    agree(tensor, tensor.numpy(), gates)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 3, 4, 5)])
def test_any_shape(shape):
    array = np.ones(shape, "float32")
    agree(tf.constant(array), array, 1)


def test_squares_that_do_not_fit_float32():
    array = np.full(10, 1e30, "float32")
    moments, _ = compiled(tf.constant(array), 1)
    norm = stats.describe(moments.numpy(), ("gate",))["norm"]
    np.testing.assert_allclose(norm, np.sqrt(10) * 1e30, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormal_numbers_count_as_zero_whatever_the_processor_does(dtype):
    tiny = np.finfo(dtype).tiny
    array = np.array([tiny, tiny / 4, -tiny / 4, 0.0], dtype)
    agree(tf.constant(array), array, 1)
    assert stats.moments(array)[0, stats.MOMENTS.index("zero")] == 3


def test_nothing_but_nan():
    agree(tf.constant([np.nan, np.nan]), np.array([np.nan, np.nan], "float32"), 1)
