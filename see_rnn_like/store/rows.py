"""Facts about a run as rows of its tables, and back. What is read is checked, never trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from see_rnn_like import stats
from see_rnn_like.errors import CaptureError
from see_rnn_like.history import Event, Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.store import codec

#: Numbers in a row of the fields that have rows.
COLUMNS = {"moments": len(stats.MOMENTS), "histogram": stats.BINS}


def whole(value: object) -> int:
    """A whole number as SQLite returned it.

    Raises:
        ValueError: if it is something else.
    """
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return value


def real(value: object) -> float:
    """A real number as SQLite returned it, which keeps NaN as NULL.

    Raises:
        ValueError: if it is something else.
    """
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def logs_json(logs: Mapping[str, float]) -> str:
    """Scalars as JSON; whatever is one number (NumPy's too) counts as a scalar."""
    return codec.to_json({name: float(value) for name, value in logs.items()}, "logs")


def info_row(info: TensorInfo) -> tuple[str, str, str, str, str]:
    """``key, dims, shape, coords, attrs`` of the table ``tensors``."""
    key = str(info.key)
    facts = (info.dims, info.shape, info.coords, info.attrs)
    dims, shape, coords, attrs = (codec.to_json(fact, f"the info of '{key}'") for fact in facts)
    return key, dims, shape, coords, attrs


def tensor_from_row(row: tuple[Any, ...]) -> tuple[int, TensorInfo]:
    """Undoes `info_row`; the row begins with the number of the tensor.

    Raises:
        ValueError: if the row is not what `info_row` makes.
    """
    number, key, *texts = row
    dims, shape, coords, attrs = map(codec.from_json, texts)
    if not (isinstance(coords, dict) and isinstance(attrs, dict) and isinstance(dims, list)):
        raise ValueError(f"the info of {key!r} is not a list of dims and mappings of coords and attrs")
    if not codec.is_shape([size or 0 for size in shape]) or len(shape) != len(dims):
        raise ValueError(f"the shape of {key!r} does not fit its dims")
    sizes = dict(zip(dims, shape, strict=True))
    if len(sizes) != len(dims) or "step" in sizes:
        raise ValueError(f"the dims of {key!r} must be distinct and none may be 'step'; got {dims}")
    for dim, labels in coords.items():
        if dim not in sizes or not isinstance(labels, list) or len(labels) != sizes[dim]:
            raise ValueError(f"the coords of {key!r} do not fit its shape")
    labelled = {dim: tuple(map(str, labels)) for dim, labels in coords.items()}
    info = TensorInfo(TensorKey.parse(key), tuple(map(str, dims)), tuple(shape), labelled, attrs)
    return whole(number), info


def merged(old: TensorInfo, new: TensorInfo) -> TensorInfo:
    """Two declarations of one tensor as one: sizes that differ become None, newer attrs win.

    Raises:
        CaptureError: if they name or label the axes differently.
    """
    if old.dims != new.dims or len(old.shape) != len(new.shape) or dict(old.coords) != dict(new.coords):
        raise CaptureError(
            f"'{old.key}' is recorded with dims {old.dims} and coords {dict(old.coords)}; "
            f"it cannot be declared again with dims {new.dims} and coords {dict(new.coords)}"
        )
    return replace(widened(old, new.shape), attrs={**old.attrs, **new.attrs})


def widened(info: TensorInfo, shape: tuple[int | None, ...]) -> TensorInfo:
    """The info with None wherever `shape` differs from its sizes."""
    sizes = tuple(a if a == b else None for a, b in zip(info.shape, shape, strict=True))
    return info if sizes == info.shape else replace(info, shape=sizes)


def label(key: TensorKey, field: str, step: int) -> str:
    """What one stored array is, in words; part of its checksum."""
    return f"the {field} of '{key}' at step {step}"


def checked(info: TensorInfo, field: str, array: Any) -> np.ndarray:
    """An array as that field of the tensor.

    Raises:
        ValueError: if it has other axes than the tensor, or holds something else than numbers.
    """
    given = np.asarray(array, "float64" if field == "moments" else None)
    expected = _expected_shape(info, field)
    if given.shape != expected and not _fits(given.shape, expected):
        raise ValueError(f"the {field} of '{info.key}' must have shape {expected}; got {given.shape}")
    if field == "histogram" and given.dtype.kind not in "iu":
        raise ValueError(f"the histogram of '{info.key}' must be whole numbers; got {given.dtype}")
    return given


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(expected) == len(shape) and all(
        want in (None, size) for want, size in zip(expected, shape, strict=True)
    )


def array_from_row(row: tuple[Any, ...], info: TensorInfo, field: str, step: int) -> np.ndarray:
    """The array of a row ``dtype, shape, crc, data`` of the table ``arrays``, read-only.

    Raises:
        ValueError: if the row is not what `codec.pack` makes, or was damaged since.
    """
    what = label(info.key, field, step)
    try:
        return as_read(info, field, codec.unpack(codec.Packed(*row), what))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{what}: {error}") from error


def as_read(info: TensorInfo, field: str, array: np.ndarray) -> np.ndarray:
    """A stored array as that field of the tensor, counts widened.

    Raises:
        ValueError: if it is none of such a tensor.
    """
    whole = checked(info, field, array)
    return whole.astype("int64") if field == "histogram" else whole


def _expected_shape(info: TensorInfo, field: str) -> tuple[int | None, ...]:
    if field == "value":
        return tuple(len(info.coords[dim]) if dim in info.coords else None for dim in info.dims)
    return info.rows, COLUMNS[field]


def snapshot_row(snapshot: Snapshot) -> tuple[int, int, float, float, str]:
    """``step, epoch, time, seconds, logs`` of the table ``snapshots``."""
    return (
        int(snapshot.step),
        int(snapshot.epoch),
        float(snapshot.time),
        float(snapshot.seconds),
        logs_json(snapshot.logs),
    )


def snapshot_from_row(row: tuple[Any, ...]) -> Snapshot:
    """Undoes `snapshot_row`; the arrays are not part of it.

    Raises:
        ValueError: if the row is not what `snapshot_row` makes.
    """
    step, epoch, time, seconds, logs = row
    scalars = codec.numbers_from_json(logs)
    return Snapshot(whole(step), whole(epoch), real(time), real(seconds), {}, {}, {}, scalars)


def epoch_from_row(row: tuple[Any, ...]) -> tuple[int, int, dict[str, float]]:
    """``epoch, step, logs`` of the table ``epochs``.

    Raises:
        ValueError: if they are something else.
    """
    epoch, step, logs = row
    return whole(epoch), whole(step), codec.numbers_from_json(logs)


def fact_from_row(row: tuple[Any, ...]) -> tuple[str, Any]:
    """``name, value`` of the table ``meta``.

    Raises:
        ValueError: if the value is not strict JSON.
    """
    name, value = row
    return str(name), codec.from_json(value)


def event_row(event: Event) -> tuple[int, str, str | None, str | None, str, str]:
    """``step, kind, key, gate, counts, message`` of the table ``events``."""
    key = None if event.key is None else str(event.key)
    counts = codec.to_json(event.counts, "the counts of an event")
    return int(event.step), event.kind, key, event.gate, counts, event.message


def event_from_row(row: tuple[Any, ...]) -> Event:
    """Undoes `event_row`.

    Raises:
        ValueError: if the row is not what `event_row` makes.
    """
    step, kind, key, gate, counts, message = row
    named = None if key is None else TensorKey.parse(key)
    numbers = codec.from_json(counts)
    if not isinstance(numbers, dict):
        raise ValueError(f"the counts of an event must be a mapping; got {counts}")
    return Event(whole(step), str(kind), named, None if gate is None else str(gate), numbers, str(message))
