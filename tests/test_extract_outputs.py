"""get_outputs: what layers compute, against NumPy loops and Keras's own sub-models."""

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
from unchanged import nothing_changes, snapshot

from see_rnn_like.engine import programs
from see_rnn_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    ForeignModelError,
    UnknownLayerError,
    UnsupportedLayerError,
)
from see_rnn_like.extract.outputs import get_outputs

RNG = np.random.default_rng(7)


def data(*shape):
    return RNG.normal(size=shape).astype("float32")


def close(got, expected, tolerance=1e-5):
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_signature_is_see_rnns():
    bare = [p.replace(annotation=p.empty) for p in inspect.signature(get_outputs).parameters.values()]
    assert str(inspect.Signature(bare)) == (
        "(model, _id, input_data, layer=None, learning_phase=0, as_dict=False)"
    )


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


@pytest.mark.parametrize("kind", NUMPY_CELLS)
def test_outputs_equal_a_numpy_loop(kind):
    run, make = NUMPY_CELLS[kind]
    first, second = make(return_sequences=True), make()
    model = keras.Sequential([keras.Input((9, 3)), first, second, layers.Dense(2)])
    x = data(5, 9, 3)
    sequence = run(x, *first.get_weights())
    close(get_outputs(model, 0, x), sequence)
    close(get_outputs(model, 1, x), run(sequence, *second.get_weights())[:, -1])


@pytest.mark.parametrize("kind", NUMPY_CELLS)
def test_outputs_of_a_rnn_of_a_cell_equal_a_numpy_loop(kind):
    run, make = NUMPY_CELLS[kind]
    layer = layers.RNN(make().cell, return_sequences=True)
    model = keras.Sequential([keras.Input((9, 3)), layer])
    x = data(5, 9, 3)
    close(get_outputs(model, 0, x), run(x, *layer.get_weights()))


@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave", None])
def test_bidirectional_outputs_equal_two_numpy_loops(merge_mode):
    bi = layers.Bidirectional(layers.GRU(4, return_sequences=True), merge_mode=merge_mode, name="bi")
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, bi(inputs))
    x = data(2, 6, 3)
    forward = numpy_rnn.gru_reset_after(x, *bi.forward_layer.get_weights())
    backward = numpy_rnn.gru_reset_after(x[:, ::-1], *bi.backward_layer.get_weights())[:, ::-1]
    got = get_outputs(model, "bi", x)
    if merge_mode is None:
        assert list(get_outputs(model, "bi", x, as_dict=True)) == ["bi", "bi/output_1"]
        close(got[0], forward)
        close(got[1], backward)
        return
    merged = {
        "concat": np.concatenate([forward, backward], -1),
        "sum": forward + backward,
        "mul": forward * backward,
        "ave": (forward + backward) / 2,
    }
    close(got, merged[merge_mode])


def test_stacked_cells_time_distributed_and_conv_lstm_equal_predict():
    cases = {
        "stacked": ((6, 3), layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)], name="layer")),
        "timed": ((5, 6, 3), layers.TimeDistributed(layers.LSTM(3), name="layer")),
        "conv1": ((4, 6, 2), layers.ConvLSTM1D(3, 2, name="layer")),
        "conv2": ((4, 6, 5, 2), layers.ConvLSTM2D(3, 2, return_sequences=True, name="layer")),
        "conv": ((8, 2), layers.Conv1D(3, 2, activation="relu", name="layer")),
        "bi_cells": ((6, 3), layers.Bidirectional(layers.RNN(layers.LSTMCell(3)), name="layer")),
    }
    for shape, layer in cases.values():
        model = keras.Sequential([keras.Input(shape), layer, layers.Flatten()])
        part = keras.Sequential([keras.Input(shape), layer])
        x = data(2, *shape)
        close(get_outputs(model, "layer", x), part.predict(x, verbose=0))


def test_return_state_gives_output_and_states():
    inputs = keras.Input((6, 3))
    sequence, h, c = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(inputs)
    model = keras.Model(inputs, [sequence, layers.Dense(1)(h + c)])
    x = data(2, 6, 3)
    found = get_outputs(model, "lstm", x, as_dict=True)
    assert list(found) == ["lstm", "lstm/output_1", "lstm/output_2"]
    expected = numpy_rnn.lstm(x, *model.get_layer("lstm").get_weights())
    close(found["lstm"], expected)
    close(found["lstm/output_1"], expected[:, -1])
    assert [a.shape for a in get_outputs(model, "lstm", x)] == [(2, 6, 4), (2, 4), (2, 4)]


# -- ids and shapes of what comes back ----------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    inputs = keras.Input((6, 3), name="series")
    h = layers.LSTM(4, return_sequences=True, name="lstm")(inputs)
    h = layers.GRU(5, name="gru")(h)
    return keras.Model(inputs, layers.Dense(2, activation="softmax", name="dense")(h))


def submodel_output(model, name, x):
    return keras.Model(model.inputs, model.get_layer(name).output).predict(x, verbose=0)


def test_names_and_ints_in_one_list_keep_order_and_names(model):
    x = data(2, 6, 3)
    found = get_outputs(model, ["dense", 1, "gr"], x, as_dict=True)
    assert list(found) == ["dense", "lstm", "gru"]
    for name, array in found.items():
        close(array, submodel_output(model, name, x))
    for array, name in zip(get_outputs(model, ["dense", 1, "gr"], x), found, strict=True):
        close(array, submodel_output(model, name, x))


def test_wildcard_is_every_layer_but_the_input(model):
    x = data(2, 6, 3)
    found = get_outputs(model, "*", x, as_dict=True)
    assert list(found) == ["lstm", "gru", "dense"]
    assert [a.shape for a in get_outputs(model, "*", x)] == [(2, 6, 4), (2, 5), (2, 2)]


def test_one_comes_alone_several_in_a_list_repeats_included(model):
    x = data(2, 6, 3)
    assert get_outputs(model, "gru", x).shape == (2, 5)
    assert get_outputs(model, ["gru"], x).shape == (2, 5)
    first, second = get_outputs(model, ["gru", "gru"], x)
    np.testing.assert_array_equal(first, second)
    assert get_outputs(model, None, x, layer=model.get_layer("dense")).shape == (2, 2)
    assert [a.shape for a in get_outputs(model, "lstm", x, layer=model.layers[2:])] == [(2, 5), (2, 2)]


def test_input_layer_gives_what_went_in(model):
    x = data(2, 6, 3)
    np.testing.assert_array_equal(get_outputs(model, "series", x), x)
    np.testing.assert_array_equal(get_outputs(model, 0, x), x)
    sequential = keras.Sequential([keras.Input((6, 3)), layers.LSTM(2, name="lstm")])
    np.testing.assert_array_equal(get_outputs(sequential, "input", x), x)


def test_unknown_layers_raise_before_anything_runs(model):
    with pytest.raises(
        UnknownLayerError, match="no layer matches 'lsmt'; layers are: series, lstm, gru, dense"
    ):
        get_outputs(model, ["lstm", "lsmt"], data(2, 6, 3))


# -- kinds of models ----------------------------------------------------------------------------


def test_nested_models_by_inner_name_and_path():
    inner_in = keras.Input((6, 4))
    inner = keras.Model(inner_in, layers.GRU(3, name="gru")(inner_in), name="encoder")
    inputs = keras.Input((6, 3))
    model = keras.Model(
        inputs, layers.Dense(1)(inner(layers.LSTM(4, return_sequences=True, name="lstm")(inputs)))
    )
    x = data(2, 6, 3)
    sequence = numpy_rnn.lstm(x, *model.get_layer("lstm").get_weights())
    expected = numpy_rnn.gru_reset_after(sequence, *inner.layers[1].get_weights())[:, -1]
    for _id in ("encoder/gru", "gru", "encoder"):
        close(get_outputs(model, _id, x), expected)
    assert list(get_outputs(model, ["gru", "encoder"], x, as_dict=True)) == ["encoder/gru", "encoder"]


def test_shared_layers_give_one_array_per_call():
    left, right = keras.Input((6, 3), name="left"), keras.Input((6, 3), name="right")
    shared = layers.LSTM(4, name="shared")
    model = keras.Model([left, right], layers.Dense(1)(layers.concatenate([shared(left), shared(right)])))
    a, b = data(2, 6, 3), data(2, 6, 3)
    found = get_outputs(model, "shared", [a, b], as_dict=True)
    assert list(found) == ["shared", "shared/output@1"]
    for array, x in zip(found.values(), (a, b), strict=True):
        close(array, numpy_rnn.lstm(x, *shared.get_weights())[:, -1])


class Reader(keras.Model):
    """A subclassed model with a layer it does not call."""

    def __init__(self):
        super().__init__()
        self.embed = layers.Embedding(9, 3, mask_zero=True, name="embed")
        self.rnn = layers.LSTM(4, name="rnn")
        self.spare = layers.Activation("tanh", name="spare")
        self.head = layers.Dense(2, name="head")

    def call(self, tokens, training=None):
        return self.head(self.rnn(self.embed(tokens), training=training))


def test_subclassed_models():
    model = Reader()
    tokens = RNG.integers(1, 9, (3, 5))
    model(tokens)
    found = get_outputs(model, "*", tokens, as_dict=True)
    assert list(found) == ["embed", "rnn", "head"]  # "spare" is not called
    close(found["head"], model.predict(tokens, verbose=0))
    close(found["rnn"], numpy_rnn.lstm(found["embed"], *model.rnn.get_weights())[:, -1])
    with pytest.raises(
        UnsupportedLayerError, match="'spare' has no output to be seen: this forward pass does not"
    ):
        get_outputs(model, "spare", tokens)


def test_dict_inputs_and_outputs_in_any_order():
    inputs = {"b": keras.Input((4,), name="b"), "a": keras.Input((6, 3), name="a")}
    h = layers.concatenate([layers.GRU(4, name="gru")(inputs["a"]), inputs["b"]])
    model = keras.Model(inputs, {"p": layers.Dense(1, name="p")(h), "q": layers.Dense(2, name="q")(h)})
    x = {"b": data(2, 4), "a": data(2, 6, 3)}
    gru = model.get_layer("gru")
    for given in (x, dict(reversed(x.items()))):
        close(get_outputs(model, "gru", given), numpy_rnn.gru_reset_after(x["a"], *gru.get_weights())[:, -1])
        found = get_outputs(model, ["b", "a", "q"], given, as_dict=True)
        np.testing.assert_array_equal(found["b"], x["b"])
        np.testing.assert_array_equal(found["a"], x["a"])
        close(found["q"], model.predict(x, verbose=0)["q"])


def test_list_models_take_dicts_by_input_name():
    first, second = keras.Input((3,), name="first"), keras.Input((3,), name="second")
    model = keras.Model([first, second], layers.Dense(1, name="d")(first - 2.0 * second))
    a, b = data(2, 3), data(2, 3)
    close(get_outputs(model, "d", {"second": b, "first": a}), get_outputs(model, "d", [a, b]))
    np.testing.assert_array_equal(get_outputs(model, "second", {"second": b, "first": a}), b)
    with pytest.raises(
        ArgumentError, match="the model takes an input 'second'; input_data has 'first', 'secnd'"
    ):
        get_outputs(model, "second", {"first": a, "secnd": b})


def test_masks_reach_the_layers_as_in_predict():
    inputs = keras.Input((7,), dtype="int32")
    h = layers.Embedding(9, 3, mask_zero=True, name="embed")(inputs)
    h = layers.LSTM(4, return_sequences=True, name="lstm")(h)
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.GRU(3, name="gru")(h)))
    tokens = RNG.integers(1, 9, (3, 7))
    tokens[0, 3:] = 0
    tokens[2, 5:] = 0
    found = get_outputs(model, "*", tokens, as_dict=True)
    close(found["head"], model.predict(tokens, verbose=0))
    unpadded = numpy_rnn.lstm(found["embed"][:1, :3], *model.get_layer("lstm").get_weights())
    close(found["lstm"][0, 6], unpadded[0, -1])  # the state stands still on padding


def test_stateful_layers_start_from_their_state_and_keep_it():
    inputs = keras.Input(batch_shape=(2, 6, 3))
    model = keras.Model(inputs, layers.LSTM(4, stateful=True, name="lstm")(inputs))
    x = data(2, 6, 3)
    model.predict(x, batch_size=2, verbose=0)
    with nothing_changes(model, x):
        first = get_outputs(model, "lstm", x)
        second = get_outputs(model, "lstm", x)
    np.testing.assert_array_equal(first, second)
    twice = numpy_rnn.lstm(np.concatenate([x, x], 1), *model.get_weights())[:, -1]
    close(first, twice)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    lstm = layers.LSTM(4, return_sequences=True, dtype=policy, name="lstm")
    model = keras.Sequential([keras.Input((6, 3)), lstm, layers.Dense(2, dtype="float32", name="head")])
    x = data(2, 6, 3)
    found = get_outputs(model, "*", x, as_dict=True)
    assert found["lstm"].dtype == ("float16" if policy == "mixed_float16" else "float32")
    close(found["lstm"].astype("float32"), numpy_rnn.lstm(x, *lstm.get_weights()), 0.03)
    assert found["head"].dtype == "float32"


def test_eager_models_are_run_eagerly():
    ran = []

    class Looks(layers.Layer):
        def compute_output_shape(self, shape):
            return shape

        def call(self, x):
            if tf.executing_eagerly():
                ran.append(bool(x[0, 0] > 100.0))  # only an eager tensor has a truth value
            return x * 2.0

    model = keras.Sequential([keras.Input((3,)), Looks(name="looks"), layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    x = data(2, 3)
    with nothing_changes(model, x):
        close(get_outputs(model, "looks", x), x * 2.0)
    assert ran == [False]


def test_layers_inside_loops_are_refused_and_left_out_of_the_wildcard():
    class Looped(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(3, name="inner")
            self.head = layers.Dense(1, name="head")

        def call(self, x):
            if not self.inner.built:
                self.inner.build((None, 3))
            h = tf.while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, self.inner(h)), [tf.constant(0), x])[1]
            return self.head(h)

    model = Looped()
    x = data(2, 3)
    model(x)
    assert list(get_outputs(model, "*", x, as_dict=True)) == ["head"]
    with pytest.raises(UnsupportedLayerError, match=r"or calls it inside a loop or a tf\.function"):
        get_outputs(model, "inner", x)


# -- learning phase -----------------------------------------------------------------------------


def dropout_model():
    inputs = keras.Input((6, 3))
    h = layers.LSTM(4, dropout=0.3, recurrent_dropout=0.2, return_sequences=True, seed=3, name="lstm")(inputs)
    h = layers.BatchNormalization(name="norm")(h)
    h = layers.Dropout(0.5, seed=1, name="drop")(h)
    model = keras.Model(inputs, layers.Dense(1, name="head")(h))
    model.compile("adam", "mse", metrics=["mae"])
    model.train_on_batch(data(8, 6, 3), data(8, 6, 1))
    return model


def test_training_mode_changes_no_seed_no_statistic_no_metric():
    model = dropout_model()
    x = data(4, 6, 3)
    with nothing_changes(model, x):
        first = get_outputs(model, "drop", x, learning_phase=1)
        again = get_outputs(model, "drop", x, learning_phase=True)
    np.testing.assert_array_equal(first, again)
    assert (first == 0).mean() > 0.2
    with nothing_changes(model, x):
        assert (get_outputs(model, "drop", x) == 0).mean() < 0.1


def test_training_mode_uses_batch_statistics():
    model = dropout_model()
    x = data(4, 6, 3)
    found = get_outputs(model, ["lstm", "norm"], x, learning_phase=1, as_dict=True)
    h = found["lstm"]
    norm = model.get_layer("norm")
    expected = (h - h.mean((0, 1))) / np.sqrt(h.var((0, 1)) + norm.epsilon)
    close(found["norm"], expected * norm.gamma.numpy() + norm.beta.numpy(), 1e-3)


def test_training_mode_draws_what_the_next_training_step_draws():
    model = dropout_model()
    x = data(4, 6, 3)
    ahead = get_outputs(model, "drop", x, learning_phase=1)
    part = keras.Model(model.inputs, model.get_layer("drop").output)
    np.testing.assert_allclose(ahead, part([x], training=True), rtol=1e-5, atol=1e-6)


def test_seeds_do_advance_without_us_so_the_test_above_can_fail():
    model = dropout_model()
    x = data(4, 6, 3)
    before = snapshot(model, x)
    model(x, training=True)
    assert snapshot(model, x)["variables"] != before["variables"]


@pytest.mark.parametrize("phase", [2, -1, "train", None])
def test_other_learning_phases_are_refused(model, phase):
    with pytest.raises(
        ArgumentError, match=r"learning_phase must be 0 \(inference\) or 1 \(training mode\); got"
    ):
        get_outputs(model, "lstm", data(2, 6, 3), learning_phase=phase)


# -- nothing changes ----------------------------------------------------------------------------


class Keeper(layers.Layer):
    """Does everything in `call` that a layer should not be caught at."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.last = None
        self.history = []
        self.seen = {}
        self.raw = tf.Variable(0.0, trainable=False)

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, x):
        self.last = x
        self.history.append(x)
        self.seen["x"] = x
        self.count.assign_add(1.0)
        self.scale.assign(self.scale * 1.5)
        self.raw.assign_add(1.0)
        self.add_loss(keras.ops.sum(x))
        return x * self.scale


def keeper_model():
    model = keras.Sequential(
        [keras.Input((3,)), Keeper(name="keeper"), layers.Dense(2, activity_regularizer="l2")]
    )
    model.compile("sgd", "mse")
    return model


def test_what_layers_keep_while_called_is_put_back():
    model = keeper_model()
    x = data(2, 3)
    model(x)
    losses = [float(loss) for loss in model.losses]
    with nothing_changes(model, x):
        get_outputs(model, "*", x)
        get_outputs(model, "keeper", data(5, 3), learning_phase=1)
    assert [float(loss) for loss in model.losses] == losses  # still readable, still those of the user's call


def test_everything_is_put_back_after_an_error_while_tracing():
    model = keeper_model()
    x = data(2, 3)
    model(x)

    def fail(*args, **kwargs):
        raise RuntimeError("the user's own bug")

    object.__setattr__(model.layers[1], "call", fail)
    with nothing_changes(model, x), pytest.raises(RuntimeError, match="the user's own bug"):
        get_outputs(model, "*", x)
    object.__delattr__(model.layers[1], "call")
    get_outputs(model, "*", x)


def test_everything_is_put_back_after_an_error_while_running():
    class Checks(layers.Layer):
        def call(self, x):
            with tf.control_dependencies([tf.debugging.assert_less(x, 100.0)]):
                return tf.identity(x)

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Checks(name="checks")(Keeper()(layers.Dropout(0.5, seed=1)(inputs))))
    x = data(2, 3)
    get_outputs(model, "checks", x, learning_phase=1)
    with nothing_changes(model, x), pytest.raises(tf.errors.InvalidArgumentError):
        get_outputs(model, "checks", x + 1000.0, learning_phase=1)


def test_everything_is_put_back_after_ctrl_c():
    interrupt = []

    class Interrupted(layers.Layer):
        def call(self, x):
            return tf.numpy_function(self.python, [x], tf.float32)

        def python(self, x):
            return x

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape)

    class Pressed(layers.Layer):
        def call(self, x):
            if interrupt:
                raise KeyboardInterrupt
            return x

    model = keras.Sequential([keras.Input((3,)), Keeper(), Interrupted(), Pressed(name="pressed")])
    model.compile("sgd", "mse", run_eagerly=True)  # eagerly, so that Ctrl-C comes after states were written
    x = data(2, 3)
    get_outputs(model, "pressed", x)
    interrupt.append(True)
    with nothing_changes(model, x), pytest.raises(KeyboardInterrupt):
        get_outputs(model, "pressed", x)


# Keras reads its variables for saving in a way NumPy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_model_can_be_saved_cloned_and_trained_afterwards(tmp_path):
    model = dropout_model()
    x = data(4, 6, 3)
    get_outputs(model, "*", x, learning_phase=1)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    close(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    keras.models.clone_model(model)
    model.fit(x, data(4, 6, 1), verbose=0)


def test_training_goes_on_bit_by_bit_as_without_us():
    results = []
    for look in (False, True):
        keras.utils.set_random_seed(5)
        x, y = keras.random.normal((8, 6, 3), seed=1).numpy(), keras.random.normal((8, 6, 1), seed=2).numpy()
        inputs = keras.Input((6, 3))
        h = layers.BatchNormalization()(layers.LSTM(4, dropout=0.4, return_sequences=True)(inputs))
        model = keras.Model(inputs, layers.Dense(1)(h))
        model.compile("adam", "mse")
        model.fit(x, y, epochs=1, verbose=0)
        if look:
            get_outputs(model, "*", x, learning_phase=1)
        model.fit(x, y, epochs=1, verbose=0)
        results.append(model.get_weights())
    for without, with_us in zip(*results, strict=True):
        np.testing.assert_array_equal(without, with_us)


# -- caching ------------------------------------------------------------------------------------


def traces(model):
    return [
        function.experimental_get_tracing_count()
        for function in programs._programs[model].by_request.values()
    ]


def test_second_call_does_not_trace_again():
    model = dropout_model()
    x = data(4, 6, 3)
    for _ in range(3):
        get_outputs(model, "lstm", x)
    assert traces(model) == [1]
    get_outputs(model, "norm", x)
    get_outputs(model, "lstm", x)
    assert traces(model) == [1, 1]
    for size in (2, 3, 5, 7):
        get_outputs(model, "lstm", data(size, 6, 3))
    assert max(traces(model)) == 2  # one more, for any batch size


def test_asking_for_many_layers_makes_tensorflow_warn_of_nothing(caplog):
    blocks = [layers.Dense(2, name=f"d{i}") for i in range(8)]
    model = keras.Sequential([keras.Input((2,)), *blocks])
    for block in blocks:
        get_outputs(model, block.name, data(1, 2))
    assert "retracing" not in caplog.text


def test_changed_layers_are_seen():
    model = dropout_model()
    x = data(4, 6, 3)
    before = get_outputs(model, "drop", x, learning_phase=1)
    model.get_layer("drop").rate = 0.0
    after = get_outputs(model, "drop", x, learning_phase=1)
    assert (before == 0).any()
    assert not (after == 0).any()


def test_changed_weights_are_seen_without_tracing():
    model = dropout_model()
    x = data(4, 6, 3)
    get_outputs(model, "head", x)
    model.get_layer("head").set_weights([np.zeros((4, 1)), np.full(1, 3.0)])
    np.testing.assert_array_equal(get_outputs(model, "head", x), np.full((4, 6, 1), 3.0))
    assert traces(model) == [1]


def test_compiled_functions_are_bounded_in_number():
    blocks = [layers.Dense(2, name=f"d{i}") for i in range(programs._KEPT_REQUESTS + 3)]
    model = keras.Sequential([keras.Input((2,)), *blocks])
    model.compile("sgd", "mse", run_eagerly=True)
    for block in blocks:
        get_outputs(model, block.name, data(1, 2))
    assert len(programs._programs[model].by_request) == programs._KEPT_REQUESTS


def test_cache_does_not_keep_a_model_alive():
    model = keras.Sequential([keras.Input((6, 3)), layers.LSTM(2, name="lstm")])
    get_outputs(model, "lstm", data(2, 6, 3))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# -- input data ---------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 2

    def __getitem__(self, index):
        return self.x[2 * index : 2 * index + 2], self.y[2 * index : 2 * index + 2]


def test_datasets_give_their_first_batch(model):
    x, y = data(8, 6, 3), data(8, 2)
    expected = get_outputs(model, "lstm", x[:2])
    for source in (
        tf.data.Dataset.from_tensor_slices((x, y)).batch(2),
        tf.data.Dataset.from_tensor_slices(x).batch(2),
        Batches(x, y),
        iter([(x[:2], y[:2])]),
        iter([x[:2]]),
    ):
        np.testing.assert_array_equal(get_outputs(model, "lstm", source), expected)


def test_generators_are_advanced_by_one_batch_only(model):
    drawn = []

    def batches():
        for i in range(5):
            drawn.append(i)
            yield data(2, 6, 3), data(2, 2)

    generator = batches()
    get_outputs(model, "lstm", generator)
    assert drawn == [0]
    next(generator)
    assert drawn == [0, 1]


def test_empty_sources_are_told_so(model):
    with pytest.raises(ArgumentError, match=r"input_data \(generator\) has no batch to give"):
        get_outputs(model, "lstm", (i for i in ()))


def test_lists_frames_tensors_and_float64_are_taken(model):
    x = data(2, 6, 3)
    expected = get_outputs(model, "lstm", x)
    for form in (x.astype("float64"), tf.constant(x), keras.Variable(x)):
        np.testing.assert_array_equal(get_outputs(model, "lstm", form), expected)


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [(3.0, "bare value 3.0"), ([[1, 2]], "bare value 1"), (object(), "a object"), ("x", "'x'")],
)
def test_what_is_no_array_is_refused(model, wrong, shown):
    with pytest.raises(ArgumentTypeError, match=f"input_data must be arrays, a list or dict .*{shown}"):
        get_outputs(model, "lstm", wrong)


def test_callers_arrays_are_untouched(model):
    x = data(2, 6, 3)
    x[0, 0, 0] = np.nan
    tensor = tf.constant(x)
    with nothing_changes(model, x, tensor):
        get_outputs(model, "*", x)[0][:] = 9.0
        get_outputs(model, "*", tensor)


# -- models that cannot be looked into ----------------------------------------------------------


def test_unbuilt_models_are_told_so_and_stay_unbuilt():
    model = keras.Sequential([layers.LSTM(2, name="lstm")])
    with pytest.raises(
        ArgumentError, match="is not built yet, so it has no weights to compute with; give it an Input"
    ):
        get_outputs(model, "lstm", data(2, 6, 3))
    assert not model.built


def test_models_on_other_backends_are_told_the_way_out(model, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ForeignModelError) as error:
        get_outputs(model, "lstm", data(2, 6, 3))
    assert str(error.value) == (
        "this model runs on the 'jax' backend, which has no engine yet; set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is imported"
    )


def test_keras_2_models_are_told_the_way_out():
    legacy = type("Sequential", (), {"__module__": "tf_keras.src.engine.sequential"})()
    with pytest.raises(
        ForeignModelError, match=r"tf_keras.* is a Keras 2 model; .* with `import keras` \(Keras 3\)"
    ):
        get_outputs(legacy, "lstm", data(1, 2))


def test_foreign_models_are_told_the_way_out():
    with pytest.raises(ForeignModelError, match=r"expected a keras\.Model; got builtins\.int"):
        get_outputs(3, "lstm", data(1, 2))
