"""Runs that hold what a probe batch tells of recurrent layers, made of NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from made_up_run import empty_run

from see_rnn_like import stats
from see_rnn_like.history import Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.store import SQLiteHistory

#: Cell → its gates, those from 0 to 1, its states.
CELLS = {
    "LSTM": (("input", "forget", "cell", "output"), ["input", "forget", "output"], ("h", "c")),
    "GRU": (("update", "reset", "new"), ["update", "reset"], ("h",)),
    "SimpleRNN": (("hidden",), [], ("h",)),
}
SIDES = ("left", "right")
PROBED = {"from": "probe batch", "mode": "inference"}


def probed_run(
    layers: Mapping[str, tuple[str, Sequence[str]]],
    steps: Sequence[int] = (0, 10, 20),
    units: int = 4,
    length: int = 12,
    meta: Mapping[str, object] | None = None,
) -> SQLiteHistory:
    """A run of layers, name → (cell, directions), whose memory reaches further at each step.

    The strength of state i at lag k is (0.5 + 0.02 · number of the step + 0.1 · i)^k, the norm of its
    gradient at timestep t falls likewise from the last timestep on; the last unit is always saturated.
    """
    rng = np.random.default_rng(0)
    run = empty_run(meta)
    infos = {}
    for layer, (cell, directions) in layers.items():
        for direction in directions:
            for info in probed_infos(layer, direction, cell, units, length):
                infos[info.key] = info
    run.declare(list(infos.values()))
    for number, step in enumerate(steps):
        arrays = {key: values_of(info, number, rng) for key, info in infos.items()}
        axes = {key: array.ndim - 2 if infos[key].gates else None for key, array in arrays.items()}
        moments = {key: stats.moments(array, axes[key]) for key, array in arrays.items()}
        histograms = {key: stats.histogram(array, axes[key]) for key, array in arrays.items()}
        kept = {key: array.astype("float32") for key, array in arrays.items() if infos[key].derived}
        run.append(Snapshot(step, 0, 0.0, 1e-3, moments, histograms, kept, {"loss": 1.0}))
    return run


def probed_infos(layer: str, direction: str, cell: str, units: int, length: int) -> list[TensorInfo]:
    """What is recorded of one direction of a layer."""
    gates, gating, states = CELLS[cell]
    named = {"gate": gates}

    def info(role, kind, dims, shape, coords=None, **attrs):
        return TensorInfo(TensorKey(layer, direction, role, kind), dims, shape, coords or {}, PROBED | attrs)

    over_time, series = ("sample", "time", "unit"), (3, length, units)
    return [
        info(
            "gates",
            "value",
            ("sample", "time", "gate", "unit"),
            (3, length, len(gates), units),
            named,
            gating=gating,
        ),
        *(
            info(f"saturation_{side}", "value", ("gate", "unit"), (len(gates), units), named)
            for side in SIDES
        ),
        *(info(state, kind, over_time, series) for kind in ("value", "gradient") for state in states),
        *(info(f"{name}_norm", "gradient", ("time",), (length,)) for name in (*states, "output")),
        *(info(f"horizon_{state}", "value", ("lag",), (length,)) for state in states),
    ]


def values_of(info: TensorInfo, number: int, rng: np.random.Generator) -> np.ndarray:
    """The array of one tensor at the step of this number."""
    role, steps = info.key.role, np.arange(info.shape[0])
    factor = 0.5 + 0.02 * number + 0.1 * role.endswith("c") + 0.1 * role.startswith("c_")
    if role.startswith("horizon_"):
        return factor**steps
    if role == "output_norm":
        return (steps == steps[-1]) * 0.25
    if role.endswith("_norm"):
        return factor ** steps[::-1]
    if role.startswith("saturation_"):
        shares = np.full(info.shape, 0.02 * number + 0.2 * (role == "saturation_left"))
        shares[:, -1] = role == "saturation_right"
        return shares
    return np.tanh(rng.normal(0, 0.1 + 0.1 * number, info.shape))
