"""Small networks and data for the tests of training: seeded, quick, real."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

RNNS = {
    "lstm": layers.LSTM,
    "gru": layers.GRU,
    "gru_reset_before": lambda units, **kw: layers.GRU(units, reset_after=False, **kw),
    "simplernn": layers.SimpleRNN,
}


def data(n=40, timesteps=6, features=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, timesteps, features)).astype("float32")
    return x, rng.standard_normal((n, 1)).astype("float32")


def network(kind="lstm", *, bidirectional=False, dropout=0.0, batchnorm=False, seed=1, **compiling):
    """rnn -> (Bidirectional) rnn -> (BatchNormalization, Dropout) -> Dense, named after its parts."""
    keras.utils.set_random_seed(seed)
    make = RNNS[kind]
    second = make(5, dropout=dropout)
    parts = [
        keras.Input((6, 3)),
        make(4, return_sequences=True, dropout=dropout, name="first"),
        layers.Bidirectional(second, name="both") if bidirectional else second,
    ]
    if batchnorm:
        parts.append(layers.BatchNormalization(name="norm"))
    if dropout:
        parts.append(layers.Dropout(dropout, name="drop"))
    model = keras.Sequential([*parts, layers.Dense(1, name="head")])
    model.compile(**{"optimizer": "adam", "loss": "mse", "metrics": ["mae"], **compiling})
    return model


def state(model):
    """Every number that training changes: weights, statistics, seeds, optimizer slots and counters."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return {f"{i}:{v.path}": v.numpy() for i, v in enumerate(variables)}


def by_name(found):
    """State by position only: two models of one process have different automatic names."""
    return list(found.values())


def different(before, after):
    """Names of what is not bit-identical."""
    assert len(before) == len(after)
    pairs = zip(before.items(), after.values(), strict=True)
    return [name for (name, a), b in pairs if a.tobytes() != b.tobytes()]
