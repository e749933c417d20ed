"""Heatmaps and histograms of recurrent weights: every number in its gate, kernel and direction."""

from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
import xarray as xr
from figures import nothing_is_cut_off, pixels, shows, tidy, unchanged  # noqa: F401
from keras import layers
from matplotlib.colors import to_rgba

from see_rnn_like.cells import CellSpec, cell_spec, register_cell
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, UnknownLayerError, UnsupportedLayerError
from see_rnn_like.plots import rnn_heatmap, rnn_histogram
from see_rnn_like.plots.colors import BAD_CELL

RNG = np.random.default_rng(5)
LSTM = ["INPUT", "FORGET", "CELL", "OUTPUT"]
GRU = ["UPDATE", "RESET", "NEW"]


class IndRNNCell(layers.Layer):
    """Li et al. (2018): every unit sees only its own past."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units,), name="recurrent_kernel")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, inputs, states):
        h = keras.ops.relu(
            keras.ops.matmul(inputs, self.kernel) + self.recurrent_kernel * states[0] + self.bias
        )
        return h, [h]


def model_of(layer, shape=(6, 3)):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input(shape), layer, layers.Flatten(), layers.Dense(1, name="head")])
    model.compile("sgd", "mse")
    for variable in layer.variables:
        if "float" in str(variable.dtype):
            variable.assign(RNG.normal(size=variable.shape))
    return model


def lstm_weights(inputs=3, units=4, bias=True):
    shapes = [(inputs, 4 * units), (units, 4 * units), (4 * units,)]
    return [RNG.normal(size=shape) for shape in shapes[: 2 + bias]]


def images(axes):
    return [ax.images[0].get_array() for ax in dict.fromkeys(axes.flat)]


def separators(ax):
    return [line.get_xdata()[0] for line in ax.lines]


def gate_names(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


# ---- every kind of layer ---------------------------------------------------------------------------

KINDS = {
    "lstm": (lambda: layers.LSTM(4), LSTM),
    "gru": (lambda: layers.GRU(4), GRU),
    "gru, reset before": (lambda: layers.GRU(4, reset_after=False), GRU),
    "lstm of a cell": (lambda: layers.RNN(layers.LSTMCell(4)), LSTM),
    "lstm without bias": (lambda: layers.LSTM(4, use_bias=False), LSTM),
    "simple": (lambda: layers.SimpleRNN(4), [""]),
    "sequences": (lambda: layers.GRU(4, return_sequences=True), GRU),
}


@pytest.mark.parametrize("kind", KINDS)
def test_heatmaps_show_the_weights_of_the_layer(kind):
    make, gates = KINDS[kind]
    model = model_of(make())
    cell = model.layers[0].cell
    weights = model.layers[0].get_weights()
    figs, axes = rnn_heatmap(model, 0)
    assert len(figs) == len(axes) == 1
    for image, weight in zip(images(axes[0]), weights, strict=True):
        np.testing.assert_array_equal(image, np.atleast_2d(weight).astype("float64"))
    kernel = axes[0][0, 0]
    if len(gates) > 1:
        assert gate_names(kernel) == gates == [gate.upper() for gate in cell_spec(cell).gates]
        assert kernel.get_xticks() == pytest.approx([1.5 + 4 * i for i in range(len(gates))])
        assert separators(kernel) == [4 * i - 0.5 for i in range(1, len(gates))]
    else:
        assert separators(kernel) == []
    titles = [ax.get_title() for ax in dict.fromkeys(axes[0].flat)]
    assert titles == ["KERNEL", "RECURRENT", "BIAS"][: len(weights)]
    assert [ax.get_ylabel() for ax in axes[0][0]] == ["Channel units", "Hidden units"]
    assert figs[0].get_suptitle() == f"{model.layers[0].name} -- weights"
    assert axes[0].shape == (len(weights) - 1, 2)
    assert nothing_is_cut_off(figs[0])


@pytest.mark.parametrize("kind", KINDS)
def test_histograms_count_the_weights_of_every_gate(kind):
    make, gates = KINDS[kind]
    model = model_of(make())
    weights = model.layers[0].get_weights()
    figs, axes = rnn_histogram(model, 0, bins=5)
    n = len(gates)
    assert axes[0].shape == (n + (len(weights) == 3), 2)
    for column, weight in enumerate(weights[:2]):
        for gate in range(n):
            ax = axes[0][gate, column]
            values = weight[:, 4 * gate : 4 * gate + 4].astype("float64")
            expected = np.histogram(values, 5, density=True)[0]
            assert [patch.get_height() for patch in ax.patches] == pytest.approx(expected)
            assert [text.get_text() for text in ax.texts] == [gates[gate]] * (n > 1)
    assert [ax.get_title() for ax in axes[0][0]] == ["KERNEL", "RECURRENT"]
    if len(weights) == 3:
        assert axes[0][-1, 0] is axes[0][-1, 1]
        expected = np.histogram(weights[2].astype("float64"), 5, density=True)[0]
        assert [patch.get_height() for patch in axes[0][-1, 0].patches] == pytest.approx(expected)
        assert axes[0][-1, 0].texts[0].get_text() == "BIAS"
    assert nothing_is_cut_off(figs[0])


@pytest.mark.parametrize("make", [layers.LSTM, layers.GRU, lambda units: layers.LSTM(units, use_bias=False)])
def test_bidirectional_layers_have_a_figure_per_direction(make):
    model = model_of(layers.Bidirectional(make(4), name="both"))
    both = model.layers[0]
    for plot in (rnn_heatmap, rnn_histogram):
        figs, axes = plot(model, "both")
        assert [fig.get_suptitle() for fig in figs] == [
            "both -- weights · FORWARD LAYER",
            "both -- weights · BACKWARD LAYER",
        ]
        assert len(axes) == 2
    figs, axes = rnn_heatmap(model, "both")
    for grid, part in zip(axes, (both.forward_layer, both.backward_layer), strict=True):
        for image, weight in zip(images(grid), part.get_weights(), strict=True):
            np.testing.assert_array_equal(image, np.atleast_2d(weight).astype("float64"))
    assert len({ax.images[0].get_clim() for grid in axes for ax in grid.flat}) == 1


def test_stacked_cells_have_a_figure_each():
    model = model_of(layers.RNN([layers.LSTMCell(4), layers.GRUCell(2)], name="stack"))
    figs, axes = rnn_heatmap(model, "stack")
    assert [fig.get_suptitle() for fig in figs] == [
        "stack -- weights -- CELL 0",
        "stack -- weights -- CELL 1",
    ]
    assert gate_names(axes[0][0, 0]) == LSTM
    assert gate_names(axes[1][0, 0]) == GRU
    np.testing.assert_array_equal(images(axes[1])[0], model.layers[0].cell.cells[1].kernel.numpy())


def test_convolutional_kernels_are_flattened_to_rows():
    model = model_of(layers.ConvLSTM1D(4, 2, name="conv"), shape=(5, 6, 3))
    _, axes = rnn_heatmap(model, "conv")
    kernel = model.layers[0].cell.kernel.numpy()
    assert kernel.shape == (2, 3, 16)
    np.testing.assert_array_equal(images(axes[0])[0], kernel.reshape(6, 16))
    assert gate_names(axes[0][0, 0]) == LSTM
    assert len(rnn_histogram(model, "conv")[1][0]) == 5


def test_registered_cells_and_vectors_are_drawn():
    spec = CellSpec("IndRNN", ("hidden",), ("h",), activate=None, advance=None)
    register_cell(IndRNNCell, spec)
    model = model_of(layers.RNN(IndRNNCell(4), name="ind"))
    figs, axes = rnn_heatmap(model, "ind")
    assert [image.shape for image in images(axes[0])] == [(3, 4), (1, 4), (1, 4)]
    assert nothing_is_cut_off(figs[0])
    heights = [patch.get_height() for patch in rnn_histogram(model, "ind", bins=3)[1][0][0, 1].patches]
    recurrent = model.layers[0].cell.recurrent_kernel.numpy().astype("float64")
    assert heights == pytest.approx(np.histogram(recurrent, 3, density=True)[0])


def test_both_sides_of_a_gru_bias_are_shown():
    model = model_of(layers.GRU(4))
    _, axes = rnn_heatmap(model, 0)
    bias = axes[0][1, 0]
    np.testing.assert_array_equal(bias.images[0].get_array(), model.layers[0].cell.bias.numpy())
    assert [label.get_text() for label in bias.get_yticklabels()] == ["input", "recurrent"]


def test_a_layer_can_be_given_and_other_layers_are_refused():
    model = model_of(layers.LSTM(4, name="lstm"))
    by_layer, by_id = rnn_heatmap(model, None, layer=model.layers[0])[1], rnn_heatmap(model, "ls")[1]
    np.testing.assert_array_equal(images(by_layer[0])[0], images(by_id[0])[0])
    with pytest.raises(UnsupportedLayerError):
        rnn_heatmap(model, "head")
    with pytest.raises(UnknownLayerError, match="lstm"):
        rnn_heatmap(model, "gru")
    with pytest.raises(ArgumentError, match="one layer is drawn at a time; got lstm"):
        rnn_heatmap(model, ["lstm", "lstm"])


# ---- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [layers.LSTM, layers.GRU, lambda units: layers.Bidirectional(layers.LSTM(units))]
)
def test_gradients_are_those_of_a_tape(make):
    model = model_of(make(4))
    x, y = RNG.normal(size=(8, 6, 3)).astype("float32"), RNG.normal(size=(8, 1)).astype("float32")
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=False))
    weights = [variable.value for variable in model.layers[0].trainable_variables]
    expected = [np.atleast_2d(gradient.numpy()) for gradient in tape.gradient(loss, weights)]
    with unchanged(x, y):
        figs, axes = rnn_heatmap(model, 0, input_data=x, labels=y, mode="grads")
    drawn = [image for grid in axes for image in images(grid)]
    for image, gradient in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(image, gradient, rtol=1e-4, atol=1e-6)
    direction = " · FORWARD LAYER" if len(figs) == 2 else ""
    assert figs[0].get_suptitle() == f"{model.layers[0].name} -- gradients{direction}"
    data = tf.data.Dataset.from_tensors((x, y))
    np.testing.assert_array_equal(images(rnn_heatmap(model, 0, None, data, mode="grads")[1][0])[0], drawn[0])


def test_gradients_need_data():
    model = model_of(layers.LSTM(4))
    with pytest.raises(ArgumentError, match="mode='grads' needs input_data"):
        rnn_histogram(model, 0, mode="grads")
    with pytest.raises(ArgumentError, match="mode must be one of 'weights', 'grads'; got 'gradients'"):
        rnn_histogram(model, 0, mode="gradients")
    with pytest.raises(ArgumentError, match="without data, a model"):
        rnn_histogram(None, 0)


# ---- data given ------------------------------------------------------------------------------------


def test_data_of_a_layer_is_named_by_it_and_its_gradients_are_drawn_with_mode_grads_too():
    model = model_of(layers.Bidirectional(layers.LSTM(4), name="both"))
    data = lstm_weights() + lstm_weights()
    with unchanged(*data):
        figs, axes = rnn_heatmap(model, "both", data=data, mode="grads")
    assert [fig.get_suptitle() for fig in figs] == ["both · FORWARD LAYER", "both · BACKWARD LAYER"]
    for grid, weights in zip(axes, (data[:3], data[3:]), strict=True):
        assert gate_names(grid[0, 0]) == LSTM
        for image, weight in zip(images(grid), weights, strict=True):
            np.testing.assert_array_equal(image, np.atleast_2d(weight))
    lone = rnn_heatmap(None, None, layer=model.layers[0].forward_layer, data=data[:3])
    assert gate_names(lone[1][0][0, 0]) == LSTM


@pytest.mark.parametrize(("bias", "directions"), [(True, 1), (False, 1), (True, 2), (False, 2)])
def test_data_without_a_layer_has_numbered_gates(bias, directions):
    data = [weight for _ in range(directions) for weight in lstm_weights(bias=bias)]
    figs, axes = rnn_heatmap(None, None, data=data)
    titles = ["FORWARD LAYER", "BACKWARD LAYER"] if directions == 2 else [""]
    assert [fig.get_suptitle() for fig in figs] == titles
    assert gate_names(axes[0][0, 0]) == ["GATE 0", "GATE 1", "GATE 2", "GATE 3"]
    assert axes[0].shape == (1 + bias, 2)
    drawn = [image for grid in axes for image in images(grid)]
    for image, weight in zip(drawn, data, strict=True):
        np.testing.assert_array_equal(image, np.atleast_2d(weight))


def test_gates_may_come_one_by_one_or_labelled():
    kernel, recurrent, bias = lstm_weights()
    apart = [np.split(weight, 4, axis=-1) for weight in (kernel, recurrent, bias)]
    gates = ["input", "forget", "cell", "output"]
    labelled = [
        xr.DataArray(kernel.reshape(3, 4, 4), dims=("input", "gate", "unit"), coords={"gate": gates}),
        # In another order: names decide.
        xr.DataArray(
            recurrent.reshape(4, 4, 4), dims=("state", "gate", "unit"), coords={"gate": gates}
        ).transpose("unit", "gate", "state"),
        xr.DataArray(bias.reshape(4, 4), dims=("gate", "unit"), coords={"gate": gates}),
    ]
    for data in (apart, labelled):
        axes = rnn_heatmap(None, None, data=data)[1]
        for image, weight in zip(images(axes[0]), (kernel, recurrent, bias), strict=True):
            np.testing.assert_array_equal(image, np.atleast_2d(weight))
    assert gate_names(axes[0][0, 0]) == LSTM


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.zeros((3, 4)), ArgumentTypeError, "data is a list of arrays"),
        ([np.zeros((3, 4))], ArgumentError, "without a model or layer, .* got 1 arrays"),
        ([np.zeros((3, 5)), np.zeros((2, 4))], ArgumentError, r"a multiple of 2; got shape \(3, 5\)"),
        ([np.zeros((3, 0)), np.zeros((2, 4))], ArgumentError, r"empty array: shape \(3, 0\)"),
        ([["a"], ["b"]], ArgumentTypeError, "expected numbers"),
        ([xr.DataArray(np.zeros((3, 4)))] * 2, ArgumentError, "has the dimensions gate and unit"),
    ],
)
def test_data_that_is_no_layer_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        rnn_heatmap(None, None, data=data)


@pytest.mark.parametrize("data", [lstm_weights(bias=False), lstm_weights(units=8), lstm_weights(inputs=2)])
def test_data_must_fit_the_layer(data):
    model = model_of(layers.LSTM(4, name="lstm"))
    with pytest.raises(ArgumentError, match=r"weights of 'lstm': forward kernel \(3, 16\), .* got shapes \["):
        rnn_heatmap(model, "lstm", data=data)
    with pytest.raises(UnsupportedLayerError, match="'head' is not a recurrent layer"):
        rnn_heatmap(model, "head", data=data)


# ---- how it is drawn -------------------------------------------------------------------------------


def test_bad_values_are_masked_coloured_and_counted_by_gate():
    data = lstm_weights()
    data[0][1, 5] = data[0][2, 6] = np.nan
    data[0][0, 15], data[2][0] = np.inf, -np.inf
    with unchanged(*data):
        figs, axes = rnn_heatmap(None, None, data=data)
    kernel, recurrent, bias = (ax for ax in dict.fromkeys(axes[0].flat))
    assert kernel.get_title() == "KERNEL\nGATE 1: 2 NaN; GATE 3: 1 Inf"
    assert recurrent.get_title() == "RECURRENT"
    assert bias.get_title() == "BIAS\nGATE 0: 1 Inf"
    mask = np.ma.getmaskarray(kernel.images[0].get_array())
    assert mask.sum() == 3
    assert mask[0, 15]
    top = max(np.abs(weight[np.isfinite(weight)]).max() for weight in data[:2])
    assert kernel.images[0].get_clim() == (-top, top)
    assert tuple(kernel.images[0].get_cmap().get_bad()) == to_rgba(BAD_CELL)
    assert shows(figs[0], BAD_CELL)


def test_bad_values_are_written_on_their_histogram():
    data = lstm_weights(inputs=50)
    data[0][:2, 5], data[1][0, 0] = np.nan, np.inf
    data[2][:] = np.nan
    with unchanged(*data):
        figs, axes = rnn_histogram(None, None, data=data)
    pixels(figs[0])
    notes = {place: [text.get_text() for text in ax.texts] for place, ax in np.ndenumerate(axes[0])}
    assert notes[1, 0] == ["GATE 1", "1.0% NaN"]
    assert notes[0, 1] == ["GATE 0", "6.2% Inf"]
    assert notes[4, 0] == ["BIAS", "100.0% NaN"]
    assert notes[0, 0] == ["GATE 0"]
    assert axes[0][1, 0].texts[1].get_color() == "red"
    assert not axes[0][4, 0].patches


def test_one_bad_weight_among_thousands_is_seen():
    data = lstm_weights(inputs=5, units=512)
    data[0][3, 1001] = np.nan
    (fig,), (axes,) = rnn_heatmap(None, None, data=data)
    assert shows(fig, BAD_CELL)
    assert axes[0, 0].collections[0].get_offsets().tolist() == [[1001, 3]]


@pytest.mark.parametrize("value", [0.0, 2.5, np.nan])
def test_weights_without_range_are_drawn(value):
    data = [np.full(weight.shape, value) for weight in lstm_weights()]
    for plot in (rnn_heatmap, rnn_histogram):
        for fig in plot(None, None, data=data)[0]:
            pixels(fig)


@pytest.mark.parametrize(
    ("arguments", "limits"),
    [
        ({}, (-4, 4)),
        ({"norm": None}, (-4, 4)),
        ({"norm": (-0.5, 0.25)}, (-0.5, 0.25)),
        ({"absolute_value": True}, (0, 4)),
        ({"normalize": True}, (0, 1)),
        ({"absolute_value": True, "normalize": True, "norm": "auto"}, (0, 1)),
    ],
)
def test_colour_limits(arguments, limits):
    data = [np.array([[-4.0, 0, 1, 2]]), np.array([[0.0, 1, 2, 3]]), np.array([9.0, 0, 0, 0])]
    with unchanged(*data):
        axes = rnn_heatmap(None, None, data=data, **arguments)[1]
    assert {ax.images[0].get_clim() for ax in axes[0].flat} == {limits}


@pytest.mark.parametrize(
    ("bias", "ends", "words"),
    [
        ([9.0, 0, 0, 0], "max", "clipped: values reach from 0 to 9, colours from -4 to 4"),
        ([1.0, 0, -5, 0], "min", "clipped: values reach from -5 to 1, colours from -4 to 4"),
        ([9.0, 0, -5, np.nan], "both", "clipped: values reach from -5 to 9, colours from -4 to 4"),
        ([4.0, 0, 0, -4], "neither", ""),
    ],
)
def test_values_beyond_the_colours_are_told(bias, ends, words):
    data = [np.array([[-4.0, 0, 1, 2]]), np.array([[0.0, 1, 2, 3]]), np.array(bias)]
    (fig,), (axes,) = rnn_heatmap(None, None, data=data)
    assert axes[1, 0].get_xlabel() == words
    assert axes[0, 0].images[0].colorbar.extend == ends
    assert nothing_is_cut_off(fig)
    _, (axes,) = rnn_heatmap(None, None, data=data, show_bias=False)
    assert axes[0, 0].images[0].colorbar.extend == "neither"
    _, (axes,) = rnn_heatmap(None, None, data=data, show_bias=False, norm=(-1, 1))
    assert axes[0, 0].images[0].colorbar.extend == "both"


def test_the_neutral_colour_of_sizes_is_zero():
    data = [np.array([[-4.0, 0, 1, 2]]), np.array([[1.0, 1, np.nan, 3]])]
    image = rnn_heatmap(None, None, data=data, absolute_value=True)[1][0][0, 0].images[0]
    assert image.cmap(image.norm(0.0)) == pytest.approx(to_rgba("white"), abs=0.01)
    assert image.cmap(image.norm(4.0)) == to_rgba("red")
    assert tuple(image.cmap.get_bad()) == to_rgba(BAD_CELL)
    assert image.get_clim() == (0, 4)
    positive = [np.array([[2.0, 3, 4, 2]]), np.array([[1.0, 1, 1, 3]])]
    image = rnn_heatmap(None, None, data=positive, absolute_value=True)[1][0][0, 0].images[0]
    assert image.get_clim() == (0, 4)
    image = rnn_heatmap(None, None, data=data, absolute_value=True, cmap="viridis")[1][0][0, 0].images[0]
    assert image.cmap.name == "viridis"


def test_sizes_and_scaled_values():
    data = [np.array([[-4.0, 0, 1, np.nan]]), np.array([[0.0, 0, 0, 0]])]
    kernel = images(rnn_heatmap(None, None, data=data, absolute_value=True)[1][0])[0]
    assert kernel.tolist() == [[4, 0, 1, None]]
    kernel, recurrent = images(rnn_heatmap(None, None, data=data, normalize=True)[1][0])
    assert kernel.tolist() == [[0, 0.8, 1, None]]
    assert recurrent.tolist() == [[0, 0, 0, 0]]


def test_parts_can_be_left_out_and_styled(tmp_path):
    data = lstm_weights()
    figs, axes = rnn_heatmap(
        None, None, data=data, show_bias=False, show_colorbar=False, gate_sep_width=0, cmap=None
    )
    assert axes[0].shape == (1, 2)
    assert len(figs[0].axes) == 2
    assert separators(axes[0][0, 0]) == []
    assert axes[0][0, 0].images[0].get_cmap().name == "bone"
    figs, axes = rnn_heatmap(
        None, None, data=data, gate_sep_width=3, show_borders=False, configs={"subtitle": {"fontsize": 7}}
    )
    assert len(figs[0].axes) == 4
    assert axes[0][0, 0].lines[0].get_linewidth() == 3
    assert not axes[0][0, 0].get_frame_on()
    assert axes[0][0, 0].title.get_fontsize() == 7
    figs, axes = rnn_histogram(
        None, None, data=data, show_bias=False, show_xy_ticks=(0, 1), show_borders=True
    )
    assert axes[0].shape == (4, 2)
    assert axes[0][0, 0].get_xticks().size == 0
    assert axes[0][0, 0].get_frame_on()
    rnn_histogram(None, None, data=data, savepath=tmp_path / "a.png", configs={"save": {"dpi": 20}})
    rnn_heatmap(None, None, data=data + data, savepath=tmp_path / "b.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b_0.png", "b_1.png"]


def test_gate_separators_stand_out_from_dark_heatmaps():
    data = lstm_weights()
    data[0][:] = 0
    data[0][0, 0] = 1
    axes = rnn_heatmap(None, None, data=data, cmap=None, absolute_value=True)[1]
    assert axes[0][0, 0].lines[0].get_color() == "w"
    axes = rnn_heatmap(None, None, data=data)[1]
    assert axes[0][0, 0].lines[0].get_color() == "k"


def test_styles_of_the_bars_are_kept():
    data = lstm_weights()
    axes = rnn_histogram(None, None, data=data, configs={"plot": {"color": "k", "density": False}})[1]
    assert axes[0][0, 0].patches[0].get_facecolor() == (0, 0, 0, 1)
    assert sum(patch.get_height() for patch in axes[0][0, 0].patches) == 12
    assert axes[0][0, 0].get_ylabel() == "Count"
    assert axes[0][-1, 0].patches[0].get_facecolor() != (0, 0, 0, 1)


@pytest.mark.parametrize("equate", [0, 1, 2])
def test_axes_are_equated_within_a_figure_or_over_all(equate):
    forward, backward = lstm_weights(), lstm_weights()
    backward[0] = 5 * backward[0] + 3
    _, axes = rnn_histogram(None, None, data=forward + backward, equate_axes=equate)
    limits = [{(ax.get_xlim(), ax.get_ylim()) for ax in grid[:4].flat} for grid in axes]
    assert [len(each) for each in limits] == ([8, 8] if equate == 0 else [1, 1])
    assert (limits[0] == limits[1]) == (equate == 2)
    (low, high), _ = next(iter(limits[1]))
    if equate:
        assert low <= min(backward[0].min(), backward[1].min())
        assert max(backward[0].max(), backward[1].max()) <= high
    if equate == 2:
        assert low == -high
    # The bias keeps limits of its own.
    assert axes[0][4, 0].get_xlim() not in {limit for limit, _ in limits[0]}


@pytest.mark.parametrize("w", [0.5, 1])
@pytest.mark.parametrize("equate", [0, 1])
def test_tick_labels_of_histograms_do_not_touch(equate, w):
    limits = [(-0.09, 0.1, (12, 24)), (-0.05, 0.055, (6, 24)), (-0.4, 0.35, 24)]
    data = [RNG.uniform(low, high, shape) for low, high, shape in limits]
    (fig,), (axes,) = rnn_histogram(None, None, data=data, equate_axes=equate, w=w)
    pixels(fig)
    boxes = [
        label.get_window_extent()
        for ax in axes[3]
        for tick, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]
    ]
    assert len(boxes) >= 3
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_another_way_to_equate_is_refused():
    with pytest.raises(ArgumentError, match="equate_axes must be one of 0, 1, 2; got 3"):
        rnn_histogram(None, None, data=lstm_weights(), equate_axes=3)


@pytest.mark.parametrize("units", [1, 512])
def test_small_and_large_layers_are_legible(units):
    data = [RNG.normal(size=shape) for shape in ((3, 4 * units), (units, 4 * units), (4 * units,))]
    for plot in (rnn_heatmap, rnn_histogram):
        (fig,), _ = plot(None, None, data=data)
        assert nothing_is_cut_off(fig)
        for ax in fig.axes[:2]:
            names = [
                label.get_window_extent() for label in ax.get_xticklabels() if "GATE" in label.get_text()
            ]
            assert all(one.x1 < other.x0 for one, other in pairwise(names))


def test_without_room_for_a_layout_the_given_one_is_kept():
    (fig,), (axes,) = rnn_heatmap(None, None, data=lstm_weights(), configs={"tight": {"left": 0.3}})
    fig.canvas.draw()
    assert axes[0, 0].get_position().x0 == pytest.approx(0.3)
