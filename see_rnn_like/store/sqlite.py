"""`SQLiteHistory`: what was recorded, in one SQLite file or in memory; the writer and the reader."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    CaptureError,
    DamagedStoreError,
    StoreError,
    one_of,
)
from see_rnn_like.history import FIELDS, Event, History, Rows, Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.store import blocks, budget, codec, rows
from see_rnn_like.store.files import Writer, absolute, explained, reading


@dataclass(frozen=True)
class _Packed:
    """What is kept of a snapshot, ready to be written.

    Attributes:
        arrays: field → number of the tensor and its array.
        blocks: field → the arrays of all tensors as one.
    """

    arrays: dict[str, list[tuple[int, codec.Packed]]]
    blocks: dict[str, blocks.Packed]

    @property
    def sizes(self) -> dict[str, int]:
        """Field → bytes, of those there are."""
        alone = {field: arrays for field, arrays in self.arrays.items() if arrays}
        return {
            **{field: sum(len(array.data) for _, array in arrays) for field, arrays in alone.items()},
            **{field: len(block.array.data) for field, block in self.blocks.items()},
        }

    def without(self, fields: Collection[str]) -> _Packed:
        """The same but for some fields."""
        return _Packed(
            {field: arrays for field, arrays in self.arrays.items() if field not in fields},
            {field: block for field, block in self.blocks.items() if field not in fields},
        )


_INSERT_EVENT = "INSERT INTO events (step, kind, key, gate, counts, message) VALUES (?, ?, ?, ?, ?, ?)"


class SQLiteHistory(History):
    """A history kept by SQLite, in a file or in memory.

    Made by `create` to write (and read), by `open` to read. A reader can follow while another process
    writes: every call reads what is there at that moment. Both can be used from any thread.

    Every snapshot is one transaction: when `append` returns it is complete and survives the death of
    the process.

    Attributes:
        max_bytes: budget of the writer, see `create`.

    Example:
        >>> history = SQLiteHistory.create(None)
        >>> history.set_meta("model", "lstm")
        >>> history.steps, history.meta
        ([], {'model': 'lstm'})
    """

    def __init__(self, path: Path | None, writer: Writer | None, max_bytes: int | None) -> None:
        """Use `create` or `open`."""
        self._path = path
        self.max_bytes = max_bytes
        self._writer = writer
        self._lock = threading.RLock()
        self._reader: sqlite3.Connection | None = None
        # What was declared, as the connection it was read from knows it; see `_transaction`.
        self._known: dict[TensorKey, tuple[int, TensorInfo]] = {}
        self._known_by: sqlite3.Connection | None = None
        # That of the blocks written last, with their places and length: the same from step to step.
        self._layout: tuple[Mapping[TensorKey, slice], int, blocks.Layout] | None = None
        self._seen: dict[tuple[int, str], blocks.Seen] = {}
        # Bytes of the stored arrays; adding them up anew for each snapshot would take ever longer.
        self._used: int | None = None
        if writer is not None:
            # A run in memory stays readable for those who are called even later at the end of the process.
            weakref.finalize(self, writer.discard).atexit = path is not None

    @classmethod
    def create(cls, path: str | os.PathLike[str] | None, max_bytes: int | None = None) -> SQLiteHistory:
        """Begins a run, or continues the one in the file.

        Args:
            path: the file; missing directories are made. None keeps the run in memory.
            max_bytes: budget for the bytes of the stored arrays. When it is used up, older steps are
                thinned so that those kept are log-spaced in age (`budget.overdue`): values first, then
                histograms, then moments. The first and the newest step are always kept. Freed space
                in the file is used again, not given back.

        Returns:
            The history, open for writing and reading.

        Raises:
            ArgumentError: if `max_bytes` is < 1.
            ArgumentTypeError: if `max_bytes` is not a whole number.
            StoreError: if the file cannot be made or written, or somebody else is writing it.
            StoreVersionError: if the file has another version of the format.
            DamagedStoreError: if there is a file that is not a run file; it is left as it is.
        """
        _require_budget(max_bytes)
        place = None if path is None else absolute(path)
        history = cls(place, Writer(place), max_bytes)
        with history._transaction():
            return history

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> SQLiteHistory:
        """Opens a run file to read it, also while another process writes it.

        Raises:
            StoreError: if there is no such file, or it cannot be opened.
            StoreVersionError: if the file has another version of the format.
            DamagedStoreError: if it is not a run file, or is damaged.
        """
        history = cls(absolute(path), None, None)
        with history._reading():
            return history

    # ------------------------------------------------------------------ writing

    def declare(self, infos: Iterable[TensorInfo]) -> None:
        """Makes tensors known before their first snapshot, in execution order.

        Declaring a tensor again is harmless; sizes that differ from before become None.

        Raises:
            CaptureError: if a tensor was declared before with other dims or coords.
            StoreError: if it cannot be written.
        """
        with self._transaction() as db:
            for info in infos:
                if info.key in self._known:
                    self._change(db, rows.merged(self._known[info.key][1], info))
                else:
                    self._add(db, info)

    def append(self, snapshot: Snapshot) -> None:
        """Writes one snapshot, all of it or nothing.

        Raises:
            CaptureError: if its step is recorded already, or a tensor was not declared or has other
                axes than it was declared with.
            StoreError: if it cannot be written, for example because the disk is full; what was written
                before stays, and a later snapshot is written if it can be.
        """
        with self._transaction() as db:
            packed = self._packed(db, snapshot)
            if self.max_bytes is None:
                _insert_snapshot(db, snapshot, packed)
            else:
                self._insert_within(db, snapshot, packed, self.max_bytes)

    def add_event(self, event: Event) -> None:
        """Writes one event.

        Raises:
            StoreError: if it cannot be written.
        """
        row = rows.event_row(event)
        with self._transaction() as db:
            db.execute(_INSERT_EVENT, row)

    def add_epoch(self, epoch: int, step: int, logs: Mapping[str, float]) -> None:
        """Writes the end of an epoch.

        Args:
            epoch: its number, from 0.
            step: its last optimizer step.
            logs: its scalars, NaN and ±Inf allowed.

        Raises:
            StoreError: if it cannot be written.
        """
        row = (int(epoch), int(step), rows.logs_json(logs))
        with self._transaction() as db:
            db.execute("INSERT INTO epochs (epoch, step, logs) VALUES (?, ?, ?)", row)

    def set_meta(self, name: str, value: Any) -> None:
        """Writes one fact about the run, in place of an earlier one of that name.

        Args:
            name: for example ``"optimizer"``.
            value: what JSON can hold; NaN and ±Inf become strings, tuples become lists.

        Raises:
            ArgumentTypeError: if JSON cannot hold the value.
            StoreError: if it cannot be written.
        """
        row = (name, codec.to_json(value, f"meta {name!r}"))
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)

    def close(self) -> None:
        """Merges the write-ahead log into the file and lets go of it.

        The run can still be read, and written again, afterwards; both open the file by themselves. A
        run in memory stays as it is. A writer that is dropped, or alive when the process ends, is
        closed too.
        """
        if self._writer is not None:
            with self._lock:
                self._writer.release()

    # ------------------------------------------------------------------ reading

    @property
    def path(self) -> Path | None:
        """The file; None in memory."""
        return self._path

    @property
    def steps(self) -> list[int]:
        """Recorded optimizer steps, ascending; those thinned out altogether are gone."""
        return self._steps("1")

    @property
    def events(self) -> list[Event]:
        """Events in the order they were seen."""
        found = self._read("SELECT step, kind, key, gate, counts, message FROM events ORDER BY id")
        with self._checked():
            return [rows.event_from_row(row) for row in found]

    @property
    def epochs(self) -> list[dict[str, float]]:
        """One dict per finished epoch: ``epoch``, ``step`` (the last one) and its logs."""
        found = self._read("SELECT epoch, step, logs FROM epochs ORDER BY id")
        with self._checked():
            return [
                {"epoch": epoch, "step": step} | _without_clash(logs, ("epoch", "step"))
                for epoch, step, logs in map(rows.epoch_from_row, found)
            ]

    @property
    def meta(self) -> dict[str, Any]:
        """What was trained: versions, model, optimizer, host, times; ``writer`` is who wrote last."""
        found = self._read("SELECT name, value FROM meta ORDER BY name")
        with self._checked():
            return dict(map(rows.fact_from_row, found))

    def infos(self) -> dict[TensorKey, TensorInfo]:
        """Every declared tensor, in the order of declaration."""
        with self._reading() as db, self._checked():
            return {key: info for key, (_, info) in _tensors(db).items()}

    def logs(self) -> xr.Dataset:
        """Scalars of each recorded step over ``step``, and ``epoch``, ``time``, ``seconds``.

        A metric that is called like one of these comes back as ``metric_time`` and so on; one that is
        missing at a step is NaN there.
        """
        found = self._read("SELECT step, epoch, time, seconds, logs FROM snapshots ORDER BY step")
        with self._checked():
            snapshots = list(map(rows.snapshot_from_row, found))
        fixed = {
            "epoch": np.array([snapshot.epoch for snapshot in snapshots], "int64"),
            "time": np.array([snapshot.time for snapshot in snapshots], "float64"),
            "seconds": np.array([snapshot.seconds for snapshot in snapshots], "float64"),
        }
        logs = [_without_clash(snapshot.logs, ("step", *fixed)) for snapshot in snapshots]
        names = dict.fromkeys(name for scalars in logs for name in scalars)
        scalars = {name: np.array([row.get(name, np.nan) for row in logs], "float64") for name in names}
        steps = np.array([snapshot.step for snapshot in snapshots], "int64")
        return xr.Dataset(
            {name: ("step", column) for name, column in {**fixed, **scalars}.items()}, {"step": steps}
        )

    def load(
        self, key: TensorKey, what: str, steps: Sequence[int] | None = None
    ) -> list[tuple[int, np.ndarray]]:
        """Reads one field of one tensor; see `History.load`. The arrays are read-only.

        Raises:
            ArgumentError: if `what` is not one of `FIELDS`.
            UnknownTensorError: if nothing was recorded under `key`.
            DamagedStoreError: if an array was damaged.
        """
        if what not in FIELDS:
            raise one_of("what", what, FIELDS)
        with self._reading() as db:
            with self._checked():
                known = _tensors(db)
            tensor, info = known[self.info(key).key]
            kept = self._steps(f"{what}_bytes IS NOT NULL")
            wanted = kept if steps is None else sorted(set(kept).intersection(steps))
            with self._checked():
                return list(self._arrays(db, tensor, info, what, wanted))

    # ------------------------------------------------------------------ steps of the above

    def _add(self, db: sqlite3.Connection, info: TensorInfo) -> None:
        done = db.execute(
            "INSERT INTO tensors (key, dims, shape, coords, attrs) VALUES (?, ?, ?, ?, ?)",
            rows.info_row(info),
        )
        assert done.lastrowid is not None
        self._known[info.key] = done.lastrowid, info

    def _change(self, db: sqlite3.Connection, info: TensorInfo) -> None:
        number, known = self._known[info.key]
        if info != known:
            db.execute(
                "UPDATE tensors SET key = ?, dims = ?, shape = ?, coords = ?, attrs = ? WHERE id = ?",
                (*rows.info_row(info), number),
            )
            self._known[info.key] = number, info

    def _packed(self, db: sqlite3.Connection, snapshot: Snapshot) -> _Packed:
        """The arrays of a snapshot, checked; a value of another size widens what is known of its tensor."""
        given = {"moments": snapshot.moments, "histogram": snapshot.histograms, "value": snapshot.values}
        packed, step = _Packed({}, {}), int(snapshot.step)
        for field, arrays in given.items():
            if isinstance(arrays, Rows):
                block = _checked_block(field, arrays.block)
                packed.blocks[field] = blocks.pack(block, field, step, self._layout_of(db, arrays))
            else:
                packed.arrays[field] = [self._packed_array(db, field, step, *item) for item in arrays.items()]
        return packed

    def _packed_array(
        self, db: sqlite3.Connection, field: str, step: int, key: TensorKey, array: Any
    ) -> tuple[int, codec.Packed]:
        number, info = self._declared(key)
        whole = _checked(info, field, array)
        if field == "value":
            self._change(db, rows.widened(info, whole.shape))
        return number, codec.pack(whole, rows.label(key, field, step))

    def _layout_of(self, db: sqlite3.Connection, arrays: Rows) -> blocks.Layout:
        """The layout of a block, checked when it is new."""
        places, length = arrays.places, len(arrays.block)
        if self._layout is not None and self._layout[0] is places and self._layout[1] == length:
            return self._layout[2]
        declared = {key: self._declared(key) for key in places}
        for key, (_, info) in declared.items():
            start, stop = places[key].start, places[key].stop
            if not 0 <= start <= stop <= length or stop - start != info.rows:
                raise CaptureError(
                    f"the statistics of '{key}' need {info.rows} rows; got {start} to {stop} of {length}"
                )
        numbered = blocks.places_json((number, places[key]) for key, (number, _) in declared.items())
        layout = blocks.kept_layout(db, numbered)
        self._layout = places, length, layout
        return layout

    def _insert_within(
        self, db: sqlite3.Connection, snapshot: Snapshot, packed: _Packed, max_bytes: int
    ) -> None:
        """Inserts a snapshot, shortened if it is too large by itself, and thins older ones to make room."""
        dropped = budget.too_large(packed.sizes, max_bytes)
        kept = packed.without(dropped)
        used = budget.used(db) if self._used is None else self._used
        _insert_snapshot(db, snapshot, kept)
        self._used = used + sum(kept.sizes.values())
        if dropped:
            message = budget.too_large_message(snapshot.step, dropped, max_bytes)
            _note(db, Event(snapshot.step, "over-budget", None, None, {"snapshots": 1}, message))
        if self._used > max_bytes:
            thinned = budget.thin(db, self._used - max_bytes)
            self._used = budget.used(db)
            message = budget.thinned_message(db, max_bytes)
            _note(db, Event(snapshot.step, "thinned", None, None, thinned, message))

    def _arrays(
        self, db: sqlite3.Connection, tensor: int, info: TensorInfo, field: str, steps: Iterable[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        for step in steps:
            row = db.execute(
                "SELECT dtype, shape, crc, data FROM arrays WHERE step = ? AND tensor = ? AND field = ?",
                (step, tensor, field),
            ).fetchone()
            if row is not None:
                yield step, rows.array_from_row(row, info, field, step)
                continue
            part = blocks.read(db, self._seen, tensor, info, field, step)
            if part is not None:
                yield step, part

    def _declared(self, key: TensorKey) -> tuple[int, TensorInfo]:
        if key not in self._known:
            raise CaptureError(f"'{key}' was not declared; declare(infos) comes before append(snapshot)")
        return self._known[key]

    def _steps(self, condition: str) -> list[int]:
        found = self._read(f"SELECT step FROM snapshots WHERE {condition} ORDER BY step")
        with self._checked():
            return [rows.whole(step) for (step,) in found]

    def _read(self, sql: str) -> list[tuple[Any, ...]]:
        with self._reading() as db:
            return db.execute(sql).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._writer is None:
            raise StoreError(
                f"'{self._path}' was opened for reading; SQLiteHistory.create(path) opens it for writing"
            )
        with self._lock, explained(self._path):
            db = self._writer.connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                if db is not self._known_by:
                    with self._checked():
                        self._known, self._used, self._known_by, self._layout = _tensors(db), None, db, None
                yield db
                db.execute("COMMIT")
            except BaseException:
                # What was declared in this transaction is undone with it.
                self._known_by = None
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection to read with: the writer's if it is open, else one for this block alone."""
        with self._lock:
            held = self._writer.held if self._writer is not None else None
            if self._reader is not None:
                yield self._reader
            elif held is not None:
                with explained(self._path):
                    yield held
            else:
                assert self._path is not None
                with reading(self._path) as self._reader:
                    try:
                        yield self._reader
                    finally:
                        self._reader = None

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, OverflowError) as error:
            raise DamagedStoreError(f"'{self._path}' is damaged: {error}") from error


def _require_budget(max_bytes: object) -> None:
    if max_bytes is None:
        return
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int | np.integer):
        raise ArgumentTypeError(f"max_bytes must be a whole number of bytes or None; got {max_bytes!r}")
    if max_bytes < 1:
        raise ArgumentError(f"max_bytes must be at least 1 byte; got {max_bytes!r}")


def _tensors(db: sqlite3.Connection) -> dict[TensorKey, tuple[int, TensorInfo]]:
    found = db.execute("SELECT id, key, dims, shape, coords, attrs FROM tensors ORDER BY id")
    return {info.key: (number, info) for number, info in map(rows.tensor_from_row, found)}


def _checked(info: TensorInfo, field: str, array: Any) -> np.ndarray:
    """The array as it is stored."""
    try:
        whole = rows.checked(info, field, array)
    except ValueError as error:
        raise CaptureError(str(error)) from error
    return codec.narrowed(whole) if field == "histogram" else whole


def _checked_block(field: str, block: np.ndarray) -> np.ndarray:
    columns = rows.COLUMNS[field]
    if block.ndim != 2 or block.shape[1] != columns:
        raise CaptureError(f"a block of {field} must have shape (row, {columns}); got {block.shape}")
    return block


def _insert_snapshot(db: sqlite3.Connection, snapshot: Snapshot, packed: _Packed) -> None:
    step, *facts = rows.snapshot_row(snapshot)
    if db.execute("SELECT 1 FROM snapshots WHERE step = ?", (step,)).fetchone():
        raise CaptureError(
            f"step {step} is recorded already and stays as it was recorded first; a new training, or one "
            "resumed from an earlier checkpoint, needs a run of its own"
        )
    sizes = packed.sizes
    db.execute(
        "INSERT INTO snapshots VALUES "
        "((SELECT ifnull(max(number) + 1, 0) FROM snapshots), ?, ?, ?, ?, ?, ?, ?, ?)",
        (step, *facts, *(sizes.get(field) for field in FIELDS)),
    )
    blocks.insert(db, step, packed.blocks)
    for field, arrays in packed.arrays.items():
        if arrays:
            db.executemany(
                "INSERT INTO arrays VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(step, tensor, field, *array) for tensor, array in arrays],
            )


def _note(db: sqlite3.Connection, event: Event) -> None:
    """Inserts an event, or adds its counts to the one of its kind that is there."""
    row = db.execute("SELECT id, counts FROM events WHERE kind = ?", (event.kind,)).fetchone()
    if row is None:
        db.execute(_INSERT_EVENT, rows.event_row(event))
        return
    number, text = row
    before = codec.from_json(text)
    counts = {name: before.get(name, 0) + event.counts.get(name, 0) for name in {**before, **event.counts}}
    db.execute(
        "UPDATE events SET counts = ?, message = ? WHERE id = ?",
        (codec.to_json(counts, "counts"), event.message, number),
    )


def _without_clash(logs: Mapping[str, float], taken: tuple[str, ...]) -> dict[str, float]:
    return {f"metric_{name}" if name in taken else name: value for name, value in logs.items()}
