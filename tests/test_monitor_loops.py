"""Ways of feeding and stepping `fit`: trained as without the monitor, tagged and recorded exactly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import data, different, state
from taped import checked, fitted, momentum, on_arrays, on_batches, sliced, small

from see_rnn_like import RNNMonitor, at
from see_rnn_like.engine.train_step import InstrumentedStep

X, Y = data()
BATCHES = sliced(X, Y)
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, (40, 1))
WEIGHTS = RNG.random(40).astype("float32")


# 5 batches an epoch: with 4 or 7 steps per execution the last execution of each is partial.
@pytest.mark.parametrize(
    "how",
    [{"jit_compile": False}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=["graph", "xla", "eager"],
)
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_steps_per_execution(steps, how):
    run, _ = checked(lambda: on_arrays(small(steps_per_execution=steps, **how), X, Y, epochs=3), every=3)
    assert run.steps == [0, 3, 6, 9, 12]


def unknown(batches):
    """A tf.data.Dataset that cannot tell how many batches it has."""
    spec = (tf.TensorSpec((None, 6, 3)), tf.TensorSpec((None, 1)))
    return tf.data.Dataset.from_generator(lambda: ((x, y) for x, y, _ in batches), output_signature=spec)


# Of 5 batches the last execution is partial; of 8, and one by one, there is a last one of no batch at all.
@pytest.mark.parametrize(("steps", "batches"), [(4, 5), (4, 8), (1, 8)])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_data_of_unknown_length(steps, batches):
    fed = sliced(*data(batches * 8))

    def make():
        model = small(optimizer=keras.optimizers.Adam(0.01), steps_per_execution=steps, jit_compile=False)
        rest = [None] if steps == 1 else []
        return on_batches(model, unknown(fed), [*fed, *rest, *fed], epochs=2)

    checked(make, every=4, rtol=1e-3)


def test_a_step_that_the_data_do_not_reach_is_not_compiled_for(monkeypatch):
    """The last execution of 4 has one batch; its fourth step would be due."""
    traced = []
    trace = InstrumentedStep.trace
    monkeypatch.setattr(InstrumentedStep, "trace", lambda *args: (traced.append(args), trace(*args)))
    ends, runs = [], []
    for schedule in (None, at([7]), at([3, 7])):
        monitor = RNNMonitor(every=schedule or at([99]), strict=True)
        model, _ = fitted(
            lambda: on_arrays(small(steps_per_execution=4), X, Y, epochs=1), *([monitor] if schedule else [])
        )
        ends.append(state(model))
        runs.append((monitor.run.steps, len(traced)))
    assert runs == [([], 0), ([], 0), ([3], 1)]
    assert different(ends[0], ends[1]) == different(ends[0], ends[2]) == []


class Batches(keras.utils.PyDataset):
    """Batches with weights, in their order."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return sliced(X, Y, WEIGHTS)[index]


def forever():
    while True:
        yield from (batch[:2] for batch in BATCHES)


def of_many_lengths():
    """Batches of other numbers of timesteps."""
    lengths = (6, 4, 5, 3, 6, 2)
    return [(X[:8, :timesteps], Y[:8], None) for timesteps in lengths]


FEEDS = {
    "tf.data": lambda: on_batches(
        small(steps_per_execution=2),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(8),
        BATCHES * 2,
        epochs=2,
    ),
    "tf.data of triples, full batches only": lambda: on_batches(
        small(),
        tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(16, drop_remainder=True),
        sliced(X, Y, WEIGHTS, 16)[:2] * 2,
        epochs=2,
    ),
    "a generator that ends": lambda: on_batches(
        small(steps_per_execution=3), (batch[:2] for batch in BATCHES), BATCHES
    ),
    # Keras takes whole executions: 8 steps where 5 were asked for.
    "an endless generator": lambda: on_batches(
        small(steps_per_execution=4), forever(), (BATCHES * 4)[:16], steps_per_epoch=5, epochs=2
    ),
    "a PyDataset": lambda: on_batches(small(), Batches(), sliced(X, Y, WEIGHTS) * 2, epochs=2),
    "a PyDataset of two workers": lambda: on_batches(
        small(steps_per_execution=3), Batches(workers=2), sliced(X, Y, WEIGHTS) * 2, epochs=2
    ),
    "batches of many lengths": lambda: on_batches(
        small(inputs=(None, 3)), (batch[:2] for batch in of_many_lengths()), of_many_lengths()
    ),
    "a smaller last batch": lambda: on_arrays(small(), X, Y, batch_size=16),
    "weights of samples": lambda: on_arrays(small(weighted_metrics=["mae"]), X, Y, WEIGHTS),
    "validation in between": lambda: on_arrays(
        small(steps_per_execution=3), X, Y, validation_data=(X, Y), validation_freq=2, epochs=3
    ),
    "a part held out": lambda: on_held_out(),
    "weights of classes": lambda: on_classes(),
    "dicts": lambda: on_dicts(),
}


def on_held_out():
    training = on_arrays(small(), X, Y, validation_split=0.5)
    training.batches = [sliced(X[:20], Y[:20]) * 2]
    return training


def on_classes():
    parts = [layers.GRU(4, name="rnn"), layers.Dense(3, activation="softmax", name="head")]
    model = keras.Sequential([keras.Input((6, 3)), *parts])
    model.compile(momentum(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    weights = {0: 1.0, 1: 3.0, 2: 0.5}
    by_sample = np.array([weights[label] for label in LABELS[:, 0]], "float32")
    return on_arrays(model, X, LABELS, class_weight=weights, weighed_as=by_sample)


def on_dicts():
    one, other = keras.Input((6, 3), name="one"), keras.Input((6, 3), name="other")
    merged = layers.Concatenate(name="merged")(
        [layers.GRU(3, name="gru")(one), layers.LSTM(3, name="lstm")(other)]
    )
    outputs = {
        "number": layers.Dense(1, name="number")(merged),
        "label": layers.Dense(3, activation="softmax", name="label")(merged),
    }
    model = keras.Model({"one": one, "other": other}, outputs)
    losses = {"number": "mse", "label": "sparse_categorical_crossentropy"}
    model.compile(momentum(), losses, loss_weights={"number": 0.7, "label": 2.0}, steps_per_execution=2)
    x, y = {"one": X, "other": X[::-1].copy()}, {"number": Y, "label": LABELS}
    return on_arrays(model, x, y, {"number": WEIGHTS, "label": 1 - WEIGHTS})


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_what_is_fed(feed):
    checked(FEEDS[feed])


def test_jit_compile_left_to_keras():
    model = small(jit_compile="auto")
    assert model.jit_compile in (True, False)
    checked(lambda: on_arrays(small(jit_compile="auto"), X, Y))
