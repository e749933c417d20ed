"""Models of some kinds, and other callbacks beside the monitor: recorded without complaint."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from networks import data, different, state

from see_rnn_like import RNNMonitor

X, Y = data()


def sequential(*parts, inputs=(6, 3), **compiling):
    model = keras.Sequential([keras.Input(inputs), *parts])
    model.compile(**{"optimizer": "adam", "loss": "mse", **compiling})
    return model


def shared_layer():
    inputs = keras.Input((6, 3))
    rnn = layers.LSTM(4, name="rnn")
    merged = layers.Add()([rnn(inputs), rnn(layers.Dense(3)(inputs))])
    model = keras.Model(inputs, layers.Dense(1)(merged))
    model.compile("adam", "mse")
    return model, {"x": X, "y": Y}


def stacked_cells():
    parts = [layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)]), layers.Dense(1)]
    return sequential(*parts), {"x": X, "y": Y}


def float64():
    parts = [layers.LSTM(4, dtype="float64"), layers.Dense(1, dtype="float64")]
    return sequential(*parts), {"x": X, "y": Y}


def trained(make, callbacks):
    keras.utils.set_random_seed(1)
    model, fit = make()
    history = model.fit(**fit, batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
    return model, history.history


def test_float64_is_recorded_and_untouched():
    plain, plain_history = trained(float64, [])
    monitor = RNNMonitor(every=2, level="full")
    watched, watched_history = trained(float64, [monitor])
    assert different(state(plain), state(watched)) == []
    assert watched_history == plain_history
    assert [event.message for event in monitor.run.events if event.kind == "capture-off"] == []
    assert monitor.run.steps == [0, 2, 4]
    assert {key.kind for key in list(monitor.run.keys())} == {"weight", "value", "gradient", "update"}
    for key in map(str, monitor.run.keys()):
        found = monitor.run.stats(key)
        assert int(found["nan"].sum()) == int(found["inf"].sum()) == 0
        assert monitor.run[key].dims[0] == "step"
        if "loss" not in key:
            assert monitor.run[key].dtype == np.float64


def test_each_use_of_a_shared_layer_is_kept_apart():
    monitor = RNNMonitor(every=2, level="full")
    trained(shared_layer, [monitor])
    one, other = monitor.run["rnn/forward/output:value"], monitor.run["rnn/forward/output@1:value"]
    assert one.shape == other.shape
    assert not np.allclose(one, other)


def test_stacked_cells_have_names_of_their_own():
    monitor = RNNMonitor(every=2)
    trained(stacked_cells, [monitor])
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
