from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import drawn, legend_texts, line_of, tidy  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_up_probe import probed_run
from made_up_run import LSTM_GATES, empty_run, lstm_run, record, tensor_info
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownTensorError
from see_rnn_like.history import Event
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.curves import HUES, Curve, curve_styles, short_name
from see_rnn_like.plots.distribution import value_axis
from see_rnn_like.plots.history import plot_histograms, plot_norms, plot_update_ratio
from see_rnn_like.plots.steps import BAD, bad_text, cell_edges, literal, scale_steps
from see_rnn_like.plots.timeline import plot_events, plot_loss

KERNEL = "lstm/forward/kernel:gradient"


@pytest.fixture(scope="module")
def run():
    return lstm_run(steps=range(0, 400, 20))


def gated_run(steps, gates_of_step, key=KERNEL):
    """A run of one gated tensor; `gates_of_step(step)` gives its array ``(input, gate, unit)``."""
    run = empty_run()
    run.declare([tensor_info(key, (None, 4, None), LSTM_GATES)])
    for step in steps:
        record(run, step, {key: gates_of_step(step)})
    return run


def plain_run(arrays, key="dense/output:value"):
    """A run of one tensor without gates; `arrays` maps steps to arrays."""
    run = empty_run()
    run.declare([tensor_info(key, (None,))])
    for step, array in arrays.items():
        record(run, step, {key: np.ravel(array)})
    return run


# ---------------------------------------------------------------------------- norms


def test_norm_lines_are_the_l2_norms_of_each_gate():
    rng = np.random.default_rng(0)
    arrays = {step: rng.normal(size=(5, 4, 3)) for step in (0, 3, 9)}
    fig, axes = plot_norms(gated_run(arrays, arrays.get))
    assert [ax.get_title(loc="left") for ax in axes] == ["kernel · gradient"]
    assert axes[0].get_yscale() == "log"
    for number, gate in enumerate(LSTM_GATES):
        line = line_of(axes[0], f"lstm · {gate}")
        expected = [np.linalg.norm(array[:, number]) for array in arrays.values()]
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-12)
        assert line.get_xdata().tolist() == [0, 3, 9]
    assert legend_texts(fig) == [f"lstm · {gate}" for gate in LSTM_GATES]
    assert axes[0].get_xlabel() == "step"
    assert axes[0].get_ylabel() == "L2 norm"


def test_norms_of_whole_tensors_and_root_mean_squares():
    array = np.random.default_rng(0).normal(size=(5, 4, 3))
    run = gated_run([0, 1], lambda step: array)
    _, (whole,) = plot_norms(run, per_gate=False)
    np.testing.assert_allclose(line_of(whole, "lstm").get_ydata(), np.linalg.norm(array))
    _, (rms,) = plot_norms(run, per_gate=False, rms=True)
    np.testing.assert_allclose(line_of(rms, "lstm").get_ydata(), np.sqrt(np.mean(array**2)))
    assert rms.get_ylabel() == "root mean square"
    _, (by_gate,) = plot_norms(run, rms=True)
    np.testing.assert_allclose(
        line_of(by_gate, "lstm · cell").get_ydata(), np.sqrt(np.mean(array[:, 2] ** 2))
    )


def test_root_mean_square_counts_only_finite_values():
    values = np.array([3.0, np.inf, 4.0])
    _, (ax,) = plot_norms(plain_run({0: [3.0, 4.0], 1: values}), rms=True)
    # A step with Inf is a gap; the one before shows the unit.
    np.testing.assert_allclose(line_of(ax, "dense").get_ydata(), [np.sqrt(12.5), np.nan])


def test_panels_go_by_kind_then_role_in_the_order_of_the_run(run):
    _, axes = plot_norms(run)
    titles = [ax.get_title(loc="left") for ax in axes]
    roles = ["kernel", "recurrent_kernel", "bias"]
    expected = [f"{role} · {kind}" for kind in ("weight", "update", "gradient") for role in roles]
    assert titles == [*expected, "output · gradient", "output · value"]
    rows = [ax.get_subplotspec().rowspan.start for ax in axes]
    assert rows == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3]


def test_panels_wrap_after_the_given_number_of_columns(run):
    _, axes = plot_norms(run, kinds="weight", columns=2)
    cells = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in axes]
    assert cells == [(0, 0), (0, 1), (1, 0)]
    # Step numbers and their name stand below the lowest panel of a column, and only there.
    assert [ax.get_xlabel() for ax in axes] == ["", "step", "step"]


def test_the_loss_is_no_tensor_of_a_layer(run):
    _, axes = plot_norms(run)
    assert not any("loss" in ax.get_title(loc="left") for ax in axes)


def test_nan_and_inf_are_gaps_with_a_mark_on_the_top_edge():
    def arrays(step):
        array = np.ones((5, 4, 3))
        if step == 2:
            array[0, 1, 0] = np.nan
        if step == 4:
            array[0, 1, 0] = -np.inf
        return array

    fig, (ax,) = plot_norms(gated_run(range(6), arrays))
    forget = line_of(ax, "lstm · forget").get_ydata()
    assert np.flatnonzero(np.isnan(forget)).tolist() == [2, 4]
    assert np.isfinite(line_of(ax, "lstm · input").get_ydata()).all()
    marks = line_of(ax, "NaN or Inf")
    assert marks.get_xdata().tolist() == [2, 4]
    assert to_hex(marks.get_color()) == BAD
    assert marks.get_transform() == ax.get_xaxis_transform()
    assert set(marks.get_ydata()) == {1}
    assert "NaN or Inf" in legend_texts(fig)
    drawn(fig)


def test_a_point_between_two_gaps_has_a_dot():
    steps = range(60)
    run = plain_run({step: [1.0 if step == 30 or step < 5 else np.nan] for step in steps})
    _, (ax,) = plot_norms(run)
    line = line_of(ax, "dense")
    assert line.get_marker() == "o"
    assert line.get_markevery() == [30]


def test_exact_zeros_are_marks_on_the_bottom_edge_and_not_lost_on_the_logarithmic_axis():
    fig, (ax,) = plot_norms(plain_run({0: [0.0], 1: [2.0], 2: [0.0]}))
    marks = line_of(ax, "exactly 0")
    assert marks.get_xdata().tolist() == [0, 2]
    assert set(marks.get_ydata()) == {0}
    assert "exactly 0" in legend_texts(fig)
    drawn(fig)


@pytest.mark.parametrize("value", [0.0, np.nan, 1e-30, 1e30])
def test_a_single_step_of_any_size_can_be_drawn(value):
    fig, (ax,) = plot_norms(plain_run({7: [value]}))
    assert ax.get_xlim() == (6.5, 7.5)
    drawn(fig)


def test_rounding_noise_of_a_constant_does_not_fill_the_axis():
    _, (ax,) = plot_norms(plain_run({0: [5.0], 1: [5.0 + 1e-9]}))
    low, high = ax.get_ylim()
    assert high / low >= 2 * (1 - 1e-9)
    assert low < 5 < high


@pytest.mark.parametrize("spread", [1.0, 1.5, 3, 12, 80, 1e5, 1e20])
def test_every_span_has_at_least_two_ticks_on_the_axis(spread):
    fig, (ax,) = plot_norms(plain_run({0: [1.0], 1: [spread]}))
    drawn(fig)
    low, high = ax.get_ylim()
    assert 2 <= sum(low <= tick <= high for tick in ax.get_yticks()) <= 9


def test_a_layer_has_the_same_colour_in_every_figure_of_a_run(run):
    _, weights = plot_norms(run, kinds=["weight"], per_gate=False)
    _, gradients = plot_norms(run, kinds=["gradient"], per_gate=False)
    _, outputs = plot_norms(run, kinds=["value"])
    for layer in ("lstm", "lstm_1", "dense"):
        colours = {line_of(ax, layer).get_color() for ax in (weights[0], gradients[0], outputs[0])}
        assert len(colours) == 1


def test_few_lines_have_a_colour_each_and_many_layers_follow_viridis():
    steps = np.array([0])
    few = [Curve("lstm", gate, steps, steps, steps) for gate in LSTM_GATES]
    assert list(curve_styles(few, ["lstm"]).values()) == [(hue, "-") for hue in HUES[:4]]
    layers = [f"lstm_{i}" for i in range(12)]
    many = [Curve(layer, gate, steps, steps, steps) for layer in layers for gate in LSTM_GATES]
    styles = curve_styles(many, layers)
    assert len(set(styles.values())) == 48
    lightness = [sum(to_rgba(styles[layer, "cell"][0])[:3]) for layer in layers]
    assert lightness == sorted(lightness)
    assert len({styles[layer, "cell"][1] for layer in layers}) == 1


def test_sixty_layers_are_legible_without_covering_the_data():
    names = [f"block_{i}/dense" for i in range(60)]
    run = empty_run()
    run.declare([tensor_info(f"{name}/kernel:weight", (3, 2)) for name in names])
    for step in (0, 1):
        record(run, step, {f"{name}/kernel:weight": np.full((3, 2), i + 1.0) for i, name in enumerate(names)})
    fig, (ax,) = plot_norms(run)
    assert legend_texts(fig) == names
    drawn(fig)
    legend, axes = fig.legends[0].get_window_extent(), ax.get_window_extent()
    assert legend.y1 < axes.y0
    assert legend.x0 >= 0
    assert legend.x1 <= fig.bbox.x1
    assert axes.height > 60


def test_names_that_matplotlib_would_misread_are_drawn_as_they_are():
    names = ["_hidden", "cost_$x^$_$", "a\nb"]
    run = empty_run()
    run.declare([tensor_info(f"{name}/kernel:weight", (3,)) for name in names])
    record(run, 0, {f"{name}/kernel:weight": np.ones(3) for name in names})
    fig, _ = plot_norms(run)
    assert legend_texts(fig) == ["_hidden", r"cost_\$x^\$_\$", "a�b"]
    drawn(fig)
    fig, _ = plot_histograms(run, "cost_$x^$_$/kernel:weight")
    drawn(fig)


def test_directions_are_told_apart_only_where_there_are_two():
    both = lstm_run(steps=[0, 1], layers=["lstm"], bidirectional=True)
    fig, _ = plot_norms(both, kinds="weight", per_gate=False)
    assert legend_texts(fig)[:3] == ["lstm/forward", "lstm/backward", "dense"]
    fig, _ = plot_norms(lstm_run(steps=[0, 1], layers=["lstm"]), kinds="weight", per_gate=False)
    assert legend_texts(fig)[:2] == ["lstm", "dense"]


def test_keys_can_be_printed_forms_keys_or_one_of_them(run):
    for keys in (KERNEL, TensorKey.parse(KERNEL), [KERNEL, KERNEL]):
        _, axes = plot_norms(run, keys)
        assert len(axes) == 1
        assert len([line for line in axes[0].lines if "lstm" in line.get_label()]) == 4


def test_wrong_arguments_of_plot_norms_say_what_is_right(run):
    with pytest.raises(UnknownTensorError, match="did you mean 'lstm/forward/kernel:gradient'"):
        plot_norms(run, "lstm/forward/kernl:gradient")
    with pytest.raises(ArgumentError, match=r"kinds must be one of 'weight', 'update', .*; got 'weights'"):
        plot_norms(run, kinds=["weights"])
    with pytest.raises(ArgumentError, match="columns must be at least 1; got 0"):
        plot_norms(run, columns=0)
    with pytest.raises(ArgumentError, match="no recorded tensor is among those asked for"):
        plot_norms(run, KERNEL, kinds="value")
    with pytest.raises(ArgumentError, match="no recorded tensor"):
        plot_norms(empty_run())


@pytest.mark.parametrize("draw", [plot_norms, plot_update_ratio, plot_loss, plot_events])
@pytest.mark.parametrize("no_run", ["run.sqlite", Path("run.sqlite"), None])
def test_what_is_no_run_is_refused_with_the_way_to_one(draw, no_run):
    with pytest.raises(ArgumentTypeError, match=r"monitor\.run, or Run\.open\(path\) of a run file; got "):
        draw(no_run)
    with pytest.raises(ArgumentTypeError, match=r"Run\.open\(path\)"):
        plot_histograms(no_run, KERNEL)
    assert plt.get_fignums() == []


def test_the_name_of_a_layer_in_place_of_a_key_gets_its_keys(run):
    with pytest.raises(ArgumentError, match=r"a tensor key looks like .*did you mean 'lstm/forward/kernel"):
        plot_norms(run, ["lstm"])


def test_a_declared_tensor_without_a_step_is_refused_clearly():
    run = gated_run([], None)
    with pytest.raises(ArgumentError, match="no step was recorded"):
        plot_norms(run)
    with pytest.raises(ArgumentError, match="no step of 'lstm/forward/kernel:gradient' was recorded"):
        plot_histograms(run, KERNEL)


def test_a_given_figure_or_a_part_of_one_is_drawn_into(run):
    figure = Figure(layout="constrained", figsize=(8, 4))
    left, right = figure.subfigures(1, 2)
    found, _ = plot_norms(run, kinds="weight", fig=left)
    assert found is left
    assert plot_histograms(run, KERNEL, fig=right)[0] is right
    assert figure.get_size_inches().tolist() == [8, 4]
    assert plt.get_fignums() == []
    drawn(figure)


def test_a_figure_of_its_own_is_shown_by_notebooks(run):
    fig, _ = plot_norms(run, KERNEL)
    assert plt.get_fignums() == [fig.number]


# ---------------------------------------------------------------------------- update ratio


def ratio_run(weights, updates, shape=(2, 4, 3)):
    run = empty_run()
    run.declare(
        [tensor_info(f"lstm/forward/kernel:{kind}", shape, LSTM_GATES) for kind in ("weight", "update")]
    )
    for step, (weight, update) in enumerate(zip(weights, updates, strict=True)):
        arrays = {
            "lstm/forward/kernel:weight": np.broadcast_to(weight, shape),
            "lstm/forward/kernel:update": np.broadcast_to(update, shape),
        }
        record(run, step, arrays)
    return run


def test_update_ratio_is_the_norm_of_the_update_over_the_norm_of_the_weight():
    rng = np.random.default_rng(0)
    weights, updates = rng.normal(size=(3, 2, 4, 3)), 1e-3 * rng.normal(size=(3, 2, 4, 3))
    run = ratio_run(weights, updates)
    _, (ax,) = plot_update_ratio(run)
    expected = [np.linalg.norm(u) / np.linalg.norm(w) for w, u in zip(weights, updates, strict=True)]
    np.testing.assert_allclose(line_of(ax, "lstm").get_ydata(), expected)
    _, (ax,) = plot_update_ratio(run, per_gate=True)
    expected = [
        np.linalg.norm(u[:, 3]) / np.linalg.norm(w[:, 3]) for w, u in zip(weights, updates, strict=True)
    ]
    np.testing.assert_allclose(line_of(ax, "lstm · output").get_ydata(), expected)
    guide = [line for line in ax.lines if list(line.get_ydata()) == [1e-3, 1e-3]]
    assert len(guide) == 1


def test_update_of_zero_weights_has_no_ratio_and_no_update_is_a_ratio_of_zero():
    fig, (ax,) = plot_update_ratio(ratio_run([0.0, 1.0, 0.0, 1.0], [1e-3, 0.0, 0.0, 1e-3]))
    np.testing.assert_allclose(line_of(ax, "lstm").get_ydata(), [np.nan, 0, 0, 1e-3])
    assert line_of(ax, "exactly 0").get_xdata().tolist() == [1, 2]
    assert np.isfinite(ax.get_ylim()).all()
    drawn(fig)


def test_update_ratio_marks_nan_in_the_weight_as_in_the_update():
    _, (ax,) = plot_update_ratio(ratio_run([1.0, np.nan, 1.0], [1.0, 1.0, np.inf]))
    assert line_of(ax, "NaN or Inf").get_xdata().tolist() == [1, 2]


def test_update_ratio_panel_with_nothing_but_the_guide_line():
    fig, _ = plot_update_ratio(ratio_run([0.0], [1e-3]))
    drawn(fig)


def test_update_ratio_takes_either_key_and_asks_for_both_to_be_recorded(run):
    for kind in ("weight", "update"):
        _, axes = plot_update_ratio(run, f"lstm/forward/bias:{kind}")
        assert [ax.get_title(loc="left") for ax in axes] == ["bias"]
    with pytest.raises(ArgumentError, match=r'capture=\("weights", "updates", \.\.\.\)'):
        plot_update_ratio(plain_run({0: [1.0]}, key="dense/kernel:weight"))


# ---------------------------------------------------------------------------- distributions


def mesh_of(ax):
    (mesh,) = ax.collections
    return mesh


def test_cells_hold_the_counts_of_an_independent_histogram():
    rng = np.random.default_rng(0)
    arrays = {step: rng.uniform(0.25, 4, 500) * rng.choice([-1, 1], 500) for step in (0, 1, 2)}
    _, (ax,) = plot_histograms(plain_run(arrays), "dense/output:value")
    edges = np.array([-4, -2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2, 4])
    expected = np.stack([np.histogram(array, edges)[0] for array in arrays.values()], axis=1)
    np.testing.assert_array_equal(mesh_of(ax).get_array(), expected)
    np.testing.assert_allclose(mesh_of(ax).get_coordinates()[:, 0, 1], edges)
    np.testing.assert_allclose(mesh_of(ax).get_coordinates()[0, :, 0], [-0.5, 0.5, 1.5, 2.5])
    assert ax.get_yscale() == "symlog"
    assert ax.get_ylim() == (-4, 4)


@settings(max_examples=60)
@given(
    hnp.arrays(
        "float64",
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 30)),
        elements=st.floats(width=32) | st.just(0.0),
    )
)
def test_no_value_is_lost_or_moved_to_another_sign_by_cutting_the_axis(arrays):
    counts = np.stack([[stats.histogram(step)[0] for step in gate] for gate in arrays])
    axis = value_axis(counts)
    rows = axis.rows(counts)
    finite = np.isfinite(arrays)
    assert len(axis.edges) == rows.shape[-1] + 1
    assert (np.diff(axis.edges) > 0).all()
    np.testing.assert_array_equal(rows.sum(-1), finite.sum(-1))
    zero = int(np.flatnonzero(axis.edges < 0)[-1])
    np.testing.assert_array_equal(rows[..., zero], (arrays == 0).sum(-1))
    np.testing.assert_array_equal(rows[..., :zero].sum(-1), (finite & (arrays < 0)).sum(-1))
    np.testing.assert_array_equal(rows[..., zero + 1 :].sum(-1), (finite & (arrays > 0)).sum(-1))


def test_rare_tiny_values_do_not_stretch_the_axis_but_are_in_the_row_beside_zero():
    values = np.ones(100)
    values[:4] = 1e-15
    _, (ax,) = plot_histograms(plain_run({0: values}), "dense/output:value")
    assert ax.get_ylim() == (-1, 2)
    np.testing.assert_array_equal(mesh_of(ax).get_array()[:, 0], [0, 100])
    values[:6] = 1e-15
    _, (ax,) = plot_histograms(plain_run({0: values}), "dense/output:value")
    assert ax.get_ylim()[0] < 0
    assert abs(ax.get_ylim()[0]) < 1e-15
    assert mesh_of(ax).get_array()[1, 0] == 6


def test_a_collapse_to_zero_lights_up_the_row_of_zeros():
    def arrays(step):
        array = np.random.default_rng(step).normal(size=(10, 4, 10))
        array[:, 0] *= 0.0 if step > 5 else 10.0**-step
        return array

    _, axes = plot_histograms(gated_run(range(10), arrays), KERNEL)
    cells = mesh_of(axes[0]).get_array()
    middle = len(cells) // 2
    np.testing.assert_array_equal(cells[middle], [0] * 6 + [100] * 4)
    assert (np.delete(cells, middle, axis=0)[:, 6:] == 0).all()
    edges = mesh_of(axes[0]).get_coordinates()[:, 0, 1]
    assert edges[middle] < 0 < edges[middle + 1]
    # The same axis and colours for every gate, so that they compare.
    assert len({ax.get_ylim() for ax in axes}) == 1
    assert len({mesh_of(ax).norm.vmax for ax in axes}) == 1


def test_the_row_of_zeros_is_seen_also_where_the_axis_spans_many_decades():
    values = 10.0 ** np.linspace(-18, 8, 200)
    _, (ax,) = plot_histograms(plain_run({0: np.append(values, -values)}), "dense/output:value")
    threshold = mesh_of(ax).get_coordinates()[:, 0, 1]
    low, high = threshold[threshold < 0].max(), threshold[threshold > 0].min()
    pixels = ax.transData.transform([(0, low), (0, high)])[:, 1]
    assert (pixels[1] - pixels[0]) / ax.bbox.height > 0.05


def test_nan_and_inf_steps_are_in_the_bad_colour_marked_and_counted():
    def arrays(step):
        array = np.ones((6, 4, 5))
        if step == 20:
            array[:, 1] = np.nan
        if step >= 30:
            array[0, 1, 0] = np.inf
        return array

    fig, axes = plot_histograms(gated_run(range(0, 50, 10), arrays), KERNEL)
    assert [ax.get_title(loc="left") for ax in axes] == [
        "input",
        "forget: 30 NaN, 2 Inf in 3 of 5 steps, from 20",
        "cell",
        "output",
    ]
    forget = axes[1]
    cells = mesh_of(forget).get_array()
    assert cells.mask[:, 2].all()
    # The finite values of a step with one Inf are still seen.
    np.testing.assert_array_equal(cells.mask[:, 3], cells.data[:, 3] == 0)
    assert not cells.mask[:, :2].any()
    assert to_hex(mesh_of(forget).cmap.get_bad()) == BAD
    assert line_of(forget, "NaN or Inf").get_xdata().tolist() == [20, 30, 40]
    assert to_hex(forget.title.get_color()) != BAD
    assert to_hex(forget._left_title.get_color()) == BAD
    assert not mesh_of(axes[0]).get_array().mask.any()
    drawn(fig)
    colours = mesh_of(forget).get_facecolors().reshape(*cells.shape, 4)
    assert (colours[:, 2] == to_rgba(BAD)).all()


def test_the_title_counts_what_is_there():
    assert bad_text([0, 1], [0, 0], [0, 0]) == ""
    assert bad_text([0, 5, 9], [0, 0, 0], [0, 0, 1200]) == "1,200 Inf in 1 of 3 steps, from 9"


def test_one_sided_values_use_the_whole_axis():
    _, (ax,) = plot_histograms(plain_run({0: [0.0, 0.3, 0.6]}), "dense/output:value")
    assert ax.get_ylim() == (-0.25, 1)
    assert mesh_of(ax).get_array()[:, 0].tolist() == [1, 1, 1]
    _, (ax,) = plot_histograms(plain_run({0: [-0.3, -0.6]}), "dense/output:value")
    assert ax.get_ylim() == (-1, 0.25)


@pytest.mark.parametrize("values", [[0.0, 0.0], [np.nan], [np.inf, -np.inf], [1e-300], [3e38, -3e38], []])
def test_any_values_can_be_drawn(values):
    fig, (ax,) = plot_histograms(plain_run({3: values, 4: values}), "dense/output:value")
    assert mesh_of(ax).get_array().data.sum() == 2 * np.isfinite(values).sum()
    drawn(fig)


def test_one_gate_can_be_drawn_into_given_axes():
    run = gated_run([0, 1], lambda step: np.ones((2, 4, 3)) * np.array([1, np.nan, 3, 4])[:, None])
    figure = Figure()
    ax = figure.add_subplot()
    found, axes = plot_histograms(run, KERNEL, gate="forget", ax=ax)
    assert found is figure
    assert axes.tolist() == [ax]
    assert ax.get_title(loc="left") == f"{KERNEL} · forget: 12 NaN in 2 of 2 steps, from 0"
    _, axes = plot_histograms(run, KERNEL, gate="cell")
    assert [ax.get_title(loc="left") for ax in axes] == ["cell"]


def test_wrong_arguments_of_plot_histograms_say_what_is_right(run):
    figure = Figure()
    ax = figure.add_subplot()
    with pytest.raises(
        ArgumentError, match="must be one of 'input', 'forget', 'cell', 'output'; got 'reset'"
    ):
        plot_histograms(run, KERNEL, gate="reset")
    with pytest.raises(ArgumentError, match="gate of 'dense/kernel:weight' must be one of None; got 'cell'"):
        plot_histograms(run, "dense/kernel:weight", gate="cell")
    with pytest.raises(
        ArgumentError, match="has 4 gates, one panel each, and ax= is one; pick one with gate="
    ):
        plot_histograms(run, KERNEL, ax=ax)
    with pytest.raises(ArgumentError, match="give ax= or fig=, not both"):
        plot_histograms(run, KERNEL, gate="cell", ax=ax, fig=figure)
    with pytest.raises(UnknownTensorError, match="nothing was recorded under"):
        plot_histograms(run, "gru/kernel:weight")
    assert len(figure.axes) == 1
    assert plt.get_fignums() == []


def test_a_step_whose_histogram_was_thinned_is_left_out_not_drawn_as_empty():
    run = plain_run({0: [1.0]})
    info = run.info("dense/output:value")
    from see_rnn_like.history import Snapshot

    sums = {info.key: stats.moments(np.array([2.0]))}
    run.append(Snapshot(step=5, epoch=0, time=0.0, seconds=0.0, moments=sums, histograms={}))
    record(run, 9, {"dense/output:value": np.array([1.0])})
    _, (ax,) = plot_histograms(run, info.key)
    assert mesh_of(ax).get_array().shape == (2, 2)
    np.testing.assert_allclose(mesh_of(ax).get_coordinates()[0, :, 0], [-4.5, 4.5, 13.5])
    only_sums = plain_run({})
    only_sums.append(Snapshot(step=5, epoch=0, time=0.0, seconds=0.0, moments=sums, histograms={}))
    with pytest.raises(
        ArgumentError, match="no histogram of 'dense/output:value' was recorded, only its sums"
    ):
        plot_histograms(only_sums, info.key)


# ---------------------------------------------------------------------------- the axis of steps


def axes_of_steps(steps):
    ax = Figure().add_subplot()
    scale_steps(ax, steps)
    return ax


def test_evenly_recorded_steps_are_on_a_linear_axis_and_log_spaced_ones_on_a_logarithmic_one():
    assert axes_of_steps(range(0, 1000, 10)).get_xscale() == "linear"
    ax = axes_of_steps([0, 1, 2, 3, 5, 10, 22, 46, 100, 215, 464, 1000])
    assert ax.get_xscale() == "symlog"
    edges = cell_edges(ax, [0, 1, 2, 3, 5, 10, 22, 46, 100, 215, 464, 1000])
    widths = np.diff(ax.transAxes.inverted().transform(ax.transData.transform([(e, 0) for e in edges]))[:, 0])
    assert widths.min() > 0.02


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=50, unique=True).map(sorted))
def test_every_step_lies_inside_its_own_cell(steps):
    ax = axes_of_steps(steps)
    edges = cell_edges(ax, steps)
    assert len(edges) == len(steps) + 1
    assert (edges[:-1] < steps).all()
    assert (steps < edges[1:]).all()
    np.testing.assert_allclose(ax.get_xlim(), edges[[0, -1]])


# ---------------------------------------------------------------------------- loss


def loss_run(losses, epochs=(), batch=None):
    run = empty_run()
    run.declare([tensor_info("loss:value", ())])
    for step, loss in enumerate(losses):
        arrays = {} if batch is None else {"loss:value": np.array(batch[step])}
        record(run, step, arrays, logs={"loss": loss, "accuracy": 0.5, "out_a_loss": 2 * loss})
    for number, (step, logs) in enumerate(epochs):
        run.add_epoch(number, step, logs)
    return run


def test_loss_lines_are_the_recorded_numbers():
    epochs = [(1, {"loss": 2.5, "val_loss": 2.4}), (3, {"loss": 1.5, "val_loss": np.nan})]
    fig, ax = plot_loss(loss_run([3.0, 2.0, 1.5, 1.0], epochs, batch=[3.1, 1.9, 1.6, 0.9]))
    np.testing.assert_allclose(line_of(ax, "loss of the batch").get_ydata(), [3.1, 1.9, 1.6, 0.9])
    np.testing.assert_allclose(line_of(ax, "loss, mean of the epoch so far").get_ydata(), [3, 2, 1.5, 1])
    np.testing.assert_allclose(line_of(ax, "out_a_loss, mean of the epoch so far").get_ydata(), [6, 4, 3, 2])
    validation = line_of(ax, "val_loss")
    assert validation.get_xdata().tolist() == [1, 3]
    np.testing.assert_allclose(validation.get_ydata(), [2.4, np.nan])
    assert line_of(ax, "NaN or Inf").get_xdata().tolist() == [3]
    assert not any("accuracy" in line.get_label() for line in ax.lines)
    assert [line.get_xdata() for line in ax.lines if line.get_label().startswith("_")] == [[1.5, 1.5]]
    assert ax.get_yscale() == "linear"
    drawn(fig)


def test_loss_over_many_magnitudes_is_logarithmic_unless_it_is_not_positive():
    assert plot_loss(loss_run([100.0, 1.0]))[1].get_yscale() == "log"
    assert plot_loss(loss_run([100.0, 0.0]))[1].get_yscale() == "linear"
    assert plot_loss(loss_run([100.0, -1.0]))[1].get_yscale() == "linear"


@pytest.mark.parametrize("losses", [[1.0], [np.nan, np.nan], [0.0, 0.0]])
def test_short_and_broken_losses_can_be_drawn(losses):
    drawn(plot_loss(loss_run(losses))[0])


def test_loss_goes_into_given_axes_and_is_refused_without_one(run):
    ax = Figure().add_subplot()
    assert plot_loss(run, ax=ax) == (ax.figure, ax)
    with pytest.raises(ArgumentError, match="this run has no loss to draw"):
        plot_loss(empty_run())
    with pytest.raises(ArgumentError, match="this run has no loss to draw"):
        plot_loss(plain_run({0: [1.0]}))


# ---------------------------------------------------------------------------- events


def event_run(count):
    run = plain_run({step: [1.0] for step in (0, 100)})
    for number in range(count):
        key = TensorKey(f"layer_{number}", None, "kernel", "weight")
        run.add_event(Event(number, "nan", key, "forget" if number else None, {}, "."))
    return run


def test_events_are_rows_in_the_order_they_were_seen():
    run = event_run(3)
    run.add_event(Event(50, "thinned", None, None, {}, "."))
    fig, ax = plot_events(run)
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "layer_0/kernel:weight",
        "layer_1/kernel:weight · forget",
        "layer_2/kernel:weight · forget",
        "the run",
    ]
    low, high = ax.get_ylim()
    assert low > high
    nan = line_of(ax, "nan")
    assert (nan.get_xdata().tolist(), nan.get_ydata().tolist()) == ([0, 1, 2], [0, 1, 2])
    assert to_hex(nan.get_color()) == BAD
    assert to_hex(line_of(ax, "thinned").get_color()) != BAD
    drawn(fig)


def test_of_many_events_the_first_are_drawn_and_the_legend_says_so_and_lies_on_nothing():
    fig, ax = plot_events(event_run(45))
    assert len(ax.get_yticks()) == 40
    assert ax.get_legend().get_title().get_text() == "the first 40 of 45 rows"
    assert {ax.get_title(loc=loc) for loc in ("left", "center", "right")} == {""}
    drawn(fig)
    legend = ax.get_legend().get_window_extent()
    assert legend.y0 >= ax.get_window_extent().y1 - 1
    assert legend.y1 <= fig.bbox.y1


def test_no_events_are_no_picture(run):
    with pytest.raises(ArgumentError, match="this run has no events to draw"):
        plot_events(run)


def test_long_names_are_cut_in_the_middle():
    name = "encoder/" * 10 + "lstm"
    assert len(short_name(name)) <= 38
    assert short_name(name).startswith("encoder/")
    assert short_name(name).endswith("lstm")
    assert short_name("lstm") == "lstm"


def test_text_with_control_characters_and_writing_direction_marks_is_made_visible():
    assert literal("a\x00b\u202ec") == "a�b�c"


def test_sums_of_other_tensors_are_drawn_only_if_asked_for():
    run = probed_run({"gru": ("GRU", ["forward"])})
    names = [ax.get_title(loc="left") for ax in plot_norms(run)[1]]
    assert names == ["h · gradient", "gates · value", "h · value"]
    for key in ("gru/forward/saturation_left:value", "gru/forward/horizon_h:value"):
        _, (ax,) = plot_norms(run, key, per_gate=False)
        np.testing.assert_allclose(
            line_of(ax, "gru").get_ydata(), np.linalg.norm(run[key].values.reshape(3, -1), axis=1), rtol=1e-6
        )
    assert len(plot_histograms(run, "gru/forward/saturation_left:value")[1]) == 3


@pytest.mark.parametrize("step", [0, 7, 123_456])
def test_a_single_step_has_ticks_at_whole_numbers(step):
    ax = Figure().subplots()
    scale_steps(ax, [step])
    ticks = [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]
    assert ticks == [step]
