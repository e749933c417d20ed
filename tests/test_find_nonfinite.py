"""`find_nonfinite`: planted faults are found where they were planted, and healthy networks raise no alarm."""

from __future__ import annotations

import keras
import pytest
from planted import CASES, HEALTHY
from unchanged import nothing_changes

from see_rnn_like.extract.nonfinite import find_nonfinite


def named(case):
    return case.name


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_planted_fault_is_found_where_it_was_planted(case):
    model, x, y, weight = case.make()
    with nothing_changes(model, x, y, weight):
        found = find_nonfinite(model, x, y, weight)
    assert found is not None
    assert found.where == case.where, found.message
    assert found.rule == ("input-not-finite" if case.where.phase == "data" else "not-finite")


@pytest.mark.parametrize("case", HEALTHY, ids=named)
def test_a_healthy_network_raises_no_alarm(case):
    model, x, y, weight = case.make()
    with nothing_changes(model, x, y, weight):
        found = find_nonfinite(model, x, y, weight)
    assert found is None, found.message
    assert keras.config.floatx() == "float32"


def test_the_corpus_is_as_large_as_promised():
    assert len({case.name for case in CASES}) == len(CASES) >= 40
    assert len(HEALTHY) >= 15
