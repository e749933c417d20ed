"""Layers, weights, norms, recurrent weights and penalties by see-rnn's functions."""

from __future__ import annotations

import copy
import inspect

import keras
import numpy as np
import pytest
from keras import layers
from unchanged import nothing_changes

from see_rnn_like.errors import ArgumentError, ForeignModelError, UnknownLayerError, UnsupportedLayerError
from see_rnn_like.extract.layers import get_full_name, get_layer
from see_rnn_like.extract.penalties import get_weight_penalties, weight_loss
from see_rnn_like.extract.rnn import get_rnn_weights, rnn_summary
from see_rnn_like.extract.weights import get_weights, weights_norm

SIGNATURES = {
    get_layer: "(model, _id)",
    get_full_name: "(model, _id)",
    get_weights: "(model, _id, omit_names=None, as_tensors=False, as_dict=False)",
    get_rnn_weights: "(model, _id, layer=None, as_tensors=False, concat_gates=True)",
    rnn_summary: "(layer)",
    get_weight_penalties: "(model)",
    weight_loss: "(model)",
    weights_norm: f"(model, _id, _dict=None, stat_fns={(np.max, np.mean)}, "
    f"norm_fn={(np.sqrt, np.square)}, omit_names=None, axis=-1, verbose=0)",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures_are_those_of_see_rnn(function):
    signature = inspect.signature(function)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    bare = signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)
    assert str(bare) == SIGNATURES[function]


@pytest.fixture(scope="module")
def model():
    x = keras.Input((7, 3), name="series")
    h = layers.Bidirectional(layers.LSTM(4, return_sequences=True, name="lstm"), name="bi")(x)
    h = layers.GRU(5, name="gru", bias_initializer="uniform")(h)
    return keras.Model(x, layers.Dense(2, name="dense", bias_initializer="uniform")(h), name="m")


def test_get_layer_gives_one_or_a_list(model):
    assert get_layer(model, "gru") is model.layers[2]
    assert get_layer(model, ["dense", 1]) == [model.layers[3], model.layers[1]]
    assert get_layer(model, ["gr"]) is model.layers[2]
    assert get_layer(model, "*") == model.layers[1:]


def test_get_full_name_gives_one_or_a_list(model):
    assert get_full_name(model, "den") == "dense"
    assert get_full_name(model, ["den", 1, "gr"]) == ["dense", "bi", "gru"]


def test_weights_equal_the_layers_own(model):
    for got, own in zip(get_weights(model, "bi"), model.get_layer("bi").get_weights(), strict=True):
        np.testing.assert_array_equal(got, own)
    np.testing.assert_array_equal(get_weights(model, "dense/kernel"), model.layers[-1].get_weights()[0])


def test_one_weight_comes_alone_several_in_a_list(model):
    assert isinstance(get_weights(model, "dense/bias"), np.ndarray)
    assert isinstance(get_weights(model, (3, 0)), np.ndarray)
    assert len(get_weights(model, "dense")) == 2
    assert len(get_weights(model, ["dense/bias", "gru/bias"])) == 2


def test_no_weight_of_a_bidirectional_is_lost_in_a_dict(model):
    found = get_weights(model, "*", as_dict=True)
    assert list(found) == [v.path for v in model.weights]
    for variable in model.weights:
        np.testing.assert_array_equal(found[variable.path], variable.numpy())


def test_dict_keys_find_their_values_again(model):
    for name, value in get_weights(model, ["gru", "bi", (3, 1)], as_dict=True).items():
        np.testing.assert_array_equal(get_weights(model, name), value)


def test_omit_names_takes_one_or_several_parts(model):
    assert [w.shape for w in get_weights(model, "gru", omit_names="bias")] == [(8, 15), (5, 15)]
    assert get_weights(model, "gru", omit_names=["bias", "recurrent"]).shape == (8, 15)
    assert get_weights(model, "dense", omit_names=["bias", "kernel"]) == []


def test_as_tensors_gives_the_variables(model):
    assert get_weights(model, "dense/kernel", as_tensors=True) is model.layers[-1].kernel
    assert get_weights(model, "dense", as_tensors=True) == model.layers[-1].weights
    assert get_rnn_weights(model, "gru", as_tensors=True) == model.get_layer("gru").cell.weights


def test_what_comes_back_can_be_changed_without_changing_the_model(model):
    before = [w.copy() for w in model.get_weights()]
    for value in get_weights(model, "*"):
        value[:] = 17.0
    for value in get_rnn_weights(model, "bi"):
        value[:] = 17.0
    for values in get_rnn_weights(model, "bi", concat_gates=False):
        for value in values:
            value[:] = 17.0
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_nothing_of_the_model_changes(model, capsys):
    x = np.zeros((2, 7, 3), "float32")
    model(x)
    with nothing_changes(model):
        get_layer(model, "*")
        get_full_name(model, "*")
        get_weights(model, "*", as_dict=True)
        get_rnn_weights(model, "bi", concat_gates=False)
        get_rnn_weights(model, "bi", as_tensors=True, concat_gates=False)
        rnn_summary(model.get_layer("bi"))
        get_weight_penalties(model)
        weight_loss(model)
        weights_norm(model, "*", verbose=1)


def test_bfloat16_weights_come_as_float32():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, dtype="bfloat16")])
    kernel = get_weights(model, (0, 0))
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, np.asarray(model.layers[0].kernel).astype("float32"))


# -- norms --------------------------------------------------------------------------------------


def test_norms_equal_numpys(model):
    stats = weights_norm(model, ["dense", "gru/kernel"], stat_fns=(np.max, np.min, np.mean))
    assert list(stats) == ["dense", "gru"]
    kernel, bias = model.layers[-1].get_weights()
    per_unit = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(
        np.ravel(stats["dense"][0]), [per_unit.max(), per_unit.min(), per_unit.mean()], 1e-6
    )
    np.testing.assert_allclose(np.ravel(stats["dense"][1][0]), np.abs(bias).max(), 1e-6)
    rows = np.linalg.norm(model.get_layer("gru").get_weights()[0], axis=0)
    np.testing.assert_allclose(np.ravel(stats["gru"][0][0]), rows.max(), 1e-6)


def test_lists_keep_each_layers_norms_under_its_own_name(model):
    together = weights_norm(model, ["dense", 2, "bi"])
    assert list(together) == ["dense", "gru", "bi"]
    for name, stats in together.items():
        assert stats == weights_norm(model, name)[name]


def test_norms_of_other_kinds_and_axes(model):
    kernel = model.layers[-1].get_weights()[0]
    l1 = weights_norm(model, "dense/kernel", norm_fn=np.abs, stat_fns=(np.sum,))
    np.testing.assert_allclose(l1["dense"][0][0], [np.abs(kernel).sum()], 1e-6)
    rows = weights_norm(model, "dense/kernel", axis=0, stat_fns=(np.max,))
    np.testing.assert_allclose(rows["dense"][0][0], [np.linalg.norm(kernel, axis=1).max()], 1e-6)


def test_results_passed_back_grow_by_one_and_are_not_changed(model):
    first = weights_norm(model, ["dense", "gru"])
    frozen = copy.deepcopy(first)
    second = weights_norm(model, ["dense", "gru"], first)
    third = weights_norm(model, ["dense", "gru"], second)
    assert first == frozen
    assert [[len(stat) for stat in weight] for weight in third["dense"]] == [[3, 3], [3, 3]]
    assert third["gru"][0][0][:1] == first["gru"][0][0]


def test_norm_arguments_that_do_not_fit_are_refused(model):
    with pytest.raises(ArgumentError, match=r"axis 1 is not an axis of dense/bias with shape \(2,\)"):
        weights_norm(model, "dense", axis=1)
    stats = weights_norm(model, "dense")
    with pytest.raises(
        ArgumentError, match=r"_dict holds \[2, 2\] statistics per weight of 'dense', this call made"
    ):
        weights_norm(model, "dense", stats, stat_fns=(np.max,))


def test_norms_of_half_precision_weights_do_not_overflow():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, dtype="float16", name="dense")])
    model.set_weights([np.array([[300.0], [400.0]]), np.zeros(1)])
    assert weights_norm(model, "dense/kernel")["dense"][0][0][0] == 500.0


def test_verbose_prints_the_index_and_the_newest_numbers(capsys):
    model = keras.Sequential([keras.Input((2,)), layers.ReLU(), layers.Dense(1, name="dense")])
    model.set_weights([np.array([[3.0], [4.0]]), np.array([1.0])])
    stats = weights_norm(model, "dense")
    assert capsys.readouterr().out == ""
    model.set_weights([np.array([[6.0], [8.0]]), np.array([1.0])])
    weights_norm(model, "dense", stats, verbose=1)
    assert capsys.readouterr().out == "1 10.0000, 10.0000 -- 1.0000, 1.0000\n"


# -- recurrent weights --------------------------------------------------------------------------

RECURRENT = {
    "lstm": (lambda: layers.LSTM(4), 4),
    "lstm_no_bias": (lambda: layers.LSTM(4, use_bias=False), 4),
    "gru_reset_after": (lambda: layers.GRU(4, bias_initializer="uniform"), 3),
    "gru_reset_before": (lambda: layers.GRU(4, reset_after=False), 3),
    "simple_rnn": (lambda: layers.SimpleRNN(4), 1),
    "rnn_cell": (lambda: layers.RNN(layers.GRUCell(4)), 3),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(4)), 4),
}


class PeepLSTM(layers.LSTM):
    """A user's subclass, which see-rnn refused by its name."""


def built(layer, shape=(6, 3)):
    return keras.Sequential([keras.Input(shape), layer])


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_weights_are_the_cells_own_and_gates_join_to_them(kind):
    make, gates = RECURRENT[kind]
    model = built(make())
    whole = get_rnn_weights(model, 0)
    for got, own in zip(whole, model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, own)
    split = get_rnn_weights(model, 0, concat_gates=False)
    assert [len(per_gate) for per_gate in split] == [gates] * len(whole)
    for joined, per_gate in zip(whole, split, strict=True):
        np.testing.assert_array_equal(np.concatenate(per_gate, -1), joined)


def test_gates_are_the_ones_keras_computes_with():
    model = built(layers.LSTM(4, name="lstm"))
    _, _, bias = get_rnn_weights(model, "lstm", concat_gates=False)
    # unit_forget_bias: Keras starts the forget gate, second in order, at one and the others at zero.
    assert [gate.tolist() for gate in bias] == [[0.0] * 4, [1.0] * 4, [0.0] * 4, [0.0] * 4]


def test_gate_tensors_equal_gate_arrays():
    model = built(layers.GRU(4))
    tensors = get_rnn_weights(model, 0, as_tensors=True, concat_gates=False)
    arrays = get_rnn_weights(model, 0, concat_gates=False)
    for tensor_gates, array_gates in zip(tensors, arrays, strict=True):
        for tensor, array in zip(tensor_gates, array_gates, strict=True):
            np.testing.assert_array_equal(keras.ops.convert_to_numpy(tensor), array)


def test_forward_weights_come_before_backward_ones():
    bi = layers.Bidirectional(layers.LSTM(4))
    model = built(bi)
    own = [v.numpy() for rnn in (bi.forward_layer, bi.backward_layer) for v in rnn.cell.weights]
    for got, expected in zip(get_rnn_weights(model, 0), own, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_stacked_cells_come_in_turn():
    model = built(layers.RNN([layers.LSTMCell(2), layers.GRUCell(5)]))
    assert [w.shape for w in get_rnn_weights(model, 0)] == [(3, 8), (2, 8), (8,), (2, 15), (5, 15), (2, 15)]
    assert [len(w) for w in get_rnn_weights(model, 0, concat_gates=False)] == [4, 4, 4, 3, 3, 3]


@pytest.mark.parametrize(
    ("make", "shape"), [(layers.ConvLSTM1D, (3, 6, 2)), (layers.ConvLSTM2D, (3, 6, 5, 2))]
)
def test_convolutional_lstms_have_four_gates(make, shape):
    model = built(make(4, 3, name="conv"), shape)
    kernel, recurrent, bias = get_rnn_weights(model, "conv", concat_gates=False)
    assert {gate.shape[-2:] for gate in kernel} == {(2, 4)}
    assert {gate.shape[-2:] for gate in recurrent} == {(4, 4)}
    assert [gate.tolist() for gate in bias][1] == [1.0] * 4


def test_subclasses_and_wrappers_of_recurrent_layers_are_known():
    assert len(get_rnn_weights(built(PeepLSTM(4)), 0)) == 3
    model = built(layers.TimeDistributed(layers.LSTM(4)), (2, 6, 3))
    assert [w.shape for w in get_rnn_weights(model, 0)] == [(3, 16), (4, 16), (16,)]


def test_layer_argument_overrides_the_id(model):
    assert get_rnn_weights(model, "gru", layer=model.get_layer("bi"))[0].shape == (3, 16)


def test_layers_that_are_not_recurrent_are_refused_by_name(model):
    with pytest.raises(
        UnsupportedLayerError, match="'dense' is a Dense, not a recurrent layer; supported are LSTM"
    ):
        get_rnn_weights(model, "dense")
    with pytest.raises(ArgumentError, match="get_rnn_weights takes one layer; got bi, gru"):
        get_rnn_weights(model, ["bi", "gru"])
    with pytest.raises(UnsupportedLayerError, match="expected a recurrent keras layer; got 'lstm'"):
        rnn_summary("lstm")


def test_unregistered_cells_are_told_how_to_register():
    class OddCell(layers.Layer):
        state_size = 2

        def call(self, inputs, states):
            return states[0], states

    model = built(layers.RNN(OddCell()))
    with pytest.raises(UnsupportedLayerError, match=r"OddCell is not a known recurrent cell.*register_cell"):
        get_rnn_weights(model, 0)


def test_unbuilt_layers_are_told_so():
    with pytest.raises(ArgumentError, match="has no weights yet; build the model first"):
        rnn_summary(layers.LSTM(4))


def test_summary_prints_shapes_and_gate_shapes(capsys):
    model = keras.Sequential(
        [keras.Input((6, 3)), layers.Bidirectional(layers.GRU(4, name="gru"), name="bi")], name="m"
    )
    assert rnn_summary(model.layers[0]) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[:13] == [
        "// FORWARD LAYER",
        "m/bi/forward_gru/gru_cell/kernel -- shape=(3, 12)",
        "kernel_update -- shape=(3, 4)",
        "kernel_reset -- shape=(3, 4)",
        "kernel_new -- shape=(3, 4)",
        "m/bi/forward_gru/gru_cell/recurrent_kernel -- shape=(4, 12)",
        "recurrent_kernel_update -- shape=(4, 4)",
        "recurrent_kernel_reset -- shape=(4, 4)",
        "recurrent_kernel_new -- shape=(4, 4)",
        "m/bi/forward_gru/gru_cell/bias -- shape=(2, 12)",
        "bias_update -- shape=(2, 4)",
        "bias_reset -- shape=(2, 4)",
        "bias_new -- shape=(2, 4)",
    ]
    assert lines[13:15] == ["// BACKWARD LAYER", "m/bi/backward_gru/gru_cell/kernel -- shape=(3, 12)"]
    assert len(lines) == 26


# -- penalties ----------------------------------------------------------------------------------


def regularized():
    x = keras.Input((6, 3))
    l1, l2 = keras.regularizers.L1, keras.regularizers.L2
    h = layers.Bidirectional(
        layers.LSTM(
            2, kernel_regularizer=l1(0.1), bias_regularizer=l2(0.2), return_sequences=True, name="lstm"
        ),
        name="bi",
    )(x)
    h = layers.SeparableConv1D(
        4,
        3,
        depthwise_regularizer=l2(0.3),
        pointwise_regularizer=keras.regularizers.L1L2(0.4, 0.5),
        name="sep",
    )(h)
    h = layers.BatchNormalization(gamma_regularizer=l2(0.6), name="bn")(h)
    h = layers.GRU(
        3, recurrent_regularizer=keras.regularizers.L1L2(0.01, 0.01), kernel_regularizer=l2(0.0), name="gru"
    )(h)
    return keras.Model(x, layers.Dense(1, name="plain")(h))


def test_every_regularized_weight_is_listed_whatever_its_role():
    model = regularized()
    expected = {
        "bi/forward_lstm/lstm_cell/kernel": (0.1, 0.0),
        "bi/forward_lstm/lstm_cell/bias": (0.0, 0.2),
        "bi/backward_lstm/lstm_cell/kernel": (0.1, 0.0),
        "bi/backward_lstm/lstm_cell/bias": (0.0, 0.2),
        "sep/depthwise_kernel": (0.0, 0.3),
        "sep/pointwise_kernel": (0.4, 0.5),
        "bn/gamma": (0.0, 0.6),
        "gru/gru_cell/recurrent_kernel": (0.01, 0.01),
    }
    found = get_weight_penalties(model)
    assert list(found) == list(expected)
    # Keras keeps some of the factors as float32.
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-7)


def test_weight_loss_is_the_sum_of_keras_losses():
    model = regularized()
    assert weight_loss(model) == pytest.approx(float(sum(model.losses)), rel=1e-6)
    assert isinstance(weight_loss(model), float)


def test_frozen_weights_are_listed_but_cost_nothing_as_in_keras():
    model = regularized()
    before = weight_loss(model)
    model.get_layer("sep").trainable = False
    assert "sep/depthwise_kernel" in get_weight_penalties(model)
    assert weight_loss(model) < before
    assert weight_loss(model) == pytest.approx(float(sum(model.losses)), rel=1e-6)


def test_other_regularizers_are_left_out():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(3, kernel_regularizer=keras.regularizers.OrthogonalRegularizer(0.5)),
            layers.Dense(2, kernel_regularizer=lambda w: keras.ops.sum(w), activity_regularizer="l2"),
        ]
    )
    assert get_weight_penalties(model) == {}
    assert weight_loss(model) == 0.0


def test_what_is_no_keras_model_is_refused():
    for function in (get_weight_penalties, weight_loss):
        with pytest.raises(ForeignModelError, match=r"expected a keras\.Model; got"):
            function([])
    with pytest.raises(UnknownLayerError):
        get_weights(built(layers.LSTM(2)), "nothing")
