"""What the guard does about a bad step: nothing of it remains, and the fit acts on it."""

from __future__ import annotations

import copy
import logging
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import data, different, network, state

from see_rnn_like import NaNGuard, RNNMonitor
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, NonFiniteError, NonFiniteWarning

BATCH = 8
BAD = 2


def spoiled(n=40, at=BAD, value=np.nan):
    """Data whose batch number `at` holds one bad value: sample 5, timestep 3, feature 1."""
    x, y = data(n)
    x[at * BATCH + 5, 3, 1] = value
    return x, y


def without(x, y, at=BAD):
    """The same data without that batch."""
    rows = range(at * BATCH, (at + 1) * BATCH)
    return np.delete(x, rows, axis=0), np.delete(y, rows, axis=0)


def fit(model, x, y, callbacks=(), epochs=1):
    return model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks)
    ).history


# ---- nothing of a bad step remains ---------------------------------------------------------------


@keras.saving.register_keras_serializable("see_rnn_like_tests")
class Counting(layers.Layer):
    """Writes a variable that only TensorFlow knows, and a trainable weight, in every forward pass."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")
        self.calls = tf.Variable(0.0, trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        self.scale.assign(self.scale * 0.99)
        return x * self.scale


class Custom(keras.Model):
    """A train step of its own."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return {"loss": loss}


@pytest.fixture(autouse=True)
def _seeded():
    """Layers draw their seeds when they are made: `built` starts over before each network."""
    keras.utils.set_random_seed(1)


def built(build):
    keras.utils.set_random_seed(1)
    return build()


def sequential(*parts, model=keras.Model, **compiling):
    x = inputs = keras.Input(batch_shape=(BATCH, 6, 3))
    for part in parts:
        x = part(x)
    made = model(inputs, x)
    made.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **compiling})
    return made


def rich(**compiling):
    """Dropout, BatchNorm, kept states, weights written in the forward pass, metrics."""
    return sequential(
        Counting(),
        layers.SimpleRNN(4, return_sequences=True, stateful=True, dropout=0.2, recurrent_dropout=0.1),
        layers.BatchNormalization(),
        layers.SpectralNormalization(layers.Dense(4)),
        layers.GRU(3, stateful=True),
        layers.Dense(1),
        **compiling,
    )


def half(**compiling):
    policy = {"dtype": "mixed_float16"}
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=4.0)
    return sequential(layers.LSTM(4, **policy), layers.Dense(1, **policy), optimizer=optimizer, **compiling)


MODELS = {
    "graph": rich,
    "xla": lambda: rich(jit_compile=True),
    "eager": lambda: rich(run_eagerly=True),
    "four per execution": lambda: rich(steps_per_execution=4),
    "loss scaling": half,
    "accumulation": lambda: rich(optimizer=keras.optimizers.Adam(gradient_accumulation_steps=2)),
    "custom train step": lambda: sequential(layers.LSTM(3), layers.Dense(1), model=Custom, metrics=None),
}


def everything(model):
    """All numbers of a model, those only TensorFlow or a stateful layer knows included."""
    found = state(model)
    for layer in model.layers:
        if isinstance(layer, Counting):
            found["calls"] = layer.calls.numpy()
        for i, one in enumerate(getattr(layer, "states", None) or ()):
            found[f"{layer.name} state {i}"] = np.asarray(one)
    return found


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_skipping_a_batch_is_training_without_it(build):
    """The same weights, slots, counters, statistics, states, seeds, metrics and logs, bit for bit."""
    x, y = spoiled()
    clean = built(build)
    clean_history = fit(clean, *without(x, y), epochs=2)
    guard, model = NaNGuard("skip"), built(build)
    history = fit(model, x, y, [guard], epochs=2)
    assert guard.skipped == 2
    assert guard.autopsy.where.samples == (5,)
    assert different(everything(clean), everything(model)) == []
    assert history == clean_history


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_stopping_leaves_the_state_before_the_bad_step(build):
    x, y = spoiled()
    before = built(build)
    fit(before, x[: BAD * BATCH], y[: BAD * BATCH])
    guard, model = NaNGuard("stop"), built(build)
    with pytest.warns(NonFiniteWarning, match=rf"NaN at step {BAD}: .*Weights are intact \(step {BAD - 1}\)"):
        history = fit(model, x, y, [guard], epochs=3)
    assert len(history["loss"]) == 1
    assert different(everything(before), everything(model)) == []


@pytest.mark.parametrize("action", ["skip", "stop", "raise"])
@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_the_very_first_step_may_be_bad(action, how):
    x, y = spoiled(at=0)
    clean = built(lambda: rich(**how))
    if action == "skip":
        fit(clean, *without(x, y, at=0))
    model = built(lambda: rich(**how))
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        if action == "raise":
            with pytest.raises(NonFiniteError, match=r"NaN at step 0: .*intact \(as they started\)"):
                fit(model, x, y, [NaNGuard(action)])
        else:
            fit(model, x, y, [NaNGuard(action)])
    if action == "skip":
        assert different(everything(clean), everything(model)) == []
    else:
        weights = [v.numpy() for v in clean.variables]
        for was, now in zip(weights, model.variables, strict=True):
            np.testing.assert_array_equal(was, now.numpy())
        assert int(model.optimizer.iterations) == 0
        assert model.get_metrics_result()["loss"] == 0


def test_what_is_bad_only_in_the_backward_pass_is_caught():
    """sqrt at 0: the loss is finite, the gradient of what lies before is not."""
    x, y = data()
    x[BAD * BATCH + 5, 3] = 0

    def build():
        length = layers.Lambda(lambda t: tf.sqrt(tf.reduce_sum(t * t, axis=-1, keepdims=True)))
        return sequential(layers.Dense(2, use_bias=False), length, layers.GRU(3), layers.Dense(1))

    clean, guard, model = built(build), NaNGuard("skip"), built(build)
    fit(clean, *without(x, y))
    fit(model, x, y, [guard])
    assert guard.skipped == 1
    assert np.isfinite(guard.autopsy.trail.sel(step=BAD, tensor="loss:value"))
    where = guard.autopsy.where
    assert (where.step, where.phase, where.timestep, where.samples) == (BAD, "backward", 3, (5,))
    assert different(state(clean), state(model)) == []


# ---- two updates in one step ---------------------------------------------------------------------
class TwoOptimizers(keras.Model):
    """As a GAN: two parts, each with an optimizer of its own, updated one after the other."""

    def __init__(self):
        super().__init__()
        self.lower, self.upper = layers.GRU(3, name="lower"), layers.Dense(1, name="upper")
        self.lower_optimizer, self.upper_optimizer = keras.optimizers.Adam(0.1), keras.optimizers.SGD(0.1)

    def call(self, x):
        return self.upper(self.lower(x))

    def train_step(self, batch):
        import tensorflow as tf

        x, y = batch
        with tf.GradientTape(persistent=True) as tape:
            loss = tf.reduce_mean(tf.square(self(x) - y))
        for part, optimizer in ((self.lower, self.lower_optimizer), (self.upper, self.upper_optimizer)):
            weights = part.trainable_weights
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


def two_optimizers():
    keras.utils.set_random_seed(1)
    model = TwoOptimizers()
    model.compile(loss="mse")
    return model


def lasting(model):
    own = [v for o in (model.lower_optimizer, model.upper_optimizer) for v in o.variables]
    return [v.numpy() for v in [*model.variables, *own]]


@pytest.mark.parametrize("eagerly", [False, True], ids=["graph", "eager"])
def test_an_update_before_the_bad_one_is_taken_back(eagerly):
    """Each of two optimizers gets its gradients by itself; the first ones are finite."""

    def build():
        model = two_optimizers()
        model.run_eagerly = eagerly
        return model

    x, y = data()
    clean, model, guard = built(build), built(build), NaNGuard("skip")
    fit(clean, *without(x, y))
    y[BAD * BATCH] = np.nan
    fit(model, x, y, [guard])
    assert guard.skipped == 1
    for one, other in zip(lasting(clean), lasting(model), strict=True):
        np.testing.assert_array_equal(one, other)


# ---- what the fit does ---------------------------------------------------------------------------


def test_skipping_is_told_once_per_burst_and_ends_after_max_skips(caplog):
    x, y = data(80)
    x[1 * BATCH, 0, 0] = np.nan
    x[4 * BATCH : 7 * BATCH, 0, 0] = np.nan
    guard, model = NaNGuard("skip", max_skips=3), network("gru")
    with (
        caplog.at_level(logging.WARNING, "see_rnn_like"),
        pytest.warns(NonFiniteWarning, match="3 batches in a row"),
    ):
        fit(model, x, y, [guard], epochs=2)
    assert [record.message.split(":")[0] for record in caplog.records] == ["NaN at step 1", "NaN at step 3"]
    assert guard.skipped == 4
    # Steps 0, 2, 3 of the data were trained on.
    assert int(model.optimizer.iterations) == 3
    assert guard.autopsy.where.step == 3


class Values(keras.callbacks.Callback):
    """All variables after every batch."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([v.numpy() for v in [*self.model.variables, *self.model.optimizer.variables]])


def test_rolling_back_returns_to_kept_states_newest_first_and_lowers_the_learning_rate(caplog):
    x, y = data(96)
    x[6 * BATCH :, 0, 0] = np.nan
    values = Values()
    guard = NaNGuard("rollback", max_skips=2, keep_every=2, keep=2, learning_rate_factor=0.5)
    model = network("gru")
    rate = float(model.optimizer.learning_rate)
    with (
        caplog.at_level(logging.WARNING, "see_rnn_like"),
        pytest.warns(NonFiniteWarning, match="no good state"),
    ):
        fit(model, x, y, [guard, values])
    # Good steps 0 to 5; kept after steps 0, 2, 4, of which the newest two are left.
    backs = [r.message for r in caplog.records if "back to the state" in r.message]
    assert [m.split("state of step ")[1].split(",")[0] for m in backs] == ["5", "3"]
    assert guard.rollbacks == 2
    assert float(model.optimizer.learning_rate) == pytest.approx(rate / 4)
    names = [*(v.path for v in model.variables), *(v.path for v in model.optimizer.variables)]
    for name, kept, back in zip(names, values.seen[4], values.seen[7], strict=True):
        if "learning_rate" not in name:
            np.testing.assert_array_equal(kept, back, name)
    for name, kept, back in zip(names, values.seen[2], values.seen[9], strict=True):
        if "learning_rate" not in name:
            np.testing.assert_array_equal(kept, back, name)


def test_rolling_back_heals_what_skipping_does_not():
    """Weights that grew until every batch overflows: only an earlier state helps."""
    x, y = data(160)
    model = sequential(
        layers.SimpleRNN(3, activation="relu"), layers.Dense(1), optimizer=keras.optimizers.SGD(0.01)
    )

    class Blow(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 9:
                weight = self.model.trainable_variables[0]
                weight.assign(weight * 1e30)

    guard = NaNGuard("rollback", max_skips=3, keep_every=4)
    fit(model, x, y, [Blow(), guard])
    assert guard.rollbacks == 1
    assert guard.skipped == 3
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)
    assert not model.stop_training


def test_gradients_that_stay_bad_without_any_loss_scale_are_an_alarm():
    """Loss scaling would halve its scale for ever when the gradient itself is NaN."""
    x, y = data()
    x[:, 3] = 0
    length = layers.Lambda(lambda t: tf.sqrt(tf.reduce_sum(t * t, axis=-1, keepdims=True)))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=4.0)
    guard = NaNGuard("stop")
    model = sequential(
        layers.Dense(2, use_bias=False), length, layers.GRU(3), layers.Dense(1), optimizer=optimizer
    )
    with pytest.warns(NonFiniteWarning):
        fit(model, x, y, [guard])
    assert guard.skipped == 1
    assert float(model.optimizer.dynamic_scale) == 1.0
    assert int(model.optimizer.inner_optimizer.iterations) == 0


# ---- the autopsy and the bundle ------------------------------------------------------------------


def test_the_autopsy_tells_place_trail_and_bundle(tmp_path):
    x, y = spoiled()
    guard, model = NaNGuard("stop", bundle=tmp_path / "runs", last=2), network("lstm")
    with pytest.warns(NonFiniteWarning, match="input x holds 1 NaN"):
        fit(model, x, y, [guard])
    found = guard.autopsy
    assert found.rule == "input-not-finite"
    assert (found.where.step, found.where.phase, found.where.timestep) == (BAD, "data", 3)
    assert (found.where.samples, found.where.units) == ((5,), (1,))
    assert found.bundle == str(tmp_path / "runs" / f"nan-step-{BAD}")
    assert found.message.endswith(f"Weights are intact (step {BAD - 1}). Bundle: {found.bundle}/.")
    assert (tmp_path / "runs" / f"nan-step-{BAD}").is_dir()
    assert found.trail.step.values.tolist() == [0, 1, BAD]


def test_the_trail_holds_the_largest_values_of_the_steps_before():
    """Against a tape and NumPy, on the same batches."""
    x, y = spoiled()
    guard, model = NaNGuard("stop"), network("simplernn", optimizer=keras.optimizers.SGD(0.1))
    by_hand = network("simplernn", optimizer=keras.optimizers.SGD(0.1))
    with pytest.warns(NonFiniteWarning):
        fit(model, x, y, [guard])
    trail = guard.autopsy.trail
    for step in range(BAD):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        with tf.GradientTape() as tape:
            hidden = by_hand.layers[0](x[rows])
            loss = tf.reduce_mean(tf.square(by_hand.layers[2](by_hand.layers[1](hidden)) - y[rows]))
        gradients = tape.gradient(loss, by_hand.trainable_weights)
        expected = {
            "loss:value": loss,
            "first/forward/output:value": np.abs(hidden).max(),
            "first/forward/recurrent_kernel:gradient": np.abs(gradients[1]).max(),
            "head/kernel:gradient": np.abs(gradients[-2]).max(),
        }
        for name, value in expected.items():
            assert float(trail.sel(step=step, tensor=name)) == pytest.approx(float(value), rel=1e-5)
        by_hand.optimizer.apply_gradients(zip(gradients, by_hand.trainable_weights, strict=True))
    assert np.isnan(trail.sel(step=BAD, tensor="loss:value"))
    names = trail.tensor.values.tolist()
    assert names.index("first/forward/output:value") < names.index("loss:value")
    assert (
        names.index("loss:value")
        < names.index("head/bias:gradient")
        < names.index("first/forward/kernel:gradient")
    )


def test_a_bundle_that_cannot_be_written_costs_nothing_else(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    x, y = spoiled()
    guard, model = NaNGuard("skip", bundle=tmp_path / "file" / "runs"), network("gru")
    with caplog.at_level(logging.ERROR, "see_rnn_like"):
        fit(model, x, y, [guard])
    assert [r.message.split(":")[0] for r in caplog.records if r.levelno == logging.ERROR] == [
        "no bundle was written"
    ]
    assert guard.autopsy.bundle is None
    assert guard.autopsy.where.samples == (5,)
    assert int(model.optimizer.iterations) == 4


def test_a_step_that_cannot_be_run_again_is_still_undone_and_told(caplog):
    """A layer that refuses to run outside of a compiled function, as the autopsy does."""

    class OnlyCompiled(layers.Layer):
        def call(self, x):
            if tf.executing_eagerly():
                raise RuntimeError("only in a graph")
            return x

    x, y = spoiled()
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.Dense(1)(layers.GRU(3, name="gru")(OnlyCompiled()(inputs))))
    model.compile("adam", "mse")
    guard = NaNGuard("skip")
    with caplog.at_level(logging.ERROR, "see_rnn_like"):
        fit(model, x, y, [guard])
    assert "could not be looked into" in caplog.records[0].message
    assert guard.autopsy.confidence < 1
    assert "only_compiled" in guard.autopsy.where.layer
    assert int(model.optimizer.iterations) == 4


# ---- beside others -------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["guard", "monitor"])
def test_a_monitor_beside_notes_the_step_that_was_undone(first):
    x, y = spoiled()
    guard, monitor = NaNGuard("skip"), RNNMonitor(every=1)
    callbacks = [guard, monitor] if first == "guard" else [monitor, guard]
    with pytest.warns(NonFiniteWarning):
        fit(network("lstm"), x, y, callbacks, epochs=2)
    assert guard.skipped == 2
    # Ten batches, two of them bad: the steps are counted by the optimizer.
    assert monitor.run.steps == list(range(8))
    undone = [(e.step, e.message) for e in monitor.run.events if e.kind == "blocked-step"]
    assert [step for step, _ in undone] == [2, 6]
    assert "undone by NaNGuard" in undone[0][1]
    assert {e.key.layer for e in monitor.run.events if e.kind == "nan"} >= {"first", "head"}


def test_two_guards_are_one_too_many(caplog):
    x, y = spoiled()
    one, two = NaNGuard("skip"), NaNGuard("skip")
    with caplog.at_level(logging.ERROR, "see_rnn_like"):
        fit(network("gru"), x, y, [one, two])
    assert (one.skipped, two.skipped) == (1, 0)
    assert "another NaNGuard guards this fit already" in caplog.text


def test_nothing_is_left_behind_by_a_fit_that_was_interrupted():
    x, y = data()

    class Interrupts(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                raise KeyboardInterrupt

    plain, model, guard = network("gru"), network("gru"), NaNGuard()
    with pytest.raises(KeyboardInterrupt):
        fit(model, x, y, [guard, Interrupts()])
    fit(plain, x[:BATCH], y[:BATCH])
    fit(plain, x, y)
    fit(model, x, y)
    assert different(state(plain), state(model)) == []
    assert type(model.train_function).__name__ != "StandIn"
    assert vars(model).get("train_step") is None
    keras.models.clone_model(model)


def test_an_exception_of_the_training_itself_comes_through():
    x, y = data()
    model = network("gru", loss="sparse_categorical_crossentropy")
    y = np.full((40, 1), 7)
    with pytest.raises(tf.errors.InvalidArgumentError, match="label value"):
        fit(model, x, y, [NaNGuard()])


def test_it_guards_fit_after_fit_also_after_compiling_anew():
    x, y = spoiled()
    guard, model = NaNGuard("skip"), network("gru")
    fit(model, x, y, [guard])
    fit(model, x[:37], y[:37], [guard])
    model.compile("sgd", "mse")
    fit(model, x, y, [guard])
    assert guard.skipped == 3
    assert all(np.isfinite(v.numpy()).all() for v in model.variables)


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"action": "ignore"},
            ArgumentError,
            "action must be one of 'stop', 'raise', 'skip', 'rollback'; got 'ignore'",
        ),
        ({"last": 0}, ArgumentError, "last must be at least 1; got 0"),
        ({"last": 2.5}, ArgumentTypeError, "last must be a whole number; got 2.5"),
        ({"max_skips": 0}, ArgumentError, "max_skips must be at least 1"),
        ({"keep_every": True}, ArgumentTypeError, "keep_every must be a whole number; got True"),
        ({"learning_rate_factor": 2}, ArgumentError, "above 0 and at most 1; got 2"),
        ({"bundle": 3}, ArgumentTypeError, "bundle must be a directory path or None; got 3"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_at_once(arguments, error, words):
    with pytest.raises(error, match=words):
        NaNGuard(**arguments)


def test_a_scheduled_learning_rate_cannot_be_lowered():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    model = network("gru", optimizer=keras.optimizers.Adam(schedule))
    with pytest.raises(ArgumentError, match="this optimizer follows ExponentialDecay"):
        fit(model, *data(), [NaNGuard("rollback", learning_rate_factor=0.5)])
    fit(model, *data(), [NaNGuard("rollback")])


def test_a_copy_has_the_settings_and_a_state_of_its_own():
    x, y = spoiled()
    guard = NaNGuard("skip", max_skips=4)
    fit(network("gru"), x, y, [guard])
    twin = copy.deepcopy(guard)
    assert (twin.action, twin.max_skips, twin.skipped, twin.autopsy) == ("skip", 4, 0, None)
