"""The pages on the extractors and on custom cells: every example on them runs, and is right."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from keras import layers
from unchanged import nothing_changes

from see_rnn_like import cells
from see_rnn_like.extract.gradients import get_gradients
from see_rnn_like.extract.outputs import get_outputs
from see_rnn_like.extract.rnn import get_rnn_weights, rnn_summary

DOCS = Path(__file__).parents[1] / "docs"


def run_page(name):
    """Runs the examples of a page one after the other in one namespace; returns it and what was printed."""
    names, printed = {}, io.StringIO()
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    with contextlib.redirect_stdout(printed):
        for block in blocks:
            exec(block, names)  # a page of this repository
    return names, printed.getvalue()


@pytest.fixture(scope="module")
def cells_page():
    before = dict(cells._REGISTRY)
    try:
        yield run_page("cells.md")
    finally:
        plt.close("all")
        cells._REGISTRY.clear()
        cells._REGISTRY.update(before)


def test_extractors_page_runs():
    names, printed = run_page("extractors.md")
    assert names["outputs"].shape == names["gradients"].shape == (32, 50, 32)
    assert list(names["every"]) == ["bi", "gru", "head"]
    assert len(names["weights"]) == 11
    assert names["kernel"].shape == (32, 24)
    assert [a.shape for a in names["several"]] == [(32, 50, 32), (8, 3)]
    assert "kernel_update -- shape=(32, 8)" in printed
    assert len(names["stats"]["gru"][0][0]) == 2


def test_recurrence_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, _ = run_page("recurrence.md")
    plt.close("all")
    assert names["traced"]["gates"].sizes == {"sample": 32, "time": 30, "gate": 4, "unit": 16}
    assert dict(names["of_output"]["c"].sizes) == {"sample": 32, "time": 30, "unit": 16}
    assert names["memory"].attrs["horizon"] > 0
    assert names["run"]["lstm/forward/h_norm:gradient"].dims == ("step", "time")
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF")


def numpy_indrnn(x, kernel, recurrent, bias):
    h, steps = np.zeros((len(x), len(bias))), []
    for t in range(x.shape[1]):
        h = np.maximum(x[:, t] @ kernel + h * recurrent + bias, 0)
        steps.append(h)
    return np.stack(steps, 1)


def test_registered_indrnn_is_right_everywhere(cells_page):
    names, printed = cells_page
    model, x = names["model"], names["x"]
    forward, backward = names["outputs"][..., :8], names["outputs"][..., 8:]
    weights = get_rnn_weights(model, "ind")
    np.testing.assert_allclose(forward, numpy_indrnn(x, *weights[:3]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        backward, numpy_indrnn(x[:, ::-1], *weights[3:])[:, ::-1], rtol=1e-4, atol=1e-5
    )
    gates = names["gates"]
    assert dict(gates.sizes) == {"direction": 2, "sample": 16, "time": 30, "gate": 1, "unit": 8}
    np.testing.assert_allclose(gates.sel(direction="forward").values[:, :, 0], forward, rtol=1e-4, atol=1e-5)
    assert "// FORWARD LAYER" in printed
    assert "recurrent_kernel -- shape=(8,)" in printed


def test_registered_indrnn_gradients_equal_finite_differences(cells_page):
    names, _ = cells_page
    cell = names["IndRNNCell"](3)
    inputs = keras.Input((6, 2))
    model = keras.Model(inputs, layers.RNN(cell, name="ind")(inputs))
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6, 2)).astype("float32"), rng.normal(size=(4, 3)).astype("float32")
    got = get_gradients(model, "ind/recurrent_kernel", x, y, mode="weights")
    kernel, recurrent, bias = (w.astype("float64") for w in model.get_weights())
    for unit in range(3):
        ends = []
        for delta in (1e-6, -1e-6):
            moved = recurrent + delta * np.eye(3)[unit]
            ends.append(((numpy_indrnn(x, kernel, moved, bias)[:, -1] - y) ** 2).mean())
        np.testing.assert_allclose(got[unit], (ends[0] - ends[1]) / 2e-6, rtol=1e-3, atol=1e-5)


def test_registered_indrnn_in_a_stack(cells_page, capsys):
    names, _ = cells_page
    model, x = names["model"], names["x"]
    assert [w.shape for w in get_rnn_weights(model, "stack")] == [
        (16, 6),
        (6,),
        (6,),
        (6, 15),
        (5, 15),
        (2, 15),
    ]
    assert [len(w) for w in get_rnn_weights(model, "stack", concat_gates=False)] == [1, 1, 1, 3, 3, 3]
    rnn_summary(model.get_layer("stack"))
    assert len(capsys.readouterr().out.splitlines()) == 3 + 3 * 4
    with nothing_changes(model, x):
        assert get_outputs(model, "stack", x).shape == (16, 5)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    ("make", "shape"), [(layers.ConvLSTM1D, (2, 4, 6, 2)), (layers.ConvLSTM2D, (2, 4, 6, 5, 2))]
)
def test_conv_lstm_gates_and_states_reproduce_the_layer(make, shape, padding):
    layer = make(3, 3, padding=padding, return_sequences=True, return_state=True, bias_initializer="uniform")
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    sequence, _, c = (np.asarray(output) for output in layer(x))
    spec = cells.cell_spec(layer.cell)
    before = np.concatenate([np.zeros_like(sequence[:, :1]), sequence[:, :-1]], 1)
    gates = spec.activate(layer.cell, x, before)
    assert tuple(gates.shape) == (*sequence.shape[:-1], 4, 3)
    states = (before[:, 0], np.zeros_like(before[:, 0]))
    for t in range(shape[1]):
        states = spec.advance(layer.cell, gates[:, t], states)
        np.testing.assert_allclose(states[0], sequence[:, t], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states[1], c, rtol=1e-4, atol=1e-5)
