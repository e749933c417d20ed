"""Opening and closing run files: who may write, what a run file is, what SQLite's errors mean.

A run file that nobody writes is one ordinary SQLite file in rollback mode: it can be copied, sent and
read from read-only media. Whoever writes puts it into write-ahead mode, which lets others read at the
same time, and puts it back when done. A process that is killed leaves the write-ahead log
(``<file>-wal``) behind; SQLite takes every completed transaction from it at the next opening.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from see_rnn_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    DamagedStoreError,
    StoreError,
    StoreVersionError,
)
from see_rnn_like.store.codec import to_json

#: Stands in the header of the file and says that it is ours ("sRNN" in ASCII).
APPLICATION_ID = int.from_bytes(b"sRNN", "big")

#: Version of the tables below and of what is in them.
VERSION = 2

#: Bytes. Arrays of a megabyte are appended about three times faster than with SQLite's usual 4 KiB.
PAGE_SIZE = 65536

#: The same for a run in memory: a page is copied before it is changed, and small steps change some of it.
MEMORY_PAGE_SIZE = 16384

#: How long to wait for somebody who is in the middle of reading, in seconds.
PATIENCE = 1.0

TABLES = {
    "meta": "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT)",
    "tensors": (
        "CREATE TABLE tensors "
        "(id INTEGER PRIMARY KEY, key TEXT UNIQUE, dims TEXT, shape TEXT, coords TEXT, attrs TEXT)"
    ),
    "snapshots": (
        "CREATE TABLE snapshots "
        "(number INTEGER PRIMARY KEY, step INTEGER UNIQUE, epoch INTEGER, time REAL, seconds REAL, "
        "logs TEXT, moments_bytes INTEGER, histogram_bytes INTEGER, value_bytes INTEGER)"
    ),
    "arrays": (
        "CREATE TABLE arrays "
        "(step INTEGER, tensor INTEGER, field TEXT, dtype TEXT, shape TEXT, crc INTEGER, data BLOB, "
        "PRIMARY KEY (step, tensor, field))"
    ),
    "layouts": "CREATE TABLE layouts (id INTEGER PRIMARY KEY, places TEXT)",
    "blocks": (
        "CREATE TABLE blocks "
        "(step INTEGER, field TEXT, layout INTEGER, dtype TEXT, shape TEXT, crc INTEGER, data BLOB, "
        "PRIMARY KEY (step, field))"
    ),
    "epochs": "CREATE TABLE epochs (id INTEGER PRIMARY KEY, epoch INTEGER, step INTEGER, logs TEXT)",
    "events": (
        "CREATE TABLE events "
        "(id INTEGER PRIMARY KEY, step INTEGER, kind TEXT, key TEXT, gate TEXT, counts TEXT, message TEXT)"
    ),
}

#: Version → the tables of its files; those of earlier versions have no blocks.
_TABLES_OF = {1: {n: sql for n, sql in TABLES.items() if n not in ("layouts", "blocks")}, VERSION: TABLES}

_ADVICE = {
    "full": "make room; what was recorded so far is safe, and recording goes on once there is room",
    "locked": "another program is writing to it; close that program",
    "readonly": "choose a path you may write to, or record in memory (store=None)",
    "unable to open": (
        "check that you may read it and, to record, write to its directory (or record in memory: store=None)"
    ),
    "disk I/O error": "the disk or the network share failed; choose a path on a local disk",
    "locking protocol": "the file system does not support locks; choose a path on a local disk",
}


def absolute(path: str | os.PathLike[str]) -> Path:
    """The place itself, which a later change of the working directory does not move.

    Raises:
        ArgumentTypeError: if `path` is not a path.
        ArgumentError: if it is empty.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(
            f"the place of a run is the path of a file such as 'run.sqlite', or None for memory; got {path!r}"
        )
    if not os.fspath(path):
        raise ArgumentError(
            "the path of the run file is empty; give a name such as 'run.sqlite' (to record, None for memory)"
        )
    return Path(path).expanduser().resolve()


@contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Turns SQLite's errors into ours, with the path and what to do.

    Raises:
        DamagedStoreError: if SQLite found the file malformed.
        StoreError: if it could not be opened, read or written.
    """
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise _as_store_error(error, path) from error


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can only read, for the length of a `with` block.

    Nothing is held open in between, so the file can be moved, and a writer can tidy up after itself,
    while somebody looks at the run.

    Raises:
        StoreError: if there is no file, or it cannot be opened.
        StoreVersionError: if it has another version of the format.
        DamagedStoreError: if it is not a run file.
    """
    _require_file(path)
    with explained(path):
        db = _connect_reader(path)
        try:
            # One view of the run for all that is read in the block.
            db.execute("BEGIN")
            yield db
        finally:
            db.close()


@contextmanager
def salvaging(path: Path) -> Iterator[sqlite3.Connection]:
    """Like `reading`, of a file that is damaged: what is found malformed is told row by row.

    Raises:
        StoreError: if there is no file, or it cannot be opened.
        StoreVersionError: if it has another version of the format.
        DamagedStoreError: if not even its header can be read.
    """
    _require_file(path)
    with explained(path):
        db = _connect(path, "ro")
        try:
            # Makes SQLite open a file that is shorter than its header says.
            db.execute("PRAGMA writable_schema=ON")
            _require_run_file(db, path)
            _stand_in_for_missing_tables(db)
            yield db
        finally:
            db.close()


class Writer:
    """The connection of the one who writes; opened when first used, and again after `release`.

    Args:
        path: the run file; None for a run in memory, which stays until it is dropped.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None
        self._process = os.getpid()
        _writers.add(self)

    @property
    def held(self) -> sqlite3.Connection | None:
        """The open connection, if there is one and this process opened it.

        A forked child must not use its parent's: the two would damage the file.
        """
        return self._db if self.path is None or self._process == os.getpid() else None

    def connection(self) -> sqlite3.Connection:
        """The connection, opened if it is not.

        Raises:
            StoreError: if somebody else is writing, or the place cannot be written to.
            StoreVersionError: if the file has another version of the format.
            DamagedStoreError: if there is a file that is not a run file; it is left as it is.
        """
        if self.held is None:
            self._db = _connect_memory() if self.path is None else _connect_writer(self.path)
            self._process = os.getpid()
        assert self._db is not None
        return self._db

    def release(self) -> None:
        """Merges the write-ahead log into the run file and closes it.

        Where somebody is in the middle of reading for longer than `PATIENCE`, or the disk is full, the
        log stays beside the file with nothing lost, and the next one who writes merges it.
        """
        db = self.held
        if self.path is None or db is None:
            return
        self._db = None
        # An error here loses nothing: every transaction in the log is complete and is read from there.
        with suppress(sqlite3.OperationalError):
            _set_journal(db, "delete")
        db.close()

    def discard(self) -> None:
        """Like `release`, and a run in memory is gone."""
        if self.path is None and self._db is not None:
            self._db.close()
        self.release()


#: Every writer of this process that still exists, so that one who is refused can be told by whom.
_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _as_store_error(error: sqlite3.DatabaseError | UnicodeDecodeError, path: Path | None) -> Exception:
    where = "the run in memory" if path is None else f"'{path}'"
    # SQLite puts damaged text into its messages, which then cannot be decoded themselves.
    if type(error) is sqlite3.DatabaseError or "decode" in str(error):
        return DamagedStoreError(_rescue(path, error))
    if not isinstance(error, sqlite3.OperationalError):
        return error
    advice = [advice for sign, advice in _ADVICE.items() if sign in str(error)]
    return StoreError("; ".join([f"{where} cannot be used: {error}", *advice]))


def _rescue(path: Path | None, reason: object) -> str:
    return (
        f"'{path}' is not a run file, or was damaged or cut off ({reason}); "
        f"see_rnn_like.store.recover({str(path)!r}, 'rescued.sqlite') copies what can still be read"
    )


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    # A run file may come from a stranger: its schema may call no functions, and damaged pages are
    # found when they are read.
    db.execute("PRAGMA trusted_schema=OFF")
    db.execute("PRAGMA cell_size_check=ON")
    return db


def _connect_memory() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA page_size={MEMORY_PAGE_SIZE}")
    _create_tables(db)
    return db


def _connect_reader(path: Path) -> sqlite3.Connection:
    db = _connect(path, "ro")
    try:
        _require_run_file(db, path)
        _require_whole(db, path)
        _stand_in_for_missing_tables(db)
    except sqlite3.OperationalError as error:
        db.close()
        if not any(sign in str(error) for sign in ("unable to open", "readonly")):
            raise
        _refuse_log(path, error)
        # Write-ahead mode needs a helper file even to read, and none can be made here. Without a log
        # nobody writes, so the file can be taken as it is.
        db = _connect(path, "ro&immutable=1")
        _require_run_file(db, path)
        _stand_in_for_missing_tables(db)
    except BaseException:
        db.close()
        raise
    return db


def _refuse_log(path: Path, error: sqlite3.Error) -> None:
    for log in (path.with_name(path.name + ending) for ending in ("-wal", "-journal")):
        if log.exists():
            raise StoreError(
                f"'{path}' cannot be read where it is: its last snapshots are in '{log.name}', and to merge "
                "them takes a directory one may write to; copy both files to one"
            ) from error


def _connect_writer(path: Path) -> sqlite3.Connection:
    _make_place(path)
    with explained(path):
        _refuse_foreign(path)
        db = _connect(path, "rwc")
        try:
            _become_writer(db, path)
        except BaseException:
            db.close()
            raise
    return db


def _refuse_directory(path: Path) -> None:
    if path.is_dir():
        raise StoreError(f"'{path}' is a directory; give the path of a file, e.g. '{path / 'run.sqlite'}'")


def _require_file(path: Path) -> None:
    _refuse_directory(path)
    if not path.exists():
        raise StoreError(f"there is no run file at '{path}'")


def _make_place(path: Path) -> None:
    _refuse_directory(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"'{path}' cannot be made: {error.strerror} ('{error.filename}'); "
            "choose another path, or record in memory (store=None)"
        ) from error


def _refuse_foreign(path: Path) -> None:
    """Looks at what is there without being able to change it."""
    if not path.exists() or not path.stat().st_size:
        return
    db = _connect(path, "ro")
    try:
        if not _is_blank(db):
            _require_run_file(db, path)
            _require_whole(db, path)
    finally:
        db.close()


def _is_blank(db: sqlite3.Connection) -> bool:
    (objects,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return objects == 0 and _pragma(db, "application_id") == 0


def _require_run_file(db: sqlite3.Connection, path: Path) -> None:
    if _is_blank(db):
        raise DamagedStoreError(f"'{path}' is empty; nothing was recorded in it")
    if _pragma(db, "application_id") != APPLICATION_ID:
        raise DamagedStoreError(f"'{path}' is not a run file but an SQLite file of another program")
    version = _pragma(db, "user_version")
    if version not in _TABLES_OF:
        way_out = "update see_rnn_like" if version > VERSION else "read it with the version that wrote it"
        raise StoreVersionError(
            f"'{path}' has format {version}, this version of see_rnn_like knows format {VERSION}; {way_out}"
        )
    # Word for word: a view or a trigger under one of these names could run for ever.
    schema = db.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    found = {name: sql for kind, name, sql in schema if kind == "table" and name in TABLES}
    if found != _TABLES_OF[version] or any(kind == "trigger" for kind, _, _ in schema):
        raise DamagedStoreError(f"'{path}' is not a run file: its tables are not those of format {version}")


def _require_whole(db: sqlite3.Connection, path: Path) -> None:
    """SQLite reads a last page that is cut off as if it ended in zeros.

    While somebody writes (write-ahead mode) the file may be growing just now.
    """
    if _pragma(db, "journal_mode") != "wal" and path.stat().st_size % _pragma(db, "page_size"):
        raise DamagedStoreError(_rescue(path, "it ends in the middle of a page"))


def _create_tables(db: sqlite3.Connection) -> None:
    """Makes those that are missing: all in a new file, the later ones in a file of an earlier version."""
    for sql in _missing_tables(db):
        db.execute(sql)
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute(f"PRAGMA user_version={VERSION}")


def _stand_in_for_missing_tables(db: sqlite3.Connection) -> None:
    """Gives one who reads a file of an earlier version the later tables, empty; the file stays as it is."""
    for sql in _missing_tables(db):
        db.execute(sql.replace("CREATE TABLE", "CREATE TEMP TABLE", 1))


def _missing_tables(db: sqlite3.Connection) -> list[str]:
    """How to make the tables that a file of this version does not have yet; all of them for a new file."""
    present = _TABLES_OF.get(_pragma(db, "user_version"), {})
    return [sql for name, sql in TABLES.items() if name not in present]


def _become_writer(db: sqlite3.Connection, path: Path) -> None:
    """Makes sure that nobody else writes, now and later.

    In write-ahead mode every connection keeps a lock until it is closed, and the mode can be left only
    by the last one: whoever can leave it is alone. Two that start at the same moment can both find
    themselves alone; the first to sign its name afterwards wins.
    """
    try:
        # Read before write-ahead mode is left, not after: whoever reads the name of somebody who is still
        # writing is then in that mode and cannot leave it. Read after, the name of one who signed in
        # between would be taken for that of the last run, and both would write.
        signed = _last_writer(db)
        _set_journal(db, "delete")
        db.execute(f"PRAGMA page_size={PAGE_SIZE}")
        _set_journal(db, "wal")
    except sqlite3.OperationalError as error:
        raise (_in_use(path, _last_writer(db)) if "locked" in str(error) else error) from error
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("BEGIN IMMEDIATE")
    if _pragma(db, "journal_mode") != "wal" or _last_writer(db) != signed:
        raise _in_use(path, _last_writer(db))
    if _pragma(db, "user_version") < VERSION:
        _create_tables(db)
    name = f"process {os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex}"
    db.execute("INSERT OR REPLACE INTO meta VALUES ('writer', ?)", (to_json(name, "writer"),))
    db.execute("COMMIT")


def _last_writer(db: sqlite3.Connection) -> str | None:
    if _is_blank(db):
        return None
    row = db.execute("SELECT value FROM meta WHERE name = 'writer'").fetchone()
    return row[0] if row else None


def _in_use(path: Path, writer: str | None) -> StoreError:
    if any(other.path == path and other.held for other in _writers):
        return StoreError(
            f"'{path}' is held by an earlier RNNMonitor (or writer) of this session; "
            "call its run.close() first, or choose another file"
        )
    known = f" (last opened for writing by {writer})" if writer else ""
    return StoreError(
        f"'{path}' is in use: another process or program has it open{known}; "
        "give every run a file of its own, or close the other one first"
    )


def _set_journal(db: sqlite3.Connection, mode: str) -> None:
    """Switches the journal mode, waiting up to `PATIENCE` for those who are reading.

    SQLite's own waiting does not cover a change of the journal mode.
    """
    deadline = time.monotonic() + PATIENCE
    while not _switched(db, mode, last_try=time.monotonic() > deadline):
        time.sleep(0.01)


def _switched(db: sqlite3.Connection, mode: str, last_try: bool) -> bool:
    try:
        (reached,) = db.execute(f"PRAGMA journal_mode={mode}").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" not in str(error) or last_try:
            raise
        return False
    if reached != mode:
        raise sqlite3.OperationalError(f"locking protocol: journal mode '{mode}' is not available")
    return True


def _pragma(db: sqlite3.Connection, name: str) -> Any:
    (value,) = db.execute(f"PRAGMA {name}").fetchone()
    return value
