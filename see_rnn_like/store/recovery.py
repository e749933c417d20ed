"""Getting out of a damaged run file what can still be read."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from see_rnn_like.errors import DamagedStoreError, StoreError
from see_rnn_like.history import FIELDS, Event, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.store import blocks, rows
from see_rnn_like.store.files import absolute, salvaging
from see_rnn_like.store.sqlite import SQLiteHistory

#: So many rows one after the other that cannot be read are taken for the end of a table.
_GIVE_UP = 100_000

#: What reading a damaged row can raise: SQLite finds the page malformed, or we find its content so.
_DAMAGE = (sqlite3.DatabaseError, ValueError, TypeError, OverflowError)

_T = TypeVar("_T")


def recover(path: str | os.PathLike[str], to: str | os.PathLike[str]) -> SQLiteHistory:
    """Copies everything that can still be read from a damaged run file into a new one.

    Arrays are compared with their checksums; a damaged one is left out, never guessed. An event of kind
    ``"recovered"`` in the new run tells how much there is.

    Args:
        path: the damaged run file; it is not changed.
        to: where the new one is made; nothing may be there.

    Returns:
        The new run, open for reading.

    Raises:
        StoreError: if there is no file at `path`, or something at `to`.
        DamagedStoreError: if the beginning of the file, which says what is where, is lost.

    Example:
        See ``docs/runs.md``.
    """
    source, target = absolute(path), absolute(to)
    if target.exists():
        raise StoreError(f"'{target}' exists already; give a path where nothing is")
    with salvaging(source) as db:
        found = _salvaged(db, "tensors", "id, key, dims, shape, coords, attrs")
        tensors = dict(_parsed(found, rows.tensor_from_row))
        if not tensors:
            raise DamagedStoreError(f"nothing can be recovered from '{source}': its list of tensors is lost")
        history = SQLiteHistory.create(target)
        history.declare(tensors.values())
        _copy_facts(db, history)
        arrays = _copy_snapshots(db, history, tensors)
    steps = history.steps
    counts = {"snapshots": len(steps), "arrays": arrays}
    message = f"recovered from the damaged '{source}': {len(steps)} snapshots with {arrays} arrays"
    history.add_event(Event(max(steps, default=0), "recovered", None, None, counts, message))
    history.close()
    return SQLiteHistory.open(target)


def _copy_facts(db: sqlite3.Connection, history: SQLiteHistory) -> None:
    for name, value in _parsed(_salvaged(db, "meta", "name, value"), rows.fact_from_row):
        if name != "writer":
            history.set_meta(name, value)
    for epoch, step, logs in _parsed(_salvaged(db, "epochs", "epoch, step, logs"), rows.epoch_from_row):
        history.add_epoch(epoch, step, logs)
    events = _salvaged(db, "events", "step, kind, key, gate, counts, message")
    for event in _parsed(events, rows.event_from_row):
        history.add_event(event)


def _copy_snapshots(db: sqlite3.Connection, history: SQLiteHistory, tensors: dict[int, TensorInfo]) -> int:
    """Returns the number of arrays copied."""
    places = defaultdict(list)
    for step, *place in _salvaged(db, "arrays", "step, rowid, tensor, field"):
        places[step].append(place)
    layouts = dict(_salvaged(db, "layouts", "id, places"))
    of_blocks = defaultdict(list)
    for step, *place in _salvaged(db, "blocks", "step, rowid, layout, field"):
        of_blocks[step].append(place)
    found = _salvaged(db, "snapshots", "step, epoch, time, seconds, logs")
    snapshots = {snapshot.step: snapshot for snapshot in _parsed(found, rows.snapshot_from_row)}
    copied = 0
    for step, snapshot in snapshots.items():
        arrays = _arrays(db, step, places[step], tensors)
        for rowid, layout, field in of_blocks[step]:
            if layout in layouts and field in rows.COLUMNS:
                arrays[field] |= _parts(db, step, rowid, layouts[layout], field, tensors)
        copied += sum(map(len, arrays.values()))
        history.append(
            replace(
                snapshot, moments=arrays["moments"], histograms=arrays["histogram"], values=arrays["value"]
            )
        )
    return copied


def _arrays(
    db: sqlite3.Connection, step: int, places: list[list[Any]], tensors: dict[int, TensorInfo]
) -> dict[str, dict[TensorKey, np.ndarray]]:
    """Field → key → array, those whose bytes are whole."""
    arrays: dict[str, dict[TensorKey, np.ndarray]] = {field: {} for field in FIELDS}
    for rowid, tensor, field in places:
        if tensor not in tensors or field not in FIELDS:
            continue
        sql = "SELECT dtype, shape, crc, data FROM arrays NOT INDEXED WHERE rowid = ?"
        with suppress(*_DAMAGE):
            row = db.execute(sql, (rowid,)).fetchone()
            info = tensors[tensor]
            arrays[field][info.key] = rows.array_from_row(row, info, field, step)
    return arrays


def _parts(
    db: sqlite3.Connection, step: int, rowid: int, layout: str, field: str, tensors: dict[int, TensorInfo]
) -> dict[TensorKey, np.ndarray]:
    """Key → array of the tensors in a block whose bytes are whole; nothing of one that is not."""
    sql = "SELECT dtype, shape, crc, data FROM blocks NOT INDEXED WHERE rowid = ?"
    found: dict[TensorKey, np.ndarray] = {}
    with suppress(*_DAMAGE):
        row = db.execute(sql, (rowid,)).fetchone()
        known = ((t, part) for t, part in blocks.parts((layout, *row), field, step).items() if t in tensors)
        for tensor, part in known:
            info = tensors[tensor]
            found[info.key] = rows.as_read(info, field, part)
    return found


def _salvaged(db: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows of a table but for those on damaged pages."""
    sql = f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid"
    start = misses = 0
    while misses < _GIVE_UP:
        try:
            for rowid, *row in db.execute(sql, (start,)):
                yield tuple(row)
                start, misses = rowid + 1, 0
            return
        except sqlite3.DatabaseError:  # noqa: PERF203 - going on behind the damage is the point
            start, misses = start + 1, misses + 1


def _parsed(found: Iterable[tuple[Any, ...]], parse: Callable[[tuple[Any, ...]], _T]) -> Iterator[_T]:
    """The rows that can be parsed."""
    for row in found:
        with suppress(*_DAMAGE):
            yield parse(row)
