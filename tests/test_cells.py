"""Gate layout and mathematics of the known cells against NumPy loops and against Keras's own layers."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from see_rnn_like import cells
from see_rnn_like.cells import CellSpec, cell_spec, is_known_cell, register_cell
from see_rnn_like.errors import ArgumentError, UnsupportedLayerError

UNITS, INPUTS, SAMPLES, TIMES = 3, 5, 4, 6

LSTM = keras.layers.LSTM
GRU = keras.layers.GRU
SIMPLE = keras.layers.SimpleRNN


def built(layer_class, seed=0, **arguments):
    """A layer with random weights, biases included, that returns all timesteps."""
    keras.utils.set_random_seed(seed)
    layer = layer_class(UNITS, return_sequences=True, **arguments)
    layer.build((SAMPLES, TIMES, INPUTS))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(scale=0.7, size=w.shape).astype("float32") for w in layer.get_weights()])
    return layer


def batch(seed=1):
    return np.random.default_rng(seed).normal(size=(SAMPLES, TIMES, INPUTS)).astype("float32")


# ---- the second computation: loops over samples, times and units ----------------------------------


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def dot(x, matrix, column):
    return sum(float(a) * float(b) for a, b in zip(x, matrix[:, column], strict=True))


def lstm_loop(weights, x, h, c, act=np.tanh, rec=sigmoid):
    """One step of one sample, unit by unit, in the column order of Keras: i, f, c, o."""
    kernel, recurrent = weights[:2]
    bias = weights[2] if len(weights) > 2 else np.zeros(4 * UNITS)
    z = [dot(x, kernel, k) + dot(h, recurrent, k) + float(bias[k]) for k in range(4 * UNITS)]
    i, f, g, o = (np.array(z[gate * UNITS : (gate + 1) * UNITS]) for gate in range(4))
    i, f, g, o = rec(i), rec(f), act(g), rec(o)
    new_c = f * c + i * g
    return np.stack([i, f, g, o]), (o * act(new_c), new_c)


def gru_loop(weights, x, h, reset_after, act=np.tanh, rec=sigmoid):
    """One step of one sample; Cho et al. (2014), and the variant of cuDNN, order z, r, h."""
    kernel, recurrent = weights[:2]
    bias = np.atleast_2d(weights[2]) if len(weights) > 2 else np.zeros((2, 3 * UNITS))
    b_in, b_rec = bias[0], bias[1] if len(bias) > 1 else np.zeros(3 * UNITS)
    xs = [dot(x, kernel, k) + float(b_in[k]) for k in range(3 * UNITS)]
    update = rec(np.array([xs[k] + dot(h, recurrent, k) + float(b_rec[k]) for k in range(UNITS)]))
    reset = rec(np.array([xs[k] + dot(h, recurrent, k) + float(b_rec[k]) for k in range(UNITS, 2 * UNITS)]))
    last = range(2 * UNITS, 3 * UNITS)
    if reset_after:
        inner = reset * np.array([dot(h, recurrent, k) + float(b_rec[k]) for k in last])
    else:
        inner = np.array([dot(reset * h, recurrent, k) for k in last])
    new = act(np.array([xs[k] for k in last]) + inner)
    return np.stack([update, reset, new]), (update * h + (1 - update) * new,)


def simple_loop(weights, x, h, act=np.tanh):
    bias = weights[2] if len(weights) > 2 else np.zeros(UNITS)
    z = [dot(x, weights[0], k) + dot(h, weights[1], k) + float(bias[k]) for k in range(UNITS)]
    return act(np.array(z))[None], (act(np.array(z)),)


def run_loop(step, states):
    """Gates ``(sample, time, gate, unit)`` and states ``(state, sample, time, unit)`` of a whole batch."""
    gates, kept = [], []
    for sample in batch():
        current, rows, values = states, [], []
        for x in sample:
            row, current = step(x, *current)
            rows.append(row)
            values.append(current)
        gates.append(rows)
        kept.append(values)
    return np.array(gates), np.moveaxis(np.array(kept), 2, 0)


ZERO = np.zeros(UNITS)
CASES = {
    "lstm": (LSTM, {}, lambda w: run_loop(lambda x, h, c: lstm_loop(w, x, h, c), (ZERO, ZERO))),
    "lstm, no bias": (
        *(LSTM, {"use_bias": False}),
        lambda w: run_loop(lambda x, h, c: lstm_loop(w, x, h, c), (ZERO, ZERO)),
    ),
    "lstm, other activations": (
        *(LSTM, {"activation": "softsign", "recurrent_activation": "tanh"}),
        lambda w: run_loop(
            lambda x, h, c: lstm_loop(w, x, h, c, lambda z: z / (1 + np.abs(z)), np.tanh), (ZERO, ZERO)
        ),
    ),
    "gru, reset after": (
        *(GRU, {"reset_after": True}),
        lambda w: run_loop(lambda x, h: gru_loop(w, x, h, True), (ZERO,)),
    ),
    "gru, reset before": (
        *(GRU, {"reset_after": False}),
        lambda w: run_loop(lambda x, h: gru_loop(w, x, h, False), (ZERO,)),
    ),
    "gru, reset after, no bias": (
        *(GRU, {"use_bias": False}),
        lambda w: run_loop(lambda x, h: gru_loop(w, x, h, True), (ZERO,)),
    ),
    "gru, reset before, no bias": (
        *(GRU, {"reset_after": False, "use_bias": False}),
        lambda w: run_loop(lambda x, h: gru_loop(w, x, h, False), (ZERO,)),
    ),
    "simple": (SIMPLE, {}, lambda w: run_loop(lambda x, h: simple_loop(w, x, h), (ZERO,))),
    "simple, no bias, relu": (
        *(SIMPLE, {"use_bias": False, "activation": "relu"}),
        lambda w: run_loop(lambda x, h: simple_loop(w, x, h, lambda z: np.maximum(z, 0)), (ZERO,)),
    ),
}


def spec_run(spec, cell, inputs):
    """Steps through the batch with `activate` and `advance` alone."""
    states = tuple(np.zeros((len(inputs), UNITS), "float32") for _ in spec.states)
    gates, kept = [], []
    for time in range(inputs.shape[1]):
        now = spec.activate(cell, inputs[:, time], states[0])
        states = spec.advance(cell, now, states)
        gates.append(keras.ops.convert_to_numpy(now))
        kept.append([keras.ops.convert_to_numpy(state) for state in states])
    return np.stack(gates, 1), np.stack(kept, 2)


@pytest.mark.parametrize("case", CASES)
def test_gates_and_states_are_those_of_a_loop_and_of_the_layer_itself(case):
    layer_class, arguments, loop = CASES[case]
    layer = built(layer_class, **arguments)
    spec = cell_spec(layer.cell)
    gates, states = spec_run(spec, layer.cell, batch())
    loop_gates, loop_states = loop([w.astype("float64") for w in layer.get_weights()])
    assert gates.shape == (SAMPLES, TIMES, len(spec.gates), UNITS)
    np.testing.assert_allclose(gates, loop_gates, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(states, loop_states, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(states[0], layer(batch()), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_all_timesteps_are_activated_in_one_call(case):
    layer_class, arguments, _ = CASES[case]
    layer = built(layer_class, **arguments)
    spec = cell_spec(layer.cell)
    gates, states = spec_run(spec, layer.cell, batch())
    before = np.concatenate([np.zeros((SAMPLES, 1, UNITS), "float32"), states[0][:, :-1]], 1)
    at_once = keras.ops.convert_to_numpy(spec.activate(layer.cell, batch(), before))
    np.testing.assert_allclose(at_once, gates, rtol=1e-5, atol=1e-6)


# ---- layout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_splitting_labels_every_weight_and_joining_undoes_it_bit_for_bit(case):
    layer_class, arguments, _ = CASES[case]
    cell = built(layer_class, **arguments).cell
    spec = cell_spec(cell)
    for role in spec.roles:
        weight = getattr(cell, role)
        if weight is None:
            assert arguments["use_bias"] is False
            continue
        array = weight.numpy()
        labelled = spec.split(role, array)
        assert labelled.sizes["gate"] == len(spec.gates)
        assert labelled.sizes["unit"] == UNITS
        for number, gate in enumerate(spec.gates):
            columns = slice(number * UNITS, (number + 1) * UNITS)
            np.testing.assert_array_equal(labelled.sel(gate=gate), array[..., columns])
        for shuffled in (
            labelled,
            labelled.sel(gate=list(spec.gates)[::-1]),
            labelled.transpose("unit", ...),
        ):
            back = spec.join(shuffled)
            assert back.dtype == array.dtype
            assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("layer_class", "arguments", "dims"),
    [
        (LSTM, {}, {"kernel": ("input", "gate", "unit"), "bias": ("gate", "unit")}),
        (
            GRU,
            {"reset_after": True},
            {"recurrent_kernel": ("state", "gate", "unit"), "bias": ("side", "gate", "unit")},
        ),
        (GRU, {"reset_after": False}, {"bias": ("gate", "unit")}),
        (SIMPLE, {}, {"kernel": ("input", "gate", "unit"), "bias": ("gate", "unit")}),
    ],
)
def test_axes_are_called_what_the_vocabulary_says(layer_class, arguments, dims):
    cell = built(layer_class, **arguments).cell
    for role, expected in dims.items():
        labelled = cell_spec(cell).split(role, getattr(cell, role).numpy())
        assert labelled.dims == expected
        if "side" in expected:
            assert labelled["side"].values.tolist() == ["input", "recurrent"]


def test_gates_come_in_keras_order():
    assert cell_spec(built(LSTM).cell).gates == ("input", "forget", "cell", "output")
    assert cell_spec(built(GRU).cell).gates == ("update", "reset", "new")
    assert cell_spec(built(SIMPLE).cell).gates == ("hidden",)
    assert cell_spec(built(LSTM).cell).states == ("h", "c")


TOY = CellSpec("Toy", ("a", "b", "c"), ("h",), activate=None, advance=None)


@given(
    st.lists(st.integers(1, 4), max_size=3),
    st.integers(1, 5),
    st.permutations(["a", "b", "c"]),
    st.sampled_from(
        [(..., "gate", "unit"), ("unit", "gate", ...), ("gate", ..., "unit"), (..., "unit", "gate")]
    ),
)
def test_split_and_join_are_inverse_for_any_number_and_order_of_axes(leading, units, gates, axes):
    array = np.random.default_rng(0).normal(size=(*leading, 3 * units))
    labelled = TOY.split("kernel", array)
    assert labelled.shape == TOY.split_shape("kernel", array.shape) == (*leading, 3, units)
    assert len(set(labelled.dims)) == labelled.ndim
    np.testing.assert_array_equal(TOY.join(labelled.sel(gate=gates).transpose(*axes)), array)


def test_splitting_shares_memory_and_leaves_the_weight_alone():
    array = np.arange(12.0).reshape(2, 6)
    before = array.copy()
    assert np.shares_memory(TOY.split("kernel", array).values, array)
    TOY.join(TOY.split("kernel", array))
    np.testing.assert_array_equal(array, before)


def test_what_cannot_be_split_or_joined_is_refused_with_the_reason():
    with pytest.raises(ArgumentError) as caught:
        TOY.split("kernel", np.zeros((2, 7)))
    assert str(caught.value) == (
        "the last axis of a Toy kernel holds 3 gates (a, b, c) of equal size; got shape (2, 7)"
    )
    with pytest.raises(
        ArgumentError, match="role of Toy must be one of 'kernel', 'recurrent_kernel', 'bias'; got 'k'"
    ):
        TOY.split("k", np.zeros((2, 6)))
    with pytest.raises(ArgumentError, match="a bias with gates has at least one axis; got a scalar"):
        TOY.split("bias", np.float32(3))
    labelled = TOY.split("kernel", np.zeros((2, 6)))
    for wrong, found in (
        (labelled.sel(gate=["a", "b"]), "a, b"),
        (labelled.drop_vars("gate"), "no gate coordinate"),
    ):
        with pytest.raises(ArgumentError) as caught:
            TOY.join(wrong)
        assert str(caught.value) == f"joining a Toy weight needs the gates a, b, c once each; got {found}"


# ---- looking up ----------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    """Registrations of a test are forgotten after it."""
    is_known_cell(None)
    monkeypatch.setattr(cells, "_REGISTRY", dict(cells._REGISTRY))


class MyLSTMCell(keras.layers.LSTMCell):
    """A subclass needs no registration."""


class ToyCell(keras.Layer):
    """A cell nobody told us about."""

    state_size = 3


def test_subclasses_are_found_along_the_mro():
    assert cell_spec(MyLSTMCell(3)) is cell_spec(keras.layers.LSTMCell(3))
    assert is_known_cell(MyLSTMCell(3))


def test_an_unknown_cell_is_named_with_the_known_ones_and_the_way_to_add_it():
    assert not is_known_cell(ToyCell())
    with pytest.raises(UnsupportedLayerError) as caught:
        cell_spec(ToyCell())
    assert str(caught.value).startswith("ToyCell is not a known recurrent cell; known are ")
    # Other tests may have registered cells of their own in this process.
    known = str(caught.value).partition("known are ")[2].partition("; make it known")[0].split(", ")
    assert {"GRUCell", "LSTMCell", "SimpleRNNCell"} <= set(known)
    assert known == sorted(known)
    assert str(caught.value).endswith("see_rnn_like.register_cell(cell_class, CellSpec(...))")


@pytest.mark.usefixtures("registry")
def test_a_registered_cell_is_known_and_its_subclasses_with_it():
    register_cell(ToyCell, TOY)
    assert cell_spec(ToyCell()) is TOY
    assert cell_spec(type("Child", (ToyCell,), {})()) is TOY


@pytest.mark.usefixtures("registry")
def test_a_nearer_class_counts_more_than_a_farther_one():
    register_cell(MyLSTMCell, TOY)
    assert cell_spec(MyLSTMCell(3)) is TOY
    assert cell_spec(keras.layers.LSTMCell(3)).name == "LSTM"


@pytest.mark.usefixtures("registry")
def test_a_class_is_registered_once():
    with pytest.raises(ArgumentError, match="LSTMCell is registered already, as LSTM"):
        register_cell(keras.layers.LSTMCell, TOY)
    register_cell(ToyCell, TOY)
    with pytest.raises(ArgumentError, match="ToyCell is registered already, as Toy"):
        register_cell(ToyCell, TOY)
