"""Kinds of layers and ways of joining them: trained as without the monitor, recorded exactly."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from networks import data
from taped import checked, fitted, momentum, on_arrays

from see_rnn_like import RNNMonitor

X, Y = data(24)
RNG = np.random.default_rng(0)
SEQUENCES = RNG.standard_normal((24, 6, 2)).astype("float32")
TOKENS = np.where(np.arange(6) < RNG.integers(1, 7, (24, 1)), RNG.integers(1, 9, (24, 6)), 0)
IMAGES = RNG.standard_normal((24, 4, 6, 6, 1)).astype("float32")


def stacked(*parts, inputs=(6, 3), x=X, y=Y, dtype=None, **compiling):
    """A training of layers on top of each other."""
    model = keras.Sequential([keras.Input(inputs, dtype=dtype), *parts])
    return of(model, x, y, **compiling)


def of(model, x=X, y=Y, **compiling):
    """A training of a model on batches of 8."""
    model.compile(**{"optimizer": momentum(), "loss": "mse", **compiling})
    return on_arrays(model, x, y, epochs=1)


def head(units=1, **kwargs):
    return layers.Dense(units, name="head", **kwargs)


def simple(name="rnn", units=3, **kwargs):
    return layers.SimpleRNN(units, name=name, **kwargs)


# -- masks --------------------------------------------------------------------------------------


def masked_tokens(**compiling):
    """Every kind of recurrent layer, all of them with the mask of the tokens."""
    return stacked(
        layers.Embedding(9, 4, mask_zero=True, name="embed"),
        layers.LSTM(3, return_sequences=True, name="lstm"),
        layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both"),
        layers.Dropout(0.2, seed=3, name="drop"),
        layers.GRU(3, return_sequences=True, reset_after=False, go_backwards=True, name="gru"),
        layers.SimpleRNN(3, zero_output_for_mask=True, return_sequences=True, name="simple"),
        layers.LSTM(2, name="last"),
        head(),
        inputs=(6,),
        x=TOKENS,
        dtype="int32",
        **compiling,
    )


def few_masked_tokens(**compiling):
    parts = [layers.LSTM(3, return_sequences=True, name="lstm"), layers.GRU(2, name="gru")]
    embed = layers.Embedding(9, 4, mask_zero=True, name="embed")
    return stacked(embed, *parts, head(), inputs=(6,), x=TOKENS, dtype="int32", **compiling)


def masking(**compiling):
    x = X * (TOKENS > 0)[..., None]
    return stacked(
        layers.Masking(name="masking"),
        layers.TimeDistributed(layers.Dense(4), name="each"),
        layers.RNN([layers.LSTMCell(3, name="low"), layers.GRUCell(3, name="high")], name="cells"),
        head(),
        x=x,
        **compiling,
    )


def masked_sequence_loss():
    """The mask goes on to the loss, which leaves padding out."""
    return stacked(
        layers.Masking(name="masking"),
        simple(return_sequences=True),
        head(2),
        x=X * (TOKENS > 0)[..., None],
        y=SEQUENCES,
    )


# -- recurrent layers and their wrappers --------------------------------------------------------


def bidirectional(merge_mode, sequences=True, kind=layers.GRU, **kwargs):
    rnn = kind(3, return_sequences=sequences, **kwargs)
    both = layers.Bidirectional(rnn, merge_mode=merge_mode, name="both")
    inputs = keras.Input((6, 3))
    outputs = both(simple("before", return_sequences=True)(inputs))
    if merge_mode is None:
        outputs = layers.Subtract(name="difference")(outputs)
    return of(keras.Model(inputs, head(2 if sequences else 1)(outputs)), y=SEQUENCES if sequences else Y)


def other_backward_layer():
    both = layers.Bidirectional(
        layers.LSTM(3, return_sequences=True),
        backward_layer=layers.GRU(3, return_sequences=True, go_backwards=True),
        name="both",
    )
    return stacked(both, simple(), head())


def backwards():
    return stacked(
        layers.LSTM(3, go_backwards=True, return_sequences=True, name="lstm"),
        layers.GRU(3, go_backwards=True, name="gru"),
        head(),
    )


def returned_states():
    """States that the loss depends on, beside the sequence and alone."""
    inputs = keras.Input((6, 3))
    sequence, h, c = layers.LSTM(3, return_sequences=True, return_state=True, name="lstm")(inputs)
    _, state = layers.GRU(3, return_state=True, name="gru")(sequence)
    joined = layers.Concatenate(name="joined")([h, c, state])
    return of(keras.Model(inputs, head()(joined)))


def encoder_decoder():
    """The decoder starts from all states of a bidirectional encoder."""
    source, target = keras.Input((6, 3), name="source"), keras.Input((6, 2), name="target")
    encoder = layers.Bidirectional(layers.LSTM(3, return_state=True), name="encoder")
    _, *states = encoder(source)
    decoder = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="decoder")
    decoded = decoder(target, initial_state=states)
    second = layers.GRU(3, return_sequences=True, name="second")(decoded, initial_state=states[0])
    model = keras.Model({"source": source, "target": target}, head(2)(second))
    return of(model, {"source": X, "target": SEQUENCES}, SEQUENCES[::-1].copy())


def time_distributed():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.LayerNormalization()], name="inner")
    return stacked(
        layers.TimeDistributed(inner, name="each"),
        layers.TimeDistributed(layers.Dense(3, activation="tanh"), name="other"),
        simple(),
        head(),
    )


def recurrent_of_recurrent():
    """A recurrent layer over each of a sequence of sequences."""
    x = np.stack([X, X[::-1]], axis=1)
    return stacked(
        layers.TimeDistributed(layers.GRU(3), name="each"), simple(), head(), inputs=(2, 6, 3), x=x
    )


def conv_lstm_1d():
    return stacked(
        layers.ConvLSTM1D(2, 3, return_sequences=True, name="conv"),
        layers.ConvLSTM1D(2, 3, go_backwards=True, name="back"),
        layers.Flatten(name="flat"),
        head(),
        inputs=(4, 6, 6),
        x=IMAGES[..., 0],
    )


def conv_lstm_2d():
    return stacked(
        layers.ConvLSTM2D(2, 3, return_sequences=True, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.Bidirectional(layers.ConvLSTM2D(2, 3), name="both"),
        layers.GlobalAveragePooling2D(name="mean"),
        head(),
        inputs=(4, 6, 6, 1),
        x=IMAGES,
    )


class Minimal(layers.Layer):
    """A cell nobody has described."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.mix = self.add_weight(shape=(shape[-1], self.units), name="mix")

    def call(self, inputs, states):
        h = keras.ops.tanh(inputs @ self.mix + 0.5 * states[0])
        return h, [h]


def cells():
    return stacked(
        layers.RNN(layers.LSTMCell(3), return_sequences=True, name="lstm"),
        layers.RNN(Minimal(3), return_sequences=True, name="minimal"),
        layers.Bidirectional(
            layers.RNN([layers.GRUCell(3, name="low"), layers.SimpleRNNCell(2, name="high")]), name="both"
        ),
        head(),
    )


# -- joining ------------------------------------------------------------------------------------


def shared():
    """A layer used three times, once on its own output; a shared head."""
    inputs = keras.Input((6, 3))
    rnn, top = layers.GRU(3, return_sequences=True, name="rnn"), layers.Dense(1, name="top")
    one = rnn(inputs)
    other = rnn(layers.Dense(3, name="dense")(inputs))
    third = rnn(one)
    last = layers.GlobalAveragePooling1D(name="mean")
    return of(keras.Model(inputs, layers.Add(name="sum")([top(last(t)) for t in (one, other, third)])))


def shared_bidirectional():
    inputs = keras.Input((6, 3))
    both = layers.Bidirectional(simple("inner", return_sequences=True), name="both")
    one, other = both(inputs), both(inputs[:, ::-1])
    joined = layers.Concatenate(name="joined")([one, other])
    return of(keras.Model(inputs, head()(simple("top")(joined))))


def direction_on_its_own(*, first):
    """A layer inside a Bidirectional that is used on its own as well, before it or after it."""
    inputs = keras.Input((6, 3))
    both = layers.Bidirectional(simple("inner", return_sequences=True), name="both")
    both.build((None, 6, 3))
    uses = [both.backward_layer, both] if first else [both, both.backward_layer]
    joined = layers.Concatenate(name="joined")([use(inputs) for use in uses])
    return of(keras.Model(inputs, head()(simple("top")(joined))))


def shared_model():
    """A model used twice inside another one."""
    tower = keras.Sequential([keras.Input((6, 3)), simple(), layers.Dense(2, name="dense")], name="tower")
    one, other = keras.Input((6, 3), name="one"), keras.Input((6, 3), name="other")
    outputs = head()(layers.Subtract(name="difference")([tower(one), tower(other)]))
    return of(keras.Model([one, other], outputs), [X, X[::-1].copy()])


class Block(keras.Model):
    """A model of one's own with a weight of its own, inside another one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rnn = simple(return_sequences=True)
        self.inner = keras.Sequential([layers.GRU(3, name="gru")], name="inner")

    def call(self, inputs, training=False):
        return self.inner(self.rnn(inputs), training=training)


class Subclassed(keras.Model):
    """Built by its first batch; with a dict of outputs of which the loss takes one."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.block = Block(name="block")
        self.drop = layers.Dropout(0.3, seed=5, name="drop")
        self.head = head()

    def call(self, inputs, training=False):
        return self.head(self.drop(self.block(inputs, training=training), training=training))


def normalised():
    return stacked(
        layers.LSTM(3, return_sequences=True, dropout=0.2, recurrent_dropout=0.2, seed=7, name="lstm"),
        layers.BatchNormalization(name="norm"),
        layers.LayerNormalization(name="scale"),
        simple(kernel_regularizer="l2", activity_regularizer="l1", recurrent_constraint="unit_norm"),
        head(),
    )


class Attending(layers.Layer):
    """A layer made of layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")

    def call(self, inputs):
        return self.attention(inputs, inputs)


CASES = {
    "masked tokens": masked_tokens,
    "masked tokens, compiled": lambda: few_masked_tokens(jit_compile=True),
    "masked tokens, eagerly": lambda: masked_tokens(run_eagerly=True),
    "masking": masking,
    "a masked loss": masked_sequence_loss,
    "merged by concat": lambda: bidirectional("concat"),
    "merged by sum": lambda: bidirectional("sum", sequences=False),
    "merged by mul": lambda: bidirectional("mul", kind=layers.SimpleRNN),
    "merged by ave": lambda: bidirectional("ave", sequences=False, kind=layers.LSTM),
    "not merged": lambda: bidirectional(None),
    "not merged, last states": lambda: bidirectional(None, sequences=False),
    "another layer backwards": other_backward_layer,
    "backwards": backwards,
    "returned states": returned_states,
    "encoder and decoder": encoder_decoder,
    "TimeDistributed": time_distributed,
    "TimeDistributed of a GRU": recurrent_of_recurrent,
    "ConvLSTM1D": conv_lstm_1d,
    "ConvLSTM2D": conv_lstm_2d,
    "cells": cells,
    "a shared layer": shared,
    "a shared Bidirectional": shared_bidirectional,
    "a direction on its own first": lambda: direction_on_its_own(first=True),
    "a direction on its own last": lambda: direction_on_its_own(first=False),
    "a shared model": shared_model,
    "subclassed": lambda: of(Subclassed()),
    "dropout, normalisation, regularisers": normalised,
    "attention": lambda: stacked(Attending(name="attending"), simple(), head()),
}


# What TensorFlow's graph optimizer regroups where every intermediate result has one consumer.
def rate_times_product():
    """``rate * (sum * rsqrt)``, the update of gamma."""
    parts = [layers.Dense(8, use_bias=False, name="dense"), layers.BatchNormalization(name="norm")]
    return stacked(layers.Flatten(name="flat"), *parts, layers.ReLU(name="relu"), head())


def sums_of_sums():
    """Sums of outputs that are sums themselves; here it takes three of one unit for a difference."""
    inputs = keras.Input((6, 3))
    rnn, top = layers.GRU(3, return_sequences=True, name="rnn"), layers.Dense(1, name="top")
    one = rnn(inputs)
    last = layers.GlobalAveragePooling1D(name="mean")
    return of(keras.Model(inputs, layers.Add(name="sum")([top(last(t)) for t in (one, rnn(one), inputs)])))


CASES |= {"a rate times a product": rate_times_product, "sums of sums": sums_of_sums}


@pytest.mark.parametrize("case", CASES)
def test_kinds_of_layers(case):
    # Normalising a few numbers magnifies how they were rounded.
    checked(CASES[case], every=2, atol=1e-5)


def test_a_direction_used_on_its_own_is_found_by_its_name_and_recorded_once():
    monitor = RNNMonitor(every=1, layers="backward_inner")
    fitted(lambda: direction_on_its_own(first=True), monitor)
    names = {str(key) for key in list(monitor.run.keys()) if key.role.startswith("output")}
    uses = {f"both/backward/output{use}:{kind}" for use in ("", "@1") for kind in ("value", "gradient")}
    assert names == uses | {
        f"both/{part}output:{k}" for part in ("forward/", "") for k in ("value", "gradient")
    }
