"""P1 with the guard on: a training without a bad step ends bit for bit the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from networks import data, different, network, state

from see_rnn_like import NaNGuard, RNNMonitor

WAYS = {
    "graph": {},
    "xla": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "three per execution": {"steps_per_execution": 3},
}


def fitted(build, callbacks=(), xy=None, batch_size=16):
    model = build()
    history = model.fit(
        *(xy or data()), batch_size=batch_size, epochs=2, verbose=0, callbacks=list(callbacks)
    )
    return model, history.history


def assert_untouched(build, **fit):
    plain, plain_history = fitted(build, **fit)
    guard = NaNGuard()
    guarded, history = fitted(build, [guard], **fit)
    assert different(state(plain), state(guarded)) == []
    assert history == plain_history
    assert guard.autopsy is None
    assert guard.skipped == 0
    # Only a guard that watched proves anything.
    assert len(guard._trail) > 2
    return plain, plain_history


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_training_is_bit_identical_and_a_monitor_beside_changes_nothing(how):
    def build():
        return network("lstm", bidirectional=True, dropout=0.2, batchnorm=True, **how)

    plain, plain_history = assert_untouched(build)
    first, last = RNNMonitor(every=2), RNNMonitor(every=2)
    for monitor, callbacks in ((first, [first, NaNGuard()]), (last, [NaNGuard(), last])):
        both, history = fitted(build, callbacks)
        assert different(state(plain), state(both)) == []
        assert history == plain_history
        assert monitor.run.steps == [0, 2, 4]
        assert not monitor.run.events


OPTIMIZERS = {
    "sgd nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adamw clipnorm ema": lambda: keras.optimizers.AdamW(
        clipnorm=0.1, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulation": lambda: keras.optimizers.Adam(gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
}


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_kind_of_update_rounds_as_it_did(optimizer, jit):
    x = np.random.default_rng(0).integers(0, 9, (40, 6))

    def build():
        keras.utils.set_random_seed(1)
        norm = keras.regularizers.L2(0.01)
        parts = [layers.Embedding(9, 4), layers.SimpleRNN(4), layers.Dense(1, kernel_regularizer=norm)]
        model = keras.Sequential([keras.Input((6,), dtype="int32"), *parts])
        model.compile(optimizer(), "mse", jit_compile=jit)
        return model

    assert_untouched(build, xy=(x, data()[1]))


def rate_times_product():
    """``rate * (sum * rsqrt)``, the update of gamma."""
    parts = [layers.Dense(8, use_bias=False), layers.BatchNormalization(), layers.ReLU(), layers.Dense(1)]
    return keras.Sequential([keras.Input((6, 3)), layers.Flatten(), *parts])


def sums_of_sums():
    inputs, top, mean = keras.Input((6, 3)), layers.Dense(1), layers.GlobalAveragePooling1D()
    rnn = layers.GRU(3, return_sequences=True)
    one = rnn(inputs)
    return keras.Model(inputs, layers.Add()([top(mean(t)) for t in (one, rnn(one), inputs)]))


def with_momentum(make):
    # By automatic names TensorFlow orders what it adds up.
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", jit_compile=False)
    return model


@pytest.mark.parametrize("make", [rate_times_product, sums_of_sums])
def test_what_tensorflow_regroups_is_regrouped_with_a_guard_too(make):
    """Sums and products in which every intermediate result has one consumer, an update's among them."""
    plain, plain_history = assert_untouched(lambda: with_momentum(make), batch_size=8)
    both, history = fitted(lambda: with_momentum(make), [RNNMonitor(every=2), NaNGuard()], batch_size=8)
    assert different(state(plain), state(both)) == []
    assert history == plain_history


@pytest.mark.filterwarnings("ignore::see_rnn_like.NonFiniteWarning")
def test_an_update_that_is_one_product_with_its_gradient_is_undone_whole():
    """No condition parts the two: weights and slots are put back as they were."""
    x, y = data(24)
    y[16:] = np.nan
    bare, guarded = with_momentum(rate_times_product), with_momentum(rate_times_product)
    fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
    bare.fit(x[:16], y[:16], **fit)
    guard = NaNGuard("skip")
    guarded.fit(x, y, **fit, callbacks=[guard])
    assert guard.skipped == 1
    assert different(state(bare), state(guarded)) == []


def test_loss_scaling_and_its_overflows_are_left_to_the_optimizer():
    def build():
        keras.utils.set_random_seed(1)
        half = {"dtype": "mixed_float16"}
        model = keras.Sequential([keras.Input((6, 3)), layers.LSTM(4, **half), layers.Dense(1, **half)])
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=2.0**24)
        model.compile(scaled, "mse")
        return model

    plain, _ = assert_untouched(build, batch_size=4)
    # Otherwise nothing overflowed, and nothing was left to anybody.
    assert float(plain.optimizer.dynamic_scale) < 2.0**24
    assert int(plain.optimizer.inner_optimizer.iterations) < 20
