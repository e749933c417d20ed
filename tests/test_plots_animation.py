import gc
import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_up_run import LSTM_GATES, empty_run, lstm_run
from matplotlib.animation import FuncAnimation
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownTensorError
from see_rnn_like.history import Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.animation import animate
from see_rnn_like.plots.colors import BAD_CELL
from see_rnn_like.plots.steps import BAD

STEPS = [0, 1, 10, 100]
KERNEL = TensorInfo(
    TensorKey.parse("lstm/forward/recurrent_kernel:weight"),
    ("state", "gate", "unit"),
    (3, 4, 3),
    {"gate": LSTM_GATES},
)
STATES = TensorInfo(TensorKey.parse("lstm/forward/h:value"), ("sample", "time", "unit"), (None, 5, 3))
NORM = TensorInfo(TensorKey.parse("lstm/forward/h_norm:gradient"), ("time",), (6,))
RNG = np.random.default_rng(0)
WEIGHTS = {step: (1 + step) * RNG.normal(size=(3, 4, 3)) for step in STEPS}


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    # An animation that was never drawn warns when it is thrown away, and that is an error here.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(warning.message) for warning in caught if "Animation" in str(warning.message)] == []
    assert dict(mpl.rcParams) == before
    assert list(tmp_path.iterdir()) == []


def values_run(info, arrays, keep=True):
    run = empty_run()
    run.declare([info])
    axis = len(info.dims) - 2 if info.gates else None
    for step, array in arrays.items():
        values = np.asarray(array, "float64")
        sums, counts = {info.key: stats.moments(values, axis)}, {info.key: stats.histogram(values, axis)}
        run.append(Snapshot(step, 0, 0.0, 0.0, sums, counts, {info.key: values} if keep else {}))
    return run


def frames(animation):
    """Draws every frame, as saving does; yields the figure after each."""
    figure = animation._fig
    figure.canvas.draw()
    for frame in animation.new_frame_seq():
        animation._draw_next_frame(frame, blit=False)
        yield figure


def headline(figure):
    return figure._suptitle.get_text()


# ---------------------------------------------------------------------------- heatmaps


def test_frames_are_the_recorded_weights_as_heatmaps_with_gates_set_apart():
    animation = animate(values_run(KERNEL, WEIGHTS), KERNEL.key)
    assert isinstance(animation, FuncAnimation)
    for figure, (step, weights) in zip(frames(animation), WEIGHTS.items(), strict=True):
        (image,) = figure.axes[0].images
        np.testing.assert_array_equal(image.get_array(), weights.reshape(3, 12))
        assert headline(figure) == f"lstm/forward/recurrent_kernel:weight · step {step}"
        assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == [
            g.upper() for g in LSTM_GATES
        ]
        borders = [line.get_xdata()[0] for line in figure.axes[0].lines]
        assert borders == [2.5, 5.5, 8.5]


def test_colour_limits_are_those_of_the_whole_film_and_symmetric():
    animation = animate(values_run(KERNEL, WEIGHTS), KERNEL.key)
    largest = max(np.abs(weights).max() for weights in WEIGHTS.values())
    limits = [figure.axes[0].images[0].get_clim() for figure in frames(animation)]
    assert limits == [(-largest, largest)] * len(STEPS)
    bar = animation._fig.axes[1]
    np.testing.assert_allclose(bar.get_ylim(), (-largest, largest))


def test_sizes_go_from_white_at_zero_upwards():
    info = TensorInfo(
        TensorKey.parse("lstm/forward/saturation_left:value"), ("gate", "unit"), (4, 3), {"gate": LSTM_GATES}
    )
    animation = animate(values_run(info, {0: np.full((4, 3), 0.25), 5: np.full((4, 3), 0.5)}), info.key)
    for figure, value in zip(frames(animation), (0.25, 0.5), strict=True):
        (image,) = figure.axes[0].images
        assert image.get_array().tolist() == [[value] * 12]
        assert image.get_clim() == (0, 0.5)
        assert min(image.cmap(0.0)[:3]) > 0.98
        assert figure.axes[0].get_yticks().tolist() == []


def test_shares_that_are_all_zero_are_at_the_white_end_of_the_scale():
    info = TensorInfo(
        TensorKey.parse("lstm/forward/saturation_left:value"), ("gate", "unit"), (4, 3), {"gate": LSTM_GATES}
    )
    run = values_run(info, {step: np.zeros((4, 3)) for step in STEPS})
    figure = next(iter(frames(animate(run, info.key))))
    image = figure.axes[0].images[0]
    assert image.get_clim() == (0, 1)
    # The one-sided map begins half a step beside the white in the middle of the whole one.
    assert min(image.to_rgba(0.0)) > 0.99


def test_nan_is_in_the_bad_colour_counted_and_does_not_move_the_picture():
    arrays = {step: weights.copy() for step, weights in WEIGHTS.items()}
    arrays[10][0, 1, :2] = np.nan
    arrays[10][2, 3, 0] = np.inf
    animation = animate(values_run(KERNEL, arrays), KERNEL.key)
    places, colours = [], []
    for figure in frames(animation):
        figure.canvas.draw()
        places.append(figure.axes[0].get_position().bounds)
        colours.append(to_hex(figure._suptitle.get_color()))
        if "step 10 " in headline(figure):
            assert headline(figure).endswith("step 10 · 2 NaN, 1 Inf")
            assert figure.axes[0].get_title() == "RECURRENT\nFORGET: 2 NaN; OUTPUT: 1 Inf"
            image = figure.axes[0].images[0]
            assert image.get_array().mask.sum() == 3
            assert to_hex(image.cmap.get_bad()) == BAD_CELL
            assert len(figure.axes[0].collections) == 1
    assert [colour == BAD for colour in colours] == [False, False, True, False]
    np.testing.assert_allclose(places, [places[0]] * 4, atol=2e-3)  # a pixel


def test_a_matrix_without_gates_and_a_kernel_of_more_axes():
    dense = TensorInfo(TensorKey.parse("dense/kernel:weight"), ("input", "unit"), (4, 2))
    conv = TensorInfo(TensorKey.parse("conv/kernel:weight"), ("axis_0", "input", "unit"), (2, 4, 2))
    for info, shape in ((dense, (4, 2)), (conv, (8, 2))):
        array = RNG.normal(size=info.shape)
        for figure in frames(animate(values_run(info, {0: array}), info.key)):
            np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), array.reshape(shape))


def test_one_sample_of_a_batch_is_a_heatmap_of_time_and_units():
    arrays = {step: RNG.normal(size=(2, 5, 3)) for step in STEPS}
    animation = animate(values_run(STATES, arrays), STATES.key, sample=1)
    for figure, (step, array) in zip(frames(animation), arrays.items(), strict=True):
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), array[1])
        assert headline(figure) == f"lstm/forward/h:value · sample 1 · step {step}"
        assert figure.axes[0].get_ylabel() == "time"


# ---------------------------------------------------------------------------- curves


def test_values_along_one_axis_are_a_curve_with_fixed_limits():
    arrays = {step: np.linspace(-1, 1, 6) * (1 + step) for step in STEPS}
    animation = animate(values_run(NORM, arrays), NORM.key)
    limits = set()
    for figure, (step, array) in zip(frames(animation), arrays.items(), strict=True):
        (ax,) = figure.axes
        (line,) = ax.lines
        np.testing.assert_array_equal(line.get_xydata(), np.stack([np.arange(6), array], axis=1))
        assert headline(figure).endswith(f"step {step}")
        limits.add((ax.get_xlim(), ax.get_ylim()))
    ((across, (low, high)),) = limits
    assert across == (-0.5, 5.5)
    assert low < -101 < 101 < high
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("time", "h_norm · gradient", "linear")


def test_sizes_far_apart_are_on_a_logarithmic_axis_with_zeros_and_nan_marked():
    arrays = {0: 10.0 ** -np.arange(6), 1: [0, 1, np.nan, 1, 1, 0]}
    animation = animate(values_run(NORM, arrays), NORM.key)
    for figure in frames(animation):
        ax = figure.axes[0]
        assert ax.get_yscale() == "log"
        np.testing.assert_allclose(ax.get_ylim(), (1e-5 / 1.3, 1.3))
    marks = {line.get_label(): line.get_xdata().tolist() for line in ax.lines}
    assert marks["exactly 0"] == [0, 5]
    assert marks["NaN or Inf"] == [2]
    assert headline(figure).endswith("step 1 · 1 NaN")


def test_padding_in_a_film_is_a_gap_and_a_nan_beside_it_is_counted():
    info = TensorInfo(NORM.key, ("time",), (6,), {}, {"masked": [2, 3]})
    arrays = {0: [1, 2, np.nan, np.nan, 5, 6], 1: [1, np.nan, np.nan, np.nan, 5, 6]}
    *_, second = frames(animate(values_run(info, arrays), NORM.key))
    assert headline(second).endswith("step 1 · 1 NaN")
    (line, marks) = second.axes[0].lines
    assert np.flatnonzero(np.isnan(line.get_ydata())).tolist() == [1, 2, 3]
    assert marks.get_xdata().tolist() == [1]


def test_padding_alone_leaves_the_headline_of_a_film_as_it_is():
    info = TensorInfo(NORM.key, ("time",), (3,), {}, {"masked": [2]})
    for figure in frames(animate(values_run(info, {4: [1, 2, np.nan]}), NORM.key)):
        assert headline(figure) == "lstm/forward/h_norm:gradient · step 4"
        assert [line.get_label() for line in figure.axes[0].lines] == ["lstm"]


@pytest.mark.parametrize("values", [[0.0] * 3, [np.nan] * 3, [5.0] * 3, [-1e30] * 3, [2.0]])
def test_any_curve_can_be_drawn(values):
    for figure in frames(animate(values_run(NORM, {4: values}), NORM.key)):
        low, high = figure.axes[0].get_ylim()
        assert low < high


def test_curves_of_different_lengths_share_the_longest_axis_and_end_where_they_end():
    animation = animate(values_run(NORM, {0: [1.0, 2.0], 1: [1.0, 2.0, 3.0]}), NORM.key)
    lengths = []
    for figure in frames(animation):
        assert figure.axes[0].get_xlim() == (-0.5, 2.5)
        lengths.append([len(line.get_xdata()) for line in figure.axes[0].lines])
    assert lengths == [[2], [3]]


# ---------------------------------------------------------------------------- bars


def test_statistics_alone_are_bars_of_the_histogram_with_a_panel_per_gate():
    arrays = {step: RNG.uniform(0.25, 1, (30, 4, 3)) * RNG.choice([-1, 1], (30, 4, 3)) for step in STEPS}
    animation = animate(values_run(KERNEL, arrays, keep=False), KERNEL.key)
    edges = [-1, -0.5, -0.25, 0.25, 0.5, 1]
    most = max(np.histogram(a[:, gate], edges)[0].max() for a in arrays.values() for gate in range(4))
    for figure, (step, array) in zip(frames(animation), arrays.items(), strict=True):
        assert [ax.get_title(loc="left") for ax in figure.axes] == list(LSTM_GATES)
        for gate, ax in enumerate(figure.axes):
            expected = np.histogram(array[:, gate], edges)[0]
            assert [bar.get_width() for bar in ax.patches] == expected.tolist()
            np.testing.assert_allclose([bar.get_y() for bar in ax.patches], edges[:-1])
            assert (ax.get_ylim(), ax.get_yscale()) == ((-1, 1), "symlog")
            assert ax.get_xlim() == pytest.approx((0, 1.05 * most))
        assert headline(figure).endswith(f"step {step}")


def test_batches_are_bars_too_and_their_values_are_not_read(monkeypatch):
    run = values_run(STATES, {0: np.zeros((2, 5, 3)), 3: np.full((2, 5, 3), np.nan)})
    load = run.load
    monkeypatch.setattr(
        run, "load", lambda key, what, steps=None: load(key, what, steps) if what != "value" else 1 / 0
    )
    told = [headline(figure) for figure in frames(animate(run, STATES.key))]
    assert told == ["lstm/forward/h:value · step 0", "lstm/forward/h:value · step 3 · 30 NaN"]


# ---------------------------------------------------------------------------- files, arguments


def test_gif_and_html_are_written_and_nothing_else(tmp_path):
    run = values_run(NORM, {step: np.arange(6.0) + step for step in STEPS})
    gif, html = tmp_path / "film.gif", tmp_path / "film.html"
    animate(run, NORM.key, savepath=gif, interval=100)
    animate(run, NORM.key, savepath=str(html))
    with Image.open(gif) as film:
        assert film.n_frames == len(STEPS)
        assert film.info["duration"] == 100
    text = html.read_text()
    assert text.count("data:image/png;base64") == len(STEPS)
    assert sorted(tmp_path.iterdir()) == sorted([gif, html])
    gif.unlink()
    html.unlink()


def test_a_film_can_be_shown_in_a_notebook():
    animation = animate(lstm_run(steps=[0, 1]), "lstm/forward/kernel:gradient")
    assert "data:image/png;base64" in animation.to_jshtml()


def test_a_film_of_one_step():
    assert len(list(frames(animate(values_run(KERNEL, {7: WEIGHTS[0]}), KERNEL.key)))) == 1


def test_a_film_of_two_hundred_steps_has_as_many_frames():
    run = values_run(NORM, {step: np.ones(6) for step in range(200)})
    animation = animate(run, NORM.key)
    assert len(list(animation.new_frame_seq())) == 200
    animation._fig.canvas.draw()


def test_the_first_frame_is_there_before_the_film_runs():
    animation = animate(values_run(KERNEL, WEIGHTS), KERNEL.key)
    assert headline(animation._fig).endswith("step 0")
    animation._fig.canvas.draw()


def test_a_given_figure_is_drawn_into():
    figure = Figure(figsize=(3, 2), layout="constrained")
    animation = animate(values_run(NORM, {0: np.ones(6)}), NORM.key, fig=figure)
    assert animation._fig is figure
    assert plt.get_fignums() == []
    assert "data:image/png;base64" in animation.to_jshtml()


def test_wrong_arguments_of_animate_say_what_is_right_and_open_no_figure():
    run = values_run(STATES, {0: np.zeros((2, 5, 3))})
    with pytest.raises(ArgumentTypeError, match=r"monitor\.run, or Run\.open\(path\)"):
        animate("run.sqlite", STATES.key)
    with pytest.raises(UnknownTensorError, match="did you mean 'lstm/forward/h:value'"):
        animate(run, "lstm/forward/g:value")
    with pytest.raises(
        ArgumentError, match=r"extension of savepath must be one of '.gif', '.html'; got '.mp4'"
    ):
        animate(run, STATES.key, savepath="film.mp4")
    with pytest.raises(ArgumentError, match="there is no directory 'nowhere'; create it"):
        animate(run, STATES.key, savepath="nowhere/film.gif")
    for interval in (0, -1, np.nan, np.inf):
        with pytest.raises(ArgumentError, match="interval is the time between frames in milliseconds"):
            animate(run, STATES.key, interval=interval)
    for sample in (-1, 2):
        with pytest.raises(
            ArgumentError, match=f"sample must be from 0 to 1, as in every batch drawn; got {sample}"
        ):
            animate(run, STATES.key, sample=sample)
    with pytest.raises(ArgumentError, match=r"has no samples: its dims are \('time',\)"):
        animate(values_run(NORM, {0: np.ones(6)}), NORM.key, sample=0)
    with pytest.raises(UnknownTensorError, match='record values with RNNMonitor\\(level="full"\\)'):
        animate(values_run(STATES, {0: np.zeros((2, 5, 3))}, keep=False), STATES.key, sample=0)
    with pytest.raises(ArgumentError, match=r"'loss:value' is a single number .* plot_loss"):
        animate(
            values_run(TensorInfo(TensorKey.parse("loss:value"), (), ()), {0: np.array(1.0)}), "loss:value"
        )
    with pytest.raises(ArgumentError, match=r"no step of .* was recorded"):
        animate(values_run(STATES, {}), STATES.key)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample": "0"},
        {"sample": 1.5},
        {"sample": True},
        {"interval": "fast"},
        {"interval": None},
        {"savepath": 3},
    ],
)
def test_arguments_of_another_type_are_told_by_name(wrong):
    run = values_run(STATES, {0: np.zeros((2, 5, 3))})
    with pytest.raises(ArgumentTypeError, match=f"^{next(iter(wrong))} is "):
        animate(run, STATES.key, **wrong)
    assert plt.get_fignums() == []
