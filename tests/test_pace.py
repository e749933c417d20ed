"""A budget of time is kept to, whatever recording costs; a fit with one says what it did."""

from __future__ import annotations

import time

import keras
import numpy as np
import pytest
from networks import data, network

from see_rnn_like import RNNMonitor
from see_rnn_like.callbacks.pace import Pace
from see_rnn_like.errors import ArgumentError, ArgumentTypeError


class Clock:
    """A clock that goes on when told to."""

    now = 100.0

    def __call__(self):
        return self.now


def paced(budget, step, cost, steps, first_cost=0.0, due=lambda k: True):
    """A training of known times; the pace and the steps that were recorded."""
    clock, recorded = Clock(), []
    pace = Pace(budget, clock)
    for k in range(steps):
        pace.step_begins()
        clock.now += step
        if due(k) and pace.allows():
            clock.now += cost + (0 if recorded else first_cost)
            recorded.append(k)
    pace.step_ends()
    return pace, recorded


@pytest.mark.parametrize("budget", [0.005, 0.02, 0.3])
@pytest.mark.parametrize("cost", [0.001, 0.01, 0.2])
@pytest.mark.parametrize("first_cost", [0.0, 5.0])
def test_what_is_spent_stays_within_the_budget(budget, cost, first_cost):
    pace, recorded = paced(budget, 0.01, cost, 20_000, first_cost)
    spent = cost * len(recorded) + first_cost
    elapsed = 0.01 * 20_000 + spent
    assert pace.spent == pytest.approx(spent)
    assert pace.elapsed == pytest.approx(elapsed)
    # One step more is begun while there is anything left.
    assert spent <= budget * elapsed + cost + first_cost
    assert pace.report()["share"] == pytest.approx(spent / elapsed)
    if first_cost == 0:
        most = min(20_000 - 3, budget * elapsed / cost)
        assert len(recorded) >= 0.95 * most - 1


def test_the_first_due_step_is_recorded_and_a_second_one_waits_for_the_price():
    _, recorded = paced(0.9, 0.01, 0.0001, 10)
    assert recorded[:2] == [0, 4]


def test_a_schedule_that_costs_less_is_left_as_it_is():
    pace, recorded = paced(0.02, 0.01, 0.01, 5000, due=lambda k: k % 100 == 0)
    assert recorded == list(range(0, 5000, 100))
    assert pace.report()["due"] == pace.report()["recorded"] == 50


class Slow(keras.callbacks.Callback):
    """Makes every step take a known time at least."""

    async_safe = True

    def on_train_batch_begin(self, batch, logs=None):
        time.sleep(0.002)


def test_a_fit_leaves_out_steps_and_says_so():
    monitor = RNNMonitor(every=1, budget=0.01)
    model = network("lstm")
    model.fit(*data(), batch_size=2, epochs=4, verbose=0, validation_data=data(), callbacks=[Slow(), monitor])
    (event,) = [event for event in monitor.run.events if event.kind == "stretched"]
    assert event.counts == {"due": 80, "recorded": len(monitor.run.steps)}
    assert monitor.run.steps[0] == 0
    assert len(monitor.run.steps) < 80
    (report,) = monitor.run.meta["pace"]
    assert f"budget of 1.0% of the time: recording took {report['share']:.1%}" in event.message
    model.fit(*data(), batch_size=2, verbose=0, callbacks=[monitor])
    assert len(monitor.run.meta["pace"]) == 2


def test_a_budget_in_a_loop_of_ones_own():
    model, monitor = network("lstm"), RNNMonitor(every=1, budget=0.01)
    x, y = data()
    with monitor.watching(model):
        for _ in range(30):
            model.train_on_batch(x[:4], y[:4])
    (report,) = monitor.run.meta["pace"]
    assert report["due"] == 31  # the step after the last one, too, was asked for
    assert monitor.run.steps[0] == 0
    assert len(monitor.run.steps) < 30


def test_training_with_a_budget_ends_as_without():
    models = [network("gru"), network("gru")]
    for model, callbacks in zip(models, ([], [RNNMonitor(every=1, budget=0.2)]), strict=True):
        model.fit(*data(), batch_size=4, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
    for plain, watched in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(plain, watched)


@pytest.mark.parametrize(
    ("budget", "error"), [(0, ArgumentError), (1.5, ArgumentError), ("2%", ArgumentTypeError)]
)
def test_what_is_no_share_is_refused(budget, error):
    with pytest.raises(error, match=r"budget must be a share of the time.*got"):
        RNNMonitor(budget=budget)
