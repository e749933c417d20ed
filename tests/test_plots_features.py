"""Points, curves and heatmaps: what is drawn is the data, panel by panel."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from figures import nothing_is_cut_off, pixels, shows, tidy, unchanged  # noqa: F401
from matplotlib.colors import to_rgba

from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.plots import features_0D, features_1D, features_2D
from see_rnn_like.plots.colors import BAD_CELL
from see_rnn_like.plots.panels import REAL_AXES

RNG = np.random.default_rng(7)

#: One panel, a prime number of panels on real axes, and two grids drawn on a canvas.
CHANNELS = (1, 7, 64, 512)


def some(axes, count):
    """A few panels of a grid: the first, the last, some between. Real axes are slow to make."""
    return [(panel, axes.flat[panel]) for panel in sorted({0, count // 2, max(count - 2, 0), count - 1})]


def title(fig):
    return fig.get_suptitle()


# ---- curves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("samples", [1, 3])
def test_every_panel_draws_its_own_channel_under_its_own_number(samples, channels):
    data = RNG.normal(size=(samples, 11, channels))
    with unchanged(data):
        fig, axes = features_1D(data)
        pixels(fig)
    for panel, ax in some(axes, channels):
        drawn = np.array([line.get_ydata() for line in ax.lines])
        np.testing.assert_array_equal(drawn, data[:, :, panel])
        assert [text.get_text() for text in ax.texts] == [str(panel)]
        assert all((line.get_xdata() == np.arange(11)).all() for line in ax.lines)


@pytest.mark.parametrize("channels", CHANNELS)
def test_the_grid_is_nearly_square_and_empty_places_are_hidden(channels):
    axes = features_1D(RNG.normal(size=(2, 5, channels)))[1]
    rows, cols = axes.shape
    assert max(rows, cols) <= 2 * min(rows, cols)
    assert channels <= rows * cols
    assert all(not ax.get_visible() for ax in axes.flat[channels:])
    assert axes.flat[channels - 1].get_visible()


@pytest.mark.parametrize(
    ("channels", "n_rows", "shape"), [(7, 2, (2, 4)), (7, 7, (7, 1)), (30, 3, (3, 10)), (3, 9, (3, 1))]
)
def test_n_rows_is_kept(channels, n_rows, shape):
    assert features_1D(np.zeros((2, 5, channels)), n_rows=n_rows)[1].shape == shape


@pytest.mark.parametrize("n_rows", [0, -1, 2.5, "2", True])
def test_a_number_of_rows_that_is_none_is_refused(n_rows):
    with pytest.raises(ArgumentError, match="n_rows is a whole number ≥ 1 or None"):
        features_1D(np.zeros((2, 5, 3)), n_rows=n_rows)


def test_two_dimensional_data_is_one_curve_per_panel():
    data = RNG.normal(size=(9, 4))
    fig, axes = features_1D(data)
    assert [len(ax.lines) for ax in axes.flat] == [1] * 4
    np.testing.assert_array_equal(axes.flat[2].lines[0].get_ydata(), data[:, 2])
    assert title(fig) == "(Outputs vs. Timesteps) vs. Channels"


def test_subplot_samples_gives_every_sample_a_panel():
    data = RNG.normal(size=(3, 9, 5))
    fig, axes = features_1D(data, subplot_samples=True, n_rows=1)
    assert axes.shape == (1, 3)
    np.testing.assert_array_equal([line.get_ydata() for line in axes[0, 1].lines], data[1].T)
    assert title(fig) == "((Outputs vs. Timesteps) vs. Channels) vs. Samples"
    assert title(features_1D(data[0], subplot_samples=True)[0]) == "(Outputs vs. Timesteps) vs. Samples"


def test_max_timesteps_keeps_the_first_ones():
    data = RNG.normal(size=(3, 9, 5))
    ax = features_1D(data, max_timesteps=4)[1][0, 0]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), data[0, :4, 0])
    assert ax.get_xlim() == (0, 4)
    with pytest.raises(ArgumentError, match="max_timesteps is a whole number ≥ 1 or None; got 0"):
        features_1D(data, max_timesteps=0)


@pytest.mark.parametrize("channels", [4, 20])
@pytest.mark.parametrize("share", [True, (1, 1), "all"])
def test_shared_limits_hold_all_data(channels, share):
    data = RNG.normal(size=(3, 9, channels)) * np.arange(1, channels + 1)
    axes = features_1D(data, share_xy=share)[1]
    limits = {ax.get_ylim() for _, ax in some(axes, channels)}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low < data.min()
    assert data.max() < high


@pytest.mark.parametrize("channels", [4, 20])
def test_limits_are_shared_along_rows_columns_or_not_at_all(channels):
    data = RNG.normal(size=(3, 9, channels)) * np.arange(1, channels + 1)
    tops = {
        share: np.array([ax.get_ylim()[1] for ax in features_1D(data, share_xy=(1, share))[1].flat])
        for share in ("row", "col", 0)
    }
    grid = features_1D(data)[1].shape
    by_channel = data.max((0, 1)).reshape(grid)
    assert (np.ptp(tops["row"].reshape(grid), axis=1) == 0).all()
    assert (np.ptp(tops["col"].reshape(grid), axis=0) == 0).all()
    assert len(set(tops[0])) == channels
    assert (tops["row"].reshape(grid).max(1) > by_channel.max(1)).all()
    assert (tops["col"].reshape(grid).max(0) > by_channel.max(0)).all()


@pytest.mark.parametrize("share", ["cols", 2, (1, 1, 1), None, 1.5])
def test_another_way_to_share_is_refused(share):
    with pytest.raises(ArgumentError, match="share_xy"):
        features_1D(np.zeros((2, 5, 3)), share_xy=share)


@pytest.mark.parametrize("channels", [3, 20])
def test_one_colour_name_colours_all_curves(channels):
    axes = features_1D(RNG.normal(size=(4, 9, channels)), color="blue")[1]
    assert {line.get_color() for _, ax in some(axes, channels) for line in ax.lines} == {"blue"}


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ((0.1, 0.2, 0.3), [(0.1, 0.2, 0.3)] * 2),
        (["red", "#00ff00"], ["red", "#00ff00"]),
        (None, ["#1f77b4", "#ff7f0e"]),
    ],
)
def test_colours_are_one_for_all_or_one_per_curve(color, expected):
    ax = features_1D(np.zeros((2, 9, 1)), color=color)[1][0, 0]
    assert [to_rgba(line.get_color()) for line in ax.lines] == [to_rgba(each) for each in expected]


@pytest.mark.parametrize(
    ("color", "message"), [(["red"], "one per curve: 2; got 1"), ("blau", "a colour or"), (3, "a colour or")]
)
def test_too_few_colours_and_no_colours_are_refused(color, message):
    with pytest.raises(ArgumentError, match=message):
        features_1D(np.zeros((2, 9, 3)), color=color)


@pytest.mark.parametrize("channels", [3, 20])
def test_annotations_are_given_ones_and_the_list_is_not_changed(channels):
    names = ["a", "b"]
    axes = features_1D(np.zeros((2, 9, channels)), annotations=names)[1]
    assert names == ["a", "b"]
    assert [[text.get_text() for text in axes.flat[i].texts] for i in range(3)] == [["a"], ["b"], []]
    assert not features_1D(np.zeros((2, 9, 3)), annotations=None)[1][0, 0].texts
    with pytest.raises(ArgumentError, match="annotations is 'auto', None or a list"):
        features_1D(np.zeros((2, 9, 3)), annotations="a")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (True, "Values over timesteps: a panel per channel, a curve per sample"),
        ("generic", "Values over timesteps: a panel per channel, a curve per sample"),
        ("grads", "((Gradients vs. Timesteps) vs. Samples) vs. Channels"),
        ("My layer", "My layer"),
        (False, ""),
    ],
)
def test_titles_name_the_axes_or_are_as_given(given, expected):
    assert title(features_1D(np.zeros((2, 9, 3)), title=given)[0]) == expected


@pytest.mark.parametrize("turned", [False, True])
def test_generic_titles_say_what_is_where(turned):
    data = np.ones((2, 9, 3))
    words = "a panel per sample, a curve per channel" if turned else "a panel per channel, a curve per sample"
    assert (
        title(features_1D(data, title=True, subplot_samples=turned)[0]) == f"Values over timesteps: {words}"
    )
    words = title(features_1D(data[0], title=True, subplot_samples=turned)[0])
    assert words == f"Values over timesteps: a panel per {'sample' if turned else 'channel'}"
    words = title(features_2D(data, title=True, timesteps_xaxis=turned)[0]).partition(" --")[0]
    across, down = ("timesteps", "channels") if turned else ("channels", "timesteps")
    assert words == f"Values: {across} across, {down} down, a panel per sample"
    assert features_0D(data[0], title=True)[1].get_title() == "Values of the samples: a colour per channel"


@pytest.mark.parametrize("channels", [3, 20])
def test_nan_and_inf_are_gaps_marks_and_counted(channels):
    data = RNG.normal(size=(2, 9, channels))
    data[0, 3, 1], data[1, 5, 1], data[1, 0, 0] = np.nan, np.inf, -np.inf
    with unchanged(data):
        fig, axes = features_1D(data)
    assert title(fig).endswith("\n1 NaN, 2 Inf")
    assert np.isnan(axes.flat[1].lines[1].get_ydata()).nonzero()[0].tolist() == [5]
    assert np.isfinite(axes.flat[1].get_ylim()).all()
    (marks,) = axes.flat[1].collections
    assert [segment[0, 0] for segment in marks.get_segments()] == [3, 5]
    assert to_rgba(BAD_CELL) == tuple(marks.get_color()[0])
    assert not axes.flat[2].collections
    assert "NaN" not in title(features_1D(data, title=False)[0])


@pytest.mark.parametrize("channels", [3, 20])
def test_nan_is_seen_on_the_picture(channels):
    data = np.zeros((2, 9, channels))
    assert not shows(features_1D(data)[0], BAD_CELL)
    data[0, 3:6, 1] = np.nan
    assert shows(features_1D(data)[0], BAD_CELL)


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("value", [0.0, 3.5, -1e-30, 1e30, np.nan, np.inf])
def test_data_without_range_has_limits_around_it(channels, value):
    fig, axes = features_1D(np.full((2, 9, channels), value))
    pixels(fig)
    low, high = axes[0, 0].get_ylim()
    assert low < (value if np.isfinite(value) else 0) < high


def test_one_timestep_is_a_dot():
    for channels in (1, 20):
        fig, axes = features_1D(np.ones((1, 1, channels)), annotations=None, title=False, show_xy_ticks=0)
        assert shows(fig, "C0")
        assert axes[0, 0].lines[0].get_marker() == "."


def test_the_zero_line_is_within_the_limits():
    for channels in (3, 20):
        axes = features_1D(np.full((2, 9, channels), 5.0), show_y_zero=True)[1]
        assert axes[0, 0].get_ylim()[0] < 0
        assert [line.get_color() for line in axes[0, 0].lines[:1]] == ["red"]
        assert (axes[0, 0].lines[0].get_ydata() == np.array([0, 0])).all()


@pytest.mark.parametrize("channels", [3, 20])
def test_frames_and_ticks_can_be_left_out(channels):
    axes = features_1D(np.zeros((2, 9, channels)), show_borders=False, show_xy_ticks=(0, 1))[1]
    assert not axes[0, 0].get_frame_on()
    assert axes[0, 0].get_xticks().size == 0
    assert axes[0, 0].get_yticks().size > 0
    axes = features_1D(np.zeros((2, 9, channels)), borderwidth=3, show_xy_ticks=0)[1]
    assert axes[0, 0].spines["left"].get_linewidth() == 3
    assert axes[0, 0].get_xticks().size == axes[0, 0].get_yticks().size == 0


@pytest.mark.parametrize("channels", [3, 20])
def test_styles_reach_the_artists(channels):
    configs = {
        "plot": {"linewidth": 2.5, "marker": "x"},
        "annot": {"fontsize": 7, "color": "b"},
        "title": {"fontsize": 8},
    }
    fig, axes = features_1D(np.zeros((2, 9, channels)), configs=configs)
    assert axes[0, 0].lines[0].get_linewidth() == 2.5
    assert axes[0, 0].lines[0].get_marker() == "x"
    assert axes[0, 0].texts[0].get_fontsize() == 7
    assert fig._suptitle.get_fontsize() == 8


def test_tight_leaves_no_room_between_panels_and_room_around():
    for channels in (4, 20):
        axes = features_1D(np.zeros((2, 9, channels)), tight=True)[1]
        left, right = axes[0, 0].get_position(), axes[0, 1].get_position()
        assert left.x1 == pytest.approx(right.x0)
        assert left.y0 == pytest.approx(axes[1, 0].get_position().y1)
        assert left.x0 > 0.05
    axes = features_1D(np.zeros((2, 9, 4)), tight=True, configs={"tight": {"left": 0.3, "wspace": 0.5}})[1]
    assert axes[0, 0].get_position().x0 == pytest.approx(0.3)
    assert axes[0, 1].get_position().x0 > axes[0, 0].get_position().x1


# ---- heatmaps --------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", CHANNELS)
def test_every_panel_draws_its_own_sample(samples):
    data = RNG.normal(size=(samples, 6, 5))
    with unchanged(data):
        fig, axes = features_2D(data)
        pixels(fig)
    for panel, ax in some(axes, samples):
        (image,) = ax.images
        np.testing.assert_array_equal(image.get_array(), data[panel])
        assert ax.get_xlim() == (-0.5, 4.5)
        assert ax.get_ylim() == (5.5, -0.5)
        assert not ax.texts
    rows, cols = axes.shape
    assert max(rows, cols) <= 2 * min(rows, cols)


def test_timesteps_on_the_x_axis_transpose_the_image():
    data = RNG.normal(size=(2, 6, 5))
    fig, axes = features_2D(data, timesteps_xaxis=True)
    np.testing.assert_array_equal(axes.flat[1].images[0].get_array(), data[1].T)
    assert title(fig).startswith("((Channels vs. Timesteps) vs. Outputs) vs. Samples -- norm=(")
    assert title(features_2D(data)[0]).startswith("((Timesteps vs. Channels) vs. Outputs) vs. Samples")


def test_the_title_of_two_dimensional_data_has_no_samples():
    fig = features_2D(RNG.uniform(0, 2, size=(6, 5)), norm=(0, 2), title="grads")[0]
    assert title(fig) == "(Timesteps vs. Channels) vs. Gradients -- norm=(0, 2)"


def test_reflect_half_turns_time_of_the_second_half_of_the_channels():
    data = RNG.normal(size=(3, 6, 4))
    with unchanged(data):
        axes = features_2D(data, reflect_half=True)[1]
    for sample in range(3):
        drawn = axes.flat[sample].images[0].get_array()
        np.testing.assert_array_equal(drawn[:, :2], data[sample, :, :2])
        np.testing.assert_array_equal(drawn[:, 2:], data[sample, ::-1, 2:])
    np.testing.assert_array_equal(
        features_2D(data[0], reflect_half=True)[1][0, 0].images[0].get_array()[:, 2:], data[0, ::-1, 2:]
    )


def test_max_timesteps_cuts_before_the_halves_are_turned():
    data = RNG.normal(size=(1, 6, 4))
    drawn = features_2D(data, reflect_half=True, max_timesteps=3)[1][0, 0].images[0].get_array()
    np.testing.assert_array_equal(drawn[:, 2:], data[0, 2::-1, 2:])


def test_channel_axis_0_is_channels_first():
    data = RNG.normal(size=(4, 6, 3))
    first, last = features_2D(data, channel_axis=0)[1], features_2D(data.T)[1]
    assert first.shape == last.shape
    for one, other in zip(first.flat[:3], last.flat[:3], strict=True):
        np.testing.assert_array_equal(one.images[0].get_array(), other.images[0].get_array())
    flat = features_2D(data[..., 0], channel_axis=0)[1][0, 0].images[0].get_array()
    np.testing.assert_array_equal(flat, data[..., 0].T)
    with pytest.raises(ArgumentError, match=r"channel_axis is -1, or 0 .* got 1"):
        features_2D(data, channel_axis=1)


@pytest.mark.parametrize("samples", [2, 20])
@pytest.mark.parametrize(
    ("low", "high", "norm", "limits"),
    [
        (-1, 3, None, (-3, 3)),
        (1, 3, None, (1, 3)),
        (-3, -1, None, (-3, -1)),
        (1, 3, "auto", (-3, 3)),
        (-1, 3, (-0.5, 0.25), (-0.5, 0.25)),
        (2, 2, None, (0, 2)),
        (0, 0, None, (-1, 1)),
    ],
)
def test_colours_are_common_and_centred_for_signed_data(samples, low, high, norm, limits):
    data = np.full((samples, 3, 4), float(low))
    data[-1, 0, 0] = high
    axes = features_2D(data, norm=norm)[1]
    assert {ax.images[0].get_clim() for _, ax in some(axes, samples)} == {limits}


@pytest.mark.parametrize("norm", ["max", (1, 0), (0, np.nan), (1, 2, 3), 5])
def test_a_norm_that_is_none_is_refused(norm):
    with pytest.raises(ArgumentError, match="norm is"):
        features_2D(np.zeros((2, 3, 4)), norm=norm)


@pytest.mark.parametrize("samples", [2, 20])
def test_bad_cells_are_masked_coloured_and_counted(samples):
    data = RNG.normal(size=(samples, 6, 5))
    data[0, 1, 2], data[1, 0, 0] = np.nan, np.inf
    with unchanged(data):
        fig, axes = features_2D(data)
    assert title(fig).endswith("\n1 NaN, 1 Inf")
    image = axes.flat[0].images[0]
    assert image.get_array().mask.sum() == 1
    assert image.get_array().mask[1, 2]
    assert tuple(image.get_cmap().get_bad()) == to_rgba(BAD_CELL)
    high = np.abs(data[np.isfinite(data)]).max()
    assert image.get_clim() == (-high, high)
    assert mpl.colormaps["bwr"].get_bad()[3] == 0
    assert shows(fig, BAD_CELL)


@pytest.mark.parametrize("samples", [1, 12])
def test_one_bad_cell_among_thousands_is_seen(samples):
    data = np.zeros((samples, 700, 900))
    data[0, 301, 401] = np.nan
    fig, axes = features_2D(data)
    assert shows(fig, BAD_CELL)
    assert axes[0, 0].collections[0].get_offsets().tolist() == [[401, 301]]


@pytest.mark.parametrize("samples", [1, 12])
def test_bad_cells_beside_many_others_are_seen(samples):
    data = np.zeros((samples, 700, 2000))
    data[0, :, 1001], data[0, 350, 300:303] = np.nan, np.inf
    fig, axes = features_2D(data)
    places = axes[0, 0].collections[0].get_offsets()
    assert [350, 300] in places[:, ::-1].tolist()
    column = places[places[:, 0] == 1001, 1]
    assert np.diff(column).max() <= 700 / 64 + 1
    assert column.min() < 11
    assert column.max() > 688
    assert shows(fig, BAD_CELL)


@pytest.mark.parametrize(
    ("style", "place"),
    [({"extent": (0, 1, 0, 2)}, (4.5 / 40, 2 - 3.5 / 25)), ({"origin": "lower"}, (4, 3)), ({}, (4, 3))],
)
def test_bad_cells_are_marked_where_the_image_is(style, place):
    data = np.zeros((1, 50, 40))
    data[0, 3, 4] = np.nan
    ax = features_2D(data, configs={"plot": style})[1][0, 0]
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [place])
    left, right, bottom, top = ax.images[0].get_extent()
    assert sorted(ax.get_xlim()) == [left, right]
    assert sorted(ax.get_ylim()) == sorted([bottom, top])


def test_all_bad_is_marked_no_more_than_needed():
    axes = features_2D(np.full((1, 700, 900), np.nan))[1]
    assert len(axes[0, 0].collections[0].get_offsets()) == 64 * 64


@pytest.mark.parametrize("samples", [1, 20])
def test_cells_that_have_room_keep_their_edges(samples):
    data = np.zeros((samples, 100, 6))
    data[:, :, 3] = 1
    fig = features_2D(data, norm=(-1, 1), show_borders=False, title=False)[0]
    shades = np.unique(pixels(fig)[200:600, 200:600, 1])
    assert set(shades) <= {0, 255, *shades[shades > 250]}


def test_cells_smaller_than_a_pixel_are_averaged_not_left_out():
    data = np.zeros((1, 5000, 2))
    data[0, ::50] = 1
    fig = features_2D(data, norm=(-1, 1), title=False)[0]
    rows = pixels(fig)[100:600, 300, 1]
    assert len(np.unique(rows)) > 2


@pytest.mark.parametrize("samples", [1, 12])
def test_ticks_of_what_is_counted_are_whole_numbers(samples):
    fig, axes = features_2D(np.zeros((samples, 2, 1)))
    fig.canvas.draw()
    assert [tick for tick in axes[0, 0].get_xticks() if -0.5 < tick < 0.5] == [0]
    assert (axes[0, 0].get_yticks() % 1 == 0).all()
    fig, ax = features_0D(np.zeros((1, 2)))
    fig.canvas.draw()
    assert [tick for tick in ax.get_xticks() if 0.5 < tick < 1.5] == [1]


def test_all_nan_is_drawn_all_bad():
    fig, axes = features_2D(np.full((2, 3, 4), np.nan))
    pixels(fig)
    assert title(fig).endswith("24 NaN")
    assert axes[0, 0].images[0].get_clim() == (0, 1)


@pytest.mark.parametrize("samples", [2, 20])
@pytest.mark.parametrize("tight", [True, False])
def test_one_colour_bar_for_all_panels(samples, tight):
    fig, axes = features_2D(RNG.normal(size=(samples, 6, 5)), show_colorbar=True, norm=(-2, 2), tight=tight)
    bar = next(ax for ax in fig.axes if ax.get_label() == "<colorbar>")
    assert bar.get_ylim() == (-2, 2)
    fig.canvas.draw()
    assert bar.get_position().x0 > axes[0, -1].get_position().x1
    assert bar.get_tightbbox().x1 <= fig.bbox.width


@pytest.mark.parametrize("samples", [2, 20])
def test_heatmaps_can_be_turned_and_placed(samples):
    data = RNG.normal(size=(samples, 6, 5))
    axes = features_2D(data, configs={"plot": {"origin": "lower"}})[1]
    assert axes[0, 0].get_ylim() == (-0.5, 5.5)
    axes = features_2D(data, configs={"plot": {"extent": (0, 1, 0, 2), "interpolation": "nearest"}})[1]
    assert axes[0, 0].get_xlim() == (0, 1)
    assert axes[0, 0].images[0].get_interpolation() == "nearest"


@pytest.mark.parametrize("samples", [2, 20])
def test_frames_have_width_and_colour(samples):
    axes = features_2D(np.zeros((samples, 3, 4)), borderwidth=2, bordercolor="lime")[1]
    spine = axes[0, 0].spines["top"]
    assert spine.get_linewidth() == 2
    assert to_rgba(spine.get_edgecolor()) == to_rgba("lime")


def test_an_unknown_colour_map_is_refused():
    with pytest.raises(ArgumentError, match="cmap is a colour map of matplotlib"):
        features_2D(np.zeros((2, 3, 4)), cmap="bwrr")


# ---- points ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "channels"), [(1, 1), (16, 6), (3, 512)])
def test_points_stand_above_their_sample_in_the_colour_of_their_channel(samples, channels):
    data = RNG.normal(size=(samples, channels))
    with unchanged(data):
        fig, ax = features_0D(data)
        pixels(fig)
    (points,) = ax.collections
    x, y = points.get_offsets().T.reshape(2, samples, channels)
    np.testing.assert_array_equal(y, data)
    assert (x == np.arange(1, samples + 1)[:, None]).all()
    colors = points.get_facecolors().reshape(samples, channels, 4)
    np.testing.assert_allclose(colors[0], mpl.colormaps["bwr"](np.linspace(0, 1, channels)))
    assert (colors == colors[0]).all()
    # The middle of the map is white; a dark edge keeps it visible.
    assert points.get_edgecolors()[:, :3].max() < 0.3
    assert ax.get_ylim() == (-np.abs(data).max(), np.abs(data).max())
    assert ax.get_title() == "(Outputs vs. Samples) vs. Channels"


def test_points_are_never_drawn_into_a_figure_of_the_caller():
    mine, ax = plt.subplots()
    fig, _ = features_0D(np.zeros((2, 3)))
    features_1D(np.zeros((2, 3, 1)))
    features_1D(np.zeros((2, 3, 20)))
    assert fig is not mine
    assert not ax.collections
    assert not ax.lines
    assert mine.axes == [ax]
    assert len(plt.get_fignums()) == 4


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ("red", ["red"] * 6),
        (["red", "g", "b"], ["red", "g", "b"] * 2),
        (["r", "g", "b", "c", "m", "y"], ["r", "g", "b", "c", "m", "y"]),
    ],
)
def test_points_have_one_colour_or_one_per_channel_or_point(color, expected):
    ax = features_0D(RNG.normal(size=(2, 3)), color=color)[1]
    assert [tuple(each) for each in ax.collections[0].get_facecolors()] == [
        to_rgba(each) for each in expected
    ]


def test_points_that_are_not_finite_are_marked_and_counted():
    data = RNG.normal(size=(4, 3))
    data[1, 0], data[1, 1], data[3, 2] = np.nan, np.inf, np.nan
    with unchanged(data):
        ax = features_0D(data)[1]
    assert ax.get_title().endswith("\n2 NaN, 1 Inf")
    points, marks = ax.collections
    assert len(points.get_offsets()) == 9
    assert [segment[0, 0] for segment in marks.get_segments()] == [2, 4]
    assert np.isfinite(ax.get_ylim()).all()
    pixels(features_0D(np.full((2, 2), np.nan))[0])


def test_points_have_styles_limits_and_a_zero_line():
    _, ax = features_0D(
        RNG.normal(size=(4, 3)),
        marker="x",
        ylims=(-1, 2),
        configs={"plot": {"s": 40, "linewidth": 3}},
        show_borders=True,
    )
    assert ax.collections[0].get_sizes().tolist() == [40]
    assert ax.collections[0].get_linewidths() == [3]
    assert ax.get_ylim() == (-1, 2)
    assert ax.get_frame_on()
    assert len(ax.lines) == 1
    ax = features_0D(RNG.normal(size=(4, 3)), show_y_zero=False, title=False)[1]
    assert not ax.lines
    assert not ax.get_frame_on()
    assert ax.get_title() == ""
    with pytest.raises(ArgumentError, match="ylims must be two finite numbers in ascending order"):
        features_0D(np.zeros((2, 3)), ylims=(1, 0))


# ---- data of all kinds -----------------------------------------------------------------------------


@pytest.mark.parametrize("plot", [features_1D, features_2D])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5), ()])
def test_other_dimensions_are_refused(plot, shape):
    with pytest.raises(ArgumentError, match=r"data must be \(samples, timesteps, channels\)"):
        plot(np.zeros(shape))


@pytest.mark.parametrize("plot", [features_1D, features_2D])
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0)])
def test_empty_data_is_refused(plot, shape):
    with pytest.raises(ArgumentError, match="and not empty; got shape"):
        plot(np.zeros(shape))


def test_points_want_samples_and_channels():
    with pytest.raises(ArgumentError, match=r"data must be \(samples, channels\); got shape \(2, 3, 4\)"):
        features_0D(np.zeros((2, 3, 4)))
    with pytest.raises(ArgumentError, match="not empty"):
        features_0D(np.zeros((0, 4)))


def test_ragged_lists_and_texts_are_refused():
    with pytest.raises(ArgumentError, match="got shape"):
        features_1D([np.zeros((3, 2)), np.zeros((4, 2))])
    with pytest.raises(ArgumentTypeError, match="expected numbers"):
        features_1D(np.array([["a"]]))


@pytest.mark.parametrize("dtype", ["int8", "bool", "float16", ml_dtypes.bfloat16, "float32", "float64"])
def test_all_kinds_of_numbers_are_drawn(dtype):
    data = (RNG.normal(size=(2, 3, 4)) * 10).astype(dtype)
    with unchanged(data.astype("float64")):
        np.testing.assert_array_equal(
            features_1D(data)[1].flat[1].lines[1].get_ydata(), data[1, :, 1].astype("float64")
        )
        np.testing.assert_array_equal(
            features_2D(data)[1].flat[1].images[0].get_array(), data[1].astype("float64")
        )


def test_lists_and_labelled_arrays_are_drawn():
    data = RNG.normal(size=(2, 3, 4))
    labelled = xr.DataArray(data, dims=("sample", "time", "unit"))
    for given in (data.tolist(), labelled):
        np.testing.assert_array_equal(features_1D(given)[1].flat[2].lines[1].get_ydata(), data[1, :, 2])


# ---- what a reader sees ----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 7, 64])
@pytest.mark.parametrize("tight", [True, False])
def test_no_text_is_cut_off(channels, tight):
    data = RNG.normal(size=(2, 30, channels)) * 1e-5
    data[0, 0] = np.nan
    for fig in (
        features_1D(data, tight=tight, title="grads")[0],
        features_1D(data, tight=tight, share_xy=0)[0],
        features_2D(data.transpose(2, 1, 0), tight=tight, show_colorbar=True)[0],
    ):
        assert nothing_is_cut_off(fig)


def test_large_grids_are_drawn_on_one_axes():
    assert len(features_1D(np.zeros((2, 3, REAL_AXES)))[0].axes) == REAL_AXES
    assert len(features_1D(np.zeros((2, 3, REAL_AXES + 1)))[0].axes) == 1
