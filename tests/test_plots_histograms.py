"""Histograms: bars against a count of our own, limits, clipped peaks, notes."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import nothing_is_cut_off, pixels, tidy, unchanged  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection

from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.plots import features_hist, features_hist_v2, hist_clipped
from see_rnn_like.plots.bars import bar_heights, bin_edges, clip_peaks

RNG = np.random.default_rng(11)


def counts(values, edges):
    """Values per bin, the outermost ones with both their edges: a loop."""
    values = [v for v in np.ravel(values) if np.isfinite(v)]
    # The edges are read off the bars, whose place is rounded.
    edges = [edges[0] - 1e-9, *edges[1:-1], edges[-1] + 1e-9]
    return [sum(a <= v < b for v in values) for a, b in pairwise(edges)]


def bars(ax):
    """Heights and edges of the bars of an axes."""
    patches = ax.patches
    edges = [patch.get_x() for patch in patches] + [patches[-1].get_x() + patches[-1].get_width()]
    return [patch.get_height() for patch in patches], edges


@pytest.mark.parametrize("samples", [1, 7, 64])
def test_every_panel_counts_its_own_sample(samples):
    data = RNG.normal(size=(samples, 9, 5))
    with unchanged(data):
        fig, axes = features_hist(data, bins=8)
        pixels(fig)
    assert axes.shape == (samples, 1)
    for panel in {0, samples // 2, samples - 1}:
        heights, edges = bars(axes.flat[panel])
        assert heights == counts(data[panel], edges)
        assert (edges[0], edges[-1]) == pytest.approx((data[panel].min(), data[panel].max()))
        assert [text.get_text() for text in axes.flat[panel].texts] == [str(panel)]


def test_bars_on_a_canvas_are_the_counts():
    data = RNG.normal(size=(12, 300))
    fig, axes = features_hist(data, bins=6, share_xy=("none", "none"), pad_xticks=False)
    canvas = fig.axes[0]
    outlines = [a for a in canvas.collections if isinstance(a, PolyCollection)][2].get_paths()
    for panel in (0, 11):
        corners = outlines[panel].vertices[:14]
        steps = (corners[1:13:2, 1] - corners[0, 1]) * axes[panel, 0].get_ylim()[1]
        heights, _ = bars(axes[panel, 0])
        assert steps == pytest.approx(heights)


@pytest.mark.parametrize(
    ("n_rows", "shape"), [("vertical", (6, 1)), (None, (2, 3)), (1, (1, 6)), (4, (4, 2))]
)
def test_rows_of_the_grid(n_rows, shape):
    assert features_hist(RNG.normal(size=(6, 50)), n_rows=n_rows)[1].shape == shape


def test_bars_on_a_canvas_end_at_their_panel():
    data = RNG.normal(size=(12, 300))
    data[:, :200] = 0
    style = {"plot": {"peaks_to_clip": 1}}
    fig, _ = features_hist(data, n_rows=3, xlims=(-0.5, 0.5), tight=False, configs=style)
    ground, _, outlines = (a.get_paths() for a in fig.axes[0].collections if isinstance(a, PolyCollection))
    for box, outline in zip(ground, outlines, strict=True):
        low, high = box.vertices.min(0), box.vertices.max(0)
        assert (outline.vertices >= low - 1e-9).all()
        assert (outline.vertices <= high + 1e-9).all()
        assert outline.vertices[:, 1].max() == pytest.approx(high[1])


@pytest.mark.parametrize("scale", [1, 0.03])
@pytest.mark.parametrize("n_rows", ["vertical", 2, 3])
def test_ticks_are_whole_counts_and_their_labels_do_not_touch(scale, n_rows):
    fig, axes = features_hist(scale * RNG.normal(size=(8, 240)), n_rows=n_rows)
    pixels(fig)
    for ax in axes.flat[:8]:
        ticks = ax.get_yticks()
        assert len(ticks)
        assert (ticks == ticks.round()).all()
    lowest = [ax for ax in axes[-1] if ax.get_visible()]
    boxes = [
        label.get_window_extent()
        for ax in lowest
        for tick, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]
    ]
    assert len(boxes) >= 2 * len(lowest)
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_densities_may_have_fractions_as_ticks():
    _, axes = features_hist(RNG.normal(size=(2, 240)), configs={"plot": {"density": True}})
    assert any(tick % 1 for tick in axes[0, 0].get_yticks())


def test_other_words_for_rows_are_refused():
    with pytest.raises(ArgumentError, match="None or 'vertical'; got 'horizontal'"):
        features_hist(np.zeros((6, 50)), n_rows="horizontal")


@pytest.mark.parametrize("samples", [4, 12])
def test_limits_center_zero_and_xlims(samples):
    data = RNG.normal(size=(samples, 200)) + 2
    shared = features_hist(data)[1]
    assert len({ax.get_xlim() for ax in shared.flat}) == 1
    assert shared[0, 0].get_xlim()[0] < data.min() < data.max() < shared[0, 0].get_xlim()[1]
    assert len({ax.get_ylim() for ax in shared.flat}) == 1
    centred = features_hist(data, center_zero=True, xlims=(0, 1), share_xy=0)[1]
    for ax in centred.flat:
        assert ax.get_xlim()[0] == -ax.get_xlim()[1]
    assert len({ax.get_xlim() for ax in centred.flat}) == samples
    given = features_hist(data, xlims=(-1, 5))[1]
    assert {ax.get_xlim() for ax in given.flat} == {(-1, 5)}
    with pytest.raises(ArgumentError, match="xlims must be two finite numbers in ascending order"):
        features_hist(data, xlims=(1, 1))


@pytest.mark.parametrize("samples", [4, 12])
def test_padded_ticks_write_the_limits_into_the_panels(samples):
    data = RNG.normal(size=(samples, 200))
    ax = features_hist(data, share_xy=0)[1][0, 0]
    low, high = (f"{limit:.3f}" for limit in ax.get_xlim())
    assert [text.get_text() for text in ax.texts] == [low, high, "0"]
    assert ax.get_xticks().size == 0
    assert [t.get_text() for t in features_hist(data)[1][0, 0].texts] == ["0"]
    assert [t.get_text() for t in features_hist(data, share_xy=0, tight=False)[1][0, 0].texts] == ["0"]
    assert len(features_hist(data, pad_xticks=True)[1][0, 0].texts) == 3


@pytest.mark.parametrize("samples", [4, 12])
def test_bad_values_are_left_out_and_told(samples):
    data = RNG.normal(size=(samples, 200))
    data[1, :3], data[2, 0] = np.nan, -np.inf
    with unchanged(data):
        fig, axes = features_hist(data, bins=5)
    assert fig.get_suptitle() == "3 NaN, 1 Inf"
    assert sum(bars(axes[1, 0])[0]) == 197
    assert [text.get_text() for text in axes[1, 0].texts] == ["1.5% NaN", "1"]
    assert [text.get_text() for text in axes[2, 0].texts] == ["0.5% Inf", "2"]
    assert axes[1, 0].texts[0].get_color() == "r"
    assert features_hist(data, title=False)[0].get_suptitle() == ""
    assert features_hist(data, title="Mine")[0].get_suptitle() == "Mine\n3 NaN, 1 Inf"
    assert features_hist(data[:1], title="grads")[0].get_suptitle() == "(Counts vs. Gradients) vs. Samples"


@pytest.mark.parametrize("samples", [2, 12])
def test_all_nan_and_all_equal_data_is_drawn(samples):
    data = np.full((samples, 30), np.nan)
    data[1] = 4.0
    fig, axes = features_hist(data, bins=5)
    pixels(fig)
    assert [text.get_text() for text in axes[0, 0].texts] == ["100.0% NaN", "0"]
    assert not axes[0, 0].patches
    assert bars(axes[1, 0])[0] == [0, 0, 30, 0, 0]
    pixels(features_hist(np.full((samples, 30), np.nan))[0])


@pytest.mark.parametrize("samples", [2, 12])
def test_peaks_can_be_clipped_in_every_panel(samples):
    data = RNG.normal(size=(samples, 300))
    data[:, :200] = 0
    axes = features_hist(data, bins=9, share_xy=0, configs={"plot": {"peaks_to_clip": 1}})[1]
    for panel, ax in enumerate(axes.flat):
        heights, edges = bars(ax)
        assert ax.get_ylim() == (0, pytest.approx(1.05 * sorted(heights)[-2]))
        top = int(np.argmax(heights))
        assert ax.texts[0].get_text() == f"({edges[top]:.3g}, {int(heights[top])})"
        assert counts(data[panel], edges) == heights
    shared = features_hist(data, bins=9, configs={"plot": {"peaks_to_clip": 1}})[1]
    tops = [sorted(bars(ax)[0])[-2] for ax in shared.flat]
    assert {ax.get_ylim()[1] for ax in shared.flat} == {1.05 * max(tops)}


@pytest.mark.parametrize("plot", [{"log": True}, {"orientation": "horizontal"}, {"cumulative": True}])
def test_limits_of_other_than_plain_counts_are_left_to_matplotlib(plot):
    data = RNG.normal(size=(3, 300))
    fig, axes = features_hist(data, bins=9, configs={"plot": plot})
    pixels(fig)
    heights = max(max(p.get_height(), p.get_width()) for ax in axes.flat for p in ax.patches)
    limit = axes[0, 0].get_xlim() if "orientation" in plot else axes[0, 0].get_ylim()
    assert limit[1] >= heights
    with pytest.raises(ArgumentError, match="peaks_to_clip is for plain counts"):
        features_hist(data, configs={"plot": {**plot, "peaks_to_clip": 1}})


@pytest.mark.parametrize("samples", [2, 12])
def test_styles_of_the_bars(samples):
    data = RNG.normal(size=(samples, 300))
    axes = features_hist(data, bins=9, configs={"plot": {"density": True, "color": "k", "range": (-1, 1)}})[1]
    heights, edges = bars(axes[0, 0])
    assert np.dot(heights, np.diff(edges)) == pytest.approx(1)
    assert (edges[0], edges[-1]) == pytest.approx((-1, 1))
    assert axes[0, 0].patches[0].get_facecolor() == (0, 0, 0, 1)
    axes = features_hist(data, bins=[-1, 0, 2])[1]
    assert bars(axes[0, 0])[1] == [-1, 0, 2]


def test_lists_of_different_sizes_and_flat_data_are_drawn():
    data = [RNG.normal(size=(3, 4)), RNG.normal(size=50)]
    axes = features_hist(data, bins=4)[1]
    assert [sum(bars(ax)[0]) for ax in axes.flat] == [12, 50]
    axes = features_hist(data[1], bins=4)[1]
    assert axes.shape == (1, 1)
    assert sum(bars(axes[0, 0])[0]) == 50


@pytest.mark.parametrize("data", [[], np.zeros((3, 0)), [np.zeros(3), np.zeros(0)], np.zeros((0, 3))])
def test_empty_data_is_refused(data):
    with pytest.raises(ArgumentError, match="data is empty"):
        features_hist(data)
    with pytest.raises(ArgumentError, match="data"):
        features_hist_v2(data)


def test_what_is_no_number_is_refused():
    with pytest.raises(ArgumentTypeError, match="expected numbers"):
        features_hist(["a", "b"])


# ---- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 3), (4, 5)])
def test_a_table_has_every_histogram_of_every_cell(rows, cols):
    data = RNG.normal(size=(rows, cols, 2, 3, 40))
    with unchanged(data):
        fig, axes = features_hist_v2(data, bins=6)
        pixels(fig)
    assert axes.shape == (rows, cols)
    for row, col in {(0, 0), (rows - 1, cols - 1)}:
        ax = axes[row, col]
        assert len(ax.patches) == 12
        for which in range(2):
            patches = ax.patches[6 * which : 6 * which + 6]
            edges = [patch.get_x() for patch in patches] + [patches[-1].get_x() + patches[-1].get_width()]
            assert [patch.get_height() for patch in patches] == counts(data[row, col, which], edges)
        assert ax.patches[0].get_facecolor() != ax.patches[6].get_facecolor()


@pytest.mark.parametrize(("rows", "cols"), [(2, 3), (4, 5)])
def test_columns_are_headed_and_rows_are_noted(rows, cols):
    names = [f"col {i}" for i in range(cols)]
    fig, axes = features_hist_v2(RNG.normal(size=(rows, cols, 1, 90)), colnames=names, side_annot="layer ")
    assert nothing_is_cut_off(fig)
    assert [ax.get_title() for ax in axes[0]] == names
    assert {ax.get_title() for ax in axes[1]} == {""}
    assert [axes[row, -1].texts[0].get_text() for row in range(rows)] == [
        f"layer {row}" for row in range(rows)
    ]
    assert not axes[0, 0].texts
    assert nothing_is_cut_off(fig)


@pytest.mark.parametrize(("rows", "cols"), [(2, 3), (4, 5)])
def test_ylim_is_that_of_every_panel(rows, cols):
    axes = features_hist_v2(RNG.normal(size=(rows, cols, 1, 90)), ylim=33)[1]
    assert {ax.get_ylim() for ax in axes.flat} == {(0, 33)}


@pytest.mark.parametrize("colnames", ["abc", ["a"], ["a", "b", "c", "d"]])
def test_as_many_names_as_columns(colnames):
    with pytest.raises(ArgumentError, match="colnames must be 3 texts, one per column"):
        features_hist_v2(RNG.normal(size=(2, 3, 1, 90)), colnames=colnames)


def test_cells_may_hold_any_number_of_histograms():
    data = [[[np.zeros(3), np.ones((2, 2))], []], [np.arange(5), [[1, 2], [3]]]]
    axes = features_hist_v2(data, bins=2)[1]
    assert [len(ax.patches) // 2 for ax in axes.flat] == [2, 0, 1, 2]


def test_ragged_and_shallow_tables_are_refused():
    with pytest.raises(ArgumentError, match=r"as many columns; got \[2, 1\]"):
        features_hist_v2([[[np.zeros(3)], [np.zeros(3)]], [[np.zeros(3)]]])
    with pytest.raises(ArgumentError, match="at least 3D; got"):
        features_hist_v2(np.zeros((3, 4)))


# ---- a single one ----------------------------------------------------------------------------------


def test_clipped_peaks_are_cut_off_and_noted_in_red():
    data = np.repeat([0.0, 1.0, 2.0, 3.0], [900, 500, 20, 10])
    ax = plt.figure().add_subplot()
    with unchanged(data):
        heights, edges, patches = hist_clipped(data, peaks_to_clip=2, ax=ax, bins=4, color="k")
    assert heights.tolist() == [900, 500, 20, 10]
    assert ax.get_ylim() == (0, 21)
    (note,) = ax.texts
    assert note.get_text() == "(0, 900)\n(0.75, 500)"
    assert note.get_color() == "r"
    assert patches[0].get_facecolor() == (0, 0, 0, 1)
    assert edges[0] == 0


def test_nothing_is_clipped_if_nothing_would_be_left():
    ax = plt.figure().add_subplot()
    hist_clipped(np.zeros(50), ax=ax)
    assert ax.get_ylim()[1] > 50
    assert not ax.texts


def test_zero_peaks_is_a_plain_histogram_without_bad_values():
    one, other = plt.figure().subplots(1, 2)
    data = np.r_[RNG.normal(size=90), np.nan, np.inf]
    hist_clipped(data, 0, ax=one)
    other.hist(data[:90])
    assert bars(one) == bars(other)
    assert one.get_ylim() == other.get_ylim()


def test_without_axes_the_current_ones_are_used_as_by_pyplot():
    ax = plt.figure().add_subplot()
    hist_clipped([np.zeros(9), np.arange(3)])
    assert sum(bars(ax)[0]) == 12


def test_the_note_can_be_styled_or_left_out():
    data = np.repeat([0.0, 1.0], [900, 20])
    one, other = plt.figure().subplots(1, 2)
    style = {"color": "b"}
    hist_clipped(data, ax=one, annot_kw=style)
    hist_clipped(data, ax=other, annot_kw=False)
    assert one.texts[0].get_color() == "b"
    assert one.texts[0].get_fontsize() == 13
    assert not other.texts
    assert style == {"color": "b"}


def test_no_finite_value_and_no_number_of_peaks_are_refused():
    with pytest.raises(ArgumentError, match="no finite value"):
        hist_clipped(np.array([np.nan]))
    with pytest.raises(ArgumentError, match="peaks_to_clip is a whole number ≥ 0; got -1"):
        hist_clipped(np.zeros(3), peaks_to_clip=-1)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12), st.integers(0, 14))
def test_clipped_peaks_are_the_highest(heights, peaks):
    edges = np.arange(len(heights) + 1.0)
    left, cut = clip_peaks(np.array(heights), edges, peaks)
    ordered = sorted(heights, reverse=True)
    if peaks < len(heights) and ordered[peaks] > 0:
        assert left == ordered[peaks]
        assert [height for _, height in cut] == ordered[:peaks]
        assert all(heights[int(x)] == height for x, height in cut)
    else:
        assert (left, cut) == (max(heights), [])


@given(st.floats(-1e12, 1e12), st.floats(0, 1e-9), st.integers(1, 200))
def test_bins_rise_even_where_values_hardly_differ(value, off, bins):
    values = np.array([value, value + off])
    edges = bin_edges(values, bins)
    assert (np.diff(edges) > 0).all()
    assert edges[0] <= value
    assert value + off <= edges[-1]
    assert bar_heights(values, edges, {}).sum() == 2
