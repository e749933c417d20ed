"""The quick statistics of a recorded step equal those of NumPy in float64, on every kind of tensor."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from see_rnn_like import stats
from see_rnn_like.engine.digest import Digest, Item
from see_rnn_like.engine.reductions import SAMPLE, Alone, stride_of

EXACT = [stats.MOMENTS.index(name) for name in ("count", "nan", "inf", "zero", "min", "max")]
TOTAL, SQUARES = stats.MOMENTS.index("sum"), stats.MOMENTS.index("square_sum")


def digested(arrays, dynamic=False):
    """Moments and histograms of ``(array, gates)`` pairs, compiled as in a recorded step."""
    built = []

    def reduce(tensors):
        items = [Item(t, g, None, i) for i, (t, (_, g)) in enumerate(zip(tensors, arrays, strict=True))]
        built.append(Digest(items, histograms=True))
        return built[-1].reduced

    tensors = [tf.constant(array) for array, _ in arrays]
    # Only tensors without gates, outputs, have sizes that are not known before.
    specs = [
        tf.TensorSpec([None, *t.shape[1:]] if dynamic and t.shape.rank and gates == 1 else t.shape, t.dtype)
        for t, (_, gates) in zip(tensors, arrays, strict=True)
    ]
    compiled = tf.function(reduce, autograph=False).get_concrete_function(specs)
    return read(built[-1], compiled(tensors))


def read(digest, reduced=None):
    moments, histograms = digest.read(digest.reduced if reduced is None else reduced)
    return [moments[rows] for rows in digest.rows], [histograms[rows] for rows in digest.rows]


def split(array, gates):
    return array if gates == 1 else array.reshape(*array.shape[:-1], gates, -1)


def assert_moments(found, array, gates):
    parts = split(array, gates)
    expected = stats.moments(parts, None if gates == 1 else -2)
    np.testing.assert_array_equal(found[:, EXACT], expected[:, EXACT])
    sizes = stats.moments(np.abs(parts), None if gates == 1 else -2)[:, TOTAL]
    assert (np.abs(found[:, TOTAL] - expected[:, TOTAL]) <= 2e-6 * sizes).all()
    np.testing.assert_allclose(found[:, SQUARES], expected[:, SQUARES], rtol=1e-5)


def assert_histogram(found, array, gates):
    """Of all values, or of the sample: every so many in memory order."""
    flat, stride = array.reshape(-1), stride_of(tf.TensorShape(array.shape), array.size)
    units = (array.shape[-1] // gates) if gates > 1 else array.size
    gate = np.arange(array.size) // max(units, 1) % gates
    for g in range(gates):
        expected = stats.histogram(flat[::stride][gate[::stride] == g])[0]
        np.testing.assert_array_equal(found[g], expected)


def agree(arrays, dynamic=False):
    for (array, gates), moments, histogram in zip(arrays, *digested(arrays, dynamic), strict=True):
        assert_moments(moments, array, gates)
        assert_histogram(histogram, array, gates)


rng = np.random.default_rng(0)
KINDS = {
    "an LSTM and a Dense of one number": [
        ((16, 256), 4),
        ((64, 256), 4),
        ((256,), 4),
        ((6400, 1), 1),
        ((1,), 1),
    ],
    "odd sizes": [((7, 15), 3), ((5, 15), 3), ((2, 15), 3), ((13,), 1), ((1,), 1), ((), 1), ((3, 5, 7), 1)],
    "two sizes of units": [((16, 256), 4), ((8, 96), 3), ((2, 96), 3), ((100,), 1)],
    "large ones": [((256, 1024), 4), ((40, 50, 31), 1), ((32, 100, 64), 1), ((3, 2**14), 4)],
    "nothing in it": [((0, 5), 1), ((4,), 1), ((3,), 1)],
    "only one": [((4, 12), 3)],
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_all_sizes(kind, dtype, dynamic):
    agree(
        [((3 * rng.standard_normal(shape) + 1).astype(dtype), gates) for shape, gates in KINDS[kind]], dynamic
    )


@pytest.mark.parametrize("shape", [(8, 40), (64, 4 * 300)])
def test_zeros_nan_and_infinities_are_counted(shape):
    array = rng.standard_normal(shape).astype("float32")
    zeros, broken, tiny = array.copy(), array.copy(), array.copy()
    zeros[rng.random(shape) < 0.3] = 0
    zeros[0, 0] = -0.0
    broken[2, 3], broken[5, 30], broken[6, 0], broken[7, 7] = np.nan, np.inf, -np.inf, 0
    tiny[0, :5] = np.finfo("float32").tiny / 4
    agree([(zeros, 4), (broken, 4), (np.zeros(shape, "float32"), 4), (array, 4), (tiny, 4), (broken, 1)])


@pytest.mark.parametrize("size", [1e-30, 1e-19, 1e-13, 1e16, 1e30])
def test_squares_that_leave_the_range_of_float32(size):
    array = (size * rng.standard_normal((30, 40))).astype("float32")
    (moments,), _ = digested([(array, 1)])
    exact = np.square(array.astype("float64")).sum()
    np.testing.assert_allclose(moments[0, SQUARES], exact, rtol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-4, 1e-2, 3e-2, 1e-1])
def test_the_spread_of_values_that_hardly_differ(spread):
    """As of the scale of a normalisation, which starts at ones."""
    array = (0.9 * (1 + spread * rng.standard_normal((64, 300)))).astype("float32")
    (moments,), _ = digested([(array, 3)])
    found = stats.describe(moments, ("gate",))["std"]
    exact = array.astype("float64").reshape(64, 3, 100).std((0, 2))
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    tensor = tf.cast(tf.constant(100 * rng.standard_normal((20, 30)), tf.float32), dtype)
    (moments,), (histogram,) = digested([(tensor.numpy(), 1)])
    wide = tf.cast(tensor, tf.float32).numpy()
    assert_moments(moments, wide, 1)
    assert_histogram(histogram, wide, 1)


@settings(max_examples=40)
@given(st.data(), st.sampled_from(["float32", "float64"]), st.sampled_from([1, 3]))
def test_any_numbers(draw, dtype, gates):
    numbers = st.floats(width=int(dtype[5:]), allow_subnormal=False)
    shape = (draw.draw(st.integers(1, 4)), gates * draw.draw(st.integers(1, 40)))
    array = draw.draw(hnp.arrays(dtype, shape, elements=st.one_of(numbers, st.just(0.0))))
    item = Item(tf.constant(array), gates, None, 0)
    digest = Digest([item, Item(tf.constant(array), gates, None, 1)], histograms=True)
    for moments, histogram in zip(*read(digest), strict=True):
        expected = stats.moments(split(array, gates), None if gates == 1 else -2)
        np.testing.assert_array_equal(moments[:, EXACT], expected[:, EXACT])
        np.testing.assert_array_equal(
            histogram, stats.histogram(split(array, gates), None if gates == 1 else -2)
        )


@pytest.mark.parametrize("shape", [(32, 100, 64), (16, 100, 150), (128, 512), (97, 97, 31), (2**21,)])
def test_a_sample_meets_all_units_and_timesteps_alike(shape):
    stride = stride_of(tf.TensorShape(shape), int(np.prod(shape)))
    places = np.unravel_index(np.arange(0, np.prod(shape), stride), shape)
    assert stride > 1
    assert len(places[0]) >= SAMPLE
    for axis, size in enumerate(shape[1:], 1):
        met = np.bincount(places[axis], minlength=size)
        assert met.min() >= 0.8 * met.mean() - 2


def test_padding_is_left_out():
    values = rng.standard_normal((6, 9, 5)).astype("float32")
    mask = rng.random((6, 9)) < 0.6
    values[~mask] = np.nan
    digest = Digest([Item(tf.constant(values), 1, tf.constant(mask), 0)], histograms=True)
    (moments,), (histogram,) = read(digest)
    assert_moments(moments, values[mask], 1)
    np.testing.assert_array_equal(histogram, stats.histogram(values[mask]))


def test_tensors_of_one_source_share_their_numbers():
    tensor = tf.constant(rng.standard_normal((4, 6)).astype("float32"))
    items = [
        Item(tensor, 1, None, "a"),
        Item(tf.reshape(tensor, [-1]), 1, None, "a"),
        Item(-tensor, 1, None, "b"),
    ]
    digest = Digest(items, histograms=True)
    assert digest.reduced["sums"].shape == (2, 6)
    moments, histograms = read(digest)
    np.testing.assert_array_equal(moments[0], moments[1])
    np.testing.assert_array_equal(histograms[0], histograms[2][:, ::-1])


def test_without_histograms_none_are_counted():
    digest = Digest([Item(tf.ones((3, 4)), 1, None, 0)], histograms=False)
    assert digest.read(digest.reduced)[1] is None


def test_reductions_of_a_size_are_traced_once():
    def reduce(*tensors):
        return Digest([Item(t, 1, None, i) for i, t in enumerate(tensors)], histograms=True).reduced

    specs = [tf.TensorSpec((200, 100 if i < 5 else 101)) for i in range(8)]
    compiled = tf.function(reduce, autograph=False).get_concrete_function(*specs)
    # Of each of the two sizes its sums and its patterns.
    assert len(compiled.graph.as_graph_def().library.function) == 4


def test_an_eager_step_traces_nothing():
    traced = {}
    tf.debugging.assert_equal(
        Alone(tf.ones((200, 200)), 1, traced).sums()[0, 0], tf.constant(4e4, tf.float64)
    )
    assert traced == {}
