"""get_gradients: against NumPy backpropagation, finite differences, and what training applies."""

from __future__ import annotations

import gc
import inspect
import weakref

import keras
import numpy as np
import numpy_rnn
import pytest
import tensorflow as tf
from keras import layers
from unchanged import nothing_changes

from see_rnn_like.engine import programs
from see_rnn_like.errors import ArgumentError, UnknownLayerError, UnsupportedLayerError
from see_rnn_like.extract.gradients import get_gradients

RNG = np.random.default_rng(11)


def data(*shape):
    return RNG.normal(size=shape).astype("float32")


def close(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(
        got, expected, rtol=tolerance, atol=tolerance * max(1e-3, np.abs(expected).max())
    )


def test_signature_is_see_rnns_plus_clip():
    bare = [p.replace(annotation=p.empty) for p in inspect.signature(get_gradients).parameters.values()]
    assert str(inspect.Signature(bare)) == (
        "(model, _id, input_data, labels, sample_weight=None, learning_phase=0, layer=None, mode='outputs', "
        "params=None, as_dict=False, *, clip=True)"
    )


# -- against backpropagation through time in NumPy ----------------------------------------------

NUMPY_CELLS = {
    "lstm": (numpy_rnn.lstm, lambda **kw: layers.LSTM(4, bias_initializer="uniform", **kw)),
    "gru_reset_after": (
        numpy_rnn.gru_reset_after,
        lambda **kw: layers.GRU(4, bias_initializer="uniform", **kw),
    ),
    "gru_reset_before": (
        numpy_rnn.gru_reset_before,
        lambda **kw: layers.GRU(4, reset_after=False, bias_initializer="uniform", **kw),
    ),
    "simple_rnn": (numpy_rnn.simple_rnn, lambda **kw: layers.SimpleRNN(4, bias_initializer="uniform", **kw)),
}


def rnn_of_cell(make):
    return lambda **kw: layers.RNN(make().cell, **kw)


@pytest.mark.parametrize("wrap", [False, True], ids=["layer", "RNN(cell)"])
@pytest.mark.parametrize("kind", NUMPY_CELLS)
def test_gradients_equal_numpy_backpropagation_through_time(kind, wrap):
    run, make = NUMPY_CELLS[kind]
    make = rnn_of_cell(make) if wrap else make
    lower, upper = make(return_sequences=True), make(return_sequences=True)
    inputs = keras.Input((6, 3), name="series")
    model = keras.Model(inputs, upper(lower(inputs)))
    model.compile("sgd", "mse")
    x, y = data(2, 6, 3), data(2, 6, 4)
    hidden = run(x, *lower.get_weights())
    out = run(hidden, *upper.get_weights())
    d_out = 2 * (out - y) / y.size
    _, above = run(hidden, *upper.get_weights(), d_out)
    _, below = run(x, *lower.get_weights(), above.x)

    close(get_gradients(model, upper.name, x, y), d_out)
    close(get_gradients(model, lower.name, x, y), above.x)
    close(get_gradients(model, "series", x, y), below.x)
    for layer, expected in ((lower, below), (upper, above)):
        got = get_gradients(model, layer.name, x, y, mode="weights")
        for array, name in zip(got, ("kernel", "recurrent_kernel", "bias"), strict=True):
            close(array, getattr(expected, name))


def test_output_gradient_of_a_last_step_layer_is_zero_before_the_last_step():
    model = keras.Sequential(
        [keras.Input((6, 3)), layers.LSTM(4, return_sequences=True), layers.Lambda(lambda h: h[:, -1])]
    )
    model.compile("sgd", "mse")
    gradient = get_gradients(model, 0, data(2, 6, 3), data(2, 4))
    assert not gradient[:, :-1].any()
    assert gradient[:, -1].any()


# -- against finite differences -----------------------------------------------------------------


def numeric_gradient(loss, variable, picks=6):
    value = variable.numpy()
    found = {}
    for _ in range(picks):
        index = tuple(RNG.integers(size) for size in value.shape)
        ends = []
        for delta in (1e-6, -1e-6):
            moved = value.copy()
            moved[index] += delta
            variable.assign(moved)
            ends.append(loss())
        found[index] = (ends[0] - ends[1]) / 2e-6
    variable.assign(value)
    return found


def crossentropy(p, y):
    return float(-(y * np.log(p)).sum(-1).mean())


def test_weight_gradients_equal_finite_differences_regularization_and_weights_included(float64):
    inputs = keras.Input((5, 3))
    h = layers.Bidirectional(
        layers.LSTM(3, kernel_regularizer=keras.regularizers.L2(0.1), return_sequences=True)
    )(inputs)
    h = layers.GRU(4, recurrent_regularizer=keras.regularizers.L1(0.05), activation="sigmoid")(h)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", activity_regularizer="l2")(h))
    model.compile("sgd", "categorical_crossentropy")
    x, y, weight = RNG.normal(size=(4, 5, 3)), np.eye(3)[[0, 2, 1, 1]], np.array([1.0, 0.5, 2.0, 0.0])

    def loss():
        # Keras's loss by its definition; 0.01 is the default of "l2".
        p = model.predict_on_batch(x)
        weighted = float((-(y * np.log(p)).sum(-1) * weight).sum() / len(x))
        bi, gru = model.layers[1], model.layers[2]
        penalty = sum(
            0.1 * (rnn.cell.kernel.numpy() ** 2).sum() for rnn in (bi.forward_layer, bi.backward_layer)
        )
        penalty += 0.05 * np.abs(gru.cell.recurrent_kernel.numpy()).sum()
        return weighted + float(penalty) + 0.01 * float((p**2).sum()) / len(x)

    found = get_gradients(model, "*", x, y, weight, mode="weights", as_dict=True)
    assert list(found) == [v.path for v in model.trainable_weights]
    for variable in model.trainable_weights:
        assert found[variable.path].dtype == "float64"
        for index, expected in numeric_gradient(loss, variable).items():
            np.testing.assert_allclose(found[variable.path][index], expected, rtol=1e-5, atol=1e-8)


def test_input_gradient_equals_finite_differences(float64):
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.GRU(4)(inputs)))
    model.compile("sgd", "categorical_crossentropy")
    x, y = RNG.normal(size=(2, 5, 3)), np.eye(2)
    probe = tf.Variable(x)
    expected = numeric_gradient(lambda: crossentropy(model.predict_on_batch(probe.numpy()), y), probe, 12)
    got = get_gradients(model, 0, x, y)
    for index, value in expected.items():
        np.testing.assert_allclose(got[index], value, rtol=1e-6, atol=1e-9)


def test_layer_output_gradients_equal_finite_differences(float64):
    inputs = keras.Input((5, 3))
    lower = layers.LSTM(4, return_sequences=True)
    model = keras.Model(inputs, layers.Dense(2)(layers.SimpleRNN(3)(lower(inputs))))
    model.compile("sgd", "mse")
    top = keras.Sequential([keras.Input((5, 4)), *model.layers[2:]])
    x, y = RNG.normal(size=(2, 5, 3)), RNG.normal(size=(2, 2))
    hidden = tf.Variable(numpy_rnn.lstm(x, *lower.get_weights()))
    expected = numeric_gradient(
        lambda: float(((top.predict_on_batch(hidden.numpy()) - y) ** 2).mean()), hidden, 12
    )
    got = get_gradients(model, 1, x, y)
    for index, value in expected.items():
        np.testing.assert_allclose(got[index], value, rtol=1e-6, atol=1e-9)


# -- softmax and sigmoid heads ------------------------------------------------------------------


def head_model(activation, loss, units=3):
    inputs = keras.Input((5, 3))
    h = layers.LSTM(4, name="lstm")(inputs)
    h = layers.Dense(units, name="logits")(h)
    model = keras.Model(inputs, layers.Activation(activation, name="head")(h))
    model.compile("sgd", loss)
    return model


def test_softmax_heads_with_wildcard():
    model = head_model("softmax", "categorical_crossentropy")
    x, y = data(4, 5, 3), np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    found = get_gradients(model, "*", x, y, as_dict=True)
    assert list(found) == ["lstm", "logits", "head"]
    p = model.predict_on_batch(x).astype("float64")
    close(found["logits"], (p - y) / 4)
    # Keras divides by the row sum (which is 1), so its slope in every direction is 1 − y/p.
    close(found["head"], (1 - y / p) / 4, 1e-4)


def test_sigmoid_heads_with_wildcard():
    model = head_model("sigmoid", "binary_crossentropy")
    x, y = data(4, 5, 3), (data(4, 3) > 0).astype("float32")
    found = get_gradients(model, "*", x, y, as_dict=True)
    p = model.predict_on_batch(x).astype("float64")
    close(found["logits"], (p - y) / 12)
    close(found["head"], (p - y) / (p * (1 - p)) / 12, 1e-4)


def test_saturated_heads_keep_the_gradient_training_has():
    # exp(-200) is 0 in float32: on probabilities the gradient would be lost, on logits it is 1.
    model = head_model("softmax", "categorical_crossentropy", 2)
    model.get_layer("logits").set_weights([np.zeros((4, 2)), np.array([200.0, 0.0])])
    x, y = data(1, 5, 3), np.array([[0.0, 1.0]], "float32")
    for _id in ("logits", ["logits", "head"]):
        found = get_gradients(model, _id, x, y, as_dict=True)
        close(found["logits"], np.array([[1.0, -1.0]]))


def test_raw_tensorflow_softmax_heads_are_differentiated_as_in_training():
    class Head(layers.Layer):
        def call(self, x):
            return tf.nn.softmax(x)

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((2,))
    model = keras.Model(inputs, Head(name="head")(layers.Dense(2, name="logits")(inputs)))
    model.compile(keras.optimizers.SGD(1.0), "categorical_crossentropy")
    model.get_layer("logits").set_weights([np.zeros((2, 2)), np.array([200.0, 0.0])])
    x, y = data(1, 2), np.array([[0.0, 1.0]], "float32")
    gradient = get_gradients(model, "logits/bias", x, y, mode="weights")
    found = get_gradients(model, "*", x, y, as_dict=True)
    before = model.get_layer("logits").bias.numpy()
    model.train_on_batch(x, y)
    close(gradient, before - model.get_layer("logits").bias.numpy())
    close(found["logits"], gradient[None])
    assert np.isfinite(found["head"]).all()


def test_probabilities_that_are_used_twice():
    inputs = keras.Input((3,))
    p = layers.Dense(3, activation="softmax", name="p")(inputs)
    model = keras.Model(inputs, [p, layers.Dense(1, name="q")(p)])
    model.compile("sgd", ["categorical_crossentropy", "mse"])
    x, y = data(4, 3), [np.eye(3, dtype="float32")[[0, 1, 2, 0]], data(4, 1)]
    got = get_gradients(model, "p", x, y)
    value, q = (array.astype("float64") for array in model.predict_on_batch(x))
    expected = (1 - y[0] / value) / 4 + 2 * (q - y[1]) / 4 * model.get_layer("q").kernel.numpy().T
    close(got, expected, 1e-4)


# -- layers that pass their input on ------------------------------------------------------------


def test_each_layer_has_its_own_gradient_even_if_it_returns_its_input():
    inputs = keras.Input((3,))
    h = layers.Dense(3, name="dense")(inputs)
    dropped = layers.Dropout(0.5, name="drop")(h)  # at inference the very same tensor
    model = keras.Model(inputs, layers.Add(name="add")([dropped, 2.0 * h]))
    model.compile("sgd", "mse")
    x, y = data(2, 3), data(2, 3)
    found = get_gradients(model, ["dense", "drop", "add"], x, y, as_dict=True)
    close(found["drop"], found["add"])
    close(found["dense"], 3.0 * found["add"])


def test_nested_model_and_its_last_layer_are_told_apart():
    inner_in = keras.Input((3,))
    h = layers.Dense(3, name="inner_last")(inner_in)
    inner = keras.Model(inner_in, [h, 3.0 * h], name="inner")
    inputs = keras.Input((3,))
    first, second = inner(inputs)
    model = keras.Model(inputs, layers.Add(name="add")([first, second]))
    model.compile("sgd", "mse")
    found = get_gradients(model, ["inner", "inner/inner_last", "add"], data(2, 3), data(2, 3), as_dict=True)
    close(found["inner"], found["add"])
    close(found["inner/output_1"], found["add"])
    close(found["inner/inner_last"], 4.0 * found["add"])


# -- ids, params, what comes back ---------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((6, 3), name="series")
    h = layers.LSTM(4, return_sequences=True, name="lstm")(inputs)
    h = layers.GRU(5, name="gru")(h)
    built = keras.Model(inputs, layers.Dense(2, name="dense")(h))
    built.compile("sgd", "mse")
    return built


@pytest.fixture(scope="module")
def batch():
    return data(2, 6, 3), data(2, 2)


def test_lists_come_in_the_order_asked_for(model, batch):
    found = get_gradients(model, ["dense", 1, "gr"], *batch, as_dict=True)
    assert [(name, a.shape) for name, a in found.items()] == [
        ("dense", (2, 2)),
        ("lstm", (2, 6, 4)),
        ("gru", (2, 5)),
    ]
    listed = get_gradients(model, ["dense", 1, "gr"], *batch)
    for array, name in zip(listed, found, strict=True):
        np.testing.assert_array_equal(array, found[name])
        np.testing.assert_array_equal(array, get_gradients(model, name, *batch))


def test_weights_by_every_form_of_id(model, batch):
    found = get_gradients(model, "*", *batch, mode="weights", as_dict=True)
    assert list(found) == [v.path for v in model.trainable_weights]
    kernel = get_gradients(model, "lstm/kernel", *batch, mode="weights")
    np.testing.assert_array_equal(kernel, found["lstm/lstm_cell/kernel"])
    np.testing.assert_array_equal(get_gradients(model, (1, 0), *batch, mode="weights"), kernel)
    by_layer = get_gradients(model, None, *batch, layer=model.get_layer("lstm"), mode="weights")
    assert [a.shape for a in by_layer] == [(3, 16), (4, 16), (16,)]
    np.testing.assert_array_equal(by_layer[0], kernel)


def test_params_take_weights_and_symbolic_tensors(model, batch):
    lstm = model.get_layer("lstm")
    named = get_gradients(
        model, None, *batch, params=[lstm.cell.bias, lstm.output, model.inputs[0]], as_dict=True
    )
    assert list(named) == ["lstm/lstm_cell/bias", "lstm", "series"]
    np.testing.assert_array_equal(named["lstm"], get_gradients(model, "lstm", *batch))
    np.testing.assert_array_equal(named["series"], get_gradients(model, "series", *batch))
    alone = get_gradients(model, "dense", *batch, params=lstm.cell.bias, mode="outputs")
    np.testing.assert_array_equal(alone, named["lstm/lstm_cell/bias"])


def test_params_pick_the_call_and_the_tensor():
    left, right = keras.Input((6, 3), name="left"), keras.Input((6, 3), name="right")
    shared = layers.LSTM(4, return_state=True, name="shared")
    a, b = shared(left), shared(right)
    outside = shared(keras.Input((6, 3)))
    model = keras.Model([left, right], layers.Dense(1)(a[0] + 2.0 * b[0] + 3.0 * b[2]))
    model.compile("sgd", "mse")
    x, y = [data(2, 6, 3), data(2, 6, 3)], data(2, 1)
    every = get_gradients(model, "shared", x, y, as_dict=True)
    assert list(every) == [
        f"shared{end}" for end in ("", "/output_1", "/output_2", "/output@1", "/output_1@1", "/output_2@1")
    ]
    # Calls are numbered in the order in which the model makes them: the right one, further away, is first.
    close(every["shared"], 2.0 * every["shared/output@1"])
    close(every["shared/output_2"], 3.0 * every["shared/output@1"])
    assert not every["shared/output_1"].any()
    for symbolic, name in ((a[0], "shared/output@1"), (b[0], "shared"), (b[2], "shared/output_2")):
        found = get_gradients(model, None, x, y, params=symbolic, as_dict=True)
        assert list(found) == [name]
        np.testing.assert_array_equal(found[name], every[name])
    with pytest.raises(ArgumentError, match="which is not part of this model"):
        get_gradients(model, None, x, y, params=outside[0])


def test_params_of_a_keras_operation():
    inputs = keras.Input((3,))
    doubled = 2.0 * layers.Dense(3, name="dense")(inputs)
    model = keras.Model(inputs, doubled)
    model.compile("sgd", "mse")
    x, y = data(2, 3), data(2, 3)
    close(get_gradients(model, "dense", x, y), 2.0 * get_gradients(model, None, x, y, params=doubled))


def test_params_that_do_not_belong_are_refused(model, batch):
    with pytest.raises(ArgumentError, match="params must be variables of this model"):
        get_gradients(model, None, *batch, params=keras.Variable(1.0))
    with pytest.raises(ArgumentError, match="params must be variables of this model"):
        get_gradients(model, None, *batch, params="lstm")


def test_input_of_sequential_and_subclassed_models():
    class Doubler(keras.Model):
        def call(self, x):
            return 2.0 * x

    plain = Doubler()
    x, y = data(2, 3), data(2, 3)
    plain(x)
    plain.compile("sgd", "mse")
    close(get_gradients(plain, "input", x, y), 4.0 * (2.0 * x - y) / 6)
    sequential = keras.Sequential([keras.Input((3,)), layers.Activation("linear")])
    sequential.compile("sgd", "mse")
    close(get_gradients(sequential, "input", x, y), 2.0 * (x - y) / 6)
    close(get_gradients(sequential, None, x, y, params=sequential.inputs[0]), 2.0 * (x - y) / 6)
    close(get_gradients(sequential, None, x, y, params=sequential.layers[0].output), 2.0 * (x - y) / 6)


def test_gradients_of_what_is_no_float_are_refused_by_name():
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    model = keras.Model(tokens, layers.Dense(1)(layers.GRU(3)(layers.Embedding(9, 3, name="embed")(tokens))))
    model.compile("sgd", "mse")
    x, y = RNG.integers(0, 9, (2, 5)), data(2, 1)
    with pytest.raises(
        UnsupportedLayerError, match="'tokens' has no gradient: it is not of floating-point type"
    ):
        get_gradients(model, "tokens", x, y)
    assert get_gradients(model, "embed", x, y).shape == (2, 5, 3)
    table = get_gradients(model, "embed", x, y, mode="weights")
    assert table.shape == (9, 3)
    assert not table[[i for i in range(9) if i not in x]].any()


def test_frozen_layers_are_refused_by_name_but_can_be_had_as_params(model, batch):
    gru = model.get_layer("gru")
    expected = get_gradients(model, "gru/bias", *batch, mode="weights")
    gru.trainable = False
    try:
        with pytest.raises(
            UnsupportedLayerError, match=r"nothing trainable in 'gru' .* pass params=layer.weights"
        ):
            get_gradients(model, "gru", *batch, mode="weights")
        assert not [n for n in get_gradients(model, "*", *batch, mode="weights", as_dict=True) if "gru" in n]
        close(get_gradients(model, None, *batch, params=gru.cell.bias), expected)
    finally:
        gru.trainable = True


def test_what_the_loss_does_not_depend_on_has_gradient_zero():
    inputs = keras.Input((3,))
    used, unused = layers.Dense(2, name="used")(inputs), layers.Dense(2, name="unused")(inputs)
    model = keras.Model(inputs, [used, unused])
    model.compile("sgd", ["mse", None])
    x, y = data(4, 3), [data(4, 2), data(4, 2)]
    assert not get_gradients(model, "unused", x, y).any()
    assert [a.shape for a in get_gradients(model, "unused", x, y, mode="weights")] == [(3, 2), (2,)]
    assert get_gradients(model, "used", x, y).any()


def test_bad_arguments_are_told(model, batch):
    x, y = batch
    with pytest.raises(ArgumentError, match="mode must be one of 'outputs', 'weights'; got 'grads'"):
        get_gradients(model, "lstm", x, y, mode="grads")
    with pytest.raises(ArgumentError, match="the compiled loss needs labels; pass them"):
        get_gradients(model, "lstm", x, None)
    with pytest.raises(
        UnknownLayerError, match="no layer matches 'nope'; layers are: series, lstm, gru, dense"
    ):
        get_gradients(model, "nope", x, y)
    with pytest.raises(ArgumentError, match="learning_phase must be 0"):
        get_gradients(model, "lstm", x, y, learning_phase=3)
    bare = keras.Sequential([keras.Input((3,)), layers.Dense(1)], name="bare")
    with pytest.raises(
        ArgumentError, match=r"model 'bare' has no loss; call model\.compile\(optimizer, loss\) first"
    ):
        get_gradients(bare, 0, data(2, 3), data(2, 1))


# -- what training applies ----------------------------------------------------------------------


def applied_by_training(model, x, y, sample_weight=None):
    """What one SGD(1) step subtracts from every weight."""
    before = model.get_weights()
    model.train_on_batch(x, y, sample_weight=sample_weight)
    after = model.get_weights()
    model.set_weights(before)
    return [a - b for a, b in zip(before, after, strict=True)]


@pytest.mark.parametrize(
    "clipping",
    [{}, {"clipnorm": 0.01}, {"clipvalue": 1e-3}, {"global_clipnorm": 0.02}],
)
def test_weight_gradients_are_what_the_optimizer_applies(clipping):
    tokens = keras.Input((6,), dtype="int32")
    h = layers.Embedding(5, 3)(tokens)
    h = layers.Bidirectional(layers.LSTM(4))(h)
    model = keras.Model(tokens, layers.Dense(2, kernel_regularizer="l2")(h))
    model.compile(keras.optimizers.SGD(1.0, **clipping), "mse")
    x, y, weight = RNG.integers(0, 5, (3, 6)), 3.0 * data(3, 2), np.array([1.0, 0.2, 3.0])
    expected = applied_by_training(model, x, y, weight)
    got = get_gradients(model, "*", x, y, weight, mode="weights")
    for array, applied in zip(got, expected, strict=True):
        np.testing.assert_allclose(array, applied, rtol=1e-4, atol=2e-6)
    one = get_gradients(model, "dense/kernel", x, y, weight, mode="weights")
    np.testing.assert_allclose(one, got[-2], rtol=1e-5, atol=1e-8)


def test_loss_scale_factors_are_divided_out():
    model = keras.Sequential([keras.Input((6, 3)), layers.GRU(4), layers.Dense(2)])
    model.compile(keras.optimizers.SGD(1.0, loss_scale_factor=64.0, clipnorm=0.05), "mse")
    x, y = data(3, 6, 3), data(3, 2)
    expected = applied_by_training(model, x, y)
    for array, applied in zip(get_gradients(model, "*", x, y, mode="weights"), expected, strict=True):
        np.testing.assert_allclose(array, applied, rtol=1e-4, atol=2e-6)


def test_clip_false_gives_gradients_as_they_are():
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.Dense(2, name="dense")(layers.GRU(4, name="gru")(inputs)))
    x, y = data(3, 6, 3), 5.0 * data(3, 2)
    model.compile("sgd", "mse")
    raw = get_gradients(model, "*", x, y, mode="weights", as_dict=True)
    raw_out = get_gradients(model, "gru", x, y)
    model.compile(keras.optimizers.Adam(clipnorm=0.1), "mse")
    clipped = get_gradients(model, "*", x, y, mode="weights", as_dict=True)
    unclipped = get_gradients(model, "*", x, y, mode="weights", as_dict=True, clip=False)
    for name, value in raw.items():
        close(unclipped[name], value)
        norm = np.linalg.norm(value)
        close(clipped[name], value * min(1.0, 0.1 / norm))
    norm = np.linalg.norm(raw_out)
    close(get_gradients(model, "gru", x, y), raw_out * min(1.0, 0.1 / norm))
    close(get_gradients(model, "gru", x, y, clip=False), raw_out)


@pytest.mark.parametrize("trained", [False, True])
def test_loss_scaling_is_divided_out_in_mixed_float16(trained):
    lstm = layers.LSTM(4, return_sequences=True, dtype="mixed_float16", name="lstm")
    inputs = keras.Input((6, 3))
    h = layers.GRU(3, dtype="mixed_float16", name="gru")(lstm(inputs))
    model = keras.Model(inputs, layers.Dense(2, dtype="float32", name="head")(h))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0, clipnorm=100.0)), "mse")
    x, y = data(2, 6, 3), data(2, 2)
    if trained:
        model.train_on_batch(x, y)
    twin = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config({**layer.get_config(), "dtype": "float32"}),
    )
    twin.set_weights(model.get_weights())
    twin.compile("sgd", "mse")
    with nothing_changes(model, x, y):
        for mode in ("outputs", "weights"):
            got = get_gradients(model, "*", x, y, mode=mode, as_dict=True)
            expected = get_gradients(twin, "*", x, y, mode=mode, as_dict=True)
            for array, reference in zip(got.values(), expected.values(), strict=True):
                assert array.dtype == "float32"
                np.testing.assert_allclose(array, reference, rtol=0.05, atol=0.02 * np.abs(reference).max())


def test_tiny_float16_gradients_survive_by_the_loss_scale():
    inputs = keras.Input((3,))
    h = layers.Dense(3, dtype="mixed_float16", name="half", kernel_initializer="ones")(inputs)
    model = keras.Model(inputs, layers.Dense(1, dtype="float32", kernel_initializer="ones")(h))
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), lambda y, p: 1e-9 * keras.ops.sum(p)
    )
    gradient = get_gradients(model, "half", data(2, 3), data(2, 1))
    # 1e-9 is below the smallest float16 (6e-8); times 2**15 it is not.
    np.testing.assert_allclose(gradient, np.full((2, 3), 1e-9), rtol=2e-3)


def test_bfloat16_gradients_come_as_float32():
    inputs = keras.Input((6, 3))
    h = layers.LSTM(4, dtype="mixed_bfloat16", name="lstm")(inputs)
    model = keras.Model(inputs, layers.Dense(2, dtype="float32")(h))
    model.compile("sgd", "mse")
    gradient = get_gradients(model, "lstm", data(2, 6, 3), data(2, 2))
    assert gradient.dtype == "float32"
    assert gradient.any()


def test_class_weights_as_sample_weights():
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.GRU(4)(inputs)))
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    x, y = data(5, 6, 3), np.array([0, 1, 2, 1, 0])
    factor = {0: 1.0, 1: 5.0, 2: 0.5}
    got = get_gradients(model, "*", x, y, np.array([factor[label] for label in y]), mode="weights")
    before = model.get_weights()
    model.train_on_batch(x, y, class_weight=factor)
    for array, was, now in zip(got, before, model.get_weights(), strict=True):
        np.testing.assert_allclose(array, was - now, rtol=1e-4, atol=1e-6)


def test_losses_added_by_layers_and_own_compute_loss_count():
    class Own(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.sum(self.losses) + 3.0 * keras.ops.sum(y_pred)

    class Adds(layers.Layer):
        def call(self, x):
            self.add_loss(2.0 * keras.ops.sum(x))
            return x

    inputs = keras.Input((3,))
    model = Own(inputs, Adds(name="adds")(layers.Dense(3, name="dense")(inputs)))
    model.compile("sgd")
    x = data(2, 3)
    found = get_gradients(model, ["dense", "adds"], x, None, as_dict=True)
    close(found["dense"], np.full((2, 3), 5.0))
    close(found["adds"], np.full((2, 3), 3.0))


# -- kinds of models ----------------------------------------------------------------------------


def plain_tape(model, x, y, training=False):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=training))
    return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, model.trainable_weights)]


def kinds():
    rnn = lambda **kw: layers.LSTM(3, **kw)  # noqa: E731
    return {
        "rnn_cell": ((6, 3), layers.RNN(layers.GRUCell(3))),
        "stacked": ((6, 3), layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(4)])),
        "bidirectional": ((6, 3), layers.Bidirectional(rnn(), merge_mode="ave")),
        "bidirectional_cells": (
            (6, 3),
            layers.Bidirectional(layers.RNN([layers.GRUCell(3), layers.GRUCell(2)])),
        ),
        "time_distributed": ((4, 6, 3), layers.TimeDistributed(rnn())),
        "conv_lstm_1d": ((4, 6, 2), layers.ConvLSTM1D(3, 2)),
        "conv_lstm_2d": ((4, 6, 5, 2), layers.ConvLSTM2D(3, 2, return_sequences=True)),
        "conv_1d": ((8, 2), layers.Conv1D(3, 2)),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_layer_against_a_plain_tape(kind):
    shape, layer = kinds()[kind]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(layer(inputs))))
    model.compile("sgd", "mse")
    x, y = data(2, *shape), data(2, 1)
    with nothing_changes(model, x, y):
        weights = get_gradients(model, "*", x, y, mode="weights")
        output = get_gradients(model, layer.name, x, y)
        assert output.shape == (2, *layer.output.shape[1:])
        assert output.any()
        assert get_gradients(model, 0, x, y).shape == x.shape
    for mine, theirs in zip(weights, plain_tape(model, x, y), strict=True):
        close(mine, theirs)


def test_bidirectional_without_merge_gives_one_gradient_per_direction():
    inputs = keras.Input((6, 3))
    forward, backward = layers.Bidirectional(
        layers.GRU(3, return_sequences=True), merge_mode=None, name="bi"
    )(inputs)
    model = keras.Model(inputs, forward + 2.0 * backward)
    model.compile("sgd", "mse")
    found = get_gradients(model, "bi", data(2, 6, 3), data(2, 6, 3), as_dict=True)
    assert list(found) == ["bi", "bi/output_1"]
    close(found["bi/output_1"], 2.0 * found["bi"])


def test_masked_steps_have_no_gradient_in_time():
    tokens = keras.Input((7,), dtype="int32")
    h = layers.Embedding(9, 3, mask_zero=True, name="embed")(tokens)
    model = keras.Model(tokens, layers.Dense(1)(layers.LSTM(4, name="lstm")(h)))
    model.compile("sgd", "mse")
    x = np.array([[3, 4, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7]])
    gradient = get_gradients(model, "embed", x, data(2, 1))
    assert not gradient[0, 2:].any()
    assert gradient[1].any(-1).all()


def test_subclassed_multi_input_dict_models():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.rnn = layers.GRU(4, name="rnn")
            self.head = layers.Dense(2, name="head")

        def call(self, batch):
            return {"y": self.head(keras.ops.concatenate([self.rnn(batch["a"]), batch["b"]], -1))}

    model = Two()
    x, y = {"a": data(3, 6, 2), "b": data(3, 2)}, {"y": data(3, 2)}
    model(x)
    model.compile("sgd", {"y": "mse"})
    with nothing_changes(model, x, y):
        got = get_gradients(model, "*", x, y, mode="weights")
        inputs = get_gradients(model, "input", x, y, as_dict=True)
    for mine, theirs in zip(got, plain_tape(model, x, y), strict=True):
        close(mine, theirs)
    assert [a.shape for a in inputs.values()] == [(3, 6, 2), (3, 2)]
    np.testing.assert_array_equal(
        get_gradients(model, ["rnn", "head"], x, y, as_dict=True)["head"], get_gradients(model, "head", x, y)
    )


def test_stateful_layers_start_from_their_state_and_keep_it():
    inputs = keras.Input(batch_shape=(2, 6, 3))
    model = keras.Model(inputs, layers.SimpleRNN(4, stateful=True, name="rnn")(inputs))
    model.compile("sgd", "mse")
    x, y = data(2, 6, 3), data(2, 4)
    model.predict(x, batch_size=2, verbose=0)
    with nothing_changes(model, x, y):
        got = get_gradients(model, "rnn", x, y)
    out = numpy_rnn.simple_rnn(np.concatenate([x, x], 1), *model.get_weights())[:, -1]
    close(got, 2 * (out - y) / y.size)


def test_eager_models():
    model = keras.Sequential(
        [keras.Input((6, 3)), layers.GRU(4, name="gru"), layers.Dense(2, activation="softmax")]
    )
    x, y = data(2, 6, 3), np.eye(2, dtype="float32")
    results = []
    for eagerly in (False, True):
        model.compile("sgd", "categorical_crossentropy", run_eagerly=eagerly)
        with nothing_changes(model, x, y):
            results.append(get_gradients(model, "*", x, y))
    for graph, eager in zip(*results, strict=True):
        close(graph, eager)


# -- nothing changes ----------------------------------------------------------------------------


def noisy_model():
    inputs = keras.Input((6, 3))
    h = layers.LSTM(4, dropout=0.3, recurrent_dropout=0.2, return_sequences=True, name="lstm")(inputs)
    h = layers.BatchNormalization(name="norm")(h)
    h = layers.Dropout(0.5, name="drop")(h)
    h = layers.SpectralNormalization(layers.Dense(3), name="spectral")(h)
    outputs = [layers.Dense(1, name="p", activity_regularizer="l2")(h), layers.Dense(2, name="q")(h)]
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(clipnorm=1.0), ["mse", "mae"], metrics=[["mae"], ["mse"]])
    return model


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("phase", [0, 1])
def test_nothing_of_the_model_changes(trained, phase):
    model = noisy_model()
    x, y, weight = data(4, 6, 3), [data(4, 6, 1), data(4, 6, 2)], data(4, 6)
    if trained:
        model.fit(x, y, verbose=0)
    weight = np.abs(weight)
    with nothing_changes(model, x, y, weight):
        first = get_gradients(model, "*", x, y, weight, learning_phase=phase)
        get_gradients(model, "*", x, y, weight, learning_phase=phase, mode="weights")
        again = get_gradients(model, "*", x, y, weight, learning_phase=phase)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)


def test_losses_not_built_yet_stay_so_over_several_shapes():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [layers.Dense(1, name="p")(inputs), layers.Dense(2, name="q")(inputs)])
    model.compile("sgd", ["mse", "mae"])
    for size in (4, 2, 7):
        x, y = data(size, 3), [data(size, 1), data(size, 2)]
        with nothing_changes(model, x, y):
            gradient = get_gradients(model, "p", x, y)
        close(gradient, 2 * (model.predict_on_batch(x)[0] - y[0]) / size)
    assert model.metrics_names == ["loss"]


def test_losses_built_in_between_are_not_changed_either():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, [layers.Dense(1, name="p")(inputs), layers.Dense(2, name="q")(inputs)])
    model.compile("sgd", ["mse", "mae"], metrics=[["mae"], ["mse"]])
    x, y = data(4, 3), [data(4, 1), data(4, 2)]
    get_gradients(model, "p", x, y)
    model.fit(x, y, verbose=0)
    assert "p_loss" in model.metrics_names
    for size in (4, 3):  # as compiled before, and compiled again with the losses there are now
        with nothing_changes(model, x, y):
            get_gradients(model, "p", x[:size], [part[:size] for part in y])


def test_a_callback_that_looks_does_not_change_the_training():
    weights = []
    for look in (False, True):
        keras.utils.set_random_seed(3)
        x, y = (
            keras.random.normal((12, 6, 3), seed=1).numpy(),
            keras.random.normal((12, 6, 1), seed=2).numpy(),
        )
        inputs = keras.Input((6, 3))
        h = layers.BatchNormalization()(layers.GRU(4, dropout=0.4, return_sequences=True)(inputs))
        model = keras.Model(inputs, layers.Dense(1)(h))
        model.compile("adam", "mse", metrics=["mae"])

        def looks(batch, logs, model=model, x=x, y=y):
            get_gradients(model, "*", x, y, learning_phase=1)

        looking = keras.callbacks.LambdaCallback(on_train_batch_end=looks)
        history = model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[looking] if look else [])
        weights.append([*model.get_weights(), *history.history["loss"], *history.history["mae"]])
    for without, with_us in zip(*weights, strict=True):
        np.testing.assert_array_equal(without, with_us)


def test_eager_calls_pile_nothing_up():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activity_regularizer="l2")])
    model.compile("sgd", "mse", run_eagerly=True)
    for _ in range(3):
        get_gradients(model, 0, data(2, 3), data(2, 2))
    (step,) = programs._programs[model].by_request.values()
    assert step._kept == []


def test_running_loss_metric_is_not_changed():
    model = noisy_model()
    x, y = data(4, 6, 3), [data(4, 6, 1), data(4, 6, 2)]
    model.fit(x, y, verbose=0)
    before = {m.name: [v.numpy() for v in m.variables] for m in model.metrics}
    get_gradients(model, "lstm", x, y, learning_phase=1)
    after = {m.name: [v.numpy() for v in m.variables] for m in model.metrics}
    assert before == after
    assert before["loss"][0] > 0


def test_training_mode_gives_the_gradients_of_the_next_training_step():
    inputs = keras.Input((6, 3))
    h = layers.BatchNormalization()(layers.GRU(4, dropout=0.5, return_sequences=True)(inputs))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.5)(h)))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x, y = data(4, 6, 3), data(4, 6, 1)
    ahead = get_gradients(model, "*", x, y, learning_phase=1, mode="weights")
    before = [v.numpy() for v in model.trainable_weights]
    model.train_on_batch(x, y)
    for gradient, was, now in zip(ahead, before, model.trainable_weights, strict=True):
        np.testing.assert_allclose(gradient, was - now.numpy(), rtol=1e-4, atol=1e-6)


def test_everything_is_put_back_after_an_error_in_the_loss():
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.5)(layers.GRU(4)(inputs))))

    def broken(y, p):
        raise RuntimeError("the user's own bug")

    model.compile("sgd", broken)
    x, y = data(4, 6, 3), data(4, 1)
    with nothing_changes(model, x, y), pytest.raises(RuntimeError, match="the user's own bug"):
        get_gradients(model, "*", x, y, learning_phase=1)


# -- caching ------------------------------------------------------------------------------------


def traces(model):
    return [step.experimental_get_tracing_count() for step in programs._programs[model].by_request.values()]


def test_compiled_once_and_dropped_when_the_model_changes():
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.Dense(1, name="dense")(layers.GRU(4, name="gru")(inputs)))
    model.compile("sgd", "mse")
    x, y = data(4, 6, 3), data(4, 1)
    squared = get_gradients(model, "dense", x, y)
    compiled = programs._programs[model]
    for _ in range(2):
        model.fit(x, y, verbose=0)
        get_gradients(model, "dense", x, y)
        get_gradients(model, "dense", x, y)
    assert programs._programs[model] is compiled
    assert traces(model) == [1]
    model.compile("sgd", "mae")
    absolute = get_gradients(model, "dense", x, y)
    close(np.abs(absolute), np.full((4, 1), 0.25))
    assert np.abs(squared - absolute).max() > 1e-3
    model.get_layer("gru").trainable = False
    assert list(get_gradients(model, "*", x, y, mode="weights", as_dict=True)) == [
        "dense/kernel",
        "dense/bias",
    ]
    assert traces(model) == [1]


def test_changed_clipping_and_loss_weights_are_seen():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Dense(1, name="dense")(inputs))
    optimizer = keras.optimizers.SGD(clipvalue=1e-3)
    model.compile(optimizer, "mse")
    x, y = data(4, 3), 10 + data(4, 1)
    assert np.abs(get_gradients(model, "dense", x, y)).max() == pytest.approx(1e-3)
    optimizer.clipvalue = 1e-4
    assert np.abs(get_gradients(model, "dense", x, y)).max() == pytest.approx(1e-4)
    model.compile("sgd", "mse", loss_weights=[0.5])
    half = get_gradients(model, "dense", x, y)
    model.compile("sgd", "mse")
    close(2 * half, get_gradients(model, "dense", x, y))


def test_cache_does_not_keep_a_model_alive():
    model = noisy_model()
    x, y = data(4, 6, 3), [data(4, 6, 1), data(4, 6, 2)]
    get_gradients(model, "*", x, y)
    get_gradients(model, "*", x, y, mode="weights")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# -- input data ---------------------------------------------------------------------------------


def test_sources_of_batches_bring_their_labels_and_weights(model):
    x, y, weight = data(4, 6, 3), data(4, 2), np.abs(data(4))
    expected = get_gradients(model, "lstm", x[:2], y[:2], weight[:2])
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(2)
    np.testing.assert_array_equal(get_gradients(model, "lstm", dataset, None), expected)
    generator = iter([(x[:2], y[:2], weight[:2]), None])
    np.testing.assert_array_equal(get_gradients(model, "lstm", generator, None), expected)
    assert next(generator) is None
    inputs_only = tf.data.Dataset.from_tensor_slices(x).batch(2)
    np.testing.assert_array_equal(get_gradients(model, "lstm", inputs_only, y[:2], weight[:2]), expected)


def test_labels_given_twice_are_refused(model):
    dataset = tf.data.Dataset.from_tensor_slices((data(4, 6, 3), data(4, 2))).batch(2)
    with pytest.raises(ArgumentError, match="input_data yields labels itself; pass labels=None"):
        get_gradients(model, "lstm", dataset, data(2, 2))
