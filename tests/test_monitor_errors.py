"""Bad arguments, foreign models and failures within: one clear error each, and nothing lost."""

from __future__ import annotations

import logging
import sqlite3
import types

import keras
import numpy as np
import pytest
from keras import layers
from networks import data, network

from see_rnn_like import RNNMonitor, Run, SeeRNNError, errors
from see_rnn_like.engine import taps
from see_rnn_like.store import SQLiteHistory


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "every must be a whole number ≥ 1 or a schedule"),
        ({"every": -3}, ValueError, "got -3"),
        ({"every": 2.5}, TypeError, "every must be a whole number ≥ 1 or a schedule.*got 2.5"),
        ({"every": True}, TypeError, "got True"),
        ({"every": "epoch"}, TypeError, "got 'epoch'"),
        ({"capture": ["gradient"]}, ValueError, "capture must be one of 'weights'.*got 'gradient'"),
        ({"capture": "gradients"}, TypeError, r'a list of names such as \["gradients"\]'),
        ({"capture": []}, ValueError, "at least one of weights"),
        ({"layers": 3}, TypeError, "layers must be None for all.*got 3"),
        ({"layers": []}, TypeError, r"got \[\]"),
        ({"level": "all"}, ValueError, "level must be one of 'norms', 'stats', 'full'; got 'all'"),
        ({"on_nan": "ignore"}, ValueError, "on_nan must be one of 'warn', 'stop', 'raise'; got 'ignore'"),
        ({"max_bytes": 0}, ValueError, "max_bytes"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        RNNMonitor(**arguments)
    assert isinstance(caught.value, SeeRNNError)


@pytest.mark.parametrize("layers_wanted", ["lsmt", ["first", "lsmt"], [layers.Dense(3, name="lsmt")]])
def test_an_unknown_layer_is_refused_before_training(layers_wanted):
    model = network("lstm")
    before = model.layers[0].get_weights()
    with pytest.raises(errors.UnknownLayerError, match="no layer matches 'lsmt'; layers are: first, "):
        model.fit(*data(), verbose=0, callbacks=[RNNMonitor(layers=layers_wanted)])
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], before[0])


def test_a_keras_2_model_is_told_the_way_out():
    kind = types.new_class("Sequential", (), {}, lambda ns: ns.update(__module__="tf_keras.src.models"))
    with pytest.raises(errors.ForeignModelError, match=r"Keras 2 model.*build it with `import keras`"):
        RNNMonitor().set_model(kind())


def test_another_backend_is_told_the_way_out(monkeypatch):
    model = network("lstm")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(errors.ForeignModelError, match=r"'jax' backend.*KERAS_BACKEND=tensorflow"):
        RNNMonitor().set_model(model)


def test_something_else_than_a_model_is_refused():
    with pytest.raises(errors.ForeignModelError, match=r"expected a keras.Model; got builtins.str"):
        RNNMonitor().set_model("model")


def make_foreign(path):
    with sqlite3.connect(path) as other:
        other.execute("create table theirs (a)")
    other.close()


def make_text(path):
    path.write_text("not a run " * 100)


def make_other_version(path):
    SQLiteHistory.create(path).close()
    with sqlite3.connect(path) as file:
        file.execute("pragma user_version = 99")
    file.close()


def make_truncated(path):
    monitor = RNNMonitor(every=1, store=path)
    network("lstm").fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    monitor.run.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "directory"),
        (make_foreign, "another"),
        (make_text, "not a run"),
        (make_other_version, "99"),
        (make_truncated, "truncated|damaged"),
    ],
    ids=["directory", "foreign database", "text", "other version", "truncated"],
)
def test_a_store_that_cannot_be_used_is_refused_at_construction_and_kept(make, message, tmp_path):
    path = tmp_path / "run.sqlite"
    make(path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(errors.StoreError, match=f"(?i){message}"):
        RNNMonitor(store=path)
    if before is not None:
        assert path.read_bytes() == before, "the file that was there was changed"


def test_opening_a_file_that_is_not_there(tmp_path):
    with pytest.raises(errors.StoreError, match=r"no\.sqlite"):
        Run.open(tmp_path / "no.sqlite")


def test_an_existing_run_is_continued(tmp_path):
    path = tmp_path / "run.sqlite"
    for _ in range(2):
        monitor = RNNMonitor(every=1, store=path)
        network("lstm").fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert Run.open(path).steps == [0, 1, 2, 3, 4, 5]


def break_append(monitor, monkeypatch):
    def fail(self, snapshot):
        raise OSError("no space left on device")

    monkeypatch.setattr(SQLiteHistory, "append", fail)


def break_tap(monitor, monkeypatch):
    def fail(self, point, outputs):
        raise RuntimeError("a mistake in a tap")

    monkeypatch.setattr(taps.OutputTaps, "record", fail)


@pytest.mark.parametrize("breakage", [break_append, break_tap])
def test_a_failure_within_is_reported_once_and_training_goes_on(breakage, monkeypatch, caplog):
    bare = network("lstm")
    bare.fit(*data(), batch_size=16, epochs=2, verbose=0)
    model, monitor = network("lstm"), RNNMonitor(every=1)
    breakage(monitor, monkeypatch)
    with caplog.at_level(logging.ERROR, logger="see_rnn_like"):
        model.fit(*data(), batch_size=16, epochs=2, verbose=0, callbacks=[monitor])
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "recording is switched off, training goes on" in caplog.text
    assert [e.kind for e in monitor.run.events] == ["capture-off"]
    for a, b in zip(bare.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("breakage", "error"), [(break_append, OSError), (break_tap, errors.CaptureError)], ids=["store", "tap"]
)
def test_strict_raises_instead(breakage, error, monkeypatch):
    monitor = RNNMonitor(every=1, strict=True)
    breakage(monitor, monkeypatch)
    with pytest.raises(error):
        network("lstm").fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])


def test_a_train_step_that_is_compiled_already_is_refused_and_trains_on():
    import tensorflow as tf

    class Compiled(keras.Sequential):
        train_step = tf.function(keras.Sequential.train_step)

    model = Compiled([keras.Input((6, 3)), layers.GRU(4), layers.Dense(1)])
    model.compile("adam", "mse")
    monitor = RNNMonitor(every=1)
    model.fit(*data(), batch_size=16, verbose=0, callbacks=[monitor])
    assert [event.kind for event in monitor.run.events] == ["capture-off"]
    assert "leave the decorator away" in monitor.run.events[0].message


def test_two_monitors_in_one_fit():
    """A step can carry one set of taps: the second monitor says so, the first records on."""
    one, other = RNNMonitor(every=1), RNNMonitor(every=2)
    network("lstm").fit(*data(), batch_size=16, epochs=2, verbose=0, callbacks=[one, other])
    assert one.run.steps == [0, 1, 2, 3, 4, 5]
    assert [(e.kind, e.step) for e in other.run.events] == [("capture-off", 0)]
    assert "another RNNMonitor records this step already; use one per fit" in other.run.events[0].message


def test_a_strategy_that_is_not_known_is_named():
    import tensorflow as tf

    class OwnStrategy:
        num_replicas_in_sync = 2
        run = tf.distribute.get_strategy().run

    model = network("lstm")
    model._distribute_strategy = OwnStrategy()
    from see_rnn_like.engine.train_step import InstrumentedStep

    with pytest.raises(errors.ArgumentError, match="a training by OwnStrategy cannot be recorded"):
        InstrumentedStep(model, None, (), "stats")
