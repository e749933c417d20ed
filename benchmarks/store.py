"""What writing a snapshot costs, against one npz file per step, and what reading a run costs.

    python benchmarks/store.py [--snapshots 100] [--directory /tmp]

Both ways of writing take turns in one process, so that they see the same machine. Printed are medians
and the middle half of the measurements; what lies outside (a checkpoint of the log, another process)
is in the column "slowest". npz does less: it has no index, no order and survives no kill in mid-file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from see_rnn_like import stats
from see_rnn_like.history import Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.run import Run
from see_rnn_like.store import SQLiteHistory

GATES = ("input", "forget", "cell", "output")


def infos(tensors: int, units: int) -> list[TensorInfo]:
    """LSTM kernels `units` wide."""
    return [
        TensorInfo(
            TensorKey(f"lstm_{number}", "forward", "kernel", "gradient"),
            ("input", "gate", "unit"),
            (units, 4, units),
            {"gate": GATES},
        )
        for number in range(tensors)
    ]


def snapshot(step: int, tensors: list[TensorInfo], with_values: bool) -> Snapshot:
    """Random values and their statistics."""
    rng = np.random.default_rng(step)
    values = {info.key: rng.standard_normal(info.shape, "float32") for info in tensors}
    moments = {key: stats.moments(array, 1) for key, array in values.items()}
    histograms = {key: stats.histogram(array, 1) for key, array in values.items()}
    return Snapshot(
        step, 0, time.time(), 0.0, moments, histograms, values if with_values else {}, {"loss": 1.0}
    )


def savez(directory: Path, taken: Snapshot) -> None:
    """One file per step, as one would without this package."""
    fields = {"moments": taken.moments, "histogram": taken.histograms, "value": taken.values}
    arrays = {
        f"{field} {key}".replace("/", "|"): array
        for field, kept in fields.items()
        for key, array in kept.items()
    }
    np.savez(directory / f"{taken.step}.npz", **arrays)


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def line(name: str, taken: list[float]) -> str:
    """Median, middle half and slowest, in milliseconds."""
    low, middle, high = np.percentile(taken, [25, 50, 75]) * 1e3
    return (
        f"  {name:<28}{middle:8.2f} ms   middle half {low:.2f} … {high:.2f}   slowest {max(taken) * 1e3:.1f}"
    )


def writing(directory: Path, snapshots: int, tensors: int, units: int, with_values: bool) -> None:
    """Prints what appending costs in turns with npz."""
    known = infos(tensors, units)
    history = SQLiteHistory.create(directory / f"write-{tensors}-{units}.sqlite")
    history.declare(known)
    ours, theirs = [], []
    for step in range(snapshots):
        taken = snapshot(step, known, with_values)
        ways = [(ours, partial(history.append, taken)), (theirs, partial(savez, directory, taken))]
        for times, way in ways if step % 2 else reversed(ways):
            times.append(seconds(way))
    size = sum(
        array.nbytes for kept in (taken.moments, taken.histograms, taken.values) for array in kept.values()
    )
    print(f"one snapshot of {size / 1e6:.2f} MB, {tensors} tensors, {snapshots} times")
    print(line("SQLiteHistory.append", ours))
    print(line("np.savez", theirs))
    print(f"  {'closing':<28}{seconds(history.close) * 1e3:8.2f} ms")
    ratio = np.median(np.array(ours) / np.array(theirs))
    print(f"  append / savez, median of pairs: {ratio:.2f}; means: {np.mean(ours) / np.mean(theirs):.2f}\n")


def thinning(directory: Path, snapshots: int) -> None:
    """Prints what appending costs when a budget is used up and every snapshot takes an old one's place."""
    known = infos(6, 128)
    one = sum(4 * int(np.prod(info.shape)) for info in known)
    history = SQLiteHistory.create(directory / "thin.sqlite", max_bytes=20 * one)
    history.declare(known)
    taken = [snapshot(step, known, True) for step in range(snapshots)]
    times = [seconds(partial(history.append, each)) for each in taken]
    print(f"snapshots of {one / 1e6:.2f} MB at a budget of 20 of them")
    print(line("before it is used up", times[:19]))
    print(line("after", times[19:]))
    history.close()
    print()


def reading(directory: Path, snapshots: int) -> None:
    """Prints what opening a run and reading one tensor costs."""
    path, known = directory / "read.sqlite", infos(32, 32)
    history = SQLiteHistory.create(path)
    history.declare(known)
    taken = snapshot(0, known, False)
    for step in range(snapshots):
        history.append(Snapshot(step, 0, 0.0, 0.0, taken.moments, taken.histograms, {}, {"loss": 1.0}))
    history.close()
    print(f"a closed run of {snapshots} snapshots, {len(known)} tensors, {path.stat().st_size / 1e6:.0f} MB")
    run = Run.open(path)
    key = known[7].key
    for name, action in {
        "Run.open": lambda: Run.open(path),
        "run.infos()": run.infos,
        "run.steps": lambda: run.steps,
        "run.logs()": run.logs,
        "run.stats(key)": lambda: run.stats(key),
        "run.load(key, 'moments')": lambda: run.load(key, "moments"),
    }.items():
        print(line(name, [seconds(action) for _ in range(15)]))


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--snapshots", type=int, default=100)
    parser.add_argument(
        "--directory", type=Path, default=None, help="where to write; default: a temporary one"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as made:
        directory = Path(made)
        writing(directory, options.snapshots, tensors=32, units=32, with_values=False)
        writing(directory, options.snapshots, tensors=6, units=136, with_values=True)
        thinning(directory, options.snapshots)
        reading(directory, snapshots=1000)


if __name__ == "__main__":
    main()
