"""Gates and states over time, against NumPy loops that share no code with the package."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from see_rnn_like import CellSpec, errors, gate_saturation, register_cell, trace

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 7, 4)).astype("float32")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm_loop(weights, x):
    kernel, recurrent, bias = (w.astype("float64") for w in weights)
    units = recurrent.shape[0]
    h, c, gates, hs, cs = np.zeros((len(x), units)), np.zeros((len(x), units)), [], [], []
    for t in range(x.shape[1]):
        z = x[:, t] @ kernel + h @ recurrent + bias
        i, f, g, o = (z[:, k * units : (k + 1) * units] for k in range(4))
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        gates.append(np.stack([i, f, g, o], 1))
        hs.append(h)
        cs.append(c)
    return np.stack(gates, 1), np.stack(hs, 1), np.stack(cs, 1)


def gru_loop(weights, x, reset_after):
    kernel, recurrent, bias = (w.astype("float64") for w in weights)
    units = recurrent.shape[0]
    inner, outer = bias if reset_after else (bias, np.zeros_like(bias))
    h, gates, hs = np.zeros((len(x), units)), [], []
    for t in range(x.shape[1]):
        a = x[:, t] @ kernel + inner
        b = h @ recurrent + outer
        z = sigmoid(a[:, :units] + b[:, :units])
        r = sigmoid(a[:, units : 2 * units] + b[:, units : 2 * units])
        candidate = r * b[:, 2 * units :] if reset_after else (r * h) @ recurrent[:, 2 * units :]
        n = np.tanh(a[:, 2 * units :] + candidate)
        h = z * h + (1 - z) * n
        gates.append(np.stack([z, r, n], 1))
        hs.append(h)
    return np.stack(gates, 1), np.stack(hs, 1)


def simple_loop(weights, x):
    kernel, recurrent, bias = (w.astype("float64") for w in weights)
    h, hs = np.zeros((len(x), recurrent.shape[0])), []
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ kernel + h @ recurrent + bias)
        hs.append(h)
    return np.stack(hs, 1)[:, :, None], np.stack(hs, 1)


LOOPS = {
    "lstm": (lambda **kw: layers.LSTM(5, **kw), lstm_loop),
    "gru": (lambda **kw: layers.GRU(5, **kw), lambda w, x: gru_loop(w, x, True)),
    "gru_reset_before": (
        lambda **kw: layers.GRU(5, reset_after=False, **kw),
        lambda w, x: gru_loop(w, x, False),
    ),
    "simplernn": (lambda **kw: layers.SimpleRNN(5, **kw), simple_loop),
}


def model_of(layer, inputs=(7, 4)):
    model = keras.Sequential([keras.Input(inputs), layer])
    for weight in model.weights:
        weight.assign(RNG.standard_normal(weight.shape) * 0.5)
    return model


def compare(found, expected, rtol=1e-5):
    for name, values in zip(["gates", "h", "c"], expected, strict=False):
        np.testing.assert_allclose(found[name], values, rtol=rtol, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("kind", LOOPS)
def test_every_gate_and_state_equals_a_numpy_loop(kind, return_sequences):
    make, loop = LOOPS[kind]
    model = model_of(make(return_sequences=return_sequences))
    found = trace(model, 0, X)
    compare(found, loop(model.get_weights(), X))
    assert found["gates"].dims == ("sample", "time", "gate", "unit")
    output = model(X).numpy()
    np.testing.assert_allclose(found["h"] if return_sequences else found["h"][:, -1], output, atol=1e-6)


@pytest.mark.parametrize("kind", LOOPS)
def test_both_directions_in_input_order(kind):
    make, loop = LOOPS[kind]
    model = model_of(layers.Bidirectional(make(return_sequences=True)))
    found = trace(model, 0, X)
    forward, backward = np.split(np.array(model.get_weights(), dtype=object), 2)
    compare(found.sel(direction="forward"), loop(list(forward), X))
    turned = [series[:, ::-1] for series in loop(list(backward), X[:, ::-1])]
    compare(found.sel(direction="backward"), turned)


def test_a_layer_that_runs_backwards_alone():
    model = model_of(layers.LSTM(5, go_backwards=True))
    found = trace(model, 0, X)
    compare(found, [series[:, ::-1] for series in lstm_loop(model.get_weights(), X[:, ::-1])])


def test_masked_timesteps_have_no_gates_and_carry_their_states():
    tokens = np.array([[1, 2, 3, 0, 0], [2, 0, 1, 3, 0]])
    model = keras.Sequential([keras.Input((5,)), layers.Embedding(4, 3, mask_zero=True), layers.LSTM(5)])
    found = trace(model, "lstm", tokens)
    embedded = model.layers[0](tokens).numpy()
    for sample, length in ((0, [0, 1, 2]), (1, [0, 2, 3])):
        gates, h, c = lstm_loop(model.layers[1].get_weights(), embedded[sample : sample + 1, length])
        np.testing.assert_allclose(found["gates"][sample, length], gates[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["c"][sample, length], c[0], rtol=1e-5, atol=1e-6)
        padded = np.setdiff1d(range(5), length)
        assert found["gates"][sample, padded].isnull().all()
        np.testing.assert_allclose(found["h"][sample, -1], h[0, -1], atol=1e-6)


def test_initial_states_of_an_encoder_are_where_the_decoder_starts():
    source, target = keras.Input((7, 4)), keras.Input((7, 4))
    _, h, c = layers.LSTM(5, return_state=True, name="encoder")(source)
    decoded = layers.LSTM(5, return_sequences=True, name="decoder")(target, initial_state=[h, c])
    model = keras.Model([source, target], decoded)
    found = trace(model, "decoder", [X, X])
    np.testing.assert_allclose(found["h"], model([X, X]), atol=1e-6)


def test_a_stateful_layer_starts_from_what_it_holds_and_keeps_it():
    model = keras.Sequential([keras.Input(batch_shape=(3, 7, 4)), layers.GRU(5, stateful=True)])
    model(X)
    held = model.layers[0].states[0].numpy()
    found = trace(model, 0, X)
    np.testing.assert_array_equal(model.layers[0].states[0].numpy(), held)
    np.testing.assert_allclose(found["h"][:, -1], model(X), atol=1e-6)


def test_nothing_of_the_model_changes():
    model = keras.Sequential(
        [keras.Input((7, 4)), layers.LSTM(5, dropout=0.3, recurrent_dropout=0.2), layers.BatchNormalization()]
    )
    before = [v.numpy() for v in model.variables]
    x = X.copy()
    trace(model, 0, x)
    np.testing.assert_array_equal(x, X)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert "call" not in vars(model.layers[0])
    # Keras names new layers by counting; a trace must not use up a number.
    assert layers.RNN(layers.LSTMCell(2)).name == "rnn"


class Leaky(layers.Layer):
    """h = a h + (1 − a) x: a cell of one's own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, inputs, states):
        h = 0.9 * states[0] + 0.1 * keras.ops.matmul(inputs, self.kernel)
        return h, [h]


class Wrong(Leaky):
    """Does something else than its spec says."""

    def call(self, inputs, states):
        h, _ = super().call(inputs, states)
        return 2 * h, [2 * h]


def leaky_gates(cell, inputs, h):
    return (0.9 * h + 0.1 * keras.ops.matmul(inputs, cell.kernel))[..., None, :]


register_cell(
    Leaky,
    CellSpec(
        "Leaky",
        ("hidden",),
        ("h",),
        leaky_gates,
        lambda cell, gates, states: (gates[..., 0, :],),
        roles={"kernel": "input"},
    ),
)


def test_a_registered_cell_is_traced():
    model = model_of(layers.RNN(Leaky(5), return_sequences=True))
    found = trace(model, 0, X)
    h, expected = np.zeros((3, 5)), []
    for t in range(7):
        h = 0.9 * h + 0.1 * X[:, t] @ model.get_weights()[0]
        expected.append(h)
    np.testing.assert_allclose(found["h"], np.stack(expected, 1), rtol=1e-4, atol=1e-6)


def test_a_cell_that_does_not_do_what_its_spec_says_is_refused():
    with pytest.raises(errors.CaptureError, match="cannot be replayed: its output differs"):
        trace(model_of(layers.RNN(Wrong(5))), 0, X)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (layers.Dense(3), errors.UnsupportedLayerError, "is a Dense; gates and states are in LSTM"),
        (
            layers.RNN([layers.LSTMCell(2), layers.LSTMCell(3)]),
            errors.UnsupportedLayerError,
            "stacks LSTMCell, LSTMCell",
        ),
    ],
)
def test_what_cannot_be_traced_is_refused(layer, error, message):
    with pytest.raises(error, match=message):
        trace(model_of(layer), 0, X)


def test_an_unknown_layer_is_named():
    with pytest.raises(errors.UnknownLayerError, match="'lsmt'"):
        trace(model_of(layers.LSTM(2, name="lstm")), "lsmt", X)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_saturation_counts_shares_of_samples_and_timesteps(seed):
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (3, 4, 2, 5))
    values[rng.random(values.shape[:2]) < 0.2] = np.nan
    found = gate_saturation(as_trace(values))
    for gate, low in enumerate((0.1, -0.9)):
        for unit in range(5):
            series = values[:, :, gate, unit]
            series = series[~np.isnan(series)]
            for side, hits in (("left", series < low), ("right", series > 0.9)):
                share = hits.sum() / len(series) if len(series) else np.nan
                np.testing.assert_allclose(found[side][gate, unit], share)


def as_trace(values):
    import xarray as xr

    gates = xr.DataArray(values, dims=("sample", "time", "gate", "unit"), coords={"gate": ["forget", "cell"]})
    return xr.Dataset({"gates": gates}, attrs={"gating": ["forget"]})


def test_saturation_wants_a_trace():
    with pytest.raises(errors.ArgumentError, match="takes the Dataset that trace"):
        gate_saturation(as_trace(np.zeros((1, 1, 2, 1))).drop_vars("gates"))


# -- what a trace says, and where it starts -----------------------------------------------------


@pytest.mark.parametrize(("kind", "keeping"), [("lstm", "forget"), ("gru", "update"), ("simplernn", "")])
def test_a_trace_names_the_gate_that_keeps_the_state(kind, keeping):
    found = trace(model_of(LOOPS[kind][0]()), 0, X)
    assert found.attrs["keeping"] == keeping
    assert keeping in (*found["gate"].values, "")
    assert set(found.attrs) == {"layer", "cell", "gating", "keeping"}


MASK = np.array([[False, False, True, True, False, True, False], [True] * 7, [False] * 7])


@pytest.mark.parametrize("zero_output", [False, True])
@pytest.mark.parametrize("return_sequences", [False, True])
def test_zeros_put_out_at_masked_timesteps_are_no_states(return_sequences, zero_output):
    rnn = layers.LSTM(5, return_sequences=return_sequences, zero_output_for_mask=zero_output)
    model = keras.Sequential([keras.Input((7, 4)), layers.Masking(), rnn])
    x = np.where(MASK[..., None], X, 0)
    found = trace(model, 1, x)
    for sample in range(2):
        alive = MASK[sample]
        _, h, c = lstm_loop(rnn.get_weights(), x[sample : sample + 1, alive])
        last = np.cumsum(alive)
        for name, series in (("h", h), ("c", c)):
            carried = np.concatenate([np.zeros((1, 5)), series[0]])[last]
            np.testing.assert_allclose(found[name][sample], carried, rtol=1e-5, atol=1e-6)
    assert found["gates"].isnull().all(("gate", "unit")).equals(found["gates"].isnull().any(("gate", "unit")))
    np.testing.assert_array_equal(found["gates"].isnull().all(("gate", "unit")), ~MASK)
    assert not found["h"][2].any()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("make", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_padding_carries_the_state_a_layer_is_given(make, backwards):
    count = 2 if make is layers.LSTM else 1
    x, mask = keras.Input((7, 4)), keras.Input((7,), dtype="bool")
    start = [keras.Input((5,)) for _ in range(count)]
    rnn = make(5, return_sequences=True, go_backwards=backwards, name="rnn")
    model = keras.Model([x, mask, *start], rnn(x, mask=mask, initial_state=start))
    given_start = [RNG.standard_normal((3, 5)).astype("float32") for _ in range(count)]
    found = trace(model, "rnn", [X, MASK, *given_start])
    order = slice(None, None, -1 if backwards else 1)
    for name, first in zip("hc", given_start, strict=False):
        in_order, alive = found[name].values[:, order], MASK[:, order]
        np.testing.assert_array_equal(in_order[2], np.stack([first[2]] * 7))
        leading = alive[0].argmax()
        np.testing.assert_array_equal(in_order[0, :leading], np.stack([first[0]] * leading))
    # The layer puts out its states wherever it ran.
    out = model([X, MASK, *given_start]).numpy()
    np.testing.assert_allclose(found["h"].values[:, order][MASK[:, order]], out[MASK[:, order]], atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("make", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_half_precision_is_traced_within_its_own_accuracy(make, policy):
    model = model_of(make(5, return_sequences=True, dtype=policy))
    loop = {layers.LSTM: lstm_loop, layers.GRU: LOOPS["gru"][1], layers.SimpleRNN: simple_loop}[make]
    found = trace(model, 0, X)
    tolerance = 1e-2 if policy == "mixed_float16" else 8e-2
    for name, values in zip(["gates", "h", "c"], loop(model.get_weights(), X), strict=False):
        np.testing.assert_allclose(found[name].astype("float32"), values, atol=tolerance)
    np.testing.assert_allclose(
        found["h"].astype("float32"),
        np.asarray(model(X), "float32"),
        atol=2e-3 if "b" not in policy else 2e-2,
    )


@pytest.mark.parametrize("kind", LOOPS)
def test_unrolled_and_without_cudnn(kind):
    make, loop = LOOPS[kind]
    model = model_of(make(unroll=True, **({} if kind == "simplernn" else {"use_cudnn": False})))
    compare(trace(model, 0, X), loop(model.get_weights(), X))


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_spec_that_is_wrong_stays_refused(eagerly):
    model = model_of(layers.RNN(Wrong(5), return_sequences=True))
    model.run_eagerly = eagerly
    for _ in range(3):
        with pytest.raises(errors.CaptureError, match="cannot be replayed: its output differs"):
            trace(model, 0, X)
    rnn = model.layers[0]
    assert not {"inner_loop", "call"} & {*vars(rnn), *vars(rnn.cell)}
    assert rnn.return_sequences is True


def test_a_trace_is_of_the_weights_there_are_now():
    model = model_of(layers.LSTM(5))
    for _ in range(3):
        compare(trace(model, 0, X), lstm_loop(model.get_weights(), X))
        model.set_weights([w + 0.1 for w in model.get_weights()])


def test_a_trace_is_of_the_activation_there_is_now():
    model = model_of(layers.SimpleRNN(5))
    kernel, recurrent, bias = model.get_weights()
    for factor in (1.0, 0.5, 0.25):
        model.layers[0].cell.activation = lambda z, factor=factor: factor * keras.ops.tanh(z)
        found, h = trace(model, 0, X), np.zeros((3, 5))
        for t in range(7):
            h = factor * np.tanh(X[:, t] @ kernel + h @ recurrent + bias)
            np.testing.assert_allclose(found["h"][:, t], h, rtol=1e-4, atol=1e-6)


def test_lengths_and_batches_may_change_between_calls():
    model = model_of(layers.GRU(5), inputs=(None, 4))
    for samples, timesteps in ((1, 1), (2, 3), (3, 5), (1, 7)):
        x = X[:samples, :timesteps]
        compare(trace(model, 0, x), gru_loop(model.get_weights(), x, True))


def test_a_layer_called_more_than_once_is_refused():
    a, b, lstm = keras.Input((7, 4)), keras.Input((7, 4)), layers.LSTM(2, name="lstm")
    model = keras.Model([a, b], layers.Add()([lstm(a), lstm(b)]))
    with pytest.raises(errors.ArgumentError, match="lstm is called 2 times"):
        trace(model, "lstm", [X, X])
    looped = model_of(layers.TimeDistributed(layers.LSTM(2)), inputs=(2, 7, 4))
    with pytest.raises(errors.ArgumentError, match="not within a loop such as TimeDistributed"):
        trace(looped, 0, np.stack([X, X], 1))


def test_saturation_of_a_trace_in_bfloat16():
    model = model_of(layers.LSTM(5, dtype="mixed_bfloat16"))
    found = gate_saturation(trace(model, 0, X))
    gates = trace(model, 0, X)["gates"].astype("float32").sel(gate="forget")
    np.testing.assert_allclose(found["right"].sel(gate="forget"), (gates > 0.9).mean(("sample", "time")))


@pytest.mark.parametrize(
    "backward", [layers.GRU(5, go_backwards=True), layers.LSTM(4, go_backwards=True)], ids=["cell", "units"]
)
def test_directions_of_different_cells_or_sizes_are_refused(backward):
    model = model_of(layers.Bidirectional(layers.LSTM(5), backward_layer=backward))
    with pytest.raises(errors.UnsupportedLayerError, match="forward"):
        trace(model, 0, X)


def test_an_activation_at_the_address_of_a_forgotten_one_is_seen():
    model = model_of(layers.SimpleRNN(5))
    first = X[:, 0] @ model.get_weights()[0] + model.get_weights()[2]
    for k in range(10):
        model.layers[0].cell.activation = lambda z, k=k: (k % 3 + 1) * z
        np.testing.assert_allclose(trace(model, 0, X)["h"][:, 0], (k % 3 + 1) * first, rtol=1e-4, atol=1e-6)
        model.layers[0].cell.activation = keras.activations.tanh


def test_outputs_of_exact_zeros_in_half_precision_are_traced():
    model = keras.Sequential([keras.Input((7, 4)), layers.LSTM(5, dtype="mixed_float16")])
    found = trace(model, 0, np.zeros((3, 7, 4), "float32"))
    assert (found["h"] == 0).all()


def test_a_first_trace_leaves_the_precision_of_products_as_it_is():
    for enabled in (False, True):
        tf.config.experimental.enable_tensor_float_32_execution(enabled)
        trace(model_of(layers.GRU(2)), 0, X)
        assert tf.config.experimental.tensor_float_32_execution_enabled() is enabled
