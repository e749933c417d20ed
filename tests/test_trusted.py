"""A configuration of a stranger's runs nothing: what is refused, what passes, and that nothing happened."""

from __future__ import annotations

import base64
import copy
import functools
import json
import marshal
import random
import sys

import keras
import numpy as np
import pytest
from keras import layers

from see_rnn_like.errors import StoreError, UntrustedModelError
from see_rnn_like.models.trusted import build, custom_names

#: Calls of `canary`: none may ever be seen.
CALLS = []


def canary(*args, **kwargs):
    CALLS.append((args, kwargs))


@pytest.fixture(autouse=True)
def _nothing_is_called():
    CALLS.clear()
    yield
    assert CALLS == []


@functools.cache
def simple_config():
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(2, name="lstm"), layers.Dense(1, name="head")])
    model.compile("adam", "mse")
    return config_of(model)


def simple():
    return copy.deepcopy(simple_config())


def config_of(model):
    """As it comes from a file."""
    return json.loads(json.dumps(keras.saving.serialize_keras_object(model)))


def layer_node(name, module="keras.layers", registered_name=None, **config):
    return {"module": module, "class_name": name, "config": config, "registered_name": registered_name}


def with_layer(node):
    config = simple()
    config["config"]["layers"].insert(2, node)
    return config


def function_node(module, name, registered_name="function"):
    return {"module": module, "class_name": "function", "config": name, "registered_name": registered_name}


def with_activation(node):
    config = simple()
    config["config"]["layers"][2]["config"]["activation"] = node
    return config


def machine_code(tmp_path):
    """What Keras stores of a lambda: this one would make a file."""
    code = compile(f"open({str(tmp_path / 'canary')!r}, 'w').close()", "lambda", "exec")
    return base64.b64encode(marshal.dumps(code)).decode()


# ---- what passes ---------------------------------------------------------------------------------


def functional():
    inputs = keras.Input((6, 3), batch_size=2, name="x")
    x = layers.Masking()(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, stateful=True, dropout=0.1))(x)
    x = layers.TimeDistributed(layers.Dense(4, "tanh", kernel_regularizer="l2"))(x)
    x = layers.RNN([layers.GRUCell(3, reset_after=False), layers.LSTMCell(2)], return_sequences=True)(x)
    x = layers.BatchNormalization()(x + 1)
    x = layers.MultiHeadAttention(2, 2)(x, x)
    x = keras.ops.softmax(keras.ops.mean(x, 1) * 2 - 1)
    x = keras.ops.concatenate([x, keras.ops.sqrt(keras.ops.abs(x))])
    return keras.Model(inputs, {"out": layers.Dense(1, activation=keras.ops.relu, name="out")(x)})


def recurrent_with_everything():
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Embedding(10, 4, mask_zero=True),
            layers.GRU(
                4,
                return_sequences=True,
                activation=keras.activations.relu,
                recurrent_activation="hard_sigmoid",
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.1, seed=3),
                recurrent_initializer="orthogonal",
                kernel_constraint=keras.constraints.MaxNorm(2.0),
                recurrent_regularizer=keras.regularizers.L1L2(0.1, 0.2),
                bias_regularizer=keras.regularizers.L2(0.2),
            ),
            layers.SimpleRNN(4, go_backwards=True, activation=keras.activations.softplus),
            layers.LeakyReLU(),
            layers.LayerNormalization(),
            layers.Dense(2, activation=keras.activations.sigmoid),
        ]
    )


def mixed_precision():
    return keras.Sequential(
        [keras.Input((6, 3)), layers.LSTM(4, dtype="mixed_float16"), layers.Dense(1, dtype="float32")]
    )


def nested():
    inner = keras.Sequential([keras.Input((6, 3)), layers.LSTM(4, return_sequences=True)], name="inner")
    inputs = keras.Input((6, 3))
    return keras.Model(inputs, layers.Dense(1)(layers.Conv1D(2, 3, padding="causal")(inner(inputs))))


def schedule():
    return keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)


ORDINARY = {
    "functional": (functional, {"loss": {"out": keras.losses.Huber(0.5)}, "optimizer": "rmsprop"}),
    "recurrent": (
        recurrent_with_everything,
        {
            "loss": keras.losses.categorical_crossentropy,
            "metrics": ["accuracy", keras.metrics.AUC(), keras.metrics.categorical_accuracy],
            "optimizer": lambda: keras.optimizers.Adam(schedule(), clipnorm=1.0),
        },
    ),
    "mixed precision": (
        mixed_precision,
        {"loss": "mse", "optimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))},
    ),
    "nested": (
        nested,
        {"loss": keras.losses.MeanSquaredError(), "optimizer": "sgd", "weighted_metrics": ["mae"]},
    ),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_model_is_built_again_and_computes_the_same(name):
    make, compiling = ORDINARY[name]
    model = make()
    optimizer = compiling["optimizer"]
    model.compile(**compiling | {"optimizer": optimizer() if callable(optimizer) else optimizer})
    config = config_of(model)
    before = copy.deepcopy(config)
    again = build(config)
    assert config == before
    assert custom_names(config) == []
    again.set_weights(model.get_weights())
    rng = np.random.default_rng(0)
    x = rng.integers(0, 10, (2, 6)) if name == "recurrent" else rng.normal(size=(2, 6, 3)).astype("float32")
    expected, found = model(x), again(x)
    for key in ["out"] if isinstance(expected, dict) else [...]:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(expected[key]), found[key])
    assert type(again.optimizer) is type(model.optimizer)


@pytest.mark.skipif(keras.__version__ < "3.1", reason="Keras 3.0 cannot load sliced tensors itself")
def test_a_functional_model_that_slices_is_built_again():
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.LSTM(2)(inputs[:, 1:-1, ...]))
    x = np.ones((2, 6, 3), "float32")
    again = build(config_of(model))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(x), model(x))


def test_every_layer_keras_exports_passes_or_is_one_that_runs_code_or_is_no_layer_to_use():
    refused = set()
    for name, found in vars(layers).items():
        if isinstance(found, type) and issubclass(found, layers.Layer):
            try:
                custom_names(layer_node(name))
            except UntrustedModelError:
                refused.add(name)
    run_code = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
    # A layer that is new in Keras shows up here: look whether it computes only, then add its module.
    assert refused == (run_code | {"Layer"}) & set(vars(layers))


def test_every_class_of_the_other_kinds_passes():
    kinds = {
        "initializers": keras.Initializer,
        "regularizers": keras.Regularizer,
        "constraints": keras.constraints.Constraint,
        "losses": keras.Loss,
        "metrics": keras.Metric,
        "optimizers": keras.Optimizer,
    }
    for space, kind in kinds.items():
        exported = vars(getattr(keras, space)).items()
        names = [name for name, found in exported if isinstance(found, type) and issubclass(found, kind)]
        assert len(names) > 3
        for name in names:
            assert custom_names(layer_node(name, f"keras.{space}")) == []


def test_the_random_state_of_python_is_not_touched():
    config = config_of(recurrent_with_everything())
    state = random.getstate()
    build(config)
    assert random.getstate() == state


# ---- what is refused -----------------------------------------------------------------------------


def attacks(tmp_path):
    """Name → configuration; every one of them would call `canary`, make a file or read one."""
    marker = str(tmp_path / "canary")
    secret = tmp_path / "secret.txt"
    secret.write_text("password\n")
    lambda_node = {"class_name": "__lambda__", "config": {"value": machine_code(tmp_path)}}
    raw = [machine_code(tmp_path), None, None]
    compiled = simple()
    compiled["compile_config"]["loss"] = lambda_node
    metric = simple()
    metric["compile_config"]["metrics"] = [layer_node("MeanMetricWrapper", "keras.metrics", fn=lambda_node)]
    built = simple()
    built["config"]["layers"][1]["build_config"] = {"input_shape": layer_node("canary", __name__)}
    legacy = with_layer(layer_node("Lambda", function=raw, function_type="lambda"))
    legacy["config"]["layers"][2].pop("module")
    return {
        # CVE-2025-1550: any module, any function
        "function of os": with_activation(function_node("os", "system")),
        "class of this module": with_layer(layer_node("canary", __name__)),
        "registered name of this module": with_layer(layer_node("Dense", __name__, "canary")),
        "function of this module as a layer": with_layer(function_node(__name__, "canary")),
        "builtins": with_activation(function_node("builtins", "exec")),
        "builtins as a class": with_layer(layer_node("eval", "builtins")),
        "module within keras": with_layer(layer_node("canary", "keras.src.utils.io_utils")),
        # CVE-2025-8747: Keras's own functions
        "get_file": with_layer(
            function_node("keras.utils", "get_file") | {"config": "get_file", "registered_name": "get_file"}
        ),
        "get_file as a class": with_layer(
            layer_node("get_file", "keras.utils", fname=marker, origin=f"file://{secret}")
        ),
        "get_file as an activation": with_activation(function_node("keras.utils", "get_file")),
        "load_model": with_activation(function_node("keras.models", "load_model")),
        "unsafe deserialization": with_activation(
            function_node("keras.config", "enable_unsafe_deserialization")
        ),
        "deserialize": with_activation(function_node("keras.activations", "deserialize")),
        "deserialize of builtins": with_activation(function_node("builtins", "deserialize")),
        # CVE-2025-9905, 9906: machine code, safe mode off
        "lambda layer": with_layer(layer_node("Lambda", function=lambda_node)),
        "lambda layer, raw": with_layer(layer_node("Lambda", function=raw, function_type="lambda")),
        "lambda layer, legacy": legacy,
        "lambda as an activation": with_activation(lambda_node),
        "lambda as a loss": compiled,
        "lambda in a metric": metric,
        "lambda in a value": with_layer(layer_node("Rescaling", scale=lambda_node)),
        "lambda in a build": built,
        "lambda by its inner module": with_layer(
            layer_node("Lambda", "keras.src.layers.core.lambda_layer", function=raw, function_type="lambda")
        ),
        # files, other frameworks' code
        "vocabulary": with_layer(layer_node("StringLookup", vocabulary=str(secret))),
        "vocabulary of numbers": with_layer(layer_node("IntegerLookup", vocabulary=str(secret))),
        "vocabulary of texts": with_layer(layer_node("TextVectorization", vocabulary=str(secret))),
        "vocabulary as bytes": with_layer(
            layer_node(
                "StringLookup", vocabulary={"class_name": "__bytes__", "config": {"value": str(secret)}}
            )
        ),
        "torch": with_layer(layer_node("TorchModuleWrapper", module="gASVAAAA")),
        "saved model": with_layer(layer_node("TFSMLayer", filepath=str(tmp_path))),
        "jax": with_layer(layer_node("JaxLayer", call_fn=function_node(__name__, "canary"))),
        "type spec": with_layer(
            {
                "class_name": "__typespec__",
                "spec_name": "canary",
                "module": __name__,
                "config": [],
                "registered_name": None,
            }
        ),
        # oddities
        "no module": with_layer({"class_name": "Dense", "config": {"units": 1}}),
        "null module": with_layer(layer_node("Dense", None, units=1)),
        "a name that is no text": with_layer(layer_node(["Dense"], units=1)),
        "a module that is no text": with_layer(layer_node("Dense", ["keras.layers"], units=1)),
        "a function without a name": with_activation(function_node("keras.activations", {"a": 1})),
        "another registered name": with_layer(layer_node("Dense", registered_name="canary", units=1)),
        "a module with a dot too many": with_layer(layer_node("layers.Dense", "keras", units=1)),
        "an optimizer as a layer": with_layer(layer_node("Adam")),
        "a model of the zoo": with_layer(function_node("keras.applications", "VGG16")),
        "nothing but a class": {"class_name": "canary", "module": __name__, "config": {}},
    }


def test_no_attack_runs_anything(tmp_path):
    for name, config in attacks(tmp_path).items():
        loaded = set(sys.modules)
        with pytest.raises(UntrustedModelError) as caught:
            build(config)
        message = str(caught.value)
        assert "replay(directory" in message, name
        assert len(message) < 700, name
        assert not (tmp_path / "canary").exists(), name
        assert set(sys.modules) == loaded, name


def test_the_error_names_what_is_refused_and_where_and_the_way_out(tmp_path):
    found = attacks(tmp_path)
    with pytest.raises(UntrustedModelError) as caught:
        build(found["lambda layer, raw"])
    assert str(caught.value) == (
        "the model of the bundle asks for 'keras.layers.Lambda' (at model.config.layers[2]), which is not "
        "built from a file: it can run code or read files. If you know and trust the model, build it with "
        "its own code and hand it in: replay(directory, model=model)"
    )
    with pytest.raises(
        UntrustedModelError, match=r"'keras.utils.get_file' \(at model.config.layers\[2\].config.a"
    ):
        build(found["get_file as an activation"])
    with pytest.raises(UntrustedModelError, match="its vocabulary is the name of a file"):
        build(found["vocabulary"])


def test_the_same_attacks_do_run_something_where_keras_is_asked_directly(tmp_path):
    # Else the test above would prove nothing: this is what a bundle would do to its reader.
    node = attacks(tmp_path)["lambda layer, raw"]["config"]["layers"][2]["config"]["function"][0]
    exec(marshal.loads(base64.b64decode(node)))
    assert (tmp_path / "canary").exists()


def test_a_configuration_nested_without_end_is_refused():
    config = node = layer_node("Dense")
    for _ in range(5000):
        node["config"] = {"inner": {}}
        node = node["config"]["inner"]
        node["config"] = {}
    with pytest.raises(UntrustedModelError, match="nested too deeply"):
        build(config)


def test_a_configuration_that_is_none_of_a_model_is_an_error():
    with pytest.raises(StoreError, match="makes a Dense, not a model"):
        build(layer_node("Dense", units=1))
    with pytest.raises(StoreError, match="cannot build the model"):
        build(with_layer(layer_node("Dense", units=-1)))
    with pytest.raises(StoreError, match="makes a list, not a model"):
        build([1, 2])


# ---- the user's own code -------------------------------------------------------------------------


class OwnLayer(layers.Layer):
    def call(self, x):
        return x * 2


@keras.saving.register_keras_serializable("ours")
class Registered(layers.Dense):
    pass


def own_activation(x):
    return x * 3


def own_loss(y, y_pred):
    return keras.ops.mean((y - y_pred) ** 4, -1)


class OwnModel(keras.Model):
    pass


def with_own_code():
    inputs = keras.Input((4, 3))
    x = Registered(2, activation=own_activation, name="registered")(OwnLayer(name="own")(inputs))
    model = OwnModel(inputs, layers.LSTM(1)(x))
    model.compile("sgd", own_loss)
    return model


OWN = [OwnModel, OwnLayer, Registered, own_activation, own_loss]


def test_own_code_is_named_and_not_run_until_it_is_handed_in():
    config = config_of(with_own_code())
    assert custom_names(config) == ["OwnModel", "OwnLayer", "Registered", "own_activation", "own_loss"]
    with pytest.raises(UntrustedModelError) as caught:
        build(config)
    message = str(caught.value)
    for one in OWN:
        assert f"{one.__name__!r}: {one.__name__}" in message
    assert "custom_objects={" in message
    assert "model=model" in message
    assert "--code FILE.py" in message


def test_own_code_handed_in_is_used():
    config = config_of(with_own_code())
    model = build(config, {one.__name__: one for one in OWN})
    assert type(model) is OwnModel
    assert type(model.get_layer("own")) is OwnLayer
    assert type(model.get_layer("registered")) is Registered
    assert model.get_layer("registered").activation is own_activation
    assert model.loss is own_loss


def test_one_that_was_not_handed_in_is_missed_also_if_it_is_registered():
    config = config_of(with_own_code())
    for left_out in OWN:
        with pytest.raises(UntrustedModelError, match=left_out.__name__):
            build(config, {one.__name__: one for one in OWN if one is not left_out})


def test_a_registered_name_is_not_reached_by_a_text():
    keras.saving.get_custom_objects()["sneaky"] = canary
    try:
        with pytest.raises(UntrustedModelError, match=r"'sneaky' .*registered with Keras in this process"):
            build(with_activation("sneaky"))
        with pytest.raises(UntrustedModelError, match="sneaky"):
            build(with_layer(layer_node("Dense", registered_name="sneaky", units=1)))
    finally:
        del keras.saving.get_custom_objects()["sneaky"]


def test_keras_own_lambda_cannot_be_handed_in_as_if_it_were_ones_own(tmp_path):
    config = attacks(tmp_path)["lambda layer, raw"]
    with pytest.raises(UntrustedModelError, match="Lambda"):
        build(config, {"Lambda": layers.Lambda})
    assert not (tmp_path / "canary").exists()


def test_an_error_in_code_that_was_handed_in_says_what_it_was():
    class OwnLayer(layers.Layer):
        def __init__(self, **kwargs):
            raise ZeroDivisionError("in my own code")

    config = with_layer(layer_node("OwnLayer", __name__, "OwnLayer"))
    with pytest.raises(StoreError, match="ZeroDivisionError: in my own code"):
        build(config, {"OwnLayer": OwnLayer})
