"""A replay bundle gives back exactly what was written, shows damage, and replays to the same place."""

from __future__ import annotations

import json
import os
import sys

import keras
import numpy as np
import pytest
import xarray as xr
from keras import layers
from made_up_bundles import assert_same_arrays, assert_same_autopsy, bad_step, made_up_autopsy, sign
from networks import data, network

from see_rnn_like import bundle
from see_rnn_like.bundle.arrays import flattened, packed, shapes, unflattened, unpacked
from see_rnn_like.bundle.contents import FILES
from see_rnn_like.bundle.settings import current_settings
from see_rnn_like.bundle.state import put_in, state_of
from see_rnn_like.errors import (
    ArgumentTypeError,
    ForeignModelError,
    StoreError,
    UntrustedModelError,
)
from see_rnn_like.extract.nonfinite import autopsy_of
from see_rnn_like.findings import Where


def test_tensors_of_every_type_and_texts_survive():
    batch = (
        {"a": keras.ops.cast([1.5, float("nan"), -3e38], "bfloat16"), "b": (None, [keras.ops.arange(3)])},
        np.array([[b"one", b"\xff\x00"]], object),
        keras.ops.convert_to_tensor(["täxt"]),
        np.float32(2.5),
        True,
    )
    structure, arrays = flattened(batch)
    labels = [str(number) for number in range(len(arrays))]
    index, pieces = packed(arrays, labels)
    found = unflattened(structure, unpacked(index, labels, b"".join(bytes(piece) for piece in pieces)))
    assert found[0]["a"].dtype.name == "bfloat16"
    # Against the upper halves of the same numbers as float32, worked out without the type.
    upper = np.float32([1.5, np.nan, -3e38]).view("uint32") + 0x7FFF
    assert found[0]["a"].view("uint16").tolist()[0] == upper[0] >> 16
    assert np.isnan(found[0]["a"][1])
    assert found[0]["a"].view("uint16").tolist()[2] == (upper[2] + (upper[2] >> 16 & 1)) >> 16
    assert found[0]["b"][0] is None
    assert found[0]["b"][1][0].tolist() == [0, 1, 2]
    assert found[1].tolist() == [[b"one", b"\xff\x00"]]
    assert found[2].tolist() == ["täxt".encode()]
    assert (found[3].shape, found[3].dtype, found[4]) == ((), "float32", True)
    assert list(shapes(found)) == [
        ("[0]['a']", (3,), "bfloat16"),
        ("[0]['b'][1][0]", (3,), "int32"),
        ("[1]", (1, 2), "string"),
        ("[2]", (1,), "string"),
        ("[3]", (), "float32"),
    ]


def test_a_batch_that_cannot_be_kept_exactly_is_refused(tmp_path):
    import tensorflow as tf

    ragged, sparse = tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.sparse.from_dense([[0.0, 1.0]])
    for leaf, name in ((ragged, "RaggedTensor"), (sparse, "SparseTensor"), (object(), "object")):
        with pytest.raises(ArgumentTypeError, match=f"dense tensors .* got a {name}"):
            bundle.write(tmp_path / "a", network(), (leaf, None), made_up_autopsy())
    assert list(tmp_path.iterdir()) == []


# ---- all state -----------------------------------------------------------------------------------


def stateful():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((6, 3), batch_size=4),
            layers.LSTM(4, stateful=True, dropout=0.3, recurrent_dropout=0.2, return_sequences=True),
            layers.GRU(2, stateful=True),
            layers.BatchNormalization(),
            layers.GaussianNoise(0.1),
            layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def half_precision():
    keras.utils.set_random_seed(4)
    parts = [keras.Input((6, 3)), layers.LSTM(4, dropout=0.1), layers.Dense(1, dtype="float32")]
    model = keras.Sequential(parts)
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9), initial_scale=8.0
    )
    model.compile(optimizer, "mse")
    return model


def brain_float():
    keras.utils.set_random_seed(5)
    parts = [
        keras.Input((6, 3)),
        layers.GRU(4, recurrent_initializer="glorot_uniform", dtype="bfloat16"),
        layers.Dense(1, dtype="float32"),
    ]
    model = keras.Sequential(parts)
    model.compile("rmsprop", "mse")
    return model


@pytest.mark.parametrize("make", [stateful, half_precision, brain_float])
def test_every_variable_comes_back_bit_for_bit_and_training_goes_on_the_same(make, tmp_path):
    model = make()
    x, y = data(n=12)
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    stored = bundle.read(bundle.write(tmp_path / "a", model, (x[:4], y[:4]), made_up_autopsy()))
    before = state_of(model)
    keras.utils.set_random_seed(99)
    again = bundle.rebuilt(stored)
    put_in(again, stored.state)
    found = state_of(again)
    assert [one.value.dtype for one in found] == [one.value.dtype for one in before]
    for one, other in zip(found, before, strict=True):
        assert one.value.tobytes() == other.value.tobytes(), one.path
    # An independent judge: the next steps of both come out the same, dropout masks and all.
    batch = tuple(map(keras.ops.convert_to_tensor, stored.batch))
    for _ in range(2):
        model.reset_metrics()
        again.reset_metrics()
        losses = [float(one.train_on_batch(*batch, return_dict=True)["loss"]) for one in (model, again)]
        assert losses[0] == losses[1] > 0
    for one, other in zip(state_of(model), state_of(again), strict=True):
        assert one.value.tobytes() == other.value.tobytes(), one.path


def test_what_the_state_holds_is_named():
    model = stateful()
    model.train_on_batch(*(one[:4] for one in data()))
    paths = [(one.group, one.path) for one in state_of(model)]
    text = " ".join(path for _, path in paths)
    for part in ("kernel", "recurrent_kernel", "gamma", "moving_variance", "seed_generator"):
        assert part in text, part
    assert sum(one.value.shape == (4, 4) for one in state_of(model)) >= 2  # h and c of the stateful LSTM
    assert {"adam/iteration", "adam/learning_rate"} <= {path for group, path in paths if group == "optimizer"}
    assert not any("mean_absolute_error" in path or path.startswith("loss") for _, path in paths)
    half = half_precision()
    half.train_on_batch(*data(n=4))
    scales = [float(one.value) for one in state_of(half) if "dynamic_scale" in one.path]
    assert scales == [8.0]


class TwoOptimizers(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.LSTM(3), layers.Dense(1)
        self.other = keras.optimizers.Adam(0.01)

    def call(self, x):
        return self.second(self.first(x))

    def train_step(self, batch):
        import tensorflow as tf

        x, y = batch
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients[:3], self.first.trainable_variables)
        self.other.apply(gradients[3:], self.second.trainable_variables)
        return {"loss": loss}


def two_optimizers():
    keras.utils.set_random_seed(6)
    model = TwoOptimizers()
    model.compile("sgd", "mse")
    return model


def test_a_subclassed_model_with_two_optimizers_is_replayed_on_the_model_itself(tmp_path):
    model = two_optimizers()
    x, y = data(n=4)
    model.fit(x, y, verbose=0)
    x[2, 5, 0] = np.inf
    x, y = map(keras.ops.convert_to_tensor, (x, y))
    autopsy = autopsy_of(model, (x, y), step=1)
    place = bundle.write(tmp_path / "nan-step-1", model, (x, y), autopsy)
    stored = bundle.read(place)
    assert {one.group for one in stored.state} == {"model", "optimizer", "optimizer_1"}
    fresh = two_optimizers()
    fresh(x)
    found = bundle.replay(place, model=fresh)
    assert found.where == autopsy.where
    assert not fresh.other.built


# ---- reading what was written --------------------------------------------------------------------


def test_everything_is_there_again(tmp_path):
    model, batch, autopsy = bad_step(dropout=0.2, batchnorm=True)
    place = bundle.write(tmp_path / "runs" / "a" / "nan-step-3", model, batch, autopsy)
    assert place == tmp_path / "runs" / "a" / "nan-step-3"
    assert sorted(os.listdir(place.parent)) == ["nan-step-3"]
    assert sorted(os.listdir(place)) == sorted([*FILES, "SHA256SUMS"])
    stored = bundle.read(place)
    assert_same_autopsy(stored.autopsy, autopsy)
    assert stored.autopsy.bundle == str(place)
    assert_same_arrays(stored.batch, tuple(tensor.numpy() for tensor in batch))
    assert stored.config == json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    assert (stored.obstacle, stored.custom_objects) == (None, [])
    assert stored.versions["keras_version"] == keras.__version__
    assert stored.versions["python_version"] == sys.version.split()[0]
    assert stored.settings == current_settings()
    assert stored.model["parameters"] == model.count_params()


# ---- replay --------------------------------------------------------------------------------------


def test_a_replay_finds_the_same_place(tmp_path):
    model, batch, autopsy = bad_step(kind="gru", bidirectional=True, dropout=0.2, batchnorm=True)
    place = bundle.write(tmp_path / "nan-step-3", model, batch, autopsy)
    del model
    keras.backend.clear_session()
    keras.utils.set_random_seed(1234)
    found = bundle.replay(place)
    assert found.where == autopsy.where == Where(3, "data", None, None, "x", None, 3, (1,), (5,))
    assert found.message == autopsy.message


def exploding(**compiling):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((40, 3)),
            layers.SimpleRNN(4, "relu", recurrent_initializer=keras.initializers.Constant(9.0), name="rnn"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(1, name="head"),
        ]
    )
    model.compile(**{"optimizer": "sgd", "loss": "mse"} | compiling)
    return model


def exploding_step(tmp_path, **compiling):
    model = exploding(**compiling)
    x = keras.ops.convert_to_tensor(np.abs(data(n=4, timesteps=40)[0]))
    y = keras.ops.zeros((4, 1))
    model.optimizer.build(model.trainable_variables)
    autopsy = autopsy_of(model, (x, y), step=0)
    return bundle.write(tmp_path / "nan-step-0", model, (x, y), autopsy), autopsy


def test_a_replay_finds_the_gate_timestep_and_growth_again(tmp_path):
    place, autopsy = exploding_step(tmp_path)
    assert autopsy.where.layer == "rnn"
    assert autopsy.where.timestep > 10
    found = bundle.replay(place)
    assert found.where == autopsy.where
    assert repr(found.evidence) == repr(autopsy.evidence)
    xr.testing.assert_identical(found.growth, bundle.read(place).autopsy.growth)


def test_a_model_handed_in_is_left_as_it_was(tmp_path):
    place, autopsy = exploding_step(tmp_path)
    model = exploding()
    model.set_weights([weight + 1 for weight in model.get_weights()])
    model.optimizer.build(model.trainable_variables)
    before = state_of(model)
    assert bundle.replay(place, model=model).where == autopsy.where
    for one, other in zip(state_of(model), before, strict=True):
        assert one.value.tobytes() == other.value.tobytes()


def test_another_model_is_refused_and_left_as_it_was(tmp_path):
    place, _ = exploding_step(tmp_path)
    with pytest.raises(
        StoreError, match=r"variables are stored for its model, it has \d+ \(the first without a p"
    ):
        bundle.replay(place, model=network("gru", dropout=0.1))
    wider = keras.Sequential(
        [keras.Input((40, 3)), layers.SimpleRNN(5), layers.Dropout(0.5), layers.Dense(1)]
    )
    wider.compile("sgd", "mse")
    before = state_of(wider)
    with pytest.raises(
        StoreError, match=r"kernel' of its model has shape \(3, 5\) .* the stored '.*' has \(3, 4\)"
    ):
        bundle.replay(place, model=wider)
    for one, other in zip(state_of(wider), before, strict=False):
        assert one.value.tobytes() == other.value.tobytes()
    with pytest.raises(StoreError, match="stored for its optimizer"):
        bundle.replay(place, model=exploding(optimizer="adam"))
    with pytest.raises(ForeignModelError):
        bundle.replay(place, model="model.keras")


def test_keras_settings_are_those_of_the_bundle_and_put_back(tmp_path):
    before = current_settings()
    keras.config.set_epsilon(1e-3)
    try:
        place, autopsy = exploding_step(tmp_path)
    finally:
        keras.config.set_epsilon(before["epsilon"])
    assert bundle.read(place).settings["epsilon"] == 1e-3
    seen = []
    original = bundle.again.put_in
    bundle.again.put_in = lambda *args: (seen.append(keras.config.epsilon()), original(*args))
    try:
        assert bundle.replay(place).where == autopsy.where
    finally:
        bundle.again.put_in = original
    assert seen == [1e-3]
    assert current_settings() == before


def test_settings_keras_does_not_have_are_an_error_and_change_nothing(copied):
    before = current_settings()
    content = json.loads((copied / "bundle.json").read_text())
    content["settings"] |= {"epsilon": 1e-2, "floatx": "float8"}
    (copied / "bundle.json").write_text(json.dumps(content))
    sign(copied)
    with pytest.raises(StoreError, match=r"settings that Keras .* does not have: .*float8"):
        bundle.replay(copied)
    assert current_settings() == before


def own_loss(y, y_pred):
    return keras.ops.mean(keras.ops.log(y_pred - y_pred + y), -1)


class Opaque(keras.Model):
    def __init__(self, anything):
        super().__init__()
        self.anything, self.head = anything, layers.Dense(1)

    def call(self, x):
        return self.head(x[:, 2])


def opaque():
    keras.utils.set_random_seed(7)
    model = Opaque(object())
    model.compile("sgd", "mse")
    model(np.zeros((4, 40, 3), "float32"))
    return model


def test_custom_objects_are_asked_for_by_name_and_used(tmp_path):
    model = exploding(loss=own_loss)
    x, y = np.zeros((4, 40, 3), "float32"), np.zeros((4, 1), "float32")
    autopsy = autopsy_of(model, (x, y), step=0)
    assert autopsy.where.phase == "loss"
    place = bundle.write(tmp_path / "nan-step-0", model, (x, y), autopsy)
    assert bundle.read(place).custom_objects == ["own_loss"]
    assert "replay nan-step-0 --code FILE.py" in (place / "README.txt").read_text()
    assert "FILE.py has to define own_loss." in (place / "README.txt").read_text()
    with pytest.raises(UntrustedModelError, match=r"own_loss.*custom_objects=\{'own_loss': own_loss\}"):
        bundle.replay(place)
    assert bundle.replay(place, custom_objects={"own_loss": own_loss}).where == autopsy.where


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda: exploding(loss=lambda y, y_pred: keras.ops.mean(y - y_pred, -1)),
            "'__lambda__' .*compile_config.lo",
        ),
        (opaque, "its configuration cannot be had: NotImplementedError"),
    ],
)
def test_a_model_without_a_configuration_still_gets_a_bundle_that_says_why(make, why, tmp_path):
    model = make()
    x, y = data(n=4, timesteps=40)
    x[1, 2, 0] = np.nan
    x, y = map(keras.ops.convert_to_tensor, (x, y))
    autopsy = autopsy_of(model, (x, y))
    place = bundle.write(tmp_path / "a", model, (x, y), autopsy)
    stored = bundle.read(place)
    assert stored.config is None
    assert stored.model["parameters"] == model.count_params()
    with pytest.raises(StoreError, match=rf"can be replayed only with its model: .*({why}).*model=model"):
        bundle.replay(place)
    assert "cannot be built from this directory alone" in (place / "README.txt").read_text()
    assert bundle.replay(place, model=make()).where == autopsy.where


def test_reading_runs_and_builds_nothing(copied, monkeypatch):
    content = json.loads((copied / "model.json").read_text())
    content["config"] = {
        "class_name": "function",
        "module": "os",
        "config": "system",
        "registered_name": "system",
    }
    (copied / "model.json").write_text(json.dumps(content))
    sign(copied)
    monkeypatch.setattr(keras.saving, "deserialize_keras_object", None)
    assert bundle.read(copied).config["module"] == "os"
    with pytest.raises(UntrustedModelError, match=r"'os.system'"):
        bundle.replay(copied)
