"""The monitor outside of fit: train_on_batch, loops of one's own, compiled steps that are handed in."""

from __future__ import annotations

import contextlib
import copy
import functools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import data, different, network, state

from see_rnn_like import RNNMonitor, at, every
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, CaptureError, NonFiniteError

X, Y = data()
SIZES = (16, 16, 8, 16, 12)


# -- loops: each trains on batches of these sizes and returns the losses -----------------------------


def on_batch(model, sizes=SIZES, **weighting):
    return [np.asarray(model.train_on_batch(X[:n], Y[:n], **weighting)) for n in sizes]


def by_tape(model, sizes=SIZES):
    losses = []
    for n in sizes:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(X[:n], Y[:n], model(X[:n], training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        losses.append(loss.numpy())
    return losses


def by_train_step(model, sizes=SIZES):
    return [model.train_step((X[:n], Y[:n]))["loss"].numpy() for n in sizes]


def compiled_step(model):
    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x, y, model(x, training=True))
            scaled = model.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss, gradients

    return step


def by_compiled_step(model, monitor=None, sizes=SIZES):
    step, losses = compiled_step(model), []
    for n in sizes:
        loss, gradients = step(X[:n], Y[:n])
        if monitor is not None:
            monitor.record_step(model, gradients, loss=loss, logs={"mine": 2 * loss})
        losses.append(loss.numpy())
    return losses


def watched(build, loop, monitor, *args):
    model = build()
    with monitor.watching(model):
        results = loop(model, *args)
    return model, results


def assert_untouched(build, loop, monitor, *args):
    plain = build()
    expected = loop(plain)
    model, results = watched(build, loop, monitor, *args)
    assert monitor.run.steps, "nothing was recorded, so nothing was proved"
    assert different(state(plain), state(model)) == []
    np.testing.assert_array_equal(results, expected)


def kinds(monitor):
    return [event.kind for event in monitor.run.events]


def names(run):
    return [str(key) for key in run.infos()]


def attributes(model):
    """Every attribute of model, optimizer and layers, by identity."""
    owners = [*model._flatten_layers(), model.optimizer]
    owners += [model.optimizer.inner_optimizer] if hasattr(model.optimizer, "inner_optimizer") else []
    return [{name: id(value) for name, value in vars(owner).items()} for owner in owners]


# -- P1: the training is the same --------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [every(1), every(2, start=1)], ids=repr)
@pytest.mark.parametrize("how", [{"jit_compile": False}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_train_on_batch_trains_the_same(how, schedule):
    """Batches of changing size: the compiled function is widened on steps that are not due, too."""
    monitor = RNNMonitor(every=schedule, level="full", strict=True)
    assert_untouched(lambda: network("lstm", dropout=0.2, batchnorm=True, **how), on_batch, monitor)
    assert monitor.run.steps == [step for step in range(len(SIZES)) if schedule(step)]
    assert kinds(monitor) == []


def test_train_on_batch_trains_the_same_under_xla():
    monitor = RNNMonitor(every=at([0, 2]), strict=True)
    sizes = (16, 8, 16)
    assert_untouched(
        lambda: network("gru", dropout=0.2, jit_compile=True), lambda m: on_batch(m, sizes), monitor
    )
    assert monitor.run.steps == [0, 2]


@pytest.mark.parametrize("schedule", [every(1), every(3, start=1)], ids=repr)
@pytest.mark.parametrize("loop", [by_tape, by_train_step])
def test_eager_loops_train_the_same(loop, schedule):
    monitor = RNNMonitor(every=schedule, level="full", strict=True)
    assert_untouched(lambda: network("lstm", dropout=0.2, batchnorm=True), loop, monitor)
    assert monitor.run.steps == [step for step in range(len(SIZES)) if schedule(step)]
    assert kinds(monitor) == []


@pytest.mark.parametrize("schedule", [every(1), every(2, start=1)], ids=repr)
def test_compiled_loops_train_the_same(schedule):
    def loop(model, *monitor):
        return by_compiled_step(model, *monitor)

    monitor = RNNMonitor(every=schedule, level="full", strict=True)
    assert_untouched(lambda: network("lstm", dropout=0.2, batchnorm=True), loop, monitor, monitor)
    assert monitor.run.steps == [step for step in range(len(SIZES)) if schedule(step)]
    assert kinds(monitor) == ["not-recorded"]
    assert "outputs of layers" in monitor.run.events[0].message


# -- P5: what is recorded is what happened -----------------------------------------------------------


def diary(model, loop):
    """All weights before each step and after the last one, of the same training without the monitor."""
    before = []
    for n in SIZES:
        before.append([v.numpy() for v in model.weights])
        loop(model, (n,))
    return [*before, [v.numpy() for v in model.weights]]


def key_of(model, variable):
    for layer, name in zip(model.layers, ("first/forward", "second/forward", "head"), strict=True):
        owner = getattr(layer, "cell", layer)
        for role in ("kernel", "recurrent_kernel", "bias"):
            if getattr(owner, role, None) is variable:
                return f"{name}/{role}"
    raise AssertionError(variable.path)


def small():
    keras.utils.set_random_seed(1)
    rnns = [layers.SimpleRNN(4, return_sequences=True, name="first"), layers.SimpleRNN(3, name="second")]
    model = keras.Sequential([keras.Input((6, 3)), *rnns, layers.Dense(1, name="head")])
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"], jit_compile=False)
    return model


def close(recorded, expected):
    expected = np.asarray(expected)
    recorded = recorded.values.reshape(expected.shape)
    np.testing.assert_allclose(recorded, expected, rtol=1e-4, atol=1e-6)


LOOPS = {
    "train_on_batch": on_batch,
    "tape": by_tape,
    "train_step": by_train_step,
    "record_step": by_compiled_step,
}


@pytest.mark.parametrize("name", LOOPS)
def test_values_are_those_of_an_independent_tape(name):
    loop, model, other = LOOPS[name], small(), small()
    weights = diary(other, by_tape)
    monitor = RNNMonitor(every=1, level="full", strict=True)
    with monitor.watching(model):
        loop(model, monitor) if name == "record_step" else loop(model)
    run = monitor.run
    assert run.steps == [0, 1, 2, 3, 4]
    for step, n in enumerate(SIZES):
        for variable, old, new in zip(model.weights, weights[step], weights[step + 1], strict=True):
            key = key_of(model, variable)
            close(run[f"{key}:weight"].sel(step=step), old)
            close(run[f"{key}:update"].sel(step=step), new - old)
        for variable, value in zip(other.weights, weights[step], strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            sequence = other.layers[0](X[:n])
            tape.watch(sequence)
            last = other.layers[1](sequence)
            prediction = other.layers[2](last)
            loss = tf.reduce_mean((prediction - Y[:n]) ** 2)
        found = tape.gradient(loss, [sequence, last, prediction, *other.trainable_variables])
        close(run["loss:value"].sel(step=step), loss)
        for variable, gradient in zip(model.trainable_variables, found[3:], strict=True):
            close(run[f"{key_of(model, variable)}:gradient"].sel(step=step), gradient)
        if name == "record_step":
            assert not [key for key in run.infos() if key.role == "output"]
            assert float(run.logs()["mine"].sel(step=step)) == pytest.approx(2 * float(loss), rel=1e-4)
            continue
        values = {"first/forward/output": sequence, "second/forward/output": last, "head/output": prediction}
        for gradient, (key, value) in zip(found[:3], values.items(), strict=True):
            close(run[f"{key}:value"].sel(step=step, sample=slice(n)), value)
            close(run[f"{key}:gradient"].sel(step=step, sample=slice(n)), gradient)
    if name == "train_on_batch":
        assert set(run.logs().data_vars) >= {"loss", "mae", "learning_rate"}


@pytest.mark.parametrize("weighting", ["sample_weight", "class_weight"])
def test_weights_of_samples_and_classes_are_in_loss_and_gradients(weighting):
    def build():
        keras.utils.set_random_seed(1)
        head = layers.Dense(3, activation="softmax", name="head")
        model = keras.Sequential([keras.Input((6, 3)), layers.SimpleRNN(4), head])
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        return model

    classes = np.arange(16) % 3
    weights = {0: 1.0, 1: 2.0, 2: 0.5}
    by_sample = np.array([weights[label] for label in classes], "float32")
    given = {"class_weight": weights} if weighting == "class_weight" else {"sample_weight": by_sample}
    plain, model, monitor = build(), build(), RNNMonitor(every=1, level="full", strict=True)
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(classes, plain(X[:16]))
        loss = tf.reduce_mean(losses * by_sample)
    gradients = tape.gradient(loss, plain.trainable_variables)
    expected = [plain.train_on_batch(X[:16], classes, **given) for _ in range(2)]
    with monitor.watching(model):
        results = [model.train_on_batch(X[:16], classes, **given) for _ in range(2)]
    np.testing.assert_array_equal(results, expected)
    assert different(state(plain), state(model)) == []
    close(monitor.run["loss:value"].sel(step=0), loss)
    close(monitor.run["head/kernel:gradient"].sel(step=0), gradients[-2])


def test_gradients_and_updates_under_loss_scaling():
    """A loss scale that overflows float16: the first steps are skipped, which is said; P1 holds."""

    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((6, 3)), layers.SimpleRNN(4, name="rnn"), layers.Dense(1)])
        inner = keras.optimizers.SGD(0.1)
        optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=3.3e38)
        model.compile(optimizer, "mse", jit_compile=False)
        return model

    def loop(model, *monitor):
        return by_compiled_step(model, *monitor, sizes=(16,) * 8)

    monitor = RNNMonitor(every=1, level="full", strict=True)
    assert_untouched(build, loop, monitor, monitor)
    assert "skipped-step" in kinds(monitor)
    assert 1 <= len(monitor.run.steps) < 8
    assert monitor.run.steps == list(range(len(monitor.run.steps)))
    gradient, update = monitor.run["rnn/forward/kernel:gradient"], monitor.run["rnn/forward/kernel:update"]
    np.testing.assert_allclose(update, -0.1 * gradient, rtol=1e-3, atol=1e-7)
    assert gradient.attrs["loss_scale"] == "divided out"


def embedded():
    keras.utils.set_random_seed(1)
    parts = [layers.Embedding(9, 4, name="embed"), layers.GRU(3, name="gru"), layers.Dense(2, name="head")]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), *parts])
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
    return model


TOKENS = np.random.default_rng(0).integers(0, 9, (16, 6))


@pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")
@pytest.mark.parametrize("how", ["record_step", "eager"])
def test_sparse_gradients_and_variables_without_one(how):
    model, monitor = embedded(), RNNMonitor(every=1, level="full", strict=True)

    def gradients_of(tokens):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(tokens, training=True)[:, 0])
        gradients = tape.gradient(loss, model.trainable_variables)
        gradients[-1] = None
        return gradients

    def step(tokens):
        gradients = gradients_of(tokens)
        model.optimizer.apply(gradients, model.trainable_variables)
        return gradients

    expected = [None if g is None else tf.convert_to_tensor(g).numpy() for g in gradients_of(TOKENS)]
    with monitor.watching(model):
        if how == "record_step":
            gradients = tf.function(step)(TOKENS)
            assert isinstance(gradients[0], tf.IndexedSlices)
            monitor.record_step(model, gradients, loss=1.0)
        else:
            step(TOKENS)
    recorded = monitor.run["embed/embeddings:gradient"].sel(step=0)
    np.testing.assert_allclose(recorded, expected[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(monitor.run["embed/embeddings:update"].sel(step=0), -0.5 * recorded, atol=1e-6)
    assert "head/bias:gradient" not in names(monitor.run)
    (event,) = [e for e in monitor.run.events if e.kind == "no-gradient"]
    assert str(event.key) == "head/bias:gradient"


def test_statistics_of_batchnorm_change_by_what_the_whole_step_does():
    """Its averages are written in the forward pass, before the update begins."""
    monitors = [RNNMonitor(every=2, level="full", strict=True) for _ in range(2)]
    for loop, monitor in zip((on_batch, by_tape), monitors, strict=True):
        watched(lambda: network("lstm", batchnorm=True, jit_compile=False), loop, monitor)
    for role in ("moving_mean", "moving_variance", "gamma"):
        for kind in ("weight", "update"):
            given, taped = (monitor.run[f"norm/{role}:{kind}"] for monitor in monitors)
            np.testing.assert_allclose(taped, given, rtol=1e-4, atol=1e-7)
            assert kind == "weight" or np.abs(given).max() > 0


def test_learning_rate_is_that_of_the_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.01, 0.001])
    for loop in (on_batch, by_tape, by_compiled_step):
        model, monitor = small(), RNNMonitor(every=1, strict=True)
        given = [monitor] if loop is by_compiled_step else []
        model.compile(keras.optimizers.SGD(schedule), "mse", jit_compile=False)
        with monitor.watching(model):
            loop(model, *given)
        expected = [float(schedule(step)) for step in range(5)]
        np.testing.assert_allclose(monitor.run.logs()["learning_rate"], expected)


# -- which forward passes are those of the training --------------------------------------------------


def taped(model, x, y):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)


def test_evaluations_in_between_are_not_taken_for_the_training():
    model, monitor = small(), RNNMonitor(every=1, level="full", strict=True)
    with monitor.watching(model):
        for n in (16, 8):
            model(X, training=False)
            model(X)
            model.compute_loss(X, Y, model(X))
            model.predict(X, verbose=0)
            with tf.GradientTape() as tape:  # a saliency map
                x = tf.convert_to_tensor(X)
                tape.watch(x)
                seen = tf.reduce_sum(model(x, training=False))
            tape.gradient(seen, x)
            taped(model, X[:n], Y[:n])
            model.evaluate(X, Y, verbose=0)
    run = monitor.run
    assert sorted(str(key) for key in run.infos() if key.role.startswith("output")) == sorted(
        f"{name}/output:{kind}"
        for name in ("first/forward", "second/forward", "head")
        for kind in ("value", "gradient")
    )
    assert "loss@1:value" not in names(run)
    for step, n in enumerate((16, 8)):
        assert int(run.stats("head/output:value").sel(step=step)["count"]) == n
    assert kinds(monitor) == []


def test_a_step_of_two_forward_passes_keeps_them_apart():
    model, monitor = small(), RNNMonitor(every=1, level="full", strict=True)
    with monitor.watching(model):
        with tf.GradientTape() as tape:
            one = model(X[:16], training=True)
            model(X[:4], training=True)
            two = model(X[16:24], training=True)
            loss = tf.reduce_sum(one) + 3 * tf.reduce_sum(two)
        model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    run = monitor.run
    np.testing.assert_array_equal(run["head/output:value"].sel(step=0), one)
    np.testing.assert_array_equal(run["head/output@1:value"].sel(step=0), two)
    assert np.unique(run["head/output:gradient"]) == [1.0]
    assert np.unique(run["head/output@1:gradient"]) == [3.0]
    assert "head/output@2:value" not in names(run)


def test_a_gradient_penalty_trains_the_same_and_ambiguous_gradients_are_left_out():
    def loop(model):
        for n in (16, 8):
            x = tf.convert_to_tensor(X[:n])
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    prediction = model(x, training=True)
                slope = inner.gradient(prediction, x)
                loss = model.compute_loss(x, Y[:n], prediction) + tf.reduce_mean(slope**2)
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply(gradients, model.trainable_variables)
        return 0

    monitor = RNNMonitor(every=1, level="full", strict=True)
    assert_untouched(small, loop, monitor)
    left_out = [e.message for e in monitor.run.events if e.kind == "not-recorded"]
    assert any("2 backward passes" in message and "first/forward/output" in message for message in left_out)
    assert "first/forward/output:gradient" not in names(monitor.run)


def test_layers_before_anything_trainable_are_recorded_with_their_pass():
    model, monitor = small(), RNNMonitor(every=1, level="full", strict=True)
    model.layers[0].trainable = False
    with monitor.watching(model):
        model(X)
        taped(model, X[:16], Y[:16])
    np.testing.assert_allclose(
        monitor.run["first/forward/output:value"].sel(step=0), model.layers[0](X[:16]), rtol=1e-5, atol=1e-6
    )


def test_a_loss_of_ones_own_is_said_to_be_unknown():
    model, monitor = small(), RNNMonitor(every=1, strict=True)
    with monitor.watching(model):
        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(X) ** 2)
            model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    (event,) = monitor.run.events
    assert (event.kind, str(event.key)) == ("not-recorded", "loss:value")
    assert monitor.run.steps == [0, 1]


def test_evaluations_do_not_stay_in_memory():
    import gc
    import weakref

    model, monitor = small(), RNNMonitor(every=1, strict=True)
    with monitor.watching(model):
        output = model(X)
        seen = weakref.ref(output)
        del output
        gc.collect()
        assert seen() is None
        taped(model, X, Y)


# -- P3, P6: only what is due, and nothing is left ---------------------------------------------------


def test_steps_that_are_not_due_run_keras_own_function_and_trace_nothing_of_ours(monkeypatch):
    from see_rnn_like.engine.train_step import InstrumentedStep

    def refuse(*_):
        raise AssertionError("traced")

    monkeypatch.setattr(InstrumentedStep, "_traced", refuse)
    model, monitor, calls = small(), RNNMonitor(every=at([100]), strict=True), []
    model.make_train_function()
    native = model.train_function

    def counted(iterator):
        calls.append(1)
        return native(iterator)

    model.train_function = counted
    with monitor.watching(model):
        on_batch(model)
        assert model.train_function is counted
    assert len(calls) == len(SIZES)
    assert monitor.run.steps == []


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize(
    "error", [None, RuntimeError("mine"), KeyboardInterrupt()], ids=["", "error", "ctrl-c"]
)
def test_nothing_is_left_on_the_model(name, error):
    model, monitor = small(), RNNMonitor(every=1, strict=True)
    LOOPS[name](model, sizes=(16,))
    before = attributes(model)
    with contextlib.suppress(RuntimeError, KeyboardInterrupt), monitor.watching(model):
        LOOPS[name](model, **({"monitor": monitor} if name == "record_step" else {}), sizes=(16,))
        if error is not None:
            raise error
    after = attributes(model)
    for was, now in zip(before, after, strict=True):
        assert now == was
    recorded = monitor.run.steps
    assert recorded == [1]
    LOOPS[name](model, sizes=(16,))
    assert monitor.run.steps == recorded
    model.fit(X, Y, batch_size=16, verbose=0, callbacks=[monitor])
    assert monitor.run.steps == [1, 3, 4, 5]


def test_an_exception_inside_of_train_on_batch_leaves_keras_own_function():
    model, monitor = small(), RNNMonitor(every=1, strict=True)
    on_batch(model, (16,))
    native = model.train_function
    with monitor.watching(model):
        with pytest.raises(Exception, match=r"incompatible|shape|rank|dim"):
            model.train_on_batch(X[:, :, :2], Y)
        assert model.train_function is native
        on_batch(model, (16,))
    assert model.train_function is native
    assert monitor.run.steps == [1]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_a_function_traced_in_the_block_is_the_same_as_one_traced_outside(tmp_path):
    def graph_of(model):
        step = compiled_step(model).get_concrete_function(tf.TensorSpec((16, 6, 3)), tf.TensorSpec((16, 1)))
        return [(node.op, len(node.input)) for node in step.graph.as_graph_def().node]

    plain, model, monitor = small(), small(), RNNMonitor(every=1, strict=True)
    with monitor.watching(model):
        inside = graph_of(model)
        model.save(tmp_path / "model.keras")
        copy.deepcopy(model)
    assert inside == graph_of(plain)
    keras.models.load_model(tmp_path / "model.keras")


class Mistaken(keras.callbacks.Callback):
    """A user's callback that fails between the monitor's hook and the step."""

    def on_train_batch_begin(self, batch, logs=None):
        raise RuntimeError("mine")


def test_what_a_failed_fit_leaves_does_not_act_on_train_on_batch():
    model, monitor = small(), RNNMonitor(every=1, strict=True)
    with pytest.raises(RuntimeError, match="mine"):
        model.fit(X, Y, verbose=0, callbacks=[monitor, Mistaken()])
    on_batch(model, (16,))
    assert monitor.run.steps == []
    with monitor.watching(model):
        on_batch(model, (16,))
    assert monitor.run.steps == [1]


def test_an_eager_fit_in_the_block_is_a_loop_too():
    model, monitor = small(), RNNMonitor(every=2, strict=True)
    model.compile("adam", "mse", run_eagerly=True)
    with monitor.watching(model):
        model.fit(X, Y, batch_size=8, verbose=0, validation_data=(X, Y))
    assert monitor.run.steps == [0, 2, 4]
    assert kinds(monitor) == []
    assert list(monitor.run.stats("head/output:value")["count"]) == [8, 8, 8]


def test_calls_of_other_threads_are_not_seen():
    model, monitor = small(), RNNMonitor(every=1, level="full", strict=True)

    def saliency():
        with tf.GradientTape() as tape:
            x = tf.convert_to_tensor(X)
            tape.watch(x)
            seen = tf.reduce_sum(model(x, training=True))
        tape.gradient(seen, x)

    with monitor.watching(model):
        other = threading.Thread(target=saliency)
        other.start()
        other.join()
        taped(model, X[:8], Y[:8])
    assert monitor.run["head/output:value"].shape == (1, 8, 1)
    assert "head/output@1:value" not in names(monitor.run)


# -- P4: step tags -----------------------------------------------------------------------------------


def test_blocks_and_fits_continue_one_run(tmp_path):
    model, monitor = small(), RNNMonitor(every=2, store=tmp_path / "run.sqlite", strict=True)
    on_batch(model, (16, 16, 16))
    with monitor.watching(model):
        on_batch(model, (16, 16))  # 3, 4
    model.fit(X, Y, batch_size=16, verbose=0, callbacks=[monitor])  # 5, 6, 7
    with monitor.watching(model):
        by_tape(model, (16,))  # 8
        on_batch(model, (16, 16))  # 9, 10
        by_compiled_step(model, monitor, (16, 16))  # 11, 12
        by_train_step(model, (16, 16))  # 13, 14
    assert monitor.run.steps == [4, 6, 8, 10, 12, 14]
    assert int(model.optimizer.iterations.numpy()) == 15
    assert kinds(monitor) == ["not-recorded"]
    assert [fit["first_step"] for fit in monitor.run.meta["fits"]] == [3, 5, 8]
    assert monitor.run.meta["finished"]


def test_a_model_built_by_its_first_batch():
    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([layers.GRU(4, name="gru"), layers.Dense(1, name="head")])
        model.compile("adam", "mse", jit_compile=False)
        return model

    for loop in (on_batch, by_tape):
        monitor = RNNMonitor(every=1, strict=True)
        assert_untouched(build, loop, monitor)
        assert monitor.run.steps == [0, 1, 2, 3, 4]
        assert "gru/forward/kernel:gradient" in names(monitor.run)


def test_steps_out_of_sight_are_told_once():
    model, monitor = small(), RNNMonitor(every=1, strict=True)
    with monitor.watching(model):
        on_batch(model, (16,))
        by_compiled_step(model, sizes=(16, 16))
        on_batch(model, (16,))
        by_compiled_step(model, sizes=(16,))
        by_tape(model, (16, 16))
        model.fit(X, Y, batch_size=16, verbose=0)
    assert kinds(monitor) == ["unseen-steps"]
    assert monitor.run.events[0].message.startswith("step 1 to 2: taken out of sight")
    assert "record_step" in monitor.run.events[0].message
    assert monitor.run.steps == [0, 3, 6]


def test_record_step_after_several_steps_records_nothing_wrong():
    model, monitor = small(), RNNMonitor(every=1, strict=True)
    step = compiled_step(model)
    with monitor.watching(model):
        for _ in range(2):
            loss, gradients = step(X, Y)
        monitor.record_step(model, gradients, loss=loss)
        loss, gradients = step(X, Y)
        monitor.record_step(model, gradients, loss=loss)
    assert monitor.run.steps == [2]
    assert kinds(monitor) == ["unseen-steps", "not-recorded"]


# -- what is refused ---------------------------------------------------------------------------------


@pytest.fixture
def stepped():
    """A model with a step just taken in the block, its monitor and the gradients."""
    model, monitor = small(), RNNMonitor(every=1)
    step = compiled_step(model)
    with monitor.watching(model):
        _, gradients = step(X, Y)
        yield model, monitor, gradients


def test_record_step_outside_of_the_block():
    model, monitor = small(), RNNMonitor(every=1)
    with pytest.raises(ArgumentError, match=r"not watched.*with monitor.watching"):
        monitor.record_step(model, [])
    with monitor.watching(model), pytest.raises(ArgumentError, match="not watched"):
        monitor.record_step(small(), [])


def test_record_step_before_the_update(stepped):
    model, monitor, gradients = stepped
    monitor.record_step(model, gradients)
    with pytest.raises(ArgumentError, match="counted no step since"):
        monitor.record_step(model, gradients)
    taped(model, X, Y)
    with pytest.raises(ArgumentError, match=r"run eagerly.*are recorded without it"):
        monitor.record_step(model, gradients)


def test_record_step_with_gradients_that_do_not_fit(stepped):
    model, monitor, gradients = stepped
    with pytest.raises(ArgumentError, match="there are 7 gradients for 8 variables"):
        monitor.record_step(model, gradients[1:])
    with pytest.raises(ArgumentError, match=r"must have its shape \(.*\); got \("):
        monitor.record_step(model, gradients[::-1])
    with pytest.raises(ArgumentTypeError, match=r"must be a tensor, tf.IndexedSlices or None; got str"):
        monitor.record_step(model, ["x"] * 8)
    with pytest.raises(ArgumentTypeError, match="gradients must be a list"):
        monitor.record_step(model, gradients[0])
    with pytest.raises(ArgumentTypeError, match=r"Keras variables.*got ResourceVariable"):
        monitor.record_step(model, gradients, variables=[v.value for v in model.trainable_variables])
    with pytest.raises(ArgumentTypeError, match="logs must be a dict"):
        monitor.record_step(model, gradients, logs=[1])
    with pytest.raises(ArgumentTypeError, match="loss must be a number"):
        monitor.record_step(model, gradients, loss="small")
    monitor.record_step(model, gradients[::-1], variables=model.trainable_variables[::-1])
    assert monitor.run.steps == [0]


def test_record_step_inside_of_a_tf_function():
    model, monitor = small(), RNNMonitor(every=1)
    with monitor.watching(model):
        inside = tf.function(lambda: monitor.record_step(model, [None] * 8), autograph=False)
        with pytest.raises(ArgumentError, match=r"inside of a tf.function"):
            inside()


def test_blocks_that_cannot_be():
    model, monitor = small(), RNNMonitor(every=1)
    with (
        pytest.raises(ArgumentError, match="optimizer is None"),
        monitor.watching(keras.Sequential([layers.Dense(1)])),
    ):
        pass
    with monitor.watching(model):
        with pytest.raises(ArgumentError, match="watching a model in a block"), monitor.watching(small()):
            pass
        with pytest.raises(ArgumentError, match="watching a model in a block"):
            model.fit(X, Y, verbose=0, callbacks=[monitor])
        with pytest.raises(ArgumentError, match="watched already"), RNNMonitor().watching(model):
            pass
        by_tape(model, (16,))
    assert monitor.run.steps == [0]
    with monitor.watching(small()):
        pass


# -- P8: our failures do not end a training ----------------------------------------------------------


def failing(*_args, **_kwargs):
    raise CaptureError("planted")


@pytest.mark.parametrize("name", LOOPS)
def test_a_failure_of_ours_switches_recording_off_and_training_goes_on(name, monkeypatch):
    def loop(model):
        return LOOPS[name](model, monitor) if name == "record_step" else LOOPS[name](model)

    plain, model, monitor = small(), small(), RNNMonitor(every=1)
    expected = LOOPS[name](plain)
    monkeypatch.setattr("see_rnn_like.engine.recording.Digest", failing)
    with monitor.watching(model):
        results = loop(model)
    np.testing.assert_array_equal(results, expected)
    assert different(state(plain), state(model)) == []
    assert kinds(monitor) == ["capture-off"]
    assert "planted" in monitor.run.events[0].message
    strict = RNNMonitor(every=1, strict=True)
    with pytest.raises(CaptureError, match="planted"), strict.watching(model):
        LOOPS[name](model, strict) if name == "record_step" else LOOPS[name](model)


def test_data_that_keras_takes_and_we_do_not_is_told():
    model, monitor = small(), RNNMonitor(every=1)
    with monitor.watching(model):
        model.train_on_batch(X, Y, sample_weight=[1.0])
    assert kinds(monitor) == ["capture-off"]


def test_a_model_compiled_anew_in_the_block_is_told():
    for loop in (on_batch, by_tape):
        model, monitor = small(), RNNMonitor(every=1)
        with monitor.watching(model):
            loop(model, (16,))
            model.compile("sgd", "mse", jit_compile=False)
            loop(model, (16,))
        assert kinds(monitor) == ["capture-off"]
        assert "compiled anew" in monitor.run.events[0].message
        assert monitor.run.steps == [0]


@pytest.mark.parametrize("name", LOOPS)
def test_nan_is_noticed(name):
    model, monitor = small(), RNNMonitor(every=1, on_nan="raise")
    model.layers[0].cell.bias.assign([0.0, np.nan, 0.0, 0.0])
    with pytest.raises(NonFiniteError, match="step 0: first, forward, bias weight"), monitor.watching(model):
        LOOPS[name](model, monitor) if name == "record_step" else LOOPS[name](model)
    assert "apply" not in vars(model.optimizer)


def test_the_probe_batch_is_measured_before_each_step():
    monitors = [
        RNNMonitor(every=1, capture=["gates", "weights"], probe=(X[:4], Y[:4]), level="full", strict=True)
        for _ in range(2)
    ]
    for loop, monitor in zip((on_batch, by_tape), monitors, strict=True):
        watched(lambda: network("gru", jit_compile=False), functools.partial(loop, sizes=(16, 8)), monitor)
        assert kinds(monitor) == []
    given, eager = (monitor.run["first/forward/gates:value"] for monitor in monitors)
    np.testing.assert_allclose(eager, given, rtol=1e-4, atol=1e-6)
    unknown = RNNMonitor(every=1, capture=["gates", "weights"], strict=True)
    watched(lambda: network("gru"), by_tape, unknown)
    assert kinds(unknown) == ["no-probe"]
