"""A bundle is there whole or not at all, whenever the process is killed and whatever the disk does."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

from see_rnn_like.bundle import directory as directories
from see_rnn_like.bundle.directory import read_directory, write_directory
from see_rnn_like.errors import StoreError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals and locks of POSIX")

#: The writer of bundles by itself: a process of its own would take seconds to load Keras.
LOADED = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("directory", {directories.__file__!r})
directory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(directory)
"""

#: Writes bundle after bundle into argv[1], and says when it begins and when it has ended one.
WRITE_FOR_EVER = (
    LOADED
    + """
from pathlib import Path
pieces = [bytes([number]) * 200_000 for number in range(8)]
files = {f"{name}.bin": pieces for name in "abcd"}
for number in range(100_000):
    print("begin", number, flush=True)
    directory.write_directory(Path(sys.argv[1]) / f"nan-step-{number}", files)
    print("end", number, flush=True)
"""
)

NAMES = [f"{name}.bin" for name in "abcd"]
WHOLE = b"".join(bytes([number]) * 200_000 for number in range(8))


def start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def visible(place):
    return sorted(name for name in os.listdir(place) if not name.startswith("."))


def hidden(place):
    return sorted(name for name in os.listdir(place) if name.startswith("."))


@pytest.mark.slow
def test_kill_9_at_many_moments_leaves_a_whole_bundle_or_none(tmp_path):
    left_behind = interrupted = 0
    for attempt in range(24):
        place = tmp_path / str(attempt)
        place.mkdir()
        child = start(WRITE_FOR_EVER, place)
        for _ in range(3):
            child.stdout.readline()
        # Within the second bundle or one of the next, evenly over the time one of them takes.
        time.sleep(attempt * 0.0013)
        assert child.poll() is None, child.stderr.read()
        child.send_signal(signal.SIGKILL)
        told = child.stdout.read().split()
        child.stdout.close()
        child.stderr.close()
        assert child.wait() == -signal.SIGKILL
        ended = [
            0,
            *(int(number) for word, number in zip(told[::2], told[1::2], strict=False) if word == "end"),
        ]
        found = visible(place)
        # The one in the making may have been finished, but not told.
        assert found in (
            sorted(f"nan-step-{number}" for number in range(ended[-1] + 1)),
            sorted(f"nan-step-{number}" for number in range(ended[-1] + 2)),
        )
        for name in found:
            assert set(read_directory(place / name, NAMES).values()) == {WHOLE}
            assert sorted(os.listdir(place / name)) == sorted([*NAMES, "SHA256SUMS"])
        left_behind += len(hidden(place))
        interrupted += bool(hidden(place))
        write_directory(place / "next", {"x": [b"1"]})
        assert hidden(place) == []
        assert visible(place) == sorted([*found, "next"])
    # Else the kills would not have fallen into the writing.
    assert interrupted > 5
    assert left_behind == interrupted


@pytest.mark.parametrize("moment", ["mkdir", "first file", "last file", "before rename", "after rename"])
def test_kill_9_at_each_moment_by_name(tmp_path, moment):
    code = (
        LOADED
        + """
import os, signal
from pathlib import Path
def die(*arguments, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
def pieces(last):
    yield b"1"
    if last:
        die()
moment, rename = sys.argv[2], Path.rename
if moment == "mkdir":
    directory._lock = die
if moment == "before rename":
    Path.rename = die
if moment == "after rename":
    Path.rename = lambda *arguments: (rename(*arguments), die())
files = {"x": pieces(moment == "first file"), "y": pieces(moment == "last file")}
directory.write_directory(Path(sys.argv[1]) / "a", files)
"""
    )
    child = start(code, tmp_path, moment)
    _, errors = child.communicate()
    assert child.returncode == -signal.SIGKILL, errors
    whole = moment == "after rename"
    assert visible(tmp_path) == (["a"] if whole else [])
    assert len(hidden(tmp_path)) == (0 if whole else 1)
    if whole:
        assert read_directory(tmp_path / "a", ["x", "y"]) == {"x": b"1", "y": b"1"}
    write_directory(tmp_path / "b", {"x": [b"1"]})
    assert hidden(tmp_path) == []


def test_what_a_living_process_is_writing_is_left_alone(tmp_path):
    code = (
        LOADED
        + """
from pathlib import Path
def pieces():
    yield b"1"
    print("inside", flush=True)
    sys.stdin.readline()
    yield b"2"
print(directory.write_directory(Path(sys.argv[1]) / "slow", {"x": pieces()}).name)
"""
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "inside\n"
    for number in range(3):
        write_directory(tmp_path / f"quick-{number}", {"x": [b"1"]})
    assert len(hidden(tmp_path)) == 1
    out, _ = child.communicate("\n")
    assert (child.returncode, out) == (0, "slow\n")
    assert read_directory(tmp_path / "slow", ["x"]) == {"x": b"12"}
    assert hidden(tmp_path) == []


def test_a_directory_taken_away_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock, taken = directories._lock, []

    def late(descriptor, wait):
        if wait and not taken:
            # Another process cleans up just now: it holds the lock and takes the empty directory away.
            taken.extend(tmp_path.iterdir())
            taken[0].rmdir()
        return lock(descriptor, wait)

    monkeypatch.setattr(directories, "_lock", late)
    write_directory(tmp_path / "a", {"x": [b"1"]})
    assert len(taken) == 1
    assert os.listdir(tmp_path) == ["a"]
    assert read_directory(tmp_path / "a", ["x"]) == {"x": b"1"}


def test_several_processes_that_want_one_name_all_get_one(tmp_path):
    code = (
        LOADED
        + """
from pathlib import Path
sys.stdin.readline()
for _ in range(10):
    directory.write_directory(Path(sys.argv[1]) / "a", {"x": [sys.argv[2].encode()] * 1000})
"""
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)], stdin=subprocess.PIPE)
        for number in range(4)
    ]
    for child in children:
        child.stdin.write(b"\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    assert sorted(os.listdir(tmp_path)) == sorted(["a", *(f"a-{number}" for number in range(2, 41))])
    found = [read_directory(tmp_path / name, ["x"])["x"] for name in os.listdir(tmp_path)]
    assert sorted(found) == sorted(str(number).encode() * 1000 for number in range(4) for _ in range(10))


def test_a_disk_that_is_full_in_the_middle_of_a_file_leaves_nothing(tmp_path):
    # A limit on the size of files makes the operating system itself fail the write.
    code = (
        LOADED
        + """
import resource, signal
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    directory.write_directory(Path(sys.argv[1]) / "a", {"small": [b"1"], "large": [bytes(50_000)] * 4})
except directory.StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print(directory.write_directory(Path(sys.argv[1]) / "a", {"large": [bytes(50_000)] * 4}).name)
"""
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    message, name = done.stdout.splitlines()
    assert message.startswith(
        f"the bundle '{tmp_path / 'a'}' cannot be written: File too large; nothing of it is"
    )
    assert name == "a"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_one_may_not_write_to_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="Permission denied"):
            write_directory(tmp_path / "a", {"x": [b"1"]})
    finally:
        tmp_path.chmod(0o700)


def test_the_checksums_are_sha256_of_the_files(tmp_path):
    place = write_directory(tmp_path / "a", {"x": [b"12", memoryview(b"3")], "y": []})
    lines = (place / "SHA256SUMS").read_text().splitlines()
    assert lines == [f"{hashlib.sha256(b'123').hexdigest()}  x", f"{hashlib.sha256(b'').hexdigest()}  y"]
