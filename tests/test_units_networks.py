"""Units of real networks: healthy ones, ones with a dead unit, exploding ones, ones that fail in training."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from see_rnn_like import RNNMonitor, errors, tasks, trace
from see_rnn_like.extract.units import dead_and_exploding, unit_correlation


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("state", ["h", "c"])
def test_correlation_of_a_bidirectional_lstm_is_that_of_numpy(state):
    model = keras.Sequential([keras.Input((9, 4)), layers.Bidirectional(layers.LSTM(6), name="bi")])
    traced = trace(model, 0, noise(20, 9, 4))
    found = unit_correlation(traced, state)
    assert found.dims == ("direction", "unit", "other")
    assert {name: found.attrs[name] for name in ("layer", "cell", "state")} == {
        "layer": "bi",
        "cell": "LSTM",
        "state": state,
    }
    for i, direction in enumerate(["forward", "backward"]):
        flat = traced[state].sel(direction=direction).values.reshape(-1, 6).astype("float64")
        expected = np.corrcoef(flat, rowvar=False)
        eigenvalues = np.linalg.eigvalsh(np.cov(flat, rowvar=False))
        np.testing.assert_allclose(found.sel(direction=direction), expected, atol=1e-12)
        assert found.attrs["effective_dimension"][i] == pytest.approx(
            eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()
        )
        largest = max(abs(expected[a, b]) for a, b in itertools.combinations(range(6), 2))
        assert found.attrs["largest_correlation"][i] == pytest.approx(largest)


MAKERS = {
    "lstm": lambda: layers.LSTM(16, name="rnn"),
    "gru": lambda: layers.GRU(16, name="rnn"),
    "simplernn": lambda: layers.SimpleRNN(16, name="rnn"),
    "relu": lambda: layers.SimpleRNN(16, activation="relu", name="rnn"),
    "both": lambda: layers.Bidirectional(layers.LSTM(8), name="rnn"),
}


# A ReLU unit can be dead from the start, where inputs are never negative, as here.
@pytest.mark.parametrize("kind", sorted(set(MAKERS) - {"relu"}))
def test_healthy_networks_have_neither_before_and_after_training(kind):
    keras.utils.set_random_seed(0)
    task = tasks.adding(n=512, timesteps=20)
    model = keras.Sequential([keras.Input((20, 2)), MAKERS[kind](), layers.Dense(1)])
    model.compile("adam", "mse")
    for epochs in (0, 4):
        model.fit(task.x, task.y, epochs=epochs, verbose=0)
        found = dead_and_exploding(trace(model, "rnn", task.x[:64]))
        assert not found["dead"].any()
        assert not found["exploding"].any()
        assert found.attrs == {
            "layer": "rnn",
            "cell": {"gru": "GRU", "simplernn": "SimpleRNN"}.get(kind, "LSTM"),
            "share_dead": 0.0,
            "share_exploding": 0.0,
        }


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["lstm", "gru", "simplernn", "relu"])
def test_small_and_large_inputs_are_no_illness(kind, scale):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((40, 5)), MAKERS[kind]()])
    found = dead_and_exploding(trace(model, 0, (scale * noise(16, 40, 5))))
    assert not found["dead"].any()
    assert not found["exploding"].any()


@pytest.mark.parametrize("kind", ["lstm", "gru", "simplernn"])
def test_a_unit_without_weights_is_dead(kind):
    model = keras.Sequential([keras.Input((30, 4)), MAKERS[kind]()])
    cell = model.layers[0].cell
    gates = {"lstm": 4, "gru": 3, "simplernn": 1}[kind]
    for name in ("kernel", "recurrent_kernel", "bias"):
        values = getattr(cell, name).numpy()
        values.reshape(*values.shape[:-1], gates, 16)[..., 5] = 0
        getattr(cell, name).assign(values)
    traced = trace(model, 0, noise(8, 30, 4))
    found = dead_and_exploding(traced)
    assert np.flatnonzero(found["dead"].sel(state="h")).tolist() == [5]
    assert not found["exploding"].any()
    assert found.attrs["share_dead"] == 1 / 16


def test_an_exploding_relu_network_explodes():
    initial = keras.initializers.Constant(np.eye(16) * 1.3)
    rnn = layers.SimpleRNN(16, activation="relu", recurrent_initializer=initial, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((60, 3)), rnn])
    found = dead_and_exploding(trace(model, 0, np.abs(noise(8, 60, 3))))
    assert found["exploding"].all()
    assert not found["dead"].any()
    assert found.attrs["share_exploding"] == 1.0


@pytest.mark.parametrize("return_sequences", [False, True])
def test_outputs_that_the_monitor_recorded(return_sequences):
    keras.utils.set_random_seed(0)
    rnn = layers.GRU(6, return_sequences=return_sequences, name="gru")
    model = keras.Sequential([keras.Input((12, 3)), rnn, layers.Dense(1)])
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=2, level="full")
    x, y = noise(96, 12, 3), noise(96, 12, 1)
    y = y if return_sequences else y[:, 0]
    model.fit(x, y, batch_size=32, epochs=1, verbose=0, callbacks=[monitor])
    found = dead_and_exploding(monitor.run)
    assert list(found) == ["gru/forward"]
    assert found["gru/forward"]["state"].values.tolist() == ["output"]
    recorded = monitor.run["gru/forward/output:value"]
    assert recorded["step"].values.tolist() == found["gru/forward"]["step"].values.tolist() == [0, 2]
    expected = recorded.values.reshape(2, -1, 6).std(axis=1)
    np.testing.assert_allclose(found["gru/forward"]["spread"].sel(state="output"), expected, rtol=1e-5)
    assert not found["gru/forward"]["dead"].any()


def test_a_network_that_fails_in_training_is_seen():
    model = keras.Sequential([keras.Input((10, 2)), layers.SimpleRNN(3, name="rnn"), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e30), "mse")
    monitor = RNNMonitor(every=1, level="full")
    x, y = noise(64, 10, 2), noise(64, 1)
    with pytest.warns(errors.NonFiniteWarning):
        model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=[monitor])
    found = dead_and_exploding(monitor.run)["rnn/forward"]
    assert not found["exploding"].isel(step=0).any()
    assert found["exploding"].isel(step=-1).all()
    assert found.attrs["share_exploding"] == 1.0


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "units.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(block, names)  # a page of this repository
    assert names["found"].sizes["rank"] == 5
    assert names["found"].attrs["measure"] == "AUC"
    assert (tmp_path / "units.html").read_text() == names["picture"].html
    assert names["alike"].sizes == {"unit": 32, "other": 32}
    assert names["spectrum"]["eigenvalues"].sizes == {"gate": 4, "index": 32}
