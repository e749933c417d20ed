"""The numbers and sentences of an autopsy, against computations of their own."""

from __future__ import annotations

import dataclasses
import random

import keras
import numpy as np
import planted
import pytest
import tensorflow as tf
import xarray as xr
from keras import layers, ops
from unchanged import nothing_changes

from see_rnn_like import errors
from see_rnn_like.extract.batches import read_batch
from see_rnn_like.extract.nonfinite import autopsy_of, find_nonfinite
from see_rnn_like.findings import Where


def by_name(name):
    (case,) = [case for case in planted.CASES if case.name == name]
    return case


def data_of(case):
    model, x, y, weight = case.make()
    batch = read_batch(x, y, weight)
    return model, (batch.x, batch.y, batch.sample_weight)


# -- against NumPy -----------------------------------------------------------------------------


@pytest.mark.parametrize("growth", [2.0, 7.5, 1e3])
def test_timestep_and_growth_of_an_exploding_recurrence_are_those_of_a_numpy_loop(growth):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 1, (3, 150, 2)).astype("float32")
    kernel = rng.uniform(0.1, 1, (2, 1)).astype("float32")
    model = keras.Sequential([keras.Input((150, 2)), layers.SimpleRNN(1, activation="relu", name="rnn")])
    model.compile("sgd", "mse")
    model.layers[0].set_weights([kernel, np.full((1, 1), growth, "float32"), np.zeros(1, "float32")])

    largest, h = [], np.zeros((3, 1), "float32")
    with np.errstate(over="ignore"):
        for t in range(150):
            h = np.maximum(x[:, t] @ kernel + h * np.float32(growth), 0)
            largest.append(float(h.max()))
            if not np.isfinite(h).all():
                break
    bad = np.flatnonzero(~np.isfinite(h[:, 0]))

    found = find_nonfinite(model, x, np.zeros((3, 1)))
    assert found.where.timestep == t
    assert found.where.samples == tuple(bad)
    assert found.growth.dims == ("time",)
    assert found.growth.sizes["time"] == found.evidence["timesteps"] == 150
    np.testing.assert_allclose(found.growth[:t], largest[:-1], rtol=1e-4)
    assert found.evidence["largest_before"] == pytest.approx(largest[-2], rel=1e-4)
    ratio = (largest[-2] / largest[-7]) ** (1 / 5)
    assert found.evidence["growth_per_timestep"] == pytest.approx(ratio, rel=1e-4)
    assert f"growing ×{ratio:.3g} per timestep" in found.message or growth == 1e3


def test_the_largest_gradient_per_timestep_is_that_of_a_numpy_loop():
    found = find_nonfinite(*by_name("exploding_state_gradient").make())
    # 2 · 0.5 / 4 samples at the last timestep, and 1e10 times that at each one before.
    assert found.growth.values[-1] == pytest.approx(0.25)
    np.testing.assert_allclose(found.growth.values[-4:], 0.25 * 1e10 ** np.arange(3, -1, -1.0), rtol=1e-5)
    assert np.isinf(found.growth.values[-5])
    assert found.evidence["growth_per_timestep"] == pytest.approx(1e10, rel=1e-5)


# -- the very step -----------------------------------------------------------------------------


def dropping(seed, kind):
    keras.utils.set_random_seed(seed)
    first = {"input": layers.Dropout(0.8, name="drop"), "none": layers.Identity()}[kind]
    rnn = layers.LSTM(2, dropout=0.8 if kind == "none" else 0.0, name="rnn")
    model = keras.Sequential([keras.Input((3, 4)), first, rnn, layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    return model


@pytest.mark.parametrize("kind", ["input", "none"])
def test_dropout_masks_are_those_of_keras_own_compiled_step(kind):
    """Only what dropout lets through is felt: the NaN of the compiled step and of the replay must agree."""
    seen = set()
    x = np.zeros((1, 3, 4), "float32")
    x[0, 1, 2] = 3e38  # times 1 / (1 - 0.8) it overflows, unless it is dropped
    for seed in range(6):
        model = dropping(seed, kind)
        for _ in range(3):
            found = find_nonfinite(model, x, np.zeros((1, 1)))
            weights = model.get_weights()
            model.reset_metrics()
            model.train_on_batch(x, np.zeros((1, 1)))
            felt = not all(np.isfinite(w).all() for w in model.get_weights())
            model.set_weights(weights)
            assert (found is not None) == felt
            seen.add(felt)
    assert seen == {True, False}


def test_the_pattern_of_dropped_units_is_that_of_the_step():
    keras.utils.set_random_seed(3)
    head = layers.Dense(1, name="head")
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dropout(0.5), layers.Lambda(_inverse, name="inverse"), head]
    )
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=False)
    x = np.ones((4, 6), "float32")
    found = find_nonfinite(model, x, np.zeros((4, 1)))
    seeds = [v for v in model.variables if "seed" in v.path]
    state = [v.numpy() for v in seeds]
    assert found.where.layer == "inverse"
    # Keras's compiled forward pass in training mode, from the same state of the generator.
    tell = tf.function(lambda t: model.layers[0](t, training=True))
    dropped = tell(tf.constant(x)).numpy() == 0
    for variable, value in zip(seeds, state, strict=True):
        variable.assign(value)
    assert found.where.units == tuple(np.flatnonzero(dropped.any(axis=0)))
    assert found.where.samples == tuple(np.flatnonzero(dropped.any(axis=1)))
    assert found.evidence["inf"] == dropped.sum()


def _inverse(t):
    return 1 / t


# -- what a person reads -----------------------------------------------------------------------


def test_the_sentence_of_an_exploding_recurrence():
    model, data = data_of(by_name("exploding_relu"))
    keys = ["rnn/forward/output:value", "loss:value"]
    values = [[3.1, 1], [88, 1], [4e4, 1], [np.inf, np.inf]]
    trail = xr.DataArray(
        np.array(values), dims=("step", "tensor"), coords={"step": [9, 10, 11, 12], "tensor": keys}
    )
    found = autopsy_of(model, data, step=12, trail=trail)
    assert found.message == (
        "Inf at step 12: rnn (forward), hidden gate, first at timestep 38 of 50, all 4 samples, unit 0; its "
        "pre-activation was 4.0e37 one timestep before, growing ×10 per timestep; activation is relu; the "
        "layer's largest output was 3.1, 88, 4.0e4 at the three steps before"
    )
    assert found.where == dataclasses.replace(by_name("exploding_relu").where, step=12)
    assert found.trail is trail
    assert (found.severity, found.confidence, found.see) == ("error", 1.0, "plot_autopsy")
    assert "tanh" in found.advice
    assert str(found) == found.message


def test_a_finite_pre_activation_is_told_as_it_is():
    keras.utils.set_random_seed(0)
    rnn = layers.LSTM(2, activation="exponential", name="rnn")
    model = keras.Sequential([keras.Input((3, 1)), rnn])
    model.compile("sgd", "mse")
    x = np.zeros((2, 3, 1), "float32")
    x[1, 0] = 81
    kernel = np.zeros((1, 8), "float32")
    kernel[0, 5] = 1000
    rnn.cell.kernel.assign(kernel)
    found = find_nonfinite(model, x, np.zeros((2, 2)))
    assert found.evidence["pre_activation"] == 81000
    assert (
        "cell gate, first at timestep 0 of 3, sample 1, unit 1; its pre-activation was 8.1e4" in found.message
    )
    assert "activation is exponential" in found.message


def test_many_samples_are_counted():
    x = np.ones((9, 2, 1), "float32")
    x[1:, 0] = np.nan
    model = keras.Sequential([keras.Input((2, 1)), layers.GRU(1)])
    model.compile("sgd", "mse")
    found = find_nonfinite(model, x, np.zeros((9, 1)))
    assert "samples 1, 2, 3, … (8 samples)" in found.message
    assert found.where.samples == tuple(range(1, 9))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("float16_overflows", "float16"),
        ("exploding_relu", "clipnorm"),
        ("log_of_zero_in_a_custom_loss", "epsilon"),
        ("square_root_at_zero", "sqrt"),
        ("masked_all_padding", "unmasked"),
        ("nan_in_x", "isfinite"),
        ("bad_gamma", "checkpoint"),
    ],
)
def test_advice_fits_the_cause(case, words):
    assert words in find_nonfinite(*by_name(case).make()).advice


# -- a step that is finite when run again ------------------------------------------------------


def healthy():
    model = keras.Sequential([keras.Input((3, 1)), layers.LSTM(1, name="rnn"), layers.Dense(1, name="head")])
    model.compile("sgd", "mse")
    return model, (tf.ones((2, 3, 1)), tf.ones((2, 1)))


def test_what_does_not_come_again_is_named_from_the_trail_and_said_to_be_so():
    keys = ["rnn/forward/output:value", "loss:value", "head/kernel:gradient", "rnn/forward/kernel:gradient"]
    rows = [[1, 1, 1, 1], [1, 1, np.nan, np.inf]]
    trail = xr.DataArray(np.array(rows), dims=("step", "tensor"), coords={"step": [4, 5], "tensor": keys})
    found = autopsy_of(*healthy(), step=5, trail=trail)
    assert found.where == Where(5, "backward", "head", None, "kernel")
    assert found.confidence < 1
    assert found.evidence == {"reproduced": False}
    assert "at step 5: the first tensor seen then was head/kernel:gradient; run again" in found.message


def test_without_a_trail_nothing_is_named():
    found = autopsy_of(*healthy(), step=3)
    assert found.where == Where(3)
    assert found.confidence < 0.5


# -- refusals, and leaving everything as it was ------------------------------------------------


def test_a_model_that_is_not_compiled_is_refused():
    model = keras.Sequential([keras.Input((3, 1)), layers.LSTM(1)])
    with pytest.raises(errors.ArgumentError, match="not compiled"):
        find_nonfinite(model, np.ones((2, 3, 1)), np.ones((2, 1)))


def test_another_kind_of_model_is_refused():
    with pytest.raises(errors.ForeignModelError):
        find_nonfinite(object(), np.ones((2, 3, 1)), np.ones((2, 1)))


def test_a_batch_that_does_not_fit_is_refused():
    model, _ = healthy()
    with pytest.raises(errors.ArgumentError, match="does not fit"):
        find_nonfinite(model, np.ones((2, 3, 5)), np.ones((2, 1)))


def test_a_model_that_is_not_built_is_refused():
    model = keras.Sequential([layers.LSTM(1)])
    model.compile("sgd", "mse")
    with pytest.raises(errors.ArgumentError, match="not built"):
        find_nonfinite(model, np.ones((2, 3, 1)), np.ones((2, 1)))


class BreaksInTraining(layers.Layer):
    def call(self, x, training=False):
        if training:
            raise OSError("out of order")
        return x


@pytest.mark.parametrize("eager", [False, True])
def test_an_error_inside_the_model_is_raised_and_leaves_everything_as_it_was(eager):
    keras.utils.set_random_seed(1)
    x = np.ones((2, 3, 1), "float32")
    model = keras.Sequential(
        [keras.Input((3, 1)), layers.LSTM(1, dropout=0.5, recurrent_dropout=0.5), BreaksInTraining()]
    )
    model.compile("adam", "mse", metrics=["mae"])
    tf.config.run_functions_eagerly(eager)
    try:
        with nothing_changes(model, x), pytest.raises(OSError, match="out of order"):
            find_nonfinite(model, x, np.ones((2, 1)))
        assert tf.config.functions_run_eagerly() is eager
    finally:
        tf.config.run_functions_eagerly(False)


def test_global_random_generators_are_left_as_they_were():
    class Noisy(layers.Layer):
        def call(self, t):
            drawn = random.random() + np.random.rand()  # noqa: NPY002
            return t + drawn + tf.random.normal(tf.shape(t)) + keras.random.normal(ops.shape(t))

    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((1,)), Noisy(), layers.Dense(1)])
    model.compile("sgd", "mse")
    draws = []
    for asked in (False, True):
        keras.utils.set_random_seed(5)
        if asked:
            find_nonfinite(model, np.ones((2, 1)), np.ones((2, 1)))
        numbers = [random.random(), np.random.rand(), tf.random.normal(()).numpy()]  # noqa: NPY002
        draws.append([*numbers, float(keras.random.normal(()))])
    assert draws[0] == draws[1]


def test_a_fit_goes_on_as_if_nothing_had_been_asked():
    finals = []
    for asked in (False, True):
        keras.utils.set_random_seed(2)
        model = keras.Sequential(
            [
                keras.Input((4, 2)),
                layers.LSTM(3, dropout=0.3, return_sequences=True),
                layers.GRU(2, recurrent_dropout=0.3),
                layers.BatchNormalization(),
                layers.Dense(1),
            ]
        )
        model.compile("adam", "mse", metrics=["mae"])
        x = np.random.default_rng(0).normal(size=(8, 4, 2)).astype("float32")
        model.fit(x, x[:, 0, :1], batch_size=4, verbose=0)
        if asked:
            assert find_nonfinite(model, x, x[:, 0, :1]) is None
        model.fit(x, x[:, 0, :1], batch_size=4, verbose=0)
        finals.append([w.tobytes() for w in model.get_weights()])
    assert finals[0] == finals[1]


def test_a_dataset_gives_its_first_batch():
    model, _ = healthy()
    x = np.ones((4, 3, 1), "float32")
    x[3, 1] = np.nan
    data = tf.data.Dataset.from_tensor_slices((x, np.ones((4, 1), "float32"))).batch(2)
    assert find_nonfinite(model, data) is None
    assert find_nonfinite(model, data.skip(1)).where.samples == (1,)


def test_the_rows_of_an_image_are_no_timesteps():
    x = np.zeros((2, 8, 8, 1), "float32")
    x[1, 2, 3] = np.nan
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(1)])
    model.compile("sgd", "mse")
    found = find_nonfinite(model, x, np.zeros((2, 1)))
    assert found.where == Where(phase="data", role="x", units=(0,), samples=(1,))


def test_a_bad_state_that_a_stateful_layer_kept_is_named():
    rnn = layers.LSTM(2, stateful=True, name="rnn")
    model = keras.Sequential([keras.Input(batch_shape=(2, 3, 1)), rnn])
    model.compile("sgd", "mse")
    rnn.states[1].assign([[0, np.nan], [0, 0]])
    found = find_nonfinite(model, np.ones((2, 3, 1)), np.ones((2, 2)))
    assert found.where == Where(phase="weights", layer="rnn", direction="forward", role="c", units=(1,))
    assert "cell state c, unit 1: the state kept from the batch before" in found.message
    assert "reset_state" in found.advice


def test_infinite_logits_of_a_finite_probability_are_named():
    head = layers.Dense(1, activation="sigmoid", name="head")
    model = keras.Sequential([keras.Input((2,)), head])
    model.compile("sgd", "binary_crossentropy")
    head.kernel.assign([[3e38], [3e38]])
    x = np.array([[0, 0], [1, 1]], "float32")
    found = find_nonfinite(model, x, np.zeros((2, 1)))
    assert found.where == Where(phase="forward", layer="head", role="logits", units=(0,), samples=(1,))
