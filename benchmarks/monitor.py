"""What the monitor costs: fits with it against bare fits, in one process, in turns.

``python benchmarks/monitor.py [--rounds 7] [--out monitor.json]`` prints, for every setting, the median
over rounds of (seconds of the monitored fit / seconds of the bare fit of the same round), and the range.
The row "bare again" is a second bare fit: its spread is the noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

from see_rnn_like import RNNMonitor

STEPS = 50

MODELS = {
    "2xLSTM(64), batch 32, T 100": ([layers.LSTM, layers.LSTM], 64, 32),
    "2xLSTM(256), batch 16, T 100": ([layers.LSTM, layers.LSTM], 256, 16),
}
SETTINGS = {
    "bare again": None,
    "every=1": {"every": 1},
    "every=10": {"every": 10},
    "every=50": {"every": 50},
    "every=1, weights, gradients, updates": {
        "every": 1,
        "capture": ("weights", "gradients", "updates"),
    },
    'every=10, level="full"': {"every": 10, "level": "full"},
}


def build(kinds: list[type], units: int, jit: bool) -> keras.Model:
    """Recurrent layers with sequences handed on, one number out."""
    keras.utils.set_random_seed(0)
    parts = [kind(units, return_sequences=True) for kind in kinds]
    model = keras.Sequential([keras.Input((100, 16)), *parts, layers.Flatten(), layers.Dense(1)])
    model.compile("adam", "mse", jit_compile=jit)
    return model


def seconds(model: keras.Model, data: tuple[np.ndarray, np.ndarray], batch: int, callbacks: list) -> float:
    """Wall time of one epoch."""
    start = time.perf_counter()
    model.fit(*data, batch_size=batch, shuffle=False, verbose=0, callbacks=callbacks)
    return time.perf_counter() - start


def measure(kinds: list[type], units: int, batch: int, jit: bool, rounds: int) -> dict[str, list[float]]:
    """Ratios to the bare fit per setting, one per round; the first round, which compiles, is not counted."""
    rng = np.random.default_rng(0)
    n = STEPS * batch
    data = rng.standard_normal((n, 100, 16)).astype("float32"), rng.standard_normal((n, 1)).astype("float32")
    bare = build(kinds, units, jit)
    others = {
        name: (build(kinds, units, jit), [] if given is None else [RNNMonitor(**given)])
        for name, given in SETTINGS.items()
    }
    ratios: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for turn in range(rounds + 1):
        base = seconds(bare, data, batch, [])
        for name, (model, callbacks) in others.items():
            taken = seconds(model, data, batch, callbacks)
            if turn:
                ratios[name].append(taken / base)
    ratios["milliseconds of a bare step"] = [1e3 * base / STEPS]
    return ratios


def main() -> None:
    """Measures everything and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds (default: %(default)s)")
    parser.add_argument("--jit", action="store_true", help="compile with XLA")
    parser.add_argument("--out", type=Path, help="write all ratios to this JSON file")
    given = parser.parse_args()
    found = {}
    for name, (kinds, units, batch) in MODELS.items():
        found[name] = measure(kinds, units, batch, given.jit, given.rounds)
        print(f"\n{name}{', XLA' if given.jit else ''}: ratio to a bare fit of {STEPS} steps")
        for setting, ratios in found[name].items():
            low, high = min(ratios), max(ratios)
            print(f"  {setting:40s} {statistics.median(ratios):6.3f}   ({low:.3f} ... {high:.3f})")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
