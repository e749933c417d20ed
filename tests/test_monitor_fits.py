"""Several fits, other callbacks and train steps of one's own beside the monitor: untouched, exact."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import data, different, state
from taped import (
    Twin,
    assert_recorded,
    by_hand,
    checked,
    fitted,
    fresh,
    momentum,
    on_arrays,
    sliced,
    small,
)

from see_rnn_like import RNNMonitor

X, Y = data()


# -- train steps of one's own -------------------------------------------------------------------


@keras.saving.register_keras_serializable("see_rnn_like_tests")
class Applying(keras.Sequential):
    """A train step of one's own that scales the loss and calls `optimizer.apply`."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.optimizer.scale_loss(self.compute_loss(x, y, self(x, training=True)))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"own": loss}


@keras.saving.register_keras_serializable("see_rnn_like_tests")
class ApplyingPairs(keras.Sequential):
    """A train step of one's own that hands pairs to `optimizer.apply_gradients`, the last weights first."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        variables = self.trainable_variables[::-1]
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"own": loss}


@keras.saving.register_keras_serializable("see_rnn_like_tests")
class Losing(keras.Sequential):
    """A loss of one's own, with a part that depends on a weight alone."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        kernel = self.layers[0].cell.kernel
        return keras.ops.mean(keras.ops.abs(y - y_pred)) + 0.1 * keras.ops.sum(keras.ops.square(kernel))


OWN = {
    "apply": lambda: small(Applying, steps_per_execution=3, metrics=None),
    "apply, scaled": lambda: small(
        Applying,
        optimizer=keras.optimizers.LossScaleOptimizer(momentum(), initial_scale=64.0),
        metrics=None,
    ),
    "apply_gradients": lambda: small(ApplyingPairs, jit_compile=True, metrics=None),
    "compute_loss": lambda: small(Losing, loss=None),
}


@pytest.mark.parametrize("own", OWN)
def test_train_steps_of_ones_own(own):
    checked(lambda: on_arrays(OWN[own](), X, Y))


# -- several fits -------------------------------------------------------------------------------


def compiled(model):
    model.compile(momentum(), "mse")


def frozen(model):
    model.get_layer("rnn").trainable = False
    compiled(model)


def thawed(model):
    model.get_layer("rnn").trainable = True
    compiled(model)


def twice(model, between, **fit):
    """Two fits of one epoch each; in the second one the data lies the other way round."""
    return on_arrays(model, X, Y, epochs=1).then(on_arrays(model, X[::-1], Y[::-1], **fit), between)


SEVERAL = {
    "the same model goes on": lambda: twice(small(), lambda model: None, epochs=3, initial_epoch=1),
    "other batches": lambda: twice(small(steps_per_execution=4), lambda model: None, batch_size=16),
    "frozen, compiled again": lambda: twice(small(), frozen),
    "thawed, compiled again": lambda: twice(cold(), thawed),
    "other weights": lambda: twice(
        small(), lambda model: model.set_weights([w + 0.1 for w in model.get_weights()])
    ),
    "another rate": lambda: twice(small(), lambda model: model.optimizer.learning_rate.assign(0.01)),
}


def cold():
    model = small()
    frozen(model)
    return model


@pytest.mark.parametrize("case", SEVERAL)
def test_several_fits(case):
    run, told = checked(SEVERAL[case])
    assert [step.tag for step in told] == list(range(len(told)))
    assert [fit["first_step"] for fit in run.meta["fits"]] == [0, 5]


def trained_before(steps):
    """A training of a model that has counted some steps already."""
    model = small()
    for x, y, _ in sliced(X, Y)[:steps]:
        model.train_on_batch(x, y)
    return on_arrays(model, X, Y, epochs=1)


@pytest.mark.parametrize("before", [0, 3])
def test_a_monitor_goes_on_with_a_second_model(before):
    """The run goes on: steps are counted after those of the first model, whatever the second one counted."""
    monitor = RNNMonitor(every=2, level="full", strict=True)
    told = []
    for steps in (0, before):
        bare, _ = fitted(lambda: trained_before(steps))  # noqa: B023
        watched, _ = fitted(lambda: trained_before(steps), monitor)  # noqa: B023
        assert different(state(bare), state(watched)) == []
        twin = fresh(lambda: trained_before(steps))  # noqa: B023
        told += Twin(twin.model, done=len(told)).steps(twin.batches[0])
    assert_recorded(monitor.run, told, every=2)


# -- other callbacks ----------------------------------------------------------------------------


def test_early_stopping_that_puts_weights_back():
    """The second fit starts from the weights of the first epoch; steps go on after all that were trained."""
    monitor = RNNMonitor(every=2, level="full", strict=True)
    ends = []
    for watching in ([], [monitor]):
        keras.utils.set_random_seed(1)
        model = small()
        stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=2, restore_best_weights=True)
        first = model.fit(X, Y, batch_size=8, epochs=9, shuffle=False, verbose=0, callbacks=[*watching, stop])
        model.fit(X, Y, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=watching)
        assert first.epoch == [0, 1, 2]
        ends.append(state(model))
    assert different(*ends) == []

    keras.utils.set_random_seed(1)
    twin = Twin(small())
    told = twin.steps(sliced(X, Y))
    best = twin.model.get_weights()
    told += twin.steps(sliced(X, Y) * 2)
    twin.model.set_weights(best)
    told += twin.steps(sliced(X, Y))
    assert_recorded(monitor.run, told, every=2)


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C at the end of the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


# Keras's own BackupAndRestore warns of NumPy's __array__.
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("first", ["monitor", "backup"])
def test_interrupted_and_resumed_from_a_backup(first, tmp_path):
    ends = {}
    for how in ("bare", "watched"):
        for interrupted in (True, False):
            keras.utils.set_random_seed(1)
            model = small()
            backup = keras.callbacks.BackupAndRestore(tmp_path / f"backup-{how}")
            checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / f"{how}.keras")
            monitor = RNNMonitor(every=2, level="full", strict=True, store=tmp_path / f"{how}.sqlite")
            watching = [monitor] if how == "watched" else []
            callbacks = [*watching, backup] if first == "monitor" else [backup, *watching]
            callbacks += [checkpoint, *([Interrupt()] if interrupted else [])]
            try:
                model.fit(X, Y, batch_size=8, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
            except KeyboardInterrupt:
                assert interrupted
            monitor.run.close()
        ends[how] = state(model)
        saved = keras.models.load_model(tmp_path / f"{how}.keras")
        for one, other in zip(saved.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    assert different(ends["bare"], ends["watched"]) == []
    told = by_hand(fresh(lambda: on_arrays(small(), X, Y, epochs=4)))
    assert_recorded(monitor.run, told, every=2)


# -- stateful layers ----------------------------------------------------------------------------


def stateful(**compiling):
    parts = [
        layers.LSTM(3, stateful=True, return_sequences=True, name="lstm"),
        layers.GRU(3, stateful=True, return_sequences=True, name="gru"),
        layers.Bidirectional(layers.SimpleRNN(2, stateful=True), name="both"),
        layers.Dense(1, name="head"),
    ]
    model = keras.Sequential([keras.Input(batch_shape=(8, 6, 3)), *parts])
    model.compile(momentum(), "mse", **compiling)
    return model


@pytest.mark.slow
def test_stateful_layers_over_epochs_and_fits():
    def make():
        model = stateful(steps_per_execution=3)
        return on_arrays(model, X, Y).then(on_arrays(model, X, Y, epochs=1), reset)

    checked(make)


def reset(model):
    model.get_layer("lstm").reset_states()


def test_validation_between_stateful_epochs():
    """Validation moves the states, with and without the monitor; steps are those of training alone."""
    fit = {"epochs": 3, "validation_data": (X, Y), "validation_batch_size": 8}
    bare, history = fitted(lambda: on_arrays(stateful(), X, Y, **fit))
    monitor = RNNMonitor(every=2, strict=True)
    watched, watched_history = fitted(lambda: on_arrays(stateful(), X, Y, **fit), monitor)
    assert history == watched_history
    assert different(state(bare), state(watched)) == []
    assert monitor.run.steps == list(range(0, 15, 2))
    assert [epoch["step"] for epoch in monitor.run.epochs] == [4, 9, 14]


def test_a_last_batch_too_small_for_a_stateful_layer_fails_as_without_the_monitor():
    ends, errors = [], []
    for watching in ([], [RNNMonitor(every=1)]):
        keras.utils.set_random_seed(1)
        model = stateful()
        with pytest.raises(Exception) as caught:
            model.fit(X[:36], Y[:36], batch_size=8, shuffle=False, verbose=0, callbacks=watching)
        errors.append(type(caught.value))
        ends.append(state(model))
    assert errors[0] is errors[1]
    assert different(*ends) == []
