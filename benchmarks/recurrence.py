"""What the inside of the recurrence costs: `trace` against a forward pass, the probe against a train step.

    python benchmarks/recurrence.py                       # a table per clock, then JSON on the last line
    python benchmarks/recurrence.py --repeats 30 --out recurrence.json

`trace` of one layer of 256 units, a batch of 16 sequences of 100 timesteps, against the compiled forward pass
of that layer; its limit is 1.3. What a due step measures on a probe batch of that size, per capture, in
2×LSTM(256), against the model's train step on such a batch. How it is timed is said in `interleaved`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from interleaved import Contenders, run

from see_rnn_like import get_state_gradients, lyapunov, memory_horizon, trace
from see_rnn_like.extract.batches import read_batch
from see_rnn_like.extract.probe import PROBED, Probe

SAMPLES, TIMESTEPS, UNITS = 16, 100, 256
KINDS = ("LSTM", "GRU", "SimpleRNN")


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Noise, as wide as the layers, and one number to tell."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, TIMESTEPS, UNITS)).astype("float32")
    return x, rng.normal(size=(SAMPLES, 1)).astype("float32")


def one_layer(kind: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """The forward pass of a layer, and its trace."""
    x, _ = batch()
    model = keras.Sequential([keras.Input((TIMESTEPS, UNITS)), getattr(keras.layers, kind)(UNITS)])
    forward = tf.function(functools.partial(model.layers[0], training=False))
    return functools.partial(forward, tf.constant(x)), functools.partial(trace, model, 0, x)


def two_layers() -> keras.Model:
    """Two LSTMs and what they tell at the end."""
    parts = [keras.layers.LSTM(UNITS, return_sequences=True, name="first"), keras.layers.LSTM(UNITS)]
    model = keras.Sequential([keras.Input((TIMESTEPS, UNITS)), *parts, keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def contenders() -> Contenders:
    """Every kind of layer traced, and every capture of the probe."""
    compared: dict[str, tuple[Callable[[], object], str | None]] = {}
    for kind in KINDS:
        forward, traced = one_layer(kind)
        compared[f"{kind}: forward pass"] = (forward, None)
        compared[f"{kind}: trace"] = (traced, f"{kind}: forward pass")
    model, (x, y) = two_layers(), batch()
    step = "2×LSTM: train step"
    compared[step] = (lambda: model.train_on_batch(x, y), None)
    for capture in PROBED:
        probe = Probe(model, None, (capture,), "stats", read_batch(x, y))
        compared[f"2×LSTM: probe, {capture}"] = (probe.measure, step)
    everything = Probe(model, None, PROBED, "stats", read_batch(x, y))
    compared["2×LSTM: probe, everything"] = (everything.measure, step)
    compared["first: get_state_gradients"] = (lambda: get_state_gradients(model, 0, x, y), step)
    compared["first: memory_horizon, 8 probes"] = (lambda: memory_horizon(model, 0, x), step)
    compared["first: lyapunov, 10 exponents"] = (lambda: lyapunov(model, 0, x), step)
    return compared


if __name__ == "__main__":
    run(__doc__, contenders)
