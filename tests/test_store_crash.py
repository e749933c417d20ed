"""What happens to a run when its process is killed, its disk is full, or two want to write it."""

import contextlib
import functools
import itertools
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up_snapshots import INFOS, assert_whole, snapshot

from see_rnn_like.errors import StoreError
from see_rnn_like.store import SQLiteHistory, files

HERE = Path(__file__).parent

PRELUDE = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from made_up_snapshots import INFOS, snapshot
from see_rnn_like.store import SQLiteHistory
"""

#: Continues the run in argv[1] for ever and prints each step when it is complete; argv[2] pages make a
#: checkpoint, so that some kills fall into the merging of the log.
WRITE_FOR_EVER = (
    PRELUDE
    + """
history = SQLiteHistory.create(sys.argv[1])
history._writer.connection().execute(f"PRAGMA wal_autocheckpoint={sys.argv[2]}")
history.declare(INFOS)
step = history.steps[-1] + 1 if history.steps else 0
while True:
    history.append(snapshot(step))
    print(step, flush=True)
    step += 1
"""
)


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def names(path):
    return sorted(found.name for found in path.parent.iterdir())


# ---- kill -9 -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_every_completed_snapshot_survives_kill_9_at_many_moments_on_one_file(tmp_path):
    path = tmp_path / "run.sqlite"
    completed = -1
    for lines, delay, pages in [
        (0, 0.0, 1000),
        (1, 0.0, 1000),
        (40, 0.0007, 3),
        (15, 0.003, 1),
        (60, 0.0, 1),
    ]:
        child = start(WRITE_FOR_EVER, path, pages)
        for _ in range(lines):
            completed = int(child.stdout.readline())
        if lines:
            time.sleep(delay)
            assert child.poll() is None, child.stderr.read()
        child.send_signal(signal.SIGKILL)
        completed = max([completed, *map(int, child.stdout.read().split())])
        child.stdout.close()
        child.stderr.close()
        assert child.wait() == -signal.SIGKILL
        if completed < 0:
            continue
        # First as a colleague would look at it, then as the next training would continue it.
        for history in (SQLiteHistory.open(path), SQLiteHistory.create(path)):
            steps = history.steps
            assert steps == list(range(len(steps)))
            # The one in the making when the process died may have been completed, but not told.
            assert completed in (steps[-1], steps[-1] - 1)
            for step in (*steps[:2], *steps[-5:]):
                assert_whole(history, step)
            history.close()
        completed = steps[-1]
        assert names(path) == ["run.sqlite"]
    for step in steps:
        assert_whole(history, step)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def killed_run(path, steps):
    """Leaves a run file with its log beside it, as a process that is killed does."""
    code = PRELUDE + (
        "import os\n"
        "history = SQLiteHistory.create(sys.argv[1])\n"
        "history.declare(INFOS)\n"
        "for step in range(int(sys.argv[2])):\n"
        "    history.append(snapshot(step))\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path), str(steps)], check=False).returncode == 9
    log = path.with_name(path.name + "-wal")
    assert log.exists()
    return log


def test_a_truncated_log_still_gives_every_snapshot_that_is_whole_in_it(tmp_path):
    path = tmp_path / "run.sqlite"
    log = killed_run(path, 20)
    whole = log.read_bytes()
    main = path.read_bytes()
    counts = []
    for share in (1.0, 0.9, 0.5, 0.3):
        for name in names(path):
            (tmp_path / name).unlink()
        path.write_bytes(main)
        log.write_bytes(whole[: int(len(whole) * share)])
        reader = SQLiteHistory.open(path)
        steps = reader.steps
        assert steps == list(range(len(steps)))
        for step in steps:
            assert_whole(reader, step)
        counts.append(len(steps))
    assert counts[0] == 20
    assert counts == sorted(counts, reverse=True)
    assert 0 < counts[-1] < counts[1] < 20


def test_the_log_of_a_killed_process_is_merged_by_the_next_writer(tmp_path):
    path = tmp_path / "run.sqlite"
    killed_run(path, 3)
    history = SQLiteHistory.create(path)
    history.append(snapshot(3))
    history.close()
    assert names(path) == ["run.sqlite"]
    for step in range(4):
        assert_whole(history, step)


def test_reading_the_run_of_a_killed_process_does_not_change_the_file(tmp_path):
    path = tmp_path / "run.sqlite"
    log = killed_run(path, 3)
    before = path.read_bytes(), log.read_bytes()
    assert_whole(SQLiteHistory.open(path), 2)
    assert (path.read_bytes(), log.read_bytes()) == before


# ---- following -----------------------------------------------------------------------------------


def test_a_reader_follows_a_writer_in_another_process(tmp_path):
    path = tmp_path / "run.sqlite"
    code = PRELUDE + (
        "history = SQLiteHistory.create(sys.argv[1])\n"
        "history.declare(INFOS)\n"
        "print('ready', flush=True)\n"
        "for step in range(150):\n"
        "    history.append(snapshot(step))\n"
        "history.add_epoch(0, 149, {'loss': 1.0})\n"
        "history.close()\n"
        "print('closed', flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    reader, seen = SQLiteHistory.open(path), []
    while not reader.epochs:
        steps = reader.steps
        assert steps == list(range(len(steps)))
        if steps:
            assert_whole(reader, steps[-1])
        seen.append(len(steps))
    assert child.stdout.readline() == "closed\n"
    # The writer's closing leaves one file although somebody was looking on.
    assert names(path) == ["run.sqlite"]
    child.communicate("")
    assert child.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    assert reader.steps == list(range(150))


# ---- two writers ---------------------------------------------------------------------------------


def test_a_second_writer_in_this_process_is_refused_and_the_first_goes_on(tmp_path):
    path = tmp_path / "run.sqlite"
    first = SQLiteHistory.create(path)
    first.declare(INFOS)
    first.append(snapshot(0))
    with pytest.raises(StoreError) as caught:
        SQLiteHistory.create(path)
    assert str(caught.value) == (
        f"'{path}' is held by an earlier RNNMonitor (or writer) of this session; "
        "call its run.close() first, or choose another file"
    )
    first.append(snapshot(1))
    first.close()
    assert names(path) == ["run.sqlite"]
    second = SQLiteHistory.create(path)
    with pytest.raises(StoreError, match="is held by an earlier RNNMonitor"):
        first.append(snapshot(2))
    second.append(snapshot(2))
    second.close()
    assert first.steps == [0, 1, 2]


def test_a_writer_of_this_process_that_let_go_is_not_blamed_for_another_program(tmp_path):
    path = tmp_path / "run.sqlite"
    earlier = SQLiteHistory.create(path)
    earlier.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM meta").fetchall()
        with pytest.raises(StoreError, match="is in use: another process or program has it open"):
            SQLiteHistory.create(path)
    assert earlier.steps == []


def test_once_a_run_is_closed_a_new_monitor_continues_its_file(tmp_path):
    from see_rnn_like import RNNMonitor  # loads TensorFlow, which the other tests here do without

    path = tmp_path / "run.sqlite"
    first = RNNMonitor(store=path)
    with pytest.raises(StoreError, match=r"call its run.close\(\) first"):
        RNNMonitor(store=path)
    first.run.close()
    second = RNNMonitor(store=path)
    second.run.close()
    SQLiteHistory.create(path).close()
    assert names(path) == ["run.sqlite"]


def test_a_second_writer_in_another_process_is_refused(tmp_path):
    path = tmp_path / "run.sqlite"
    child = start(WRITE_FOR_EVER, path, 1000)
    try:
        child.stdout.readline()
        with pytest.raises(StoreError, match=f"is in use: .*process {child.pid} on "):
            SQLiteHistory.create(path)
    finally:
        child.kill()
        child.communicate()
    SQLiteHistory.create(path).close()


@pytest.mark.slow
def test_of_many_that_start_at_the_same_moment_exactly_one_gets_to_write(tmp_path):
    path = tmp_path / "run.sqlite"
    code = PRELUDE + (
        "from see_rnn_like.errors import StoreError\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "try:\n"
        "    history = SQLiteHistory.create(sys.argv[1])\n"
        "    history.declare(INFOS)\n"
        "    history.append(snapshot(int(sys.argv[2])))\n"
        "    print('won', flush=True)\n"
        "except StoreError as error:\n"
        "    print('lost' if 'is in use' in str(error) else error, flush=True)\n"
        "sys.stdin.readline()\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    outcomes = [child.stdout.readline().strip() for child in children]
    for child in children:
        child.communicate("end\n")
    assert sorted(outcomes) == ["lost", "lost", "lost", "won"]
    winner = outcomes.index("won")
    reader = SQLiteHistory.open(path)
    assert reader.steps == [winner]
    assert_whole(reader, winner)
    assert names(path) == ["run.sqlite"]


class Interruptible(sqlite3.Connection):
    """Calls `before` before every statement."""

    before = staticmethod(lambda: None)

    def execute(self, sql, parameters=()):
        Interruptible.before()
        return super().execute(sql, parameters)


def claim(path):
    """The history that writes, or why it is refused."""
    try:
        return SQLiteHistory.create(path)
    except StoreError as error:
        return str(error)


def claims(path, monkeypatch, moment):
    """What comes of a claim and of another before its statement number `moment`; how many were counted."""
    statements, others = itertools.count(), []

    def before():
        if next(statements) == moment:
            others.append(claim(path))

    monkeypatch.setattr(Interruptible, "before", staticmethod(before))
    outcomes = [claim(path), *others]
    return outcomes, next(statements)


def nothing_yet(path):
    pass


def closed_run(path):
    SQLiteHistory.create(path).close()


def run_of_a_killed_process(path):
    killed_run(path, 1)


@pytest.mark.parametrize("beforehand", [nothing_yet, closed_run, run_of_a_killed_process])
def test_whenever_another_claims_the_file_in_the_middle_of_a_claim_exactly_one_gets_to_write(
    tmp_path, monkeypatch, beforehand
):
    # Two once won: the other had come and signed just before the last signature was looked up.
    before = tmp_path / "before"
    before.mkdir()
    beforehand(before / "run.sqlite")
    monkeypatch.setattr(files, "PATIENCE", 0.02)
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Interruptible))
    alone = shutil.copytree(before, tmp_path / "alone") / "run.sqlite"
    [history], moments = claims(alone, monkeypatch, moment=None)
    history.close()
    winners = set()
    for moment in range(moments):
        path = shutil.copytree(before, tmp_path / str(moment)) / "run.sqlite"
        outcomes, _ = claims(path, monkeypatch, moment)
        refused = [isinstance(outcome, str) for outcome in outcomes]
        assert sorted(refused) == [False, True], f"before statement {moment}: {outcomes}"
        assert re.search("is in use: another|is held by an earlier", outcomes[refused.index(True)])
        winner = outcomes[refused.index(False)]
        winner.declare(INFOS)
        winner.append(snapshot(1))
        winner.close()
        assert_whole(winner, 1)
        assert names(path) == ["run.sqlite"]
        winners.add(refused.index(False))
    # The one who came first and the one who came in between.
    assert winners == {0, 1}


def other_writes_and_leaves(path):
    SQLiteHistory.create(path).close()


def other_writes_and_stays(path):
    return SQLiteHistory.create(path)


def other_leaves_write_ahead_mode(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode=delete").fetchone() == ("delete",)


@pytest.mark.parametrize(
    ("other", "moment"),
    [
        (other_writes_and_leaves, "before"),
        (other_writes_and_stays, "before"),
        (other_leaves_write_ahead_mode, "after"),
    ],
)
def test_who_is_overtaken_while_starting_is_refused(tmp_path, monkeypatch, other, moment):
    # Between finding itself alone and signing, somebody else does the same.
    path = tmp_path / "run.sqlite"
    SQLiteHistory.create(path).close()
    switch, held = files._set_journal, []

    def interrupted(db, mode):
        if mode == "wal":
            monkeypatch.setattr(files, "_set_journal", switch)
        if mode == "wal" and moment == "before":
            held.append(other(path))
        switch(db, mode)
        if mode == "wal" and moment == "after":
            held.append(other(path))

    monkeypatch.setattr(files, "_set_journal", interrupted)
    stays = other is other_writes_and_stays
    reason = "held by an earlier RNNMonitor" if stays else "in use: another process or program has it open"
    with pytest.raises(StoreError, match=f"is {reason}"):
        SQLiteHistory.create(path)
    for history in filter(None, held):
        history.set_meta("a", 1)
        history.close()
    SQLiteHistory.create(path).close()
    assert names(path) == ["run.sqlite"]


def test_another_program_that_keeps_the_file_open_does_not_stop_the_writer_from_closing(tmp_path):
    path = tmp_path / "run.sqlite"
    history = SQLiteHistory.create(path)
    history.declare(INFOS)
    history.append(snapshot(0))
    browser = sqlite3.connect(path)
    assert browser.execute("SELECT count(*) FROM snapshots").fetchone() == (1,)
    history.close()
    assert_whole(history, 0)
    assert_whole(SQLiteHistory.open(path), 0)
    browser.close()
    SQLiteHistory.create(path).close()
    assert names(path) == ["run.sqlite"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_neither_write_nor_spoil_the_run_of_its_parent(tmp_path):
    path = tmp_path / "run.sqlite"
    history = SQLiteHistory.create(path)
    history.declare(INFOS)
    history.append(snapshot(0))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            history.append(snapshot(1))
        except StoreError:
            history.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    history.append(snapshot(2))
    assert history.steps == [0, 2]
    history.close()
    assert names(path) == ["run.sqlite"]
    assert_whole(history, 2)


# ---- disk full -----------------------------------------------------------------------------------


def append_until_refused(history, step):
    """The step that was refused, and why."""
    while step < 1000:
        try:
            history.append(snapshot(step))
        except StoreError as error:
            return step, str(error)
        step += 1
    raise AssertionError("nothing was refused")


def test_a_full_disk_stops_one_snapshot_and_not_the_ones_before_or_after(tmp_path):
    path = tmp_path / "run.sqlite"
    history = SQLiteHistory.create(path)
    history.declare(INFOS)
    for step in range(3):
        history.append(snapshot(step))
    db = history._writer.connection()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count={pages}")
    step, message = append_until_refused(history, 3)
    assert message == (
        f"'{path}' cannot be used: database or disk is full; make room; what was recorded so far is safe, "
        "and recording goes on once there is room"
    )
    assert history.steps == list(range(step))
    for done in range(step):
        assert_whole(SQLiteHistory.open(path), done)
    db.execute("PRAGMA max_page_count=1000000")
    history.append(snapshot(step))
    history.append(snapshot(step + 1))
    history.close()
    assert history.steps == list(range(step + 2))
    assert_whole(history, step)
    assert_whole(history, step + 1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_write_that_the_system_refuses_loses_no_completed_snapshot(tmp_path):
    # A limit on the size of files makes the operating system itself fail the write, in the middle of one.
    path = tmp_path / "run.sqlite"
    code = PRELUDE + (
        "import resource, signal\n"
        "from see_rnn_like.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "history = SQLiteHistory.create(sys.argv[1])\n"
        "history.declare(INFOS)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))\n"
        "step = 0\n"
        "try:\n"
        "    while True:\n"
        "        history.append(snapshot(step))\n"
        "        step += 1\n"
        "except StoreError as error:\n"
        "    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "history.append(snapshot(step))\n"
        "history.append(snapshot(step + 1))\n"
        "print(step)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    message, step = done.stdout.splitlines()
    assert "cannot be used: " in message
    assert "disk" in message
    reader = SQLiteHistory.open(path)
    assert int(step) > 5
    assert reader.steps == list(range(int(step) + 2))
    for number in reader.steps:
        assert_whole(reader, number)
    assert names(path) == ["run.sqlite"]
