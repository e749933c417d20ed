"""The read side of a history, on one that is nothing but dictionaries."""

import numpy as np
import pytest
import xarray as xr

from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownTensorError
from see_rnn_like.history import FIELDS, Event, History, Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey

GATES = ("update", "reset", "new")
KERNEL = TensorKey.parse("gru/forward/kernel:gradient")
OUTPUT = TensorKey.parse("gru/output:value")


class InMemory(History):
    """A history that keeps what it is given."""

    def __init__(self, infos=(), fields=None):
        self._infos = {info.key: info for info in infos}
        self._fields = fields or {}

    steps = events = epochs = meta = None

    def infos(self):
        return self._infos

    def logs(self):
        return xr.Dataset()

    def load(self, key, what, steps=None):
        return sorted(self._fields.get((key, what), {}).items())


def kernel_history(arrays, without_histogram=()):
    """`arrays`: step → ``(input, gate, unit)``."""
    info = TensorInfo(KERNEL, ("input", "gate", "unit"), (2, 3, 4), {"gate": GATES}, {"clipped": True})
    fields = {
        (KERNEL, "moments"): {step: stats.moments(array, 1) for step, array in arrays.items()},
        (KERNEL, "histogram"): {
            step: stats.histogram(array, 1) for step, array in arrays.items() if step not in without_histogram
        },
        (KERNEL, "value"): arrays,
    }
    return InMemory([info], fields)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {step: rng.normal(size=(2, 3, 4)).astype("float32") for step in (0, 5, 7)}


# ---- statistics ----------------------------------------------------------------------------------


def test_statistics_run_over_steps_and_gates(arrays):
    table = kernel_history(arrays).stats(KERNEL)
    assert table.sizes == {"step": 3, "gate": 3, "bin": stats.BINS}
    assert table.step.values.tolist() == [0, 5, 7]
    assert table.gate.values.tolist() == list(GATES)
    np.testing.assert_array_equal(table.bin, stats.CENTERS)
    assert table.attrs == {"key": "gru/forward/kernel:gradient", "clipped": True}
    for step, array in arrays.items():
        for number, gate in enumerate(GATES):
            row = table.sel(step=step, gate=gate)
            values = array[:, number].astype("float64")
            assert float(row["mean"]) == pytest.approx(values.mean())
            assert float(row["norm"]) == pytest.approx(np.linalg.norm(values))
            assert int(row["count"]) == values.size
            powers = np.floor(np.log2(np.abs(values)))
            counts = [int((powers == e).sum()) for e in stats.EXPONENTS]
            both_signs = row["histogram"].values
            middle = len(stats.EXPONENTS)
            assert (both_signs[middle + 1 :] + both_signs[:middle][::-1]).tolist() == counts


def test_a_tensor_without_gates_has_no_gate_axis():
    array = np.arange(6.0).reshape(2, 3)
    info = TensorInfo(OUTPUT, ("sample", "unit"), (2, 3))
    fields = {
        (OUTPUT, "moments"): {4: stats.moments(array)},
        (OUTPUT, "histogram"): {4: stats.histogram(array)},
    }
    table = InMemory([info], fields).stats("gru/output:value")
    assert table.sizes == {"step": 1, "bin": stats.BINS}
    assert "gate" not in table.coords
    assert float(table["mean"].sel(step=4)) == 2.5


def test_a_histogram_that_was_not_kept_is_nan_and_never_a_count_of_zero(arrays):
    table = kernel_history(arrays, without_histogram=(5,)).stats(KERNEL)
    assert np.isnan(table["histogram"].sel(step=5)).all()
    assert (table["histogram"].sel(step=[0, 7]).sum("bin") == 8).all()
    assert (table["count"] == 8).all()


def test_without_any_histogram_there_is_no_such_column(arrays):
    table = kernel_history(arrays, without_histogram=arrays).stats(KERNEL)
    assert "histogram" not in table
    assert "bin" not in table.dims
    assert (table["count"] == 8).all()


def test_a_tensor_that_was_declared_but_never_recorded_has_an_empty_table():
    table = kernel_history({}).stats(KERNEL)
    assert table.sizes == {"step": 0, "gate": 3}
    assert table.step.dtype == "int64"
    assert table["mean"].dtype == "float64"


# ---- values --------------------------------------------------------------------------------------


def test_values_are_stacked_over_steps_with_all_labels(arrays):
    values = kernel_history(arrays)["gru/forward/kernel:gradient"]
    assert values.dims == ("step", "input", "gate", "unit")
    assert values.dtype == "float32"
    assert values.name == "gru/forward/kernel:gradient"
    assert values.attrs == {"clipped": True}
    for step, array in arrays.items():
        np.testing.assert_array_equal(values.sel(step=step), array)
        np.testing.assert_array_equal(values.sel(step=step, gate="new"), array[:, 2])


def output_history(*arrays):
    shape = tuple(None for _ in arrays[0].shape)
    info = TensorInfo(OUTPUT, ("sample", "time", "unit")[: len(shape)], shape)
    return InMemory([info], {(OUTPUT, "value"): dict(enumerate(arrays))})


def test_batches_of_different_sizes_are_padded_with_nan_and_their_sizes_told():
    large, small = np.ones((4, 5, 2), "float32"), np.full((3, 2, 2), 7, "float32")
    values = output_history(large, small)[OUTPUT]
    assert values.shape == (2, 4, 5, 2)
    assert values["sample_size"].values.tolist() == [4, 3]
    assert values["time_size"].values.tolist() == [5, 2]
    assert "unit_size" not in values.coords
    np.testing.assert_array_equal(values[0], large)
    np.testing.assert_array_equal(values[1, :3, :2], small)
    assert np.isnan(values[1]).sum() == 4 * 5 * 2 - 3 * 2 * 2


def test_whole_numbers_that_must_be_padded_become_floats_and_others_stay():
    assert output_history(np.ones((2, 1), "int32"), np.ones((1, 1), "int32"))[OUTPUT].dtype == "float64"
    assert output_history(np.ones((2, 1), "int32"), np.ones((2, 1), "int32"))[OUTPUT].dtype == "int32"


def test_padding_keeps_the_precision_of_the_most_precise_step():
    third = 1 / 3
    values = output_history(np.ones((2, 1), "float16"), np.full((1, 1), third))[OUTPUT]
    assert values.dtype == "float64"
    assert values.values[1, 0, 0] == third


def test_scalars_are_a_series():
    values = output_history(*np.array([3.0, 1.0, 2.0]))[OUTPUT]
    assert values.dims == ("step",)
    assert values.values.tolist() == [3.0, 1.0, 2.0]


def test_values_that_were_not_kept_are_said_to_be_and_how_to_keep_them():
    info = TensorInfo(OUTPUT, ("unit",), (3,))
    history = InMemory([info], {(OUTPUT, "moments"): {0: stats.moments(np.ones(3))}})
    with pytest.raises(UnknownTensorError) as caught:
        history[OUTPUT]
    assert str(caught.value) == (
        "only statistics of 'gru/output:value' were recorded; read them with run.stats('gru/output:value'), "
        'or record values with RNNMonitor(level="full")'
    )


# ---- keys ----------------------------------------------------------------------------------------


def test_a_key_that_is_nearly_right_gets_a_suggestion(arrays):
    with pytest.raises(UnknownTensorError) as caught:
        kernel_history(arrays).stats("gru/forward/kernel:weight")
    assert str(caught.value) == (
        "nothing was recorded under 'gru/forward/kernel:weight'; did you mean 'gru/forward/kernel:gradient'? "
        "run.keys() lists all"
    )
    assert isinstance(caught.value, KeyError)


def test_a_key_that_is_far_off_gets_the_list():
    infos = [TensorInfo(TensorKey("dense", None, f"role_{n}", "value"), (), ()) for n in range(12)]
    with pytest.raises(UnknownTensorError) as caught:
        InMemory(infos).info("zzz:weight")
    assert str(caught.value).startswith(
        "nothing was recorded under 'zzz:weight'; recorded are dense/role_0:value, "
    )
    assert str(caught.value).endswith("dense/role_7:value, … (run.keys() lists all 12)")


def test_an_empty_run_says_that_it_is_empty():
    with pytest.raises(UnknownTensorError, match="nothing was recorded under 'a:weight': the run is empty"):
        InMemory().info("a:weight")


def test_what_is_no_key_at_all_is_refused_as_such(arrays):
    with pytest.raises(ArgumentError, match="a tensor key looks like 'lstm/forward/kernel:gradient'"):
        kernel_history(arrays).stats("lstm")


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("gru", "a tensor key looks like 'lstm/forward/kernel:gradient'"),
        ("gru/forward/kernel:gradients", "kind must be one of 'weight', 'update', 'gradient', 'value'"),
        ("gru/forwrd/kernel:grad", "kind must be one of"),
    ],
)
def test_what_is_no_key_but_near_one_gets_a_suggestion(arrays, wanted, reason):
    with pytest.raises(ArgumentError) as caught:
        kernel_history(arrays)[wanted]
    assert str(caught.value).startswith(reason)
    assert str(caught.value).endswith("; did you mean 'gru/forward/kernel:gradient'? run.keys() lists all")


@pytest.mark.parametrize("wanted", [3, None, ["gru/forward/kernel:gradient"]])
def test_what_is_neither_a_key_nor_a_text_is_refused_as_such(arrays, wanted):
    with pytest.raises(ArgumentTypeError, match="a tensor is named by a TensorKey or by text such as"):
        kernel_history(arrays)[wanted]


def test_keys_come_in_the_order_of_the_infos_and_are_found_in_both_forms(arrays):
    history = kernel_history(arrays)
    assert history.keys() == [KERNEL]
    assert history.info(KERNEL) is history.info(str(KERNEL))
    assert history.info(KERNEL).gates == GATES
    assert KERNEL in history
    assert str(KERNEL) in history
    assert OUTPUT not in history


def test_a_history_is_no_sequence_and_holds_nothing_open_by_itself(arrays):
    history = kernel_history(arrays)
    with pytest.raises(TypeError, match="not iterable"):
        list(history)
    assert history.path is None
    history.close()


# ---- the pieces ----------------------------------------------------------------------------------


def test_infos_without_gates_have_none():
    assert TensorInfo(OUTPUT, ("unit",), (3,)).gates == ()


def test_snapshots_and_events_are_values():
    first, second = (Snapshot(3, 0, 1.0, 0.1, {}, {}) for _ in range(2))
    assert first == second
    assert first.values == first.logs == {}
    assert Event(1, "nan", None, None, {}, "") == Event(1, "nan", None, None, {}, "")
    with pytest.raises(AttributeError, match="cannot assign to field"):
        first.step = 4
    assert FIELDS == ("moments", "histogram", "value")


@pytest.mark.parametrize(
    ("key", "dims", "derived"),
    [
        ("lstm/forward/saturation_left:value", ("gate", "unit"), True),
        ("lstm/forward/saturation_right:value", ("gate", "unit"), True),
        ("lstm/forward/h_norm:gradient", ("time",), True),
        ("lstm/forward/output_norm:gradient", ("time",), True),
        ("lstm/forward/horizon_c:value", ("lag",), True),
        ("lstm/forward/bias:weight", ("gate", "unit"), False),
        ("lstm/forward/bias:gradient", ("gate", "unit"), False),
        ("lstm/forward/gates:value", ("sample", "time", "gate", "unit"), False),
        ("lstm/forward/h:gradient", ("sample", "time", "unit"), False),
        ("scaling/layer_norm:gradient", ("unit",), False),
        ("loss:value", (), False),
    ],
)
def test_what_sums_up_another_tensor_is_told_by_its_dims(key, dims, derived):
    assert TensorInfo(TensorKey.parse(key), dims, (1,) * len(dims)).derived is derived
