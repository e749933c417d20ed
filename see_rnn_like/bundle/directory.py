"""A directory of files that is there whole or not at all, and that shows when it was damaged.

It is written under a hidden name beside its place, brought to the disk, and renamed, which is one step
for the file system. ``SHA256SUMS`` lists every file, as the program ``sha256sum`` writes and checks it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from see_rnn_like.errors import DamagedStoreError, StoreError

try:
    import fcntl
except ImportError:  # Windows: nobody can tell whether the writer of a directory still lives
    fcntl = None  # type: ignore[assignment]

SUMS = "SHA256SUMS"

#: Ends the hidden name of a directory that is not finished.
_UNFINISHED = ".unfinished-bundle"

#: Seconds after which an unfinished directory counts as left behind where nothing better is known.
_DAY = 86400.0

_SUM = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.-]+)\n")
_SUMS = re.compile(rf"({_SUM.pattern})*")


def write_directory(target: Path, files: Mapping[str, Iterable[bytes | memoryview]]) -> Path:
    """Makes a directory with the given files, or nothing.

    What processes that died left unfinished beside it is removed first.

    Args:
        target: the directory to make; if something of that name exists, ``-2``, ``-3``, … is appended.
        files: name → its bytes, piece by piece.

    Returns:
        The directory.

    Raises:
        StoreError: if the place cannot be written to, or is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(target.parent)
        with _unfinished(target) as hidden:
            sums = [f"{_write(hidden / name, pieces)}  {name}\n" for name, pieces in files.items()]
            _write(hidden / SUMS, ["".join(sums).encode()])
            _sync(hidden)
            final = _rename(hidden, target)
        _sync(target.parent)
    except OSError as error:
        raise StoreError(
            f"the bundle '{target}' cannot be written: {error.strerror or error}; nothing of it is left; "
            "make room, or choose a directory you may write to"
        ) from error
    return final


def read_directory(directory: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Reads the given files and compares each with its checksum.

    Args:
        directory: as `write_directory` made it.
        names: the files; no others are looked at.

    Raises:
        StoreError: if there is no such directory, or it cannot be read.
        DamagedStoreError: if a file is missing, or is not the one that was written.
    """
    sums = read_sums(directory)
    return {name: _checked(directory, name, sums.get(name)) for name in names}


def read_sums(directory: Path) -> dict[str, str]:
    """Name → SHA-256 of every file that was written.

    Raises:
        StoreError: if there is no such directory, or it cannot be read.
        DamagedStoreError: if the list is missing or not such a list.
    """
    if not directory.is_dir():
        raise StoreError(f"there is no bundle at '{directory}': it is not a directory")
    text = read_file(directory, SUMS).decode("utf-8", "replace")
    if not _SUMS.fullmatch(text):
        raise DamagedStoreError(f"'{directory}' is not a replay bundle, or was damaged: '{SUMS}' is no list")
    return {name: digest for digest, name in _SUM.findall(text)}


def read_file(directory: Path, name: str) -> bytes:
    """The bytes of one file, which must be a file: no link, no device.

    Raises:
        StoreError: if it cannot be read.
        DamagedStoreError: if it is missing or something else.
    """
    path = directory / name
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise DamagedStoreError(f"'{directory}' is not a replay bundle: '{name}' is not a file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedStoreError(
            f"'{directory}' is not a replay bundle, or only a part of one: there is no '{name}'"
        ) from error
    except OSError as error:
        raise StoreError(f"'{path}' cannot be read: {error.strerror or error}") from error


def _checked(directory: Path, name: str, expected: str | None) -> bytes:
    content = read_file(directory, name)
    if hashlib.sha256(content).hexdigest() != expected:
        raise DamagedStoreError(
            f"'{directory}' was damaged or cut off: '{name}' is not the file that was written "
            f"(its SHA-256 differs from the one in '{SUMS}'); copy the bundle again"
        )
    return content


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """Writes a file down to the disk; returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _sync(directory: Path) -> None:
    """Brings the names in a directory to the disk, where the system can do that."""
    if fcntl is None:  # Windows opens no directories
        return
    with _opened(directory) as descriptor:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # what some network shares answer
                raise


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A hidden directory that is locked as long as this process lives, and removed if it was not renamed."""
    hidden = target.with_name(f".{target.name}-{uuid.uuid4().hex}{_UNFINISHED}")
    try:
        with contextlib.ExitStack() as held:
            _claim(hidden, held)
            yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _claim(hidden: Path, held: contextlib.ExitStack) -> None:
    """Makes the directory and locks it; one who cleans up may take it away before it is locked."""
    while not hidden.is_dir():
        hidden.mkdir()
        if fcntl is not None:
            with contextlib.suppress(FileNotFoundError):
                _lock(held.enter_context(_opened(hidden)), wait=True)


def _lock(descriptor: int, wait: bool) -> bool:
    """Whether it was locked. A lock goes with its process, however that ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        # Held by another, or a shared disk that knows no locks of directories: then nothing is removed.
        return False
    return True


def _rename(hidden: Path, target: Path) -> Path:
    for number in itertools.count(1):
        final = target if number == 1 else target.with_name(f"{target.name}-{number}")
        if os.path.lexists(final):
            continue
        try:
            return hidden.rename(final)
        except OSError:
            # Somebody else was faster with this name; anything else is an error.
            if not os.path.lexists(final):
                raise
    raise AssertionError


def _remove_left_behind(parent: Path) -> None:
    for hidden in parent.glob(f".*{_UNFINISHED}"):
        # One that cannot be opened is another user's, or has just been finished.
        with contextlib.suppress(OSError):
            _remove_if_abandoned(hidden)


def _remove_if_abandoned(hidden: Path) -> None:
    if fcntl is None:
        if time.time() - hidden.stat().st_mtime > _DAY:
            shutil.rmtree(hidden)
        return
    with _opened(hidden) as descriptor:
        if _lock(descriptor, wait=False):
            shutil.rmtree(hidden)
