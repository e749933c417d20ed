"""NaN and Inf: where they were first seen, told once, and what `on_nan` does about them."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from keras import layers
from networks import RNNS, data, network

from see_rnn_like import RNNMonitor, errors
from see_rnn_like.cells import cell_spec

BAD = {"nan": math.nan, "inf": math.inf}


class Plant(keras.callbacks.Callback):
    """Writes one bad value into a cell's weight before a step."""

    def __init__(self, cell_of, role, gate, value, step):
        super().__init__()
        self.cell_of, self.role, self.gate, self.value, self.step = cell_of, role, gate, value, step
        self.count = 0

    def on_train_batch_begin(self, batch, logs=None):
        if self.count == self.step:
            cell = self.cell_of(self.model)
            spec = cell_spec(cell)
            weight = getattr(cell, self.role)
            labelled = spec.split(self.role, weight.numpy().copy())
            labelled.loc[{"gate": self.gate}][(0,) * (labelled.ndim - 1)] = self.value
            weight.assign(spec.join(labelled))
        self.count += 1


def fit_with(planted, on_nan="warn", every=1, kind="lstm", bidirectional=False):
    model = network(kind, bidirectional=bidirectional)
    monitor = RNNMonitor(every=every, on_nan=on_nan)
    history = model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[planted, monitor])
    return monitor.run, history


def directions(bidirectional):
    return ("forward", "backward") if bidirectional else ("forward",)


def second_cell(direction, bidirectional):
    def find(model):
        layer = model.layers[1]
        return getattr(layer, f"{direction}_layer").cell if bidirectional else layer.cell

    return find


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("role", ["kernel", "recurrent_kernel", "bias"])
@pytest.mark.parametrize("kind", RNNS)
def test_a_bad_weight_is_named_with_layer_direction_gate_and_step(kind, role, value):
    spec = cell_spec(RNNS[kind](2).cell)
    gate = spec.gates[-1]
    with pytest.warns(errors.NonFiniteWarning, match=f"at step 3: .*{role} weight, {gate} gate"):
        run, _ = fit_with(Plant(second_cell("forward", False), role, gate, BAD[value], 3), kind=kind)
    first = run.events[0]
    assert (first.step, first.kind, first.gate) == (3, value, gate)
    assert (first.key.direction, first.key.role, first.key.kind) == ("forward", role, "weight")
    assert first.key.layer == run.meta["model"]["layers"][1]["path"]
    assert first.counts[value] == 1


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("gate", ["input", "forget", "cell", "output"])
def test_each_gate_and_direction_of_a_bidirectional(direction, gate):
    planted = Plant(second_cell(direction, True), "recurrent_kernel", gate, math.nan, 2)
    with pytest.warns(
        errors.NonFiniteWarning, match=f"both, {direction}, recurrent_kernel weight, {gate} gate"
    ):
        run, _ = fit_with(planted, bidirectional=True)
    first = run.events[0]
    assert str(first.key) == f"both/{direction}/recurrent_kernel:weight"
    assert (first.step, first.gate, first.counts["nan"]) == (2, gate, 1)


def test_events_are_told_once_and_in_execution_order():
    with pytest.warns(errors.NonFiniteWarning) as warned:
        run, _ = fit_with(Plant(second_cell("forward", False), "kernel", "new", math.nan, 2), kind="gru")
    assert len([w for w in warned if w.category is errors.NonFiniteWarning]) == 1
    names = [(e.key, e.gate, e.kind) for e in run.events]
    assert len(names) == len(set(names))
    order = {key: place for place, key in enumerate(run.keys())}
    at_two = [order[e.key] for e in run.events if e.step == 2]
    assert at_two == sorted(at_two)
    # Weights of the first layer were still good at step 2, their gradients were not.
    kinds = {e.key.kind for e in run.events if e.step == 2 and e.key.layer == "first"}
    assert kinds == {"gradient", "update"}


def test_a_nan_between_due_steps_is_seen_at_the_next_one():
    with pytest.warns(errors.NonFiniteWarning, match="at step 4"):
        run, _ = fit_with(Plant(second_cell("forward", False), "bias", "forget", math.nan, 3), every=4)
    assert run.events[0].step == 4


def test_stop_ends_the_training_after_the_step():
    with pytest.warns(errors.NonFiniteWarning):
        run, history = fit_with(Plant(second_cell("forward", False), "bias", "cell", math.nan, 3), "stop")
    assert run.steps == [0, 1, 2, 3]
    assert len(history.history["loss"]) == 1


def test_raise_raises_and_the_step_is_kept():
    model = network("lstm")
    monitor = RNNMonitor(every=1, on_nan="raise")
    planted = Plant(second_cell("forward", False), "bias", "cell", math.inf, 3)
    with pytest.raises(
        errors.NonFiniteError, match=r"Inf at step 3: .*bias weight, cell gate: 0 NaN and 1 Inf among 5"
    ):
        model.fit(*data(), batch_size=8, verbose=0, callbacks=[planted, monitor])
    assert monitor.run.steps == [0, 1, 2, 3]
    assert "see_rnn_like" not in type(model.train_function).__module__
    model.predict(data()[0], verbose=0)


def test_bad_data_shows_in_the_first_output():
    x, y = data()
    x[17, 2, 1] = np.nan
    model = network("lstm")
    monitor = RNNMonitor(every=1)
    with pytest.warns(errors.NonFiniteWarning, match="at step 2: first, forward, output"):
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False, callbacks=[monitor])


def test_a_healthy_run_has_no_events():
    model = network("gru", bidirectional=True, batchnorm=True, dropout=0.2)
    monitor = RNNMonitor(every=1)
    model.fit(*data(), batch_size=16, epochs=2, verbose=0, callbacks=[monitor])
    assert monitor.run.events == []


def test_a_relu_recurrence_that_explodes_is_noticed_as_inf_or_nan():
    keras.utils.set_random_seed(1)
    rnn = layers.SimpleRNN(4, activation="relu", recurrent_initializer=keras.initializers.Orthogonal(1e20))
    model = keras.Sequential([keras.Input((6, 3)), rnn, layers.Dense(1)])
    model.compile("sgd", "mse")
    monitor = RNNMonitor(every=1)
    with pytest.warns(errors.NonFiniteWarning, match="at step 0"):
        model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert monitor.run.events[0].key.role in ("output", "recurrent_kernel")


@pytest.mark.parametrize("on_nan", ["stop", "raise"])
def test_every_fit_is_stopped_not_only_the_first_of_a_run(on_nan):
    x, y = data()
    model = network("lstm")
    monitor = RNNMonitor(every=1, on_nan=on_nan)
    x[:] = np.nan
    for fits in (1, 2, 3):
        if on_nan == "raise":
            with pytest.raises(errors.NonFiniteError):
                model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
        else:
            with pytest.warns(errors.NonFiniteWarning):
                model.fit(x, y, batch_size=8, verbose=0, callbacks=[monitor])
        assert len(monitor.run.steps) == fits
    names = [(e.key, e.gate, e.kind) for e in monitor.run.events]
    assert len(names) == len(set(names)), "first seen is told once per run"


def test_a_planted_nan_is_not_taken_for_an_overflow_of_the_loss_scale():
    keras.utils.set_random_seed(1)
    rnn = layers.LSTM(4, name="lstm", dtype="mixed_float16")
    model = keras.Sequential([keras.Input((6, 3)), rnn, layers.Dense(1, dtype="mixed_float16")])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), "mse")
    monitor = RNNMonitor(every=1, on_nan="raise")
    planted = Plant(lambda m: m.layers[0].cell, "kernel", "forget", math.nan, 2)
    with pytest.raises(errors.NonFiniteError, match="lstm, forward, kernel weight, forget gate"):
        model.fit(*data(), batch_size=8, verbose=0, callbacks=[planted, monitor])
