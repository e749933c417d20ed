"""Noticing NaN and Inf: from the counts of one step to the events a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from see_rnn_like.history import Event, Rows, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.stats import MOMENTS

_COUNT, _NAN, _INF = (MOMENTS.index(name) for name in ("count", "nan", "inf"))

#: What has been reported already: tensor, gate and kind of value.
Seen = set[tuple[TensorKey | None, str | None, str]]


def nonfinite_events(
    step: int,
    infos: Iterable[TensorInfo],
    moments: Mapping[TensorKey, np.ndarray],
    seen: Seen,
    by_replica: Mapping[TensorKey, np.ndarray],
) -> list[Event]:
    """Events for every tensor and gate that holds NaN or Inf for the first time.

    Args:
        step: optimizer step.
        infos: the recorded tensors in execution order; the first event then is the origin, as far as
            what was recorded can tell.
        moments: key → ``(gate, moment)``.
        seen: what was reported at earlier steps.
        by_replica: with several replicas, key → counts of NaN and of Inf ``(replica, gate, 2)``, of tensors
            of which one of them holds such values.

    Returns:
        The events, in execution order.
    """
    blocks = [moments.block] if isinstance(moments, Rows) else moments.values()
    if not any(rows[:, _NAN : _INF + 1].any() for rows in blocks):
        return []
    return [
        _event(step, info.key, gate, kind, row, _replicas(by_replica.get(info.key), index, kind))
        for info in infos
        for index, (gate, row) in enumerate(zip(info.gates or (None,), moments[info.key], strict=True))
        for kind, column in (("nan", _NAN), ("inf", _INF))
        if row[column] and (info.key, gate, kind) not in seen
    ]


def as_seen(events: Iterable[Event]) -> Seen:
    """What these events reported."""
    return {(event.key, event.gate, event.kind) for event in events}


def summary(events: list[Event]) -> str:
    """One sentence for all events of a step: the first one, and how many follow from it."""
    more = len({(event.key, event.gate) for event in events}) - 1
    rest = f"; {more} more recorded tensors or gates hold such values at this step" if more else ""
    return f"{events[0].message}{rest}"


def _replicas(counts: np.ndarray | None, gate: int, kind: str) -> dict[int, int]:
    """Replica → how many values of a kind it holds; of any kind where none is of this one.

    A sum over replicas may be NaN where one holds Inf and another −Inf.
    """
    if counts is None:
        return {}
    of_kind = counts[:, gate, ("nan", "inf").index(kind)]
    found = of_kind if of_kind.any() else counts[:, gate].sum(1)
    return {replica: int(found[replica]) for replica in np.flatnonzero(found).tolist()}


def _event(
    step: int, key: TensorKey, gate: str | None, kind: str, row: np.ndarray, replicas: dict[int, int]
) -> Event:
    counts = {"count": int(row[_COUNT]), "nan": int(row[_NAN]), "inf": int(row[_INF])}
    place = _place(key, gate)
    values = "value" if counts["count"] == 1 else "values"
    many = f"{counts['nan']} NaN and {counts['inf']} Inf among {counts['count']} {values}"
    name = {"nan": "NaN", "inf": "Inf"}[kind]
    counts |= {f"replica {replica}": count for replica, count in replicas.items()}
    where = f", {'replicas' if len(replicas) > 1 else 'replica'} {', '.join(map(str, replicas))}"
    return Event(
        step, kind, key, gate, counts, f"{name} at step {step}{where if replicas else ''}: {place}: {many}"
    )


def _place(key: TensorKey, gate: str | None) -> str:
    what = {"weight": " weight", "value": "", "gradient": " gradient", "update": " update"}[key.kind]
    parts = [key.layer] if key.layer else []
    parts += [key.direction] if key.direction else []
    parts += [f"{key.role}{what}"]
    parts += [f"{gate} gate"] if gate else []
    return ", ".join(parts)
