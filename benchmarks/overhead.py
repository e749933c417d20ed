"""What monitoring costs: training steps with it against bare ones of the same model, in turns.

``python benchmarks/overhead.py [--models NAME …] [--jit off on] [--repeats 3] [--processes 3] [--out FILE]``

In every repeat each way of watching trains for a while, in an order drawn anew, and so does a bare fit,
twice. The step of a way takes the median of its steps; with ``every=10`` the median of the recorded ones and
nine times that of the others, over ten. Printed is the ratio to the bare steps of the same repeat: the median
over repeats, and half the distance of the quartiles. "bare again" is one bare fit against the other: what
differs from 1 there is noise. As processes differ among each other (how memory happens to lie), there are
several. What a fit costs besides its steps is left out (TensorBoard writes its histograms between epochs).
Beside the monitor: what people do otherwise.

``--first`` measures the first step (tracing and compiling) and peak memory, each in a process of its own.
``--model-of-cost`` measures milliseconds per recorded step at three sizes each of what they grow with.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from interleaved import spread
from keras import layers

from see_rnn_like import RNNMonitor, every

PRESETS = ("light", "standard", "full")

#: Steps at the beginning of a fit that are not counted: threads wake up, caches fill.
_FIRST = 3

#: Steps of the longest fit: two that are recorded with ``every=50``, and not among the first.
_MOST = 110


@dataclass(frozen=True)
class Task:
    """A model, its batches, and how many steps a fit takes at least."""

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
        rng, n = np.random.default_rng(0), _MOST * self.batch
        return rng.standard_normal((n, *self.shape), "float32"), rng.standard_normal((n, 1), "float32")


def lstms(units: int) -> list[Any]:
    """Two LSTMs, one number out."""
    return [layers.LSTM(units, return_sequences=True), layers.LSTM(units), layers.Dense(1)]


def dense_stack(depth: int = 12, width: int = 512) -> list[Any]:
    """Dense layers, one number out."""
    return [*(layers.Dense(width, "relu") for _ in range(depth - 1)), layers.Dense(1)]


TASKS = {
    "2xLSTM(64), batch 32, T 100": Task(lambda: lstms(64), (100, 16), 32),
    "2xLSTM(256), batch 16, T 100": Task(lambda: lstms(256), (100, 16), 16, 20),
    "BiGRU(128), batch 32, T 100": Task(
        lambda: [layers.Bidirectional(layers.GRU(128)), layers.Dense(1)], (100, 16), 32
    ),
    "12 x Dense(512), batch 128": Task(dense_stack, (512,), 128),
}


class Clock(keras.callbacks.Callback):
    """Takes the time of every step; to be the last callback of a fit."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begins anew."""
        self.first = int(self.model.optimizer.iterations)
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The first step begins."""
        self.last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """A step ends, and the next begins."""
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now


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
    """One way of training a model: with these callbacks, in this context; recorded is every so many steps.

    Attributes:
        steps: of one fit; 0 for as many as it takes.
    """

    model: keras.Model
    task: Task
    data: tuple[np.ndarray, np.ndarray]
    callbacks: list[Any] = field(default_factory=list)
    within: Callable[[], Any] = contextlib.nullcontext
    every: int = 1
    steps: int = 0

    def seconds(self) -> float:
        """Trains for an epoch. Returns the seconds of a step."""
        n = self.task.batch * (self.steps or max(self.task.steps, min(_MOST, 3 * self.every)))
        clock = Clock()
        for callback in self.callbacks:
            if isinstance(callback, RNNMonitor):
                callback.every = every(self.every)
        with self.within():
            self.model.fit(
                *(array[:n] for array in self.data),
                batch_size=self.task.batch,
                shuffle=False,
                verbose=0,
                callbacks=[*self.callbacks, clock],
            )
        return self._step(clock)

    def _step(self, clock: Clock) -> float:
        due, others = [], []
        for number, seconds in list(enumerate(clock.seconds, clock.first))[_FIRST:]:
            (others if number % self.every else due).append(seconds)
        if not others:
            return statistics.median(due)
        return (statistics.median(due) + (self.every - 1) * statistics.median(others)) / self.every


def ways(task: Task, jit: bool, logs: str) -> dict[str, Fit]:
    """All ways of training by name: of the same model, where they do not change what is compiled."""
    model, data = task.model(jit), task.data()
    found = {name: Fit(model, task, data) for name in ("bare", "bare again")}
    for preset in PRESETS:
        # One monitor for all schedules: what it compiles is the same.
        monitor = RNNMonitor(preset=preset, max_bytes=2**27)
        for n in (1, 10, 50):
            found[f"{preset}, every={n}"] = Fit(model, task, data, [monitor], every=n)
    # With every value written it takes several times as long.
    found["full, every=1"].steps = 10
    batch = [array[: task.batch] for array in data]
    found["TensorBoard(histogram_freq=1)"] = Fit(
        model, task, data, [keras.callbacks.TensorBoard(logs, histogram_freq=1)]
    )
    found["gradients by a tape of one's own"] = Fit(model, task, data, [GradientsAgain(*batch)])
    found["all weights to NumPy"] = Fit(model, task, data, [WeightsToNumPy()])
    if not jit:
        found["enable_check_numerics"] = Fit(task.model(jit), task, data, [], checking_numerics)
    return found


def measured(name: str, jit: bool, repeats: int) -> dict[str, list[float]]:
    """Of every way and repeat: a step over a bare one."""
    found = defaultdict(list)
    with tempfile.TemporaryDirectory() as logs:
        fits = ways(TASKS[name], jit, logs)
        for fit in fits.values():
            fit.seconds()
        # Or Python looks through all of TensorFlow for garbage in the middle of some fit.
        gc.collect()
        gc.freeze()
        for _ in range(repeats):
            steps = {way: fits[way].seconds() for way in random.sample(list(fits), len(fits))}
            both = steps["bare"], steps["bare again"]
            for way, step in steps.items():
                # The bare fits against each other, all others against their mean.
                found[way].append(step / (both[0] if way == "bare again" else statistics.mean(both)))
    return {way: found[way] for way in fits}


def compare(names: list[str], jits: list[bool], repeats: int, processes: int) -> dict[str, Any]:
    """Prints a table per model, and returns all ratios."""
    results: dict[str, Any] = {}
    for name in names:
        for jit in jits:
            joined = defaultdict(list)
            for _ in range(processes):
                for way, values in alone("--turns", name, str(int(jit)), str(repeats)).items():
                    joined[way] += values
            title = f"{name}{', XLA' if jit else ''}"
            results[title] = joined
            print(f"\n{title:36} step / bare step", flush=True)
            for way, values in joined.items():
                print(f"  {way:34} {statistics.median(values):6.3f} ± {spread(values):.3f}", flush=True)
    return results


# -- the first step and peak memory, in processes of their own --------------------------------------


def alone(*arguments: str) -> Any:
    """What this script prints last in a process of its own, started with these arguments."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def first_step(name: str, jit: bool, way: str) -> dict[str, float]:
    """Seconds of the first step and peak memory in MiB of this process."""
    task = TASKS[name]
    model, (x, y) = task.model(jit), task.data()
    callbacks = [] if way == "bare" else [RNNMonitor(every=1, preset=way)]
    start = time.perf_counter()
    model.fit(x[: task.batch], y[: task.batch], batch_size=task.batch, verbose=0, callbacks=callbacks)
    first = time.perf_counter() - start
    n = task.steps * task.batch
    model.fit(x[:n], y[:n], batch_size=task.batch, shuffle=False, verbose=0, callbacks=callbacks)
    return {"first": first, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10}


def first_steps(names: list[str], jits: list[bool], repeats: int) -> dict[str, Any]:
    """Prints seconds of the first step and peak memory, bare and monitored."""
    results: dict[str, Any] = {}
    for name in names:
        for jit in jits:
            found = defaultdict(list)
            for _ in range(repeats):
                for way in ("bare", *PRESETS):
                    found[way].append(alone("--child", name, str(int(jit)), way))
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
            fits = {preset: Fit(model, task, data, [RNNMonitor(preset=preset)]) for preset in PRESETS[:2]}
            fits["bare"] = Fit(model, task, data)
            for fit in fits.values():
                fit.seconds()
            rows = [
                {way: fits[way].seconds() for way in random.sample(list(fits), len(fits))}
                for _ in range(repeats)
            ]
            for preset in PRESETS[:2]:
                more = [1e3 * (row[preset] - row["bare"]) for row in rows]
                results[f"{what}, {size}, {preset}"] = more
                print(f"  {size:>12} {preset:25} {statistics.median(more):6.2f} ± {spread(more):.2f}")
            keras.backend.clear_session()
    return results


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--jit", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--first", action="store_true", help="the first step and peak memory instead")
    parser.add_argument("--model-of-cost", action="store_true", help="what the cost grows with instead")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--turns", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    jits = [jit == "on" for jit in given.jit]
    if given.child:
        print(json.dumps(first_step(given.child[0], given.child[1] == "1", given.child[2])))
        return
    if given.turns:
        print(json.dumps(measured(given.turns[0], given.turns[1] == "1", int(given.turns[2]))))
        return
    if given.first:
        results = first_steps(given.models, jits, given.repeats)
    elif given.model_of_cost:
        results = model_of_cost(given.repeats)
    else:
        results = compare(given.models, jits, given.repeats, given.processes)
    text = json.dumps({"repeats": given.repeats, "processes": given.processes, "results": results})
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
