"""The monitor under a MultiWorkerMirroredStrategy: two processes that train one model together.

Keras's own `fit` does not work under this strategy (as of 3.15): `Trained` overrides what stands in its way.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import types

import numpy as np
import pytest

from see_rnn_like import RNNMonitor, Run
from see_rnn_like.engine.collect import Collected
from see_rnn_like.engine.replicas import Shares
from see_rnn_like.engine.workers import is_chief
from see_rnn_like.errors import ArgumentError
from see_rnn_like.history import TensorInfo
from see_rnn_like.labels import TensorKey, output_dims

CODE = """
import functools, json, logging, os, sys, warnings
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np, tensorflow as tf
from keras import layers
from see_rnn_like import RNNMonitor
from see_rnn_like.errors import NonFiniteError, StoreError
from see_rnn_like.store import SQLiteHistory
from tensorflow.python.eager.context import Context

# A busy machine may stand still for longer than the seconds after which workers are given up.
Context.configure_coordination_service = functools.partialmethod(
    Context.configure_coordination_service, heartbeat_timeout_in_ms=600_000
)
folder, several = sys.argv[1], "TF_CONFIG" in os.environ
strategy = tf.distribute.MultiWorkerMirroredStrategy() if several else tf.distribute.get_strategy()
rank = strategy.cluster_resolver.task_id if several else 0
shared = strategy.scope
rng = np.random.default_rng(0)
X, Y = rng.normal(size=(32, 6, 3)).astype("float32"), rng.normal(size=(32, 1)).astype("float32")

class Trained(keras.Sequential):
    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        with shared():
            self._symbolic_build(data_batch=(X[:1], Y[:1]))

    def train_step(self, data):
        logs = super().train_step(data)
        return {name: tf.reshape(log, (1,)) for name, log in logs.items()} if several else logs

def fitted(callbacks, x=X):
    keras.utils.set_random_seed(0)
    with shared():
        model = Trained([keras.Input((6, 3)), layers.LSTM(4, name="lstm"), layers.Dense(1, name="head")])
        model.compile("adam", "mse", metrics=["mae"])
    # Of every batch of 8 the first worker gets the first half.
    model.fit(x, Y, batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)
    variables = [*model.variables, *model.optimizer.variables]
    return [v.numpy() for v in variables]

def same(one, other):
    return len(one) == len(other) and all(a.tobytes() == b.tobytes() for a, b in zip(one, other))

def told(monitor):
    return [[event.step, event.kind, event.message] for event in monitor.run.events]

found = {}
"""

VALUES = """
monitor = RNNMonitor(every=2, level="full", strict=True, store=f"{folder}/run.sqlite")
recorded = fitted([monitor])
found["path"] = monitor.run.path and str(monitor.run.path)
found["steps"] = monitor.run.steps
if several:
    found["untouched"] = same(fitted([]), recorded)
    # A second training: only the chief knows from its file at which step it goes on.
    following = RNNMonitor(every=3, store=f"{folder}/run.sqlite")
    fitted([following])
    found["following"] = [step for step in following.run.steps if step >= 4]
    probing = RNNMonitor(every=2, capture=["gates", "gradients"])
    fitted([probing])
    found["probed"] = told(probing)
    found["beside the probe"] = probing.run.steps
print(json.dumps(found))
"""

FAILURES = """
logging.getLogger("see_rnn_like").addHandler(logging.NullHandler())
spoiled = X.copy()
spoiled[13, 3, 1] = np.nan  # batch 1, whose samples 4 to 7 are those of the second worker
stopping = RNNMonitor(every=1, on_nan="stop")
warnings.simplefilter("ignore")
fitted([stopping], x=spoiled)
found["stopped"] = [stopping.run.steps, told(stopping)[0]]
try:
    fitted([RNNMonitor(every=1, on_nan="raise")], x=spoiled)
except NonFiniteError as error:
    found["raised"] = str(error)

append = SQLiteHistory.append
def full_disk(self, snapshot):
    if rank == 0 and snapshot.step == 1:
        raise StoreError("the disk is full")
    append(self, snapshot)
SQLiteHistory.append = full_disk
failing = RNNMonitor(every=1, store=f"{folder}/failing.sqlite")
found["trained on"] = same(fitted([failing]), fitted([]))
found["failing"] = [failing.run.steps, told(failing)]
try:
    fitted([RNNMonitor(every=1, strict=True)])
except Exception as error:
    found["strict"] = [type(error).__name__, str(error)]
SQLiteHistory.append = append

unlike = RNNMonitor(every=1, capture=["weights"] if rank else ["gradients"])
fitted([unlike])
found["unlike"] = [unlike.run.steps, told(unlike)]
print(json.dumps(found))
"""


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def started(code, folder, config=None):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    if config is not None:
        environment["TF_CONFIG"] = json.dumps(config)
    command = [sys.executable, "-c", CODE + code, str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def finished(processes):
    """What each process found; none of them is left behind."""
    try:
        outputs = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


def run(code, folder):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    return finished(
        [started(code, folder, {"cluster": {"worker": addresses}, "task": task}) for task in tasks]
    )


@pytest.mark.slow
def test_two_workers_record_what_one_device_does_into_one_store(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    (single,) = finished([started(VALUES, alone)])
    chief, other = run(VALUES, together)
    assert single["steps"] == chief["steps"] == other["steps"] == [0, 2]
    assert (chief["path"], other["path"]) == (str(together / "run.sqlite"), None)
    assert chief["untouched"]
    assert other["untouched"]
    assert chief["following"] == other["following"] == [6]
    for found in (chief, other):
        assert found["beside the probe"] == [0, 2]
        ((step, kind, message),) = found["probed"]
        assert (step, kind) == (0, "capture-off")
        assert "are not recorded while several workers train one model" in message
    expected, given = Run.open(alone / "run.sqlite"), Run.open(together / "run.sqlite")
    assert given.steps == [0, 2, 6]
    assert given.events == expected.events == []
    assert list(given.infos()) == list(expected.infos())
    for key in expected.infos():
        one, both = expected[key].sel(step=[0, 2]), given[key].sel(step=[0, 2])
        np.testing.assert_allclose(both, one, rtol=1e-4, atol=2e-6, err_msg=str(key))
        one, both = expected.stats(key).sel(step=[0, 2]), given.stats(key).sel(step=[0, 2])
        for name in ("count", "zeros", "mean", "norm", "min", "max"):
            np.testing.assert_allclose(both[name], one[name], rtol=1e-4, atol=1e-6, err_msg=f"{key} {name}")


@pytest.mark.slow
def test_a_failure_on_one_worker_ends_the_recording_on_all_and_nobody_waits(tmp_path):
    chief, other = run(FAILURES, tmp_path)
    for found in (chief, other):
        assert found["stopped"][0] == [0, 1]
        step, kind, message = found["stopped"][1]
        assert (step, kind) == (1, "nan")
        assert message.startswith("NaN at step 1, replica 1: lstm")
        assert found["raised"].startswith("NaN at step 1, replica 1: lstm")
        assert found["trained on"]
        (step, kind, message) = found["unlike"][1][0]
        assert (found["unlike"][0], step, kind) == ([], 0, "capture-off")
        assert "every worker needs a monitor with the same arguments" in message
    assert chief["failing"][0] == [0]
    assert "the disk is full" in chief["failing"][1][0][2]
    # The other one has recorded step 1, and learns of it at step 2.
    assert other["failing"][0] == [0, 1]
    assert "another worker cannot record this step" in other["failing"][1][0][2]
    assert [len(found["failing"][1]) for found in (chief, other)] == [1, 1]
    assert chief["strict"] == ["CaptureError", "the disk is full"]
    assert other["strict"][0] == "CaptureError"
    assert "another worker cannot record this step" in other["strict"][1]


@pytest.mark.parametrize(("workers", "told"), [(1, []), (2, ["rnn/output:value"])])
def test_values_whose_sizes_may_differ_between_workers_are_not_exchanged(workers, told):
    seen = Collected()
    for layer, shape in ("rnn", (None, None, 3)), ("head", (None, 1)):
        key = TensorKey(layer, None, "output", "value")
        seen.infos.append(TensorInfo(key, output_dims(len(shape)), shape))
    extended = types.SimpleNamespace(worker_devices=["CPU:0"] * (2 // workers))
    shares = Shares(types.SimpleNamespace(num_replicas_in_sync=2, extended=extended), seen, full=True)
    assert [str(info.key) for info in shares.joined] == ["rnn/output:value", "head/output:value"]
    assert [(note.kind, str(note.key)) for note in seen.notes] == [("not-kept-in-full", key) for key in told]
    if told:
        assert seen.notes[0].message.startswith("of rnn/output:value statistics are kept, but no values: ")


def cluster(task, index, **jobs):
    return json.dumps({"cluster": jobs, "task": {"type": task, "index": index}})


@pytest.mark.parametrize(
    ("config", "chief"),
    [
        (None, True),
        ("{}", True),
        (cluster("worker", 0, worker=["a:1", "b:1"]), True),
        (cluster("worker", 1, worker=["a:1", "b:1"]), False),
        (cluster("chief", 0, chief=["a:1"], worker=["b:1"]), True),
        (cluster("worker", 0, chief=["a:1"], worker=["b:1"]), False),
        (cluster("evaluator", 0, worker=["a:1"], evaluator=["b:1"]), True),
    ],
)
def test_the_chief_is_known_from_the_environment(config, chief, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    assert is_chief() == chief


def test_a_store_that_nobody_would_write_is_refused(monkeypatch, tmp_path):
    """The process is worker 1, but its model is trained by it alone."""
    import keras

    monkeypatch.setenv("TF_CONFIG", cluster("worker", 1, worker=["a:1", "b:1"]))
    monitor = RNNMonitor(store=tmp_path / "run.sqlite")
    model = keras.Sequential([keras.Input((6, 3)), keras.layers.Dense(1)])
    with pytest.raises(ArgumentError, match="TF_CONFIG leaves it to another process"):
        monitor.set_model(model)
    assert not (tmp_path / "run.sqlite").exists()
    RNNMonitor().set_model(model)
