"""Grids of panels: places, limits, ticks, and axes that sleep until they are used."""

import pickle

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import nothing_is_cut_off, pixels, tidy  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from see_rnn_like.plots import features_1D, features_2D, features_hist, features_hist_v2
from see_rnn_like.plots.grid import Grid, finite_range, fitting_ticks, number_texts, share_limits, widen
from see_rnn_like.plots.texts import Labels

RNG = np.random.default_rng(3)


def canvas_of(fig):
    return fig.axes[0]


def wake_all(axes):
    for ax in axes.flat:
        ax.get_label()


# ---- places ----------------------------------------------------------------------------------------


@given(st.integers(1, 3000))
def test_grids_hold_all_panels_and_are_nearly_square(count):
    grid = Grid.of(count)
    assert grid.rows * grid.cols >= count > (grid.rows - 1) * grid.cols
    assert max(grid.rows, grid.cols) <= 2 * min(grid.rows, grid.cols) or count == 1


@given(st.integers(1, 3000), st.integers(1, 4000))
def test_a_given_number_of_rows_is_kept_as_far_as_there_are_panels(count, rows):
    grid = Grid.of(count, rows)
    assert grid.rows == min(rows, count)
    assert grid.rows * grid.cols >= count > grid.rows * (grid.cols - 1)


@pytest.mark.parametrize(
    ("share", "groups"),
    [("all", [0] * 5), ("row", [0, 0, 1, 1, 2]), ("col", [0, 1, 0, 1, 0]), ("none", range(5))],
)
def test_groups_of_shared_axes(share, groups):
    assert Grid(3, 2, 5).groups(share).tolist() == list(groups)


limits = st.lists(
    st.one_of(st.just((np.nan, np.nan)), st.tuples(st.floats(-9, 0), st.floats(0, 9))), min_size=6, max_size=6
)


@given(limits, st.sampled_from(["all", "row", "col", "none"]))
def test_shared_limits_are_those_of_a_loop(found, share):
    groups = Grid(2, 3, 6).groups(share)
    shared = share_limits(np.array(found), groups)
    for panel in range(6):
        together = [found[i] for i in range(6) if groups[i] == groups[panel] and not np.isnan(found[i][0])]
        expected = (
            (min(low for low, _ in together), max(high for _, high in together)) if together else (0, 0)
        )
        assert tuple(shared[panel]) == expected


@given(st.floats(-1e30, 1e30), st.floats(0, 1e30))
def test_widened_limits_contain_the_old_ones(low, span):
    before = np.array([[low, low + span]])
    after = widen(before)[0]
    assert after[0] < low
    assert low + span < after[1]


def test_finite_ranges_leave_nan_and_inf_out():
    values = np.array([[1.0, np.nan, -2.0], [np.inf, np.nan, -np.inf]])
    assert finite_range(values, 1)[0].tolist() == [-2, 1]
    assert np.isnan(finite_range(values, 1)[1]).all()


# ---- ticks -----------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-9, 1e6), st.floats(5, 400), st.booleans(), st.booleans())
def test_ticks_stand_where_their_label_says_and_do_not_touch(low, span, points, tall, falling):
    high = low + max(span, 1e-6 * abs(low))
    low, high = (high, low) if falling else (low, high)
    ticks = fitting_ticks(low, high, points, 0.06, tall=tall)
    assert len(ticks) <= 7
    for place, text in ticks:
        assert 0 <= place <= 1
        assert low + place * (high - low) == pytest.approx(float(text), abs=0.02 * abs(high - low))
    if tall and len(ticks) > 1:
        assert np.diff(sorted(place for place, _ in ticks)).min() * points >= 8


@given(st.integers(1, 3000), st.floats(20, 400))
def test_whole_ticks_are_whole(steps, points):
    ticks = fitting_ticks(0, steps, points, 0.06, whole=True)
    assert all(float(text).is_integer() for _, text in ticks)
    assert ticks or steps == 1 or points < 40


def test_number_texts_have_as_many_digits_as_they_need():
    assert number_texts(np.array([1000.01, 1000.02])) == ["1000.01", "1000.02"]
    assert number_texts(np.array([-0.1, -2.7755575615628914e-17, 0.1])) == ["-0.1", "0", "0.1"]
    assert number_texts(np.array([0.0, 2e-7])) == ["0", "2e-7"]
    assert number_texts(np.array([5e9])) == ["5e9"]
    assert number_texts(np.array([])) == []


def test_tick_labels_stand_at_their_values():
    fig, axes = features_1D(RNG.normal(size=(2, 40, 20)) * 3)
    fig.canvas.draw()
    canvas = canvas_of(fig)
    x_labels, y_labels = [labels for labels in canvas.collections if isinstance(labels, Labels)][1:]
    below, beside = axes[-1, 0], axes[0, 0]
    in_column = len(x_labels.texts) // axes.shape[1]
    for text, place in zip(x_labels.texts[:in_column], x_labels.get_offsets()[:in_column], strict=True):
        seen = canvas.transData.transform(place)
        assert seen == pytest.approx(below.transData.transform((float(text), below.get_ylim()[0])), abs=0.5)
    in_row = len(y_labels.texts) // axes.shape[0]
    assert in_row >= 2
    for text, place in zip(y_labels.texts[:in_row], y_labels.get_offsets()[:in_row], strict=True):
        seen = canvas.transData.transform(place)
        assert seen == pytest.approx(beside.transData.transform((0, float(text))), abs=0.5)


def test_tick_labels_stand_outside_the_panels():
    fig, _ = features_1D(RNG.normal(size=(2, 40, 20)))
    fig.canvas.draw()
    canvas = canvas_of(fig)
    x_labels, y_labels = [labels for labels in canvas.collections if isinstance(labels, Labels)][1:]
    assert y_labels.get_window_extent().x1 < canvas.bbox.x0
    assert x_labels.get_window_extent().y1 < canvas.bbox.y0
    assert x_labels.get_window_extent().x1 < canvas.bbox.x1 + 10
    assert y_labels.get_window_extent().y1 < canvas.bbox.y1 + 4


def test_rows_that_differ_have_no_common_labels():
    data = RNG.normal(size=(2, 40, 20)) * np.arange(1, 21)
    shared, own = features_1D(data)[0], features_1D(data, share_xy=(1, 0))[0]
    count = [sum(isinstance(a, Labels) for a in canvas_of(fig).collections) for fig in (shared, own)]
    assert count == [3, 2]
    assert canvas_of(own).get_ylabel() == "every panel has its own y limits"
    assert canvas_of(own).get_xlabel() == canvas_of(shared).get_ylabel() == ""


def test_labels_reach_as_far_as_a_text_would():
    fig, ax = plt.subplots()
    labels = Labels(
        ["123", "ab"], np.array([[0.5, 0.5], [0.2, 0.8]]), ax.transData, dpi=fig.dpi, size=20, ha="center"
    )
    ax.add_artist(labels)
    texts = [ax.text(0.5, 0.5, "123", size=20, ha="center"), ax.text(0.2, 0.8, "ab", size=20, ha="center")]
    fig.canvas.draw()
    box = mpl.transforms.Bbox.union([text.get_window_extent() for text in texts])
    assert labels.get_window_extent().extents == pytest.approx(box.extents, abs=8)
    assert labels.texts == ("123", "ab")


# ---- sleeping axes ---------------------------------------------------------------------------------


def test_looking_at_the_array_wakes_nobody():
    fig, axes = features_1D(RNG.normal(size=(2, 40, 20)))
    assert all(isinstance(ax, Axes) for ax in axes.flat)
    assert len({id(ax) for ax in axes.ravel().tolist()}) == 20
    assert "asleep" in repr(axes)
    axes.T.reshape(-1)[3:7].copy()
    assert not isinstance(axes[0, 0], str)
    assert len(fig.axes) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda ax: ax.set_title("x"),
        lambda ax: ax.lines,
        lambda ax: ax.plot([0, 1]),
        lambda ax: setattr(ax, "note", 3),
        lambda ax: ax.set_rasterized(True),
        lambda ax: ax.set_clip_on(False),
        lambda ax: plt.sca(ax),
        lambda ax: hasattr(ax, "nothing"),
    ],
)
def test_any_use_makes_a_panel_a_real_axes(use):
    data = RNG.normal(size=(2, 40, 20))
    fig, axes = features_1D(data)
    ax = axes[1, 2]
    panel = axes.shape[1] + 2
    use(ax)
    assert type(ax) is Axes
    assert fig.axes[1:] == [ax]
    assert "_wake" not in vars(ax)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), data[1, :, panel])
    assert axes[1, 2] is ax


def test_what_was_set_on_waking_stays():
    axes = features_1D(RNG.normal(size=(2, 40, 20)))[1]
    axes[0, 0].set_rasterized(True)
    axes[0, 1].set_clip_on(False)
    axes[0, 2].note = 3
    assert axes[0, 0].get_rasterized()
    assert not axes[0, 1].get_clip_on()
    assert axes[0, 2].note == 3


def test_waking_leaves_the_current_axes_alone():
    fig, axes = features_1D(RNG.normal(size=(2, 40, 20)))
    other = plt.figure().add_subplot()
    axes[0, 0].set_title("x")
    assert plt.gca() is other
    assert fig.gca() is canvas_of(fig)


def test_an_empty_place_wakes_invisible():
    fig, axes = features_1D(RNG.normal(size=(2, 40, 19)), n_rows=4)
    assert axes.shape == (4, 5)
    assert not axes[3, 4].get_visible()
    pixels(fig)


@pytest.mark.parametrize(
    ("plot", "data", "arguments"),
    [
        (features_1D, RNG.normal(size=(1, 12, 20)).cumsum(1), {}),
        (features_1D, RNG.normal(size=(1, 12, 19)).cumsum(1), {"tight": True, "show_y_zero": True}),
        (features_1D, RNG.normal(size=(1, 12, 20)).cumsum(1), {"share_xy": (1, 0), "borderwidth": 2}),
        (features_2D, RNG.normal(size=(20, 6, 5)), {"show_colorbar": True}),
        (features_2D, RNG.normal(size=(20, 6, 5)), {"show_borders": False, "timesteps_xaxis": True}),
        (features_hist, RNG.normal(size=(12, 900)), {"bins": 20}),
        (
            features_hist,
            RNG.normal(size=(12, 900)),
            {"n_rows": 3, "xlims": (-1, 1), "bins": 20, "share_xy": 0},
        ),
        (features_hist_v2, RNG.normal(size=(4, 3, 2, 900)), {"colnames": "abc", "side_annot": "row "}),
    ],
)
def test_waking_everything_gives_the_same_picture(plot, data, arguments):
    if "colnames" in arguments:
        arguments = {**arguments, "colnames": list(arguments["colnames"])}
    data[..., 0, :1] = np.nan
    fig, axes = plot(data, **arguments)
    asleep = pixels(fig).astype(int)
    wake_all(axes)
    awake = pixels(fig).astype(int)
    drawn = (asleep.min(-1) < 230) | (awake.min(-1) < 230)
    # Lines are joined, texts are smoothed and ticks are chosen a little differently.
    differ = np.abs(asleep - awake).max(-1) > 100
    assert differ.sum() < 0.15 * drawn.sum()
    assert drawn.sum() > 5000


def test_the_test_above_would_see_a_panel_in_the_wrong_place():
    data = RNG.normal(size=(1, 12, 20)).cumsum(1)
    one, other = (pixels(features_1D(each)[0]).astype(int) for each in (data, np.roll(data, 1, axis=2)))
    drawn = (one.min(-1) < 230) | (other.min(-1) < 230)
    assert (np.abs(one - other).max(-1) > 100).sum() > 0.15 * drawn.sum()


@pytest.mark.parametrize(("share", "same"), [("all", 20), ("row", 5), ("col", 4), ("none", 1)])
def test_panels_that_share_limits_follow(share, same):
    axes = features_1D(RNG.normal(size=(2, 40, 20)), share_xy=("none", share))[1]
    assert axes.shape == (4, 5)
    axes[1, 1].set_ylim(-50, 70)
    assert sum(ax.get_ylim() == (-50, 70) for ax in axes.flat) == same
    axes[1, 1].set_ylim(-5, 7)
    assert sum(ax.get_ylim() == (-5, 7) for ax in axes.flat) == same


def test_small_grids_share_as_matplotlib_does():
    axes = features_1D(RNG.normal(size=(2, 40, 4)))[1]
    assert axes[0, 0].get_shared_y_axes().joined(axes[0, 0], axes[1, 1])
    axes = features_1D(RNG.normal(size=(2, 40, 4)), share_xy=0)[1]
    assert not axes[0, 0].get_shared_y_axes().joined(axes[0, 0], axes[1, 1])


def test_canvas_and_real_axes_stay_in_step_when_the_figure_changes():
    fig, axes = features_1D(RNG.normal(size=(2, 40, 20)))
    axes[2, 3].set_title("awake")
    fig.subplots_adjust(wspace=0.6, hspace=0.9, left=0.3)
    fig.set_size_inches(7, 13)
    fig.set_dpi(50)
    fig.canvas.draw()
    canvas = canvas_of(fig)
    ground = canvas.collections[0].get_paths()
    corners = canvas.transData.transform(ground[0].vertices[:4])
    first = axes[0, 0].get_window_extent()
    assert corners[0] == pytest.approx((first.x0, first.y0), abs=0.1)
    assert corners[2] == pytest.approx((first.x1, first.y1), abs=0.1)
    assert len(ground) == 19


@pytest.mark.parametrize("channels", [4, 20])
def test_small_figures_keep_room_for_the_panels(channels):
    fig, axes = features_1D(RNG.normal(size=(2, 40, channels)), w=0.1, h=0.1, tight=True)
    pixels(fig)
    first, last = axes[0, 0].get_position(), axes[-1, -1].get_position()
    assert last.x1 - first.x0 > 0.3
    assert first.y1 - last.y0 > 0.3


def test_a_panel_leaves_the_canvas_when_it_wakes():
    fig, axes = features_2D(RNG.normal(size=(20, 6, 5)))
    assert len(canvas_of(fig).images) == 20
    axes[0, 0].set_title("x")
    fig.canvas.draw()
    assert len(canvas_of(fig).images) == 19
    wake_all(axes)
    fig.canvas.draw()
    assert not canvas_of(fig).images
    assert not canvas_of(fig).collections


def test_layouts_and_tight_saving_know_the_labels(tmp_path):
    fig, _ = features_1D(RNG.normal(size=(2, 40, 20)) * 1e-3)
    fig.savefig(tmp_path / "tight.png", bbox_inches="tight", dpi=50)
    fig.tight_layout()
    assert nothing_is_cut_off(fig)
    assert plt.imread(tmp_path / "tight.png").shape[0] > 300
    plt.xlabel("time")
    fig.canvas.draw()
    label = canvas_of(fig).xaxis.label.get_window_extent()
    ticks = [labels for labels in canvas_of(fig).collections if isinstance(labels, Labels)][1]
    assert label.y1 < ticks.get_window_extent().y0


def test_a_pickled_figure_is_the_same_and_wakes_on_its_own():
    data = RNG.normal(size=(2, 5, 12))
    fig, axes = features_1D(data)
    axes[0, 0].set_title("x")
    other, others = pickle.loads(pickle.dumps((fig, axes)))
    np.testing.assert_array_equal(pixels(other), pixels(fig))
    assert len(fig.axes) == len(other.axes) == 2
    assert others[0, 0] is other.axes[1]
    np.testing.assert_array_equal(others[1, 1].lines[0].get_ydata(), data[0, :, 5])
    assert len(fig.axes) == 2
    assert others[1, 1] in other.axes


def test_styles_a_canvas_cannot_show_give_real_axes():
    data = RNG.normal(size=(2, 5, 12))
    for configs in ({"plot": {"marker": "o"}}, {"annot": {"rotation": 90}}, {"subplot": {"gridspec_kw": {}}}):
        fig, axes = features_1D(data, configs=configs)
        assert len(fig.axes) == axes.size
        axes[0, 0].set_ylim(-9, 9)
        assert {ax.get_ylim() for ax in axes.flat} == {(-9, 9)}
