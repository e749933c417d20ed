"""The picture of an autopsy: what is emphasised, marked, named and written, for every kind of autopsy."""

import dataclasses
import itertools
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from figures import line_of, nothing_is_cut_off, shows, tidy, unchanged  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from see_rnn_like.bundle.autopsies import autopsy_from_json, autopsy_to_json
from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.findings import Autopsy, Where
from see_rnn_like.plots.autopsy import PALE, plot_autopsy, spread
from see_rnn_like.plots.curves import HUES
from see_rnn_like.plots.steps import BAD

pytestmark = pytest.mark.usefixtures("tidy")

GATE = Where(1284, "forward", "lstm", "forward", "gates", "cell", 6, (3,), (0, 2))
TENSORS = (
    "embedding/output:value",
    "lstm/forward/output:value",
    "head/output:value",
    "loss:value",
    "head/kernel:gradient",
    "lstm/forward/kernel:gradient",
)


def trail_of(values, tensors=TENSORS, last=1284):
    values = np.asarray(values, "float64")
    steps = np.arange(last - len(values) + 1, last + 1)
    return xr.DataArray(values, dims=("step", "tensor"), coords={"step": steps, "tensor": list(tensors)})


def lived(steps=5, tensors=TENSORS, seed=0):
    """A trail whose first tensor stays finite and whose others are NaN at the last step."""
    values = np.random.default_rng(seed).uniform(0.1, 10, (steps, len(tensors)))
    values[-1, 1:] = np.nan
    return trail_of(values, tensors)


def growth_of(values):
    return xr.DataArray(np.asarray(values, "float64"), dims="time", coords={"time": np.arange(len(values))})


GROWN = growth_of([*10.0 ** np.arange(6), np.inf, np.nan, np.nan])
EVIDENCE = {"nan": 0, "inf": 4, "activation": "relu", "growth_per_timestep": 10.0}
MESSAGE = "Inf at step 1284: lstm (forward), cell gate; growing ×10 per timestep. Weights are intact."


def autopsy(where=GATE, trail=None, growth=None, evidence=EVIDENCE, message=MESSAGE):
    found = Autopsy("not-finite", "error", 1.0, where, evidence, message, "", "plot_autopsy", growth=growth)
    return found if trail is None else dataclasses.replace(found, trail=trail)


def lines(ax, color):
    """Data lines of a colour: not the ties between a line and its name."""
    return [
        line
        for line in ax.lines
        if to_hex(line.get_color()) == color and line.get_transform() == ax.transData
    ]


def marks(ax):
    """Where NaN and Inf are marked, on the top edge."""
    found = [line for line in ax.lines if line.get_label() == "NaN or Inf"]
    for line in found:
        assert to_hex(line.get_color()) == BAD
        assert set(line.get_ydata()) == {1.0}
        assert line.get_transform() == ax.get_xaxis_transform()
    return [x for line in found for x in line.get_xdata()]


def texts(ax):
    return [text.get_text() for text in ax.texts]


# -- trail -----------------------------------------------------------------------------------------


def test_trail_has_a_line_per_tensor_with_gaps_where_it_was_not_finite():
    trail = lived()
    with unchanged(trail.values):
        fig, axes = plot_autopsy(autopsy(trail=trail))
    assert axes.shape == (1,)
    (ax,) = axes
    assert ax.get_yscale() == "log"
    for tensor in TENSORS:
        line = line_of(ax, tensor)
        np.testing.assert_array_equal(line.get_xdata(), range(1280, 1285))
        np.testing.assert_array_equal(line.get_ydata(), trail.sel(tensor=tensor))
    assert ax.get_xlim() == (1279.5, 1284.5)
    finite = trail.values[np.isfinite(trail.values)]
    assert ax.get_ylim()[0] < finite.min() < finite.max() < ax.get_ylim()[1]
    assert nothing_is_cut_off(fig)


def test_loss_and_guilty_layer_are_coloured_and_named_and_all_others_pale():
    trail = lived()
    fig, (ax,) = plot_autopsy(autopsy(trail=trail))
    assert to_hex(line_of(ax, "loss:value").get_color()) == to_hex(plt.rcParams["text.color"])
    assert line_of(ax, "lstm/forward/output:value").get_color() == HUES[0]
    assert line_of(ax, "lstm/forward/kernel:gradient").get_color() == HUES[1]
    assert {line.get_label() for line in lines(ax, PALE)} == {
        "embedding/output:value",
        "head/output:value",
        "head/kernel:gradient",
    }
    assert texts(ax) == ["step 1284", "loss → NaN", "output → NaN", "kernel gradient → NaN"]
    assert ax.get_title("left") == "largest |value| at each step; pale: 3 other tensors"
    assert shows(fig, BAD)


def test_bad_step_is_a_red_line_and_marks_are_where_something_was_not_finite():
    values = lived().values
    values[1, 0] = np.inf
    _, (ax,) = plot_autopsy(autopsy(trail=trail_of(values)))
    assert marks(ax) == [1281, 1284]
    assert line_of(ax, "_step 1284").get_xdata() == [1284, 1284]
    assert np.isnan(line_of(ax, TENSORS[0]).get_ydata()[1])


def test_values_at_the_bad_step_are_told_nan_inf_and_finite():
    values = np.ones((3, 6))
    values[-1] = [1, np.inf, 1, 12345.6, 1, np.nan]
    _, (ax,) = plot_autopsy(autopsy(trail=trail_of(values)))
    assert texts(ax)[1:] == ["loss → 1.23×10⁴", "output → Inf", "kernel gradient → NaN"]


def test_names_stand_at_the_height_at_which_their_lines_end():
    values = np.tile([1.0, 1e-4, 1, 1e3, 1, 1e6], (3, 1))
    values[-1] = np.nan
    _, (ax,) = plot_autopsy(autopsy(trail=trail_of(values)))
    low, high = np.log10(ax.get_ylim())
    for text, value in zip(ax.texts[1:], (1e3, 1e-4, 1e6), strict=True):
        assert text.get_position()[1] == pytest.approx((np.log10(value) - low) / (high - low))


def test_names_of_lines_that_end_together_do_not_overlap():
    values = np.ones((3, 6))
    fig, (ax,) = plot_autopsy(autopsy(trail=trail_of(values)))
    fig.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts[1:]), key=lambda box: box.y0)
    assert len(boxes) == 3
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0, 0.2))
def test_spread_keeps_order_and_distance(places, gap):
    moved = spread(places, gap)
    order = np.argsort(places, kind="stable")
    assert (np.diff(np.array(moved)[order]) >= gap - 1e-9).all()
    assert max(moved, default=0) <= 1
    apart = np.diff(np.sort(places))
    if len(places) and (apart >= gap).all():
        assert moved == pytest.approx(places)


def test_direction_to_blame_only_is_emphasised():
    tensors = [
        "embedding/output:value",
        "loss:value",
        "bi/output:value",
        "bi/forward/kernel:gradient",
        "bi/backward/kernel:gradient",
    ]
    where = dataclasses.replace(GATE, layer="bi", direction="backward")
    _, (ax,) = plot_autopsy(autopsy(where, lived(tensors=tensors)))
    assert texts(ax)[1:] == ["loss → NaN", "output → NaN", "kernel gradient → NaN"]
    assert line_of(ax, "bi/backward/kernel:gradient").get_color() == HUES[1]
    assert line_of(ax, "bi/forward/kernel:gradient").get_color() == PALE


def test_layers_inside_the_one_to_blame_are_told_apart():
    tensors = [
        "network/output:value",
        "loss:value",
        "net/a/forward/output:value",
        "net/b/backward/kernel:gradient",
    ]
    where = Where(1284, "forward", "net", role="output")
    _, (ax,) = plot_autopsy(autopsy(where, lived(tensors=tensors)))
    assert texts(ax)[1:] == ["loss → NaN", "a/forward/output → NaN", "b/backward/kernel gradient → NaN"]
    assert [line.get_label() for line in lines(ax, PALE)] == ["network/output:value"]


@pytest.mark.parametrize(
    "where",
    [
        Where(1284, "data", role="x"),
        Where(1284, "loss", role="loss"),
        Where(1284),
        Where(1284, layer="other"),
    ],
)
def test_without_a_layer_to_blame_the_largest_gradient_is_shown(where):
    values = np.array([[1, 1, 1, 1, 2, 5], [1, 1, 1, 1, 9, 7], [1, 1, 1, 1, np.nan, 7]])
    _, (ax,) = plot_autopsy(autopsy(where, trail_of(values)))
    np.testing.assert_array_equal(line_of(ax, "largest gradient").get_ydata(), [5, 9, np.nan])
    assert texts(ax)[1:] == ["loss → 1", "largest gradient → NaN"]
    assert len(lines(ax, PALE)) == 5


def test_two_hundred_tensors_and_long_names():
    layer = "encoder/" + "a_very_long_name_" * 6
    tensors = [f"block_{i}/forward/kernel:gradient" for i in range(199)] + [f"{layer}/output:value"]
    where = dataclasses.replace(GATE, layer=layer, role="$o$" * 30)
    message = "NaN at step 1284: " + f"{layer}, output; " * 4 + "x" * 400 + " costs $5 and $7"
    fig, axes = plot_autopsy(autopsy(where, lived(16, tensors), GROWN, message=message))
    assert len(lines(axes[0], PALE)) == 199
    assert nothing_is_cut_off(fig)
    written = fig.get_supxlabel()
    assert written.replace("\n", "").replace(" ", "").startswith(message.replace(" ", "")[:300])


def test_all_nan_and_a_single_step():
    fig, (ax,) = plot_autopsy(autopsy(trail=trail_of(np.full((1, 6), np.nan), last=0)))
    assert marks(ax) == [0]
    assert shows(fig, BAD)
    assert texts(ax)[1:] == ["loss → NaN", "output → NaN", "kernel gradient → NaN"]
    fig, (ax,) = plot_autopsy(autopsy(trail=trail_of(np.ones((1, 6)), last=0)))
    assert line_of(ax, "loss:value").get_marker() == "o"
    assert nothing_is_cut_off(fig)


def test_zero_is_marked_on_the_bottom_edge():
    values = np.ones((3, 6))
    values[:, 5] = 0
    _, (ax,) = plot_autopsy(autopsy(trail=trail_of(values)))
    zeros = line_of(ax, "exactly 0")
    assert zeros.get_color() == HUES[1]
    assert set(zeros.get_ydata()) == {0.0}
    assert texts(ax)[-1] == "kernel gradient → 0"


# -- growth ----------------------------------------------------------------------------------------


def test_growth_is_a_line_up_to_the_bad_timestep():
    fig, axes = plot_autopsy(autopsy(growth=GROWN))
    assert axes.shape == (1,)
    (ax,) = axes
    line = line_of(ax, "cell gate")
    np.testing.assert_array_equal(line.get_ydata()[:6], 10.0 ** np.arange(6))
    assert np.isnan(line.get_ydata()[6:]).all()
    assert marks(ax) == [6, 7, 8]
    assert line_of(ax, "_timestep 6").get_xdata() == [6, 6]
    assert "timestep 6" in texts(ax)
    assert (ax.get_yscale(), ax.get_xlabel()) == ("log", "timestep")
    title = ax.get_title("left").replace("\n", " ")
    assert title == "largest |value| of cell gate before relu: ×10 per timestep"
    assert nothing_is_cut_off(fig)


@pytest.mark.parametrize(
    ("phase", "direction", "backwards"),
    [
        ("forward", "forward", False),
        ("forward", "backward", True),
        ("backward", "forward", True),
        ("backward", "backward", False),
    ],
)
def test_axis_says_when_later_timesteps_come_first(phase, direction, backwards):
    where = dataclasses.replace(GATE, phase=phase, direction=direction)
    _, (ax,) = plot_autopsy(autopsy(where, growth=GROWN))
    assert ax.get_xlabel() == "timestep" + " (the last one comes first)" * backwards


def test_values_near_the_end_of_float64_are_drawn_within_the_axis():
    values = [1e307, 1e300, 1.0, 1e-300, 0.0, np.inf]
    fig, (ax,) = plot_autopsy(autopsy(growth=growth_of(values)))
    fig.canvas.draw()
    np.testing.assert_array_equal(line_of(ax, "cell gate").get_ydata()[:5], [1e150, 1e150, 1, 1e-100, 0])
    assert np.isfinite(ax.get_ylim()).all()


def test_trail_near_the_end_of_float64_does_not_claim_a_number():
    values = np.ones((2, 6))
    values[-1, [3, 1]] = [1e300, 1e-300]
    _, (ax,) = plot_autopsy(autopsy(trail=trail_of(values)))
    assert texts(ax)[1:3] == ["loss → ≥10¹⁵⁰", "output → ≤10⁻¹⁰⁰"]


# -- both ------------------------------------------------------------------------------------------


def test_both_panels_title_and_message():
    fig, axes = plot_autopsy(autopsy(trail=lived(), growth=GROWN))
    assert axes.shape == (2,)
    assert axes[0].get_xlabel() == "step"
    assert axes[1].get_xlabel() == "timestep"
    assert fig.get_suptitle() == "Inf at step 1284: lstm (forward), cell gate, first at timestep 6 of 9"
    assert fig.get_supxlabel().replace("\n", " ") == MESSAGE
    assert nothing_is_cut_off(fig)


@pytest.mark.parametrize(
    ("where", "evidence", "title"),
    [
        (Where(3, "data", role="x/tokens"), {"nan": 1}, "NaN at step 3: data x/tokens"),
        (
            Where(3, "weights", "lstm", "backward", "kernel", "input"),
            {"inf": 1},
            "Inf at step 3: lstm (backward), weight kernel, input gate",
        ),
        (
            Where(None, "backward", "lstm", "forward", "bias", "new"),
            {"nan": 2, "inf": 1},
            "NaN: lstm (forward), gradient of bias, new gate",
        ),
        (
            Where(3, "forward", "gru", "forward", "h@1"),
            {"nan": 1},
            "NaN at step 3: gru (forward), state h of call 2",
        ),
        (Where(3, "loss", role="loss"), {"nan": 1}, "NaN at step 3: loss"),
        (Where(3), {"reproduced": False}, "NaN or Inf at step 3: place unknown"),
    ],
)
def test_title_says_what_and_where(where, evidence, title):
    fig, _ = plot_autopsy(autopsy(where, lived(), evidence=evidence))
    assert fig.get_suptitle() == title


def test_panels_below_each_other_and_in_a_subfigure():
    fig, axes = plot_autopsy(autopsy(trail=lived(), growth=GROWN), columns=1)
    assert axes[0].get_position().y0 > axes[1].get_position().y1
    assert nothing_is_cut_off(fig)
    whole = plt.figure(figsize=(16, 4), layout="constrained")
    left, _ = whole.subfigures(1, 2)
    assert plot_autopsy(autopsy(trail=lived(), growth=GROWN), fig=left)[0] is left
    assert nothing_is_cut_off(whole)


def test_text_of_a_stranger_is_drawn_as_it_is():
    where = dataclasses.replace(GATE, layer="$\\frac{", gate="$x$\x1b")
    found = autopsy(where, lived(), GROWN, {**EVIDENCE, "activation": "$re"}, "$\\frac{ \u202e \x1b[0m")
    fig, _ = plot_autopsy(found)
    fig.canvas.draw()
    assert fig.get_supxlabel() == "\\$\\frac{ � �[0m"


def test_an_autopsy_read_from_json_gives_the_same_picture():
    found = autopsy(trail=lived(), growth=GROWN)
    fig, axes = plot_autopsy(found)
    again, others = plot_autopsy(autopsy_from_json(autopsy_to_json(found)))
    assert (again.get_suptitle(), again.get_supxlabel()) == (fig.get_suptitle(), fig.get_supxlabel())
    for one, other in zip(axes, others, strict=True):
        assert texts(one) == texts(other)
        for a, b in zip(one.lines, other.lines, strict=True):
            np.testing.assert_array_equal(a.get_xydata(), b.get_xydata())


# -- what cannot be drawn --------------------------------------------------------------------------


def test_nothing_to_draw_says_so_with_the_message():
    with pytest.raises(ArgumentError, match=r"knows no steps before.*What it says: Inf at step 1284"):
        plot_autopsy(autopsy())


@pytest.mark.parametrize("given", [None, "NaN", {"trail": 1}])
def test_something_else_is_refused(given):
    with pytest.raises(ArgumentTypeError, match="expected the Autopsy of a NaNGuard"):
        plot_autopsy(given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trail": lived().transpose("tensor", "step")}, r"trail .* has the dims \('step', 'tensor'\)"),
        ({"trail": lived()[::-1]}, "trail .* ascending numbers as step"),
        ({"trail": lived().assign_coords(tensor=["nonsense"] * 6)}, "a tensor key looks like"),
        ({"growth": GROWN.rename(time="lag")}, r"growth .* has the dims \('time',\)"),
        ({"growth": GROWN.assign_coords(time=np.full(9, np.nan))}, "growth .* ascending numbers as time"),
    ],
)
def test_another_form_is_refused(change, words):
    with pytest.raises(ArgumentError, match=words):
        plot_autopsy(dataclasses.replace(autopsy(), **change))


@pytest.mark.parametrize("values", [np.full((2, 6), "a"), np.full((2, 6), None)])
def test_what_is_no_number_is_refused(values):
    trail = lived(2).copy(data=values)
    with pytest.raises(ArgumentTypeError, match="expected numbers"):
        plot_autopsy(autopsy(trail=trail))


def test_columns_are_checked():
    with pytest.raises(ArgumentError, match="columns must be at least 1; got 0"):
        plot_autopsy(autopsy(growth=GROWN), columns=0)


def test_it_needs_no_tensorflow():
    code = (
        "import sys, xarray as xr; from see_rnn_like import Autopsy, Where, plot_autopsy;"
        "found = Autopsy('not-finite', 'error', 1.0, Where(phase='forward', layer='a'), {}, 'm', '', '',"
        "growth=xr.DataArray([1.0, 2.0], dims='time')); plot_autopsy(found)[0].canvas.draw();"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
