"""Sums and histograms against NumPy's own and against loops; merging is exact; nothing is mutated."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError

floats32 = hnp.arrays(
    "float32", hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(width=32, allow_subnormal=False)
)
gated = hnp.arrays(
    "float32",
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    elements=st.floats(width=32, allow_subnormal=False),
)
MOMENT = {name: column for column, name in enumerate(stats.MOMENTS)}


def loop_moments(values):
    """The sums, value by value, in Python's exact summation."""
    finite = [v for v in values if math.isfinite(v)]
    return {
        "count": len(values),
        "nan": sum(math.isnan(v) for v in values),
        "inf": sum(math.isinf(v) for v in values),
        "zero": sum(v == 0 for v in values),
        "sum": math.fsum(finite),
        "square_sum": math.fsum(v * v for v in finite),
        "min": min(finite, default=math.inf),
        "max": max(finite, default=-math.inf),
    }


def loop_bin(value):
    """Index of the bin of one finite value, from its logarithm and not from its bits."""
    middle = len(stats.EXPONENTS)
    if value == 0:
        return middle
    exponent = next((e for e in stats.EXPONENTS if abs(value) < 2.0 ** (e + 1)), stats.EXPONENTS[-1])
    distance = exponent - stats.EXPONENTS[0] + 1
    return int(middle + math.copysign(distance, value))


def assert_same_moments(found, expected, array):
    """The same but for the order of summation, which moves a sum of n terms by up to n eps Σ|x|.

    Source: Higham, Accuracy and Stability of Numerical Algorithms (2002), eq. 4.4.
    """
    wide = array.astype("float64").ravel()
    rounding = wide.size * np.finfo("float64").eps * np.abs(wide[np.isfinite(wide)]).sum()
    for name, column in MOMENT.items():
        slack = rounding if name == "sum" else 1e-300
        np.testing.assert_allclose(found[column], expected[column], rtol=1e-12, atol=slack, err_msg=name)


# ---- moments -------------------------------------------------------------------------------------


@given(floats32)
def test_moments_are_those_of_a_loop_over_the_values(array):
    found = stats.moments(array)
    assert found.shape == (1, len(stats.MOMENTS))
    assert found.dtype == "float64"
    expected = loop_moments(array.astype("float64").ravel().tolist())
    assert_same_moments(found[0], [expected[name] for name in stats.MOMENTS], array)


@given(gated, st.integers(-3, 2))
def test_moments_by_gate_are_those_of_each_gate_alone(array, axis):
    found = stats.moments(array, axis)
    for gate in range(array.shape[axis]):
        alone = np.take(array, gate, axis)
        assert_same_moments(found[gate], stats.moments(alone)[0], alone)


@given(floats32, floats32)
def test_merged_moments_are_those_of_all_values_together(first, second):
    both = np.concatenate([first.ravel(), second.ravel()])
    merged = stats.merge_moments(stats.moments(first), stats.moments(second))
    assert_same_moments(merged[0], stats.moments(both)[0], both)


def test_merging_with_nothing_changes_nothing_and_leaves_both_alone():
    some, nothing = stats.moments(np.array([1.0, -2.0])), stats.moments(np.array([]))
    before = some.copy(), nothing.copy()
    np.testing.assert_array_equal(stats.merge_moments(some, nothing), some)
    np.testing.assert_array_equal(some, before[0])
    np.testing.assert_array_equal(nothing, before[1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "bool"])
def test_any_type_of_number_is_summed_without_overflow(dtype):
    array = np.ones(100_000, dtype)
    assert stats.moments(array)[0, MOMENT["sum"]] == 100_000


def test_reducing_does_not_touch_the_array():
    array = np.array([[np.nan, 1.0, -np.inf], [0.0, -0.0, 5.0]])
    before = array.tobytes()
    stats.moments(array, 0)
    stats.histogram(array, 0)
    assert array.tobytes() == before


# ---- histogram -----------------------------------------------------------------------------------


@given(floats32)
def test_the_histogram_is_that_of_a_loop_over_the_values(array):
    expected = np.zeros(stats.BINS, "int64")
    for value in array.ravel().tolist():
        if math.isfinite(value):
            expected[loop_bin(value)] += 1
    found = stats.histogram(array)
    assert found.dtype == "int64"
    np.testing.assert_array_equal(found, expected[None])


@given(gated, st.integers(-3, 2))
def test_histograms_by_gate_are_those_of_each_gate_alone(array, axis):
    found = stats.histogram(array, axis)
    for gate in range(array.shape[axis]):
        np.testing.assert_array_equal(found[gate], stats.histogram(np.take(array, gate, axis))[0])


@given(floats32, floats32)
def test_histograms_add_up(first, second):
    together = stats.histogram(np.concatenate([first.ravel(), second.ravel()]))
    np.testing.assert_array_equal(stats.histogram(first) + stats.histogram(second), together)


@given(floats32)
def test_histogram_and_moments_agree_on_how_many_values_there_are(array):
    sums = stats.moments(array)[0]
    counts = stats.histogram(array)[0]
    assert counts.sum() == sums[MOMENT["count"]] - sums[MOMENT["nan"]] - sums[MOMENT["inf"]]
    assert counts[len(stats.EXPONENTS)] == sums[MOMENT["zero"]]


@given(floats32)
def test_negating_the_values_mirrors_the_histogram(array):
    np.testing.assert_array_equal(stats.histogram(-array), stats.histogram(array)[:, ::-1])


def test_edges_and_centers_fit_the_bins():
    assert len(stats.CENTERS) == stats.BINS
    assert len(stats.EDGES) == stats.BINS + 1
    assert (np.diff(stats.EDGES) > 0).all()
    assert (np.diff(stats.CENTERS) > 0).all()
    assert ((stats.EDGES[:-1] < stats.CENTERS) & (stats.EDGES[1:] > stats.CENTERS)).all()
    np.testing.assert_array_equal(stats.histogram(stats.CENTERS[:, None], 0), np.eye(stats.BINS))


def test_powers_of_two_begin_their_bin():
    for exponent in range(-60, 31):
        for sign in (1.0, -1.0):
            below, edge = sign * np.nextafter(2.0**exponent, 0), sign * 2.0**exponent
            assert stats.histogram(np.array([edge]))[0, loop_bin(edge)] == 1
            assert abs(loop_bin(edge) - loop_bin(below)) == 1
            assert stats.histogram(np.array([below]))[0, loop_bin(below)] == 1


def test_what_is_too_small_or_too_large_goes_to_the_outermost_bins():
    middle = len(stats.EXPONENTS)
    counts = stats.histogram(np.array([1e-300, -1e-300, 1e300, -1e300]))[0]
    assert counts.nonzero()[0].tolist() == [0, middle - 1, middle + 1, stats.BINS - 1]


# ---- describe ------------------------------------------------------------------------------------

moderate = hnp.arrays(
    "float64",
    st.tuples(st.integers(1, 5), st.integers(1, 30)),
    elements=st.floats(-1e3, 1e3).map(lambda x: round(x, 3)),
)


@given(moderate)
def test_descriptions_are_those_numpy_computes_from_the_values(array):
    table = stats.describe(stats.moments(array, 0), ("gate",))
    np.testing.assert_allclose(table["mean"], array.mean(1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(table["std"], array.std(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table["norm"], np.linalg.norm(array, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(table["min"], array.min(1))
    np.testing.assert_array_equal(table["max"], array.max(1))
    np.testing.assert_allclose(table["zeros"], (array == 0).mean(1))
    assert (table["count"] == array.shape[1]).all()
    assert table["nan"].dtype == table["inf"].dtype == table["count"].dtype == "int64"


def test_nan_and_inf_are_counted_and_left_out_of_everything_else():
    table = stats.describe(stats.moments(np.array([np.nan, np.inf, -np.inf, 3.0, 4.0, 0.0])), ("gate",)).isel(
        gate=0
    )
    assert {name: float(table[name]) for name in ("count", "nan", "inf", "norm", "mean", "min", "max")} == {
        "count": 6,
        "nan": 1,
        "inf": 2,
        "norm": 5.0,
        "mean": pytest.approx(7 / 3),
        "min": 0.0,
        "max": 4.0,
    }
    assert float(table["zeros"]) == pytest.approx(1 / 6)


def test_of_no_finite_value_there_is_no_mean_and_a_norm_of_zero():
    for array in (np.array([np.nan, np.inf]), np.array([])):
        table = stats.describe(stats.moments(array), ("gate",)).isel(gate=0)
        assert all(np.isnan(table[name]) for name in ("mean", "std", "min", "max"))
        assert table["norm"] == 0
        assert table["count"] == array.size
    assert np.isnan(table["zeros"])


@given(st.floats(-1e6, 1e6), st.integers(1, 1000))
def test_constant_data_has_no_negative_variance(value, count):
    table = stats.describe(stats.moments(np.full(count, value)), ("gate",))
    assert 0 <= float(table["std"][0]) <= 1e-3 * max(1.0, abs(value))


def test_descriptions_keep_leading_axes_and_refuse_what_are_no_moments():
    sums = np.stack([stats.moments(np.eye(4), 0)] * 3)
    assert stats.describe(sums, ("step", "gate")).sizes == {"step": 3, "gate": 4}
    with pytest.raises(
        ArgumentError, match=r"sums must have axes \('gate', 'moment'\), 8 moments; got shape \(2, 7\)"
    ):
        stats.describe(np.zeros((2, 7)), ("gate",))
    with pytest.raises(ArgumentError, match=r"got shape \(3, 4, 8\)"):
        stats.describe(sums, ("gate",))
