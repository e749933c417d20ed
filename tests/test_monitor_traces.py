"""P3: what is not due runs Keras's own function, and tracing happens once, on a step that is due."""

from __future__ import annotations

import keras
import pytest
from networks import data
from taped import small

from see_rnn_like import RNNMonitor, at

X, Y = data()


class Counted(keras.Sequential):
    """Notes the batch at which its train step is traced."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.now, self.traced = [], []

    def train_step(self, data):
        self.traced.append(self.now[-1])
        return super().train_step(data)


class Clock(keras.callbacks.Callback):
    """Tells the model which batch begins, and notes whose function trains on it."""

    def __init__(self):
        super().__init__()
        self.keras = []

    def on_train_begin(self, logs=None):
        self.native = self.model.train_function

    def on_train_batch_begin(self, batch, logs=None):
        self.model.now.append(batch)
        self.keras.append(self.model.train_function is self.native)

    def on_train_batch_end(self, batch, logs=None):
        assert self.model.train_function is self.native


def traced(every, *, steps=1, fits=({},), batch_size=8, **compiling):
    """Per fit: the batches at which the train step was traced; whether Keras's function ran, by execution."""
    keras.utils.set_random_seed(1)
    model = small(Counted, steps_per_execution=steps, **compiling)
    monitors = [RNNMonitor(every=every, strict=True)] if every else []
    found, native = [], []
    for fit in fits:
        model.now.clear(), model.traced.clear()
        clock = Clock()
        fit = {"batch_size": batch_size, "epochs": 2, **fit}
        model.fit(X, Y, verbose=0, shuffle=False, callbacks=[*monitors, clock], **fit)
        found.append(list(model.traced))
        native.append(clock.keras)
    return found, native


# The first trace of all makes the optimizer's variables and is made twice, with and without the monitor.
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_a_step_is_traced_once_by_keras_and_once_by_the_monitor_at_its_first_due_step(jit):
    assert traced(None, jit_compile=jit)[0] == [[0, 0]]
    found, native = traced(at([3, 6, 7]), jit_compile=jit)
    assert found == [[0, 0, 3]]
    assert native == [[True, True, True, False, True, True, False, False, True, True]]


def test_a_smaller_last_batch_is_not_traced_anew():
    found, native = traced(1, batch_size=16)
    assert found == [[0, 0]]
    assert not any(native[0])


def test_a_second_fit_goes_on_with_what_is_compiled():
    fits = ({}, {}, {"batch_size": 16}, {})
    bare, _ = traced(None, fits=fits)
    found, _ = traced(at([2, 12, 22, 26]), fits=fits)
    assert bare == [[0, 0], [], [0], []]
    assert found == [[0, 0, 2], [], [0, 2], []]


def test_within_an_execution_the_steps_that_are_not_due_are_compiled_once_too():
    found, native = traced(at([8]), steps=4)
    assert found == [[0, 0, 0, 0]]
    assert native == [[True, True, False, True]]
