"""Schedules are due when their names say, and refuse what cannot be meant."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from see_rnn_like.errors import ArgumentError, ArgumentTypeError, SeeRNNError
from see_rnn_like.schedule import Schedule, as_schedule, at, every, first, log_spaced


def due(schedule, stop):
    return [step for step in range(stop) if schedule(step)]


@given(st.integers(1, 50), st.integers(0, 60), st.integers(1, 100) | st.none())
def test_every_is_pythons_range(n, start, length):
    stop = None if length is None else start + length
    schedule = every(n, start, stop)
    assert due(schedule, 200) == list(range(start, min(stop or 200, 200), n))


@given(st.sets(st.integers(0, 99), min_size=1))
def test_at_is_due_at_exactly_its_steps(steps):
    assert due(at(steps), 100) == sorted(steps)


def test_at_takes_steps_in_any_form_once():
    assert due(at(np.array([5, 1, 5])), 10) == [1, 5]
    assert due(at(iter([2])), 10) == [2]


@given(st.integers(1, 100))
def test_first_is_due_at_the_first_steps(n):
    assert due(first(n), 200) == list(range(n))


@pytest.mark.parametrize("per_decade", [1, 2, 3, 5, 7, 10, 100])
def test_log_spaced_is_due_at_the_rounded_powers_and_nowhere_else(per_decade):
    grid = {0} | {round(10 ** (k / per_decade)) for k in range(5 * per_decade + 1)}
    assert due(log_spaced(per_decade), 10_001) == sorted(step for step in grid if step <= 10_000)


@given(st.integers(1, 50), st.integers(0, 14))
def test_log_spaced_is_due_at_every_power_of_ten_however_large(per_decade, power):
    assert log_spaced(per_decade)(10**power)


def test_log_spaced_gets_ever_rarer():
    steps = due(log_spaced(10), 100_000)
    ratios = [b / a for a, b in itertools.pairwise(steps[20:])]
    assert max(ratios) < 1.35
    assert math.isclose(np.prod(ratios) ** (1 / len(ratios)), 10**0.1, rel_tol=0.01)


@given(st.integers(1, 9), st.integers(1, 9), st.sets(st.integers(0, 99), min_size=1))
def test_two_schedules_together_are_due_when_either_is(n, m, steps):
    both = every(n, start=m) | at(steps) | first(m)
    assert set(due(both, 100)) == set(due(every(n, start=m), 100)) | steps | set(range(m))


def test_no_schedule_is_due_before_training():
    for schedule in (every(1), every(3), first(5), log_spaced(10), at([0])):
        assert not schedule(-1)


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (every(50), "every(50)"),
        (every(5, start=2), "every(5, start=2)"),
        (every(5, start=2, stop=9), "every(5, start=2, stop=9)"),
        (every(5, stop=9), "every(5, stop=9)"),
        (at({3, 1}), "at([1, 3])"),
        (first(20), "first(20)"),
        (log_spaced(), "log_spaced(10)"),
        (first(2) | every(100) | at([7]), "first(2) | every(100) | at([7])"),
    ],
)
def test_a_schedule_prints_as_the_call_that_makes_it(schedule, name):
    assert repr(schedule) == str(schedule) == name


def test_a_number_is_taken_as_every_and_a_schedule_as_it_is():
    assert repr(as_schedule(7)) == "every(7)"
    assert repr(as_schedule(np.int64(7))) == "every(7)"
    schedule = Schedule("odd", lambda step: step % 2)
    assert as_schedule(schedule) is schedule
    assert schedule(3) is True
    assert schedule(4) is False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: every(0), "n must be a whole number ≥ 1; got 0"),
        (lambda: every(-3), "n must be a whole number ≥ 1; got -3"),
        (lambda: every(3, start=-1), "start must be a whole number ≥ 0; got -1"),
        (lambda: every(3, start=5, stop=5), "stop must be a whole number ≥ 6; got 5"),
        (lambda: at([]), "at() needs at least one step; got none"),
        (lambda: at([3, -1]), "step must be a whole number ≥ 0; got -1"),
        (lambda: first(0), "n must be a whole number ≥ 1; got 0"),
        (lambda: log_spaced(0), "per_decade must be a whole number ≥ 1; got 0"),
        (
            lambda: as_schedule(0),
            "every must be a whole number ≥ 1 or a schedule such as log_spaced(10) | first(20); got 0",
        ),
    ],
)
def test_impossible_numbers_are_refused(make, message):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "given_value"),
    [
        (lambda: every(True), "True"),
        (lambda: every(2.0), "2.0"),
        (lambda: every(3, start=None), "None"),
        (lambda: at([1.5]), "1.5"),
        (lambda: first("3"), "'3'"),
        (lambda: log_spaced(None), "None"),
        (lambda: as_schedule("every step"), "'every step'"),
    ],
)
def test_what_is_no_whole_number_is_refused(make, given_value):
    with pytest.raises(ArgumentTypeError) as caught:
        make()
    assert isinstance(caught.value, SeeRNNError)
    assert str(caught.value).endswith(f"got {given_value}")


def test_a_schedule_combines_only_with_a_schedule():
    with pytest.raises(TypeError, match="unsupported operand"):
        every(3) | 5
