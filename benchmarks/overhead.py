"""What monitoring costs: fits with it against bare fits of the same model, in turns, in one process.

``python benchmarks/overhead.py [--models NAME …] [--jit off on] [--repeats 7] [--out overhead.json]``

For every way of watching the ratio to a bare fit is printed: the median over pairs of fits, one right after
the other in an order drawn anew, and half the distance of the quartiles. The row "bare again" is a bare fit
against a bare fit: what differs from 1 there is noise. Beside the monitor: what people do otherwise.

``--first`` measures the first step (tracing and compiling) and peak memory, each in a process of its own.
``--model-of-cost`` measures milliseconds per recorded step at three sizes each of what they grow with.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from interleaved import spread
from keras import layers

from see_rnn_like import RNNMonitor

PRESETS = ("light", "standard", "full")


@dataclass(frozen=True)
class Task:
    """A model, its batches, and how many steps one fit takes."""

    build: Callable[[], list[Any]]
    shape: tuple[int, ...]
    batch: int
    steps: int = 50

    def model(self, jit: bool) -> keras.Model:
        """Compiled anew, from the same seed."""
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(self.shape), *self.build()])
        model.compile("adam", "mse", jit_compile=jit)
        return model

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Normally distributed inputs and targets."""
        rng, n = np.random.default_rng(0), self.steps * self.batch
        return rng.standard_normal((n, *self.shape), "float32"), rng.standard_normal((n, 1), "float32")


def lstms(units: int) -> list[Any]:
    """Two LSTMs, one number out."""
    return [layers.LSTM(units, return_sequences=True), layers.LSTM(units), layers.Dense(1)]


def dense_stack(depth: int = 12, width: int = 512) -> list[Any]:
    """Dense layers, one number out."""
    return [*(layers.Dense(width, "relu") for _ in range(depth - 1)), layers.Dense(1)]


TASKS = {
    "2xLSTM(64), batch 32, T 100": Task(lambda: lstms(64), (100, 16), 32),
    "2xLSTM(256), batch 16, T 100": Task(lambda: lstms(256), (100, 16), 16),
    "BiGRU(128), batch 32, T 100": Task(
        lambda: [layers.Bidirectional(layers.GRU(128)), layers.Dense(1)], (100, 16), 32
    ),
    "12 x Dense(512), batch 128": Task(dense_stack, (512,), 128),
}


class GradientsAgain(keras.callbacks.Callback):
    """What one writes without a monitor: a tape of one's own, compiled, on one batch after every step."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self.batch = tf.constant(x), tf.constant(y)
        self.norms: list[list[float]] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Compiles the tape for this model."""
        self.gradients = tf.function(self._gradients)

    def _gradients(self, x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(x=x, y=y, y_pred=self.model(x, training=True))
        return [tf.norm(gradient) for gradient in tape.gradient(loss, self.model.trainable_weights)]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps the norms."""
        self.norms.append([float(norm) for norm in self.gradients(*self.batch)])


class WeightsToNumPy(keras.callbacks.Callback):
    """Reads all weights after every step."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at their norms."""
        self.norms = [np.linalg.norm(weight) for weight in self.model.get_weights()]


@contextlib.contextmanager
def checking_numerics() -> Iterator[None]:
    """TensorFlow's own checks, which are built into what is compiled meanwhile."""
    tf.debugging.enable_check_numerics()
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()


@dataclass
class Fit:
    """One way of fitting a model: with these callbacks, in this context."""

    model: keras.Model
    task: Task
    data: tuple[np.ndarray, np.ndarray]
    callbacks: list[Any] = field(default_factory=list)
    within: Callable[[], Any] = contextlib.nullcontext

    def seconds(self) -> float:
        """Wall time of one epoch."""
        start = time.perf_counter()
        with self.within():
            self.model.fit(
                *self.data, batch_size=self.task.batch, shuffle=False, verbose=0, callbacks=self.callbacks
            )
        return time.perf_counter() - start


def ways(task: Task, jit: bool, logs: str) -> tuple[Fit, dict[str, Fit]]:
    """A bare fit, and all others by name: of the same model, where they do not change what is compiled."""
    model, data = task.model(jit), task.data()
    bare = Fit(model, task, data)
    found = {"bare again": bare}
    for preset in PRESETS:
        for every in (1, 10, 50):
            monitor = RNNMonitor(every=every, preset=preset, max_bytes=2**27)
            found[f"{preset}, every={every}"] = Fit(model, task, data, [monitor])
    batch = [array[: task.batch] for array in data]
    found["TensorBoard(histogram_freq=1)"] = Fit(
        model, task, data, [keras.callbacks.TensorBoard(logs, histogram_freq=1)]
    )
    found["gradients by a tape of one's own"] = Fit(model, task, data, [GradientsAgain(*batch)])
    found["all weights to NumPy"] = Fit(model, task, data, [WeightsToNumPy()])
    if not jit:
        found["enable_check_numerics"] = Fit(task.model(jit), task, data, [], checking_numerics)
    return bare, found


def ratios(bare: Fit, others: dict[str, Fit], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way over those of a bare fit right before or after it, one per repeat."""
    for fit in (bare, *others.values()):
        fit.seconds()
    found: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(repeats):
        for name in random.sample(list(others), len(others)):
            pair = random.sample([others[name], bare], 2)
            first, second = (fit.seconds() for fit in pair)
            found[name].append(first / second if pair[1] is bare else second / first)
    return found


def compare(names: list[str], jits: list[bool], repeats: int) -> dict[str, Any]:
    """Prints a table per model, and returns all ratios."""
    results: dict[str, Any] = {}
    for name in names:
        for jit in jits:
            with tempfile.TemporaryDirectory() as logs:
                found = ratios(*ways(TASKS[name], jit, logs), repeats)
            title = f"{name}{', XLA' if jit else ''}"
            results[title] = found
            print(f"\n{title:36}   time / time of a bare fit (median of {repeats} pairs)", flush=True)
            for way, values in found.items():
                print(f"  {way:34} {statistics.median(values):6.3f} ± {spread(values):.3f}", flush=True)
            keras.backend.clear_session()
    return results


# -- the first step and peak memory, in processes of their own --------------------------------------


def alone(name: str, jit: bool, way: str) -> dict[str, float]:
    """Seconds of the first step and peak memory in MiB of a training of its own process."""
    command = [sys.executable, __file__, "--child", name, str(int(jit)), way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(name: str, jit: bool, way: str) -> None:
    """What `alone` starts."""
    task = TASKS[name]
    model, (x, y) = task.model(jit), task.data()
    callbacks = [] if way == "bare" else [RNNMonitor(every=1, preset=way)]
    start = time.perf_counter()
    model.fit(x[: task.batch], y[: task.batch], batch_size=task.batch, verbose=0, callbacks=callbacks)
    first = time.perf_counter() - start
    model.fit(x, y, batch_size=task.batch, shuffle=False, verbose=0, callbacks=callbacks)
    print(json.dumps({"first": first, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}))


def first_steps(names: list[str], jits: list[bool], repeats: int) -> dict[str, Any]:
    """Prints seconds of the first step and peak memory, bare and monitored."""
    results: dict[str, Any] = {}
    for name in names:
        for jit in jits:
            found = {way: [alone(name, jit, way) for _ in range(repeats)] for way in ("bare", *PRESETS)}
            title = f"{name}{', XLA' if jit else ''}"
            results[title] = found
            print(f"\n{title:36}   first step          peak memory", flush=True)
            usual = {
                what: statistics.median(run[what] for run in found["bare"]) for what in ("first", "peak")
            }
            for way, runs in found.items():
                first = statistics.median(run["first"] for run in runs)
                peak = statistics.median(run["peak"] for run in runs)
                print(
                    f"  {way:34} {first:6.2f} s ({first / usual['first']:.2f})   "
                    f"{peak:7.0f} MiB ({peak / usual['peak']:.3f})",
                    flush=True,
                )
    return results


# -- what the cost grows with -----------------------------------------------------------------------

GROWING = {
    "parameters (2 layers, batch 1)": {
        f"{2 * width * width:,}": Task(lambda width=width: dense_stack(3, width), (width,), 1)
        for width in (256, 512, 1024)
    },
    "activations (one LSTM(32), batch 32)": {
        f"{32 * t * 32:,}": Task(
            lambda: [
                layers.LSTM(32, return_sequences=True),
                layers.GlobalAveragePooling1D(),
                layers.Dense(1),
            ],
            (t, 4),
            32,
        )
        for t in (50, 100, 200)
    },
    "layers (of 16 units, batch 8)": {
        str(depth): Task(lambda depth=depth: dense_stack(depth, 16), (16,), 8) for depth in (4, 8, 16)
    },
}


def model_of_cost(repeats: int) -> dict[str, Any]:
    """Prints by how many milliseconds a recorded step takes longer, at three sizes of what they grow with."""
    results: dict[str, Any] = {}
    for what, tasks in GROWING.items():
        print(f"\n{what:40} milliseconds more per recorded step", flush=True)
        for size, task in tasks.items():
            model, data = task.model(jit=False), task.data()
            bare = Fit(model, task, data)
            for preset in PRESETS[:2]:
                watched = Fit(model, task, data, [RNNMonitor(every=1, preset=preset)])
                for fit in (bare, watched):
                    fit.seconds()
                more = [1e3 * (watched.seconds() - bare.seconds()) / task.steps for _ in range(repeats)]
                results[f"{what}, {size}, {preset}"] = more
                print(
                    f"  {size:>12} {preset:25} {statistics.median(more):6.2f} ± {spread(more):.2f}",
                    flush=True,
                )
            keras.backend.clear_session()
    return results


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--jit", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--first", action="store_true", help="the first step and peak memory instead")
    parser.add_argument("--model-of-cost", action="store_true", help="what the cost grows with instead")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    jits = [jit == "on" for jit in given.jit]
    if given.child:
        child(given.child[0], given.child[1] == "1", given.child[2])
        return
    if given.first:
        results = first_steps(given.models, jits, given.repeats)
    elif given.model_of_cost:
        results = model_of_cost(given.repeats)
    else:
        results = compare(given.models, jits, given.repeats)
    text = json.dumps({"repeats": given.repeats, "results": results})
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
