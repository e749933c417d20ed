"""Pictures of gates, saturation, memory horizon and spectrum."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from figures import line_of, nothing_is_cut_off, shows, tidy, unchanged  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_probe import probed_run
from made_up_run import empty_run, lstm_run
from matplotlib.patches import Circle

from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownLayerError
from see_rnn_like.extract.fading import fading_lag
from see_rnn_like.extract.units import gate_saturation
from see_rnn_like.history import Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.colors import BAD_CELL
from see_rnn_like.plots.curves import HUES
from see_rnn_like.plots.development import plot_gradient_flow
from see_rnn_like.plots.gates import plot_gates, plot_saturation
from see_rnn_like.plots.history import plot_norms, plot_update_ratio
from see_rnn_like.plots.horizon import plot_horizon
from see_rnn_like.plots.spectrum import plot_spectrum

pytestmark = pytest.mark.usefixtures("tidy")

#: Cell → its gates, those from 0 to 1, its states.
CELLS = {
    "LSTM": (["input", "forget", "cell", "output"], ["input", "forget", "output"], ["h", "c"]),
    "GRU": (["update", "reset", "new"], ["update", "reset"], ["h"]),
    "SimpleRNN": (["hidden"], [], ["h"]),
}
DIRECTIONS = ["forward", "backward"]


def dataset(variables, both, **coords):
    """A Dataset of `variables`, name → (dims, array); of both directions if the arrays have that axis."""
    lead = ("direction",) if both else ()
    coords = {**coords, "direction": DIRECTIONS} if both else coords
    return xr.Dataset({name: ((*lead, *dims), array) for name, (dims, array) in variables.items()}, coords)


def trace_of(cell="LSTM", samples=3, steps=12, units=5, both=False, seed=0, dtype="float32"):
    """What `trace` returns, of random gates."""
    rng = np.random.default_rng(seed)
    gates, gating, states = CELLS[cell]
    shape = ((2,) if both else ()) + (samples, steps)
    low = np.where(np.isin(gates, gating), 0.0, -1.0)[:, None]
    values = rng.uniform(low, 1.0, (*shape, len(gates), units)).astype(dtype)
    variables = {"gates": (("sample", "time", "gate", "unit"), values)}
    for name in states:
        variables[name] = (("sample", "time", "unit"), rng.uniform(-1, 1, (*shape, units)).astype(dtype))
    found = dataset(variables, both, gate=gates, time=np.arange(steps))
    return found.assign_attrs(layer=cell.lower(), cell=cell, gating=gating)


def with_gates(traced, values):
    return traced.assign(gates=(traced["gates"].dims, values))


def masked(traced, sample, times):
    """The trace with masked timesteps: no gates, states carried over."""
    values = traced["gates"].values.copy()
    values[..., sample, times, :, :] = np.nan
    return with_gates(traced, values)


def horizon_of(cell="LSTM", steps=50, factors=(0.8, 0.9), both=False, half_life=(3.0, 5.0, 9.0)):
    """What `memory_horizon` returns, where the influence of state i falls by `factors[i]` per step."""
    states = CELLS[cell][2]
    lag = np.arange(steps)
    strength = np.stack([factor**lag for factor in factors[: len(states)]])
    strength = np.stack([strength, strength**2]) if both else strength
    half_life = np.stack([half_life, np.multiply(half_life, 2)]) if both else np.array(half_life)
    variables = {
        "strength": (("state", "lag"), strength),
        "error": (("state", "lag"), strength / 10),
        "half_life": (("unit",), half_life),
    }
    furthest = max(factors[: len(states)])
    lags = [np.inf if furthest >= 1 else np.log(level) / np.log(furthest) for level in (np.exp(-1), 0.01)]
    lags = [found if found < steps - 1 else np.inf for found in lags]
    return dataset(variables, both, state=states, lag=lag).assign_attrs(
        layer=cell.lower(), cell=cell, horizon=lags[0], horizon_1pct=lags[1], half_life=5.0, timesteps=steps
    )


def spectrum_of(kernels, cell="LSTM", both=False):
    """What `recurrent_spectrum` returns for recurrent kernels ``([direction,] gate, state, unit)``."""
    kernels = np.asarray(kernels, "float64")
    variables = {
        "eigenvalues": (("gate", "index"), np.linalg.eigvals(kernels).astype("complex128")),
        "singular_values": (("gate", "index"), np.linalg.svd(kernels, compute_uv=False)),
    }
    return dataset(variables, both, gate=CELLS[cell][0]).assign_attrs(layer=cell.lower(), cell=cell)


def random_spectrum(cell="LSTM", units=5, both=False):
    """A made-up spectrum; decomposing kernels of 512 units would take seconds."""
    rng = np.random.default_rng(0)
    shape = ((2,) if both else ()) + (len(CELLS[cell][0]), units)
    sizes = np.sort(rng.uniform(0, 1.3, shape))[..., ::-1]
    variables = {
        "eigenvalues": (("gate", "index"), sizes * np.exp(2j * np.pi * rng.uniform(size=shape))),
        "singular_values": (("gate", "index"), 1.5 * sizes),
    }
    return dataset(variables, both, gate=CELLS[cell][0]).assign_attrs(layer=cell.lower(), cell=cell)


def image_of(ax):
    (image,) = ax.images
    return image.get_array()


def dots(ax):
    """Places of the points of a scatter ``(point, 2)``."""
    (collection,) = ax.collections
    return np.ma.getdata(collection.get_offsets())


def labels_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def heading_of(ax):
    return ax.get_legend().get_title().get_text().splitlines()


def tick_texts(axis):
    """Labels of the ticks that are within the axes."""
    axis.axes.figure.canvas.draw()
    low, high = sorted(axis.get_view_interval())
    return [tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def titles_lie_apart(fig):
    """Whether no title or axis label of the figure lies on another."""
    fig.canvas.draw()
    texts = [text for ax in fig.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    boxes = [text.get_window_extent() for text in [*texts, fig._suptitle] if text and text.get_text()]
    return not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


EVERY = {
    "gates": (plot_gates, trace_of),
    "saturation": (plot_saturation, trace_of),
    "horizon": (plot_horizon, horizon_of),
    "spectrum": (plot_spectrum, random_spectrum),
}


# ---------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", EVERY)
def test_everything_fits_on_the_figure_and_nothing_of_the_data_changes(name, cell, both):
    plot, make = EVERY[name]
    given = make(cell, both=both)
    attrs = dict(given.attrs)
    with unchanged(*(given[variable].values for variable in given.data_vars)):
        fig, _ = plot(given)
    assert given.attrs == attrs
    assert nothing_is_cut_off(fig)
    assert titles_lie_apart(fig)


@pytest.mark.parametrize("units", [1, 7, 64, 512])
@pytest.mark.parametrize("name", ["gates", "saturation", "spectrum"])
def test_one_unit_and_many(name, units):
    plot, make = EVERY[name]
    fig, axes = plot(make("GRU", units=units))
    assert nothing_is_cut_off(fig)
    assert axes.shape[:2] == (1, 3)


@pytest.mark.parametrize("name", EVERY)
def test_a_direction_selected_beforehand_is_named(name):
    plot, make = EVERY[name]
    fig, axes = plot(make("GRU", both=True).sel(direction="backward"))
    if name == "horizon":
        assert labels_of(axes)[0] == "backward · h"
    else:
        assert np.ravel(axes)[0].get_title().startswith("backward · update")
    assert nothing_is_cut_off(fig)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("given", [None, np.zeros((2, 3)), {"gates": 1}, xr.DataArray([1.0])])
def test_what_is_no_dataset_is_refused(name, given):
    with pytest.raises(ArgumentTypeError, match=r"expected the Dataset that .*\(\) returns; got"):
        EVERY[name][0](given)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", EVERY)
def test_another_dataset_is_refused_and_told_what_it_has(name):
    with pytest.raises(ArgumentError, match=r"expected the Dataset that .*\(\) returns, with .*has loss"):
        EVERY[name][0](xr.Dataset({"loss": ("step", [1.0])}))
    with pytest.raises(ArgumentError, match="this one has nothing"):
        EVERY[name][0](xr.Dataset())


@pytest.mark.parametrize(
    ("name", "empty"),
    [
        ("gates", {"sample": []}),
        ("gates", {"time": []}),
        ("gates", {"unit": []}),
        ("saturation", {"sample": []}),
        ("saturation", {"gate": []}),
        ("horizon", {"lag": []}),
        ("spectrum", {"index": []}),
    ],
)
def test_an_empty_dataset_is_refused(name, empty):
    plot, make = EVERY[name]
    with pytest.raises(ArgumentError, match=r"nothing to draw: .* is empty"):
        plot(make("GRU").isel(empty))
    assert plt.get_fignums() == []


@pytest.mark.parametrize(("name", "dim"), [("gates", "unit"), ("saturation", "time"), ("spectrum", "index")])
def test_a_dimension_that_is_lost_is_told(name, dim):
    plot, make = EVERY[name]
    lost = make("GRU").isel({dim: 0}).drop_vars(dim, errors="ignore")
    with pytest.raises(ArgumentError, match=r"has the dimensions .*; got .*Select with a list"):
        plot(lost)


@pytest.mark.parametrize("name", ["gates", "saturation"])
def test_a_trace_without_the_names_of_its_gating_gates_is_refused(name):
    traced = trace_of()
    del traced.attrs["gating"]
    with pytest.raises(ArgumentError, match=r"attrs\['gating'\].* is lost.*assign_attrs"):
        EVERY[name][0](traced)


def test_values_that_are_no_numbers_are_refused():
    traced = trace_of(samples=1, steps=1, units=1)
    with pytest.raises(ArgumentTypeError, match="expected numbers"):
        plot_gates(with_gates(traced, np.full((1, 1, 4, 1), "open")))


@pytest.mark.parametrize("name", ["gates", "saturation", "spectrum"])
def test_a_part_of_a_figure_is_drawn_into(name):
    plot, make = EVERY[name]
    whole = plt.figure(figsize=(14, 6), layout="constrained")
    left, right = whole.subfigures(1, 2)
    fig, axes = plot(make("GRU"), fig=right)
    assert fig is right
    assert not left.axes
    assert all(ax in right.axes for ax in axes.ravel())
    assert nothing_is_cut_off(whole)


@pytest.mark.parametrize("name", EVERY)
def test_a_layer_name_is_drawn_as_it_is_and_cut_to_fit(name):
    plot, make = EVERY[name]
    fig, axes = plot(
        make("GRU").assign_attrs(layer="encoder/block_1/$x$/very_long/bidirectional_of_mine/gru")
    )
    title = axes.get_legend().get_title() if name == "horizon" else fig._suptitle
    assert title.get_text().startswith(r"encoder/block_1/\$x")
    assert "…tional_of_mine/gru (GRU): " in title.get_text()
    assert nothing_is_cut_off(fig)


def test_importing_the_pictures_does_not_load_tensorflow():
    code = "import sys, see_rnn_like.plots.gates; print('tensorflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


# ---------------------------------------------------------------------------- gates


@pytest.mark.parametrize("sample", [None, 0, 2])
def test_gate_images_are_the_gates_over_time(sample):
    traced = trace_of()
    _, axes = plot_gates(traced, sample=sample)
    values = traced["gates"].values.astype("float64")
    expected = sum(values) / 3 if sample is None else values[sample]
    for gate, ax in enumerate(axes[0]):
        np.testing.assert_allclose(image_of(ax), expected[:, gate].T, rtol=1e-12)
        assert ax.get_title() == CELLS["LSTM"][0][gate]
        assert (ax.get_ylabel(), ax.get_xlabel()) == ("unit", "timestep" if gate == 3 else "")


def test_gates_go_from_0_to_1_and_candidates_from_minus_1_to_1_around_white():
    fig, axes = plot_gates(trace_of())
    images = [ax.images[0] for ax in axes[0]]
    assert [image.get_clim() for image in images] == [(0, 1), (0, 1), (-1, 1), (0, 1)]
    assert [image.cmap.name for image in images] == ["bone", "bone", "RdBu_r", "bone"]
    assert min(images[2].cmap(images[2].norm(0.0))[:3]) > 0.95
    bars = [ax for ax in fig.axes if ax not in axes]
    assert [bar.get_ylim() for bar in bars] == [(0, 1), (0, 1), (-1, 1), (0, 1)]


def test_values_beyond_the_range_widen_the_colors():
    traced = trace_of("GRU")
    values = traced["gates"].values.copy()
    values[0, 0, 1, 0], values[0, 0, 2, 0] = 3.0, -7.0
    _, axes = plot_gates(with_gates(traced, values), sample=0)
    assert [ax.images[0].get_clim() for ax in axes[0]] == [(0, 1), (0, 3), (-7, 7)]


def test_directions_are_columns_in_the_order_of_the_data():
    traced = trace_of("GRU", both=True)
    _, axes = plot_gates(traced, sample=1)
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes[:, 1]] == ["forward · reset", "backward · reset"]
    for row in range(2):
        np.testing.assert_array_equal(image_of(axes[row, 2]), traced["gates"].values[row, 1, :, 2].T)
    assert axes[0, 0].get_position().x1 < axes[1, 0].get_position().x0


def test_masked_timesteps_are_in_the_bad_color_and_counted():
    fig, axes = plot_gates(masked(trace_of(), 1, [7, 8, 9]), sample=1)
    assert fig._suptitle.get_text() == "lstm (LSTM): gates, sample 1\n3 of 12 timesteps masked"
    for ax in axes[0]:
        assert np.flatnonzero(np.ma.getmaskarray(image_of(ax)).all(0)).tolist() == [7, 8, 9]
        assert np.ma.getmaskarray(image_of(ax)).sum() == 15
    assert shows(fig, BAD_CELL)


def test_the_mean_is_over_the_samples_that_are_not_masked_there():
    traced = masked(masked(masked(trace_of(), 0, [10, 11]), 1, [11]), 2, [11])
    fig, axes = plot_gates(traced)
    values = traced["gates"].values.astype("float64")
    np.testing.assert_allclose(image_of(axes[0, 0])[:, 10], (values[1, 10, 0] + values[2, 10, 0]) / 2)
    assert np.ma.getmaskarray(image_of(axes[0, 0]))[:, 11].all()
    assert fig._suptitle.get_text() == "lstm (LSTM): gates, mean of 3 samples\n4 of 36 timesteps masked"


def test_a_nan_is_no_masked_timestep():
    traced = trace_of(units=4)
    values = traced["gates"].values.copy()
    values[0, 5, 1, 2], values[1, 2, 2, 3] = np.nan, np.inf
    states = traced["h"].values.copy()
    values[2, 8:] = np.nan
    states[2, 8:] = np.nan
    blown_up = with_gates(traced, values).assign(h=(traced["h"].dims, states))
    fig, _ = plot_gates(blown_up)
    assert fig._suptitle.get_text().splitlines()[1] == f"{1 + 4 * 4 * 4} NaN, 1 Inf"
    assert shows(fig, BAD_CELL)


def test_a_trace_of_nan_alone_is_drawn_in_the_bad_color():
    traced = trace_of("SimpleRNN", units=2)
    fig, axes = plot_gates(with_gates(traced, np.full((3, 12, 1, 2), np.nan)).drop_vars("h"))
    assert np.ma.getmaskarray(image_of(axes[0, 0])).all()
    assert axes[0, 0].images[0].get_clim() == (-1, 1)
    assert "72 NaN" in fig._suptitle.get_text()


@pytest.mark.parametrize(
    ("units", "numbers"),
    [(3, [3]), ([1, 4], [1, 4]), (slice(2, None), [2, 3, 4]), (-1, [4]), ((4, 0), [4, 0])],
)
def test_selected_units_keep_their_numbers(units, numbers):
    traced = trace_of("SimpleRNN")
    _, axes = plot_gates(traced, sample=0, units=units)
    np.testing.assert_array_equal(image_of(axes[0, 0]), traced["gates"].values[0, :, 0, numbers])
    assert tick_texts(axes[0, 0].yaxis) == [str(number) for number in numbers]


def test_selected_timesteps_keep_their_numbers():
    _, axes = plot_gates(trace_of("SimpleRNN").isel(time=slice(6, 11)))
    assert tick_texts(axes[0, 0].xaxis) == ["6", "7", "8", "9", "10"]


def test_a_selected_gate_is_drawn_alone():
    _, axes = plot_gates(trace_of().sel(gate="forget"))
    assert axes.shape == (1, 1)
    assert axes[0, 0].get_title() == "forget"


@pytest.mark.parametrize("sample", [3, -1, -4])
def test_a_sample_that_is_not_there_is_refused(sample):
    with pytest.raises(ArgumentError, match=f"sample is one of 0 … 2; got {sample}"):
        plot_gates(trace_of(), sample=sample)


@pytest.mark.parametrize("sample", ["first", 1.0, True, [0]])
def test_a_sample_is_a_whole_number(sample):
    with pytest.raises(ArgumentTypeError, match="sample is a whole number; got"):
        plot_gates(trace_of(), sample=sample)


@pytest.mark.parametrize("units", [5, [0, 9], -6, [], slice(7, 9)])
def test_units_that_are_not_there_are_refused(units):
    with pytest.raises(ArgumentError, match="units must be some of the 5 units"):
        plot_gates(trace_of(), units=units)


@pytest.mark.parametrize("units", ["all", 1.5, [True, False], [[1, 2]]])
def test_units_are_whole_numbers(units):
    with pytest.raises(ArgumentTypeError, match="units is a whole number, a slice"):
        plot_gates(trace_of(), units=units)


def test_half_precision_does_not_overflow_in_the_mean():
    traced = trace_of(samples=3, dtype="float16")
    _, axes = plot_gates(with_gates(traced, np.full((3, 12, 4, 5), 60_000, "float16")))
    assert (image_of(axes[0, 0]) == 60_000).all()


# ---------------------------------------------------------------------------- saturation


def test_dots_are_right_over_left_of_each_unit():
    """Karpathy, Johnson & Li 2015: x is the fraction right-saturated, y the fraction left-saturated."""
    traced = trace_of()
    _, axes = plot_saturation(traced)
    values = traced["gates"].values
    for gate, (ax, low) in enumerate(zip(axes[0], [0.1, 0.1, -0.9, 0.1], strict=True)):
        for unit, (x, y) in enumerate(dots(ax)):
            gates = values[:, :, gate, unit].ravel()
            assert x == pytest.approx(sum(gates > 0.9) / 36)
            assert y == pytest.approx(sum(gates < low) / 36)
        assert (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == ((0, 1), (0, 1), 1)
        (diagonal,) = ax.lines
        np.testing.assert_array_equal(diagonal.get_xdata() + np.array(diagonal.get_ydata()), [1, 1])
    assert axes[0, 0].get_ylabel() == "left-saturated"
    assert axes[0, 0].get_xlabel() == "right-saturated"


def test_a_trace_and_its_saturation_give_the_same_picture():
    traced = trace_of("GRU", both=True)
    pictures = [plot_saturation(given)[1].ravel() for given in (traced, gate_saturation(traced))]
    for one, other in zip(*pictures, strict=True):
        np.testing.assert_array_equal(dots(one), dots(other))
        assert one.get_title() == other.get_title()


@pytest.mark.parametrize(("gate", "low", "high"), [("update", 0.1, 0.9), ("new", -0.9, 0.9)])
def test_the_limits_told_are_those_that_were_counted(gate, low, high):
    """A unit just inside both limits is never saturated, one just outside always."""
    inside = trace_of("GRU", units=2).sel(gate=[gate])
    edges = np.array([[low + 1e-3, high - 1e-3], [low - 1e-3, high + 1e-3]])
    for place, expected in zip(edges, ([[0, 0], [0, 0]], [[0, 1], [1, 0]]), strict=True):
        _, axes = plot_saturation(with_gates(inside, np.broadcast_to(place, (3, 12, 1, 2))))
        np.testing.assert_array_equal(dots(axes[0, 0]), expected)
    sign = "−" if low < 0 else ""
    text = axes[0, 0].texts[0].get_text()
    assert text == f"mean of 2 units\n50% below {sign}{abs(low)}\n50% above {high}"


def test_candidates_are_named_as_such():
    fig, axes = plot_saturation(trace_of())
    names = ["input", "forget", "cell (candidate)", "output"]
    assert [ax.get_title() for ax in axes[0]] == names
    assert fig._suptitle.get_text() == "lstm (LSTM): share of timesteps at which a unit is saturated"


def test_a_cell_without_gates_from_0_to_1_says_so():
    fig, axes = plot_saturation(trace_of("SimpleRNN"))
    assert "no gates from 0 to 1, only candidates from −1 to 1" in fig._suptitle.get_text()
    assert axes[0, 0].get_title() == "hidden (candidate)"
    assert "below −0.9" in axes[0, 0].texts[0].get_text()


def test_masked_timesteps_do_not_count_and_units_without_any_are_told():
    traced = trace_of("GRU", samples=1, steps=4, units=2)
    values = np.full((1, 4, 3, 2), 0.95)
    values[0, 1:, :, 0] = np.nan
    values[0, :, 0, 1] = np.nan
    _, axes = plot_saturation(with_gates(traced, values))
    assert axes[0, 0].texts[0].get_text() == "mean of 1 unit\n0% below 0.1\n100% above 0.9\n1 NaN"
    assert axes[0, 1].texts[0].get_text() == "mean of 2 units\n0% below 0.1\n100% above 0.9"


def test_saturation_of_nan_alone_is_counted():
    traced = trace_of("GRU")
    _, axes = plot_saturation(with_gates(traced, np.full((3, 12, 3, 5), np.nan)))
    assert [ax.texts[0].get_text() for ax in axes[0]] == ["5 NaN"] * 3


def test_directions_are_rows_in_colors_of_their_own():
    _, axes = plot_saturation(trace_of("GRU", both=True))
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in axes[:, 0]] == ["forward · update", "backward · update"]
    colors = [ax.collections[0].get_facecolor()[0, :3] for ax in axes[:, 0]]
    np.testing.assert_allclose(colors, [plt.matplotlib.colors.to_rgb(hue) for hue in HUES[:2]])


def test_shares_of_one_recorded_step_are_drawn_and_of_all_steps_refused():
    shares = [gate_saturation(trace_of("GRU", seed=seed)) for seed in range(2)]
    over_training = xr.concat(shares, xr.DataArray([0, 9], dims="step", name="step"))
    _, axes = plot_saturation(over_training.sel(step=9))
    np.testing.assert_array_equal(dots(axes[0, 0])[:, 1], shares[1]["left"].sel(gate="update"))
    with pytest.raises(ArgumentError, match=r"of several steps take one: \.sel\(step=100\)"):
        plot_saturation(over_training)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 9))
def test_every_dot_is_below_the_diagonal(seed, units, steps):
    _, axes = plot_saturation(trace_of("GRU", samples=2, steps=steps, units=units, seed=seed))
    for ax in axes[0]:
        places = dots(ax)
        assert places.shape == (units, 2)
        assert (places >= 0).all()
        assert (places.sum(1) <= 1 + 1e-9).all()
    plt.close("all")


# ---------------------------------------------------------------------------- horizon


def test_influence_over_lag_is_logarithmic_with_a_band_of_one_standard_error():
    horizon = horizon_of("GRU")
    _, ax = plot_horizon(horizon)
    line = line_of(ax, "h")
    np.testing.assert_array_equal(line.get_xdata(), np.arange(50))
    np.testing.assert_allclose(line.get_ydata(), 0.8 ** np.arange(50))
    assert ax.get_yscale() == "log"
    (band,) = ax.collections
    places = band.get_paths()[0].vertices
    assert {0.9, 1.1} <= set(places[places[:, 0] == 0][:, 1].round(12))
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "lag (timesteps before the last)",
        "influence, relative to lag 0",
    )


def test_the_lags_at_which_it_falls_below_1_e_and_1_percent_are_marked():
    horizon = horizon_of(steps=60)
    _, ax = plot_horizon(horizon)
    furthest = line_of(ax, "c")
    marks = [line for line in ax.lines if len(line.get_xdata()) == 1]
    assert len(marks) == 2
    for mark, level in zip(marks, (np.exp(-1), 0.01), strict=True):
        (lag,), (height,) = mark.get_data()
        assert height == pytest.approx(level)
        assert np.interp(lag, furthest.get_xdata(), np.log(furthest.get_ydata())) == pytest.approx(
            np.log(level)
        )
        (text,) = [text for text in ax.texts if text.xy == (lag, level)]
        assert text.get_text() == f"{lag:.3g}"
    guides = [line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [0, 1]]
    assert guides == pytest.approx([np.exp(-1), 0.01])
    assert heading_of(ax) == ["lstm (LSTM): memory", "uses 9.49 of 60 steps (to 1/e), 43.7 of 60 (to 1%)"]


@pytest.mark.parametrize(
    ("factor", "steps", "words"),
    [
        (0.95, 50, "uses 19.5 of 50 steps (to 1/e), all 50 (to 1%)"),
        (1.0, 50, "uses all 50 steps (to 1/e), all 50 (to 1%)"),
        (1.3, 2000, "uses all 2,000 steps (to 1/e), all 2,000 (to 1%)"),
    ],
)
def test_a_memory_that_outlasts_the_sequence(factor, steps, words):
    fig, ax = plot_horizon(horizon_of("SimpleRNN", steps, (factor,), half_life=[np.nan]))
    assert heading_of(ax)[1] == words
    assert ax.get_ylim()[0] < 0.01
    assert ax.get_ylim()[1] > factor ** (steps - 1)
    assert nothing_is_cut_off(fig)


def test_one_timestep_has_no_horizon_and_says_so():
    horizon = horizon_of("SimpleRNN", 1, (0.5,)).assign_attrs(horizon=np.nan, horizon_1pct=np.nan)
    fig, ax = plot_horizon(horizon)
    assert heading_of(ax)[1] == "no horizon: of one timestep nothing is known but lag 0"
    assert nothing_is_cut_off(fig)


def underflown(steps=400, factor=0.01):
    """An influence that is exactly 0 in float32 from lag 23 on."""
    lag = np.arange(steps)
    horizon = horizon_of("SimpleRNN", steps, (0.5,), half_life=[np.nan])
    strength = (factor**lag).astype("float32")[None]
    assert strength[0, 22] > 0 == strength[0, 23]
    return horizon.assign(strength=(("state", "lag"), strength), error=(("state", "lag"), strength / 20))


def test_influences_that_underflow_do_not_widen_the_picture_beyond_its_axis():
    fig, ax = plot_horizon(underflown())
    end = ax.get_xlim()[1]
    assert end == 20  # lag 1 is the last of 1%
    assert all(np.max(line.get_xdata()) <= end for line in ax.lines if line.get_transform() != ax.transAxes)
    assert nothing_is_cut_off(fig)
    assert ax.get_window_extent().width > 0.7 * fig.bbox.width


def test_the_band_of_an_influence_that_underflows_stays_at_the_line():
    """An edge at 0 has no place on a logarithmic axis: without it the band is a wedge."""
    horizon = underflown()
    horizon["strength"][0, 3:] = 0
    horizon["error"][0, 3:] = 0
    _, ax = plot_horizon(horizon)
    (band,) = ax.collections
    places = band.get_paths()[0].vertices
    assert (places[:, 1] > 0).all()
    beyond = places[places[:, 0] >= 3]
    assert (beyond[:, 1] < ax.get_ylim()[0]).all()


def test_a_nan_far_beyond_the_last_strong_lag_stays_on_the_axis():
    horizon = underflown()
    horizon["strength"][0, 300] = np.nan
    fig, ax = plot_horizon(horizon)
    assert ax.get_xlim() == (0, 300)
    assert list(line_of(ax, "NaN or Inf").get_xdata()) == [300]
    assert nothing_is_cut_off(fig)


def test_recorded_influences_that_underflow_end_with_the_axis_too():
    strength = underflown()["strength"].values[0]
    fig, (ax,) = plot_horizon(horizon_run([strength, strength**0.4]))
    assert ax.get_xlim() == (0, 30)  # of the later step lag 2 is the last of 1%
    marks = [line for line in ax.lines if line.get_label() == "exactly 0"]
    assert [list(line.get_xdata()) for line in marks] == [list(range(23, 31))] * 2
    assert ax.get_title(loc="left") == "h: 1/e at 0.217 → 0.543, 1% at 1 → 2.5"
    assert nothing_is_cut_off(fig)


def test_the_half_life_is_a_curve_of_its_own():
    """Half is left after the median half-life of the units, a quarter after twice that."""
    _, ax = plot_horizon(horizon_of("GRU", half_life=(2.0, 6.0, 40.0, np.nan)))
    label = "gate half-life: 6 steps (median of 3 units)"
    assert labels_of(ax) == ["h", label]
    left = line_of(ax, label)
    assert left.get_ydata()[[0, 6, 12]] == pytest.approx([1, 1 / 2, 1 / 4])
    assert left.get_linestyle() == "--"


@pytest.mark.parametrize(
    ("half_life", "words", "left"),
    [
        ([0.0], "gate half-life: 0 steps (median of 1 unit)", [1, 0, 0]),
        ([np.inf, np.inf], "gate half-life: endless (median of 2 units)", [1, 1, 1]),
    ],
)
def test_a_gate_that_is_always_shut_or_always_open(half_life, words, left):
    _, ax = plot_horizon(horizon_of("GRU", 3, half_life=half_life))
    np.testing.assert_array_equal(line_of(ax, words).get_ydata(), left)


def test_without_a_gate_that_keeps_there_is_no_half_life():
    _, ax = plot_horizon(horizon_of("SimpleRNN", half_life=(np.nan, np.nan)))
    assert labels_of(ax) == ["h"]


def test_one_line_per_direction_and_state():
    _, ax = plot_horizon(horizon_of(both=True))
    assert labels_of(ax) == [
        "forward · h",
        "forward · c",
        "backward · h",
        "backward · c",
        "forward gate half-life: 5 steps (median of 3 units)",
        "backward gate half-life: 10 steps (median of 3 units)",
    ]
    assert line_of(ax, "backward · c").get_ydata()[2] == pytest.approx(0.9**4)
    assert len({line.get_color() for line in ax.lines[:4]}) == 4


def test_the_lag_axis_ends_far_beyond_1_percent_and_faint_influences_are_off_it():
    _, short = plot_horizon(horizon_of("SimpleRNN", 1000, (0.5,), half_life=[np.nan]))
    assert short.get_xlim() == (0, 70)  # 0.5⁶ is the last above 1%
    assert 1e-7 < short.get_ylim()[0] < 1e-6
    _, long = plot_horizon(horizon_of("SimpleRNN", 100, (0.99,), half_life=[np.nan]))
    assert long.get_xlim() == (0, 99)


def test_nan_influences_are_gaps_with_a_mark():
    horizon = horizon_of("GRU")
    horizon["strength"][0, 4:6] = [np.nan, np.inf]
    fig, ax = plot_horizon(horizon)
    assert np.flatnonzero(~np.isfinite(line_of(ax, "h").get_ydata())).tolist() == [4, 5]
    assert list(line_of(ax, "NaN or Inf").get_xdata()) == [4, 5]
    assert nothing_is_cut_off(fig)


def test_a_horizon_of_nan_alone_says_so():
    horizon = horizon_of("GRU").assign_attrs(horizon=np.nan, horizon_1pct=np.nan)
    horizon["strength"][:] = np.nan
    _, ax = plot_horizon(horizon)
    assert heading_of(ax)[1] == "no horizon: the influence is not a finite number"


def test_an_influence_of_exactly_0_is_marked_on_the_bottom_edge():
    horizon = horizon_of("GRU")
    horizon["strength"][0, 30:] = 0
    _, ax = plot_horizon(horizon)
    assert list(line_of(ax, "exactly 0").get_xdata()) == list(range(30, 50))


def test_a_horizon_is_drawn_into_given_axes():
    fig, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    found, ax = plot_horizon(horizon_of(), ax=axes[1])
    assert (found, ax) == (fig, axes[1])
    assert not axes[0].lines
    assert nothing_is_cut_off(fig)


@pytest.mark.parametrize("name", ["horizon", "horizon_1pct", "timesteps"])
def test_a_horizon_without_its_numbers_is_refused(name):
    horizon = horizon_of()
    del horizon.attrs[name]
    with pytest.raises(ArgumentError, match=f"its attrs have no '{name}'"):
        plot_horizon(horizon)


# ---------------------------------------------------------------------------- spectrum


def test_eigenvalues_are_in_the_complex_plane_with_the_unit_circle():
    """A turn by 36.87° has the eigenvalues 0.8 ± 0.6i, on the circle."""
    spectrum = spectrum_of([[[0.8, -0.6], [0.6, 0.8]]], "SimpleRNN")
    fig, axes = plot_spectrum(spectrum)
    plane = axes[0, 0, 0]
    np.testing.assert_allclose(np.sort(dots(plane), 0), [[0.8, -0.6], [0.8, 0.6]])
    (circle,) = plane.patches
    assert isinstance(circle, Circle)
    assert (circle.center, circle.radius, circle.get_fill()) == ((0, 0), 1, False)
    assert plane.get_aspect() == 1
    assert plane.get_title() == "hidden\nspectral radius 1"
    assert fig._suptitle.get_text() == "simplernn (SimpleRNN): spectrum of the recurrent kernel"
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("real part", "imaginary part")


def test_singular_values_are_below_by_rank():
    kernels = np.random.default_rng(0).normal(size=(3, 6, 6))
    _, axes = plot_spectrum(spectrum_of(kernels, "GRU"))
    for gate in range(3):
        line = axes[0, gate, 1].lines[-1]
        # The squares of singular values are the eigenvalues of WᵀW.
        squares = np.sort(np.linalg.eigvalsh(kernels[gate].T @ kernels[gate]))[::-1]
        np.testing.assert_allclose(np.array(line.get_ydata()) ** 2, squares, rtol=1e-9)
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7))
        radius = axes[0, gate, 0].get_title().split()[-1]
        assert float(radius) == pytest.approx(np.abs(np.linalg.eigvals(kernels[gate])).max(), rel=5e-3)


def test_all_gates_have_the_same_limits_that_hold_circle_and_eigenvalues():
    kernels = np.stack([np.eye(3) * size for size in (0.2, 4.0, 1.0)])
    _, axes = plot_spectrum(spectrum_of(kernels, "GRU"))
    for plane, below in axes[0]:
        assert plane.get_xlim() == plane.get_ylim() == pytest.approx((-4.4, 4.4))
        assert below.get_ylim() == pytest.approx((0, 4.4))
    _, small = plot_spectrum(spectrum_of(kernels[:1], "SimpleRNN"))
    assert small[0, 0, 0].get_xlim() == pytest.approx((-1.1, 1.1))


def test_spectra_of_both_directions():
    _, axes = plot_spectrum(random_spectrum("GRU", both=True))
    assert axes.shape == (2, 3, 2)
    assert axes[1, 2, 0].get_title().startswith("backward · new\nspectral radius ")
    assert [ax.get_subplotspec().colspan.start for ax in axes[0, :, 0]] == [0, 1, 2]
    assert [ax.get_subplotspec().rowspan.start for ax in axes[:, 0, 0]] == [0, 2]
    for plane, below in axes.reshape(-1, 2):
        assert plane.get_subplotspec().rowspan.start == below.get_subplotspec().rowspan.start - 1
        assert plane.get_subplotspec().colspan == below.get_subplotspec().colspan


def test_a_kernel_with_nan_is_counted_and_does_not_hide_the_others():
    spectrum = random_spectrum("GRU", units=4)
    spectrum["eigenvalues"][0] = np.nan
    spectrum["singular_values"][0] = np.nan
    fig, axes = plot_spectrum(spectrum)
    assert axes[0, 0, 0].get_title() == "update\nno spectral radius, 4 NaN"
    assert "NaN" not in axes[0, 1, 0].get_title()
    assert np.isfinite(axes[0, 0, 0].get_xlim()).all()
    assert nothing_is_cut_off(fig)


# ---------------------------------------------------------------------------- of a run


@pytest.fixture(scope="module")
def lstm_probe():
    return probed_run({"lstm": ("LSTM", ["forward"])})


@pytest.fixture(scope="module")
def two_layers():
    return probed_run({"gru": ("GRU", DIRECTIONS), "rnn": ("SimpleRNN", ["backward"])})


@pytest.mark.parametrize(("step", "number"), [(None, 2), (0, 0), (10, 1)])
def test_saturation_of_a_run_is_that_of_its_step(lstm_probe, step, number):
    fig, axes = plot_saturation(lstm_probe, step=step)
    for ax in axes[0]:
        np.testing.assert_allclose(
            dots(ax), [[0.02 * number, 0.02 * number + 0.2]] * 3 + [[1, 0]], rtol=1e-6, atol=1e-7
        )
    assert [ax.get_title() for ax in axes[0]] == ["input", "forget", "cell (candidate)", "output"]
    assert fig._suptitle.get_text().splitlines() == [
        f"lstm: step {10 * number}, probe batch",
        "share of timesteps at which a unit is saturated",
    ]


def test_saturation_of_a_run_is_what_put_together_by_hand_gives(two_layers):
    sides = {
        side: xr.concat(
            [
                two_layers[f"gru/{way}/saturation_{side}:value"].sel(step=10).rename(None)
                for way in DIRECTIONS
            ],
            xr.DataArray(DIRECTIONS, dims="direction", name="direction"),
        )
        for side in ("left", "right")
    }
    by_hand = xr.Dataset(sides, attrs={"gating": ["update", "reset"]})
    pictures = [plot_saturation(by_hand)[1], plot_saturation(two_layers, layer="gru", step=10)[1]]
    for one, other in zip(*map(np.ravel, pictures), strict=True):
        np.testing.assert_array_equal(dots(one), dots(other))
        assert one.get_title() == other.get_title()


def test_a_layer_that_only_runs_backwards_is_told_so(two_layers):
    _, axes = plot_saturation(two_layers, layer="rnn")
    assert axes[0, 0].get_title() == "backward · hidden (candidate)"
    _, axes = plot_horizon(two_layers, layer="rnn")
    assert axes[0].get_title(loc="left").startswith("backward · h: ")


@pytest.mark.parametrize(("columns", "shape"), [(1, (6, 1)), (2, (4, 2)), (9, (2, 3)), (None, (2, 3))])
def test_panels_of_gates_wrap_after_the_given_number_of_columns(two_layers, columns, shape):
    fig, axes = plot_saturation(two_layers, layer="gru", columns=columns)
    assert axes.shape == (2, 3)
    assert len(fig.axes) == 6
    assert axes[0, 0].get_gridspec().get_geometry() == shape
    places = [ax.get_subplotspec() for ax in axes.flat]
    assert [(p.rowspan.start, p.colspan.start) for p in places] == [
        (way * (shape[0] // 2) + gate // shape[1], gate % shape[1]) for way in range(2) for gate in range(3)
    ]
    for column in range(shape[1]):
        lowest = [ax for ax, p in zip(axes.flat, places, strict=True) if p.colspan.start == column][-1]
        assert lowest.get_xlabel() == "right-saturated"
        assert all(tick.label1.get_visible() for tick in lowest.xaxis.get_major_ticks())
    assert nothing_is_cut_off(fig)


def test_columns_are_at_least_one():
    with pytest.raises(ArgumentError, match="columns must be at least 1; got 0"):
        plot_saturation(trace_of(), columns=0)


@pytest.mark.parametrize("columns", ["abc", 1.5, np.nan, True, np.array([1, 2])])
@pytest.mark.parametrize("plot", [plot_saturation, plot_gradient_flow, plot_norms, plot_update_ratio])
def test_columns_are_a_whole_number(plot, columns, two_layers):
    run = two_layers if plot in (plot_saturation, plot_gradient_flow) else lstm_run([0, 1])
    layer = {"layer": "gru"} if plot is plot_saturation else {}
    with pytest.raises(ArgumentTypeError, match=r"^columns is a whole number; got "):
        plot(run, columns=columns, **layer)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("step", [True, "abc", 10.0, np.nan])
def test_a_step_is_a_whole_number(step, lstm_probe):
    with pytest.raises(ArgumentTypeError, match=r"^step is a whole number; got "):
        plot_saturation(lstm_probe, step=step)


@pytest.mark.parametrize("plot", [plot_saturation, plot_horizon])
def test_which_layer_of_a_run_must_be_clear(plot, two_layers):
    with pytest.raises(ArgumentError, match="several layers were recorded, gru, rnn: pick one with layer="):
        plot(two_layers)
    with pytest.raises(UnknownLayerError, match=r"no layer matches 'lstm'; layers .* are: gru, rnn"):
        plot(two_layers, layer="lstm")
    with pytest.raises(ArgumentError, match=r"nothing to draw: record with RNNMonitor\(capture=\("):
        plot(lstm_run([0], ["lstm"], roles=["kernel"]))


def test_a_step_that_was_not_recorded_is_told_with_those_that_were(lstm_probe):
    with pytest.raises(ArgumentError, match="step 7 was not recorded; recorded are 0, 10, 20"):
        plot_saturation(lstm_probe, step=7)


def test_what_picks_from_a_run_is_refused_for_a_dataset_and_the_other_way_round(lstm_probe):
    for picked in ({"layer": "lstm"}, {"step": 0}):
        with pytest.raises(ArgumentError, match="pick what to draw of a run"):
            plot_saturation(trace_of(), **picked)
    fig = plt.figure()
    for picked in ({"layer": "lstm"}, {"fig": fig}):
        with pytest.raises(ArgumentError, match="are for a run"):
            plot_horizon(horizon_of(), **picked)
    with pytest.raises(ArgumentError, match="a run has one per state: give fig="):
        plot_horizon(lstm_probe, ax=fig.subplots())


def test_horizons_of_a_run_are_a_line_per_step_in_a_panel_per_state(lstm_probe):
    fig, axes = plot_horizon(lstm_probe)
    assert len(axes) == 2
    for ax, base in zip(axes, (0.5, 0.6), strict=True):
        hues = []
        for number in range(3):
            line = line_of(ax, f"step {10 * number}")
            np.testing.assert_allclose(line.get_ydata(), (base + 0.02 * number) ** np.arange(12), rtol=1e-5)
            hues.append(line.get_color())
        # From dark to bright.
        assert sorted(hues, key=lambda hue: sum(plt.matplotlib.colors.to_rgb(hue))) == hues
        lags = [np.log(level) / np.log(base + 0.04 * end) for level in (np.exp(-1), 0.01) for end in (0, 1)]
        name = {0.5: "h", 0.6: "c"}[base]
        assert ax.get_title(loc="left") == (
            f"{name}: 1/e at {lags[0]:.3g} → {lags[1]:.3g}, 1% at {lags[2]:.3g} → {lags[3]:.3g}"
        )
        marked = [line.get_xdata() for line in ax.lines if line.get_linestyle() == "None"]
        np.testing.assert_allclose(marked[0], [lags[0], lags[2]], rtol=1e-4)
        assert ax.get_yscale() == "log"
    assert [ax.get_xlabel() for ax in axes] == ["", "lag (timesteps before the last)"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["step 0", "step 10", "step 20"]
    assert fig._suptitle.get_text().splitlines() == [
        "lstm: step 0 → 20, probe batch",
        "influence on the last state, relative to lag 0",
    ]
    assert nothing_is_cut_off(fig)


@pytest.mark.parametrize(
    ("count", "drawn"), [(1, [0]), (2, [0, 1]), (5, [0, 1, 2, 3, 4]), (60, [0, 15, 30, 44, 59])]
)
def test_of_many_steps_five_are_drawn_the_first_and_the_last_among_them(count, drawn):
    run = probed_run({"gru": ("GRU", ["forward"])}, steps=range(count), length=4)
    fig, _ = plot_horizon(run)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [f"step {step}" for step in drawn]


def horizon_run(strengths):
    """A run of one GRU whose influence over lag at steps 0, 1, … is given."""
    run = empty_run()
    key = TensorKey("gru", "forward", "horizon_h", "value")
    run.declare([TensorInfo(key, ("lag",), (len(strengths[0]),), {}, {"from": "probe batch"})])
    for step, values in enumerate(strengths):
        array = np.asarray(values, "float32")
        run.append(Snapshot(step, 0, 0.0, 0.0, {key: stats.moments(array)}, {}, {key: array}))
    return run


def test_lags_that_no_sample_has_are_no_nan():
    _, (ax,) = plot_horizon(horizon_run([[1, 0.5, 0.2, np.nan], [1, 0.9, 0.8, np.nan]]))
    assert ax.get_xlim() == (0, 2)
    assert ax.get_title(loc="left") == "h: 1/e at 1.33 → > 2, 1% at > 2 → > 2"
    assert "NaN or Inf" not in [line.get_label() for line in ax.lines]


def test_a_masked_horizon_ends_where_the_longest_sample_does():
    horizon = horizon_of("GRU", steps=20)
    horizon["strength"][:, 15:] = np.nan
    horizon["error"][:, 15:] = np.nan
    _, ax = plot_horizon(horizon)
    assert ax.get_xlim() == (0, 14)
    assert "NaN or Inf" not in [line.get_label() for line in ax.lines]


@pytest.mark.parametrize(
    ("second", "bad", "title"),
    [
        ([1, np.nan, np.nan, np.nan], [1, 2, 3], "1/e at 1.33 → NaN, 1% at > 3 → NaN"),
        ([1, 30, np.inf, np.nan], [2, 3], "1/e at 1.33 → > 3, 1% at > 3 → > 3"),
    ],
)
def test_influences_that_are_no_numbers_are_marked(second, bad, title):
    _, (ax,) = plot_horizon(horizon_run([[1, 0.5, 0.2, 0.1], second]))
    assert list(line_of(ax, "NaN or Inf").get_xdata()) == bad
    assert ax.get_title(loc="left") == f"h: {title}"


@given(st.floats(0.05, 0.98), st.floats(0.02, 0.9), st.integers(2, 60))
def test_the_lag_of_an_exponential_is_exact(factor, share, lags):
    found = fading_lag(factor ** np.arange(lags), share)
    expected = np.log(share) / np.log(factor)
    if expected < lags - 1.001:
        assert found == pytest.approx(expected, rel=1e-9)
    elif expected > lags - 0.999:
        assert found == np.inf


@pytest.mark.parametrize("strength", [[1.0], [1.0, np.nan, np.nan]])
def test_a_memory_of_which_only_lag_0_is_known_has_no_lag(strength):
    assert np.isnan(fading_lag(np.array(strength), 0.5))


def test_a_memory_that_ends_at_once_fades_at_lag_0():
    assert fading_lag(np.array([1.0, 0.0, 0.0]), 0.5) == 0
