"""The see-rnn `_id` rules for layers and weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from see_rnn_like.errors import ArgumentError, ArgumentTypeError, ForeignModelError, UnknownLayerError
from see_rnn_like.models import ids

NAMES = ["tokens", "embedding", "lstm", "lstm_1", "dense"]


@pytest.fixture(scope="module")
def model():
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    h = layers.Embedding(11, 3, name="embedding")(tokens)
    h = layers.LSTM(4, return_sequences=True, name="lstm")(h)
    h = layers.LSTM(5, name="lstm_1")(h)
    return keras.Model(tokens, layers.Dense(2, name="dense")(h), name="reader")


@pytest.fixture(scope="module")
def nested():
    inner = keras.Sequential(
        [
            keras.Input((6, 3)),
            layers.GRU(4, return_sequences=True, name="gru"),
            layers.LSTM(2, name="lstm_1"),
        ],
        name="encoder",
    )
    outer_in = keras.Input((6, 3), name="series")
    h = layers.Dense(3, name="lstm_like")(outer_in)
    return keras.Model(outer_in, layers.Dense(1, name="head")(inner(h)))


def names(model, _id, layer=None):
    return [found.name for found in ids.find_layers(model, _id, layer)]


def weight_names(model, _id):
    return [found.name for found in ids.find_weights(model, _id)]


@pytest.mark.parametrize(
    ("_id", "expected"),
    [
        ("emb", ["embedding"]),
        ("lst", ["lstm"]),  # the earliest of two
        ("lstm_1", ["lstm_1"]),  # exact, although "lstm_1" is part of nothing earlier
        ("stm_", ["lstm_1"]),
        (2, ["lstm"]),
        (-1, ["dense"]),
        (np.int64(3), ["lstm_1"]),
        (np.uint8(1), ["embedding"]),
        (0, ["tokens"]),
        (["dense", 1, "lstm"], ["dense", "embedding", "lstm"]),  # requested order, ints not first
        ([3, "emb"], ["lstm_1", "embedding"]),
        (["lstm", "lstm"], ["lstm", "lstm"]),
        ("*", ["embedding", "lstm", "lstm_1", "dense"]),
    ],
)
def test_layer_ids(model, _id, expected):
    assert names(model, _id) == expected


def test_exact_name_beats_an_earlier_substring():
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(1, name="my_dense"), layers.Dense(1, name="dense")]
    )
    assert names(model, "dense") == ["dense"]
    assert names(model, "dens") == ["my_dense"]


def test_unknown_name_lists_the_layers_and_suggests_near_misses(model):
    with pytest.raises(UnknownLayerError) as error:
        ids.find_layers(model, "lsmt")
    assert str(error.value) == (
        "no layer matches 'lsmt'; layers are: tokens, embedding, lstm, lstm_1, dense; "
        "did you mean lstm or lstm_1?"
    )


def test_missing_name_in_a_list_raises_and_is_not_dropped(model):
    with pytest.raises(
        UnknownLayerError, match="no layer matches 'attention'; layers are: tokens, embedding, lstm"
    ):
        ids.find_layers(model, ["lstm", "attention"])


def test_index_out_of_range_says_how_many_there_are(model):
    with pytest.raises(
        UnknownLayerError, match="no layer has index 5; the model has 5 layers: tokens, embedding"
    ):
        ids.find_layers(model, 5)
    with pytest.raises(UnknownLayerError, match="no layer has index -6"):
        ids.find_layers(model, -6)


@pytest.mark.parametrize("_id", [1.0, None, True, (1, 2), {"lstm": 1}])
def test_ids_of_another_type_are_refused(model, _id):
    with pytest.raises(
        ArgumentTypeError, match="_id must be a name or part of one, an index, a list of these"
    ):
        ids.find_layers(model, _id)


def test_empty_text_names_no_layer(model):
    with pytest.raises(UnknownLayerError, match="no layer matches ''"):
        ids.find_layers(model, "")


def test_layer_overrides_the_id(model):
    last, first = model.layers[-1], model.layers[1]
    assert names(model, "lstm", last) == ["dense"]
    assert names(model, None, [last, first]) == ["dense", "embedding"]


def test_layer_of_another_model_is_refused(model):
    with pytest.raises(
        UnknownLayerError, match="layer 'stranger' is not part of this model; layers are: tokens"
    ):
        ids.find_layers(model, None, layers.Dense(1, name="stranger"))
    with pytest.raises(
        ArgumentTypeError, match="layer must be a layer of the model or a list of them; got 'lstm'"
    ):
        ids.find_layers(model, None, "lstm")


def test_layers_in_nested_models_come_after_model_layers(nested):
    assert names(nested, "*") == ["lstm_like", "encoder", "head"]
    assert names(nested, "lstm") == ["lstm_like"]  # as in see-rnn
    assert names(nested, "lstm_1") == ["encoder/lstm_1"]
    assert names(nested, "encoder/lstm_1") == ["encoder/lstm_1"]
    assert names(nested, "gru") == ["encoder/gru"]
    assert names(nested, "encoder/g") == ["encoder/gru"]
    assert names(nested, "encoder") == ["encoder"]
    assert ids.find_layers(nested, "gru")[0].layer is nested.get_layer("encoder").layers[0]


def test_two_layers_of_one_name_get_two_names():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = layers.Dense(2, name="twin")
            self.second = layers.Dense(2, name="twin")

        def call(self, x):
            return self.second(self.first(x))

    model = Twins()
    model(np.zeros((1, 2), "float32"))
    assert names(model, "*") == ["twin", "twin#2"]
    assert [found.layer for found in ids.find_layers(model, ["twin#2", "twin"])] == [
        model.second,
        model.first,
    ]
    assert len(set(weight_names(model, "*"))) == 4


def test_inside_of_a_wrapper_is_reached_by_object():
    bi = layers.Bidirectional(layers.LSTM(2, name="inner"), name="bi")
    model = keras.Sequential([keras.Input((4, 3)), bi])
    assert names(model, None, bi.backward_layer) == ["sequential/bi/backward_inner"] or names(
        model, None, bi.backward_layer
    )[0].endswith("bi/backward_inner")


# -- weights ------------------------------------------------------------------------------------


def test_weights_of_a_layer_by_name_index_and_wildcard(model):
    lstm = ["lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel", "lstm/lstm_cell/bias"]
    assert weight_names(model, "lstm") == lstm
    assert weight_names(model, 2) == lstm
    assert weight_names(model, np.int32(-3)) == lstm
    assert weight_names(model, "*") == [v.path for v in model.weights]


def test_exact_weight_name_beats_substring(model):
    assert weight_names(model, "lstm/kernel") == ["lstm/lstm_cell/kernel"]
    assert weight_names(model, "lstm/rec") == ["lstm/lstm_cell/recurrent_kernel"]
    assert weight_names(model, "lstm/kern") == ["lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel"]
    assert weight_names(model, "emb/embeddings") == ["embedding/embeddings"]


def test_full_weight_name_is_that_weight_alone(model):
    assert weight_names(model, "lstm/lstm_cell/kernel") == ["lstm/lstm_cell/kernel"]
    for variable in model.weights:
        assert [found.variable for found in ids.find_weights(model, variable.path)] == [variable]


@pytest.mark.parametrize(
    "_id", [(2, 0, 2), (2, (0, 2)), (2, [0, -1]), ("lstm", 0, 2), (np.int64(2), np.int64(0), -1)]
)
def test_tuples_of_layer_and_weight_indices(model, _id):
    assert weight_names(model, _id) == ["lstm/lstm_cell/kernel", "lstm/lstm_cell/bias"]


def test_weight_index_order_is_kept_and_lists_mix_forms(model):
    assert weight_names(model, (4, (1, 0))) == ["dense/bias", "dense/kernel"]
    assert weight_names(model, ["dense/bias", (1, 0), "dense"]) == [
        "dense/bias",
        "embedding/embeddings",
        "dense/kernel",
    ]


def test_weights_in_nested_models(nested):
    assert weight_names(nested, "encoder/gru/bias") == ["encoder/gru/gru_cell/bias"]
    assert weight_names(nested, "gru/kernel") == ["encoder/gru/gru_cell/kernel"]
    assert weight_names(nested, "encoder") == [v.path for v in nested.get_layer("encoder").weights]
    # A layer's own name is not a match for what is below it: "lstm_1" holds no weight called "lstm_1".
    assert weight_names(nested, "encoder/lstm_1/bias") == ["encoder/lstm_1/lstm_cell/bias"]


def test_weights_of_one_direction():
    bi = layers.Bidirectional(layers.LSTM(2, name="inner"), name="bi")
    model = keras.Sequential([keras.Input((4, 3)), bi], name="m")
    both = ["m/bi/forward_inner/lstm_cell/kernel", "m/bi/backward_inner/lstm_cell/kernel"]
    assert weight_names(model, "bi/kernel") == both
    assert weight_names(model, "bi/backward_inner/kernel") == both[1:]
    assert weight_names(model, "bi/backward/kernel") == both[1:]
    assert len(weight_names(model, "bi/forward")) == 3


def test_weights_that_share_a_path_get_the_path_of_their_layer():
    models = []
    for name in ("left", "right"):
        x = keras.Input((3,))
        models.append(keras.Model(x, layers.Dense(3, name="dense")(x), name=name))
    x = keras.Input((3,))
    model = keras.Model(x, models[1](models[0](x)))
    assert len({v.path for v in model.weights}) == 2  # the reason for this test
    assert weight_names(model, "*") == [
        "left/dense/kernel",
        "left/dense/bias",
        "right/dense/kernel",
        "right/dense/bias",
    ]
    assert ids.find_weights(model, "right/dense/kernel")[0].variable is models[1].weights[0]
    assert ids.find_weights(model, "right/dense/bias")[0].variable is models[1].weights[1]


def test_unknown_weights_list_what_the_layer_has(model):
    listed = "its weights are: dense/kernel, dense/bias"
    with pytest.raises(UnknownLayerError, match=f"no weight of layer 'dense' matches 'gamma'; {listed}"):
        ids.find_weights(model, "dense/gamma")
    with pytest.raises(
        UnknownLayerError, match="layer 'dense' has no weight with index 2; it has 2: dense/kernel"
    ):
        ids.find_weights(model, (4, 2))
    with pytest.raises(UnknownLayerError, match="layer 'tokens' has no weights"):
        ids.find_weights(model, 0)
    with pytest.raises(UnknownLayerError, match=r"no layer matches 'dence'.*did you mean dense"):
        ids.find_weights(model, "dence/kernel")
    with pytest.raises(ArgumentError, match=r"a tuple id is \(layer, weight index, ...\); got \(1,\)"):
        ids.find_weights(model, (1,))
    with pytest.raises(ArgumentTypeError, match="_id must be a layer's name or index, 'layer/weight'"):
        ids.find_weights(model, 1.5)


def test_models_without_weights_are_told_so():
    model = keras.Sequential([keras.Input((2,)), layers.ReLU()], name="plain")
    with pytest.raises(UnknownLayerError, match="no layer of 'plain' has weights"):
        ids.find_weights(model, "*")


def test_what_is_no_keras_model_is_refused():
    with pytest.raises(ForeignModelError, match=r"expected a keras.Model; got builtins.dict"):
        ids.find_layers({}, "lstm")
    with pytest.raises(ForeignModelError):
        ids.find_weights(layers.Dense(1), "*")


@settings(max_examples=60)
@given(text=st.text("lstm_1 embding0", min_size=1, max_size=6))
def test_a_text_finds_the_first_exact_else_the_first_containing_layer(model, text):
    exact = [name for name in NAMES if name == text]
    containing = [name for name in NAMES if text in name]
    if exact or containing:
        assert names(model, text) == (exact or containing)[:1]
    else:
        with pytest.raises(UnknownLayerError):
            names(model, text)


@settings(max_examples=40)
@given(picks=st.lists(st.integers(-5, 4) | st.sampled_from(NAMES), min_size=1, max_size=6))
def test_lists_keep_their_order(model, picks):
    expected = [pick if isinstance(pick, str) else NAMES[pick] for pick in picks]
    assert names(model, picks) == expected
