"""An autopsy of a model under a MirroredStrategy, on two logical CPUs in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from keras import layers
from networks import different, state
from see_rnn_like.extract.nonfinite import autopsy_of, find_nonfinite

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((6, 2)),
        layers.LSTM(3, activation="relu", dropout=0.2, name="rnn"),
        layers.BatchNormalization(),
        layers.Dense(1),
    ])
    model.compile("adam", "mse", metrics=["mae"])
x = np.random.default_rng(0).normal(size=(8, 6, 2)).astype("float32")
y = x[:, 0, :1]
model.fit(x, y, batch_size=4, verbose=0)
before = state(model)
assert find_nonfinite(model, x, y) is None
bad = x.copy()
bad[3, 2] = np.inf
found = autopsy_of(model, (tf.constant(bad), tf.constant(y)), step=4, replica=1)
assert found.where.phase == "data" and found.where.samples == (3,), found
assert found.message.startswith("Inf at step 4, replica 1: input x"), found.message
kernel = model.layers[0].cell.recurrent_kernel
old = kernel.numpy()
kernel.assign(old * 1e20)
found = find_nonfinite(model, x, y)
assert (found.where.layer, found.where.role, found.where.phase) == ("rnn", "gates", "forward"), found.where
kernel.assign(old)
assert different(before, state(model)) == []
print("done")
"""


@pytest.mark.slow
def test_the_step_runs_in_every_replica_and_one_of_them_is_told_of():
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.endswith("done\n"), done.stderr[-3000:]
