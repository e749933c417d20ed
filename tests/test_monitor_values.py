"""P2, P4, P5: what is recorded is what happened, at the step it is tagged with."""

from __future__ import annotations

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import RNNS, data, network

from see_rnn_like import RNNMonitor, at, first, stats
from see_rnn_like.cells import cell_spec
from see_rnn_like.history import History


class Diary(keras.callbacks.Callback):
    """An independent record: all weights around every step, taken by Keras's own hooks."""

    def __init__(self):
        super().__init__()
        self.before, self.after = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.before.append([v.numpy() for v in self.model.weights])

    def on_train_batch_end(self, batch, logs=None):
        self.after.append([v.numpy() for v in self.model.weights])


def batches(x, y, size, epochs):
    for _ in range(epochs):
        for start in range(0, len(x), size):
            yield x[start : start + size], y[start : start + size]


def as_recorded(cell, role, array):
    return cell_spec(cell).split(role, array).values


def first_cell(model):
    return model.layers[0].cell


HOWS = {"graph": {"jit_compile": False}, "xla": {"jit_compile": True}, "eager": {"run_eagerly": True}}


@pytest.fixture(scope="module", params=HOWS)
def recorded(request):
    """A fit of two epochs without shuffling, recorded in full at every step, and the diary of it."""
    model = network("lstm", bidirectional=True, **HOWS[request.param])
    monitor, diary = RNNMonitor(every=1, level="full"), Diary()
    x, y = data()
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=[monitor, diary])
    return model, monitor.run, diary, list(batches(x, y, 16, 2))


def test_step_tags_are_those_of_the_optimizer(recorded):
    model, run, *_ = recorded
    assert run.steps == [0, 1, 2, 3, 4, 5]
    assert int(model.optimizer.iterations.numpy()) == 6
    assert list(run.logs()["epoch"].values) == [0, 0, 0, 1, 1, 1]


def test_weights_are_those_before_and_updates_those_after_minus_before(recorded):
    model, run, diary, _ = recorded
    for step, (before, after) in enumerate(zip(diary.before, diary.after, strict=True)):
        for variable, old, new in zip(model.weights, before, after, strict=True):
            key = key_of(model, variable)
            shape = run[f"{key}:weight"].shape[1:]
            np.testing.assert_array_equal(run[f"{key}:weight"].sel(step=step), old.reshape(shape))
            np.testing.assert_array_equal(run[f"{key}:update"].sel(step=step), (new - old).reshape(shape))


def key_of(model, variable):
    """layer/direction/role of a variable, worked out from the objects."""
    one, both, head = model.layers
    owners = {
        "first/forward": one.cell,
        "both/forward": both.forward_layer.cell,
        "both/backward": both.backward_layer.cell,
        "head": head,
    }
    for name, owner in owners.items():
        for role in ("kernel", "recurrent_kernel", "bias"):
            if getattr(owner, role, None) is variable:
                return f"{name}/{role}"
    raise AssertionError(variable.path)


def test_gradients_of_weights_and_outputs_equal_a_gradient_tape(recorded):
    model, run, diary, fed = recorded
    now = [v.numpy() for v in model.weights]
    for step, (x, y) in enumerate(fed):
        for variable, value in zip(model.weights, diary.before[step], strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            sequence = model.layers[0](x)
            tape.watch(sequence)
            merged = model.layers[1](sequence)
            prediction = model.layers[2](merged)
            loss = keras.ops.mean((prediction - y) ** 2)
        found = tape.gradient(loss, [sequence, merged, prediction, *model.trainable_variables])
        outputs = {"first/forward/output": sequence, "both/output": merged, "head/output": prediction}
        size = {"sample": slice(len(x))}
        for gradient, (name, value) in zip(found[:3], outputs.items(), strict=True):
            close(run[f"{name}:gradient"].sel(step=step)[size], gradient)
            close(run[f"{name}:value"].sel(step=step)[size], value)
        for variable, gradient in zip(model.trainable_variables, found[3:], strict=True):
            close(run[f"{key_of(model, variable)}:gradient"].sel(step=step), gradient)
        close(run["loss:value"].sel(step=step), loss)
    for variable, value in zip(model.weights, now, strict=True):
        variable.assign(value)


def close(recorded, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        recorded.values.reshape(expected.shape), expected, rtol=1e-4, atol=1e-6 * max(1, abs(expected).max())
    )


def test_inner_layers_of_a_bidirectional_are_recorded_in_input_order():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 3)),
            layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1, level="full")
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    merged = monitor.run["both/output:value"].values
    np.testing.assert_array_equal(monitor.run["both/forward/output:value"], merged[..., :4])
    np.testing.assert_array_equal(monitor.run["both/backward/output:value"], merged[..., 4:])
    assert monitor.run["both/backward/output:value"].attrs["time_order"] == "input"


@pytest.mark.parametrize("kind", RNNS)
def test_weights_are_split_into_the_gates_of_the_cell(kind):
    model = network(kind)
    monitor = RNNMonitor(every=1, level="full", layers="first")
    kernels = {
        role: getattr(first_cell(model), role).numpy() for role in ("kernel", "recurrent_kernel", "bias")
    }
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    for role, array in kernels.items():
        recorded = monitor.run[f"first/forward/{role}:weight"].isel(step=0)
        expected = cell_spec(first_cell(model)).split(role, array)
        assert recorded.dims == expected.dims
        assert list(recorded.gate.values) == list(expected.gate.values)
        np.testing.assert_array_equal(recorded, expected)


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_statistics_of_the_graph_equal_those_of_the_values(jit):
    """`level="stats"` and NumPy on the values of `level="full"` of the same fit."""
    runs = {}
    for level in ("stats", "full"):
        model = network("gru", bidirectional=True, batchnorm=True, jit_compile=jit)
        monitor = RNNMonitor(every=2, level=level)
        model.fit(*data(), batch_size=16, epochs=2, verbose=0, callbacks=[monitor])
        runs[level] = monitor.run
    assert list(map(str, runs["stats"].keys())) == list(map(str, runs["full"].keys()))
    for key in map(str, runs["stats"].keys()):
        found = runs["stats"].stats(key)
        for step, array in values_by_step(runs["full"], key):
            axis = array.dims.index("gate") if "gate" in array.dims else None
            lead = ("gate",)
            expected = stats.describe(stats.moments(array.values, axis), lead)
            # What adds up to nearly nothing is as exact as what was added.
            atol = 1e-6 * float(abs(array).max())
            for name in expected:
                one = found[name].sel(step=step).values
                np.testing.assert_allclose(
                    one.reshape(-1), expected[name], rtol=1e-5, atol=atol, err_msg=f"{key} {name}"
                )
            histogram = found["histogram"].sel(step=step).values.reshape(-1, stats.BINS)
            np.testing.assert_array_equal(histogram, stats.histogram(array.values, axis))


def values_by_step(run: History, key: str):
    whole = run[key]
    for step in run.steps:
        array = whole.sel(step=step)
        # The last batch is smaller: what lies behind its end is padding.
        if "sample_size" in whole.coords:
            array = array.isel(sample=slice(int(whole["sample_size"].sel(step=step))))
        yield step, array


def test_steps_go_on_over_epochs_and_a_second_fit():
    model, diary = network("lstm"), Diary()
    monitor = RNNMonitor(every=4, level="full")
    x, y = data()
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[monitor, diary])
    model.fit(x, y, batch_size=16, epochs=3, initial_epoch=2, verbose=0, callbacks=[monitor, diary])
    assert monitor.run.steps == [0, 4, 8]
    assert list(monitor.run.logs()["epoch"].values) == [0, 1, 2]
    kernel = monitor.run["first/forward/kernel:weight"]
    for step in monitor.run.steps:
        np.testing.assert_array_equal(kernel.sel(step=step).values.reshape(3, -1), diary.before[step][0])
    assert [fit["first_step"] for fit in monitor.run.meta["fits"]] == [0, 6]


def test_a_model_trained_before_is_tagged_with_its_own_steps():
    model = network("lstm")
    model.fit(*data(), batch_size=16, verbose=0)
    monitor = RNNMonitor(every=2)
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert monitor.run.steps == [4]


def test_a_recompiled_model_goes_on_after_the_steps_of_the_run():
    model, monitor = network("lstm"), RNNMonitor(every=1)
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    model.compile("sgd", "mse")
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert monitor.run.steps == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("schedule", [first(2) | at([4]), at([0, 1, 4])])
def test_a_schedule_decides(schedule):
    model, monitor = network("lstm"), RNNMonitor(every=schedule)
    model.fit(*data(), batch_size=16, epochs=2, verbose=0, callbacks=[monitor])
    assert monitor.run.steps == [0, 1, 4]


def test_steps_that_are_not_due_run_the_train_function_of_keras():
    used = []

    class Spy(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.native = self.model.train_function

        def on_train_batch_begin(self, batch, logs=None):
            used.append(self.model.train_function is self.native)

    model = network("lstm")
    model.fit(*data(), batch_size=8, verbose=0, callbacks=[RNNMonitor(every=3), Spy()])
    assert used == [False, True, True, False, True]


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_gradients_are_those_before_clipping_and_say_so(clip):
    model = network("lstm", optimizer=keras.optimizers.SGD(0.1, **{clip: 1e-3}))
    monitor = RNNMonitor(every=1, level="full")
    plain = RNNMonitor(every=1, level="full")
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    network("lstm", optimizer=keras.optimizers.SGD(0.1)).fit(
        *data(), batch_size=40, verbose=0, callbacks=[plain]
    )
    key = "first/forward/kernel:gradient"
    np.testing.assert_array_equal(monitor.run[key], plain.run[key])
    assert clip in monitor.run[key].attrs["clipping"]
    assert (
        abs(monitor.run["first/forward/kernel:update"]).max()
        < abs(plain.run["first/forward/kernel:update"]).max()
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_values_under_mixed_precision_have_the_loss_scale_divided_out(policy):
    runs = {}
    for dtype in ("float32", policy):
        keras.utils.set_random_seed(1)
        rnn = layers.LSTM(4, name="first", dtype=dtype)
        model = keras.Sequential([keras.Input((6, 3)), rnn, layers.Dense(1, dtype=dtype, name="head")])
        model.compile("sgd", "mse")
        if dtype == "mixed_float16":
            model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01)), "mse")
        monitor = RNNMonitor(every=1, level="full")
        model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
        runs[dtype] = monitor.run
    for key in ("first/forward/kernel:gradient", "head/kernel:gradient", "first/forward/output:gradient"):
        exact, mixed = (runs[d][key].values.astype("float64") for d in ("float32", policy))
        np.testing.assert_allclose(mixed, exact, atol=0.05 * abs(exact).max())
        if policy == "mixed_float16":
            assert runs[policy][key].attrs["loss_scale"] == "divided out"


def test_a_step_that_loss_scaling_skips_is_said_and_not_recorded():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((6, 3)), layers.LSTM(4, dtype="mixed_float16"), layers.Dense(1, dtype="mixed_float16")]
    )
    inner = keras.optimizers.SGD(0.01)
    model.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**24), "mse")
    monitor, diary = RNNMonitor(every=1, level="full"), Diary()
    model.fit(*data(), batch_size=8, epochs=4, verbose=0, shuffle=False, callbacks=[monitor, diary])
    skipped = [event for event in monitor.run.events if event.kind == "skipped-step"]
    assert skipped, "a scale of 2^24 overflows half precision at first"
    assert "its scaled gradients overflowed" in skipped[0].message
    done = [
        (old, new)
        for old, new in zip(diary.before, diary.after, strict=True)
        if any((a != b).any() for a, b in zip(old, new, strict=True))
    ]
    assert monitor.run.steps == list(range(len(done)))
    assert len(done) + len(skipped) == 20
    updates = monitor.run["lstm/forward/kernel:update"]
    for step, (old, new) in enumerate(done):
        np.testing.assert_array_equal(updates.sel(step=step).values.reshape(3, -1), new[0] - old[0])


def test_a_train_step_that_counts_nothing_is_told_so():
    class Uncounted(keras.Sequential):
        def train_step(self, batch):
            return {"loss": self.compute_loss(*batch, self(batch[0]))}

    model = Uncounted([keras.Input((6, 3)), layers.GRU(4), layers.Dense(1)])
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1)
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert [event.kind for event in monitor.run.events] == ["capture-off"]
    assert "does not advance model.optimizer.iterations" in monitor.run.events[0].message


def test_a_layer_that_gets_no_gradient_is_noted():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 3))
    used = layers.LSTM(4, name="used")(inputs)
    unused = keras.ops.stop_gradient(layers.LSTM(4, name="cut")(inputs))
    model = keras.Model(inputs, layers.Dense(1)(layers.Add()([used, unused])))
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    noted = {str(event.key) for event in monitor.run.events if event.kind == "no-gradient"}
    assert "cut/forward/output:gradient" in noted
    assert "cut/forward/kernel:gradient" in noted
    assert not any(name.startswith("used/") for name in noted)


def test_layers_can_be_chosen_and_nested_ones_have_paths():
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential([keras.Input((6, 3)), layers.LSTM(4, name="inner")], name="encoder")
    model = keras.Sequential([keras.Input((6, 3)), encoder, layers.Dense(1, name="head")])
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1, layers=["encoder"], capture=["gradients"])
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    assert list(map(str, monitor.run.keys())) == [
        "loss:value",
        "encoder/inner/forward/bias:gradient",
        "encoder/inner/forward/recurrent_kernel:gradient",
        "encoder/inner/forward/kernel:gradient",
    ]


def test_a_custom_train_step_and_loss_are_recorded():
    @keras.saving.register_keras_serializable("see_rnn_like_tests")
    class Own(keras.Sequential):
        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"own": loss}

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(keras.ops.abs(y - y_pred))

    keras.utils.set_random_seed(1)
    model = Own([keras.Input((6, 3)), layers.GRU(4, name="gru"), layers.Dense(1)])
    model.compile("adam")
    monitor = RNNMonitor(every=1)
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    np.testing.assert_allclose(monitor.run.stats("loss:value")["mean"], monitor.run.logs()["own"], rtol=1e-6)
    assert (monitor.run.stats("gru/forward/kernel:gradient")["norm"] > 0).all()


# Keras's own BackupAndRestore warns of NumPy's __array__.
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_step_tags_survive_a_checkpoint_that_another_callback_restores(tmp_path):
    """The counter goes on from the checkpoint, whatever the order of the callbacks."""

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    path = tmp_path / "run.sqlite"
    for interrupted in (True, False):
        model, monitor = network("lstm"), RNNMonitor(every=1, store=path)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        callbacks = [monitor, backup, *([Interrupt()] if interrupted else [])]
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                model.fit(*data(), batch_size=16, epochs=4, verbose=0, callbacks=callbacks)
        else:
            model.fit(*data(), batch_size=16, epochs=4, verbose=0, callbacks=callbacks)
        monitor.run.close()
    assert monitor.run.steps == list(range(12))
    assert int(model.optimizer.iterations.numpy()) == 12


def test_a_recompiled_model_does_not_claim_steps_that_were_trained_but_not_recorded():
    model, monitor = network("lstm"), RNNMonitor(every=5)
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[monitor])
    model.compile("sgd", "mse")
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=[monitor])
    assert monitor.run.steps == [0, 5, 10, 15]
    assert [fit["first_step"] for fit in monitor.run.meta["fits"]] == [0, 10]


def test_each_step_of_an_execution_has_logs_of_its_own():
    model = network("lstm", steps_per_execution=5, jit_compile=False)
    monitor = RNNMonitor(every=1)
    model.fit(*data(), batch_size=8, verbose=0, callbacks=[monitor])
    losses = monitor.run.stats("loss:value")["mean"].values
    # Keras reports the mean since the epoch began.
    np.testing.assert_allclose(monitor.run.logs()["loss"], np.cumsum(losses) / np.arange(1, 6), rtol=1e-5)


def test_last_states_of_a_backward_layer_are_not_turned_round():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 3))
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True, return_state=True), name="both")
    sequence, *states = both(inputs)
    model = keras.Model(inputs, [layers.Dense(1)(sequence[:, -1]), *states])
    model.compile("sgd", ["mse", None, None, None, None])
    monitor = RNNMonitor(every=1, level="full", capture=["outputs"])
    before = model(data()[0])[3].numpy()
    model.fit(*data(), batch_size=40, verbose=0, shuffle=False, callbacks=[monitor])
    recorded = monitor.run["both/backward/output_1:value"]
    np.testing.assert_allclose(recorded[0], before, rtol=1e-5, atol=1e-6)
    assert "time_order" not in recorded.attrs


def recurrent_stack():
    rnn = {"return_sequences": True}
    return [
        layers.LSTM(4, name="lstm", **rnn),
        layers.Bidirectional(layers.GRU(3, **rnn), name="both"),
        layers.GRU(3, go_backwards=True, name="gru", **rnn),
        layers.LSTM(3, name="last"),
        layers.Dense(1, name="head"),
    ]


MASKED = ("lstm/forward", "both/forward", "both/backward", "both", "gru/backward")


@pytest.mark.parametrize("by", ["mask_zero", "Masking"])
def test_statistics_of_masked_outputs_leave_padding_out_and_say_so(by):
    """Against NumPy on the values that are no padding, of outputs and their gradients."""
    keras.utils.set_random_seed(1)
    tokens = np.random.default_rng(0).integers(0, 3, (40, 6))
    if by == "mask_zero":
        x, first_layer = tokens, layers.Embedding(3, 4, mask_zero=True, name="masking")
        inputs = keras.Input((6,), dtype="int32")
    else:
        x, first_layer = data()[0] * (tokens > 0)[..., None], layers.Masking(name="masking")
        inputs = keras.Input((6, 3))
    model = keras.Sequential([inputs, first_layer, *recurrent_stack()])
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1, level="full", strict=True)
    model.fit(x, data()[1], batch_size=40, shuffle=False, verbose=0, callbacks=[monitor])

    run = monitor.run
    for kind in ("value", "gradient"):
        for layer in (*MASKED, *(["masking"] if by == "mask_zero" else [])):
            key = f"{layer}/output:{kind}"
            values = run[key].sel(step=0)
            assert run.info(key).attrs["mask"] == "statistics leave padding out"
            assert values.dims[:2] == ("sample", "time")
            assert_statistics(run, key, values.values[tokens > 0])
        for layer in ("last/forward", "head"):
            assert "mask" not in run.info(f"{layer}/output:{kind}").attrs
            assert_statistics(run, f"{layer}/output:{kind}", run[f"{layer}/output:{kind}"].sel(step=0).values)


def assert_statistics(run, key, values):
    found, expected = run.stats(key).sel(step=0), stats.describe(stats.moments(values), ("gate",))
    for name, number in expected.items():
        atol = 1e-6 * abs(values).max()
        one = found[name].values.reshape(-1)
        np.testing.assert_allclose(one, number, rtol=1e-5, atol=atol, err_msg=f"{key} {name}")
    histogram = found["histogram"].values.reshape(-1, stats.BINS)
    np.testing.assert_array_equal(histogram, stats.histogram(values))


def test_the_sides_of_a_gru_bias_have_names():
    model, monitor = network("gru"), RNNMonitor(every=1, level="full")
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    bias = monitor.run["first/forward/bias:weight"]
    assert bias.sel(side="recurrent", gate="reset").dims == ("step", "unit")


@pytest.mark.parametrize("how", HOWS)
def test_the_loss_scale_of_the_very_first_step_is_divided_out(how):
    norms = []
    for scale in (1.0, 1024.0):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((6, 3)), layers.LSTM(4), layers.Dense(1, name="head")])
        inner = keras.optimizers.SGD(0.0)
        model.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=scale), "mse", **HOWS[how])
        monitor = RNNMonitor(every=1)
        model.fit(*data(), batch_size=20, verbose=0, shuffle=False, callbacks=[monitor])
        norms.append(monitor.run.stats("head/kernel:gradient")["norm"].values)
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-5)


def test_weights_of_odd_names_are_all_kept():
    class Odd(layers.Layer):
        def build(self, shape):
            self.a = self.add_weight(shape=(3, 4), name="w")
            self.b = self.add_weight(shape=(4, 4), name="w")
            self.c = self.add_weight(shape=(4,), name="output")

        def call(self, inputs):
            return inputs @ self.a @ self.b + self.c

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.odd, self.rnn = Odd(name="odd"), layers.LSTM(1, name="rnn")
            self.shift = self.add_weight(shape=(1,), name="shift")

        def call(self, inputs):
            return self.rnn(self.odd(inputs)) + self.shift

    keras.utils.set_random_seed(1)
    model = Own()
    model.compile("sgd", "mse")
    monitor = RNNMonitor(every=1, level="full")
    model.fit(*data(), batch_size=40, verbose=0, callbacks=[monitor])
    shapes = {
        str(key): monitor.run[key].shape[1:] for key in list(monitor.run.keys()) if key.kind == "weight"
    }
    assert sorted(shapes.values()) == sorted([(3, 4), (4, 4), (4,), (1,), (4, 4, 1), (1, 4, 1), (4, 1)])
    assert monitor.run["odd/output:gradient"].dims == ("step", "sample", "time", "unit")
    assert "own/shift:weight" in shapes


def test_a_monitor_in_memory_can_be_copied_one_with_a_file_cannot(tmp_path):
    copied = copy.deepcopy(RNNMonitor(every=3, layers="first", capture=["gradients"], level="full"))
    network("lstm").fit(*data(), batch_size=8, verbose=0, callbacks=[copied])
    assert copied.run.steps == [0, 3]
    with pytest.raises(ValueError, match="two would write one file"):
        copy.deepcopy(RNNMonitor(store=tmp_path / "run.sqlite"))
