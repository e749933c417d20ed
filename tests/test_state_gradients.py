"""Total derivatives by states: against finite differences of NumPy loops and an eager tape over the cell."""

from __future__ import annotations

import functools
import gc
import weakref

import keras
import numpy as np
import numpy_states
import pytest
import tensorflow as tf
from keras import layers, ops
from unchanged import nothing_changes

from see_rnn_like import CellSpec, register_cell
from see_rnn_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    CaptureError,
    UnknownLayerError,
    UnsupportedLayerError,
)
from see_rnn_like.extract.gradients import get_gradients
from see_rnn_like.extract.states import get_state_gradients

SAMPLES, TIMESTEPS, INPUTS, UNITS = 3, 6, 2, 4


class Damped(layers.Layer):
    """A cell of one's own with two states, the output following the second within a timestep."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.output_size = units
        self.state_size = [units, units]

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units, self.units), name="recurrent_kernel")

    def call(self, inputs, states):
        h, c = states
        c = 0.8 * c + ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent_kernel)
        h = ops.sin(c)
        return h, [h, c]


register_cell(
    Damped,
    CellSpec(
        "Damped",
        ("drive",),
        ("h", "c"),
        lambda cell, x, h: (ops.matmul(x, cell.kernel) + ops.matmul(h, cell.recurrent_kernel))[..., None, :],
        lambda cell, gates, states: (
            ops.sin(0.8 * states[1] + gates[..., 0, :]),
            0.8 * states[1] + gates[..., 0, :],
        ),
        roles={"kernel": "input", "recurrent_kernel": "state"},
    ),
)

KINDS = {
    "lstm": (numpy_states.lstm, layers.LSTM),
    "gru": (numpy_states.gru, layers.GRU),
    "gru_reset_before": (numpy_states.gru_reset_before, functools.partial(layers.GRU, reset_after=False)),
    "simple_rnn": (numpy_states.simple_rnn, layers.SimpleRNN),
    "own_cell": (numpy_states.damped, lambda units, **kw: layers.RNN(Damped(units), **kw)),
}


def data(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


X = data(SAMPLES, TIMESTEPS, INPUTS)
MASK = np.array(
    [[False, False, True, True, False, True], [True, True, False, False, True, False], [False] * TIMESTEPS]
)


def randomize(model, seed=0, size=0.6):
    rng = np.random.default_rng(seed)
    model.set_weights([size * rng.standard_normal(w.shape) for w in model.get_weights()])
    return model


def weighted(seed=9):
    """A loss of the outputs, the same for TensorFlow and (per sample) NumPy."""

    def of_tensor(outputs):
        return ops.sum(outputs * ops.cast(data(*outputs.shape[1:], seed=seed), outputs.dtype))

    def of_array(outputs):
        return (outputs * data(*outputs.shape[1:], seed=seed)).reshape(len(outputs), -1).sum(1)

    return of_tensor, of_array


OF_TENSOR, OF_ARRAY = weighted()


def numeric(loss, states, units=UNITS, timesteps=TIMESTEPS, samples=SAMPLES):
    return numpy_states.gradients(loss, samples, timesteps, units, states)


def agree(found, expected, share=1e-3):
    """Largest difference within a share of the largest value, per state."""
    assert list(found.data_vars) == ["h", "c"][: len(expected)]
    for name, values in zip(found.data_vars, expected, strict=True):
        assert found[name].dims[-3:] == ("sample", "time", "unit")
        assert np.abs(values).max() > 0, name
        difference = np.abs(found[name].values - values).max() / np.abs(values).max()
        assert difference <= share, f"{name}: {difference:.1e}"


# -- every cell against finite differences ------------------------------------------------------


def check_cell(kind, return_sequences, share):
    step, make = KINDS[kind]
    rnn = make(UNITS, return_sequences=return_sequences, name="rnn")
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), rnn, layers.Dense(2)]))
    model.compile("sgd", "mse")
    *weights, kernel, bias = (w.astype("float64") for w in model.get_weights())
    y = data(*model.output_shape[1:], seed=2)[None].repeat(SAMPLES, 0)

    def loss(nudges):
        h = numpy_states.run(step, weights, X, nudges=nudges)[0]
        out = (h if return_sequences else h[:, -1]) @ kernel + bias
        return np.square(out - y).reshape(SAMPLES, -1).sum(1) / y.size

    expected = numeric(loss, numpy_states.STATES[step])
    for one in expected:
        assert (np.abs(one[:, [0, TIMESTEPS // 2, -1]]).max((0, 2)) > 1e-6).all()
    found = get_state_gradients(model, "rnn", X, y)
    agree(found, expected, share)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_equals_finite_differences_in_float32(kind):
    found = check_cell(kind, True, 1e-3)
    assert found.attrs == {
        "layer": "rnn",
        "kind": "gradient",
        "cell": {"lstm": "LSTM", "simple_rnn": "SimpleRNN", "own_cell": "Damped"}.get(kind, "GRU"),
    }
    np.testing.assert_array_equal(found["time"], range(TIMESTEPS))


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_equals_finite_differences_in_float64(float64, kind, return_sequences):
    found = check_cell(kind, return_sequences, 1e-6)
    assert found["h"].dtype == "float64"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_an_eager_tape_by_the_very_states(kind):
    _, make = KINDS[kind]
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), make(UNITS)]))
    rnn, count = model.layers[0], 2 if kind in ("lstm", "own_cell") else 1
    states = [tf.zeros((SAMPLES, UNITS)) for _ in range(count)]
    passed = []
    with tf.GradientTape() as tape:
        tape.watch(states)
        for t in range(TIMESTEPS):
            _, states = rnn.cell(tf.constant(X[:, t]), states)
            states = list(tf.nest.flatten(states))
            passed.append(states)
        loss = tf.reduce_sum(tf.square(states[0]))
    by_states = tape.gradient(loss, passed)
    expected = [np.stack([one[k].numpy() for one in by_states], 1) for k in range(count)]
    found = get_state_gradients(model, 0, X, loss=lambda outputs: ops.square(outputs))
    agree(found, expected, 1e-5)


def test_the_last_h_follows_the_last_c():
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), layers.LSTM(UNITS)]))
    found = get_state_gradients(model, 0, X, loss=lambda outputs: outputs)
    h, c = numpy_states.run(numpy_states.lstm, model.get_weights(), X)
    output_gate = h[:, -1] / np.tanh(c[:, -1])
    np.testing.assert_allclose(found["h"][:, -1], 1.0)
    np.testing.assert_allclose(found["c"][:, -1], output_gate * (1 - np.tanh(c[:, -1]) ** 2), rtol=1e-4)


def test_output_gradients_leave_out_what_state_gradients_hold():
    inputs = keras.Input((TIMESTEPS, INPUTS))
    sequence = layers.LSTM(UNITS, return_sequences=True, name="lstm")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(1)(sequence[:, -1])))
    model.compile("sgd", "mse")
    y = data(SAMPLES, 1, seed=4)
    by_output, total = get_gradients(model, "lstm", X, y), get_state_gradients(model, "lstm", X, y)
    assert not by_output[:, :-1].any()
    assert (np.abs(total["h"]).max(("sample", "unit")) > 1e-5).all()
    np.testing.assert_allclose(total["h"][:, -1], by_output[:, -1], rtol=1e-5)


# -- directions ---------------------------------------------------------------------------------

MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": np.add,
    "mul": np.multiply,
}


@pytest.mark.parametrize(
    ("merge", "return_sequences"), [("concat", True), ("concat", False), ("sum", True), ("mul", False)]
)
def test_both_directions_in_input_order(merge, return_sequences):
    rnn = layers.LSTM(UNITS, return_sequences=return_sequences)
    both = layers.Bidirectional(rnn, merge_mode=merge, name="both")
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), both]))
    weights = model.get_weights()
    found = get_state_gradients(model, "both", X, loss=OF_TENSOR)
    assert found["direction"].values.tolist() == ["forward", "backward"]
    assert found["h"].dims == ("direction", "sample", "time", "unit")
    still = [np.zeros((SAMPLES, TIMESTEPS, UNITS))] * 2

    def loss(forward, backward):
        first = numpy_states.run(numpy_states.lstm, weights[:3], X, nudges=forward)[0]
        turned = [one[:, ::-1] for one in backward]
        second = numpy_states.run(numpy_states.lstm, weights[3:], X[:, ::-1], nudges=turned)[0]
        if return_sequences:
            return OF_ARRAY(MERGES[merge](first, second[:, ::-1]))
        return OF_ARRAY(MERGES[merge](first[:, -1], second[:, -1]))

    agree(found.sel(direction="forward"), numeric(lambda nudges: loss(nudges, still), 2))
    agree(found.sel(direction="backward"), numeric(lambda nudges: loss(still, nudges), 2))


@pytest.mark.parametrize("return_sequences", [False, True])
def test_a_layer_that_runs_backwards_is_in_input_order(return_sequences):
    rnn = layers.GRU(UNITS, go_backwards=True, return_sequences=return_sequences)
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), rnn]))

    def loss(nudges):
        turned = [one[:, ::-1] for one in nudges]
        h = numpy_states.run(numpy_states.gru, model.get_weights(), X[:, ::-1], nudges=turned)[0]
        return OF_ARRAY(h if return_sequences else h[:, -1])

    found = get_state_gradients(model, 0, X, loss=OF_TENSOR)
    agree(found, numeric(loss, 1))


# -- masks --------------------------------------------------------------------------------------


def masked_loss(step, weights, x, nudges, mask, return_sequences, zero_output, start=None):
    """As Keras puts masked timesteps out: the output before, zeros where there is none (or on request)."""
    h = numpy_states.run(step, weights, x, start, nudges, mask)[0]
    ran = mask if zero_output else np.logical_or.accumulate(mask, 1)
    out = np.where(ran[..., None], h, 0)
    return OF_ARRAY(out if return_sequences else out[:, -1])


def masked_gradients(loss_of, step, mask, start=None):
    """By finite differences; at masked timesteps that of the state that is carried there."""
    states = numpy_states.STATES[step]
    start = start or numpy_states.zeros(step, SAMPLES, UNITS)
    by_nudges = numeric(lambda nudges: loss_of(nudges, start), states)
    by_start = numpy_states.gradients(
        lambda moved: loss_of(None, [a + b[:, 0] for a, b in zip(start, moved, strict=True)]),
        SAMPLES,
        1,
        UNITS,
        states,
    )
    return [numpy_states.carry(a, b[:, 0], mask) for a, b in zip(by_nudges, by_start, strict=True)]


@pytest.mark.parametrize(
    ("kind", "return_sequences", "zero_output"),
    [
        ("lstm", True, False),
        ("lstm", False, False),
        ("lstm", True, True),
        ("gru", False, True),
        ("own_cell", True, False),
    ],
)
def test_masked_timesteps_carry_the_gradient_of_the_state_they_carry(kind, return_sequences, zero_output):
    step, make = KINDS[kind]
    rnn = make(UNITS, return_sequences=return_sequences, zero_output_for_mask=zero_output)
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), layers.Masking(), rnn]))
    x = np.where(MASK[..., None], X, 0)

    def loss(nudges, start):
        return masked_loss(step, model.get_weights(), x, nudges, MASK, return_sequences, zero_output, start)

    found = get_state_gradients(model, 1, x, loss=OF_TENSOR)
    agree(found, masked_gradients(loss, step, MASK))
    # A sample of padding alone has no influence on anything.
    assert not found["h"][2].any()


def test_the_mask_of_an_embedding_is_heeded_in_both_directions():
    tokens = np.where(MASK, np.arange(1, TIMESTEPS + 1), 0)
    model = keras.Sequential(
        [
            keras.Input((TIMESTEPS,)),
            layers.Embedding(8, INPUTS, mask_zero=True),
            layers.Bidirectional(layers.LSTM(UNITS, return_sequences=True), merge_mode="sum"),
        ]
    )
    randomize(model)
    table, *weights = model.get_weights()
    x = table[tokens]
    found = get_state_gradients(model, 1, tokens, loss=OF_TENSOR)

    # Keras has layers within a Bidirectional put out zeros at masked timesteps.
    def forward(nudges, start):
        return masked_loss(numpy_states.lstm, weights[:3], x, nudges, MASK, True, True, start)

    def backward(nudges, start):
        h = numpy_states.run(numpy_states.lstm, weights[3:], x[:, ::-1], start, nudges, MASK[:, ::-1])[0]
        return OF_ARRAY(np.where(MASK[..., None], h[:, ::-1], 0))

    agree(found.sel(direction="forward"), masked_gradients(forward, numpy_states.lstm, MASK))
    turned = masked_gradients(backward, numpy_states.lstm, MASK[:, ::-1])
    agree(found.sel(direction="backward"), [one[:, ::-1] for one in turned])


def test_padding_in_front_of_a_given_start_has_the_gradient_of_the_start():
    inputs, h, c = keras.Input((TIMESTEPS, INPUTS)), keras.Input((UNITS,)), keras.Input((UNITS,))
    mask = keras.Input((TIMESTEPS,), dtype="bool")
    out = layers.LSTM(UNITS, name="lstm")(inputs, mask=mask, initial_state=[h, c])
    model = randomize(keras.Model([inputs, h, c, mask], out))
    start = [data(SAMPLES, UNITS, seed=5), data(SAMPLES, UNITS, seed=6)]

    def loss(nudges, start):
        return masked_loss(numpy_states.lstm, model.get_weights(), X, nudges, MASK, False, False, start)

    found = get_state_gradients(model, "lstm", [X, *start, MASK], loss=OF_TENSOR)
    expected = masked_gradients(loss, numpy_states.lstm, MASK, [s.astype("float64") for s in start])
    agree(found, expected)
    np.testing.assert_array_equal(found["c"][0, 0], found["c"][0, 1])
    assert found["c"][0, 0].any()


def test_a_compiled_loss_leaves_masked_timesteps_out():
    model = randomize(
        keras.Sequential(
            [keras.Input((TIMESTEPS, INPUTS)), layers.Masking(), layers.GRU(UNITS, return_sequences=True)]
        )
    )
    model.compile("sgd", keras.losses.MeanSquaredError(reduction="sum"))
    x, y = np.where(MASK[..., None], X, 0), data(SAMPLES, TIMESTEPS, UNITS, seed=3)

    def loss(nudges, start):
        h = numpy_states.run(numpy_states.gru, model.get_weights(), x, start, nudges, MASK)[0]
        return (np.square(h - y).mean(-1) * MASK).sum(1)

    agree(get_state_gradients(model, 1, x, y), masked_gradients(loss, numpy_states.gru, MASK))


# -- where states come from and go to -----------------------------------------------------------


def test_a_stateful_layer_starts_from_what_it_holds_and_keeps_it():
    rnn = layers.LSTM(UNITS, stateful=True)
    model = randomize(keras.Sequential([keras.Input(batch_shape=(SAMPLES, TIMESTEPS, INPUTS)), rnn]))
    model.predict(data(SAMPLES, TIMESTEPS, INPUTS, seed=8), verbose=0, batch_size=SAMPLES)
    held = [state.numpy() for state in rnn.states]
    assert held[0].any()

    def loss(nudges):
        start = [one.astype("float64") for one in held]
        return OF_ARRAY(
            numpy_states.run(numpy_states.lstm, rnn.get_weights()[:3], X, start, nudges)[0][:, -1]
        )

    with nothing_changes(model, X):
        found = get_state_gradients(model, 0, X, loss=OF_TENSOR)
        agree(found, numeric(loss, 2))
        again = get_state_gradients(model, 0, X, loss=OF_TENSOR)
    np.testing.assert_array_equal(found["h"], again["h"])
    for state, value in zip(rnn.states, held, strict=True):
        np.testing.assert_array_equal(state.numpy(), value)


def test_an_encoder_answers_for_the_decoder_it_starts():
    source, target = keras.Input((TIMESTEPS, INPUTS)), keras.Input((4, INPUTS))
    _, h, c = layers.LSTM(UNITS, return_state=True, name="encoder")(source)
    decoder = layers.LSTM(UNITS, return_sequences=True, name="decoder")
    model = randomize(keras.Model([source, target], decoder(target, initial_state=[h, c])))
    weights, x2 = model.get_weights(), data(SAMPLES, 4, INPUTS, seed=3)

    def outputs(encoder, decoder):
        states = numpy_states.run(numpy_states.lstm, weights[:3], X, nudges=encoder)
        start = [one[:, -1] for one in states]
        return OF_ARRAY(numpy_states.run(numpy_states.lstm, weights[3:], x2, start, decoder)[0])

    found = get_state_gradients(model, "encoder", [X, x2], loss=OF_TENSOR)
    agree(found, numeric(lambda nudges: outputs(nudges, None), 2))
    found = get_state_gradients(model, "decoder", [X, x2], loss=OF_TENSOR)
    agree(found, numeric(lambda nudges: outputs(None, nudges), 2, timesteps=4))


def test_states_that_are_returned_count_as_outputs():
    inputs = keras.Input((TIMESTEPS, INPUTS))
    model = randomize(keras.Model(inputs, layers.LSTM(UNITS, return_state=True, name="lstm")(inputs)))

    def loss(nudges):
        h, c = numpy_states.run(numpy_states.lstm, model.get_weights(), X, nudges=nudges)
        return 2 * OF_ARRAY(h[:, -1]) + 3 * OF_ARRAY(c[:, -1])

    found = get_state_gradients(
        model, "lstm", X, loss=lambda out: OF_TENSOR(out[0]) + OF_TENSOR(out[1]) + 3 * OF_TENSOR(out[2])
    )
    agree(found, numeric(loss, 2))


def test_gradients_of_a_lower_layer_come_through_the_upper_one():
    model = randomize(
        keras.Sequential(
            [
                keras.Input((TIMESTEPS, INPUTS)),
                layers.LSTM(UNITS, return_sequences=True, name="lower"),
                layers.LSTM(3, name="upper"),
            ]
        )
    )
    weights = model.get_weights()

    def loss(lower, upper):
        hidden = numpy_states.run(numpy_states.lstm, weights[:3], X, nudges=lower)[0]
        return OF_ARRAY(numpy_states.run(numpy_states.lstm, weights[3:], hidden, nudges=upper)[0][:, -1])

    found = get_state_gradients(model, "lower", X, loss=OF_TENSOR)
    agree(found, numeric(lambda nudges: loss(nudges, None), 2))
    found = get_state_gradients(model, "upper", X, loss=OF_TENSOR)
    agree(found, numeric(lambda nudges: loss(None, nudges), 2, units=3))


def test_a_layer_in_a_nested_model():
    inner_input = keras.Input((TIMESTEPS, INPUTS))
    inner = keras.Model(inner_input, layers.GRU(UNITS, name="gru")(inner_input), name="encoder")
    outer_input = keras.Input((TIMESTEPS, INPUTS))
    model = randomize(keras.Model(outer_input, layers.Dense(2)(inner(outer_input))))
    *weights, kernel, bias = model.get_weights()

    def loss(nudges):
        return OF_ARRAY(
            numpy_states.run(numpy_states.gru, weights, X, nudges=nudges)[0][:, -1] @ kernel + bias
        )

    agree(get_state_gradients(model, "encoder/gru", X, loss=OF_TENSOR), numeric(loss, 1))


# -- losses -------------------------------------------------------------------------------------


def test_several_inputs_outputs_and_weighted_losses():
    a, b = keras.Input((TIMESTEPS, 1), name="a"), keras.Input((TIMESTEPS, 1), name="b")
    h = layers.LSTM(UNITS, return_sequences=True, name="lstm")(layers.Concatenate()([a, b]))
    every, last = layers.Dense(1, name="every")(h), layers.Dense(2, name="last")(h[:, -1])
    model = randomize(keras.Model({"a": a, "b": b}, {"every": every, "last": last}))
    model.compile("sgd", {"every": "mse", "last": "mae"}, loss_weights={"every": 2.0, "last": 0.5})
    y = {"every": data(SAMPLES, TIMESTEPS, 1, seed=1), "last": data(SAMPLES, 2, seed=2)}
    x = {"a": X[..., :1], "b": X[..., 1:]}
    weights = model.get_layer("lstm").get_weights()
    heads = {name: model.get_layer(name).get_weights() for name in y}

    def loss(nudges):
        h = numpy_states.run(numpy_states.lstm, weights, X, nudges=nudges)[0]
        every = np.square(h @ heads["every"][0] + heads["every"][1] - y["every"]).mean((1, 2))
        last = np.abs(h[:, -1] @ heads["last"][0] + heads["last"][1] - y["last"]).mean(1)
        return (2 * every + 0.5 * last) / SAMPLES

    agree(get_state_gradients(model, "lstm", x, y), numeric(loss, 2))


@pytest.fixture
def last_step():
    """A compiled model of one GRU that returns its last output, and that output in NumPy."""
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), layers.GRU(UNITS, name="gru")]))
    model.compile("sgd", "mse")

    def output(nudges):
        return numpy_states.run(numpy_states.gru, model.get_layer("gru").get_weights(), X, nudges=nudges)[0][
            :, -1
        ]

    return model, output


Y = data(SAMPLES, UNITS, seed=7)


def test_one_logit_at_the_last_timestep():
    rnn = layers.GRU(UNITS, return_sequences=True)
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), rnn, layers.Dense(5)]))
    *weights, kernel, bias = model.get_weights()

    def loss(nudges):
        h = numpy_states.run(numpy_states.gru, weights, X, nudges=nudges)[0]
        return (h[:, -1] @ kernel + bias)[:, 3]

    found = get_state_gradients(model, 0, X, loss=lambda outputs: outputs[:, -1, 3])
    agree(found, numeric(loss, 1))


def test_two_functions_of_the_outputs_are_not_mixed_up(last_step):
    model, output = last_step
    losses = [lambda outputs, k=k: outputs[:, k] for k in range(UNITS)]
    for _ in range(2):
        for k, loss in enumerate(losses):
            found = get_state_gradients(model, 0, X, loss=loss)
            agree(found, numeric(lambda nudges, k=k: output(nudges)[:, k], 1))


def test_sample_weights_weigh(last_step):
    model, output = last_step
    weight = np.array([1.0, 0.0, 2.5])
    found = get_state_gradients(model, 0, X, Y, sample_weight=weight)
    agree(found, numeric(lambda nudges: weight * np.square(output(nudges) - Y).mean(1) / SAMPLES, 1))
    assert not found["h"][1].any()


def test_a_source_of_batches_gives_targets_and_weights(last_step):
    model, _ = last_step
    weight = np.array([1.0, 0.0, 2.5], "float32")
    batches = tf.data.Dataset.from_tensor_slices((X, Y, weight)).batch(SAMPLES)
    by_hand = get_state_gradients(model, 0, X, Y, weight)
    np.testing.assert_allclose(get_state_gradients(model, 0, batches)["h"], by_hand["h"], rtol=1e-6)


def test_a_loss_of_the_models_own():
    class Cubed(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return ops.sum((y_pred - y) ** 3)

    inputs = keras.Input((TIMESTEPS, INPUTS))
    model = randomize(Cubed(inputs, layers.SimpleRNN(UNITS, name="rnn")(inputs)))
    model.compile("sgd", "mse")

    def loss(nudges):
        h = numpy_states.run(numpy_states.simple_rnn, model.get_weights(), X, nudges=nudges)[0]
        return ((h[:, -1] - Y) ** 3).sum(1)

    agree(get_state_gradients(model, "rnn", X, Y), numeric(loss, 1))


def test_penalties_on_activity_count_and_those_on_weights_do_not():
    class Penalized(layers.Layer):
        def call(self, outputs):
            self.add_loss(0.3 * ops.sum(outputs**2))
            return outputs

    rnn = layers.LSTM(UNITS, return_sequences=True, kernel_regularizer="l2", recurrent_regularizer="l1")
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), rnn, Penalized()]))
    model.compile("sgd", "mse")
    y = data(SAMPLES, TIMESTEPS, UNITS, seed=2)

    def loss(nudges):
        h = numpy_states.run(numpy_states.lstm, model.get_weights(), X, nudges=nudges)[0]
        return np.square(h - y).mean((1, 2)) / SAMPLES + 0.3 * np.square(h).sum((1, 2))

    agree(get_state_gradients(model, 0, X, y), numeric(loss, 2))


def test_a_loss_that_does_not_see_the_layer_has_gradient_zero(last_step):
    model, _ = last_step
    found = get_state_gradients(model, 0, X, loss=lambda outputs: ops.stop_gradient(outputs))
    assert not found["h"].any()


# -- the ways a layer can be run ----------------------------------------------------------------


WAYS = {
    "unrolled": {"unroll": True},
    "without_cudnn": {"use_cudnn": False},
    "dropout": {"dropout": 0.5, "recurrent_dropout": 0.5},
    "frozen": {"trainable": False},
    "one_product_per_gate": {"implementation": 1},
}


@pytest.mark.parametrize(("way", "eagerly"), [*((way, False) for way in WAYS), ("dropout", True)])
def test_gradients_do_not_depend_on_how_a_layer_is_run(way, eagerly):
    rnn = layers.LSTM(UNITS, **WAYS[way])
    model = keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), rnn])
    weights = [0.6 * data(*w.shape, seed=k) for k, w in enumerate(model.get_weights()[:3])]
    for variable, value in zip(
        (rnn.cell.kernel, rnn.cell.recurrent_kernel, rnn.cell.bias), weights, strict=True
    ):
        variable.assign(value)
    model.compile("sgd", "mse", run_eagerly=eagerly)

    def loss(nudges):
        h = numpy_states.run(numpy_states.lstm, weights, X, nudges=nudges)[0]
        return np.square(h[:, -1] - Y).mean(1) / SAMPLES

    with nothing_changes(model, X, Y):
        found = get_state_gradients(model, 0, X, Y)
    agree(found, numeric(loss, 2))


def test_cells_other_than_the_default_ones():
    rnn = layers.GRU(
        UNITS, use_bias=False, reset_after=False, activation="relu", recurrent_activation="sigmoid"
    )
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), rnn]))
    kernel, recurrent = model.get_weights()

    def step(weights, x, states, nudges):
        (h,) = states
        uz, ur, un = np.split(recurrent, 3, axis=1)
        xz, xr, xn = np.split(x @ kernel, 3, axis=1)
        z, r = numpy_states.sigmoid(xz + h @ uz), numpy_states.sigmoid(xr + h @ ur)
        return (z * h + (1 - z) * np.maximum(xn + (r * h) @ un, 0) + nudges[0],)

    def loss(nudges):
        start = [np.zeros((SAMPLES, UNITS))]
        return OF_ARRAY(numpy_states.run(step, (kernel, recurrent), X, start, nudges)[0][:, -1])

    agree(get_state_gradients(model, 0, X, loss=OF_TENSOR), numeric(loss, 1))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_scaled_losses_are_unscaled(policy):
    rnn = layers.LSTM(UNITS, dtype=policy)
    head = layers.Dense(1, dtype="float32")
    model = randomize(keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), rnn, head]))
    optimizer = keras.optimizers.SGD()
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**9)
    model.compile(optimizer, "mse")
    *weights, kernel, bias = model.get_weights()
    y = data(SAMPLES, 1, seed=3)

    def loss(nudges):
        h = numpy_states.run(numpy_states.lstm, weights, X, nudges=nudges)[0][:, -1]
        return np.square(h @ kernel + bias - y)[:, 0] / SAMPLES

    with nothing_changes(model, X, y):
        found = get_state_gradients(model, 0, X, y)
    agree(found.astype("float32"), numeric(loss, 2), 1e-2 if policy == "mixed_float16" else 5e-2)


def test_one_timestep_one_sample_and_changing_shapes():
    model = randomize(keras.Sequential([keras.Input((None, INPUTS)), layers.LSTM(UNITS)]))
    for samples, timesteps in ((1, 1), (2, 3), (3, 5), (1, 6)):
        x = data(samples, timesteps, INPUTS, seed=samples)

        def loss(nudges, x=x):
            return OF_ARRAY(
                numpy_states.run(numpy_states.lstm, model.get_weights(), x, nudges=nudges)[0][:, -1]
            )

        expected = numeric(loss, 2, timesteps=timesteps, samples=samples)
        agree(get_state_gradients(model, 0, x, loss=OF_TENSOR), expected)


def test_new_weights_and_activations_give_new_gradients(last_step):
    model, output = last_step
    for seed in (1, 2):
        randomize(model, seed=seed)
        found = get_state_gradients(model, 0, X, loss=OF_TENSOR)
        agree(found, numeric(lambda nudges: OF_ARRAY(output(nudges)), 1))
    model.layers[0].cell.activation = keras.activations.linear
    changed = get_state_gradients(model, 0, X, loss=OF_TENSOR)
    assert np.abs(changed["h"] - found["h"]).max() > 1e-2


# -- nothing is left behind ---------------------------------------------------------------------


def unpatched(model):
    for layer in model._flatten_layers():
        assert not {"inner_loop", "call"} & set(vars(layer)), layer.name


def a_model_with_everything(**compiling):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(SAMPLES, TIMESTEPS, INPUTS)),
            layers.Masking(),
            layers.LSTM(
                UNITS, return_sequences=True, stateful=True, dropout=0.4, recurrent_dropout=0.3, name="a"
            ),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Bidirectional(layers.SimpleRNN(UNITS, kernel_regularizer="l2"), name="b"),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"], **compiling)
    return model


@pytest.mark.parametrize("eagerly", [False, True])
def test_nothing_of_the_model_changes(eagerly):
    model, y = a_model_with_everything(run_eagerly=eagerly), data(SAMPLES, 1)
    model.train_on_batch(X, y)
    with nothing_changes(model, X, y):
        get_state_gradients(model, "a", X, y)
        get_state_gradients(model, "b", X, loss=OF_TENSOR)
    unpatched(model)
    assert np.isfinite(model.train_on_batch(X, y)).all()


def test_a_model_never_trained_is_not_built_on():
    model = keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), layers.LSTM(UNITS)])
    model.compile("adam", "mse", metrics=["mae"])
    with nothing_changes(model, X, Y):
        get_state_gradients(model, 0, X, Y)
    assert not model.optimizer.built


def out_of_order(outputs):
    raise RuntimeError("out of order")


@pytest.mark.parametrize("eagerly", [False, True])
def test_nothing_stays_patched_after_an_exception(eagerly):
    model = a_model_with_everything(run_eagerly=eagerly)
    with nothing_changes(model, X), pytest.raises(RuntimeError, match="out of order"):
        get_state_gradients(model, "a", X, loss=out_of_order)
    unpatched(model)
    with nothing_changes(model, X), pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        get_state_gradients(model, "a", X[..., :1], loss=OF_TENSOR)
    unpatched(model)
    assert get_state_gradients(model, "a", X, loss=OF_TENSOR)["h"].any()


def test_a_model_that_was_looked_into_can_go():
    model = keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), layers.LSTM(UNITS)])
    get_state_gradients(model, 0, X, loss=OF_TENSOR)
    gone = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert gone() is None


# -- what is refused ----------------------------------------------------------------------------


class Aloof(Damped):
    """Its output is not its first state."""

    def call(self, inputs, states):
        h, new = super().call(inputs, states)
        return 2 * h, new


def of(*parts, shape=(TIMESTEPS, INPUTS)):
    return keras.Sequential([keras.Input(shape), *parts])


def shared():
    a, b, lstm = (
        keras.Input((TIMESTEPS, INPUTS)),
        keras.Input((TIMESTEPS, INPUTS)),
        layers.LSTM(2, name="rnn"),
    )
    return keras.Model([a, b], layers.Add()([lstm(a), lstm(b)]))


REFUSED = {
    "stacked": (
        lambda: of(layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)], name="rnn")),
        X,
        UnsupportedLayerError,
        "rnn stacks LSTMCell, GRUCell; .* give each cell an RNN layer of its own",
    ),
    "convolutional": (
        lambda: of(layers.ConvLSTM1D(2, 2, name="rnn"), shape=(4, 5, 2)),
        data(2, 4, 5, 2),
        UnsupportedLayerError,
        "rnn",
    ),
    "in a loop": (
        lambda: of(layers.TimeDistributed(layers.LSTM(2), name="rnn"), shape=(2, TIMESTEPS, INPUTS)),
        data(3, 2, TIMESTEPS, INPUTS),
        ArgumentError,
        "expected once .not shared, not within a loop such as TimeDistributed",
    ),
    "shared": (shared, [X, X], ArgumentError, "rnn is called 2 times"),
    "not recurrent": (
        lambda: of(layers.Dense(2, name="rnn")),
        X,
        UnsupportedLayerError,
        "rnn is a Dense; gates and states are in LSTM",
    ),
    "output of its own": (
        lambda: of(layers.RNN(Aloof(2), name="rnn")),
        X,
        CaptureError,
        "Aloof returns an output that is not its first state",
    ),
    "unknown": (lambda: of(layers.LSTM(2, name="lstm")), X, UnknownLayerError, "'rnn'; layers are: lstm"),
    "unbuilt": (
        lambda: keras.Sequential([layers.LSTM(2, name="rnn")]),
        X,
        ArgumentError,
        "is not built yet",
    ),
}


@pytest.mark.parametrize(
    ("case", "eagerly"), [*((case, False) for case in REFUSED), ("shared", True), ("output of its own", True)]
)
def test_what_has_no_state_gradients_is_refused(case, eagerly):
    make, x, error, message = REFUSED[case]
    model = make()
    model.run_eagerly = eagerly
    for _ in range(2):
        with pytest.raises(error, match=message):
            get_state_gradients(model, "rnn", x, loss=lambda outputs: outputs)
    unpatched(model)


def test_a_loss_is_wanted(last_step):
    model, _ = last_step
    with pytest.raises(ArgumentError, match="needs labels"):
        get_state_gradients(model, 0, X)
    with pytest.raises(
        ArgumentTypeError, match="loss must be a function of the model's outputs or None; got 'mse'"
    ):
        get_state_gradients(model, 0, X, Y, loss="mse")
    bare = of(layers.LSTM(2))
    with pytest.raises(ArgumentError, match=r"has no loss; call model.compile"):
        get_state_gradients(bare, 0, X, Y)
    assert get_state_gradients(bare, 0, X, loss=lambda outputs: outputs)["h"].any()


def test_a_second_targets_argument_is_refused(last_step):
    model, _ = last_step
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(SAMPLES)
    with pytest.raises(ArgumentError, match="pass labels=None"):
        get_state_gradients(model, 0, batches, Y)


def test_a_loss_that_knows_its_model_does_not_keep_it():
    model = keras.Sequential([keras.Input((TIMESTEPS, INPUTS)), layers.LSTM(UNITS)])
    get_state_gradients(model, 0, X, loss=lambda outputs, model=model: ops.sum(outputs))
    gone = weakref.ref(model)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"y": np.ones((1, 1), "float32")}, ArgumentError, "same number of samples"),
        ({"sample_weight": np.ones(2, "float32")}, ArgumentError, "same number of samples"),
        ({"x": np.ones((3, 6, 5), "float32")}, ArgumentError, "does not fit the model"),
        ({"x": np.ones((0, 6, 2), "float32"), "y": None}, ArgumentError, "at least one sample"),
        ({"loss": lambda outputs: None}, ArgumentTypeError, "it returned None"),
        ({"loss": lambda outputs: "a"}, ArgumentTypeError, "floating-point numbers"),
        ({"loss": {}.get("a", [].append).__self__}, ArgumentTypeError, "loss must be a function"),
    ],
)
def test_what_does_not_fit_gets_one_clear_error(given, error, message):
    model = keras.Sequential([keras.Input((6, 2)), layers.GRU(3), layers.Dense(1)])
    model.compile("sgd", "mse")
    arguments = {"x": np.ones((3, 6, 2), "float32"), "y": np.ones((3, 1), "float32")} | given
    with pytest.raises(error, match=message):
        get_state_gradients(model, 0, **arguments)
