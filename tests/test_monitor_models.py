"""Models, data and training options of all kinds: recorded without complaint, trained as without."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import data, different, state

from see_rnn_like import RNNMonitor

X, Y = data()
RNG = np.random.default_rng(0)


def sequential(*parts, inputs=(6, 3), **compiling):
    model = keras.Sequential([keras.Input(inputs), *parts])
    model.compile(**{"optimizer": "adam", "loss": "mse", **compiling})
    return model


def encoder_decoder():
    source, target = keras.Input((6, 3), name="source"), keras.Input((4, 2), name="target")
    _, h, c = layers.LSTM(5, return_state=True, name="encoder")(source)
    decoded = layers.LSTM(5, return_sequences=True, name="decoder")(target, initial_state=[h, c])
    model = keras.Model({"source": source, "target": target}, layers.Dense(2, name="out")(decoded))
    model.compile("adam", "mse")
    inputs = {"source": X, "target": RNG.standard_normal((40, 4, 2))}
    return model, {"x": inputs, "y": RNG.standard_normal((40, 4, 2))}


def two_heads():
    inputs = keras.Input((6, 3))
    shared = layers.GRU(4, name="shared")(inputs)
    outputs = {
        "a": layers.Dense(1, name="a")(shared),
        "b": layers.Dense(2, activation="softmax", name="b")(shared),
    }
    model = keras.Model(inputs, outputs)
    model.compile(
        "adam", {"a": "mse", "b": "sparse_categorical_crossentropy"}, loss_weights={"a": 1, "b": 0.3}
    )
    return model, {"x": X, "y": {"a": Y, "b": RNG.integers(0, 2, (40, 1))}}


def shared_layer():
    inputs = keras.Input((6, 3))
    rnn = layers.LSTM(4, name="rnn")
    merged = layers.Add()([rnn(inputs), rnn(layers.Dense(3)(inputs))])
    model = keras.Model(inputs, layers.Dense(1)(merged))
    model.compile("adam", "mse")
    return model, {"x": X, "y": Y}


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = keras.Sequential([layers.LSTM(4, return_sequences=True), layers.GRU(3)])
        self.head = layers.Dense(1)

    def call(self, inputs, training=False):
        return self.head(self.block(inputs, training=training))


def subclassed():
    model = Subclassed()
    model.compile("adam", "mse")
    return model, {"x": X, "y": Y}


class Minimal(layers.Layer):
    """A cell nobody has described."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.mix = self.add_weight(shape=(shape[-1], self.units), name="mix")

    def call(self, inputs, states):
        h = keras.ops.tanh(inputs @ self.mix + states[0])
        return h, [h]


def conv_lstm():
    images = RNG.standard_normal((40, 4, 5, 5, 1))
    parts = [layers.ConvLSTM2D(2, 3), layers.GlobalAveragePooling2D(), layers.Dense(1)]
    return sequential(*parts, inputs=(4, 5, 5, 1)), {"x": images, "y": Y}


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[index * 8 : index * 8 + 8], Y[index * 8 : index * 8 + 8]


def generator():
    while True:
        yield X[:8], Y[:8]


CASES = {
    "encoder-decoder with dict inputs": encoder_decoder,
    "two heads with a dict of losses": two_heads,
    "a layer used twice": shared_layer,
    "a subclassed model": subclassed,
    "stacked cells": lambda: (
        sequential(layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)]), layers.Dense(1)),
        {"x": X, "y": Y},
    ),
    "an unknown cell": lambda: (sequential(layers.RNN(Minimal(4)), layers.Dense(1)), {"x": X, "y": Y}),
    "ConvLSTM2D": conv_lstm,
    "TimeDistributed": lambda: (
        sequential(layers.TimeDistributed(layers.Dense(4)), layers.LSTM(3), layers.Dense(1)),
        {"x": X, "y": Y},
    ),
    "Bidirectional without merging": lambda: (
        sequential(
            layers.Conv1D(4, 2), layers.Bidirectional(layers.GRU(3), merge_mode="sum"), layers.Dense(1)
        ),
        {"x": X, "y": Y},
    ),
    "attention": lambda: (
        sequential(layers.LSTM(4, return_sequences=True), SelfAttention(), layers.LSTM(3), layers.Dense(1)),
        {"x": X, "y": Y},
    ),
    "class weights": lambda: (
        sequential(
            layers.LSTM(4), layers.Dense(2, activation="softmax"), loss="sparse_categorical_crossentropy"
        ),
        {"x": X, "y": (Y > 0).astype("int32"), "class_weight": {0: 1.0, 1: 3.0}},
    ),
    "sample weights": lambda: (
        sequential(layers.LSTM(4), layers.Dense(1), weighted_metrics=["mae"]),
        {"x": X, "y": Y, "sample_weight": RNG.random(40)},
    ),
    "a tf.data.Dataset": lambda: (
        sequential(layers.LSTM(4), layers.Dense(1)),
        {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), "shuffle": False},
    ),
    "a PyDataset": lambda: (sequential(layers.LSTM(4), layers.Dense(1)), {"x": Batches()}),
    "a generator": lambda: (
        sequential(layers.LSTM(4), layers.Dense(1)),
        {"x": generator(), "steps_per_epoch": 3, "shuffle": False},
    ),
    "gradient accumulation": lambda: (
        sequential(
            layers.LSTM(4), layers.Dense(1), optimizer=keras.optimizers.Adam(gradient_accumulation_steps=2)
        ),
        {"x": X, "y": Y},
    ),
    "moving averages of weights": lambda: (
        sequential(
            layers.LSTM(4),
            layers.Dense(1),
            optimizer=keras.optimizers.Adam(use_ema=True, ema_overwrite_frequency=2),
        ),
        {"x": X, "y": Y},
    ),
    "regularisers and constraints": lambda: (
        sequential(
            layers.LSTM(
                4, kernel_regularizer="l2", recurrent_constraint="unit_norm", activity_regularizer="l1"
            ),
            layers.Dense(1),
        ),
        {"x": X, "y": Y},
    ),
    "a frozen layer": lambda: (
        sequential(layers.LSTM(4, trainable=False, return_sequences=True), layers.GRU(3), layers.Dense(1)),
        {"x": X, "y": Y},
    ),
    "validation": lambda: (
        sequential(layers.LSTM(4, dropout=0.2), layers.Dropout(0.2), layers.Dense(1)),
        {"x": X, "y": Y, "validation_data": (X, Y)},
    ),
    "float64": lambda: (
        sequential(layers.LSTM(4, dtype="float64"), layers.Dense(1, dtype="float64")),
        {"x": X, "y": Y},
    ),
}


class SelfAttention(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 3)

    def call(self, inputs):
        return self.attention(inputs, inputs)


def trained(case, callbacks):
    keras.utils.set_random_seed(1)
    global RNG
    RNG = np.random.default_rng(0)
    model, fit = CASES[case]()
    if isinstance(fit["x"], dict | np.ndarray):
        fit["batch_size"] = 16
    history = model.fit(**fit, epochs=2, verbose=0, callbacks=callbacks)
    return model, history.history


@pytest.mark.parametrize("case", CASES)
def test_recorded_and_untouched(case):
    plain, plain_history = trained(case, [])
    monitor = RNNMonitor(every=2, level="full")
    watched, watched_history = trained(case, [monitor])
    assert different(state(plain), state(watched)) == []
    assert watched_history == plain_history
    assert [event.message for event in monitor.run.events if event.kind == "capture-off"] == []
    assert monitor.run.steps == [0, 2, 4]
    kinds = {key.kind for key in list(monitor.run.keys())}
    assert kinds == {"weight", "value", "gradient", "update"}
    for key in map(str, monitor.run.keys()):
        found = monitor.run.stats(key)
        assert int(found["nan"].sum()) == int(found["inf"].sum()) == 0
        assert monitor.run[key].dims[0] == "step"


def test_each_use_of_a_shared_layer_is_kept_apart():
    monitor = RNNMonitor(every=2, level="full")
    trained("a layer used twice", [monitor])
    one, other = monitor.run["rnn/forward/output:value"], monitor.run["rnn/forward/output@1:value"]
    assert one.shape == other.shape
    assert not np.allclose(one, other)


def test_stacked_cells_have_names_of_their_own():
    monitor = RNNMonitor(every=2)
    trained("stacked cells", [monitor])
    gates = {
        str(key): list(monitor.run.stats(key).gate.values)
        for key in list(monitor.run.keys())
        if key.role == "recurrent_kernel" and key.kind == "gradient"
    }
    assert sorted(map(len, gates.values())) == [3, 4]


# Keras's own BackupAndRestore warns of NumPy's __array__.
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_early_stopping_checkpoints_and_backups_work_beside_it(tmp_path):
    model = sequential(layers.LSTM(4), layers.Dense(1))
    monitor = RNNMonitor(every=1)
    others = [
        keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=10.0, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "best.keras"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
    ]
    model.fit(X, Y, batch_size=16, epochs=9, verbose=0, validation_data=(X, Y), callbacks=[monitor, *others])
    assert monitor.run.steps == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "best.keras").exists()
    assert [epoch["epoch"] for epoch in monitor.run.epochs] == [0, 1]
    assert "val_loss" in monitor.run.epochs[0]
