"""Snapshots that follow from their step alone, so that any process can tell whether one is whole."""

from __future__ import annotations

import numpy as np

from see_rnn_like import stats
from see_rnn_like.history import History, Rows, Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey

GATES = ("input", "forget", "cell", "output")
KERNEL = TensorKey("lstm", "forward", "kernel", "gradient")
OUTPUT = TensorKey("lstm", None, "output", "value")
LOSS = TensorKey("", None, "loss", "value")

INFOS = [
    TensorInfo(KERNEL, ("input", "gate", "unit"), (5, 4, 3), {"gate": GATES}, {"unscaled": True}),
    TensorInfo(OUTPUT, ("sample", "time", "unit"), (8, 7, 6)),
    TensorInfo(LOSS, (), ()),
]


def values(step: int, samples: int = 8) -> dict[TensorKey, np.ndarray]:
    """The arrays of a step; the sizes in `INFOS` are those of 8 samples."""
    rng = np.random.default_rng(step)
    return {
        KERNEL: rng.normal(size=(5, 4, 3)).astype("float32"),
        OUTPUT: rng.normal(size=(samples, 7, 6)).astype("float32"),
        LOSS: np.float32(rng.normal()),
    }


def snapshot(step: int, samples: int = 8, level: str = "full") -> Snapshot:
    """The whole snapshot of a step; the statistics of odd ones lie in one block, as a monitor has them."""
    arrays = values(step, samples)
    together = in_rows if step % 2 else dict
    return Snapshot(
        step=step,
        epoch=step // 10,
        time=1.7e9 + step,
        seconds=step / 1000,
        moments=together({key: stats.moments(array, gate_axis(key)) for key, array in arrays.items()}),
        histograms=together({key: stats.histogram(array, gate_axis(key)) for key, array in arrays.items()}),
        values=arrays if level == "full" else {},
        logs={"loss": step / 3, "accuracy": 1 / (step + 1)},
    )


def in_rows(arrays: dict[TensorKey, np.ndarray]) -> Rows:
    """The same arrays as rows of one."""
    ends = np.cumsum([len(array) for array in arrays.values()]).tolist()
    places = {key: slice(end - len(arrays[key]), end) for key, end in zip(arrays, ends, strict=True)}
    return Rows(np.concatenate(list(arrays.values())), places)


def gate_axis(key: TensorKey) -> int | None:
    return 1 if key == KERNEL else None


def assert_whole(history: History, step: int, samples: int = 8, level: str = "full") -> None:
    """Everything of that step reads back as it follows from the step."""
    expected = snapshot(step, samples, level)
    for what, arrays in (
        ("moments", expected.moments),
        ("histogram", expected.histograms),
        ("value", expected.values),
    ):
        for key, array in arrays.items():
            [(found, back)] = history.load(key, what, [step])
            assert found == step
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back, array)
    logs = history.logs().sel(step=step)
    assert float(logs["loss"]) == step / 3
    assert int(logs["epoch"]) == step // 10
