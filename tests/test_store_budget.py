"""The law by which old steps are thinned, and what a budget keeps, in whatever order sizes come."""

import sqlite3

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up_snapshots import INFOS, KERNEL, LOSS, OUTPUT, assert_whole, snapshot

from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.history import Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.store import SQLiteHistory
from see_rnn_like.store.budget import overdue, too_large

ANY = TensorKey.parse("any:value")


def stored_bytes(history):
    """Bytes of all arrays, counted from the tables themselves."""
    with history._reading() as db:
        sizes = "SELECT length(data) AS size FROM arrays UNION ALL SELECT length(data) FROM blocks"
        return db.execute(f"SELECT ifnull(sum(size), 0) FROM ({sizes})").fetchone()[0]


def steps_with(history, what, key=ANY):
    return [step for step, _ in history.load(key, what)]


def sized(step, size):
    """A snapshot of one tensor of `size` float64 values: 64 + 193 + 8 · size bytes."""
    value = np.random.default_rng(step).normal(size=size)
    return Snapshot(
        step, 0, 0.0, 0.0, {ANY: stats.moments(value)}, {ANY: stats.histogram(value)}, {ANY: value}
    )


def history_of(sizes, max_bytes, distance=1):
    history = SQLiteHistory.create(None, max_bytes=max_bytes)
    history.declare([TensorInfo(ANY, ("unit",), (None,))])
    for number, size in enumerate(sizes):
        history.append(sized(number * distance, size))
    return history


# ---- the law -------------------------------------------------------------------------------------


def one_by_one(sizes, newest, excess):
    """The law read aloud: drop the most overdue, again and again. `sizes` maps numbers to bytes."""
    left, gone = dict(sizes), []
    while excess > 0 and left:

        def score(number):
            if number == 0:
                return (0.0, 0)
            power = 1
            while number % (2 * power) == 0:
                power *= 2
            return ((newest - number) / power, -power)

        worst = max(left, key=score)
        excess -= left.pop(worst)
        gone.append(worst)
    return gone


@example({2: 5, 3: 5}, 0, 5)  # equally overdue: 3, the smaller power of two, goes first
@given(
    st.dictionaries(st.integers(0, 200), st.integers(1, 50), max_size=60),
    st.integers(0, 50),
    st.integers(-10, 2000),
)
def test_the_law_drops_the_most_overdue_first_until_enough_is_freed(sizes, further, excess):
    newest = max(sizes, default=0) + 1 + further
    numbers = np.array(sorted(sizes), "int64")
    found = overdue(numbers, np.array([sizes[n] for n in sorted(sizes)], "int64"), newest, excess)
    assert found.tolist() == one_by_one(sizes, newest, excess)


def test_equal_snapshots_end_up_log_spaced_with_the_newest_dense_and_the_first_there():
    history = history_of([2000] * 1000, max_bytes=1000 * 450 + 60 * 16_000)
    kept = steps_with(history, "value")
    assert kept[0] == 0
    assert kept[-1] == 999
    assert len(kept) == 60
    ages = 999 - np.array(kept[1:])
    gaps = -np.diff(ages)
    # Never a larger gap close by than further back, but for the rounding to the grid of powers of two.
    assert (gaps[1:] <= 2 * gaps[:-1]).all()
    per_octave = [int(((ages >= 2**k) & (ages < 2 ** (k + 1))).sum()) for k in range(3, 9)]
    assert max(per_octave) <= 3 * min(per_octave), per_octave


def test_thinning_is_the_same_every_time():
    first, second = (history_of([7, 90, 30] * 40, max_bytes=9000) for _ in range(2))
    for what in ("value", "histogram", "moments"):
        assert steps_with(first, what) == steps_with(second, what)


# ---- what a budget keeps -------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    share=st.floats(0.0, 1.0),
    distance=st.integers(1, 7),
)
def test_a_budget_that_fits_each_snapshot_is_never_exceeded_and_keeps_first_and_last(sizes, share, distance):
    alone = [64 + 193 + 8 * size for size in sizes]
    max_bytes = int(max(alone) + share * (sum(alone) - max(alone)))
    history = SQLiteHistory.create(None, max_bytes=max_bytes)
    history.declare([TensorInfo(ANY, ("unit",), (None,))])
    written = []
    for number, size in enumerate(sizes):
        before = set(history.steps)
        history.append(sized(number * distance, size))
        written.append(number * distance)
        assert stored_bytes(history) <= max_bytes
        assert history.steps[0] == 0
        assert history.steps[-1] == written[-1]
        assert set(history.steps) <= before | {written[-1]}
        for what in ("value", "histogram", "moments"):
            assert steps_with(history, what)[-1] == written[-1]
        assert set(steps_with(history, "value")) <= set(steps_with(history, "histogram"))
        assert set(steps_with(history, "histogram")) <= set(steps_with(history, "moments"))
        assert set(steps_with(history, "moments")) <= set(history.steps)
    for step, value in history.load(ANY, "value"):
        np.testing.assert_array_equal(value, sized(step, sizes[step // distance]).values[ANY])
    if sum(alone) <= max_bytes:
        assert history.steps == written
        assert history.events == []


def test_without_a_budget_everything_is_kept():
    history = history_of([500] * 50, max_bytes=None)
    assert steps_with(history, "value") == list(range(50))
    assert history.events == []


def test_values_go_before_histograms_and_histograms_before_moments():
    # A snapshot has 80 000 bytes of values, 193 of histogram and 64 of moments.
    values_only = history_of([10_000] * 20, max_bytes=400_000)
    assert len(steps_with(values_only, "value")) == 4
    assert steps_with(values_only, "histogram") == list(range(20))
    histograms_too = history_of([100] * 20, max_bytes=800 + 3000)
    assert steps_with(histograms_too, "value") == [19]
    assert 1 < len(steps_with(histograms_too, "histogram")) < 20
    assert steps_with(histograms_too, "moments") == list(range(20))
    moments_too = history_of([1] * 40, max_bytes=1000)
    assert steps_with(moments_too, "histogram") == [39]
    assert 2 < len(steps_with(moments_too, "moments")) < 40
    assert moments_too.steps == steps_with(moments_too, "moments")


def test_where_histograms_were_thinned_the_table_says_nan_and_not_zero():
    history = history_of([100] * 20, max_bytes=800 + 3000)
    table = history.stats(ANY)
    kept = steps_with(history, "histogram")
    assert table.step.values.tolist() == list(range(20))
    totals = table["histogram"].sum("bin", skipna=False)
    assert (totals.sel(step=kept) == 100).all()
    assert np.isnan(table["histogram"].drop_sel(step=kept)).all()


def test_one_event_tells_of_thinning_and_is_kept_up_to_date():
    history = history_of([1000] * 30, max_bytes=100_000)
    [event] = history.events
    assert event.kind == "thinned"
    left = len(steps_with(history, "value"))
    assert event.counts == {"value": 30 - left}
    assert event.message == (
        "the budget of 100,000 bytes is used up: older steps are thinned, log-spaced in age; "
        f"values are left at {left} steps, histograms at 30, other statistics at 30"
    )


def test_a_snapshot_that_exceeds_the_budget_alone_keeps_its_statistics_and_spares_the_others():
    history = history_of([100, 100, 100_000, 100, 200_000], max_bytes=10_000)
    assert steps_with(history, "value") == [0, 1, 3]
    assert steps_with(history, "histogram") == [0, 1, 2, 3, 4]
    assert int(history.stats(ANY)["count"].sel(step=2)) == 100_000
    [event] = history.events
    assert (event.kind, event.step, event.counts) == ("over-budget", 2, {"snapshots": 2})
    assert event.message == (
        "what was captured at step 4 alone exceeds the budget of 10,000 bytes: its values were not kept, "
        "its other statistics were; raise max_bytes or capture fewer layers"
    )


def test_even_the_smallest_budget_keeps_the_moments_of_the_newest_step():
    history = history_of([10] * 5, max_bytes=1)
    assert history.steps == [0, 4]
    assert steps_with(history, "moments") == [4]
    assert steps_with(history, "histogram") == []
    assert {event.kind for event in history.events} == {"thinned", "over-budget"}


@given(st.integers(0, 99), st.integers(0, 9999), st.integers(0, 9999), st.integers(1, 20_000))
def test_a_single_snapshot_gives_up_no_more_than_it_must(moments, histogram, value, max_bytes):
    sizes = {"moments": moments, "histogram": histogram, "value": value}
    dropped = too_large(sizes, max_bytes)
    left = sum(size for field, size in sizes.items() if field not in dropped)
    assert left <= max_bytes or set(dropped) >= {field for field in ("value", "histogram") if sizes[field]}
    if dropped:
        assert left + sizes[dropped[-1]] > max_bytes


def test_thinned_snapshots_of_several_tensors_stay_whole():
    history = SQLiteHistory.create(None, max_bytes=250_000)
    history.declare(INFOS)
    for step in range(0, 300, 3):
        history.append(snapshot(step))
    assert len(history.steps) == 100
    kept = steps_with(history, "value", KERNEL)
    assert 2 < len(kept) < 100
    assert kept == steps_with(history, "value", OUTPUT) == steps_with(history, "value", LOSS)
    for step in kept:
        assert_whole(history, step)


def test_a_run_continued_with_a_smaller_budget_is_thinned_with_the_next_snapshot(tmp_path):
    path = tmp_path / "run.sqlite"
    large = SQLiteHistory.create(path)
    large.declare([TensorInfo(ANY, ("unit",), (None,))])
    for step in range(20):
        large.append(sized(step, 100))
    large.close()
    small = SQLiteHistory.create(path, max_bytes=8000)
    assert stored_bytes(small) > 8000
    small.append(sized(20, 100))
    assert stored_bytes(small) <= 8000
    assert small.steps[0] == 0
    assert small.steps[-1] == 20
    small.close()


def test_freed_space_is_used_again_so_that_the_file_stays_small(tmp_path):
    budget = 2_000_000
    history = SQLiteHistory.create(tmp_path / "run.sqlite", max_bytes=budget)
    history.declare([TensorInfo(ANY, ("unit",), (None,))])
    for step in range(400):
        history.append(sized(step, 12_500))
    history.close()
    assert stored_bytes(history) > 0.8 * budget
    assert history.path.stat().st_size < 2 * budget
    db = sqlite3.connect(history.path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


@pytest.mark.parametrize("wrong", [True, 1.5, "1 GB"])
def test_a_budget_that_is_no_whole_number_is_refused(wrong):
    with pytest.raises(ArgumentTypeError, match="max_bytes must be a whole number of bytes or None; got"):
        SQLiteHistory.create(None, max_bytes=wrong)


@pytest.mark.parametrize("wrong", [0, -5])
def test_a_budget_below_one_byte_is_refused(wrong, tmp_path):
    with pytest.raises(ArgumentError, match=f"max_bytes must be at least 1 byte; got {wrong}"):
        SQLiteHistory.create(tmp_path / "run.sqlite", max_bytes=wrong)
    assert list(tmp_path.iterdir()) == []
