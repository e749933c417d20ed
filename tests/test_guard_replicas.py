"""The guard under a MirroredStrategy of two logical CPUs, which only a fresh process can have."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

CODE = """
import json, logging, os, sys, warnings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np, tensorflow as tf
from keras import layers
from see_rnn_like import NaNGuard
from see_rnn_like.errors import NonFiniteWarning

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(80, 6, 3)).astype("float32"), rng.normal(size=(80, 1)).astype("float32")
SPOILED = X.copy()
SPOILED[44, 3, 1] = np.nan  # batch 2 of 16, whose samples 8 to 15 go to the second replica

def fitted(x, y, callbacks, epochs=2):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        parts = [layers.SimpleRNN(4, return_sequences=True, dropout=0.2), layers.BatchNormalization()]
        model = keras.Sequential([keras.Input((6, 3)), *parts, layers.GRU(3), layers.Dense(1)])
        model.compile("adam", "mse", metrics=["mae"])
    history = model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    parts = [part for v in variables for part in getattr(v.value, "values", (v.value,))]
    return [part.numpy() for part in parts], history.history

def different(one, other):
    (a, was), (b, now) = one, other
    assert len(a) == len(b) and len(a) > len(X[0])
    changed = [i for i, (u, v) in enumerate(zip(a, b)) if u.tobytes() != v.tobytes()]
    return changed + ([] if was == now else ["logs"])

def without(x):
    return np.delete(x, range(32, 48), axis=0)

healthy, skip, stop = NaNGuard(), NaNGuard("skip"), NaNGuard("stop")
found = {"untouched": different(fitted(X, Y, []), fitted(X, Y, [healthy]))}
found["skip"] = different(fitted(without(X), without(Y), []), fitted(SPOILED, Y, [skip]))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    stopped = fitted(SPOILED, Y, [stop])
found["stop"] = different(fitted(X[:32], Y[:32], [], epochs=1), stopped)
found["warned"] = [str(w.message) for w in caught if w.category is NonFiniteWarning]
found["alarms"] = [healthy.skipped, skip.skipped, stop.skipped]
found["samples"] = list(stop.autopsy.where.samples)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_step_that_is_bad_on_one_replica_is_undone_on_all_and_names_it():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["alarms"] == [0, 2, 1]
    assert (found["untouched"], found["skip"], found["stop"]) == ([], [], [])
    assert "NaN at step 2, replica 1: input x holds 1 NaN" in found["warned"][0]
    # Sample 44 of the data is number 12 of the batch, and number 4 of what the second replica gets.
    assert found["samples"] == [4]
