"""How much faster the plotters draw than a plain loop over `pyplot.subplots`, drawing to the canvas included.

    python benchmarks/plots.py                       # a table, then JSON on the last line
    python benchmarks/plots.py --repeats 9 --out plots.json

Every repeat times all contenders one after the other, in a new order each time, so that what else runs
on the machine hits all of them alike; ratios are taken within a repeat. Times are processor time, which
other programs disturb least. The spread is half the distance of the quartiles.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from see_rnn_like.plots import (
    features_1D,
    features_2D,
    features_hist,
    features_hist_v2,
    rnn_heatmap,
    rnn_histogram,
)

SAMPLES, TIMESTEPS, CHANNELS, UNITS = 16, 100, 256, 256


def plain_curves(data: np.ndarray, share: bool) -> Figure:
    """One axes per channel, one `plot` per sample."""
    fig, axes = plt.subplots(16, 16, sharex=share, sharey=share, figsize=(10, 10), dpi=76)
    for channel, ax in enumerate(axes.flat):
        for sample in data:
            ax.plot(sample[:, channel])
    return fig


def plain_heatmaps(data: np.ndarray) -> Figure:
    """One axes and image per sample."""
    fig, axes = plt.subplots(4, 4, figsize=(10, 10), dpi=76)
    for sample, ax in zip(data, axes.flat, strict=True):
        ax.imshow(sample, cmap="bwr", aspect="auto")
    return fig


def plain_histograms(data: np.ndarray) -> Figure:
    """One axes and histogram per sample, below each other."""
    fig, axes = plt.subplots(len(data), 1, figsize=(10, 10), dpi=76)
    for sample, ax in zip(data, axes.flat, strict=True):
        ax.hist(sample.ravel(), bins=100)
    return fig


def contenders() -> dict[str, Callable[[], Any]]:
    """What is timed, by name; each makes one or more figures."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(SAMPLES, TIMESTEPS, CHANNELS)).astype("float32")
    walks = np.cumsum(data, axis=1)
    weights = [rng.normal(size=shape) for shape in ((UNITS, 4 * UNITS), (UNITS, 4 * UNITS), (4 * UNITS,))]
    return {
        "features_1D": lambda: features_1D(data),
        "plain curves": lambda: plain_curves(data, share=False),
        "features_1D, smooth": lambda: features_1D(walks),
        "plain curves, smooth": lambda: plain_curves(walks, share=False),
        "features_2D": lambda: features_2D(data),
        "plain heatmaps": lambda: plain_heatmaps(data),
        "features_hist": lambda: features_hist(data),
        "plain histograms": lambda: plain_histograms(data),
        "features_hist_v2": lambda: features_hist_v2(data.reshape(8, 8, 2, -1)),
        "rnn_heatmap": lambda: rnn_heatmap(None, None, data=weights),
        "rnn_histogram": lambda: rnn_histogram(None, None, data=weights),
    }


#: What is promised: ours, what it is compared with, how many times faster at least.
PROMISES = (
    ("features_1D", "plain curves", 15.0),
    ("features_1D, smooth", "plain curves, smooth", 15.0),
    ("features_2D", "plain heatmaps", 3.0),
    ("features_hist", "plain histograms", 3.0),
)


def seconds(draw: Callable[[], Any]) -> float:
    """Processor time to make the figures of a call and draw them, on one core."""
    gc.collect()  # else one contender pays for the figures of another
    start = time.process_time()
    draw()
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    taken = time.process_time() - start
    plt.close("all")
    return taken


def spread(values: list[float]) -> float:
    """Half the distance of the quartiles."""
    first, _, third = statistics.quantiles(values, n=4)
    return (third - first) / 2


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread, rounded."""
    return {"median": round(statistics.median(values), 4), "spread": round(spread(values), 4)}


def measure(repeats: int) -> dict[str, list[float]]:
    """Seconds per contender and repeat."""
    runs = contenders()
    for draw in runs.values():
        seconds(draw)  # fonts and code are loaded on first use
    times: dict[str, list[float]] = {name: [] for name in runs}
    shuffler = random.Random(0)
    for _ in range(repeats):
        for name in shuffler.sample(list(runs), len(runs)):
            times[name].append(seconds(runs[name]))
    return times


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="how often everything is timed (default 7)")
    parser.add_argument("--out", type=Path, help="file to write the JSON to as well")
    options = parser.parse_args()
    times = measure(options.repeats)
    ratios = {
        ours: [slow / fast for slow, fast in zip(times[plain], times[ours], strict=True)]
        for ours, plain, _ in PROMISES
    }
    print(f"data ({SAMPLES}, {TIMESTEPS}, {CHANNELS}), {options.repeats} repeats, median ± spread")
    for name, found in times.items():
        print(f"  {name:24s} {statistics.median(found):7.3f} ± {spread(found):.3f} s")
    for ours, plain, promised in PROMISES:
        ratio = ratios[ours]
        print(f"  {ours} vs. {plain}: {statistics.median(ratio):.1f} ± {spread(ratio):.1f} (≥ {promised:g})")
    result = {
        "data": [SAMPLES, TIMESTEPS, CHANNELS],
        "repeats": options.repeats,
        "matplotlib": matplotlib.__version__,
        "seconds": {name: summary(found) for name, found in times.items()},
        "ratios": {
            ours: {**summary(ratios[ours]), "against": plain, "promised": promised}
            for ours, plain, promised in PROMISES
        },
    }
    print(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
