"""Spectra of recurrent kernels, against formulas for 2 × 2 matrices and matrices of known spectrum."""

from __future__ import annotations

import cmath
import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from see_rnn_like import CellSpec, errors, get_rnn_weights, register_cell
from see_rnn_like.extract.spectrum import recurrent_spectrum

RNNS = {
    "lstm": (layers.LSTM, {}, ["input", "forget", "cell", "output"], "LSTM"),
    "gru": (layers.GRU, {}, ["update", "reset", "new"], "GRU"),
    "gru_reset_before": (layers.GRU, {"reset_after": False}, ["update", "reset", "new"], "GRU"),
    "simplernn": (layers.SimpleRNN, {}, ["hidden"], "SimpleRNN"),
}


def model_of(layer, shape=(7, 4)):
    return keras.Sequential([keras.Input(shape), layer])


def eigenvalues_2x2(matrix):
    """By trace and determinant, largest first."""
    half, determinant = np.trace(matrix) / 2, matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    root = cmath.sqrt(half**2 - determinant)
    return sorted([half + root, half - root], key=lambda value: (-abs(value), -value.imag))


def singular_values_2x2(matrix):
    """By the sum of squares and the determinant: σ₁² + σ₂² and σ₁ · σ₂."""
    squares = np.square(matrix).sum()
    determinant = abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0])
    plus, minus = math.sqrt(squares + 2 * determinant), math.sqrt(max(squares - 2 * determinant, 0.0))
    return [(plus + minus) / 2, (plus - minus) / 2]


def assert_is_spectrum(found, matrices):
    for gate, matrix in matrices.items():
        wide = matrix.astype("float64")
        one = found.sel(gate=gate)
        np.testing.assert_allclose(one["eigenvalues"], eigenvalues_2x2(wide), atol=1e-12)
        np.testing.assert_allclose(one["singular_values"], singular_values_2x2(wide), atol=1e-12)


@pytest.mark.parametrize("kind", RNNS)
def test_every_gate_has_the_spectrum_of_its_own_kernel(kind):
    make, options, gates, cell = RNNS[kind]
    model = model_of(make(2, recurrent_initializer="random_normal", name="rnn", **options))
    found = recurrent_spectrum(model, "rnn")
    assert found["eigenvalues"].dims == found["singular_values"].dims == ("gate", "index")
    assert found["eigenvalues"].dtype == "complex128"
    assert found["singular_values"].dtype == "float64"
    assert found["gate"].values.tolist() == gates
    assert found.attrs == {"layer": "rnn", "cell": cell}
    kernels = get_rnn_weights(model, "rnn", concat_gates=False)[1]
    assert_is_spectrum(found, dict(zip(gates, kernels, strict=True)))


def test_both_directions_have_their_own():
    model = model_of(layers.Bidirectional(layers.GRU(2, recurrent_initializer="random_normal"), name="bi"))
    found = recurrent_spectrum(model, "bi")
    assert found["eigenvalues"].dims == ("direction", "gate", "index")
    assert found["direction"].values.tolist() == ["forward", "backward"]
    _, forward, _, _, backward, _ = get_rnn_weights(model, "bi", concat_gates=False)
    gates = found["gate"].values.tolist()
    assert_is_spectrum(found.sel(direction="forward"), dict(zip(gates, forward, strict=True)))
    assert_is_spectrum(found.sel(direction="backward"), dict(zip(gates, backward, strict=True)))


def simple_rnn(matrix, dtype="float32"):
    model = model_of(layers.SimpleRNN(len(matrix), recurrent_initializer="zeros", dtype=dtype, name="rnn"))
    model.layers[0].cell.recurrent_kernel.assign(matrix)
    return model


def test_a_rotation_lies_on_the_unit_circle():
    angle = 0.3
    turn = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    found = recurrent_spectrum(simple_rnn(turn, "float64"), "rnn").sel(gate="hidden")
    np.testing.assert_allclose(found["eigenvalues"], [cmath.exp(1j * angle), cmath.exp(-1j * angle)])
    np.testing.assert_allclose(found["singular_values"], [1.0, 1.0])


def test_a_shear_stretches_more_than_its_eigenvalues_say():
    found = recurrent_spectrum(simple_rnn([[1.0, 2.0], [0.0, 1.0]]), "rnn").sel(gate="hidden")
    np.testing.assert_allclose(found["eigenvalues"], [1.0, 1.0])
    np.testing.assert_allclose(found["singular_values"], [math.sqrt(2) + 1, math.sqrt(2) - 1])


def test_the_default_initialiser_is_orthogonal():
    found = recurrent_spectrum(model_of(layers.SimpleRNN(32)), 0).sel(gate="hidden")
    np.testing.assert_allclose(np.abs(found["eigenvalues"]), 1.0, atol=1e-5)
    np.testing.assert_allclose(found["singular_values"], 1.0, atol=1e-5)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_laws_of_any_spectrum(seed):
    rng = np.random.default_rng(seed)
    units = int(rng.integers(1, 9))
    matrix = rng.standard_normal((units, units)).astype("float32")
    found = recurrent_spectrum(simple_rnn(matrix), "rnn")
    eigenvalues = found["eigenvalues"].values[0]
    singular = found["singular_values"].values[0]
    wide = matrix.astype("float64")
    assert eigenvalues.sum() == pytest.approx(np.trace(wide), abs=1e-9)
    assert np.prod(eigenvalues) == pytest.approx(np.linalg.det(wide), abs=1e-9)
    assert np.square(singular).sum() == pytest.approx(np.square(wide).sum())
    assert (np.diff(np.abs(eigenvalues)) <= 1e-12).all()
    assert (np.diff(singular) <= 1e-12).all()
    assert np.abs(eigenvalues[0]) <= singular[0] + 1e-9
    upper = np.flatnonzero(eigenvalues.imag > 0)
    np.testing.assert_array_equal(eigenvalues[upper + 1], eigenvalues[upper].conj())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_kernels_of_every_dtype(dtype):
    matrix = [[0.5, 0.25], [-0.25, 0.5]]  # exact in all of them
    found = recurrent_spectrum(simple_rnn(matrix, dtype), "rnn").sel(gate="hidden")
    np.testing.assert_allclose(found["eigenvalues"], [0.5 + 0.25j, 0.5 - 0.25j])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gate_that_failed_has_no_spectrum_and_leaves_the_others_theirs(bad):
    model = model_of(layers.LSTM(2, name="lstm"))
    kernel = model.layers[0].cell.recurrent_kernel
    before = recurrent_spectrum(model, "lstm")
    values = kernel.numpy()
    values[1, 2] = bad  # forget gate
    kernel.assign(values)
    found = recurrent_spectrum(model, "lstm")
    assert np.isnan(found["eigenvalues"].sel(gate="forget")).all()
    assert np.isnan(found["singular_values"].sel(gate="forget")).all()
    others = ["input", "cell", "output"]
    np.testing.assert_array_equal(
        found["eigenvalues"].sel(gate=others), before["eigenvalues"].sel(gate=others)
    )


def test_the_model_is_left_as_it_was():
    model = model_of(layers.LSTM(3))
    before = model.get_weights()
    recurrent_spectrum(model, 0)
    for was, is_now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, is_now)


# ---- cells of one's own --------------------------------------------------------------------------


class Minimal(layers.Layer):
    """Two gates over one recurrent kernel; a vector instead of it if `diagonal`."""

    def __init__(self, units, diagonal=False, projected=0, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.shape = (2 * units,) if diagonal else (units + projected, 2 * units)

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2 * self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=self.shape, initializer="normal", name="recurrent_kernel"
        )

    def call(self, inputs, states):
        return states[0], states


class Recurrenceless(Minimal):
    """No role of that name."""


class Unknown(layers.Layer):
    state_size = 2

    def call(self, inputs, states):
        return states[0], states


def nothing(*_):
    raise AssertionError("a spectrum needs weights only")


register_cell(Minimal, CellSpec("Minimal", ("forget", "new"), ("h",), nothing, nothing))
register_cell(
    Recurrenceless,
    CellSpec("Recurrenceless", ("forget", "new"), ("h",), nothing, nothing, roles={"kernel": "input"}),
)


def test_a_registered_cell():
    model = model_of(layers.RNN(Minimal(2), name="own"))
    found = recurrent_spectrum(model, "own")
    kernel = model.layers[0].cell.recurrent_kernel.numpy()
    assert found.attrs == {"layer": "own", "cell": "Minimal"}
    assert_is_spectrum(found, {"forget": kernel[:, :2], "new": kernel[:, 2:]})


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (layers.Dense(3), (7, 4), "is a Dense; gates and states are in"),
        (layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)]), (7, 4), "stacks LSTMCell, GRUCell"),
        (
            layers.ConvLSTM1D(3, 2),
            (7, 6, 2),
            r"one square matrix per gate.* ConvLSTM cell has shape \(2, 3, 12\)",
        ),
        (
            layers.RNN(Minimal(3, diagonal=True)),
            (7, 4),
            r"one square matrix per gate.*Minimal.* shape \(6,\)",
        ),
        (layers.RNN(Minimal(3, projected=1)), (7, 4), r"one square matrix per gate.* shape \(4, 6\)"),
        (layers.RNN(Recurrenceless(3)), (7, 4), "a Recurrenceless cell has no recurrent_kernel"),
        (layers.RNN(Unknown()), (7, 2), "Unknown is not a known recurrent cell"),
    ],
)
def test_what_has_no_spectrum_is_refused(layer, shape, message):
    with pytest.raises(errors.UnsupportedLayerError, match=message):
        recurrent_spectrum(model_of(layer, shape), 0)


@pytest.mark.parametrize("backward", [layers.LSTM(5, go_backwards=True), layers.GRU(2, go_backwards=True)])
def test_directions_that_do_not_fit_into_one_array_are_refused(backward):
    both = layers.Bidirectional(layers.LSTM(2), backward_layer=backward)
    with pytest.raises(errors.UnsupportedLayerError, match="have different cells or states"):
        recurrent_spectrum(model_of(both), 0)


def test_a_layer_without_weights_yet_and_several_layers():
    model = keras.Sequential([layers.LSTM(2, name="lstm")])
    with pytest.raises(errors.ArgumentError, match="is not built yet"):
        recurrent_spectrum(model, "lstm")
    with pytest.raises(errors.ArgumentError, match="expected one recurrent layer"):
        recurrent_spectrum(model_of(layers.LSTM(2)), [0, 0])
    with pytest.raises(errors.UnknownLayerError, match="'gru'"):
        recurrent_spectrum(model_of(layers.LSTM(2, name="lstm")), "gru")
