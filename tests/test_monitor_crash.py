"""P7: a training that is killed leaves a run with every completed step, and a new one can go on with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import data, network

from see_rnn_like import RNNMonitor, Run

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import keras
from networks import data, network
from see_rnn_like import RNNMonitor

class Tell(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print(int(self.model.optimizer.iterations.numpy()) - 1, flush=True)

monitor = RNNMonitor(every=1, level="full", store=sys.argv[2])
network("lstm").fit(*data(), batch_size=8, epochs=10_000, verbose=0, callbacks=[monitor, Tell()])
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 as POSIX has it")
@pytest.mark.parametrize("last", [3, 40])
def test_a_training_killed_in_the_middle(last, tmp_path):
    path = tmp_path / "run.sqlite"
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        for line in child.stdout:
            if int(line) >= last:
                break
        child.send_signal(signal.SIGKILL)
    run = Run.open(path)
    assert run.steps[: last + 1] == list(range(last + 1))
    for key in map(str, run.keys()):
        values, found = run[key], run.stats(key)
        assert values.sizes["step"] == found.sizes["step"] == len(run.steps)
    norms = np.sqrt((run["first/forward/kernel:weight"] ** 2).sum(("input", "unit")))
    np.testing.assert_allclose(run.stats("first/forward/kernel:weight")["norm"], norms, rtol=1e-6)
    assert run.meta.get("finished") is None

    before = run.steps
    monitor = RNNMonitor(every=1, store=path)
    network("lstm").fit(*data(), batch_size=8, verbose=0, callbacks=[monitor])
    assert Run.open(path).steps == [*before, *range(before[-1] + 1, before[-1] + 6)]
