"""What goes into a store comes out of it: arrays, labels, scalars, facts, events."""

import gc
import json
import math
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_up_snapshots import GATES, INFOS, KERNEL, LOSS, OUTPUT, assert_whole, in_rows, snapshot

from see_rnn_like import stats
from see_rnn_like.errors import (
    ArgumentError,
    ArgumentTypeError,
    CaptureError,
    StoreError,
    UnknownTensorError,
)
from see_rnn_like.history import Event, Rows, Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.store import SQLiteHistory, codec
from see_rnn_like.store.files import PAGE_SIZE


@pytest.fixture(params=["memory", "file"])
def history(request, tmp_path):
    made = SQLiteHistory.create(None if request.param == "memory" else tmp_path / "run.sqlite")
    made.declare(INFOS)
    yield made
    made.close()


def beside(path):
    return sorted(found.name for found in path.parent.iterdir())


# ---- snapshots -----------------------------------------------------------------------------------


def test_every_array_of_every_step_reads_back_as_it_was_written(history):
    for step in (0, 3, 4, 11):
        history.append(snapshot(step))
    assert history.steps == [0, 3, 4, 11]
    for step in history.steps:
        assert_whole(history, step)


def test_a_file_reads_the_same_from_a_second_history(tmp_path):
    with_writer = SQLiteHistory.create(tmp_path / "run.sqlite")
    with_writer.declare(INFOS)
    for step in range(3):
        with_writer.append(snapshot(step))
    reader = SQLiteHistory.open(tmp_path / "run.sqlite")
    for step in range(3):
        assert_whole(reader, step)
    with_writer.close()
    assert_whole(reader, 2)


def test_steps_come_in_order_whatever_order_they_were_written_in(history):
    for step in (5, 1, 3):
        history.append(snapshot(step))
    assert history.steps == [1, 3, 5]
    assert [step for step, _ in history.load(KERNEL, "moments")] == [1, 3, 5]
    assert history.logs()["step"].values.tolist() == [1, 3, 5]


def test_statistics_are_those_numpy_computes_from_the_values(history):
    for step in range(4):
        history.append(snapshot(step))
    table = history.stats(str(KERNEL))
    values = history[KERNEL].astype("float64")
    over = ("input", "unit")
    np.testing.assert_allclose(table["mean"], values.mean(over), rtol=1e-12)
    np.testing.assert_allclose(table["std"], values.std(over), rtol=1e-9)
    np.testing.assert_allclose(table["norm"], np.sqrt((values**2).sum(over)), rtol=1e-12)
    np.testing.assert_array_equal(table["max"], values.max(over))
    np.testing.assert_array_equal(table["min"], values.min(over))
    assert table["histogram"].dtype == "int64"
    np.testing.assert_array_equal(table["histogram"].sum("bin"), table["count"])
    assert table.gate.values.tolist() == list(GATES)
    assert table.attrs == {"key": str(KERNEL), "unscaled": True}


def test_load_takes_only_the_steps_asked_for_that_exist(history):
    for step in range(5):
        history.append(snapshot(step))
    assert [step for step, _ in history.load(OUTPUT, "value", [3, 1, 99, 1])] == [1, 3]


def test_load_refuses_an_unknown_field_and_an_unknown_key(history):
    with pytest.raises(
        ArgumentError, match="what must be one of 'moments', 'histogram', 'value'; got 'mean'"
    ):
        history.load(KERNEL, "mean")
    with pytest.raises(UnknownTensorError, match="nothing was recorded under 'gru/forward/kernel:gradient'"):
        history.load(TensorKey.parse("gru/forward/kernel:gradient"), "value")


def test_a_tensor_missing_from_some_snapshots_has_only_the_steps_it_was_in(history):
    history.append(snapshot(0))
    only_loss = snapshot(1)
    history.append(
        replace(
            only_loss,
            moments={LOSS: only_loss.moments[LOSS]},
            histograms={LOSS: only_loss.histograms[LOSS]},
            values={LOSS: only_loss.values[LOSS]},
        )
    )
    assert history.stats(KERNEL).step.values.tolist() == [0]
    assert history[LOSS].step.values.tolist() == [0, 1]


def test_a_snapshot_without_any_tensor_is_a_step_with_logs(history):
    history.append(Snapshot(7, 0, 1.0, 0.1, {}, {}, {}, {"loss": 2.0}))
    assert history.steps == [7]
    assert float(history.logs()["loss"].sel(step=7)) == 2.0
    assert history.stats(LOSS).sizes["step"] == 0


def test_numpy_numbers_in_a_snapshot_are_as_good_as_python_ones(history):
    history.append(
        replace(
            snapshot(2),
            step=np.int64(2),
            epoch=np.int32(0),
            time=np.float32(1.5),
            logs={"loss": np.float32(0.5)},
        )
    )
    assert history.steps == [2]
    assert type(history.steps[0]) is int
    assert float(history.logs()["loss"].sel(step=2)) == 0.5


def test_a_step_written_twice_is_refused_and_the_first_recording_stays(history):
    history.append(snapshot(4))
    with pytest.raises(CaptureError, match="step 4 is recorded already and stays as it was recorded first"):
        history.append(replace(snapshot(4), logs={"loss": -1.0}))
    assert history.steps == [4]
    assert_whole(history, 4)
    history.append(snapshot(5))
    assert_whole(history, 5)


def test_a_refused_snapshot_leaves_nothing_behind(history):
    stranger = TensorKey("gru", "forward", "kernel", "weight")
    bad = snapshot(1)
    with pytest.raises(CaptureError, match="'gru/forward/kernel:weight' was not declared"):
        history.append(replace(bad, values={**bad.values, stranger: np.zeros((2, 2), "float32")}))
    assert history.steps == []
    assert history.load(KERNEL, "moments") == []
    history.append(bad)
    assert_whole(history, 1)


@pytest.mark.parametrize(
    ("field", "array", "message"),
    [
        (
            "values",
            np.zeros((5, 3, 3)),
            r"the value of '.*' must have shape \(None, 4, None\); got \(5, 3, 3\)",
        ),
        ("values", np.zeros((5, 12)), r"must have shape \(None, 4, None\); got \(5, 12\)"),
        ("moments", np.zeros((1, 8)), r"the moments of '.*' must have shape \(4, 8\); got \(1, 8\)"),
        ("histograms", np.zeros((4, 10), "int64"), r"the histogram of '.*' must have shape \(4, 193\)"),
        ("histograms", np.zeros((4, 193)), "must be whole numbers; got float64"),
        ("values", np.full((5, 4, 3), "x"), "arrays of type str32 cannot be kept; types are bool, int8"),
        ("values", np.full((5, 4, 3), None), "arrays of type object cannot be kept"),
    ],
)
def test_arrays_of_the_wrong_kind_are_refused_by_name(history, field, array, message):
    with pytest.raises(CaptureError, match=message):
        history.append(replace(snapshot(0), **{field: {KERNEL: array}}))
    assert history.steps == []


# ---- arrays, bit for bit -------------------------------------------------------------------------

NUMBERS = [np.dtype(name) for name in codec.DTYPES if name != "bfloat16"]


@given(
    array=st.sampled_from(NUMBERS).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    ),
    order=st.sampled_from("CF"),
    big_endian=st.booleans(),
)
def test_packing_keeps_every_bit_of_every_type_shape_and_layout(array, order, big_endian):
    given_array = np.asarray(array, order=order).astype(array.dtype.newbyteorder(">" if big_endian else "<"))
    back = codec.unpack(codec.Packed(*map(_as_stored, codec.pack(given_array, "x"))), "x")
    assert back.shape == array.shape
    assert back.dtype == array.dtype
    assert back.tobytes() == np.ascontiguousarray(array).tobytes()
    assert not back.flags.writeable


def _as_stored(column):
    """SQLite returns every blob as bytes."""
    return bytes(column) if isinstance(column, memoryview) else column


def test_packing_keeps_nan_payloads_negative_zero_and_subnormals():
    bits = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x00000001, 0x7F800000, 0xFF800000], "uint32")
    back = codec.unpack(codec.Packed(*map(_as_stored, codec.pack(bits.view("float32"), "x"))), "x")
    np.testing.assert_array_equal(back.view("uint32"), bits)


def test_packing_takes_a_view_with_strides_and_leaves_it_alone():
    base = np.arange(24.0).reshape(4, 6)
    view = base[::2, ::-3]
    before = base.copy()
    back = codec.unpack(codec.Packed(*map(_as_stored, codec.pack(view, "x"))), "x")
    np.testing.assert_array_equal(back, before[::2, ::-3])
    np.testing.assert_array_equal(base, before)


def test_every_bfloat16_there_is_comes_back_as_the_same_float32(history):
    every = np.arange(2**16, dtype="uint16").view(ml_dtypes.bfloat16)
    history.declare([TensorInfo(TensorKey.parse("all:value"), ("number",), (2**16,))])
    history.append(Snapshot(0, 0, 0.0, 0.0, {}, {}, {TensorKey.parse("all:value"): every}))
    back = history["all:value"].values[0]
    assert back.dtype == "float32"
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(back, every.astype("float32"))
    np.testing.assert_array_equal(back.view("uint32") >> 16, np.arange(2**16))


def test_bfloat16_is_stored_in_two_bytes_under_its_own_name_and_read_without_ml_dtypes(tmp_path):
    path, key = tmp_path / "run.sqlite", TensorKey.parse("dense/kernel:weight")
    history = SQLiteHistory.create(path)
    history.declare([TensorInfo(key, ("unit",), (3,))])
    array = np.array([1.5, -2.0, 3.140625], ml_dtypes.bfloat16)
    history.append(Snapshot(0, 0, 0.0, 0.0, {}, {}, {key: array}))
    history.close()
    with sqlite3.connect(path) as db:
        stored = db.execute("SELECT dtype, shape, length(data) FROM arrays").fetchall()
    db.close()
    assert stored == [("bfloat16", "[3]", 6)]
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "from see_rnn_like.store import SQLiteHistory\n"
        f"print(SQLiteHistory.open({str(path)!r})['dense/kernel:weight'].values.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[1.5, -2.0, 3.140625]]"


def test_histograms_are_stored_narrow_and_read_wide(tmp_path):
    path = tmp_path / "run.sqlite"
    history = SQLiteHistory.create(path)
    history.declare(INFOS)
    counts = np.zeros((1, stats.BINS), "int64")
    for step, most in enumerate((0, 255, 256, 2**16, 2**40)):
        counts[0, 5] = most
        history.append(Snapshot(step, 0, 0.0, 0.0, {}, {LOSS: counts}))
        assert history.load(LOSS, "histogram", [step])[0][1][0, 5] == most
        assert history.load(LOSS, "histogram", [step])[0][1].dtype == "int64"
    history.close()
    with sqlite3.connect(path) as db:
        types = [name for (name,) in db.execute("SELECT dtype FROM arrays ORDER BY step")]
    db.close()
    assert types == ["uint8", "uint8", "uint16", "uint32", "uint64"]


# ---- declaring -----------------------------------------------------------------------------------


def test_tensors_come_back_in_the_order_of_their_declaration_with_all_labels(history):
    assert list(history.infos().values()) == INFOS
    assert history.keys() == [KERNEL, OUTPUT, LOSS]


def test_declaring_again_changes_nothing_but_sizes_that_differ_and_new_attrs(history):
    history.declare(INFOS)
    assert list(history.infos().values()) == INFOS
    history.declare([replace(INFOS[1], shape=(4, 7, 6), attrs={"batch": "training"})])
    assert history.info(OUTPUT) == replace(INFOS[1], shape=(None, 7, 6), attrs={"batch": "training"})
    history.declare([INFOS[1]])
    assert history.info(OUTPUT).shape == (None, 7, 6)


def test_a_tensor_cannot_be_declared_again_with_other_axes(history):
    with pytest.raises(CaptureError, match=r"'lstm/output:value' is recorded with dims \('sample', 'time'"):
        history.declare([replace(INFOS[1], dims=("sample", "unit"), shape=(8, 6))])
    with pytest.raises(CaptureError, match=r"cannot be declared again with dims .* and coords {'gate'"):
        history.declare([replace(INFOS[0], coords={"gate": ("a", "b", "c", "d")})])


def test_a_declaration_that_fails_half_way_declares_nothing(history):
    new = TensorInfo(TensorKey.parse("dense/kernel:weight"), ("input", "unit"), (2, 2))
    with pytest.raises(CaptureError):
        history.declare([new, replace(INFOS[1], dims=("sample", "unit"), shape=(8, 6))])
    assert history.keys() == [KERNEL, OUTPUT, LOSS]
    with pytest.raises(CaptureError, match="was not declared"):
        history.append(Snapshot(0, 0, 0.0, 0.0, {}, {}, {new.key: np.zeros((2, 2))}))
    history.declare([new])
    history.append(Snapshot(0, 0, 0.0, 0.0, {}, {}, {new.key: np.zeros((2, 2))}))
    assert history[new.key].shape == (1, 2, 2)


def test_a_smaller_last_batch_widens_the_declared_shape_and_is_padded_when_read(history):
    history.append(snapshot(0))
    history.append(snapshot(1, samples=3))
    assert history.info(OUTPUT).shape == (None, 7, 6)
    assert_whole(history, 1, samples=3)
    together = history[OUTPUT]
    assert together.shape == (2, 8, 7, 6)
    assert together["sample_size"].values.tolist() == [8, 3]
    assert np.isnan(together.values[1, 3:]).all()
    np.testing.assert_array_equal(together.values[1, :3], snapshot(1, 3).values[OUTPUT])


# ---- scalars, facts, events ----------------------------------------------------------------------


def test_logs_keep_nan_and_infinities_and_name_clashes(history):
    history.append(
        replace(snapshot(0), logs={"loss": math.nan, "up": math.inf, "down": -math.inf, "time": 3.0})
    )
    history.append(replace(snapshot(1), logs={"loss": 0.1}))
    logs = history.logs()
    assert np.isnan(logs["loss"].values[0])
    assert logs["loss"].values[1] == 0.1
    assert logs["up"].values[0] == math.inf
    assert logs["down"].values[0] == -math.inf
    assert np.isnan(logs["up"].values[1])
    assert logs["metric_time"].values[0] == 3.0
    assert logs["time"].values.tolist() == [1.7e9, 1.7e9 + 1]
    assert logs["epoch"].dtype == "int64"


def test_logs_of_an_empty_run_are_an_empty_table(history):
    logs = history.logs()
    assert logs.sizes["step"] == 0
    assert set(logs.data_vars) == {"epoch", "time", "seconds"}


@given(st.dictionaries(st.text(max_size=8), st.floats(allow_nan=True, allow_infinity=True)))
@example({"NaN0": 0.0, "loss": math.nan, "up": math.inf, "down": -math.inf})
def test_scalars_survive_strict_json_exactly(logs):
    text = codec.to_json(logs, "logs")
    constants = []
    json.loads(text, parse_constant=constants.append)
    assert constants == []
    back = codec.numbers_from_json(text)
    assert back.keys() == logs.keys()
    assert all(
        back[name] == value or (math.isnan(back[name]) and math.isnan(value)) for name, value in logs.items()
    )


def test_epochs_come_back_in_order_with_nan_and_name_clashes(history):
    history.add_epoch(0, 9, {"loss": 1.0, "val_loss": math.nan})
    history.add_epoch(1, 19, {"loss": 0.5, "step": 4.0})
    history.add_epoch(0, 29, {"loss": 0.25})
    first, second, third = history.epochs
    assert first["epoch"] == 0
    assert first["step"] == 9
    assert math.isnan(first["val_loss"])
    assert second == {"epoch": 1, "step": 19, "loss": 0.5, "metric_step": 4.0}
    assert third == {"epoch": 0, "step": 29, "loss": 0.25}


def test_events_come_back_in_the_order_they_were_seen(history):
    seen = [
        Event(9, "nan", KERNEL, "forget", {"nan": 3, "inf": 0}, "3 NaN in the forget gate"),
        Event(2, "capture-off", None, None, {}, "<b>no</b> 'quotes' \N{GREEK SMALL LETTER LAMDA}"),
    ]
    for event in seen:
        history.add_event(event)
    assert history.events == seen


def test_facts_are_what_json_can_hold_and_the_last_one_of_a_name_counts(history):
    history.set_meta("model", {"layers": [1, 2.5, None, True], "name": "ü"})
    history.set_meta("batch", np.int64(32))
    history.set_meta("shape", (None, 3))
    history.set_meta("best", math.inf)
    history.set_meta("batch", np.float32(0.5))
    meta = history.meta
    meta.pop("writer", None)
    assert meta == {
        "model": {"layers": [1, 2.5, None, True], "name": "ü"},
        "batch": 0.5,
        "shape": [None, 3],
        "best": "Infinity",
    }


def test_a_fact_that_json_cannot_hold_is_refused_by_name(history, tmp_path):
    with pytest.raises(
        ArgumentTypeError, match=r"meta 'where' can hold numbers, strings, .*; got PosixPath|WindowsPath"
    ):
        history.set_meta("where", tmp_path)
    assert "where" not in history.meta


# ---- a life: create, close, continue -------------------------------------------------------------


def test_while_writing_the_file_is_in_write_ahead_mode_with_large_pages(tmp_path):
    history = SQLiteHistory.create(tmp_path / "run.sqlite")
    history.set_meta("a", 1)
    assert beside(history.path) == ["run.sqlite", "run.sqlite-shm", "run.sqlite-wal"]
    db = sqlite3.connect(history.path)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA page_size").fetchone() == (PAGE_SIZE,)
    db.close()
    history.close()


def test_closing_leaves_one_file_and_reading_it_adds_none(tmp_path):
    history = SQLiteHistory.create(tmp_path / "run.sqlite")
    history.declare(INFOS)
    history.append(snapshot(0))
    history.close()
    history.close()
    assert beside(history.path) == ["run.sqlite"]
    assert_whole(history, 0)
    assert_whole(SQLiteHistory.open(history.path), 0)
    assert beside(history.path) == ["run.sqlite"]


def test_a_closed_history_opens_again_by_itself_to_write(tmp_path):
    history = SQLiteHistory.create(tmp_path / "run.sqlite")
    history.declare(INFOS)
    history.append(snapshot(0))
    history.close()
    history.append(snapshot(1))
    assert history.steps == [0, 1]
    history.close()
    assert beside(history.path) == ["run.sqlite"]


def test_a_second_history_continues_a_closed_run(tmp_path):
    path = tmp_path / "run.sqlite"
    first = SQLiteHistory.create(path)
    first.declare(INFOS[:2])
    first.set_meta("seed", 1)
    first.append(replace(snapshot(0), moments={}, histograms={}, values={KERNEL: snapshot(0).values[KERNEL]}))
    first.close()
    second = SQLiteHistory.create(path)
    second.declare(INFOS)
    second.append(snapshot(1))
    assert second.steps == [0, 1]
    assert second.keys() == [KERNEL, OUTPUT, LOSS]
    assert second.meta["seed"] == 1
    second.close()
    # The first one notices what the second one did.
    first.append(snapshot(2))
    assert first.steps == [0, 1, 2]
    assert_whole(first, 2)
    first.close()


def test_a_dropped_writer_closes_its_file(tmp_path):
    history = SQLiteHistory.create(tmp_path / "run.sqlite")
    history.declare(INFOS)
    history.append(snapshot(0))
    path = history.path
    del history
    gc.collect()
    assert beside(path) == ["run.sqlite"]
    assert_whole(SQLiteHistory.open(path), 0)


def test_a_writer_alive_at_the_end_of_the_process_closes_its_file(tmp_path):
    path = tmp_path / "run.sqlite"
    code = (
        "from see_rnn_like.store import SQLiteHistory\n"
        f"history = SQLiteHistory.create({str(path)!r})\nhistory.set_meta('a', 1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert beside(path) == ["run.sqlite"]
    assert SQLiteHistory.open(path).meta["a"] == 1


def test_a_run_in_memory_survives_closing_and_touches_no_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    history = SQLiteHistory.create(None)
    history.declare(INFOS)
    history.append(snapshot(0))
    history.close()
    assert_whole(history, 0)
    history.append(snapshot(1))
    assert history.steps == [0, 1]
    assert history.path is None
    assert list(tmp_path.iterdir()) == []


def test_a_reader_cannot_write(tmp_path):
    SQLiteHistory.create(tmp_path / "run.sqlite").close()
    reader = SQLiteHistory.open(tmp_path / "run.sqlite")
    with pytest.raises(StoreError, match=r"was opened for reading; SQLiteHistory.create"):
        reader.set_meta("a", 1)


def test_a_change_of_the_working_directory_does_not_move_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    history = SQLiteHistory.create("run.sqlite")
    history.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    history.set_meta("a", 1)
    history.close()
    assert SQLiteHistory.open(tmp_path / "run.sqlite").meta["a"] == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["my run.sqlite", "50%?#&.db", "ünï\N{SNOWMAN}.db", "a'b\"c.db"])
def test_any_file_name_will_do(tmp_path, name):
    history = SQLiteHistory.create(tmp_path / "deep" / "deeper" / name)
    history.set_meta("a", 1)
    history.close()
    assert SQLiteHistory.open(tmp_path / "deep" / "deeper" / name).meta["a"] == 1
    assert beside(history.path) == [name]


# ---- threads -------------------------------------------------------------------------------------


def test_writer_and_reader_can_be_used_from_many_threads_at_once(history):
    failures = []

    def write(first):
        try:
            for step in range(first, 60, 3):
                history.append(snapshot(step, level="stats"))
        except Exception as error:
            failures.append(error)

    def read():
        try:
            for _ in range(20):
                table = history.stats(KERNEL)
                assert (table["histogram"].sum("bin") == table["count"]).all()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(first,)) for first in range(3)]
    threads += [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert history.steps == list(range(60))


def test_rows_of_one_block_read_back_as_arrays_of_their_own_do():
    rng = np.random.default_rng(0)
    gates = {"gate": ("update", "reset", "new")}
    infos = [
        TensorInfo(
            TensorKey("gru", "forward", "kernel", "gradient"), ("input", "gate", "unit"), (2, 3, 4), gates, {}
        ),
        TensorInfo(TensorKey("head", None, "kernel", "weight"), ("input", "unit"), (4, 2), {}, {}),
        TensorInfo(TensorKey("head", None, "output", "value"), ("sample", "unit"), (None, 2), {}, {}),
    ]
    places = dict(zip([info.key for info in infos], [slice(1, 4), slice(0, 1), slice(4, 5)], strict=True))
    moments = rng.standard_normal((5, len(stats.MOMENTS)))
    counts = rng.integers(0, 100, (5, stats.BINS), dtype="int32")
    counts[2, 7], counts[4, 9] = 300, 70_000
    histories = []
    for wrap in (lambda block: Rows(block, places), lambda block: {k: block[p] for k, p in places.items()}):
        history = SQLiteHistory.create(None)
        history.declare(infos)
        history.append(Snapshot(0, 0, 0.0, 0.0, wrap(moments), wrap(counts)))
        histories.append(history)
    for info in infos:
        for field in ("moments", "histogram"):
            ((_, one),), ((_, other),) = (history.load(info.key, field) for history in histories)
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    assert [len(history._read("SELECT 1 FROM blocks")) for history in histories] == [2, 0]
    assert [len(history._read("SELECT 1 FROM arrays")) for history in histories] == [0, 6]
    (sizes,) = histories[0]._read("SELECT moments_bytes, histogram_bytes FROM snapshots")
    # One count of 70,000 takes 4 bytes of all counts of the block.
    assert sizes == (moments.size * 8, counts.size * 4)


@pytest.mark.parametrize(
    ("columns", "place", "message"),
    [
        (8, slice(0, 2), r"the statistics of 'loss:value' need 1 rows; got 0 to 2 of 5"),
        (8, slice(5, 6), r"the statistics of 'loss:value' need 1 rows; got 5 to 6 of 5"),
        (8, slice(-1, 0), r"the statistics of 'loss:value' need 1 rows; got -1 to 0 of 5"),
        (7, slice(0, 1), r"a block of moments must have shape \(row, 8\); got \(5, 7\)"),
    ],
)
def test_a_block_that_does_not_fit_its_tensors_is_refused(history, columns, place, message):
    block = np.ones((5, columns))
    with pytest.raises(CaptureError, match=message):
        history.append(Snapshot(1, 0, 0.0, 0.0, Rows(block, {LOSS: place}), {}))
    assert history.steps == []
    history.append(Snapshot(1, 0, 0.0, 0.0, Rows(np.ones((5, 8)), {LOSS: slice(4, 5)}), {}))
    assert history.steps == [1]


def test_a_shorter_block_in_the_same_places_is_refused(history):
    places = {LOSS: slice(4, 5)}
    history.append(Snapshot(0, 0, 0.0, 0.0, Rows(np.ones((5, 8)), places), {}))
    with pytest.raises(CaptureError, match=r"need 1 rows; got 4 to 5 of 4"):
        history.append(Snapshot(1, 0, 0.0, 0.0, Rows(np.ones((4, 8)), places), {}))


def test_tensors_that_come_and_go_are_read_by_the_layout_of_each_step(history):
    by_step = [(KERNEL, OUTPUT, LOSS), (LOSS,), (OUTPUT, LOSS), (KERNEL, OUTPUT, LOSS)]
    for step, keys in enumerate(by_step):
        moments = in_rows({key: snapshot(2 * step).moments[key] for key in keys})
        history.append(Snapshot(step, 0, 0.0, 0.0, moments, {}))
    assert len(history._read("SELECT 1 FROM layouts")) == 3
    for key in (KERNEL, OUTPUT, LOSS):
        pairs = history.load(key, "moments")
        assert [step for step, _ in pairs] == [step for step, keys in enumerate(by_step) if key in keys]
        for step, array in pairs:
            np.testing.assert_array_equal(array, snapshot(2 * step).moments[key])
    assert history.load(LOSS, "histogram") == []


def test_a_block_that_was_written_anew_since_it_was_read_is_read_anew(tmp_path):
    """A step that was thinned out can come again, with its tensors in other rows."""
    writer = SQLiteHistory.create(tmp_path / "run.sqlite")
    writer.declare(INFOS)
    reader = SQLiteHistory.open(tmp_path / "run.sqlite")
    for order in ((OUTPUT, LOSS), (LOSS, OUTPUT)):
        moments = {key: snapshot(0).moments[key] for key in order}
        writer.append(Snapshot(0, 0, 0.0, 0.0, in_rows(moments), {}))
        for history in (writer, reader):
            for key in order:
                np.testing.assert_array_equal(history.load(key, "moments")[0][1], moments[key])
        with writer._transaction() as db:
            db.execute("DELETE FROM snapshots")
            db.execute("DELETE FROM blocks")
    assert reader.load(LOSS, "moments") == []


def test_a_layout_that_was_undone_with_its_transaction_is_written_again(history, monkeypatch):
    moments = in_rows({LOSS: snapshot(0).moments[LOSS]})
    with monkeypatch.context() as patch:
        patch.setattr("see_rnn_like.store.sqlite._insert_snapshot", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            history.append(Snapshot(0, 0, 0.0, 0.0, moments, {}))
    history.append(Snapshot(0, 0, 0.0, 0.0, moments, {}))
    np.testing.assert_array_equal(history.load(LOSS, "moments")[0][1], moments[LOSS])
