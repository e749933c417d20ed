"""What decay and penalties take, against Keras itself."""

import keras
import numpy as np
import pytest

from see_rnn_like import RNNMonitor
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.decay import decay_share, penalty_share

KERNEL = TensorKey("dense", None, "kernel", "weight")


def trained(layers, optimizer, shape):
    """A run of three steps on zeros, whose loss is that of the penalties alone."""
    model = keras.Sequential([keras.Input(shape), *layers])
    model.compile(optimizer, "mse")
    monitor = RNNMonitor(every=1, capture=("weights", "updates"), strict=True)
    x = np.zeros((6, *shape), "float32")
    model.fit(
        x, np.zeros((6, *model.output_shape[1:])), batch_size=2, epochs=1, verbose=0, callbacks=[monitor]
    )
    return monitor.run


@pytest.mark.parametrize("scaled", [False, True])
def test_all_of_an_update_without_a_gradient_is_decay(scaled):
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.3)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer
    run = trained([keras.layers.Dense(3, use_bias=False, name="dense")], optimizer, (4,))
    np.testing.assert_allclose(decay_share(run, KERNEL)["share"], np.ones(3), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in Keras itself
@pytest.mark.parametrize("order", [1, -1], ids=["before", "after"])
def test_decay_follows_the_rate_of_a_scheduler_wherever_it_is_placed(order):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False, name="dense")])
    model.compile(keras.optimizers.SGD(0.1, weight_decay=0.3), "mse")
    monitor = RNNMonitor(every=1, capture=("weights", "updates"), strict=True)
    scheduler = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch))
    zeros = np.zeros((4, 4)), np.zeros((4, 3))
    model.fit(*zeros, batch_size=2, epochs=3, verbose=0, callbacks=[scheduler, monitor][::order])
    np.testing.assert_allclose(decay_share(monitor.run, KERNEL)["share"], np.ones(6), rtol=1e-5)


def test_decay_follows_a_schedule_of_the_optimizer():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    optimizer = keras.optimizers.SGD(schedule, weight_decay=0.3)
    run = trained([keras.layers.Dense(3, use_bias=False, name="dense")], optimizer, (4,))
    np.testing.assert_allclose(run.logs()["learning_rate"], [0.1, 0.05, 0.025], rtol=1e-6)
    np.testing.assert_allclose(decay_share(run, KERNEL)["share"], np.ones(3), rtol=1e-5)


@pytest.mark.slow
def test_penalties_are_all_of_a_loss_that_has_nothing_else():
    """Through cells, directions, wrappers and nested models: what is found adds up to Keras's own loss."""
    layers, rule = keras.layers, keras.regularizers.L2
    gru = layers.GRU(3, recurrent_regularizer=rule(0.03), return_sequences=True)
    stacked = [
        layers.LSTMCell(3, kernel_regularizer=rule(0.05)),
        layers.GRUCell(2, recurrent_regularizer=rule(0.06)),
    ]
    inner = keras.Sequential(
        [layers.LSTM(3, kernel_regularizer=rule(0.02), return_sequences=True)], name="encoder"
    )
    run = trained(
        [
            inner,
            layers.Bidirectional(gru),
            layers.TimeDistributed(layers.Dense(4, kernel_regularizer="l2")),
            layers.RNN(layers.LSTMCell(3, recurrent_regularizer=rule(0.04)), return_sequences=True),
            layers.RNN(stacked),
            layers.Dense(2, kernel_regularizer=keras.regularizers.L1L2(0.0, 0.07)),
        ],
        keras.optimizers.SGD(1e-3),
        (5, 4),
    )
    weights = [key for key in run.infos() if key.kind == "weight"]
    shares = {key: found["share"].values for key in weights if (found := penalty_share(run, key)) is not None}
    assert len(shares) == 8
    np.testing.assert_allclose(sum(shares.values()), np.ones(3), rtol=1e-5)
