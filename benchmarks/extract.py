"""What looking once costs: `get_gradients` against a train step, `get_outputs` against a forward pass.

    python benchmarks/extract.py                       # a table, then JSON on the last line
    python benchmarks/extract.py --repeats 30 --out extract.json

The model is 2×LSTM(256) on a batch of 16 sequences of 100 timesteps. Everything is compiled before it is
timed. Every repeat times all contenders one after the other, in a new order each time, so that what else runs
on the machine hits all of them alike; ratios are taken within a repeat. Two clocks are read: the wall's, and
the processor time of this process, which other processes hardly touch. The spread is half the distance of the
quartiles.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from see_rnn_like import get_gradients, get_outputs

SAMPLES, TIMESTEPS, CHANNELS, UNITS = 16, 100, 32, 256
LIMIT = 1.1
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def build_model() -> keras.Model:
    """Two LSTMs, sequences in and out."""
    inputs = keras.Input((TIMESTEPS, CHANNELS))
    h = keras.layers.LSTM(UNITS, return_sequences=True, name="lstm_1")(inputs)
    h = keras.layers.LSTM(UNITS, return_sequences=True, name="lstm_2")(h)
    model = keras.Model(inputs, keras.layers.Dense(1)(h))
    model.compile("adam", "mse")
    return model


def contenders(model: keras.Model) -> dict[str, tuple[Callable[[], object], str | None]]:
    """Name → what to time, and the name of what it is compared with."""
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


def measure(run: dict[str, Callable[[], object]], repeats: int) -> list[dict[str, dict[str, float]]]:
    """Per repeat, clock and contender the seconds of one call."""
    rows = []
    for _ in range(repeats):
        row: dict[str, dict[str, float]] = {clock: {} for clock in CLOCKS}
        for name in random.sample(list(run), len(run)):
            before = {clock: read() for clock, read in CLOCKS.items()}
            run[name]()
            for clock, read in CLOCKS.items():
                row[clock][name] = read() - before[clock]
        rows.append(row)
    return rows


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles."""
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def main() -> None:
    """Measures, prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    compared = contenders(build_model())
    for call, _ in compared.values():
        for _ in range(3):
            call()
    rows = measure({name: call for name, (call, _) in compared.items()}, arguments.repeats)
    results = {}
    for clock in CLOCKS:
        print(f"\n{clock} time                       milliseconds        ratio   (limit {LIMIT})")
        for name, (_, reference) in compared.items():
            times = [1e3 * row[clock][name] for row in rows]
            found = {"ms": statistics.median(times), "ms_spread": spread(times)}
            line = f"{name:32} {found['ms']:8.1f} ± {found['ms_spread']:<6.1f}"
            if reference is not None:
                ratios = [row[clock][name] / row[clock][reference] for row in rows]
                found |= {"ratio": statistics.median(ratios), "ratio_spread": spread(ratios)}
                line += f" {found['ratio']:6.2f} ± {found['ratio_spread']:.2f} × {reference}"
            print(line)
            results[f"{clock}: {name}"] = found
    text = json.dumps({"repeats": arguments.repeats, "results": results})
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
