"""Memory horizon and Lyapunov exponents: of cells built for a known answer, and against NumPy Jacobians."""

from __future__ import annotations

import random

import keras
import numpy as np
import numpy_states
import pytest
import tensorflow as tf
from keras import layers
from unchanged import nothing_changes

from see_rnn_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    CaptureError,
    UnknownLayerError,
    UnsupportedLayerError,
)
from see_rnn_like.extract.memory import lyapunov, memory_horizon

UNITS = 3


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def of(rnn, timesteps, inputs=2):
    return keras.Sequential([keras.Input((timesteps, inputs)), rnn])


def randomize(model, seed=0, size=0.6):
    rng = np.random.default_rng(seed)
    model.set_weights([size * rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


def linear(recurrent, timesteps):
    """h = h R + x K, whose Jacobian of a step is Rᵀ wherever it is."""
    recurrent = np.asarray(recurrent, "float32")
    model = of(layers.SimpleRNN(len(recurrent), activation="linear", name="rnn"), timesteps)
    model.set_weights([data(2, len(recurrent)), recurrent, np.zeros(len(recurrent))])
    return model


def pinned(kind, kept, timesteps, units=UNITS):
    """A cell whose keeping gate always holds one value per unit, and that hears its input alone."""
    model = of({"lstm": layers.LSTM, "gru": layers.GRU}[kind](units, name="rnn"), timesteps)
    logits = np.log(kept) - np.log1p(-np.asarray(kept))
    shapes = [w.shape for w in model.get_weights()]
    kernel, bias = data(*shapes[0]), np.zeros(shapes[2])
    if kind == "lstm":
        kernel[:, units : 2 * units], bias[units : 2 * units] = 0, logits
    else:
        kernel[:, :units], bias[0, :units] = 0, logits
    model.set_weights([kernel, np.zeros(shapes[1]), bias])
    return model


# -- known answers ------------------------------------------------------------------------------


def test_a_leaky_integrator_remembers_as_long_as_it_leaks():
    timesteps = 50
    model = linear(np.eye(UNITS), timesteps)
    x = data(2, timesteps, 2)
    for a in (0.3, 0.8, 0.9, 0.95, 0.999):
        model.layers[0].cell.recurrent_kernel.assign(a * np.eye(UNITS))
        found = memory_horizon(model, "rnn", x)
        np.testing.assert_allclose(found["strength"][0], a ** np.arange(timesteps), rtol=1e-3)
        reached = {"horizon": -1 / np.log(a), "horizon_1pct": np.log(0.01) / np.log(a)}
        for name, lag in reached.items():
            assert found.attrs[name] == (pytest.approx(lag, rel=0.05) if lag < timesteps - 1 else np.inf)
        np.testing.assert_allclose(lyapunov(model, "rnn", x), [np.log(a)] * UNITS, rtol=0.05)
        assert np.isnan(found["half_life"]).all()
        assert np.isnan(found.attrs["half_life"])
    assert {name: found.attrs[name] for name in ("layer", "cell", "timesteps")} == {
        "layer": "rnn",
        "cell": "SimpleRNN",
        "timesteps": timesteps,
    }


def test_a_forget_gate_pinned_open_has_its_half_life():
    timesteps, kept = 60, np.array([0.5, 0.9, 0.97])
    found = memory_horizon(pinned("lstm", kept, timesteps), "rnn", data(4, timesteps, 2))
    half_life = np.log(2) / -np.log(kept)
    np.testing.assert_allclose(found["half_life"], half_life, rtol=0.05)
    assert found.attrs["half_life"] == pytest.approx(half_life[1], rel=0.05)
    lags = np.arange(timesteps)[:, None]
    exact = np.sqrt((kept ** (2 * lags)).mean(1))
    strength, error = found["strength"].sel(state="c"), found["error"].sel(state="c")
    assert (np.abs(strength - exact) <= 4 * error + 1e-6).all()
    # No recurrent weight: h itself is of no consequence for any later h.
    np.testing.assert_allclose(found["strength"].sel(state="h"), (lags[:, 0] == 0), atol=1e-7)


@pytest.mark.parametrize(("kind", "state"), [("lstm", "c"), ("gru", "h")])
def test_gates_pinned_alike_fade_as_a_leaky_integrator(kind, state):
    timesteps, kept = 40, 0.85
    model, x = pinned(kind, np.full(UNITS, kept), timesteps), data(2, timesteps, 2)
    found = memory_horizon(model, "rnn", x)
    np.testing.assert_allclose(found["strength"].sel(state=state), kept ** np.arange(timesteps), rtol=1e-3)
    assert found.attrs["horizon"] == pytest.approx(-1 / np.log(kept), rel=0.05)
    assert found.attrs["horizon_1pct"] == pytest.approx(np.log(0.01) / np.log(kept), rel=0.05)
    assert found.attrs["half_life"] == pytest.approx(np.log(2) / -np.log(kept), rel=0.05)
    exponents = lyapunov(model, "rnn", x, exponents=UNITS)
    np.testing.assert_allclose(exponents, np.log(kept), rtol=0.05)


def test_directions_that_vanish_exactly_come_last():
    model, x = pinned("lstm", [0.9, 0.7, 0.5], 80), data(2, 80, 2)
    found = lyapunov(model, "rnn", x)
    assert found.sizes["exponent"] == 2 * UNITS
    np.testing.assert_allclose(found[:UNITS], np.log([0.9, 0.7, 0.5]), rtol=0.05)
    # h hears nothing of h: what is left of these directions is rounding in float32.
    assert (found[UNITS:] < -15).all()


def test_a_rotation_neither_forgets_nor_explodes():
    angle, timesteps = 0.7, 60
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    model, x = linear(turn, timesteps), data(2, timesteps, 2)
    np.testing.assert_allclose(lyapunov(model, "rnn", x), [0, 0], atol=1e-5)
    found = memory_horizon(model, "rnn", x)
    assert (np.abs(found["strength"] - 1) < 1e-5).all()
    assert found.attrs["horizon"] == found.attrs["horizon_1pct"] == np.inf
    model.layers[0].cell.recurrent_kernel.assign(1.2 * np.array(turn))
    np.testing.assert_allclose(lyapunov(model, "rnn", x), np.log([1.2, 1.2]), rtol=1e-3)


def test_exponents_of_a_diagonal_matrix_are_the_logs_of_its_entries():
    diagonal = np.array([0.5, -0.9, 0.1, 1.1])
    model, x = linear(np.diag(diagonal), 80), data(2, 80, 2)
    expected = np.sort(np.log(np.abs(diagonal)))[::-1]
    np.testing.assert_allclose(lyapunov(model, "rnn", x), expected, rtol=0.05, atol=0.005)
    np.testing.assert_array_equal(lyapunov(model, "rnn", x)["exponent"], [1, 2, 3, 4])


# -- the estimate of the norm against exact Jacobians ---------------------------------------------

KINDS = {
    "lstm": (numpy_states.lstm, lambda **kw: layers.LSTM(UNITS, **kw)),
    "gru": (numpy_states.gru, lambda **kw: layers.GRU(UNITS, **kw)),
    "gru_reset_before": (
        numpy_states.gru_reset_before,
        lambda **kw: layers.GRU(UNITS, reset_after=False, **kw),
    ),
    "simple_rnn": (numpy_states.simple_rnn, lambda **kw: layers.SimpleRNN(UNITS, **kw)),
}


def strengths(jacobians):
    """From Jacobians ``(N, T, U, U)``: over lags, root mean square over samples, 1 for the identity."""
    squares = np.square(jacobians).sum((2, 3)) / jacobians.shape[-1]
    return np.sqrt(squares.mean(0))[::-1]


def within_errors(found, exact):
    for name, one in zip(found["state"].values, exact, strict=True):
        strength, error = found["strength"].sel(state=name), found["error"].sel(state=name)
        assert (np.abs(strength - one) <= 4 * error + 1e-5).all(), name
        assert (error[1:] < 0.5 * strength[1:]).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_strengths_are_those_of_exact_jacobians(kind):
    step, make = KINDS[kind]
    model, x = randomize(of(make(), 6)), data(3, 6, 2)
    found = memory_horizon(model, 0, x, probes=60)
    assert found["state"].values.tolist() == ["h", "c"][: numpy_states.STATES[step]]
    within_errors(found, [strengths(one) for one in numpy_states.jacobians(step, model.get_weights(), x)])


def test_error_bars_are_standard_errors():
    model, x = randomize(of(layers.LSTM(UNITS), 6)), data(1, 6, 2)
    exact = [strengths(one) for one in numpy_states.jacobians(numpy_states.lstm, model.get_weights(), x)]
    runs = [memory_horizon(model, 0, x, probes=16, seed=seed) for seed in range(40)]
    estimates = np.stack([run["strength"].values[:, 1:] for run in runs])
    errors = np.stack([run["error"].values[:, 1:] for run in runs])
    # Of one sample the spread between seeds is the error, and about two thirds of the bars hold the answer.
    np.testing.assert_allclose(errors.mean(0), estimates.std(0), rtol=0.5)
    held = np.abs(estimates - np.stack(exact)[:, 1:]) <= errors
    assert 0.5 < held.mean() < 0.85
    np.testing.assert_allclose(np.square(estimates).mean(0) ** 0.5, np.stack(exact)[:, 1:], rtol=0.05)


def test_error_bars_shrink_with_probes():
    model, x = randomize(of(layers.GRU(UNITS), 6)), data(1, 6, 2)
    errors = [memory_horizon(model, 0, x, probes=n)["error"].values[0, 1:].mean() for n in (4, 64)]
    assert 0.12 < errors[1] / errors[0] < 0.5


def test_one_probe_of_one_sample_has_no_error():
    found = memory_horizon(randomize(of(layers.GRU(UNITS), 4)), 0, data(1, 4, 2), probes=1)
    assert found["strength"].notnull().all()
    assert found["error"].isnull().all()


def test_every_sample_counts():
    model, x = randomize(of(layers.GRU(UNITS), 5), size=1.5), data(6, 5, 2)
    exact = numpy_states.jacobians(numpy_states.gru, model.get_weights(), x)[0]
    alone = [strengths(exact[k : k + 1]) for k in range(6)]
    np.testing.assert_allclose(strengths(exact), np.sqrt(np.square(alone).mean(0)))
    within_errors(memory_horizon(model, 0, x, probes=40), [strengths(exact)])


@pytest.mark.parametrize("seed", range(3))
def test_the_horizon_lies_between_two_lags_along_an_exponential(seed):
    model = randomize(of(layers.LSTM(UNITS), 25), seed=seed)
    found = memory_horizon(model, 0, data(2, 25, 2))
    lags = {"horizon": np.exp(-1), "horizon_1pct": 0.01}
    for name, share in lags.items():
        reached = []
        for curve in found["strength"].values:
            fine = np.linspace(0, 24, 240_001)
            below = np.exp(np.interp(fine, np.arange(25), np.log(curve))) < share
            reached.append(fine[below.argmax()] if below.any() else np.inf)
        assert found.attrs[name] == pytest.approx(max(reached), abs=1e-3)
    assert all(type(found.attrs[name]) is float for name in (*lags, "half_life"))


def test_what_shuts_at_once_has_horizon_zero_or_less_than_one_step():
    found = memory_horizon(linear(np.zeros((2, 2)), 5), 0, data(2, 5, 2))
    np.testing.assert_allclose(found["strength"][0], [1, 0, 0, 0, 0], rtol=1e-6)
    assert 0 <= found.attrs["horizon"] < 1
    assert 0 <= found.attrs["horizon_1pct"] < 1
    assert np.isneginf(lyapunov(linear(np.zeros((2, 2)), 5), 0, data(2, 5, 2))).all()


# -- directions, masks, states ---------------------------------------------------------------------


def test_both_directions_each_have_their_own():
    timesteps, a, b = 30, 0.6, 0.9
    rnn = layers.Bidirectional(layers.SimpleRNN(UNITS, activation="linear"), name="both")
    model, x = of(rnn, timesteps), data(2, timesteps, 2)
    rnn.forward_layer.cell.recurrent_kernel.assign(a * np.eye(UNITS))
    rnn.backward_layer.cell.recurrent_kernel.assign(b * np.eye(UNITS))
    found = memory_horizon(model, "both", x)
    assert found["strength"].dims == ("direction", "state", "lag")
    for direction, factor in (("forward", a), ("backward", b)):
        strength = found["strength"].sel(direction=direction, state="h")
        np.testing.assert_allclose(strength, factor ** np.arange(timesteps), rtol=1e-3)
        exponents = lyapunov(model, "both", x).sel(direction=direction)
        np.testing.assert_allclose(exponents, np.log(factor), rtol=0.05)
    assert found.attrs["horizon"] == pytest.approx(-1 / np.log(b), rel=0.05)


def test_the_longer_memory_of_two_directions_is_told():
    rnn = layers.Bidirectional(layers.LSTM(UNITS), name="both")
    model = of(rnn, 8)
    for part, kept in ((rnn.forward_layer, 0.9), (rnn.backward_layer, 0.6)):
        part.cell.kernel.assign(np.zeros((2, 4 * UNITS)))
        bias = np.zeros(4 * UNITS)
        bias[UNITS : 2 * UNITS] = np.log(kept / (1 - kept))
        part.cell.bias.assign(bias)
    found = memory_horizon(model, "both", data(2, 8, 2))
    assert found["half_life"].dims == ("direction", "unit")
    np.testing.assert_allclose(found["half_life"][0], np.log(2) / -np.log(0.9), rtol=1e-3)
    np.testing.assert_allclose(found["half_life"][1], np.log(2) / -np.log(0.6), rtol=1e-3)
    assert found.attrs["half_life"] == pytest.approx(np.log(2) / -np.log(0.9), rel=1e-3)


def test_a_layer_that_runs_backwards_counts_from_its_own_end():
    model, x = randomize(of(layers.GRU(UNITS, go_backwards=True), 6)), data(2, 6, 2)
    exact = numpy_states.jacobians(numpy_states.gru, model.get_weights(), x[:, ::-1])
    within_errors(memory_horizon(model, 0, x, probes=60), [strengths(one) for one in exact])


MASK = np.array(
    [[False, False, True, True, False, True], [True, True, False, True, True, False], [False] * 6]
)


@pytest.mark.parametrize("backwards", [False, True])
def test_masked_timesteps_are_no_lags(backwards):
    rnn = layers.LSTM(UNITS, go_backwards=backwards, return_sequences=True)
    model = keras.Sequential([keras.Input((6, 2)), layers.Masking(), rnn])
    randomize(model)
    x = np.where(MASK[..., None], data(3, 6, 2), 0)
    found = memory_horizon(model, 1, x, probes=100)
    order = slice(None, None, -1 if backwards else 1)
    parts = [x[k, MASK[k]][None, order] for k in range(2)]
    exact = [numpy_states.jacobians(numpy_states.lstm, rnn.get_weights(), part) for part in parts]
    for state, name in enumerate("hc"):
        squares = np.full((2, 6), np.nan)
        for k in range(2):
            squares[k, : parts[k].shape[1]] = strengths(exact[k][state]) ** 2
        mean = np.sqrt(np.nanmean(squares[:, :4], 0))
        strength, error = found["strength"].sel(state=name), found["error"].sel(state=name)
        assert (np.abs(strength[:4] - mean) <= 4 * error[:4] + 1e-5).all()
        assert strength[4:].isnull().all()
    assert found.attrs["timesteps"] == 6


@pytest.mark.parametrize("make", [layers.SimpleRNN, layers.LSTM])
def test_masked_timesteps_change_no_exponent(make):
    model = keras.Sequential([keras.Input((None, 2)), layers.Masking(), make(UNITS)])
    randomize(model)
    x = data(2, 12, 2)
    padded = np.zeros((2, 20, 2), "float32")
    padded[0, [0, 1, 2, 6, 7, 8, 9, 12, 13, 14, 18, 19]] = x[0]
    padded[1, 8:] = x[1]
    plain, among = lyapunov(model, 1, x, settle=3), lyapunov(model, 1, padded, settle=3)
    np.testing.assert_allclose(plain, among, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain["error"], among["error"], rtol=1e-3, atol=1e-5)


def test_padding_alone_says_nothing():
    model = keras.Sequential([keras.Input((6, 2)), layers.Masking(), layers.LSTM(UNITS)])
    x = np.zeros((2, 6, 2), "float32")
    assert memory_horizon(model, 1, x)["strength"].isnull().all()
    with pytest.raises(ArgumentError, match="no sample has more than settle=0 timesteps"):
        lyapunov(model, 1, x, settle=0)


def test_a_sample_of_padding_alone_is_left_out():
    model = keras.Sequential([keras.Input((6, 2)), layers.Masking(), layers.LSTM(UNITS)])
    x = np.where(MASK[..., None], data(3, 6, 2), 0)
    found, without = lyapunov(model, 1, x, settle=1), lyapunov(model, 1, x[:2], settle=1)
    np.testing.assert_allclose(found, without, rtol=1e-4)


def test_a_stateful_layer_is_measured_from_the_states_it_holds():
    rnn = layers.GRU(UNITS, stateful=True)
    model = randomize(keras.Sequential([keras.Input(batch_shape=(2, 5, 2)), rnn]), size=1.5)
    rnn.states[0].assign(3 * data(2, UNITS, seed=4))
    held = rnn.states[0].numpy()
    x = data(2, 5, 2)
    with nothing_changes(model, x):
        found = memory_horizon(model, 0, x, probes=60)
        exponents = lyapunov(model, 0, x)
    np.testing.assert_array_equal(rnn.states[0].numpy(), held)
    start, weights = [held.astype("float64")], rnn.get_weights()[:3]
    exact = strengths(numpy_states.jacobians(numpy_states.gru, weights, x, start)[0])
    within_errors(found, [exact])
    full = numpy_lyapunov(numpy_states.gru, weights, x, 1, start)
    np.testing.assert_allclose(exponents.sum(), full.sum(), rtol=1e-4)


def test_one_sample_of_one_timestep():
    model, x = of(layers.LSTM(UNITS), 1), data(1, 1, 2)
    found = memory_horizon(model, 0, x)
    np.testing.assert_allclose(found["strength"], [[1], [1]], rtol=1e-6)
    assert np.isnan(found.attrs["horizon"])
    assert np.isnan(found.attrs["horizon_1pct"])
    assert lyapunov(model, 0, x).sizes == {"exponent": 2 * UNITS}


def test_lengths_and_batches_may_change_between_calls():
    model = randomize(keras.Sequential([keras.Input((None, 2)), layers.LSTM(UNITS)]))
    for samples, timesteps in ((1, 2), (3, 5), (2, 7)):
        x = data(samples, timesteps, 2)
        assert memory_horizon(model, 0, x).sizes["lag"] == timesteps
        assert np.isfinite(lyapunov(model, 0, x)).all()


# -- Lyapunov exponents against a loop of QR decompositions ----------------------------------------


def numpy_lyapunov(step, weights, x, settle, start=None, exponents=None):
    """Per timestep and exponent, mean over samples, from Jacobians by finite differences."""
    start = start or numpy_states.zeros(step, len(x), np.shape(weights[1])[0])
    size = sum(one.shape[1] for one in start)
    states = numpy_states.run(step, weights, x, start)
    bases = [np.linalg.qr(np.random.default_rng(99).standard_normal((size, exponents or size)))[0]] * len(x)
    sums = 0
    for t in range(x.shape[1]):
        before = start if t == 0 else [one[:, t - 1] for one in states]
        jacobians = numpy_states.step_jacobian(step, weights, x[:, t].astype("float64"), before)
        parts = [np.linalg.qr(j @ basis) for j, basis in zip(jacobians, bases, strict=True)]
        bases = [q for q, _ in parts]
        if t >= settle:
            sums = sums + np.stack([np.log(np.abs(np.diag(r))) for _, r in parts])
    return np.sort(sums / (x.shape[1] - settle), 1)[:, ::-1].mean(0)


@pytest.mark.parametrize("kind", KINDS)
def test_exponents_equal_a_numpy_loop_of_qr(kind):
    step, make = KINDS[kind]
    model, x = randomize(of(make(), 150), seed=3, size=0.5), data(2, 150, 2)
    expected = numpy_lyapunov(step, model.get_weights(), x, 50)
    found = lyapunov(model, 0, x, settle=50)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.005)
    # Their sum is the mean log of the volume, which no choice of a basis changes.
    np.testing.assert_allclose(found.sum(), expected.sum(), rtol=1e-3)


def test_a_chaotic_network_has_a_positive_exponent():
    units, timesteps = 30, 120
    model = of(layers.SimpleRNN(units, name="rnn"), timesteps)
    recurrent = 4.0 * np.random.default_rng(5).standard_normal((units, units)) / np.sqrt(units)
    model.set_weights([0.1 * data(2, units), recurrent, np.zeros(units)])
    x = data(3, timesteps, 2)
    expected = numpy_lyapunov(numpy_states.simple_rnn, model.get_weights(), x, 50, exponents=2)
    found = lyapunov(model, "rnn", x, exponents=2, settle=50)
    assert found[0] > 0.05
    # Chaos: float32 and float64 part ways, only averages agree.
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_the_error_is_the_standard_error_over_samples():
    model, x = randomize(of(layers.SimpleRNN(UNITS), 20), size=1.0), data(5, 20, 2)
    alone = np.stack([lyapunov(model, 0, x[k : k + 1]).values for k in range(5)])
    found = lyapunov(model, 0, x)
    # Matrix products of another batch size are rounded differently.
    np.testing.assert_allclose(found, alone.mean(0), rtol=1e-3)
    np.testing.assert_allclose(found["error"], alone.std(0, ddof=1) / np.sqrt(5), rtol=1e-2)


def test_settling_leaves_the_first_timesteps_out():
    model, x = randomize(of(layers.SimpleRNN(UNITS), 8), size=1.0), data(2, 8, 2)
    weights = model.get_weights()
    for settle in (0, 3, 7):
        expected = numpy_lyapunov(numpy_states.simple_rnn, weights, x, settle).sum()
        assert lyapunov(model, 0, x, settle=settle).sum() == pytest.approx(expected, rel=1e-4)
    np.testing.assert_array_equal(lyapunov(model, 0, x), lyapunov(model, 0, x, settle=2))


def test_exponents_asked_for_one_after_the_other():
    model, x = of(layers.LSTM(UNITS), 10), data(2, 10, 2)
    sizes = [lyapunov(model, 0, x, exponents=n).sizes["exponent"] for n in (1, 2, 5, 3, 20)]
    assert sizes == [1, 2, 5, 3, 2 * UNITS]


def test_in_float64(float64):
    model, x = randomize(of(layers.LSTM(UNITS), 6)), data(2, 6, 2).astype("float64")
    exact = numpy_states.jacobians(numpy_states.lstm, model.get_weights(), x)
    within_errors(memory_horizon(model, 0, x, probes=60), [strengths(one) for one in exact])
    expected = numpy_lyapunov(numpy_states.lstm, model.get_weights(), x, 2).sum()
    np.testing.assert_allclose(lyapunov(model, 0, x, settle=2).sum(), expected, rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_in_mixed_precision(policy):
    model, x = randomize(of(layers.LSTM(UNITS, dtype=policy), 6)), data(2, 6, 2)
    exact = numpy_states.jacobians(numpy_states.lstm, model.get_weights(), x)
    found = memory_horizon(model, 0, x, probes=60)
    for name, one in zip("hc", exact, strict=True):
        strength, error = found["strength"].sel(state=name), found["error"].sel(state=name)
        assert (np.abs(strength - strengths(one)) <= 4 * error + 0.05).all()
    assert np.isfinite(lyapunov(model, 0, x)).all()


@pytest.mark.parametrize("ways", [{"unroll": True}, {"dropout": 0.5, "recurrent_dropout": 0.5}])
def test_the_way_a_layer_is_run_makes_no_difference(ways):
    plain, other = of(layers.LSTM(UNITS), 6), of(layers.LSTM(UNITS, **ways), 6)
    weights = [data(*w.shape) for w in plain.get_weights()]
    plain.set_weights(weights)
    cell = other.layers[0].cell
    for variable, value in zip((cell.kernel, cell.recurrent_kernel, cell.bias), weights, strict=True):
        variable.assign(value)
    x = data(2, 6, 2)
    with nothing_changes(other, x):
        found, exponents = memory_horizon(other, 0, x), lyapunov(other, 0, x)
    np.testing.assert_allclose(
        found["strength"], memory_horizon(plain, 0, x)["strength"], rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(exponents, lyapunov(plain, 0, x), rtol=1e-3)


def test_run_eagerly():
    model, x = randomize(of(layers.GRU(UNITS), 4)), data(2, 4, 2)
    compiled = memory_horizon(model, 0, x), lyapunov(model, 0, x)
    model.compile("sgd", "mse", run_eagerly=True)
    np.testing.assert_allclose(memory_horizon(model, 0, x)["strength"], compiled[0]["strength"], rtol=1e-4)
    np.testing.assert_allclose(lyapunov(model, 0, x), compiled[1], rtol=1e-4)


# -- seeds, and what stays as it was ---------------------------------------------------------------


def test_seeds_reproduce_and_leave_every_global_generator_alone():
    model, x = randomize(of(layers.LSTM(UNITS), 6)), data(2, 6, 2)

    def drawn():
        # NumPy's old global generator is what is to be left alone.
        legacy = np.random.random()  # noqa: NPY002
        return random.random(), legacy, keras.random.uniform(()), tf.random.uniform(())

    keras.utils.set_random_seed(3)
    undisturbed = drawn()
    keras.utils.set_random_seed(3)
    first = memory_horizon(model, 0, x, seed=1)
    exponents = lyapunov(model, 0, x, exponents=2, seed=1)
    assert drawn() == undisturbed
    assert memory_horizon(model, 0, x, seed=1).identical(first)
    assert lyapunov(model, 0, x, exponents=2, seed=1).identical(exponents)
    assert not memory_horizon(model, 0, x, seed=2)["strength"].equals(first["strength"])
    # Two exponents depend on the basis they start from, all of them together do not.
    assert not lyapunov(model, 0, x, exponents=2, seed=2).equals(exponents)


def test_nothing_of_the_model_changes():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, 5, 2)),
            layers.Masking(),
            layers.LSTM(UNITS, stateful=True, return_sequences=True, dropout=0.3, recurrent_dropout=0.3),
            layers.BatchNormalization(),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    x = data(2, 5, 2)
    with nothing_changes(model, x):
        memory_horizon(model, "lstm", x)
        lyapunov(model, "lstm", x)
    for layer in model._flatten_layers():
        assert not {"inner_loop", "call"} & set(vars(layer))


def test_new_weights_give_new_answers():
    model, x = linear(0.5 * np.eye(2), 10), data(2, 10, 2)
    assert memory_horizon(model, 0, x)["strength"][0, 1] == pytest.approx(0.5, rel=1e-4)
    model.layers[0].cell.recurrent_kernel.assign(0.7 * np.eye(2))
    assert memory_horizon(model, 0, x)["strength"][0, 1] == pytest.approx(0.7, rel=1e-4)
    model.layers[0].cell.activation = lambda z: 0.5 * z
    assert memory_horizon(model, 0, x)["strength"][0, 1] == pytest.approx(0.35, rel=1e-4)


# -- what is refused --------------------------------------------------------------------------------


def test_numbers_that_make_no_sense_are_refused():
    model, x = of(layers.LSTM(UNITS), 6), data(2, 6, 2)
    with pytest.raises(ArgumentError, match="probes must be at least 1; got 0"):
        memory_horizon(model, 0, x, probes=0)
    with pytest.raises(ArgumentError, match="exponents must be at least 1; got 0"):
        lyapunov(model, 0, x, exponents=0)
    with pytest.raises(ArgumentError, match="settle must be at least 0; got -1"):
        lyapunov(model, 0, x, settle=-1)
    with pytest.raises(ArgumentError, match=r"settle must be from 0 to 5, .* 6 timesteps; got 6"):
        lyapunov(model, 0, x, settle=6)
    for wrong in ({"exponents": 1.5}, {"settle": "abc"}, {"seed": None}):
        with pytest.raises(ArgumentTypeError, match="must be a whole number"):
            lyapunov(model, 0, x, **wrong)
    with pytest.raises(ArgumentTypeError, match="probes must be a whole number; got '3'"):
        memory_horizon(model, 0, x, probes="3")


class Doubling(layers.LSTMCell):
    """Does something else than its spec says."""

    def call(self, inputs, states, training=False):
        h, (_, c) = super().call(inputs, states, training)
        return 2 * h, [2 * h, c]


def shared():
    a, b, lstm = keras.Input((6, 2)), keras.Input((6, 2)), layers.LSTM(2, name="rnn")
    return keras.Model([a, b], layers.Add()([lstm(a), lstm(b)]))


X = data(2, 6, 2)
REFUSED = {
    "stacked": (
        lambda: of(layers.RNN([layers.LSTMCell(2), layers.LSTMCell(2)], name="rnn"), 6),
        X,
        UnsupportedLayerError,
        "rnn stacks LSTMCell, LSTMCell",
    ),
    "not recurrent": (lambda: of(layers.Dense(2, name="rnn"), 6), X, UnsupportedLayerError, "is a Dense"),
    "unknown": (lambda: of(layers.LSTM(2, name="lstm"), 6), X, UnknownLayerError, "'rnn'; layers are: lstm"),
    "not as specified": (
        lambda: of(layers.RNN(Doubling(2), name="rnn"), 6),
        X,
        CaptureError,
        "cannot be replayed: its output differs",
    ),
    "shared": (shared, [X, X], ArgumentError, "rnn is called 2 times"),
    "unbuilt": (lambda: keras.Sequential([layers.LSTM(2, name="rnn")]), X, ArgumentError, "is not built yet"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused(case):
    make, x, error, message = REFUSED[case]
    model = make()
    for measure in (memory_horizon, lyapunov, memory_horizon):
        with pytest.raises(error, match=message):
            measure(model, "rnn", x)


def test_what_is_not_finite_is_not_left_out_in_silence():
    model, x = of(layers.LSTM(UNITS), 6), data(2, 6, 2)
    x[0, 4] = np.nan
    found = memory_horizon(model, 0, x)
    assert found["strength"][:, -1].isnull().all()
    assert np.isnan(found.attrs["horizon"])
