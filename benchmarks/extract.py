"""What looking once costs: `get_gradients` against a train step, `get_outputs` against a forward pass.

    python benchmarks/extract.py                       # a table, then JSON on the last line
    python benchmarks/extract.py --repeats 30 --out extract.json

The model is 2×LSTM(256) on a batch of 16 sequences of 100 timesteps; the limit for each ratio is 1.1. How it
is timed is said in `interleaved`.
"""

from __future__ import annotations

import keras
import numpy as np
from interleaved import Contenders, run

from see_rnn_like import get_gradients, get_outputs

SAMPLES, TIMESTEPS, CHANNELS, UNITS = 16, 100, 32, 256


def build_model() -> keras.Model:
    """Two LSTMs, sequences in and out."""
    inputs = keras.Input((TIMESTEPS, CHANNELS))
    h = keras.layers.LSTM(UNITS, return_sequences=True, name="lstm_1")(inputs)
    h = keras.layers.LSTM(UNITS, return_sequences=True, name="lstm_2")(h)
    model = keras.Model(inputs, keras.layers.Dense(1)(h))
    model.compile("adam", "mse")
    return model


def contenders(model: keras.Model) -> Contenders:
    """Extractors, each beside the train step or the forward pass it is compared with."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, TIMESTEPS, CHANNELS)).astype("float32")
    y = rng.normal(size=(SAMPLES, TIMESTEPS, 1)).astype("float32")
    return {
        "train step": (lambda: model.train_on_batch(x, y), None),
        "forward pass": (lambda: model.predict_on_batch(x), None),
        "get_gradients, first layer": (lambda: get_gradients(model, "lstm_1", x, y), "train step"),
        "get_gradients, '*'": (lambda: get_gradients(model, "*", x, y), "train step"),
        "get_gradients, '*', weights": (
            lambda: get_gradients(model, "*", x, y, mode="weights"),
            "train step",
        ),
        "get_outputs, '*'": (lambda: get_outputs(model, "*", x), "forward pass"),
    }


if __name__ == "__main__":
    run(__doc__, lambda: contenders(build_model()))
