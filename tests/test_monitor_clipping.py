"""Under clipping a gradient is kept as the optimizer received it and as it applied it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import data, network

from see_rnn_like import RNNMonitor

RATE = 0.5
CLIPS = ["clipnorm", "clipvalue", "global_clipnorm"]


def sgd(**settings):
    return keras.optimizers.SGD(RATE, **settings)


def clipped_by_hand(run, clip, limit):
    """The clipped gradients by key, from those received, in NumPy."""
    keys = [key for key in map(str, run.keys()) if key.endswith(":gradient")]
    weights = [run.info(key).key for key in keys if "output" not in key and "@" not in key]
    received = {key: run[key].values[0].astype("float64") for key in weights}
    whole = np.sqrt(sum(np.square(g).sum() for g in received.values()))
    for key, gradient in received.items():
        if clip == "clipvalue":
            yield key, np.clip(gradient, -limit, limit)
        else:
            norm = np.sqrt(np.square(gradient).sum()) if clip == "clipnorm" else whole
            yield key, gradient * min(1.0, limit / norm)


@pytest.mark.parametrize(
    "how", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=["graph", "XLA", "eager"]
)
@pytest.mark.parametrize("clip", CLIPS)
def test_applied_gradients_are_the_clipped_ones(clip, how):
    model, monitor = network("lstm", optimizer=sgd(**{clip: 1e-3}), **how), RNNMonitor(every=1, level="full")
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    run, found = monitor.run, 0
    for key, expected in clipped_by_hand(run, clip, 1e-3):
        applied = run[
            f"{key.layer}/{key.direction + '/' if key.direction else ''}{key.role}@applied:gradient"
        ]
        np.testing.assert_allclose(applied[0], expected, rtol=1e-5, atol=1e-9)
        assert applied.attrs["as"] == "applied by the optimizer"
        assert applied.attrs["clipping"] == f"after {clip}"
        assert applied.dims == run[key].dims
        found += 1
    assert found == sum(str(key).endswith(":weight") for key in list(run.keys()))
    update = run["first/forward/kernel:update"]
    np.testing.assert_allclose(
        update, -RATE * run["first/forward/kernel@applied:gradient"], rtol=1e-3, atol=1e-7
    )


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("clip", CLIPS)
def test_training_is_untouched(clip, jit):
    models = [
        network("gru", optimizer=keras.optimizers.Adam(0.01, **{clip: 1e-2}), jit_compile=jit)
        for _ in range(2)
    ]
    for model, callbacks in zip(models, ([], [RNNMonitor(every=2)]), strict=True):
        model.fit(*data(), batch_size=8, epochs=2, verbose=0, shuffle=False, callbacks=callbacks)
    for plain, watched in zip(
        *(m.get_weights() + [v.numpy() for v in m.optimizer.variables] for m in models), strict=True
    ):
        np.testing.assert_array_equal(plain, watched)


def test_the_slices_of_an_embedding_are_clipped_as_slices():
    """A token that comes twice is in two slices, whose norm is another than that of their sum."""
    keras.utils.set_random_seed(1)
    embed = layers.Embedding(9, 4, name="embed")
    model = keras.Sequential([keras.Input((6,), dtype="int32"), embed, layers.LSTM(3), layers.Dense(1)])
    model.compile(sgd(clipnorm=1e-2), "mse")
    monitor = RNNMonitor(every=1, level="full")
    x = np.arange(240).reshape(40, 6) % 4
    model.fit(x, data()[1], batch_size=40, verbose=0, callbacks=[monitor])
    applied, update = (monitor.run[f"embed/embeddings{what}"] for what in ("@applied:gradient", ":update"))
    np.testing.assert_allclose(update, -RATE * applied, rtol=1e-4, atol=1e-7)


def test_loss_scaling_is_divided_out_before():
    optimizer = keras.optimizers.LossScaleOptimizer(sgd(global_clipnorm=1e-3), initial_scale=1024.0)
    model, monitor = network("lstm", optimizer=optimizer), RNNMonitor(every=1, level="full")
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    applied = monitor.run["first/forward/kernel@applied:gradient"]
    update = monitor.run["first/forward/kernel:update"]
    np.testing.assert_allclose(update, -RATE * applied, rtol=1e-3, atol=1e-7)
    assert applied.attrs["loss_scale"] == "divided out"


def test_what_accumulation_clips_is_said_not_to_be_recorded():
    model = network("lstm", optimizer=sgd(clipnorm=1e-3, gradient_accumulation_steps=2))
    monitor = RNNMonitor(every=1)
    model.fit(*data(), batch_size=8, verbose=0, callbacks=[monitor])
    assert "@applied" not in str(list(monitor.run.keys()))
    (note,) = [event for event in monitor.run.events if "clipnorm" in event.message]
    assert "after clipnorm are not recorded" in note.message


def test_without_clipping_there_is_one_gradient():
    model, monitor = network("lstm", optimizer=sgd()), RNNMonitor(every=1)
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    assert "@" not in str(list(monitor.run.keys()))


def test_a_loop_of_ones_own():
    model, monitor = network("lstm", optimizer=sgd(clipvalue=1e-4)), RNNMonitor(every=1, level="full")
    x, y = data()
    with monitor.watching(model):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    received, applied = (monitor.run[f"first/forward/kernel{s}:gradient"] for s in ("", "@applied"))
    np.testing.assert_array_equal(applied, np.clip(received, -np.float32(1e-4), np.float32(1e-4)))


def test_seconds_of_tracing_are_in_the_run():
    model, monitor = network("lstm"), RNNMonitor(every=2)
    model.fit(*data(), batch_size=16, epochs=2, verbose=0, callbacks=[monitor])
    # Once, whatever the size of the last batch, and not again in a second fit, but after a compile.
    assert [entry["step"] for entry in monitor.run.meta["tracing"]] == [0]
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert len(monitor.run.meta["tracing"]) == 1
    model.compile(model.optimizer, "mse")
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    first, second = monitor.run.meta["tracing"]
    assert second["step"] in monitor.run.steps
    for entry in (first, second):
        assert 0 < entry["seconds"] < 60
        assert 0 < entry["first_run_seconds"] < 60
