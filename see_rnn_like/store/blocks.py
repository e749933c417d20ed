"""Statistics of all tensors of a step as one block of rows: written in one piece, read in parts.

A step of a small model brings some thirty tensors of a few rows each; a row of the database for every one
of them would cost more time than all of their numbers.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from see_rnn_like.history import TensorInfo
from see_rnn_like.store import codec, rows


class Layout(NamedTuple):
    """Which rows of a block belong to which tensor.

    Attributes:
        id: its number in the table ``layouts``.
        places: what that table keeps of it, see `places_json`.
    """

    id: int
    places: str


class Packed(NamedTuple):
    """One block as a row of the table ``blocks``.

    Attributes:
        layout: whose rows are whose.
        array: all of them.
    """

    layout: Layout
    array: codec.Packed


class Seen(NamedTuple):
    """A block that was read in full once, and found whole.

    Attributes:
        crc: its checksum.
        places: number of the tensor → its first row, and the row after its last.
        dtype: type of its numbers.
        columns: numbers in a row.
    """

    crc: int
    places: Mapping[int, tuple[int, int]]
    dtype: np.dtype[Any]
    columns: int


def places_json(places: Iterable[tuple[int, slice]]) -> str:
    """JSON list of ``[tensor, first row, row after its last]``.

    Example:
        >>> places_json([(3, slice(0, 4)), (7, slice(4, 5))])
        '[[3, 0, 4], [7, 4, 5]]'
    """
    return json.dumps([[tensor, place.start, place.stop] for tensor, place in places])


def kept_layout(db: sqlite3.Connection, places: str) -> Layout:
    """The layout in the run, added if it is new."""
    found = db.execute("SELECT id FROM layouts WHERE places = ?", (places,)).fetchone()
    if found is None:
        found = (db.execute("INSERT INTO layouts (places) VALUES (?)", (places,)).lastrowid,)
    return Layout(found[0], places)


def pack(block: np.ndarray, field: str, step: int, layout: Layout) -> Packed:
    """A block ``(row, column)`` as bytes, counts in the smallest type that holds them all."""
    whole = codec.narrowed(block) if field == "histogram" else block
    return Packed(layout, codec.pack(whole, _label(field, step, layout.places)))


def insert(db: sqlite3.Connection, step: int, packed: Mapping[str, Packed]) -> None:
    """Adds the blocks of a step, by field."""
    db.executemany(
        "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(step, field, block.layout.id, *block.array) for field, block in packed.items()],
    )


def read(
    db: sqlite3.Connection,
    seen: dict[tuple[int, str], Seen],
    tensor: int,
    info: TensorInfo,
    field: str,
    step: int,
) -> np.ndarray | None:
    """One tensor's rows of a block, read-only; None if it has none.

    Args:
        db: the run.
        seen: by step and field the blocks that are not gone over again; the one read now joins them.
        tensor: its number in the table ``tensors``.
        info: the tensor.
        field: ``"moments"`` or ``"histogram"``.
        step: the step.

    Raises:
        ValueError: if the block was damaged, or is not what `pack` makes.
    """
    known = seen.get((step, field))
    found = db.execute("SELECT crc FROM blocks WHERE step = ? AND field = ?", (step, field)).fetchone()
    if found is None:
        return None
    if known is None or found != (known.crc,):
        row = db.execute(
            "SELECT places, dtype, shape, crc, data FROM blocks LEFT JOIN layouts ON layouts.id = layout "
            "WHERE step = ? AND field = ?",
            (step, field),
        ).fetchone()
        known = seen[step, field] = _seen(row, field, step)
    if tensor not in known.places:
        return None
    first, end = known.places[tensor]
    width = known.columns * known.dtype.itemsize
    part = (first * width + 1, (end - first) * width, step, field)
    (data,) = db.execute(
        "SELECT substr(data, ?, ?) FROM blocks WHERE step = ? AND field = ?", part
    ).fetchone()
    return rows.as_read(info, field, np.frombuffer(data, known.dtype).reshape(-1, known.columns))


def parts(row: tuple[Any, ...], field: str, step: int) -> dict[int, np.ndarray]:
    """The rows of all tensors of a block, by number of the tensor.

    Args:
        row: ``places, dtype, shape, crc, data`` of the tables ``layouts`` and ``blocks``.
        field: ``"moments"`` or ``"histogram"``.
        step: the step.

    Raises:
        ValueError: if the block was damaged, or is not what `pack` makes.
    """
    block, places = _unpacked(row, field, step)
    return {tensor: block[first:end] for tensor, (first, end) in places.items()}


def _seen(row: tuple[Any, ...], field: str, step: int) -> Seen:
    block, places = _unpacked(row, field, step)
    return Seen(row[3], places, block.dtype, block.shape[1])


def _unpacked(
    row: tuple[Any, ...], field: str, step: int
) -> tuple[np.ndarray, Mapping[int, tuple[int, int]]]:
    text, *packed = row
    try:
        places = _places(text)
        block = codec.unpack(codec.Packed(*packed), _label(field, step, text))
        if block.ndim != 2 or max((end for _, end in places.values()), default=0) > len(block):
            raise ValueError(f"shape {block.shape} does not hold the rows of its tensors")
    except (ValueError, TypeError) as error:
        raise ValueError(f"the {field} of all tensors at step {step}: {error}") from error
    return block, places


@functools.lru_cache(maxsize=16)
def _places(text: object) -> Mapping[int, tuple[int, int]]:
    # All blocks of a run have one of a few layouts.
    places = codec.from_json(text)
    if not isinstance(places, list) or not all(map(_is_place, places)):
        raise ValueError("its layout is no list of tensors and rows")
    return MappingProxyType({tensor: (first, end) for tensor, first, end in places})


def _is_place(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(number) is int for number in value)
        and 0 <= value[1] <= value[2]
    )


def _label(field: str, step: int, places: str) -> str:
    """What a block is, in words; part of its checksum."""
    return f"the {field} of the tensors {places} at step {step}"
