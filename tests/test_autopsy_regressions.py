"""Places, sentences and advice that autopsies once got wrong."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from unchanged import nothing_changes

from see_rnn_like.extract.nonfinite import find_nonfinite
from see_rnn_like.findings import Where

N, T, U = 4, 6, 3
Y = np.zeros((N, 1), "float32")


def compiled(*parts, shape=(T, 1), loss="mse"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), *parts])
    model.compile(keras.optimizers.SGD(1e-3), loss, jit_compile=False)
    return model


def ruined_by_its_own_step(model, x, y):
    """Whether Keras's compiled step leaves weights that are not finite."""
    weights = model.get_weights()
    model.train_on_batch(x, y)
    ruined = not all(np.isfinite(w).all() for w in model.get_weights())
    model.set_weights(weights)
    return ruined


# -- the backward pass of a gate -------------------------------------------------------------------


def _root(z):
    return ops.sqrt(z * z)


@pytest.mark.parametrize(
    ("kind", "direction", "gate"),
    [(layers.SimpleRNN, "forward", "hidden"), (layers.GRU, "backward", "new")],
)
def test_an_activation_with_a_bad_derivative_is_named_and_not_what_it_reaches(kind, direction, gate):
    # Only the sample of zeros has a pre-activation of 0, and the first timestep asked about is its last.
    x = np.ones((N, T, 1), "float32")
    x[2] = 0
    more = {"kernel_initializer": "ones", "recurrent_initializer": "ones", "return_sequences": True}
    rnn = kind(1, activation=_root, go_backwards=direction == "backward", name="rnn", **more)
    model = compiled(rnn, layers.Dense(1))
    found = find_nonfinite(model, x, np.ones((N, T, 1)))
    timestep = T - 1 if direction == "forward" else 0
    place = Where(None, "backward", "rnn", direction, "gates", gate, timestep, (0,), (2,))
    assert found.where == place
    assert f"gradient w.r.t. the pre-activation of its {gate} gate, first at" in found.message
    assert "sqrt" in found.advice
    assert "grows" not in found.advice


# -- cells whose states or outputs nothing takes ------------------------------------------------------


class Forgetful(layers.Layer):
    """Its state is 0/0 where the input is 0, and the next timestep does not look at it."""

    state_size = output_size = 1

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 1), initializer="ones", name="kernel")

    def call(self, x, states, training=False):
        h = ops.matmul(x, self.kernel) / ops.abs(x)
        return h, [h]


class Apart(Forgetful):
    """Its output, of which only the last is returned, is not its state."""

    def call(self, x, states, training=False):
        h = ops.tanh(states[0] + ops.matmul(x, self.kernel))
        return h / x, [h]


@pytest.mark.parametrize(("cell", "role"), [(Forgetful, "h"), (Apart, "output")])
def test_what_a_compiled_loop_differentiates_is_found_although_nothing_takes_it(cell, role):
    x = np.ones((N, T, 1), "float32")
    x[1, 3] = 0
    model = compiled(layers.RNN(cell(), name="rnn"), layers.Dense(1))
    assert ruined_by_its_own_step(model, x, Y)
    with nothing_changes(model, x, Y):
        found = find_nonfinite(model, x, Y)
    assert found.where == Where(None, "forward", "rnn", "forward", role, None, 3, (0,), (1,))
    assert "grows" not in found.advice


@pytest.mark.parametrize("cell", [Forgetful, Apart])
def test_what_an_unrolled_loop_does_not_differentiate_is_no_alarm(cell):
    x = np.ones((N, T, 1), "float32")
    x[1, 3] = 0
    model = compiled(layers.RNN(cell(), unroll=True), layers.Dense(1))
    assert not ruined_by_its_own_step(model, x, Y)
    assert find_nonfinite(model, x, Y) is None


# -- axes of the data ------------------------------------------------------------------------------


def test_weights_of_timesteps_are_placed_in_time():
    model = compiled(layers.GRU(U, return_sequences=True), layers.Dense(1))
    weight = np.ones((N, T), "float32")
    weight[0, 4] = np.nan
    found = find_nonfinite(model, np.ones((N, T, 1)), np.zeros((N, T, 1)), weight)
    assert found.where == Where(phase="data", role="sample_weight", timestep=4, samples=(0,))
    assert found.message == f"NaN: sample_weight holds 1 NaN, first at timestep 4 of {T}, sample 0"


def test_a_column_of_sample_weights_has_no_units():
    weight = np.ones((N, 1), "float32")
    weight[3] = np.inf
    found = find_nonfinite(compiled(layers.GRU(1)), np.ones((N, T, 1)), Y, weight)
    assert found.where == Where(phase="data", role="sample_weight", samples=(3,))


@pytest.mark.parametrize(
    ("units", "place"), [(1, {"timestep": 4}), (T, {"units": (4,)})], ids=["per timestep", "per unit"]
)
def test_targets_of_two_axes_go_by_the_predictions(units, place):
    parts = [layers.GRU(1, return_sequences=True)] if units == 1 else [layers.GRU(units)]
    y = np.zeros((N, T), "float32")
    y[2, 4] = np.nan
    found = find_nonfinite(compiled(*parts), np.ones((N, T, 1)), y)
    assert found.where == Where(phase="data", role="y", samples=(2,), **place)


# -- losses -----------------------------------------------------------------------------------------


class TwoLosses(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = layers.Dense(1)

    def call(self, x):
        return self.head(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            fine = tf.reduce_mean(tf.square(self(x) - y))
            bad = tf.reduce_mean(tf.square(self(x)) / y)
            judged = self.judged(fine, bad)
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(judged, weights), weights, strict=True))
        return {"d_loss": fine, "g_loss": bad}

    def judged(self, fine, bad):
        return fine + bad


class OneOfThemAMetric(TwoLosses):
    def judged(self, fine, bad):
        return fine


def _two_losses(model_class):
    model = model_class()
    x = np.ones((N, 2), "float32")
    model(x)
    model.compile("sgd")
    return model, x, Y


def test_a_loss_of_another_name_in_a_train_step_of_ones_own_is_named():
    found = find_nonfinite(*_two_losses(TwoLosses))
    assert found.where == Where(phase="loss", role="loss/g_loss")
    assert found.message == "Inf: g_loss; everything before it is finite"


def test_a_metric_that_is_called_a_loss_is_no_alarm():
    assert find_nonfinite(*_two_losses(OneOfThemAMetric)) is None


def test_a_loss_that_is_bad_for_all_says_so():
    model = compiled(layers.Dense(1), shape=(1,), loss=lambda y, p: ops.log(y[:, 0]) + p[:, 0])
    found = find_nonfinite(model, np.ones((N, 1)), Y)
    assert found.message == f"Inf: the loss (lambda), all {N} samples; everything before it is finite"


# -- sentences ---------------------------------------------------------------------------------------


def test_a_linear_layer_is_not_told_to_have_an_activation():
    model = compiled(
        layers.Dense(1, "linear", kernel_initializer=keras.initializers.Constant(1e30), name="dense"),
        shape=(1,),
    )
    found = find_nonfinite(model, np.full((N, 1), 1e30), Y)
    assert found.message == f"Inf: dense, output, all {N} samples, unit 0"


def test_part_of_the_sample_weights_is_named_once():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, {name: layers.Dense(1, name=name)(inputs) for name in "ab"})
    model.compile("sgd", {"a": "mse", "b": "mse"})
    weights = {"a": np.ones(N), "b": np.array([1, np.nan, 1, 1])}
    found = find_nonfinite(model, np.ones((N, 2)), {"a": Y, "b": Y}, weights)
    assert found.message == "NaN: sample_weight/b holds 1 NaN, sample 1"
