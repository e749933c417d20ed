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
