"""Opening what may not be a run file: places, strangers, versions, damage, hostile content."""

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_snapshots import INFOS, KERNEL, LOSS, OUTPUT, assert_whole, snapshot, values

from see_rnn_like import Run
from see_rnn_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    DamagedStoreError,
    SeeRNNError,
    StoreError,
    StoreVersionError,
)
from see_rnn_like.history import FIELDS
from see_rnn_like.store import SQLiteHistory, codec, recover, recovery, rows
from see_rnn_like.store.files import APPLICATION_ID, TABLES, VERSION

STEPS = 12


@pytest.fixture(scope="module")
def run_bytes(tmp_path_factory):
    """A closed run of `STEPS` steps, as bytes."""
    history = SQLiteHistory.create(tmp_path_factory.mktemp("run") / "run.sqlite")
    history.declare(INFOS)
    for step in range(STEPS):
        history.append(snapshot(step))
    history.add_epoch(0, STEPS - 1, {"loss": 1.0})
    history.set_meta("model", {"name": "lstm"})
    history.close()
    return history.path.read_bytes()


@pytest.fixture
def run_file(tmp_path, run_bytes):
    path = tmp_path / "run.sqlite"
    path.write_bytes(run_bytes)
    return path


@pytest.fixture
def plain_user_dir():
    """A directory seen by a user without special rights; a test run as root becomes nobody meanwhile."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    directory = Path(tempfile.mkdtemp()).resolve()
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o777)
        shutil.rmtree(directory)


def change(path, *statements):
    """Does to a run file what somebody else might."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(*statement) if isinstance(statement, tuple) else db.execute(statement)


def read_everything(history):
    history.steps, history.events, history.epochs, history.meta, history.logs()
    for key in history.infos():
        history.stats(key)
        for what in FIELDS:
            history.load(key, what)


# ---- places --------------------------------------------------------------------------------------


def test_a_directory_is_no_run_file(tmp_path):
    message = rf"'{tmp_path}' is a directory; give the path of a file, e\.g\. '{tmp_path / 'run.sqlite'}'"
    with pytest.raises(StoreError, match=message):
        SQLiteHistory.create(tmp_path)
    with pytest.raises(StoreError, match=message):
        SQLiteHistory.open(tmp_path)


@pytest.mark.parametrize("use", [SQLiteHistory.create, SQLiteHistory.open, Run.open])
def test_what_is_no_path_is_refused_with_an_example_of_one(use):
    with pytest.raises(
        ArgumentTypeError, match=r"path of a file such as 'run\.sqlite', or None for memory; got 3"
    ):
        use(3)
    with pytest.raises(ArgumentError, match="the path of the run file is empty; give a name such as"):
        use("")


def test_opening_what_is_not_there_says_so_and_makes_nothing(tmp_path):
    with pytest.raises(StoreError, match=f"there is no run file at '{tmp_path / 'run.sqlite'}'"):
        SQLiteHistory.open(tmp_path / "run.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_missing_directories_are_made(tmp_path):
    SQLiteHistory.create(tmp_path / "a" / "b" / "run.sqlite").close()
    assert (tmp_path / "a" / "b" / "run.sqlite").is_file()


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(
        StoreError, match=r"cannot be made: (File exists|Not a directory) \('.*a'\); choose another"
    ):
        SQLiteHistory.create(tmp_path / "a" / "run.sqlite")
    assert (tmp_path / "a").read_text() == "mine"


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")


@posix
def test_an_unwritable_directory_is_refused_at_once_with_a_way_out(plain_user_dir):
    plain_user_dir.chmod(0o555)
    with pytest.raises(StoreError) as caught:
        SQLiteHistory.create(plain_user_dir / "run.sqlite")
    assert str(caught.value) == (
        f"'{plain_user_dir / 'run.sqlite'}' cannot be used: unable to open database file; check that you may "
        "read it and, to record, write to its directory (or record in memory: store=None)"
    )
    with pytest.raises(StoreError, match=r"cannot be made: Permission denied .*store=None"):
        SQLiteHistory.create(plain_user_dir / "deeper" / "run.sqlite")


@posix
def test_a_write_protected_run_file_is_refused_for_writing_and_read_all_the_same(plain_user_dir, run_bytes):
    path = plain_user_dir / "run.sqlite"
    path.write_bytes(run_bytes)
    path.chmod(0o444)
    with pytest.raises(
        StoreError, match="readonly database; choose a path you may write to, or record in memory"
    ):
        SQLiteHistory.create(path)
    assert_whole(SQLiteHistory.open(path), 3)
    assert path.read_bytes() == run_bytes


@posix
def test_a_run_file_one_may_not_read_is_refused_by_name(plain_user_dir, run_bytes):
    path = plain_user_dir / "run.sqlite"
    path.write_bytes(run_bytes)
    path.chmod(0)
    with pytest.raises(StoreError, match="unable to open database file; check that you may read it"):
        SQLiteHistory.open(path)


@posix
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_runs_are_read_from_read_only_media(plain_user_dir, run_bytes, mode):
    path = plain_user_dir / "run.sqlite"
    path.write_bytes(run_bytes)
    change(path, f"PRAGMA journal_mode={mode}")
    path.chmod(0o444)
    plain_user_dir.chmod(0o555)
    history = SQLiteHistory.open(path)
    assert history.steps == list(range(STEPS))
    assert_whole(history, STEPS - 1)
    assert [found.name for found in plain_user_dir.iterdir()] == ["run.sqlite"]


@posix
def test_a_log_on_read_only_media_asks_for_a_copy_instead_of_hiding_snapshots(plain_user_dir):
    history = SQLiteHistory.create(plain_user_dir / "live.sqlite")
    history.declare(INFOS)
    history.append(snapshot(0))
    media = plain_user_dir / "media"
    media.mkdir()
    for name in ("live.sqlite", "live.sqlite-wal"):
        shutil.copy(plain_user_dir / name, media / name)
    history.close()
    media.chmod(0o555)
    with pytest.raises(StoreError, match=r"its last snapshots are in 'live.sqlite-wal', and to merge them"):
        SQLiteHistory.open(media / "live.sqlite")
    media.chmod(0o755)
    assert_whole(SQLiteHistory.open(media / "live.sqlite"), 0)


# ---- strangers -----------------------------------------------------------------------------------


def test_a_file_that_is_not_sqlite_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my only copy\n" * 1000)
    for way_in in (SQLiteHistory.create, SQLiteHistory.open):
        with pytest.raises(
            DamagedStoreError, match=r"notes.txt' is not a run file, or was damaged .*not a database"
        ):
            way_in(path)
    assert path.read_text() == "my only copy\n" * 1000
    assert [found.name for found in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_an_sqlite_file_of_another_program_is_refused_and_left_as_it_is(tmp_path, mode):
    path = tmp_path / "photos.db"
    change(path, f"PRAGMA journal_mode={mode}", "CREATE TABLE photos (a)", "INSERT INTO photos VALUES (1)")
    before = path.read_bytes()
    for way_in in (SQLiteHistory.create, SQLiteHistory.open):
        with pytest.raises(
            DamagedStoreError, match=r"photos.db' is not a run file but an SQLite file of another program"
        ):
            way_in(path)
    assert path.read_bytes() == before


def test_an_empty_file_can_become_a_run_but_is_none(tmp_path):
    path = tmp_path / "run.sqlite"
    path.touch()
    with pytest.raises(DamagedStoreError, match="is empty; nothing was recorded in it"):
        SQLiteHistory.open(path)
    history = SQLiteHistory.create(path)
    history.set_meta("a", 1)
    history.close()
    assert SQLiteHistory.open(path).meta["a"] == 1


@pytest.mark.parametrize(
    ("version", "way_out"),
    [(VERSION + 1, "update see_rnn_like"), (0, "read it with the version that wrote it")],
)
def test_another_version_of_the_format_is_refused_with_both_numbers_and_left_as_it_is(
    run_file, version, way_out
):
    change(run_file, f"PRAGMA user_version={version}")
    before = run_file.read_bytes()
    for way_in in (SQLiteHistory.create, SQLiteHistory.open):
        with pytest.raises(StoreVersionError) as caught:
            way_in(run_file)
        assert str(caught.value) == (
            f"'{run_file}' has format {version}, this version of see_rnn_like knows format {VERSION}; "
            f"{way_out}"
        )
    assert run_file.read_bytes() == before


def test_a_fresh_run_has_the_tables_the_documentation_lists(run_file):
    with contextlib.closing(sqlite3.connect(run_file)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        found = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        columns = {name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in TABLES}
    assert found == TABLES
    documented = (Path(__file__).parents[1] / "docs" / "runs.md").read_text(encoding="utf-8")
    for name, names in columns.items():
        [row] = [line for line in documented.splitlines() if line.startswith(f"| `{name}` |")]
        assert [column for column in names if f"`{column}`" not in row] == []


# ---- hostile content -----------------------------------------------------------------------------


def test_a_view_in_the_place_of_a_table_is_refused_before_it_runs(run_file):
    change(
        run_file,
        "DROP TABLE meta",
        "CREATE VIEW meta AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS name, 'x' AS value FROM n",
    )
    for way_in in (SQLiteHistory.create, SQLiteHistory.open):
        with pytest.raises(
            DamagedStoreError, match="is not a run file: its tables are not those of format 2"
        ):
            way_in(run_file)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER grow AFTER INSERT ON snapshots BEGIN INSERT INTO events (step) VALUES (1); END",
        "ALTER TABLE meta ADD COLUMN extra GENERATED ALWAYS AS (zeroblob(1000000000))",
        "DROP TABLE epochs",
    ],
)
def test_tables_that_are_not_ours_word_for_word_are_refused(run_file, statement):
    change(run_file, statement)
    with pytest.raises(DamagedStoreError, match="is not a run file: its tables are not those of format 2"):
        SQLiteHistory.open(run_file)


def test_what_others_add_beside_our_tables_does_no_harm(run_file):
    change(run_file, "CREATE TABLE notes (text)", "ANALYZE")
    assert_whole(SQLiteHistory.open(run_file), 1)


def label(field, step=1, key=LOSS):
    return rows.label(key, field, step)


def forged(dtype, shape, data, field="value"):
    """A row whose checksum is right, whatever it holds."""
    return dtype, shape, zlib.crc32(data, zlib.crc32(f"{label(field)}|{dtype}|{shape}".encode())), data


@pytest.mark.parametrize(
    ("dtype", "shape", "data", "message"),
    [
        ("object", "[]", b"12345678", "'object' is not a type of numbers"),
        ("O", "[]", b"12345678", "'O' is not a type of numbers"),
        ("float32, float32", "[]", b"12345678", "is not a type of numbers"),
        ("float32", "[-1]", b"1234", r"\[-1\] is not a shape"),
        ("float32", "[1.0]", b"1234", "is not a shape"),
        ("float32", "[true]", b"1234", "is not a shape"),
        ("float32", '"1"', b"1234", "is not a shape"),
        ("float32", f"[{10**30}]", b"1234", "is not a shape"),
        ("float32", f"[0, {2**60}]", b"", "is not a shape"),
        ("float32", json.dumps([1] * 99), b"1234", "is not a shape"),
        ("float32", "[" * 100_000, b"1234", "nested too deeply|Expecting value"),
        ("float32", "[1000000000000]", b"1234", "4 bytes where shape .* of float32 needs 4000000000000"),
        ("float32", "[2]", b"1234", "4 bytes where shape"),
        ("float32", "[1]", b"1234", r"must have shape \(\); got \(1,\)"),
        ("float64", "[]", "12345678", "the numbers must be bytes, not str"),
        ("float64", "[]", None, "the numbers must be bytes, not NoneType"),
        ("float64", "[]", 10**18, "the numbers must be bytes, not int"),
    ],
)
def test_a_forged_array_is_refused_without_running_or_allocating_anything(
    run_file, dtype, shape, data, message
):
    row = forged(dtype, shape, data) if isinstance(data, bytes) else (dtype, shape, 0, data)
    change(
        run_file,
        (
            "UPDATE arrays SET dtype=?, shape=?, crc=?, data=? WHERE step=1 AND tensor=3 AND field='value'",
            row,
        ),
    )
    with pytest.raises(DamagedStoreError, match=f"the value of 'loss:value' at step 1: .*({message})"):
        SQLiteHistory.open(run_file)[LOSS]


def test_an_array_that_was_changed_or_moved_to_another_step_is_found_by_its_checksum(run_file):
    (bits,) = (np.array([1.0], "float32").tobytes(),)
    change(run_file, ("UPDATE arrays SET data=? WHERE step=1 AND tensor=3 AND field='value'", (bits,)))
    with pytest.raises(DamagedStoreError, match="'loss:value' at step 1: the checksum does not match"):
        SQLiteHistory.open(run_file)[LOSS]
    change(
        run_file,
        "DELETE FROM arrays WHERE step IN (1, 2) AND tensor=2 AND field='value'",
        "UPDATE arrays SET step=2 WHERE step=3 AND tensor=2 AND field='value'",
    )
    with pytest.raises(DamagedStoreError, match="'lstm/output:value' at step 2: the checksum does not match"):
        SQLiteHistory.open(run_file)[OUTPUT]


@pytest.mark.parametrize(
    ("change_it", "message"),
    [
        ("UPDATE blocks SET data=zeroblob(length(data)) WHERE step=1", "the checksum does not match"),
        ("UPDATE blocks SET data=substr(data, 9) WHERE step=1", "bytes where shape .* needs"),
        ("UPDATE blocks SET data='text' WHERE step=1", "the numbers must be bytes, not str"),
        ("UPDATE blocks SET data=NULL WHERE step=1", "the numbers must be bytes, not NoneType"),
        ("UPDATE blocks SET step=-step WHERE step IN (1, 3)", None),
        ("UPDATE blocks SET layout=7", "not JSON text"),
        ("UPDATE layouts SET places='[[1, 0, 4], [3, 4, 5]]'", "the checksum does not match"),
        ("UPDATE layouts SET places='[[1, 0]]'", "its layout is no list of tensors and rows"),
        ("UPDATE layouts SET places='[[1, 4, 0]]'", "its layout is no list of tensors and rows"),
        ("UPDATE layouts SET places='[[1, 0.0, 4]]'", "its layout is no list of tensors and rows"),
        ("UPDATE layouts SET places='{}'", "its layout is no list of tensors and rows"),
        ("UPDATE layouts SET places=x'37'", "not JSON text"),
    ],
)
def test_a_block_that_was_changed_is_refused_or_absent_never_misread(run_file, change_it, message):
    change(run_file, change_it)
    history = SQLiteHistory.open(run_file)
    if message is None:
        assert [step for step, _ in history.load(KERNEL, "moments")] == [0, 2, *range(4, STEPS)]
        return
    with pytest.raises(DamagedStoreError, match=f"the moments of all tensors at step 1: .*({message})"):
        history.load(KERNEL, "moments", [1])


def test_a_forged_block_with_too_few_rows_is_refused(run_file):
    [(places,)] = SQLiteHistory.open(run_file)._read("SELECT places FROM layouts")
    label = f"the moments of the tensors {places} at step 1"
    forgery = codec.pack(np.ones((2, 8)), label)
    change(
        run_file,
        (
            "UPDATE blocks SET dtype=?, shape=?, crc=?, data=? WHERE step=1 AND field='moments'",
            (*forgery[:3], bytes(forgery.data)),
        ),
    )
    with pytest.raises(DamagedStoreError, match=r"shape \(2, 8\) does not hold the rows of its tensors"):
        SQLiteHistory.open(run_file).load(LOSS, "moments", [1])


def of_version_1(path):
    """Turns a run into what the package wrote before there were blocks."""
    change(path, "DELETE FROM snapshots WHERE step % 2", "DELETE FROM arrays WHERE step % 2")
    change(path, "DROP TABLE blocks", "DROP TABLE layouts", "PRAGMA user_version=1")


def test_a_run_of_version_1_is_read_as_it_is(tmp_path, run_file):
    of_version_1(run_file)
    before = run_file.read_bytes()
    for history in (SQLiteHistory.open(run_file), recover(run_file, tmp_path / "rescued.sqlite")):
        assert history.steps == list(range(0, STEPS, 2))
        for step in history.steps:
            assert_whole(history, step)
    assert run_file.read_bytes() == before


def test_a_run_of_version_1_is_continued_as_one_of_this_version(run_file):
    of_version_1(run_file)
    history = SQLiteHistory.create(run_file)
    history.append(snapshot(STEPS + 1))
    history.close()
    back = SQLiteHistory.open(run_file)
    for step in (*range(0, STEPS, 2), STEPS + 1):
        assert_whole(back, step)
    assert back._read("PRAGMA user_version") == [(VERSION,)]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("tensors", "key", "no colon"),
        ("tensors", "key", 7),
        ("tensors", "dims", '["a", "a", "a"]'),
        ("tensors", "dims", '["step", "gate", "unit"]'),
        ("tensors", "dims", '["only", "two"]'),
        ("tensors", "dims", '{"a": 1}'),
        ("tensors", "shape", "[5, 4]"),
        ("tensors", "shape", "[5, 4, -3]"),
        ("tensors", "shape", '[5, 4, "3"]'),
        ("tensors", "shape", "null"),
        ("tensors", "coords", '{"gate": ["a"]}'),
        ("tensors", "coords", '{"gate": "abcd"}'),
        ("tensors", "coords", '{"other": []}'),
        ("tensors", "attrs", "[]"),
        ("tensors", "attrs", "{"),
        ("tensors", "attrs", '{"a": NaN}'),
        ("snapshots", "step", "one"),
        ("snapshots", "epoch", 1.5),
        ("snapshots", "time", "noon"),
        ("snapshots", "logs", '{"loss": "high"}'),
        ("snapshots", "logs", '{"loss": true}'),
        ("snapshots", "logs", "[1]"),
        ("snapshots", "logs", '{"loss": ' * 100_000),
        ("snapshots", "logs", b"\xff\xfe"),
        ("epochs", "step", None),
        ("epochs", "logs", "3"),
        ("meta", "value", "not json"),
        ("meta", "value", "Infinity"),
        ("meta", "value", None),
    ],
)
def test_rows_that_are_not_ours_are_refused_as_damage(run_file, table, column, value):
    change(run_file, (f"UPDATE {table} SET {column}=? WHERE rowid=1", (value,)))
    with pytest.raises(DamagedStoreError, match=r"is damaged: |is not a run file, or was damaged"):
        read_everything(SQLiteHistory.open(run_file))


@pytest.mark.parametrize(
    ("column", "value"), [("step", "x"), ("key", "x"), ("counts", "[]"), ("counts", "{")]
)
def test_events_that_are_not_ours_are_refused_as_damage(run_file, column, value):
    change(run_file, "INSERT INTO events VALUES (1, 0, 'nan', NULL, NULL, '{}', 'text')")
    assert len(SQLiteHistory.open(run_file).events) == 1
    change(run_file, (f"UPDATE events SET {column}=?", (value,)))
    with pytest.raises(DamagedStoreError, match=f"'{run_file}' is damaged: "):
        SQLiteHistory.open(run_file).events  # noqa: B018


# ---- damage --------------------------------------------------------------------------------------


def check_damaged(path):
    """Whatever is read from a damaged run is one clear error or what was written."""
    try:
        history = SQLiteHistory.open(path)
        keys = history.keys()
    except StoreError:
        return
    for key in (KERNEL, OUTPUT, LOSS):
        with contextlib.suppress(StoreError):
            if key in keys:
                for step, array in history.load(key, "value"):
                    np.testing.assert_array_equal(array, values(step)[key])
                for step, array in history.load(key, "moments"):
                    np.testing.assert_array_equal(array, snapshot(step).moments[key])
    with contextlib.suppress(SeeRNNError):
        read_everything(history)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_run_file_that_was_cut_off_anywhere_gives_one_clear_error(tmp_path, run_file, share):
    path, content = tmp_path / "cut.sqlite", run_file.read_bytes()
    path.write_bytes(content[: int(share * (len(content) - 1))])
    with pytest.raises(DamagedStoreError) as caught:
        read_everything(SQLiteHistory.open(path))
    assert f"'{path}' is" in str(caught.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_anywhere_give_one_clear_error_or_no_wrong_number(tmp_path, run_file, data):
    damaged = bytearray(run_file.read_bytes())
    written = np.flatnonzero(np.frombuffer(bytes(damaged), "uint8"))
    for _ in range(data.draw(st.integers(1, 3))):
        place = int(written[data.draw(st.integers(0, len(written) - 1))])
        damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.sqlite"
    path.write_bytes(bytes(damaged))
    check_damaged(path)


def test_damage_names_the_file_and_the_way_to_rescue_what_is_left(tmp_path, run_bytes):
    path = tmp_path / "run.sqlite"
    path.write_bytes(run_bytes[: len(run_bytes) // 2])
    with pytest.raises(DamagedStoreError) as caught:
        SQLiteHistory.open(path)
    assert str(caught.value) == (
        f"'{path}' is not a run file, or was damaged or cut off (database disk image is malformed); "
        f"see_rnn_like.store.recover('{path}', 'rescued.sqlite') copies what can still be read"
    )
    with pytest.raises(DamagedStoreError):
        SQLiteHistory.create(path)
    assert path.read_bytes() == run_bytes[: len(run_bytes) // 2]


# ---- recovery ------------------------------------------------------------------------------------


def steps_that_are_whole(history, fields=FIELDS):
    """Steps at which these fields of every tensor are there."""
    found = [{step for step, _ in history.load(key, what)} for key in history.infos() for what in fields]
    return sorted(set.intersection(*found))


SAMPLES = 100


def long_run(path, steps=range(200), level="full"):
    """A run of about 80 pages."""
    history = SQLiteHistory.create(path)
    history.declare(INFOS)
    for step in steps:
        history.append(snapshot(step, SAMPLES, level))
    history.add_epoch(0, max(steps), {"loss": 1.0})
    history.set_meta("model", {"name": "lstm"})
    history.close()
    return path


def test_recovering_a_whole_run_copies_all_of_it(tmp_path, run_file):
    back = recover(run_file, tmp_path / "rescued.sqlite")
    for step in range(STEPS):
        assert_whole(back, step)
    whole = SQLiteHistory.open(run_file)
    assert back.infos() == whole.infos()
    assert back.epochs == whole.epochs
    assert back.meta["model"] == whole.meta["model"]
    assert back.logs().identical(whole.logs())
    [event] = back.events
    assert event.kind == "recovered"
    assert event.counts == {"snapshots": STEPS, "arrays": STEPS * 9}
    assert sorted(found.name for found in tmp_path.iterdir()) == ["rescued.sqlite", "run.sqlite"]


@pytest.mark.parametrize(
    ("steps", "level", "fields", "shares"),
    [
        pytest.param(range(0, 400, 2), "full", FIELDS, (0.9, 0.6, 0.3), id="arrays"),
        # The list of so many snapshots begins behind the first third of the file.
        pytest.param(range(1, 6000, 2), "stats", ("moments", "histogram"), (0.9, 0.6), id="blocks"),
    ],
)
def test_of_a_run_that_was_cut_off_the_steps_before_the_cut_are_recovered_whole(
    tmp_path, monkeypatch, steps, level, fields, shares
):
    monkeypatch.setattr(recovery, "_GIVE_UP", 3000)
    path = long_run(tmp_path / "run.sqlite", steps, level)
    content = path.read_bytes()
    for share in shares:
        path.write_bytes(content[: int(len(content) * share)])
        back = recover(path, tmp_path / f"rescued {share}.sqlite")
        whole = steps_that_are_whole(back, fields)
        # Near the cut some pages lie behind it and some before.
        near = len(steps) // 20
        assert whole[:-near] == list(steps[: len(whole) - near])
        for step in (*whole[::99], *whole[-9:]):
            assert_whole(back, step, SAMPLES, level)
        # The first pages hold the beginnings of all tables, so the loss is a little more than the cut.
        assert share - 0.16 < len(whole) / len(steps) < share


def test_of_a_run_with_a_destroyed_page_all_other_steps_are_recovered_whole(tmp_path):
    path = long_run(tmp_path / "run.sqlite")
    content = bytearray(path.read_bytes())
    pages = len(content) // 65536
    middle = pages // 2 * 65536
    content[middle : middle + 65536] = b"\xa5" * 65536
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedStoreError):
        read_everything(SQLiteHistory.open(path))
    back = recover(path, tmp_path / "rescued.sqlite")
    whole = steps_that_are_whole(back)
    assert 180 < len(whole) < 200
    for step in whole[::5]:
        assert_whole(back, step, SAMPLES)
    assert back.epochs == [{"epoch": 0, "step": 199, "loss": 1.0}]


def test_recovering_never_overwrites_and_says_when_nothing_is_left(tmp_path, run_file):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"mine.txt' exists already; give a path where nothing is"):
        recover(run_file, tmp_path / "mine.txt")
    with pytest.raises(StoreError, match="there is no run file at"):
        recover(tmp_path / "nowhere.sqlite", tmp_path / "rescued.sqlite")
    noise = tmp_path / "noise.sqlite"
    noise.write_bytes(bytes(range(256)) * 1000)
    with pytest.raises(DamagedStoreError, match="is not a run file, or was damaged"):
        recover(noise, tmp_path / "rescued.sqlite")
    change(run_file, "DELETE FROM tensors")
    with pytest.raises(
        DamagedStoreError, match=r"nothing can be recovered from '.*': its list of tensors is lost"
    ):
        recover(run_file, tmp_path / "rescued.sqlite")
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "rescued.sqlite").exists()


@posix
def test_a_run_file_is_as_private_as_other_files_the_user_makes(tmp_path):
    history = SQLiteHistory.create(tmp_path / "run.sqlite")
    (tmp_path / "other").touch()
    assert stat.S_IMODE(history.path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    history.close()
