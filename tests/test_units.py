"""Units: against NumPy's own functions, loops over pairs, and units whose meaning is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from see_rnn_like import TensorKey, errors
from see_rnn_like.extract.units import (
    dead_and_exploding,
    find_interpretable_units,
    gate_saturation,
    unit_correlation,
)
from see_rnn_like.history import Snapshot, TensorInfo
from see_rnn_like.stats import moments
from see_rnn_like.store import SQLiteHistory

DIMS = ("sample", "time", "unit")


def as_trace(h, c=None, masked=None, directions=None):
    """A trace with one gate, of states ``([direction,] sample, time, unit)``."""
    lead = () if directions is None else ("direction",)
    states = {"h": h} if c is None else {"h": h, "c": c}
    variables = {name: ((*lead, *DIMS), np.asarray(values, "float64")) for name, values in states.items()}
    found = xr.Dataset(variables, attrs={"layer": "lstm", "cell": "LSTM", "gating": []})
    if directions is not None:
        found = found.assign_coords(direction=list(directions))
    gates = xr.zeros_like(found["h"]).expand_dims(gate=["hidden"])
    if masked is not None:
        gates = gates.where(~xr.DataArray(masked, dims=("sample", "time")))
    return found.assign(gates=gates)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# ---- correlation ---------------------------------------------------------------------------------


def by_eigenvalues(flat):
    """Participation ratio as it is written down."""
    eigenvalues = np.linalg.eigvalsh(np.cov(flat, rowvar=False))
    return eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()


def test_effective_dimension_of_known_layers():
    alone = noise(1, 100_000, 5)
    assert unit_correlation(as_trace(alone)).attrs["effective_dimension"] == pytest.approx(5, abs=0.01)
    together = alone[..., :1] * [1.0, -2.0, 0.1]
    found = unit_correlation(as_trace(together))
    assert found.attrs["effective_dimension"] == pytest.approx(1)
    assert found.attrs["largest_correlation"] == pytest.approx(1)
    np.testing.assert_allclose(found, [[1, -1, 1], [-1, 1, -1], [1, -1, 1]])


def test_constant_units_have_no_correlation_and_leave_the_others_theirs():
    h = noise(3, 50, 4).astype("float32")
    h[..., 1] = 0.1  # its mean in float32 is not exactly 0.1
    found = unit_correlation(as_trace(h))
    assert np.isnan(found[1]).all()
    assert np.isnan(found[:, 1]).all()
    others = [0, 2, 3]
    expected = np.corrcoef(h.reshape(-1, 4)[:, others].astype("float64"), rowvar=False)
    np.testing.assert_allclose(found.values[np.ix_(others, others)], expected, atol=1e-12)


def test_masked_timesteps_are_left_out():
    h = noise(4, 10, 3)
    masked = np.zeros((4, 10), dtype=bool)
    masked[1, 6:] = masked[3, :2] = True
    kept = h[~masked]
    h[masked] = 1e6
    found = unit_correlation(as_trace(h, masked=masked))
    np.testing.assert_allclose(found, np.corrcoef(kept, rowvar=False), atol=1e-12)
    assert found.attrs["effective_dimension"] == pytest.approx(by_eigenvalues(kept))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_network_that_failed_is_not_taken_for_a_masked_one(bad):
    h = noise(2, 20, 3)
    h[1, 15:] = bad
    failed = as_trace(h)
    failed["gates"][:, 1, 15:] = np.nan
    found = unit_correlation(failed)
    assert np.isnan(found).all()
    assert np.isnan(found.attrs["effective_dimension"])


def test_one_unit_has_no_other():
    found = unit_correlation(as_trace(noise(1, 10, 1)))
    np.testing.assert_allclose(found, [[1.0]])
    assert found.attrs["effective_dimension"] == pytest.approx(1)
    assert np.isnan(found.attrs["largest_correlation"])


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_correlation_does_not_depend_on_scale_nor_dimension_on_rotation(seed):
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((2, 30, 4)) @ rng.standard_normal((4, 4))
    scaled = h * rng.uniform(0.01, 100, 4) + rng.uniform(-10, 10, 4)
    np.testing.assert_allclose(unit_correlation(as_trace(scaled)), unit_correlation(as_trace(h)), atol=1e-9)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    turned = unit_correlation(as_trace(h @ turn)).attrs["effective_dimension"]
    assert turned == pytest.approx(unit_correlation(as_trace(h)).attrs["effective_dimension"])
    assert 1 <= turned <= 4 + 1e-9


def test_what_is_no_trace_is_refused():
    h = noise(2, 5, 3)
    with pytest.raises(errors.ArgumentError, match="unit_correlation takes the Dataset that trace"):
        unit_correlation(as_trace(h).drop_vars("gates"))
    with pytest.raises(errors.ArgumentError, match="takes the Dataset that trace"):
        unit_correlation(h)
    with pytest.raises(errors.ArgumentError, match="state of LSTM must be one of 'h'; got 'c'"):
        unit_correlation(as_trace(h), "c")
    with pytest.raises(errors.ArgumentError, match="every timestep of this trace is masked"):
        unit_correlation(as_trace(h, masked=np.ones((2, 5), dtype=bool)))


# ---- dead and exploding --------------------------------------------------------------------------


def judged(traced, **thresholds):
    """Dead and exploding units of `h`."""
    found = dead_and_exploding(traced, **thresholds).sel(state="h")
    return [np.flatnonzero(found[name]).tolist() for name in ("dead", "exploding")]


def test_spread_and_largest_are_those_of_a_loop():
    h, c = noise(4, 30, 3), 5 * noise(4, 30, 3, seed=1)
    found = dead_and_exploding(as_trace(h, c))
    assert found["spread"].dims == ("state", "unit")
    for name, values in (("h", h), ("c", c)):
        for unit in range(3):
            series = values[:, :, unit].ravel()
            spread = (sum((v - sum(series) / 120) ** 2 for v in series) / 120) ** 0.5
            assert float(found["spread"].sel(state=name)[unit]) == pytest.approx(spread)
            assert float(found["largest"].sel(state=name)[unit]) == max(map(abs, series))


def test_stuck_units_are_dead_wherever_they_are_stuck():
    h = 0.5 * noise(4, 50, 4)
    h[..., 1] = 0.999 + 1e-5 * h[..., 1]
    h[..., 2] *= 1e-3
    assert judged(as_trace(h)) == [[1, 2], []]
    assert judged(as_trace(h), dormant=0.0) == [[1], []]
    assert judged(as_trace(h), dormant=0.0, constant=0.0) == [[], []]


def test_a_layer_that_is_stuck_altogether_is_dead():
    sign = np.where(np.arange(6) % 2, 1.0, -1.0)
    assert judged(as_trace(sign * (1 - 1e-5 * noise(4, 50, 6) ** 2))) == [[0, 1, 2, 3, 4, 5], []]
    assert judged(as_trace(np.zeros((1, 4, 2)))) == [[0, 1], []]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_value_is_an_explosion(bad):
    h = noise(4, 50, 3)
    h[2, 30, 1] = bad
    found = dead_and_exploding(as_trace(h)).sel(state="h")
    assert judged(as_trace(h)) == [[], [1]]
    assert np.isnan(found["spread"][1])
    assert not np.isfinite(found["largest"][1])
    # The others are judged as if it were not there.
    assert float(found["spread"][0]) == pytest.approx(h[..., 0].std())


def test_one_exploding_unit_does_not_make_the_others_look_dead():
    h = noise(4, 60, 3)
    h[..., 0] = 1.5 ** np.arange(60)
    assert judged(as_trace(h)) == [[], [0]]


def test_counting_is_not_exploding():
    steps = np.arange(1.0, 201)
    c = np.stack([steps, -steps, 1000 + steps], axis=-1)[None]
    assert not dead_and_exploding(as_trace(np.tanh(noise(1, 200, 3)), c))["exploding"].any()


def test_only_growth_that_goes_on_is_an_explosion():
    steps = np.arange(100)
    grows, jumps, ends = 1.2**steps, np.where(steps < 90, 0.1, 1e6), np.where(steps < 50, 1.2**steps, 1.2**50)
    fades, small = 1e-6 * 1.2 ** steps[::-1], 1e-12 * 1.2**steps
    h = np.stack([grows, jumps, ends, fades, small], axis=-1)[None]
    assert judged(as_trace(h + 1e-3 * noise(1, 100, 5)))[1] == [0]


def test_growth_is_judged_in_the_order_of_computation():
    h = noise(2, 60, 2)
    h[..., 1] = 1.3 ** np.arange(60)[::-1]
    both = as_trace(np.stack([h, h]), directions=("forward", "backward"))
    found = dead_and_exploding(both)["exploding"].sel(state="h")
    assert found.dims == ("direction", "unit")
    assert found.values.tolist() == [[False, False], [False, True]]
    alone = dead_and_exploding(both.sel(direction="backward"))["exploding"].sel(state="h")
    assert alone.values.tolist() == [False, True]


def test_how_fast_is_exploding_can_be_said():
    h = np.stack([1.3 ** np.arange(60), noise(60)], axis=-1)[None]
    assert judged(as_trace(h))[1] == [0]  # 1.3**15 is 51
    assert judged(as_trace(h), growth=60.0)[1] == []


def test_masked_timesteps_are_neither_dead_nor_exploding():
    h, masked = noise(4, 40, 2), np.zeros((4, 40), dtype=bool)
    masked[:, 10:] = True
    h[masked] = h[:, 9:10].repeat(30, axis=1)[:, :, :].reshape(-1, 2)
    found = dead_and_exploding(as_trace(h, masked=masked)).sel(state="h")
    np.testing.assert_allclose(found["spread"], h[:, :10].reshape(-1, 2).std(axis=0))
    h[masked] = 1e9
    assert judged(as_trace(h, masked=masked)) == [[], []]


def test_shares_are_of_what_the_network_sees():
    h, c = noise(2, 50, 4), noise(2, 50, 4)
    h[..., 0] = c[..., 1] = 0
    c[0, 3, 2] = np.nan
    found = dead_and_exploding(as_trace(h, c))
    assert found.attrs["share_dead"] == 0.25  # unit 0; unit 1 still answers through its output gate
    assert found.attrs["share_exploding"] == 0.25


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ({"dormant": -0.1}, "dormant is a share"),
        ({"constant": 1.0}, "constant is a share"),
        ({"growth": 1.0}, "growth is a factor > 1"),
        ({"growth": np.nan}, "growth is a factor > 1"),
        ({"dormant": np.nan}, "dormant is a share"),
    ],
)
def test_thresholds_out_of_range_are_refused(thresholds, message):
    with pytest.raises(errors.ArgumentError, match=message):
        dead_and_exploding(as_trace(noise(1, 5, 2)), **thresholds)


def test_neither_trace_nor_run():
    with pytest.raises(errors.ArgumentTypeError, match=r"or a run .*; got 'run.sqlite'"):
        dead_and_exploding("run.sqlite")
    with pytest.raises(errors.ArgumentError, match="takes the Dataset that trace"):
        dead_and_exploding(xr.Dataset({"h": (DIMS, noise(1, 2, 3))}))


# ---- the same in a run ---------------------------------------------------------------------------


def run_of(arrays, values=True):
    """A run in memory: key → one array per step; steps 0, 10, ...."""
    run = SQLiteHistory.create(None)
    keys = {name: TensorKey.parse(name) for name in arrays}
    dims = {"gates": ("sample", "time", "gate", "unit")}
    for name, key in keys.items():
        shape = arrays[name][0].shape
        axes = dims.get(key.role, DIMS if len(shape) == 3 else ("sample", "unit"))
        axes = axes if len(axes) == len(shape) else tuple(f"axis_{i}" for i in range(len(shape)))
        coords = {"gate": tuple(f"g{i}" for i in range(shape[2]))} if key.role == "gates" else {}
        attrs = {"from": "training batch" if key.role == "output" else "probe batch"}
        run.declare([TensorInfo(key, axes, shape, coords, attrs)])
    for i in range(len(next(iter(arrays.values())))):
        now = {keys[name]: series[i] for name, series in arrays.items()}
        sums = {key: moments(array, 2 if key.role == "gates" else None) for key, array in now.items()}
        kept = now if values else {}
        run.append(Snapshot(10 * i, 0, 0.0, 0.0, moments=sums, histograms={}, values=kept))
    return run


def test_a_run_is_judged_step_by_step():
    healthy, stuck = noise(4, 50, 3), noise(4, 50, 3)
    stuck[..., 2] = 0
    burst = noise(4, 50, 3)
    burst[0, 7, 0] = np.inf
    run = run_of(
        {
            "bi/forward/h:value": [healthy, stuck, stuck],
            "bi/forward/c:value": [healthy, healthy, burst],
            "bi/backward/h:value": [healthy, healthy, healthy],
            "bi/output:value": [stuck, stuck, stuck],
            "dense/output:value": [stuck[:, 0], stuck[:, 0], stuck[:, 0]],
        }
    )
    found = dead_and_exploding(run)
    assert list(found) == ["bi/forward", "bi/backward"]
    forward = found["bi/forward"]
    assert forward["dead"].dims == ("step", "state", "unit")
    assert forward["step"].values.tolist() == [0, 10, 20]
    assert forward["state"].values.tolist() == ["h", "c"]
    assert np.argwhere(forward["dead"].values).tolist() == [[1, 0, 2], [2, 0, 2]]
    assert np.argwhere(forward["exploding"].values).tolist() == [[2, 1, 0]]
    assert forward.attrs == {"layer": "bi", "share_dead": 1 / 3, "share_exploding": 1 / 3}
    assert not found["bi/backward"]["dead"].any()
    trace_says = dead_and_exploding(as_trace(stuck, healthy))
    for name in ("dead", "exploding", "spread", "largest"):
        np.testing.assert_array_equal(forward[name].sel(step=10), trace_says[name])


def test_a_run_is_judged_by_whatever_its_cell_calls_its_states():
    h, memory = noise(4, 50, 3), noise(4, 50, 3)
    memory[..., 1] = 0
    shares = np.full((1, 3), 0.5)
    run = run_of(
        {"a/forward/h:value": [h], "a/forward/memory:value": [memory], "a/forward/output:value": [h]}
    )
    key = TensorKey.parse("a/forward/saturation_left:value")
    run.declare([TensorInfo(key, ("gate", "unit"), (1, 3), {"gate": ("hidden",)}, {"from": "probe batch"})])
    run.append(Snapshot(7, 0, 0.0, 0.0, {key: moments(shares, 0)}, {}, {key: shares}))
    found = dead_and_exploding(run)["a/forward"]
    assert found["state"].values.tolist() == ["h", "memory"]
    assert np.argwhere(found["dead"].values).tolist() == [[0, 1, 1]]
    assert found.attrs["share_dead"] == 0


def test_one_timestep_is_too_little_to_call_a_unit_dead():
    message = "needs at least 2 that are not masked, those of all samples together; got 1: give it more"
    with pytest.raises(errors.ArgumentError, match=message):
        dead_and_exploding(as_trace(noise(1, 1, 3)))
    masked = np.ones((2, 5), bool)
    masked[1, 3] = False
    with pytest.raises(errors.ArgumentError, match=message):
        dead_and_exploding(as_trace(noise(2, 5, 3), masked=masked))
    with pytest.raises(errors.ArgumentError, match=message):
        dead_and_exploding(run_of({"a/forward/h:value": [noise(1, 1, 3)]}))
    assert not dead_and_exploding(as_trace(noise(2, 1, 3)))["dead"].any()


def test_a_run_with_gates_knows_what_was_masked():
    h, gates = noise(4, 40, 2), np.zeros((4, 40, 1, 2))
    gates[:, 10:] = np.nan
    h[:, 10:] = 1e9
    found = dead_and_exploding(run_of({"a/forward/h:value": [h], "a/forward/gates:value": [gates]}))
    np.testing.assert_allclose(found["a/forward"]["spread"][0, 0], h[:, :10].reshape(-1, 2).std(axis=0))


def test_a_run_of_a_backward_layer_grows_backwards():
    h = noise(2, 60, 2)
    h[..., 1] = 1.3 ** np.arange(60)[::-1]
    found = dead_and_exploding(run_of({"a/backward/h:value": [h], "b/forward/h:value": [h]}))
    assert found["a/backward"]["exploding"].values.tolist() == [[[False, True]]]
    assert not found["b/forward"]["exploding"].any()


def test_statistics_are_not_enough():
    run = run_of({"lstm/forward/h:value": [noise(4, 5, 2)]}, values=False)
    message = r'holds only their statistics: record with RNNMonitor\(level="full"\)'
    with pytest.raises(errors.ArgumentError, match=message):
        dead_and_exploding(run)
    with pytest.raises(errors.ArgumentError, match="holds none of a recurrent layer"):
        dead_and_exploding(run_of({"dense/output:value": [noise(4, 2)]}))


# ---- interpretable units -------------------------------------------------------------------------


def auc_by_pairs(values, truth):
    pairs = itertools.product(values[truth == 1], values[truth == 0])
    return np.mean([1.0 if high > low else 0.5 if high == low else 0.0 for high, low in pairs])


def test_a_line_is_that_of_polyfit_and_scored_on_the_other_half():
    h, signal = noise(6, 8, 4), noise(6, 8, seed=1)
    signal += 2 * h[..., 2] - h[..., 0]
    found = find_interpretable_units(as_trace(h), signal, top=4)
    assert found.attrs["measure"] == "R²"
    for rank in range(4):
        unit = int(found["unit"][rank])
        slope, offset = np.polyfit(h[:3, :, unit].ravel(), signal[:3].ravel(), 1)
        for name, half in (("train_score", slice(0, 3)), ("score", slice(3, 6))):
            truth = signal[half].ravel()
            wrong = truth - (slope * h[half, :, unit].ravel() + offset)
            expected = 1 - (wrong**2).sum() / ((truth - truth.mean()) ** 2).sum()
            assert float(found[name][rank]) == pytest.approx(expected)
        assert int(found["sign"][rank]) == np.sign(slope)
    assert (np.diff(found["train_score"]) <= 0).all()
    assert found["rank"].values.tolist() == [1, 2, 3, 4]
    assert int(found["unit"][0]) == 2


def test_auc_is_that_of_all_pairs_also_with_ties():
    h = np.round(noise(6, 8, 4), 1)
    signal = noise(6, 8, seed=1) - h[..., 3] > 0
    found = find_interpretable_units(as_trace(h), signal, top=4)
    assert found.attrs["measure"] == "AUC"
    assert found.attrs["chance"] == 0.5
    for rank in range(4):
        values = h[..., int(found["unit"][rank])]
        trained = auc_by_pairs(values[:3].ravel(), signal[:3].ravel())
        tested = auc_by_pairs(values[3:].ravel(), signal[3:].ravel())
        assert int(found["sign"][rank]) == np.sign(trained - 0.5)
        assert float(found["train_score"][rank]) == pytest.approx(max(trained, 1 - trained))
        assert float(found["score"][rank]) == pytest.approx(tested if trained > 0.5 else 1 - tested)
    assert (int(found["unit"][0]), int(found["sign"][0])) == (3, -1)


@pytest.mark.parametrize("yes_no", [False, True])
def test_noise_is_not_interpretable_however_many_units_are_searched(yes_no):
    held_out, fitted = [], []
    for seed in range(20):
        h, signal = noise(10, 20, 500, seed=seed), noise(10, 20, seed=1000 + seed)
        found = find_interpretable_units(as_trace(h), signal > 0 if yes_no else signal, top=5)
        held_out.append(float(found["score"].mean()) - found.attrs["chance"])
        fitted.append(float(found["train_score"].mean()) - found.attrs["chance"])
    assert min(fitted) > 0.05
    assert max(held_out) < min(fitted)
    # A line fitted to noise does harm on other data, about as much as it seemed to do good.
    least = -1.5 * np.mean(fitted) if not yes_no else -0.03
    assert least < np.mean(held_out) < 0.03


def test_a_threshold_does_not_care_about_scale():
    h = noise(6, 20, 3)
    signal = h[..., 1] + noise(6, 20, seed=1) > 0
    plain, bent = (find_interpretable_units(as_trace(v), signal) for v in (h, np.exp(3 * h)))
    xr.testing.assert_identical(plain, bent)


def test_what_is_unknown_or_masked_is_left_out():
    h, signal, masked = noise(6, 20, 3), noise(6, 20, seed=1), np.zeros((6, 20), dtype=bool)
    masked[:, 15:] = True
    expected = find_interpretable_units(as_trace(h[:, 5:15]), signal[:, 5:15])
    h[:, 15:], signal[:, :5] = 1e6, np.nan
    xr.testing.assert_allclose(find_interpretable_units(as_trace(h, masked=masked), signal), expected)


def test_zeros_and_ones_are_yes_and_no():
    h = noise(6, 20, 3)
    signal = h[..., 0] > 0.3
    expected = find_interpretable_units(as_trace(h), signal)
    xr.testing.assert_identical(find_interpretable_units(as_trace(h), signal.astype(int)), expected)
    partly = np.where(noise(6, 20, seed=2) > 1, np.nan, signal)
    assert find_interpretable_units(as_trace(h), partly).attrs["measure"] == "AUC"


def test_one_sample_is_split_in_time():
    h = noise(1, 101, 2)
    signal = 3 * h[..., 0]
    signal[:, 51:] *= -1  # what held in the first half does not in the second
    found = find_interpretable_units(as_trace(h), signal, top=1)
    assert float(found["train_score"][0]) == pytest.approx(1)
    truth = signal[0, 51:]
    expected = 1 - ((2 * truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert float(found["score"][0]) == pytest.approx(expected)


def test_states_and_directions_are_searched_together():
    h, c = noise(2, 6, 20, 3), noise(2, 6, 20, 3, seed=1)
    traced = as_trace(h, c, directions=("forward", "backward"))
    found = find_interpretable_units(traced, c[1, ..., 2], state=("h", "c"))
    assert found.sizes["rank"] == 10
    best = found.isel(rank=0)
    assert (int(best["unit"]), str(best["direction"].values), str(best["state"].values)) == (
        2,
        "backward",
        "c",
    )
    assert float(best["score"]) == pytest.approx(1)
    assert set(find_interpretable_units(traced, c[1, ..., 2])["state"].values) == {"h"}
    single = find_interpretable_units(as_trace(h[0]), c[1, ..., 2])
    assert set(single["direction"].values) == {""}


@pytest.mark.parametrize("yes_no", [False, True])
def test_dead_units_score_chance_and_failed_ones_nan(yes_no):
    h = noise(6, 20, 4)
    h[..., 1], h[0, 0, 2] = 0.1, np.nan
    signal = h[..., 0] > 0 if yes_no else h[..., 0]
    found = find_interpretable_units(as_trace(h), signal).set_index(rank="unit")
    chance = found.attrs["chance"]
    assert float(found["score"].sel(rank=0)) == pytest.approx(1)
    assert float(found["train_score"].sel(rank=1)) == pytest.approx(chance)
    assert float(found["score"].sel(rank=1)) == pytest.approx(chance, abs=0.05)
    assert int(found["sign"].sel(rank=1)) == 0
    assert np.isnan(found["score"].sel(rank=2))
    assert int(found["rank"][-1]) == 2


def test_a_labelled_signal_is_read_by_its_labels():
    h = noise(6, 6, 3)
    signal = xr.DataArray(h[..., 1], dims=("sample", "time"))
    found = find_interpretable_units(as_trace(h), signal.T, top=1)
    assert int(found["unit"][0]) == 1
    assert float(found["score"][0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (noise(4, 9), r"one value per sample and timestep of the trace, \(4, 10\); got shape \(4, 9\)"),
        (np.zeros((4, 10)), "does not vary in the first half of the samples"),
        (np.arange(4)[:, None] // 2 * np.ones(10) * noise(4, 10), "does not vary in the first half"),
        (np.where(np.arange(4)[:, None] < 2, noise(4, 10), np.nan), "in the second half of the samples"),
        (np.full((4, 10), np.inf), "holds Inf"),
        (np.full((4, 10), "a"), "is an array of bools or numbers"),
    ],
)
def test_signals_that_tell_nothing_are_refused(signal, message):
    with pytest.raises(errors.ArgumentError, match=message):
        find_interpretable_units(as_trace(noise(4, 10, 2)), signal)


@pytest.mark.parametrize("top", [0, True, 1.5])
def test_top_is_a_number_of_units(top):
    with pytest.raises(errors.ArgumentError, match="top is a number of units"):
        find_interpretable_units(as_trace(noise(4, 10, 2)), noise(4, 10), top=top)


def test_nothing_given_is_changed():
    h, signal = noise(4, 20, 3), noise(4, 20, seed=1)
    traced = as_trace(h)
    before, known = traced.copy(deep=True), signal.copy()
    unit_correlation(traced)
    dead_and_exploding(traced)
    find_interpretable_units(traced, signal)
    xr.testing.assert_identical(traced, before)
    np.testing.assert_array_equal(signal, known)


# ---- wrong arguments -----------------------------------------------------------------------------


def interpretable(traced):
    return find_interpretable_units(traced, noise(4, 6))


@pytest.mark.parametrize("function", [gate_saturation, unit_correlation, dead_and_exploding, interpretable])
@pytest.mark.parametrize("lost", ["sample", "time", "gate", "unit"])
def test_a_trace_that_has_lost_a_dimension_is_told_which(function, lost):
    traced = as_trace(noise(4, 6, 3)).isel({lost: 0})
    if function is gate_saturation and lost in ("gate", "unit"):
        assert set(function(traced)["left"].dims) == {"gate", "unit"} - {lost}
        return
    with pytest.raises(errors.ArgumentError, match=rf"needs the dimension '{lost}'.*\.isel\({lost}=\[0\]\)"):
        function(traced)


@pytest.mark.parametrize("function", [gate_saturation, unit_correlation, interpretable])
@pytest.mark.parametrize("given", [None, "h", 3, [1], xr.Dataset(), np.zeros(3)])
def test_what_is_no_dataset_of_trace_is_told_so(function, given):
    with pytest.raises(errors.ArgumentError, match="takes the Dataset that trace"):
        function(given)


def test_a_trace_without_states_has_no_unit_to_judge():
    with pytest.raises(errors.ArgumentError, match="gates alone"):
        dead_and_exploding(as_trace(noise(2, 5, 3)).drop_vars("h"))
    with pytest.raises(errors.ArgumentError, match="takes the Dataset that trace"):
        dead_and_exploding(xr.Dataset())


@pytest.mark.parametrize("name", ["dormant", "constant", "growth"])
@pytest.mark.parametrize("value", [None, "2", [2.0], True])
def test_thresholds_are_numbers(name, value):
    with pytest.raises(errors.ArgumentTypeError, match=f"{name} is a number"):
        dead_and_exploding(as_trace(noise(2, 5, 3)), **{name: value})


@pytest.mark.parametrize("state", [None, 3, [], {}, np.nan])
def test_states_are_names(state):
    with pytest.raises(errors.ArgumentTypeError, match="state is the name"):
        find_interpretable_units(as_trace(noise(4, 6, 3)), noise(4, 6), state=state)
