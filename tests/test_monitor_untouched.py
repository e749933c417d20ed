"""P1: with and without the monitor, training ends bit for bit the same. P6: nothing stays patched."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import RNNS, data, different, network, state

from see_rnn_like import RNNMonitor


def fitted(build, callbacks=(), *, epochs=2, batch_size=16, xy=None):
    model = build()
    history = model.fit(
        *(xy or data()), batch_size=batch_size, epochs=epochs, verbose=0, callbacks=list(callbacks)
    )
    return model, history.history


def assert_untouched(build, *monitors, xy=None, **fit):
    plain, plain_history = fitted(build, xy=xy, **fit)
    for monitor in monitors:
        watched, watched_history = fitted(build, [monitor], xy=xy, **fit)
        assert monitor.run.steps, "nothing was recorded, so nothing was proved"
        assert not [e for e in monitor.run.events if e.kind == "capture-off"]
        assert different(state(plain), state(watched)) == []
        assert watched_history == plain_history


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("kind", RNNS)
def test_weights_slots_seeds_and_metrics_are_bit_identical(kind, bidirectional, jit):
    def build():
        return network(kind, bidirectional=bidirectional, dropout=0.2, batchnorm=True, jit_compile=jit)

    assert_untouched(build, RNNMonitor(every=1), RNNMonitor(every=3))


@pytest.mark.parametrize("kind", ["lstm", "gru", "simplernn"])
def test_recurrent_dropout_keeps_its_masks(kind):
    def build():
        keras.utils.set_random_seed(1)
        rnn = RNNS[kind](4, recurrent_dropout=0.3, dropout=0.1)
        model = keras.Sequential([keras.Input((6, 3)), rnn, layers.Dense(1)])
        model.compile("rmsprop", "mse")
        return model

    assert_untouched(build, RNNMonitor(every=1), RNNMonitor(every=3, level="full"))


def test_stateful_layers_keep_their_states():
    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input(batch_shape=(8, 6, 3)), layers.LSTM(4, stateful=True), layers.Dense(1)]
        )
        model.compile("adam", "mse")
        return model

    plain, _ = fitted(build, batch_size=8)
    watched, _ = fitted(build, [RNNMonitor(every=2)], batch_size=8)
    assert different(state(plain), state(watched)) == []
    for a, b in zip(plain.layers[0].states, watched.layers[0].states, strict=True):
        np.testing.assert_array_equal(a, b)


@keras.saving.register_keras_serializable("see_rnn_like_tests")
class RawSoftmax(layers.Layer):
    """A head without Keras's mark for logits: its losses then look at the op itself."""

    def call(self, inputs):
        return tf.nn.softmax(inputs)


HEADS = {
    "softmax": lambda: [layers.Dense(3, activation="softmax")],
    "softmax layer": lambda: [layers.Dense(3), layers.Softmax()],
    "raw softmax": lambda: [layers.Dense(3), RawSoftmax()],
    "logits": lambda: [layers.Dense(3)],
}


@pytest.mark.parametrize(
    "how", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=["graph", "xla", "eager"]
)
@pytest.mark.parametrize("head", HEADS)
def test_masked_tokens_into_every_kind_of_softmax_head(head, how):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (40, 6)), rng.integers(0, 3, (40, 1))

    def build():
        keras.utils.set_random_seed(1)
        embed = layers.Embedding(9, 4, mask_zero=True)
        model = keras.Sequential([keras.Input((6,), dtype="int32"), embed, layers.LSTM(4), *HEADS[head]()])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=head == "logits")
        # A high learning rate drives probabilities to where clipping them would show.
        model.compile(keras.optimizers.Adam(0.5), loss, **how)
        return model

    assert_untouched(build, RNNMonitor(every=1), RNNMonitor(every=3), xy=(x, y))


@pytest.mark.parametrize("how", [{"jit_compile": False}, {"jit_compile": True}], ids=["graph", "xla"])
def test_sigmoid_head_with_binary_crossentropy(how):
    x, y = data()

    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((6, 3)), layers.GRU(4), layers.Dense(1, activation="sigmoid")])
        model.compile(keras.optimizers.Adam(0.5), "binary_crossentropy", **how)
        return model

    assert_untouched(build, RNNMonitor(every=1), xy=(x, (y > 0).astype("float32")))


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 7])
def test_several_steps_per_execution(steps):
    def build():
        return network("lstm", dropout=0.2, steps_per_execution=steps, jit_compile=False)

    monitor = RNNMonitor(every=3)
    assert_untouched(build, monitor, epochs=3, batch_size=8)
    # 5 batches an epoch: with 3, 4 or 7 steps per execution the last execution of each is partial.
    assert monitor.run.steps == [0, 3, 6, 9, 12]


class Failing(keras.callbacks.Callback):
    """A user's callback with a mistake in it."""

    def __init__(self, hook, error):
        super().__init__()
        self.error = error
        setattr(self, hook, self.fail)

    def fail(self, batch, logs=None):
        if batch == 1:
            raise self.error


# 3 batches an epoch; the monitor stands before the failing callback and has seen what came before it.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
@pytest.mark.parametrize(
    ("hook", "taken"), [("on_train_batch_begin", 1), ("on_train_batch_end", 2), ("on_epoch_end", 6)]
)
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_a_users_exception_leaves_a_model_that_saves_loads_and_refits(hook, taken, error, tmp_path):
    monitor = RNNMonitor(every=1, store=tmp_path / "run.sqlite")
    model = network("lstm", bidirectional=True)
    before = [dict(vars(layer)) for layer in model._flatten_layers()]
    with pytest.raises(type(error)):
        model.fit(*data(), batch_size=16, epochs=3, verbose=0, callbacks=[monitor, Failing(hook, error)])
    after = [dict(vars(layer)) for layer in model._flatten_layers()]
    assert [d.get("call") for d in after] == [d.get("call") for d in before]
    assert "apply" not in vars(model.optimizer)
    assert "compute_loss" not in vars(model)

    recorded = monitor.run.steps
    assert recorded == list(range(taken))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(data()[0], verbose=0), model.predict(data()[0], verbose=0))
    model.fit(*data(), batch_size=16, epochs=1, verbose=0)
    assert monitor.run.steps == recorded, "a fit without the monitor was recorded"
    monitor.run.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.keras", "run.sqlite"]


@pytest.mark.parametrize("sizes", [(16, 8), (8, 20, 16, 8)], ids=str)
def test_fits_with_several_batch_sizes(sizes):
    """Of 40 samples, 16 leave a smaller last batch: its size is open, and Keras goes on with what it has."""
    results = []
    for callbacks in ([], [RNNMonitor(every=1)]):
        keras.utils.set_random_seed(1)
        rnn = layers.LSTM(4, recurrent_dropout=0.2)
        model = keras.Sequential([keras.Input((6, 3)), rnn, layers.Dense(1)])
        model.compile("adam", "mse")
        for size in sizes:
            model.fit(*data(), batch_size=size, verbose=0, callbacks=callbacks)
        results.append(state(model))
    assert different(*results) == []


def test_the_same_as_without_a_monitor_after_a_failed_fit():
    """What an interrupted, monitored fit leaves behind trains on like what a bare one leaves behind."""
    results = []
    for callbacks in ([], [RNNMonitor(every=1)]):
        model = network("gru", dropout=0.2)
        with pytest.raises(RuntimeError):
            model.fit(
                *data(),
                batch_size=16,
                verbose=0,
                callbacks=[*callbacks, Failing("on_train_batch_begin", RuntimeError())],
            )
        model.fit(*data(), batch_size=16, epochs=2, verbose=0)
        results.append(state(model))
    assert different(*results) == []


def test_nothing_of_the_monitor_stays_in_the_model():
    model = network("lstm")
    monitor = RNNMonitor(every=1)
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    trained = model.train_function
    clone = keras.models.clone_model(model)
    clone.compile("adam", "mse")
    clone.fit(*data(), batch_size=16, verbose=0)
    assert "see_rnn_like" not in getattr(trained, "__module__", "")
    assert all("call" not in vars(layer) for layer in model._flatten_layers())


def test_a_failed_fit_leaves_nothing_that_acts_in_the_next_one():
    """A callback behind the monitor fails between the monitor's hook and the step."""
    model, monitor = network("lstm"), RNNMonitor(every=1)
    failing = Failing("on_train_batch_begin", RuntimeError())
    with pytest.raises(RuntimeError):
        model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor, failing])
    recorded = monitor.run.steps
    model.fit(*data(), batch_size=16, verbose=0)
    assert monitor.run.steps == recorded
    assert "functools" not in type(model.train_function).__module__


class Applied(keras.Sequential):
    """A train step of one's own that hands generators to the optimizer."""

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, (v for v in self.trainable_variables))
        return {"loss": loss}


class Twice(Applied):
    """Applies gradients twice in one step."""

    def train_step(self, batch):
        super().train_step(batch)
        return super().train_step(batch)


@pytest.mark.parametrize("kind", [Applied, Twice])
def test_train_steps_of_ones_own_with_a_fresh_optimizer(kind):
    def build():
        keras.utils.set_random_seed(1)
        model = kind([keras.Input((6, 3)), layers.GRU(4), layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    plain, _ = fitted(build)
    monitor = RNNMonitor(every=1)
    watched, _ = fitted(build, [monitor])
    assert different(state(plain), state(watched)) == []
    off = [event.message for event in monitor.run.events if event.kind == "capture-off"]
    assert len(off) == (kind is Twice)
    assert all("twice in one train step" in message for message in off)


def test_trainable_changed_without_compiling_again_is_told():
    model, monitor = network("lstm"), RNNMonitor(every=1)
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    model.layers[0].trainable = False
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert [event.kind for event in monitor.run.events] == ["capture-off"]
    assert "without compiling again" in monitor.run.events[0].message


def test_tensorflows_stateful_random_numbers_are_told():
    class Noise(layers.Layer):
        def call(self, inputs):
            return inputs + tf.random.normal(tf.shape(inputs))

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((6, 3)), Noise(), layers.LSTM(4), layers.Dense(1)])
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1)
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert [event.kind for event in monitor.run.events] == ["stateful-random"]
    assert "RandomStandardNormal" in monitor.run.events[0].message
