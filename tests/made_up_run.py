"""Runs made of NumPy arrays whose statistics a test knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from see_rnn_like import stats
from see_rnn_like.history import Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.store import SQLiteHistory

LSTM_GATES = ("input", "forget", "cell", "output")


def tensor_info(
    key: str, shape: Sequence[int | None], gates: Sequence[str] = (), **attrs: object
) -> TensorInfo:
    """An info whose second-last axis holds the gates, if there are any."""
    dims = tuple(f"axis_{i}" for i in range(len(shape)))
    if gates:
        dims = (*dims[:-2], "gate", "unit")
    coords = {"gate": tuple(gates)} if gates else {}
    return TensorInfo(TensorKey.parse(key), dims, tuple(shape), coords, attrs)


def empty_run(meta: Mapping[str, object] | None = None) -> SQLiteHistory:
    """A run in memory without a step."""
    run = SQLiteHistory.create(None)
    for name, value in (meta or {}).items():
        run.set_meta(name, value)
    return run


def record(run: SQLiteHistory, step: int, arrays: Mapping[str, np.ndarray], **kwargs: object) -> None:
    """Appends a snapshot with the statistics of these arrays, computed by `stats`."""
    infos = run.infos()
    keys = {TensorKey.parse(name): array for name, array in arrays.items()}
    axes = {key: (array.ndim - 2 if infos[key].gates else None) for key, array in keys.items()}
    moments = {key: stats.moments(array, axes[key]) for key, array in keys.items()}
    histograms = {key: stats.histogram(array, axes[key]) for key, array in keys.items()}
    given = {"epoch": 0, "time": 1.7e9 + step, "seconds": 1e-3, "logs": {}} | kwargs
    run.append(Snapshot(step=step, moments=moments, histograms=histograms, **given))


def lstm_run(
    steps: Sequence[int] = tuple(range(0, 1000, 20)),
    layers: Sequence[str] = ("lstm", "lstm_1"),
    units: int = 16,
    seed: int = 0,
    meta: dict | None = None,
    bidirectional: bool = False,
    roles: Sequence[str] = ("kernel", "recurrent_kernel", "bias"),
) -> SQLiteHistory:
    """LSTM layers and a Dense one: weights drift, updates and gradients shrink, outputs grow."""
    rng = np.random.default_rng(seed)
    run = empty_run(meta)
    directions = ("forward", "backward") if bidirectional else ("forward",)
    shapes = {"kernel": (8, 4, units), "recurrent_kernel": (units, 4, units), "bias": (4, units)}
    weights: dict[str, np.ndarray] = {}
    for layer in layers:
        for direction in directions:
            for role, shape in shapes.items():
                weights[f"{layer}/{direction}/{role}"] = rng.uniform(-0.2, 0.2, shape) * (role != "bias")
    weights["dense/kernel"] = rng.uniform(-0.3, 0.3, (units, 10))
    weights["dense/bias"] = np.zeros(10)
    weights = {name: array for name, array in weights.items() if name.rpartition("/")[2] in roles}
    gated = {name: LSTM_GATES if "/forward/" in name or "/backward/" in name else () for name in weights}
    kinds = ("weight", "update", "gradient")
    run.declare([tensor_info(f"{n}:{k}", w.shape, gated[n]) for k in kinds for n, w in weights.items()])
    outputs = [*layers, "dense"]
    run.declare(
        [tensor_info(f"{n}/output:{k}", (None, 20, units)) for k in ("value", "gradient") for n in outputs]
    )
    run.declare([TensorInfo(TensorKey("", None, "loss", "value"), (), ())])
    for step in steps:
        decay = 1 / (1 + step / 200)
        gradients = {n: rng.normal(0, 0.05 * decay, w.shape) for n, w in weights.items()}
        updates = {n: -0.02 * g for n, g in gradients.items()}
        arrays = {f"{n}:weight": w for n, w in weights.items()}
        arrays |= {f"{n}:update": u for n, u in updates.items()}
        arrays |= {f"{n}:gradient": g for n, g in gradients.items()}
        arrays |= {
            f"{n}/output:value": np.tanh(rng.normal(0, 0.1 + step / 500, (4, 20, units))) for n in outputs
        }
        arrays |= {f"{n}/output:gradient": rng.normal(0, 1e-3 * decay, (4, 20, units)) for n in outputs}
        loss = 0.5 + 2.5 * decay + rng.normal(0, 0.1)
        arrays["loss:value"] = np.array(loss)
        logs = {"learning_rate": 0.01, "loss": 0.5 + 2.6 * decay, "accuracy": 1 - decay}
        record(run, step, arrays, logs=logs, epoch=step // 500)
        weights = {n: w + 20 * updates[n] for n, w in weights.items()}
    return run
