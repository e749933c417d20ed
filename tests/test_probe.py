"""The inside of recurrent layers while they train: true on a probe batch, and the training left alone."""

from __future__ import annotations

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import RNNS, data, different, network, state

from see_rnn_like import (
    RNNMonitor,
    Run,
    errors,
    gate_saturation,
    get_gradients,
    get_state_gradients,
    memory_horizon,
    trace,
)

INSIDE = ("gates", "states", "state_gradients", "horizon")
X, Y = data()


def fitted(build, monitor=None, *, epochs=2, xy=(X, Y), **fit):
    model = build()
    callbacks = [] if monitor is None else [monitor]
    history = model.fit(*xy, batch_size=16, epochs=epochs, verbose=0, callbacks=callbacks, **fit)
    return model, history.history


# -- P1 -------------------------------------------------------------------------------------------


def one_layer(kind, **compiling):
    keras.utils.set_random_seed(1)
    rnn = RNNS[kind](4, dropout=0.2, recurrent_dropout=0.2, name="rnn")
    model = keras.Sequential([keras.Input((6, 3)), rnn, layers.BatchNormalization(), layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"], **compiling)
    return model


BUILDERS = {
    "lstm both ways": lambda: network("lstm", bidirectional=True, dropout=0.2, batchnorm=True),
    "lstm xla": lambda: one_layer("lstm", jit_compile=True),
    "gru": lambda: one_layer("gru"),
    "gru_reset_before eagerly": lambda: one_layer("gru_reset_before", run_eagerly=True),
    "simplernn xla": lambda: one_layer("simplernn", jit_compile=True),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_training_is_bit_identical_with_everything_on(build):
    monitor = RNNMonitor(
        every=2, capture=("weights", "gradients", *INSIDE), probe=(X[:8], Y[:8]), strict=True
    )
    plain, plain_history = fitted(build)
    watched, watched_history = fitted(build, monitor)
    assert monitor.run.steps == [0, 2, 4]
    assert any(key.role == "horizon_h" for key in monitor.run.infos())
    assert different(state(plain), state(watched)) == []
    assert watched_history == plain_history


def stateful_and_masked():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(8, 6)),
            layers.Embedding(5, 3, mask_zero=True),
            layers.GRU(4, stateful=True, recurrent_dropout=0.2, name="gru"),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", run_eagerly=False)
    return model


TOKENS = np.random.default_rng(0).integers(0, 5, (40, 6))


def test_states_of_stateful_layers_and_masks_stay_their_own():
    def run(*callbacks):
        model = stateful_and_masked()
        model.fit(TOKENS, Y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[*callbacks])
        return model

    monitor = RNNMonitor(every=3, capture=INSIDE, strict=True)
    plain, watched = run(), run(monitor)
    assert different(state(plain), state(watched)) == []
    held = [model.get_layer("gru").states[0].numpy() for model in (plain, watched)]
    np.testing.assert_array_equal(*held)


# -- values ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def watched():
    """A network trained with everything recorded, and the same network as it was before its step 4."""
    monitor = RNNMonitor(
        every=2, capture=("weights", *INSIDE), level="full", probe=(X[:8], Y[:8]), strict=True
    )
    fitted(lambda: network("lstm", bidirectional=True, dropout=0.2), monitor)
    earlier = network("lstm", bidirectional=True, dropout=0.2)
    put_back(earlier, monitor.run, 4)
    return monitor.run, earlier


def put_back(model, run, step):
    """Gives a model the trainable weights it had before a step of a run."""
    keys = [key for key in run.infos() if key.kind == "weight"]
    for weight, key in zip(model.trainable_variables, keys, strict=True):
        weight.assign(run[key].sel(step=step).values.reshape(weight.shape))


def assert_recorded_states(model, run, step, x):
    put_back(model, run, step)
    recorded = run["first/forward/h:value"].sel(step=step)
    np.testing.assert_allclose(recorded, trace(model, "first", x)["h"], rtol=1e-5, atol=1e-7)


def test_what_is_recorded_is_what_the_functions_give_before_that_step(watched):
    run, model = watched
    traced = trace(model, "both", X[:8])
    gradients = get_state_gradients(model, "both", X[:8], Y[:8])
    for direction in ("forward", "backward"):
        for name in ("gates", "h", "c"):
            recorded = run[f"both/{direction}/{name}:value"].sel(step=4)
            np.testing.assert_allclose(recorded, traced[name].sel(direction=direction), rtol=1e-5, atol=1e-7)
        for name in ("h", "c"):
            recorded = run[f"both/{direction}/{name}:gradient"].sel(step=4)
            expected = gradients[name].sel(direction=direction)
            np.testing.assert_allclose(recorded, expected, rtol=1e-4, atol=1e-7)
            norms = run[f"both/{direction}/{name}_norm:gradient"].sel(step=4)
            by_hand = np.sqrt((expected.values**2).sum(-1).mean(0))
            np.testing.assert_allclose(norms, by_hand, rtol=1e-4, atol=1e-9)


def test_the_gradient_of_the_output_alone_is_that_of_get_gradients(watched):
    run, model = watched
    of_output = get_gradients(model, "first", X[:8], Y[:8])
    recorded = run["first/forward/output_norm:gradient"].sel(step=4)
    np.testing.assert_allclose(recorded, np.sqrt((of_output**2).sum(-1).mean(0)), rtol=1e-4, atol=1e-9)
    # `both` returns its last output only: that of the last timestep is all there is.
    last = run["both/forward/output_norm:gradient"].sel(step=4)
    assert (last[:-1] == 0).all()
    assert last[-1] > 0
    assert (run["both/forward/h_norm:gradient"].sel(step=4)[:-1] > 0).all()


def test_saturation_and_horizon_are_those_of_the_functions(watched):
    run, model = watched
    shares = gate_saturation(trace(model, "first", X[:8]))
    memory = memory_horizon(model, "first", X[:8], probes=50)
    for side in ("left", "right"):
        recorded = run[f"first/forward/saturation_{side}:value"].sel(step=4)
        np.testing.assert_allclose(recorded.transpose("gate", "unit"), shares[side], atol=1e-7)
    for name in ("h", "c"):
        recorded = run[f"first/forward/horizon_{name}:value"].sel(step=4)
        assert recorded[0] == pytest.approx(1)
        # Few random vectors against many: within sampling, not equal.
        np.testing.assert_allclose(recorded, memory["strength"].sel(state=name), rtol=0.5)


def test_statistics_leave_masked_timesteps_out(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Embedding(5, 3, mask_zero=True),
            layers.LSTM(4, name="lstm"),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    tokens = np.array([[1, 2, 3, 0, 0, 0], [4, 0, 1, 2, 0, 0]])
    monitor = RNNMonitor(
        every=1, capture=INSIDE, probe=(tokens, Y[:2]), store=tmp_path / "r.sqlite", strict=True
    )
    model.fit(TOKENS[:8], Y[:8], verbose=0, callbacks=[monitor])
    run = Run.open(tmp_path / "r.sqlite")
    assert run.stats("lstm/forward/gates:value")["count"].values.tolist() == [[24] * 4]
    assert run.stats("lstm/forward/h:value")["count"].values.tolist() == [24]
    assert run.stats("lstm/forward/h:gradient")["nan"].values.tolist() == [0]
    assert run.info("lstm/forward/h:value").attrs["mask"] == "masked timesteps are left out"
    assert not run.events
    # The last two timesteps are masked in both samples: nothing to take a norm of.
    norms = run["lstm/forward/h_norm:gradient"][0]
    assert norms.isnull().values.tolist() == [False] * 4 + [True] * 2
    # The last output is that of timestep 2 in one sample, of 3 in the other.
    of_output = run["lstm/forward/output_norm:gradient"][0]
    assert (of_output[:4] > 0).values.tolist() == [False, False, True, True]
    strength = run["lstm/forward/horizon_h:value"][0]
    assert strength.isnull().values.tolist() == [False] * 3 + [True] * 3
    # So that this NaN is told from one that the network made.
    assert norms.attrs["masked"] == [4, 5]
    assert strength.attrs["masked"] == [3, 4, 5]


def test_without_a_mask_nothing_is_called_masked(watched):
    run, _ = watched
    assert not any("masked" in info.attrs for info in run.infos().values())


def test_the_first_batch_is_the_probe_if_none_is_given():
    monitor = RNNMonitor(every=1, capture=("weights", "states"), level="full", strict=True)
    fitted(lambda: network("gru"), monitor, shuffle=False)
    model = network("gru")
    for step in (0, 3):
        assert_recorded_states(model, monitor.run, step, X[:16])


def test_steps_within_an_execution_have_the_weights_of_their_own():
    def build():
        return network("simplernn", steps_per_execution=3, jit_compile=False)

    monitor = RNNMonitor(
        every=2, capture=("weights", "states"), level="full", probe=(X[:4], Y[:4]), strict=True
    )
    plain, _ = fitted(build)
    model, _ = fitted(build, monitor)
    assert different(state(plain), state(model)) == []
    assert monitor.run.steps == [0, 2, 4]
    for step in (2, 4):
        assert_recorded_states(model, monitor.run, step, X[:4])


def test_loss_scaling_is_divided_out():
    def build():
        keras.utils.set_random_seed(1)
        gru = layers.GRU(4, dtype="mixed_float16", name="gru")
        model = keras.Sequential([keras.Input((6, 3)), gru, layers.Dense(1)])
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
        return model

    monitor = RNNMonitor(every=1, capture=("state_gradients",), probe=(X[:8], Y[:8]), strict=True)
    fitted(build, monitor, epochs=1)
    single = build()
    expected = get_state_gradients(single, "gru", X[:8], Y[:8])["h"]
    recorded = monitor.run["gru/forward/h_norm:gradient"].sel(step=0)
    np.testing.assert_allclose(recorded, np.sqrt((expected.values**2).sum(-1).mean(0)), rtol=2e-2)
    assert recorded.max() < 10


# -- what cannot be had, and what goes wrong -----------------------------------------------------


def test_layers_that_cannot_be_looked_into_are_noted_and_the_others_recorded():
    shared = layers.SimpleRNN(3, return_sequences=True, name="shared")
    inputs = keras.Input((6, 3))
    stacked = layers.RNN([layers.LSTMCell(3), layers.LSTMCell(2)], name="stacked")
    outputs = layers.Dense(1)(
        stacked(layers.GRU(3, return_sequences=True, name="gru")(shared(shared(inputs))))
    )
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1, capture=INSIDE)
    model.fit(X[:16], Y[:16], verbose=0, callbacks=[monitor])
    assert {key.layer for key in monitor.run.infos()} == {"gru", ""}
    notes = {event.key.layer: event.message for event in monitor.run.events}
    assert "its cell is stacked or not registered" in notes["stacked"]
    assert "is called 2 times" in notes["shared"]


def test_a_model_without_a_recurrent_layer_is_told():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1, capture=("gates", "horizon"), strict=True)
    model.fit(X[:, 0], Y, verbose=0, callbacks=[monitor])
    (event,) = monitor.run.events
    assert event.message == "gates, horizon: there is no recurrent layer to look into"


def wide_targets():
    """Targets that the loss cannot compare with the one output of `network`."""
    return np.ones((8, 2, 7, 3), "float32")


def test_a_probe_that_fails_is_switched_off_and_the_rest_goes_on():
    monitor = RNNMonitor(every=1, capture=("weights", "state_gradients"), probe=(X[:8], wide_targets()))
    _, history = fitted(network, monitor)
    assert len(history["loss"]) == 2
    assert monitor.run.steps == [0, 1, 2, 3, 4, 5]
    (event,) = monitor.run.events
    assert event.kind == "capture-off"
    assert event.message.startswith("the probe is switched off, the rest is recorded: ")


def test_strict_raises_what_fails_in_the_probe():
    monitor = RNNMonitor(every=1, capture=("state_gradients",), probe=(X[:8], wide_targets()), strict=True)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        fitted(network, monitor)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"probe": "last_batch"}, errors.ArgumentError, "probe must be .*first_batch.*got 'last_batch'"),
        ({"probe": X}, errors.ArgumentTypeError, r"probe must be \(x, y\).*got ndarray"),
        ({"probe": ()}, errors.ArgumentTypeError, "got tuple"),
        (
            {"probe": (X,), "capture": ("state_gradients",)},
            errors.ArgumentError,
            r"needs targets: probe=\(x, y\)",
        ),
        (
            {"probe": (X, Y[:1])},
            errors.ArgumentError,
            "same number of samples; got input_data .40., labels .1.",
        ),
        ({"capture": ("gate",)}, errors.ArgumentError, "'gates'.*got 'gate'"),
    ],
)
def test_wrong_arguments_raise_at_construction(given, error, message):
    with pytest.raises(error, match=message):
        RNNMonitor(**given)


def test_a_probe_of_another_shape_raises_before_training():
    monitor = RNNMonitor(capture=("gates",), probe=(np.ones((4, 6, 7), "float32"),))
    with pytest.raises(errors.ArgumentError, match=r"takes \(None, 6, 3\); got \(4, 6, 7\)"):
        fitted(network, monitor)


def two_inputs():
    first, second = keras.Input((5, 2), name="z"), keras.Input((7, 3), name="a")
    parts = [layers.LSTM(3, name="lz")(first), layers.GRU(3, name="ga")(second)]
    model = keras.Model([first, second], layers.Dense(1)(layers.Concatenate()(parts)))
    model.compile("adam", "mse")
    return model


def test_inputs_in_a_dict_are_told_apart_by_name():
    x = {"z": np.ones((16, 5, 2), "float32"), "a": np.ones((16, 7, 3), "float32")}
    monitor = RNNMonitor(every=1, capture=("states",), probe=(x, Y[:16]), strict=True)
    for _ in range(2):
        two_inputs().fit(x, Y[:16], verbose=0, callbacks=[monitor])
    assert {key.layer for key in monitor.run.infos() if key.role == "h"} == {"lz", "ga"}
    with pytest.raises(errors.ArgumentError, match=r"takes 'z' \(None, 5, 2\).*got 'z' \(2, 4, 2\)"):
        trace(two_inputs(), "lz", {"z": np.ones((2, 4, 2)), "a": np.ones((2, 7, 3))})


def test_another_model_has_a_first_batch_of_its_own():
    monitor = RNNMonitor(every=1, capture=("states",), strict=True)
    for shape in ((5, 2), (7, 3)):
        model = keras.Sequential([keras.Input(shape), layers.GRU(3, name="gru"), layers.Dense(1)])
        model.compile("adam", "mse")
        model.fit(np.ones((16, *shape)), Y[:16], batch_size=8, verbose=0, callbacks=[monitor])
    assert monitor.run.steps == [0, 1, 2, 3]


def test_a_copy_has_the_same_probe():
    monitor = RNNMonitor(capture=("gates",), probe=(X[:2], Y[:2]))
    assert copy.deepcopy(monitor).probe[0] is monitor.probe[0]


@pytest.mark.parametrize("kind", RNNS)
def test_every_kind_of_layer_has_its_states_by_name(kind):
    monitor = RNNMonitor(every=10, capture=("states", "gates"), probe=(X[:2], Y[:2]), strict=True)
    fitted(lambda: network(kind), monitor, epochs=1)
    roles = [key.role for key in monitor.run.infos() if key.layer == "first"]
    assert roles == ["gates", "saturation_left", "saturation_right", "h"] + ["c"] * (kind == "lstm")
