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
    step: int, infos: Iterable[TensorInfo], moments: Mapping[TensorKey, np.ndarray], seen: Seen
) -> list[Event]:
    """Events for every tensor and gate that holds NaN or Inf for the first time.

    Args:
        step: optimizer step.
        infos: the recorded tensors in execution order; the first event then is the origin, as far as
            what was recorded can tell.
        moments: key → ``(gate, moment)``.
        seen: what was reported at earlier steps.

    Returns:
        The events, in execution order.
    """
    blocks = [moments.block] if isinstance(moments, Rows) else moments.values()
    if not any(rows[:, _NAN : _INF + 1].any() for rows in blocks):
        return []
    return [
        _event(step, info.key, gate, kind, row)
        for info in infos
        for gate, row in zip(info.gates or (None,), moments[info.key], strict=True)
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


def _event(step: int, key: TensorKey, gate: str | None, kind: str, row: np.ndarray) -> Event:
    counts = {"count": int(row[_COUNT]), "nan": int(row[_NAN]), "inf": int(row[_INF])}
    place = _place(key, gate)
    values = "value" if counts["count"] == 1 else "values"
    many = f"{counts['nan']} NaN and {counts['inf']} Inf among {counts['count']} {values}"
    name = {"nan": "NaN", "inf": "Inf"}[kind]
    return Event(step, kind, key, gate, counts, f"{name} at step {step}: {place}: {many}")


def _place(key: TensorKey, gate: str | None) -> str:
    what = {"weight": " weight", "value": "", "gradient": " gradient", "update": " update"}[key.kind]
    parts = [key.layer] if key.layer else []
    parts += [key.direction] if key.direction else []
    parts += [f"{key.role}{what}"]
    parts += [f"{gate} gate"] if gate else []
    return ", ".join(parts)
