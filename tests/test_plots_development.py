import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import drawn, legend_texts, line_of, tidy  # noqa: F401
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_up_run import LSTM_GATES, empty_run, lstm_run, record, tensor_info
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure

from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownLayerError, UnknownTensorError
from see_rnn_like.history import Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.development import (
    plot_activations_over_training,
    plot_gradient_flow,
    plot_weight_norms,
)
from see_rnn_like.plots.steps import BAD

LOG_SPACED = [0, 1, 2, 3, 5, 8, 13, 22, 36, 60, 100, 167, 278, 464, 774, 1000]


def tick_labels(axis):
    """Labels of the ticks that are drawn: those within the limits."""
    low, high = sorted(axis.get_view_interval())
    return [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]


def overlap(fig):
    """Names of texts that lie on each other or stick out of the figure."""
    drawn(fig)
    texts = [text for legend in fig.legends for text in legend.get_texts()]
    for ax in fig.axes:
        texts += [ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label]
        texts += [*tick_labels(ax.xaxis), *tick_labels(ax.yaxis)]
    texts = [text for text in texts if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent().padded(-0.5)) for text in texts]
    page = fig.bbox.padded(1)
    out = [
        name for name, box in boxes if not (page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1))
    ]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    return out + [(a[0], b[0]) for a, b in pairs if a[1].overlaps(b[1])]


def titles(axes):
    return [ax.get_title(loc="left") for ax in axes]


def mesh_of(ax, label="L2 norm"):
    (mesh,) = [mesh for mesh in ax.collections if mesh.get_label() == label]
    return mesh


def append(run, step, values):
    """A snapshot that keeps these arrays, and their statistics, by printed key."""
    keys = {TensorKey.parse(name): np.asarray(array, "float32") for name, array in values.items()}
    moments = {key: stats.moments(array) for key, array in keys.items()}
    histograms = {key: stats.histogram(array) for key, array in keys.items()}
    run.append(Snapshot(step, 0, 0.0, 0.0, moments, histograms, keys))


def norms_run(norms):
    """A run of norms over time: printed key → {step: norms}."""
    run = empty_run()
    run.declare(
        [TensorInfo(TensorKey.parse(key), ("time",), (None,), {}, {"from": "probe batch"}) for key in norms]
    )
    for step in sorted({step for steps in norms.values() for step in steps}):
        append(run, step, {key: steps[step] for key, steps in norms.items() if step in steps})
    return run


def fading(length, factor=0.5):
    return factor ** np.arange(length)[::-1]


def lstm_flow(layer="lstm", direction="forward", steps=(0, 10, 20), length=6):
    last = np.eye(length)[-1]
    return {
        f"{layer}/{direction}/h_norm:gradient": {step: fading(length) * (1 + step) for step in steps},
        f"{layer}/{direction}/c_norm:gradient": {step: 3 * fading(length, 0.7) for step in steps},
        f"{layer}/{direction}/output_norm:gradient": dict.fromkeys(steps, last),
    }


# ---------------------------------------------------------------------------- gradient flow


def test_flow_cells_are_the_recorded_norms_steps_to_the_right_timesteps_upwards():
    norms = lstm_flow()
    fig, axes = plot_gradient_flow(norms_run(norms))
    for ax, kind in zip(axes, ("h", "c"), strict=False):
        mesh = mesh_of(ax)
        recorded = np.stack(list(norms[f"lstm/forward/{kind}_norm:gradient"].values()))
        np.testing.assert_allclose(mesh.get_array(), recorded.T, rtol=1e-6)
        np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [-5, 5, 15, 25])
        np.testing.assert_allclose(mesh.get_coordinates()[:, 0, 1], np.arange(7) - 0.5)
        assert (ax.get_xlabel(), ax.get_xscale()) == ("step", "linear")
    assert [ax.get_ylabel() for ax in axes] == ["timestep", "", ""]
    drawn(fig)


def test_both_kinds_of_gradient_are_named_apart_with_their_batch():
    _, axes = plot_gradient_flow(norms_run(lstm_flow()))
    assert titles(axes) == [
        "lstm · dL/dh\ntotal, through time; probe batch",
        "dL/dc\ntotal, through time; probe batch",
        "dL/d(output)\nleaves out the recurrent path; probe batch",
    ]


def test_panels_of_a_layer_share_a_logarithmic_colour_scale_and_one_colour_bar():
    norms = lstm_flow() | {
        key: {s: 1e-6 * v for s, v in steps.items()} for key, steps in lstm_flow("gru").items()
    }
    fig, axes = plot_gradient_flow(norms_run(norms))
    scales = [mesh_of(ax).norm for ax in axes]
    assert all(isinstance(scale, LogNorm) for scale in scales)
    assert [scale is scales[0] for scale in scales] == [True] * 3 + [False] * 3
    everything = np.concatenate([v for key in lstm_flow() for v in lstm_flow()[key].values()])
    assert scales[0].vmin == pytest.approx(everything[everything > 0].min())
    assert scales[0].vmax == pytest.approx(everything.max())
    assert scales[3].vmax == pytest.approx(1e-6 * everything.max())
    assert len(fig.axes) == 6 + 2


def test_exact_zeros_and_nan_have_colours_of_their_own_and_are_in_the_legend():
    norms = {
        "lstm/forward/h_norm:gradient": {0: [0, 1, 2], 1: [np.nan, 1, 2], 2: [1, np.inf, 0], 3: [1, 1, 1]}
    }
    fig, (ax,) = plot_gradient_flow(norms_run(norms))
    table = np.array(list(norms["lstm/forward/h_norm:gradient"].values()), dtype=float).T
    zero, bad = mesh_of(ax, "exactly 0"), mesh_of(ax, "NaN or Inf")
    np.testing.assert_array_equal(~zero.get_array().mask, table == 0)
    np.testing.assert_array_equal(~bad.get_array().mask, ~np.isfinite(table))
    np.testing.assert_array_equal(mesh_of(ax).get_array().mask, (table == 0) | ~np.isfinite(table))
    assert to_hex(bad.cmap(bad.norm(1))) == BAD
    assert to_hex(zero.cmap(zero.norm(1))) not in {BAD, *map(to_hex, mpl.colormaps["viridis"].colors)}
    (marks,) = [line for line in ax.lines if line.get_label() == "NaN or Inf"]
    assert marks.get_xdata().tolist() == [1, 2]
    assert legend_texts(fig) == ["exactly 0", "NaN or Inf"]
    drawn(fig)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_gradient_with_nothing_to_scale_by_has_no_colour_bar(value):
    fig, axes = plot_gradient_flow(
        norms_run({"gru/forward/h_norm:gradient": {0: [value] * 4, 5: [value] * 4}})
    )
    assert len(fig.axes) == len(axes) == 1
    assert overlap(fig) == []


def test_one_timestep_of_many_is_seen_where_all_others_are_zero():
    """Its cell is a fifth of a pixel high, on the edge of the axes."""
    steps, length = range(0, 200, 10), 500
    norms = {"lstm/forward/output_norm:gradient": dict.fromkeys(steps, np.eye(length)[-1])}
    fig, (ax,) = plot_gradient_flow(norms_run(norms))
    fig.canvas.draw()
    low, high = ax.get_window_extent().min.astype(int), ax.get_window_extent().max.astype(int)
    pixels = np.asarray(fig.canvas.buffer_rgba())[::-1][low[1] : high[1], low[0] : high[0], :3].astype(int)
    colour = (255 * np.array(mpl.colormaps["viridis"](mesh_of(ax).norm(1.0))[:3])).astype(int)
    near = (np.abs(pixels - colour) < 30).all(-1)
    assert near.any(0).mean() > 0.95


def test_steps_that_are_log_spaced_lie_on_an_axis_that_says_so():
    norms = {"gru/forward/h_norm:gradient": {step: fading(5) for step in LOG_SPACED}}
    fig, (ax,) = plot_gradient_flow(norms_run(norms))
    assert (ax.get_xscale(), ax.get_xlabel()) == ("symlog", "step (logarithmic)")
    edges = mesh_of(ax).get_coordinates()[0, :, 0]
    assert (edges[:-1] < LOG_SPACED).all()
    assert (edges[1:] > LOG_SPACED).all()
    assert overlap(fig) == []


@pytest.mark.parametrize(("steps", "length"), [([7], 1), ([7], 500), (range(0, 2000, 10), 1), ([0, 1], 2)])
def test_any_number_of_steps_and_timesteps_can_be_drawn(steps, length):
    fig, axes = plot_gradient_flow(norms_run(lstm_flow(steps=steps, length=length)))
    assert mesh_of(axes[0]).get_array().shape == (length, len(steps))
    assert overlap(fig) == []


def test_directions_are_rows_and_share_the_scale_of_their_layer():
    norms = lstm_flow(direction="forward") | lstm_flow(direction="backward")
    fig, axes = plot_gradient_flow(norms_run(norms))
    assert [title.split("\n")[0] for title in titles(axes)] == [
        *("lstm/forward · dL/dh", "dL/dc", "dL/d(output)"),
        *("lstm/backward · dL/dh", "dL/dc", "dL/d(output)"),
    ]
    assert len({id(mesh_of(ax).norm) for ax in axes}) == 1
    cells = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in axes]
    assert cells == [(row, column) for row in (0, 1) for column in (0, 1, 2)]
    assert [ax.get_xlabel() for ax in axes] == [""] * 3 + ["step"] * 3
    assert overlap(fig) == []


def test_a_layer_without_cell_state_leaves_its_column_empty():
    gru = {key.replace("lstm", "gru"): value for key, value in lstm_flow().items() if "c_norm" not in key}
    fig, axes = plot_gradient_flow(norms_run(lstm_flow() | gru))
    cells = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in axes]
    assert cells == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]
    # Step numbers stand below the lowest panel of a column.
    assert [ax.get_xlabel() for ax in axes] == ["", "step", "", "step", "step"]
    assert overlap(fig) == []


def test_six_layers_with_long_names_do_not_overlap():
    names = [f"encoder/block_{i}/a_very_long_name_of_a/bidirectional_lstm" for i in range(6)]
    norms = {key: value for name in names for key, value in lstm_flow(name).items()}
    fig, _ = plot_gradient_flow(norms_run(norms))
    assert overlap(fig) == []


def test_layer_and_kinds_pick_panels():
    run = norms_run(lstm_flow() | lstm_flow("lstm_1"))
    assert [t.split("\n")[0] for t in titles(plot_gradient_flow(run, "lstm_1", kinds="c")[1])] == [
        "lstm_1 · dL/dc"
    ]
    assert len(plot_gradient_flow(run, kinds=["h", "output"])[1]) == 4


@pytest.mark.parametrize(
    ("columns", "places"),
    [
        (1, [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]),
        (2, [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0)]),
        (9, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        (None, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
    ],
)
def test_flow_panels_wrap_after_the_given_number_of_columns(columns, places):
    run = norms_run(lstm_flow() | lstm_flow(direction="backward"))
    fig, axes = plot_gradient_flow(run, columns=columns)
    found = [ax.get_subplotspec() for ax in axes]
    assert [(place.rowspan.start, place.colspan.start) for place in found] == places
    assert [name.split("\n")[0] for name in titles(axes)] == [
        *("lstm/forward · dL/dh", "dL/dc", "dL/d(output)"),
        *("lstm/backward · dL/dh", "dL/dc", "dL/d(output)"),
    ]
    assert len({mesh_of(ax).norm for ax in axes}) == 1
    assert overlap(fig) == []


def test_flow_columns_are_at_least_one():
    with pytest.raises(ArgumentError, match="columns must be at least 1; got 0"):
        plot_gradient_flow(norms_run(lstm_flow()), columns=0)


def test_norm_of_recorded_output_gradients_is_an_independent_computation_and_named_so():
    rng = np.random.default_rng(0)
    gradients = {0: rng.normal(size=(5, 4, 3)), 10: rng.normal(size=(2, 4, 3))}
    run = empty_run()
    key = "lstm/forward/output:gradient"
    attrs = {"from": "training batch"}
    run.declare([TensorInfo(TensorKey.parse(key), ("sample", "time", "unit"), (None, 4, 3), {}, attrs)])
    for step, gradient in gradients.items():
        append(run, step, {key: gradient})
    _, (ax,) = plot_gradient_flow(run)
    assert titles([ax]) == [
        "lstm · dL/d(output)\nleaves out the recurrent path; training batch, from output:gradient"
    ]
    expected = [
        [
            np.sqrt(np.mean([np.linalg.norm(g[sample, time]) ** 2 for sample in range(len(g))]))
            for time in range(4)
        ]
        for g in gradients.values()
    ]
    np.testing.assert_allclose(mesh_of(ax).get_array(), np.transpose(expected), rtol=1e-6)


def test_timesteps_that_a_shorter_batch_does_not_have_are_empty_not_bad():
    key = "gru/forward/h_norm:gradient"
    fig, (ax,) = plot_gradient_flow(norms_run({key: {0: [1, 2, 3], 1: [1, 2]}}))
    assert mesh_of(ax).get_array().mask.T.tolist() == [[False] * 3, [False, False, True]]
    assert [mesh.get_label() for mesh in ax.collections] == ["L2 norm"]
    assert fig.legends == []


def masked_norms(norms, masked):
    """A run of one norm over time, recorded where these timesteps are masked in all samples."""
    run = empty_run()
    key = "gru/forward/h_norm:gradient"
    attrs = {"from": "probe batch", "masked": masked}
    run.declare([TensorInfo(TensorKey.parse(key), ("time",), (len(norms[0]),), {}, attrs)])
    for step, values in enumerate(norms):
        append(run, step, {key: values})
    return run


def test_padding_is_empty_and_a_nan_beside_it_is_red():
    fig, (ax,) = plot_gradient_flow(masked_norms([[1, 2, np.nan, np.nan]] * 2, [2, 3]))
    assert mesh_of(ax).get_array().mask.T.tolist() == [[False, False, True, True]] * 2
    assert [mesh.get_label() for mesh in ax.collections] == ["L2 norm"]
    assert (list(ax.lines), fig.legends) == ([], [])
    _, (ax,) = plot_gradient_flow(masked_norms([[1, 2, 3, np.nan], [1, np.nan, 3, np.nan]], [3]))
    bad = mesh_of(ax, "NaN or Inf").get_array()
    assert np.argwhere(~np.ma.getmaskarray(bad.T)).tolist() == [[1, 1]]
    assert line_of(ax, "NaN or Inf").get_xdata().tolist() == [1]


def test_a_timestep_that_was_masked_at_another_step_only_keeps_its_norm():
    _, (ax,) = plot_gradient_flow(masked_norms([[1, 2], [1, np.nan]], [1]))
    assert mesh_of(ax).get_array().mask.T.tolist() == [[False, False], [False, True]]


def test_states_of_a_registered_cell_have_a_panel_of_their_own():
    norms = lstm_flow() | {
        f"own/forward/{name}_norm:gradient": {0: fading(6)} for name in ("h", "memory", "output")
    }
    run = norms_run(norms)
    fig, axes = plot_gradient_flow(run)
    assert [title.split("\n")[0] for title in titles(axes)] == [
        *("lstm · dL/dh", "dL/dc", "dL/d(output)"),
        *("own · dL/dh", "dL/d(memory)", "dL/d(output)"),
    ]
    assert "total, through time" in titles(axes)[4]
    assert overlap(fig) == []
    assert len(plot_gradient_flow(run, kinds="memory")[1]) == 1
    with pytest.raises(ArgumentError, match="kinds must be one of 'h', 'c', 'memory', 'output'; got 'state'"):
        plot_gradient_flow(run, kinds="state")


def test_the_norm_on_the_probe_batch_goes_before_that_of_the_training_batch():
    run = norms_run(lstm_flow())
    keys = ["lstm/forward/output:gradient", "embedding/output:gradient"]
    run.declare([TensorInfo(TensorKey.parse(key), ("sample", "time", "unit"), (None, 6, 3)) for key in keys])
    append(run, 30, dict.fromkeys(keys, np.ones((2, 6, 3))))
    _, axes = plot_gradient_flow(run)
    assert len(axes) == 3
    assert "training batch" not in "".join(titles(axes))


def test_nothing_over_time_is_refused_with_the_capture_to_ask_for():
    for run in (empty_run(), lstm_run(steps=[0, 1])):
        with pytest.raises(
            ArgumentError, match=r'capture=\("state_gradients", .*probe=\(x, y\).*level="full"'
        ):
            plot_gradient_flow(run)
    declared = empty_run()
    declared.declare([TensorInfo(TensorKey.parse("lstm/forward/h_norm:gradient"), ("time",), (3,))])
    with pytest.raises(ArgumentError, match="state_gradients"):
        plot_gradient_flow(declared)
    with pytest.raises(ArgumentError, match=r"no gradient over time \(dL/dc\) was recorded"):
        plot_gradient_flow(norms_run({"gru/forward/h_norm:gradient": {0: [1.0]}}), kinds="c")
    assert plt.get_fignums() == []


def test_wrong_arguments_of_plot_gradient_flow_say_what_is_right():
    run = norms_run(lstm_flow())
    with pytest.raises(
        UnknownLayerError, match=r"no layer matches 'lsmt'; layers with what this draws are: lstm$"
    ):
        plot_gradient_flow(run, "lsmt")
    with pytest.raises(ArgumentError, match="kinds must be one of 'h', 'c', 'output'; got 'state'"):
        plot_gradient_flow(run, kinds="state")
    assert plt.get_fignums() == []


@settings(max_examples=25)
@given(
    hnp.arrays(
        "float32",
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        elements=st.floats(0, width=32) | st.just(np.nan) | st.just(np.inf),
    )
)
def test_every_norm_is_in_exactly_one_mesh(table):
    _, (ax,) = plot_gradient_flow(norms_run({"gru/forward/h_norm:gradient": dict(enumerate(table))}))
    drawn_in = sum(~np.ma.getmaskarray(mesh.get_array()) for mesh in ax.collections)
    assert (drawn_in == 1).all()
    shown = mesh_of(ax).get_array()
    np.testing.assert_array_equal(shown.compressed(), table.T[~shown.mask])
    plt.close("all")


# ---------------------------------------------------------------------------- activations


def activation_info(name, shape):
    """As the monitor declares it: states are those of the probe batch, outputs of the training batch."""
    batch = "training" if "output" in name else "probe"
    dims = ("sample", "time", "unit")
    return TensorInfo(TensorKey.parse(name), dims, shape, {}, {"from": f"{batch} batch"})


def activations(steps=range(0, 100, 10), layers=("embedding", "lstm", "dense"), bad_step=None):
    """Outputs that spread out, and states of those called lstm."""
    names = []
    for layer in layers:
        names += [f"{layer}/forward/{role}:value" for role in ("c", "h", "output")] * layer.startswith("lstm")
        names += [f"{layer}/output:value"] * (not layer.startswith("lstm"))
    run = empty_run()
    run.declare([activation_info(name, (None, None, None)) for name in names])
    rng = np.random.default_rng(0)
    for step in steps:
        arrays = {name: np.tanh(rng.normal(0, 0.1 + step / 50, (20, 4, 2))) for name in names}
        if step == bad_step:
            arrays[names[-1]][:2, 0, 0] = np.nan, np.inf
        record(run, step, arrays)
    return run


def test_activation_panels_are_a_row_per_layer_in_the_order_output_h_c():
    fig, axes = plot_activations_over_training(activations())
    assert titles(axes) == [
        *("embedding · output, training batch", "lstm · output, training batch"),
        *("lstm · h, probe batch", "lstm · c, probe batch", "dense · output, training batch"),
    ]
    cells = [(ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) for ax in axes]
    assert cells == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert [ax.get_xlabel() for ax in axes] == ["", "", "step", "step", "step"]
    assert len(fig.axes) == 5 + 1
    assert overlap(fig) == []


def test_activation_cells_are_an_independent_histogram_signed_and_logarithmic():
    rng = np.random.default_rng(0)
    arrays = {step: rng.uniform(0.25, 1, 200) * rng.choice([-1, 1], 200) for step in (0, 5)}
    run = empty_run()
    run.declare([tensor_info("dense/output:value", (None,))])
    for step, array in arrays.items():
        record(run, step, {"dense/output:value": array})
    _, (ax,) = plot_activations_over_training(run)
    (mesh,) = ax.collections
    expected = [np.histogram(array, [-1, -0.5, -0.25, 0.25, 0.5, 1])[0] / 200 for array in arrays.values()]
    np.testing.assert_allclose(mesh.get_array(), np.transpose(expected))
    assert ax.get_yscale() == "symlog"
    assert ax.get_ylim() == (-1, 1)


def test_a_collapsing_layer_ends_in_a_bright_row_of_zeros_beside_a_healthy_one():
    run = empty_run()
    names = {"healthy/output:value": 1.0, "collapsed/output:value": 0.0}
    run.declare([tensor_info(name, (None,)) for name in names])
    for step in range(10):
        base = np.tanh(np.random.default_rng(step).normal(size=500))
        alive = np.arange(500) < 500 - 55 * step
        record(run, step, {name: np.where(alive, base, base * scale) for name, scale in names.items()})
    _, (healthy, collapsed) = plot_activations_over_training(run)
    middles = [
        ax.collections[0].get_array()[len(ax.collections[0].get_array()) // 2] for ax in (healthy, collapsed)
    ]
    assert middles[0].max() == 0
    assert (np.diff(middles[1]) > 0).all()


def test_layers_of_different_sizes_have_the_same_colours_for_the_same_shares():
    run = empty_run()
    run.declare([tensor_info(name, (None,)) for name in ("small/output:value", "large/output:value")])
    record(
        run,
        0,
        {"small/output:value": np.array([1.0, -1.0]), "large/output:value": np.repeat([1.0, -1.0], 999)},
    )
    fig, axes = plot_activations_over_training(run)
    small, large = (ax.collections[0] for ax in axes)
    np.testing.assert_allclose(small.get_array(), large.get_array())
    fig.canvas.draw()
    np.testing.assert_array_equal(small.get_facecolors(), large.get_facecolors())
    assert [text.get_text() for text in fig.axes[-1].get_yticklabels()] == [
        "0",
        "0.1 %",
        "1 %",
        "10 %",
        "100 %",
    ]


def test_a_step_without_a_finite_value_has_no_shares():
    run = empty_run()
    run.declare([tensor_info("dense/output:value", (None,))])
    record(run, 0, {"dense/output:value": np.full(4, np.nan)})
    record(run, 1, {"dense/output:value": np.ones(4)})
    fig, (ax,) = plot_activations_over_training(run)
    assert ax.collections[0].get_array().mask[:, 0].all()
    assert ax.collections[0].get_array()[:, 1].max() == 1
    drawn(fig)
    colours = ax.collections[0].get_facecolors().reshape(-1, 2, 4)
    assert {to_hex(colour) for colour in colours[:, 0]} == {BAD}
    assert BAD not in {to_hex(colour) for colour in colours[:, 1]}


def test_nan_of_activations_is_counted_in_the_title_of_its_panel_and_marked():
    fig, axes = plot_activations_over_training(activations(bad_step=50))
    assert titles(axes)[-1] == "dense · output, training batch\n1 NaN, 1 Inf in 1 of 10 steps, from 50"
    assert to_hex(axes[-1]._left_title.get_color()) == BAD
    assert to_hex(axes[0]._left_title.get_color()) != BAD
    assert overlap(fig) == []


def test_directions_of_a_layer_have_rows_of_their_own():
    run = empty_run()
    names = [
        "bi/output:value",
        *(f"bi/{way}/{role}:value" for role in ("h", "output") for way in ("forward", "backward")),
    ]
    run.declare([activation_info(name, (1, 1, 3)) for name in names])
    record(run, 0, {name: np.ones((1, 1, 3)) for name in names})
    _, axes = plot_activations_over_training(run)
    assert [title.split(",")[0] for title in titles(axes)] == [
        "bi · output",
        *(f"bi/{way} · {role}" for way in ("forward", "backward") for role in ("output", "h")),
    ]


def test_activations_of_a_registered_cell_are_shown_by_the_names_of_its_states():
    names = [f"own/forward/{role}:value" for role in ("h", "memory")] + ["dense/output:value"]
    run = empty_run()
    run.declare([activation_info(name, (2, 3, 4)) for name in names])
    run.declare([TensorInfo(TensorKey.parse("own/forward/horizon_memory:value"), ("lag",), (3,))])
    record(run, 0, {name: np.ones((2, 3, 4)) for name in names})
    _, axes = plot_activations_over_training(run)
    assert titles(axes) == [
        *("own · h, probe batch", "own · memory, probe batch", "dense · output, training batch")
    ]


def test_the_batch_of_the_activations_is_named():
    run = empty_run()
    run.declare([activation_info("lstm/forward/h:value", (1, 1, 3))])
    record(run, 0, {"lstm/forward/h:value": np.ones((1, 1, 3))})
    assert titles(plot_activations_over_training(run)[1]) == ["lstm · h, probe batch"]


@pytest.mark.parametrize("steps", [[3], LOG_SPACED, range(200)])
@pytest.mark.parametrize("count", [2, 6])
def test_any_number_of_steps_and_layers_of_activations_can_be_drawn(steps, count):
    fig, axes = plot_activations_over_training(activations(steps, [f"lstm_{i}" for i in range(count)]))
    assert len(axes) == 3 * count
    assert axes[-1].get_xlabel() == ("step (logarithmic)" if steps == LOG_SPACED else "step")
    assert overlap(fig) == []


def test_layers_of_activations_can_be_chosen():
    run = activations()
    (title,) = titles(plot_activations_over_training(run, "dense")[1])
    assert title == "dense · output, training batch"
    assert len(plot_activations_over_training(run, (name for name in ["lstm", "dense"]))[1]) == 4
    with pytest.raises(UnknownLayerError, match=r"no layer matches 'lsmt'; .* are: embedding, lstm, dense"):
        plot_activations_over_training(run, ["dense", "lsmt"])


def test_a_run_without_activations_is_refused_with_the_capture_to_ask_for():
    run = empty_run()
    run.declare([tensor_info("dense/output:value", (None,)), tensor_info("dense/kernel:weight", (2, 2))])
    for each in (empty_run(), run):
        with pytest.raises(ArgumentError, match=r'capture=\("outputs", ...\)\); capture=\("states"'):
            plot_activations_over_training(each)
    assert plt.get_fignums() == []


# ---------------------------------------------------------------------------- weight norms

L2 = {"module": "keras.regularizers", "class_name": "L2", "config": {"l2": 0.01}}
ADAMW = {"class": "AdamW", "learning_rate": 1e-2, "weight_decay": 0.04}
RATE = {"learning_rate": 1e-2}


def described(optimizer=None, **regularizers):
    layers = [{"class_name": "LSTM", "config": {"name": "lstm", **regularizers}}]
    return {"optimizer": optimizer or {"class": "Adam"}, "model": {"config": {"layers": layers}}}


def weight_run(meta, steps=range(4), loss=2.0):
    """One LSTM kernel that grows, its update, the loss."""
    run = empty_run(meta)
    keys = [f"lstm/forward/kernel:{kind}" for kind in ("weight", "update")]
    run.declare([tensor_info(key, (3, 4, 2), LSTM_GATES) for key in keys])
    run.declare([TensorInfo(TensorKey("", None, "loss", "value"), (), ())])
    arrays = {}
    for step in steps:
        rng = np.random.default_rng(step)
        arrays[step] = (1 + step) * rng.normal(size=(3, 4, 2)), 0.01 * rng.normal(size=(3, 4, 2))
        record(
            run, step, {**dict(zip(keys, arrays[step], strict=True)), "loss:value": np.array(loss)}, logs=RATE
        )
    return run, arrays


def test_weight_norms_alone_where_nothing_decays():
    run, arrays = weight_run({})
    fig, (ax,) = plot_weight_norms(run)
    assert titles([ax]) == ["kernel · size"]
    assert ax.get_ylabel() == "L2 norm"
    np.testing.assert_allclose(
        line_of(ax, "lstm").get_ydata(), [np.linalg.norm(w) for w, _ in arrays.values()]
    )
    assert overlap(fig) == []


def test_decay_is_the_norm_of_what_it_takes_over_the_norm_of_the_update():
    run, arrays = weight_run(described(ADAMW))
    fig, axes = plot_weight_norms(run)
    assert titles(axes) == ["kernel · size", "kernel · weight decay"]
    assert [ax.get_ylabel() for ax in axes] == ["L2 norm", "share of update"]
    expected = [np.linalg.norm(1e-2 * 0.04 * w) / np.linalg.norm(u) for w, u in arrays.values()]
    np.testing.assert_allclose(line_of(axes[1], "lstm").get_ydata(), expected)
    assert overlap(fig) == []


def test_penalty_is_the_regularizers_own_sum_over_the_loss():
    run, arrays = weight_run(described(kernel_regularizer=L2))
    fig, axes = plot_weight_norms(run)
    assert titles(axes) == ["kernel · size", "kernel · L2 penalty"]
    assert axes[1].get_ylabel() == "share of loss"
    expected = [0.01 * np.sum(w * w) / 2.0 for w, _ in arrays.values()]
    np.testing.assert_allclose(line_of(axes[1], "lstm").get_ydata(), expected)
    drawn(fig)


def test_rows_are_norms_then_decay_then_penalty_with_a_panel_per_role():
    meta = described(ADAMW, kernel_regularizer=L2, recurrent_regularizer=L2)
    fig, axes = plot_weight_norms(lstm_run(steps=LOG_SPACED, meta=meta))
    roles = ["kernel", "recurrent_kernel", "bias"]
    assert titles(axes) == [
        *(f"{role} · size" for role in roles),
        *(f"{role} · weight decay" for role in roles),
        *(f"{role} · L2 penalty" for role in roles[:2]),
    ]
    assert [ax.get_ylabel() for ax in axes if ax.get_ylabel()] == [
        "L2 norm",
        "share of update",
        "share of loss",
    ]
    assert overlap(fig) == []


def test_bad_steps_are_gaps_and_marks_in_the_shares_too():
    run, _ = weight_run(described(ADAMW, kernel_regularizer=L2), steps=range(3))
    record(
        run,
        3,
        {"lstm/forward/kernel:weight": np.full((3, 4, 2), np.nan), "loss:value": np.array(np.nan)},
        logs=RATE,
    )
    nan = {f"lstm/forward/kernel:{kind}": np.full((3, 4, 2), np.nan) for kind in ("weight", "update")}
    record(run, 4, nan, logs=RATE)
    fig, (size, decay, penalty) = plot_weight_norms(run)
    assert line_of(size, "NaN or Inf").get_xdata().tolist() == [3, 4]
    assert line_of(decay, "NaN or Inf").get_xdata().tolist() == [4]
    assert line_of(penalty, "NaN or Inf").get_xdata().tolist() == [3]
    drawn(fig)


def test_a_weight_that_is_not_updated_has_no_decay():
    run, _ = weight_run(described(ADAMW), steps=[])
    for step in (0, 1):
        arrays = {
            "lstm/forward/kernel:weight": np.ones((3, 4, 2)),
            "lstm/forward/kernel:update": np.zeros((3, 4, 2)),
        }
        record(run, step, arrays, logs=RATE)
    assert titles(plot_weight_norms(run)[1]) == ["kernel · size"]


def test_keys_pick_weights_and_others_are_refused():
    run = lstm_run(steps=[0, 1])
    assert titles(plot_weight_norms(run, "lstm/forward/bias:weight")[1]) == ["bias · size"]
    plt.close("all")
    with pytest.raises(ArgumentError, match=r'capture=\("weights", "updates", ...\)'):
        plot_weight_norms(run, "lstm/forward/bias:gradient")
    with pytest.raises(ArgumentError, match="no weights to draw"):
        plot_weight_norms(empty_run())
    with pytest.raises(UnknownTensorError, match="did you mean"):
        plot_weight_norms(run, "lstm/forward/bais:weight")
    assert plt.get_fignums() == []


# ---------------------------------------------------------------------------- all of them


ALL = [
    (plot_gradient_flow, lambda: norms_run(lstm_flow())),
    (plot_activations_over_training, activations),
    (plot_weight_norms, lambda: lstm_run(steps=[0, 1])),
]


@pytest.mark.parametrize(("draw", "make"), ALL)
def test_a_given_figure_or_a_part_of_one_is_drawn_into(draw, make):
    figure = Figure(layout="constrained", figsize=(16, 5))
    left, right = figure.subfigures(1, 2)
    assert draw(make(), fig=left)[0] is left
    assert draw(make(), fig=right)[0] is right
    assert figure.get_size_inches().tolist() == [16, 5]
    assert plt.get_fignums() == []
    drawn(figure)
    own, _ = draw(make())
    assert plt.get_fignums() == [own.number]


@pytest.mark.parametrize("draw", [draw for draw, _ in ALL])
@pytest.mark.parametrize("no_run", ["run.sqlite", None, np.zeros(3)])
def test_what_is_no_run_is_refused_with_the_way_to_one(draw, no_run):
    with pytest.raises(ArgumentTypeError, match=r"monitor\.run, or Run\.open\(path\) of a run file; got "):
        draw(no_run)
    assert plt.get_fignums() == []
