"""What the guard costs: fits of 2×LSTM(64), batch 32, 100 timesteps, with it against bare fits, in turns.

``python benchmarks/guard.py [--repeats 15] [--out guard.json]``; with ``JIT=1`` in the environment under XLA.
"bare again" is a second bare fit: how far its ratio is from 1 is the noise. Beside the guard: Keras's
`TerminateOnNaN`, and `tf.debugging.enable_check_numerics`, which does not work under XLA.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import interleaved
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from see_rnn_like import NaNGuard

STEPS, BATCH, TIMESTEPS, UNITS = 20, 32, 100, 64
JIT = os.environ.get("JIT") == "1"


def build() -> keras.Model:
    """Two LSTMs that hand their sequences on, one number out."""
    keras.utils.set_random_seed(0)
    parts = [layers.LSTM(UNITS, return_sequences=True), layers.LSTM(UNITS), layers.Dense(1)]
    model = keras.Sequential([keras.Input((TIMESTEPS, 16)), *parts])
    model.compile("adam", "mse", jit_compile=JIT)
    return model


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, callbacks: list) -> None:
    """One epoch."""
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)


def checked(fit_once: Callable[[], None]) -> None:
    """With TensorFlow's own checks, which are built into what is compiled meanwhile."""
    tf.debugging.enable_check_numerics()
    try:
        fit_once()
    finally:
        tf.debugging.disable_check_numerics()


def contenders() -> interleaved.Contenders:
    """Fits by name, each of a model of its own."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS * BATCH, TIMESTEPS, 16)).astype("float32")
    y = rng.standard_normal((STEPS * BATCH, 1)).astype("float32")
    callbacks = {
        "bare": [],
        "bare again": [],
        "NaNGuard": [NaNGuard()],
        "NaNGuard, rollback": [NaNGuard("rollback")],
        "TerminateOnNaN": [keras.callbacks.TerminateOnNaN()],
    }
    fits = {name: functools.partial(fit, build(), x, y, given) for name, given in callbacks.items()}
    if not JIT:
        fits["enable_check_numerics"] = functools.partial(checked, functools.partial(fit, build(), x, y, []))
    return {name: (call, None if name == "bare" else "bare") for name, call in fits.items()}


if __name__ == "__main__":
    interleaved.run(__doc__, contenders)
