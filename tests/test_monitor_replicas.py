"""The monitor under a MirroredStrategy of two logical CPUs, which only a fresh process can have."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from see_rnn_like import Run
from see_rnn_like.callbacks.nonfinite import nonfinite_events
from see_rnn_like.history import TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.stats import moments

SETUP = """
import json, logging, os, sys, warnings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np, tensorflow as tf
from keras import layers
from see_rnn_like import NaNGuard, RNNMonitor
from see_rnn_like.errors import NonFiniteError, NonFiniteWarning

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
single = tf.distribute.get_strategy()
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(40, 6, 3)).astype("float32"), rng.normal(size=(40, 1)).astype("float32")
X[:8, 4:] = 0  # masked; a batch of 16 is shared as 8 and 8 samples

class Logs(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(logs)

def plain():
    first = layers.LSTM(4, return_sequences=True, name="first")
    second = layers.Bidirectional(layers.SimpleRNN(3), name="second")
    return [layers.Masking(name="masking"), first, second, layers.Dense(1, name="head")]

def noisy():
    first = layers.SimpleRNN(4, return_sequences=True, dropout=0.2, name="first")
    return [first, layers.BatchNormalization(name="norm"), layers.GRU(3, name="second"), layers.Dense(1)]

def fitted(strategy, callbacks, parts=plain, x=X, y=Y, epochs=1, built=True, scaled=False, **compiling):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        adam = keras.optimizers.Adam()
        optimizer = keras.mixed_precision.LossScaleOptimizer(adam) if scaled else adam
        model = keras.Sequential([*([keras.Input((6, 3))] if built else []), *parts()])
        model.compile(optimizer, "mse", metrics=["mae"], **compiling)
    logs = Logs()
    history = model.fit(
        x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=[logs, *callbacks]
    )
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    parts = [part for v in variables for part in getattr(v.value, "values", (v.value,))]
    return [part.numpy() for part in parts], [history.history, logs.seen]

def different(one, other):
    (a, was), (b, now) = one, other
    assert len(a) == len(b) and len(a) > 10
    changed = [i for i, (u, v) in enumerate(zip(a, b)) if u.tobytes() != v.tobytes()]
    return changed + ([] if was == now else ["logs"])

def messages(monitor):
    return [[event.kind, event.message] for event in monitor.run.events]

found = {}
"""

VALUES = """
for name, strategy, how in [
    ("single", single, {}),
    ("mirrored", mirrored, {}),
    ("eagerly", mirrored, {"run_eagerly": True}),
    ("scaled", mirrored, {"scaled": True}),
    ("stats", mirrored, {"built": False}),
]:
    level = "stats" if name == "stats" else "full"
    monitor = RNNMonitor(every=1, level=level, store=f"{sys.argv[1]}/{name}.sqlite", strict=True)
    fitted(strategy, [monitor], **how)
print(json.dumps(found))
"""

UNTOUCHED = """
bare = fitted(mirrored, [], parts=noisy)
monitor = RNNMonitor(every=2, strict=True)
found["graph"] = [different(bare, fitted(mirrored, [monitor], parts=noisy)), monitor.run.steps]
guard, beside = NaNGuard(), RNNMonitor(every=2, capture=["gradients"], strict=True)
found["guarded"] = [different(bare, fitted(mirrored, [guard, beside], parts=noisy)), beside.run.steps]
inside = ["gates", "states", "state_gradients", "horizon"]
probing = RNNMonitor(every=2, capture=inside, strict=True, level="full")
found["probed"] = [different(bare, fitted(mirrored, [probing], parts=noisy)), probing.run.steps]
found["gates"] = probing.run["second/forward/gates:value"].shape
monitor = RNNMonitor(every=2, strict=True)
bare = fitted(mirrored, [], parts=noisy, run_eagerly=True)
other = fitted(mirrored, [monitor], parts=noisy, run_eagerly=True)
found["eager"] = [different(bare, other), monitor.run.steps]
print(json.dumps(found))
"""

NONFINITE = """
warnings.simplefilter("ignore", NonFiniteWarning)
spoiled = X.copy()
spoiled[28, 3, 1] = np.nan  # batch 1, whose samples 8 to 15 go to the second replica
stop = RNNMonitor(every=1, on_nan="stop")
fitted(mirrored, [stop], x=spoiled)
found["steps"] = stop.run.steps
found["first"] = [stop.run.events[0].message, dict(stop.run.events[0].counts)]
found["places"] = {str(e.key): e.message.split(":")[0] for e in stop.run.events}
guard, beside = NaNGuard("skip"), RNNMonitor(every=1)
without = np.delete(X, range(16, 32), axis=0), np.delete(Y, range(16, 32), axis=0)
one = fitted(mirrored, [], x=without[0], y=without[1])[0]
other = fitted(mirrored, [guard, beside], x=spoiled)[0]
found["skipped"] = [different((one, []), (other, [])), guard.skipped, beside.run.steps]
found["events"] = messages(beside)[:2]
print(json.dumps(found))
"""

SHARES = """
class Total(layers.Layer):
    def call(self, x):
        return keras.ops.sum(x)

def scalar():
    inputs = keras.Input((6, 3))
    x = layers.GRU(3, name="rnn")(inputs)
    return keras.Model(inputs, layers.Dense(1, name="head")(x) + 0 * Total(name="total")(x))

for name, strategy in ("single", single), ("mirrored", mirrored):
    monitor = RNNMonitor(every=1, level="full", store=f"{sys.argv[1]}/{name}.sqlite", strict=True)
    fitted(strategy, [monitor], x=X[:33], y=Y[:33])
    found[name] = messages(monitor)
with mirrored.scope():
    model = scalar()
    model.compile("adam", "mse")
monitor = RNNMonitor(every=1, level="full", strict=True)
model.fit(X, Y, batch_size=16, verbose=0, callbacks=[monitor])
found["scalar"] = messages(monitor)
found["recorded"] = [str(key) for key in monitor.run.infos()]
print(json.dumps(found))
"""


def run(code, folder):
    command = [sys.executable, "-c", SETUP + code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


STATISTICS = ("count", "nan", "inf", "zeros", "mean", "std", "norm", "min", "max")


def assert_same_statistics(expected, given, keys, steps):
    for key in keys:
        one, other = expected.stats(key).sel(step=steps), given.stats(key).sel(step=steps)
        assert one.attrs.keys() - {"histogram"} <= other.attrs.keys()
        for name in STATISTICS:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-4, atol=1e-6, err_msg=f"{key} {name}")
        moved = np.abs(other["histogram"] - one["histogram"]).sum("bin")
        # A rounded last bit may carry a value over the edge of a bin.
        assert (moved <= 0.02 * one["count"] + 2).all(), key


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    run(VALUES, folder)
    return {path.stem: Run.open(path) for path in folder.glob("*.sqlite")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mirrored", "eagerly", "scaled"])
def test_values_are_those_of_one_device_on_the_global_batch(recorded, name):
    expected, given = recorded["single"], recorded[name]
    assert given.steps == expected.steps == [0, 1, 2]
    assert given.events == expected.events == []
    assert list(given.infos()) == list(expected.infos())
    for key in expected.infos():
        one, other = expected[key], given[key]
        assert other.dims == one.dims
        np.testing.assert_allclose(other.values, one.values, rtol=1e-4, atol=2e-6, err_msg=str(key))
    assert_same_statistics(expected, given, expected.infos(), [0, 1, 2])
    assert given.meta["replicas"] == 2


@pytest.mark.slow
def test_statistics_alone_are_those_of_the_values(recorded):
    assert_same_statistics(recorded["single"], recorded["stats"], recorded["single"].infos(), [0, 1, 2])


@pytest.mark.slow
def test_labels_say_how_replicas_were_brought_together(recorded):
    run = recorded["mirrored"]
    assert run["first/forward/kernel:gradient"].attrs["replicas"] == "summed, as the optimizer does"
    assert run["loss:value"].attrs["replicas"] == "summed, as the optimizer does"
    assert run["first/forward/output:value"].attrs["replicas"] == "samples of all replicas"
    assert "replicas" not in run["first/forward/kernel:weight"].attrs
    assert "replicas" not in recorded["single"]["first/forward/output:value"].attrs


@pytest.mark.slow
def test_training_is_untouched(tmp_path):
    found = run(UNTOUCHED, tmp_path)
    for how in ("graph", "guarded", "probed", "eager"):
        assert found[how] == [[], [0, 2]], how
    # Of the first replica's half of the first batch of 16, at two steps.
    assert found["gates"] == [2, 8, 6, 3, 3]


@pytest.mark.slow
def test_nan_names_the_replica_that_saw_it(tmp_path):
    found = run(NONFINITE, tmp_path)
    message, counts = found["first"]
    assert message == "NaN at step 1, replica 1: masking, output: 1 NaN and 0 Inf among 288 values"
    assert counts == {"count": 288, "nan": 1, "inf": 0, "replica 1": 1}
    # Loss and gradients are sums over the replicas, of which one is NaN; the updated weights are the same.
    seen = {place for key, place in found["places"].items() if not key.endswith(":update")}
    assert {"loss:value", "first/forward/kernel:gradient"} < found["places"].keys()
    assert seen == {"NaN at step 1, replica 1"}
    assert found["places"]["head/kernel:update"] == "NaN at step 1"
    assert found["steps"] == [0, 1]
    assert found["skipped"] == [[], 1, [0, 2]] or found["skipped"] == [[], 1, [0, 1]]
    assert found["events"][0][0] == "blocked-step"
    assert found["events"][1][1].startswith("NaN at step 1, replica 1: masking, output")


KEY = TensorKey("head", None, "kernel", "gradient")
INFO = TensorInfo(KEY, ("gate", "unit"), (2, 5), {"gate": ("one", "other")})


def event_of(array, shares):
    """The events of a sum over replicas, of which each holds (NaN, Inf) per gate."""
    by_replica = {} if shares is None else {KEY: np.array(shares)}
    return nonfinite_events(3, [INFO], {KEY: moments(array, 0)}, set(), by_replica)


def test_replicas_are_named_by_gate_and_kind():
    array = np.array([[np.nan] * 2 + [1.0] * 3, [1.0] * 4 + [np.inf]])
    nan, inf = event_of(array, [[[2, 0], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 1]]])
    assert nan.message.startswith("NaN at step 3, replicas 0, 2: head, kernel gradient, one gate")
    assert nan.counts == {"count": 5, "nan": 2, "inf": 0, "replica 0": 2, "replica 2": 1}
    assert inf.message.startswith("Inf at step 3, replica 2: head, kernel gradient, other gate")


def test_a_sum_may_be_nan_where_each_replica_holds_inf():
    array = np.array([[np.nan] + [1.0] * 4, [1.0] * 5])
    (event,) = event_of(array, [[[0, 1], [0, 0]], [[0, 1], [0, 0]]])
    assert event.message.startswith("NaN at step 3, replicas 0, 1: ")


def test_no_replica_is_named_where_none_is_to_blame():
    (event,) = event_of(np.array([[np.inf] + [1.0] * 4, [1.0] * 5]), None)
    assert event.message.startswith("Inf at step 3: ")
    assert event.counts == {"count": 5, "nan": 0, "inf": 1}


@pytest.mark.slow
def test_unequal_and_empty_shares_are_described_as_they_were_trained(tmp_path):
    """The last of 33 samples leaves nothing to the second replica; Keras trains on."""
    found = run(SHARES, tmp_path)
    assert found["single"] == []
    assert [kind for kind, _ in found["mirrored"]] == ["unequal-shares"]
    expected, given = (Run.open(tmp_path / f"{name}.sqlite") for name in ("single", "mirrored"))
    assert given.steps == [0, 1, 2]
    outputs = [key for key in expected.infos() if key.kind == "value" and key.layer]
    assert len(outputs) == 6
    assert_same_statistics(expected, given, outputs, [0, 1, 2])
    for key in outputs:
        one, other = expected[key].sel(step=2), given[key].sel(step=2)
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-6)
    # Each of two replicas counts half: of the loss of the only sample, half is left.
    for key in ("loss:value", "head/kernel:gradient", "head/output:gradient"):
        np.testing.assert_allclose(
            given[key].sel(step=2), 0.5 * expected[key].sel(step=2), rtol=1e-3, atol=1e-6
        )
    kinds = dict(found["scalar"])
    assert "total/output:value is not recorded: of a single number" in kinds["not-recorded"]
    assert "rnn/forward/output:value" in found["recorded"]
    assert not [key for key in found["recorded"] if key.startswith("total")]
