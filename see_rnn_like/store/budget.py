"""Keeping a run within its budget: which old snapshots give up their arrays, and saying so."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import numpy as np

#: What is given up first: the largest, and the most easily done without. Moments are tiny.
IN_ORDER = ("value", "histogram", "moments")


def overdue(numbers: np.ndarray, sizes: np.ndarray, newest: int, excess: int) -> np.ndarray:
    """Chooses whose arrays to drop so that at least `excess` bytes are freed.

    The snapshots of a run are numbered 0, 1, 2, …; let 2^z(n) be the largest power of two that
    divides n. Next to go is always the one with the largest ``(newest − n) / 2^z(n)``; of two
    equals the one with the smaller power. So the newest ones stay close together, the distance
    between those that are kept doubles whenever their age doubles, and number 0, which every power
    of two divides, goes last of all.

    Args:
        numbers: int ``(snapshot,)``, those that may go.
        sizes: int ``(snapshot,)``, bytes each would free.
        newest: number of the newest snapshot of the run.
        excess: bytes to free.

    Returns:
        The numbers to drop, the first to go first; all of them if even that frees too little.

    Example:
        >>> numbers = np.arange(15)
        >>> gone = overdue(numbers, np.full(15, 100), newest=15, excess=800)
        >>> sorted(set(range(16)) - set(gone.tolist()))
        [0, 4, 8, 10, 12, 13, 14, 15]
    """
    if excess <= 0:
        return numbers[:0]
    power = np.where(numbers > 0, numbers & -numbers, np.iinfo("int64").max)
    order = np.lexsort((power, -((newest - numbers) / power)))
    enough = np.searchsorted(np.cumsum(sizes[order]), excess) + 1
    return numbers[order[:enough]]


def too_large(sizes: Mapping[str, int], max_bytes: int) -> tuple[str, ...]:
    """What one snapshot must give up because it exceeds the budget all by itself.

    Args:
        sizes: field → bytes of the snapshot, of the fields it has.
        max_bytes: the budget.

    Returns:
        Fields in the order of `IN_ORDER`; never the moments, however small the budget.

    Example:
        >>> too_large({"moments": 10, "histogram": 100, "value": 1000}, max_bytes=500)
        ('value',)
    """
    total, dropped = sum(sizes.values()), []
    for field in IN_ORDER[:-1]:
        if total > max_bytes and sizes.get(field):
            dropped.append(field)
            total -= sizes[field]
    return tuple(dropped)


def used(db: sqlite3.Connection) -> int:
    """Bytes of all arrays of the run."""
    (total,) = db.execute(
        "SELECT total(moments_bytes) + total(histogram_bytes) + total(value_bytes) FROM snapshots"
    ).fetchone()
    return int(total)


def thin(db: sqlite3.Connection, excess: int) -> dict[str, int]:
    """Drops arrays of older snapshots until so many bytes are free, or no more can be freed.

    The newest snapshot stays as it is. A snapshot that loses its moments is gone, but for the first.

    Args:
        db: the run, in a transaction.
        excess: bytes to free.

    Returns:
        Field → number of snapshots that gave it up.
    """
    (newest,) = db.execute("SELECT max(number) FROM snapshots").fetchone()
    dropped: dict[str, int] = {}
    for field in IN_ORDER:
        if excess > 0:
            numbers, sizes = _may_go(db, field, newest)
            gone = overdue(numbers, sizes, newest, excess)
            _drop(db, field, gone)
            dropped[field] = len(gone)
            excess -= int(sizes[np.isin(numbers, gone)].sum())
    return dropped


def thinned_message(db: sqlite3.Connection, max_bytes: int) -> str:
    """Says how much of the run is left after thinning."""
    values, histograms, moments = db.execute(
        "SELECT count(value_bytes), count(histogram_bytes), count(moments_bytes) FROM snapshots"
    ).fetchone()
    return (
        f"the budget of {max_bytes:,} bytes is used up: older steps are thinned, log-spaced in age; "
        f"values are left at {values} steps, histograms at {histograms}, other statistics at {moments}"
    )


def too_large_message(step: int, dropped: tuple[str, ...], max_bytes: int) -> str:
    """Says that a snapshot did not fit even alone."""
    what = " and ".join({"value": "values", "histogram": "histograms"}[field] for field in dropped)
    return (
        f"what was captured at step {step} alone exceeds the budget of {max_bytes:,} bytes: its {what} "
        "were not kept, its other statistics were; raise max_bytes or capture fewer layers"
    )


def _may_go(db: sqlite3.Connection, field: str, newest: int) -> tuple[np.ndarray, np.ndarray]:
    found = db.execute(
        f"SELECT number, {field}_bytes FROM snapshots WHERE {field}_bytes NOT NULL AND number < ?", (newest,)
    ).fetchall()
    numbers, sizes = np.array(found, "int64").reshape(-1, 2).T
    return numbers, sizes


def _drop(db: sqlite3.Connection, field: str, gone: np.ndarray) -> None:
    numbers = [(int(number),) for number in gone]
    for table in ("arrays", "blocks"):
        db.executemany(
            f"DELETE FROM {table} WHERE step = (SELECT step FROM snapshots WHERE number = ?) "
            f"AND field = '{field}'",
            numbers,
        )
    db.executemany(f"UPDATE snapshots SET {field}_bytes = NULL WHERE number = ?", numbers)
    if field == "moments":
        db.executemany("DELETE FROM snapshots WHERE number = ? AND number > 0", numbers)
