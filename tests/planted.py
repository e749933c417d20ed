"""Faults planted in small networks at a known place, and healthy networks that look suspicious.

Where a fault must be found follows from how it is planted. Most make one gate of one unit go bad at one
timestep of one sample, with finite data and weights: `_spiked` inputs carry 1e30 in their last feature there,
which the kernel takes to that gate only. There it overflows, times 1e30, if the activation is not bounded; or
becomes NaN by an activation that computes 0 · z², `_brittle`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from see_rnn_like.cells import CellSpec, is_known_cell, register_cell
from see_rnn_like.findings import Where

N, T, F, U = 4, 7, 3, 3
SAMPLE = 2
HUGE = 1e30

Made = tuple[Any, Any, Any, Any]


@dataclass(frozen=True)
class Planted:
    """A fault: how to make it, and where it is."""

    name: str
    make: Callable[[], Made]
    where: Where | None


CASES: list[Planted] = []
HEALTHY: list[Planted] = []


def _case(name: str, make: Callable[[], Made], phase: str, **where: Any) -> None:
    CASES.append(Planted(name, make, Where(phase=phase, **where)))


def healthy(make: Callable[[], Made]) -> Callable[[], Made]:
    HEALTHY.append(Planted(make.__name__, make, None))
    return make


def planted(phase: str, **where: Any) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    def kept(make: Callable[[], Made]) -> Callable[[], Made]:
        _case(make.__name__, make, phase, **where)
        return make

    return kept


def _rng() -> np.random.Generator:
    keras.utils.set_random_seed(7)
    return np.random.default_rng(7)


def _plain(timesteps: int = T, features: int = F) -> tuple[np.ndarray, np.ndarray]:
    rng = _rng()
    x = rng.normal(size=(N, timesteps, features)).astype("float32")
    return x, rng.normal(size=(N, 1)).astype("float32")


def _spiked(timestep: int, sample: int = SAMPLE, timesteps: int = T) -> tuple[np.ndarray, np.ndarray]:
    x, y = _plain(timesteps)
    x[..., -1] = 0
    x[sample, timestep, -1] = HUGE
    return x, y


@keras.saving.register_keras_serializable("planted")
def _brittle(z: Any) -> Any:
    """A sigmoid that is NaN where z² overflows."""
    return ops.sigmoid(z) + 0 * (z * z)


BRITTLE = {"activation": _brittle, "recurrent_activation": _brittle}


def _wire(cell: Any, gate: str, unit: int, gates: tuple[str, ...], factor: float = 1.0) -> None:
    """Lets the spiked feature reach one unit of one gate only."""
    kernel = cell.kernel.numpy()
    kernel[..., -1, :] = 0
    kernel[..., -1, gates.index(gate) * (kernel.shape[-1] // len(gates)) + unit] = factor
    cell.kernel.assign(kernel)


def _brittle_of(ctor: Any) -> dict[str, Any]:
    return {"activation": _brittle} if ctor is layers.SimpleRNN else BRITTLE


def _compiled(model: Any, loss: Any = "mse", **more: Any) -> Any:
    model.compile(keras.optimizers.SGD(1e-3), loss, **more)
    return model


def _sequential(*parts: Any, shape: Any = (T, F), **more: Any) -> Any:
    return _compiled(keras.Sequential([keras.Input(shape), *parts]), **more)


LSTM = ("input", "forget", "cell", "output")
GRU = ("update", "reset", "new")
KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "lstm": (layers.LSTM, LSTM),
    "lstm1": (lambda u, **k: layers.LSTM(u, implementation=1, **k), LSTM),
    "gru": (layers.GRU, GRU),
    "gru_before": (lambda u, **k: layers.GRU(u, reset_after=False, **k), GRU),
    "simplernn": (layers.SimpleRNN, ("hidden",)),
}


# -- gates, forward ------------------------------------------------------------------------------------


def _gate_case(kind: str, gate: str, timestep: int, unit: int, **options: Any) -> Callable[[], Made]:
    def make() -> Made:
        x, y = _spiked(timestep)
        ctor, gates = KINDS[kind]
        rnn = ctor(U, name="rnn", **(options or _brittle_of(ctor)))
        model = _sequential(rnn, layers.Dense(1, name="head"))
        _wire(rnn.cell, gate, unit, gates, HUGE if options else 1.0)
        return model, x, y, None

    return make


for _kind, (_, _gates) in KINDS.items():
    for _i, _gate in enumerate(_gates):
        _t = (0, T // 2, T - 1, 1)[_i]
        _case(
            f"{_kind}_{_gate}_nan_at_{_t}",
            _gate_case(_kind, _gate, _t, _i % U),
            "forward",
            layer="rnn",
            direction="forward",
            role="gates",
            gate=_gate,
            timestep=_t,
            units=(_i % U,),
            samples=(SAMPLE,),
        )

for _kind, _gate, _options in (
    ("lstm", "cell", {"activation": "relu"}),
    ("lstm", "forget", {"recurrent_activation": "relu"}),
    ("lstm", "output", {"recurrent_activation": "relu", "return_sequences": False, "unroll": True}),
    ("gru", "new", {"activation": "relu", "unroll": True}),
    ("gru_before", "reset", {"recurrent_activation": "linear"}),
    ("simplernn", "hidden", {"activation": "relu"}),
):
    _case(
        f"{_kind}_{_gate}_overflows_{'_'.join(_options)}",
        _gate_case(_kind, _gate, 3, 1, **_options),
        "forward",
        layer="rnn",
        direction="forward",
        role="gates",
        gate=_gate,
        timestep=3,
        units=(1,),
        samples=(SAMPLE,),
    )


def _direction_case(direction: str, ctor: Any, gate: str, gates: Any, timestep: int) -> Callable[[], Made]:
    def make() -> Made:
        x, y = _spiked(timestep)
        both = layers.Bidirectional(ctor(U, **BRITTLE), name="both")
        model = _sequential(both, layers.Dense(1))
        wired = both.forward_layer if direction == "forward" else both.backward_layer
        quiet = both.backward_layer if direction == "forward" else both.forward_layer
        _wire(wired.cell, gate, 2, gates)
        kernel = quiet.cell.kernel.numpy()
        kernel[-1:] = 0
        quiet.cell.kernel.assign(kernel)
        return model, x, y, None

    return make


for _direction in ("forward", "backward"):
    for _name, _ctor, _gates, _gate in (
        ("lstm", layers.LSTM, LSTM, "forget"),
        ("gru", layers.GRU, GRU, "new"),
    ):
        for _t in (0, T - 1):
            _case(
                f"bidirectional_{_name}_{_direction}_{_t}",
                _direction_case(_direction, _ctor, _gate, _gates, _t),
                "forward",
                layer="both",
                direction=_direction,
                role="gates",
                gate=_gate,
                timestep=_t,
                units=(2,),
                samples=(SAMPLE,),
            )


@planted(
    "forward",
    layer="rnn",
    direction="backward",
    role="gates",
    gate="cell",
    timestep=5,
    units=(0,),
    samples=(1,),
)
def go_backwards():
    x, y = _spiked(5, sample=1)
    rnn = layers.LSTM(U, go_backwards=True, return_sequences=True, name="rnn", **BRITTLE)
    model = _sequential(rnn, layers.GlobalAveragePooling1D(), layers.Dense(1))
    _wire(rnn.cell, "cell", 0, LSTM)
    return model, x, y, None


@planted(
    "forward",
    layer="deep/top",
    direction="forward",
    role="gates",
    gate="reset",
    timestep=0,
    units=(0, 1),
    samples=(0, 1, 2, 3),
)
def stacked_cells():
    x, y = _plain()
    # The lower cell puts out 0.5 · tanh(0.5), and 1e30 times that is too much for the upper one.
    top = layers.GRUCell(2, recurrent_activation=_brittle, name="top")
    cells = [layers.LSTMCell(U, name="bottom"), top]
    model = _sequential(layers.RNN(cells, name="deep"), layers.Dense(1))
    bias = np.zeros(4 * U, "float32")
    bias[2 * U : 3 * U] = 50
    cells[0].set_weights([np.zeros((F, 4 * U)), np.zeros((U, 4 * U)), bias])
    kernel = np.zeros((U, 6), "float32")
    kernel[:, 2:4] = HUGE
    top.kernel.assign(kernel)
    return model, x, y, None


@planted(
    "forward",
    layer="conv",
    direction="forward",
    role="gates",
    gate="forget",
    timestep=2,
    units=(1,),
    samples=(SAMPLE,),
)
def conv_lstm():
    rng = _rng()
    x = rng.normal(size=(N, 4, 5, 5, 3)).astype("float32")
    x[..., -1] = 0
    x[SAMPLE, 2, 2, 2, -1] = HUGE
    conv = layers.ConvLSTM2D(2, 3, name="conv", **BRITTLE)
    model = _sequential(conv, layers.Flatten(), layers.Dense(1), shape=(4, 5, 5, 3))
    _wire(conv.cell, "forget", 1, LSTM)
    return model, x, rng.normal(size=(N, 1)), None


@planted(
    "forward",
    layer="each",
    direction="forward",
    role="gates@2",
    gate="input",
    timestep=1,
    units=(0,),
    samples=(SAMPLE,),
)
def time_distributed_lstm():
    rng = _rng()
    x = rng.normal(size=(N, 4, 3, F)).astype("float32")
    x[..., -1] = 0
    x[SAMPLE, 2, 1, -1] = HUGE
    rnn = layers.LSTM(2, **BRITTLE)
    model = _sequential(
        layers.TimeDistributed(rnn, name="each"), layers.Flatten(), layers.Dense(1), shape=(4, 3, F)
    )
    _wire(rnn.cell, "input", 0, LSTM)
    return model, x, rng.normal(size=(N, 1)), None


@keras.saving.register_keras_serializable("planted")
class GatedCell(layers.Layer):
    """h = keep · h + (1 - keep) · new, without Keras's activation attributes."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2 * self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(shape=(self.units, 2 * self.units), name="recurrent_kernel")

    def call(self, inputs, states, training=False):
        h = states[0]
        z = ops.matmul(inputs, self.kernel) + ops.matmul(h, self.recurrent_kernel)
        new, keep = _brittle(z[:, self.units :]), ops.sigmoid(z[:, : self.units])
        h = keep * h + (1 - keep) * new
        return h, [h]


class UnknownCell(GatedCell):
    pass


def _gated_gates(cell, inputs, h):
    z = ops.matmul(inputs, cell.kernel) + ops.matmul(h, cell.recurrent_kernel)
    keep, new = z[..., : cell.units], z[..., cell.units :]
    return ops.stack([ops.sigmoid(keep), _brittle(new)], axis=-2)


def _gated_states(cell, gates, states):
    keep, new = gates[..., 0, :], gates[..., 1, :]
    return (keep * states[0] + (1 - keep) * new,)


class RegisteredCell(GatedCell):
    pass


if not is_known_cell(RegisteredCell(1)):
    register_cell(
        RegisteredCell,
        CellSpec("Gated", ("keep", "new"), ("h",), _gated_gates, _gated_states, keeping="keep"),
    )


def _custom_cell(cell_class: Any) -> Made:
    x, y = _spiked(4)
    cell = cell_class(U)
    model = _sequential(layers.RNN(cell, name="rnn"), layers.Dense(1))
    _wire(cell, "new", 2, ("keep", "new"))
    return model, x, y, None


@planted(
    "forward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="new",
    timestep=4,
    units=(2,),
    samples=(SAMPLE,),
)
def registered_cell():
    return _custom_cell(RegisteredCell)


@planted("forward", layer="rnn", direction="forward", role="h", timestep=4, units=(2,), samples=(SAMPLE,))
def unregistered_cell():
    return _custom_cell(UnknownCell)


@planted(
    "forward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="forget",
    timestep=4,
    units=(1,),
    samples=(SAMPLE,),
)
def infinities_of_both_signs_meet_in_a_sigmoid():
    # From timestep 1 on the recurrent part is -inf, of which the gate is 0; at 4 the input adds +inf: NaN.
    x, y = _spiked(4)
    rnn = layers.LSTM(U, name="rnn")
    model = _sequential(rnn, layers.Dense(1))
    bias = np.full(4 * U, 50, "float32")
    recurrent = np.zeros((U, 4 * U), "float32")
    recurrent[:, U + 1] = -3e38  # three outputs of more than 0.7
    rnn.cell.set_weights([np.zeros((F, 4 * U)), recurrent, bias])
    _wire(rnn.cell, "forget", 1, LSTM, HUGE)
    return model, x, y, None


@planted("forward", layer="rnn", direction="forward", role="c", timestep=4, units=(1,), samples=(SAMPLE,))
def state_overflows_while_all_gates_are_finite():
    # c_t = c_{t-1} + 1e38 · g from timestep 1 on, with g = 1 for one sample and unit: 4e38 at timestep 4.
    x = np.zeros((N, T, 1), "float32")
    x[SAMPLE, 1:] = 1e19
    rnn = layers.LSTM(2, activation="linear", recurrent_activation="linear", name="rnn")
    model = _sequential(rnn, layers.Dense(1), shape=(T, 1))
    kernel, bias = np.zeros((1, 8), "float32"), np.zeros(8, "float32")
    kernel[0, 1], kernel[0, 5] = 1, 1  # input and cell gate of unit 1: 1e19 each
    bias[2:4] = 1  # forget gate: keeps all
    rnn.cell.kernel.assign(kernel)
    rnn.cell.bias.assign(bias)
    rnn.cell.recurrent_kernel.assign(np.zeros((2, 8)))
    return model, x, np.zeros((N, 1), "float32"), None


@planted("forward", layer="rnn", direction="forward", role="h", timestep=3, units=(0,), samples=(SAMPLE,))
def output_of_a_cell_overflows_while_its_state_is_finite():
    # h = o · c: 1e19 · 1e20 for one sample at one timestep.
    x = np.zeros((N, T, 1), "float32")
    x[SAMPLE, 3] = 1e19
    rnn = layers.LSTM(1, activation="linear", recurrent_activation="linear", name="rnn")
    model = _sequential(rnn, layers.Dense(1), shape=(T, 1))
    rnn.cell.kernel.assign([[0, 0, 0, 1.0]])
    rnn.cell.bias.assign([1e10, 0, 1e10, 0])
    rnn.cell.recurrent_kernel.assign(np.zeros((1, 4)))
    return model, x, np.zeros((N, 1), "float32"), None


@planted(
    "forward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="hidden",
    timestep=38,
    units=(0,),
    samples=(0, 1, 2, 3),
)
def exploding_relu():
    # h_t = 10 · h_{t-1} from h_0 = 1: 10^38 is the last power of ten below the largest float32, 3.4e38.
    # (tests/test_find_nonfinite.py computes it in NumPy; the first input is 0.4, so 4e38 at timestep 38.)
    x = np.zeros((N, 50, 1), "float32")
    x[:, 0] = 4
    rnn = layers.SimpleRNN(1, activation="relu", name="rnn")
    model = _sequential(rnn, layers.Dense(1), shape=(50, 1))
    rnn.set_weights([np.ones((1, 1)), np.full((1, 1), 10.0), np.zeros(1)])
    return model, x, np.zeros((N, 1), "float32"), None


@planted(
    "forward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="cell",
    timestep=5,
    units=(1,),
    samples=(SAMPLE,),
)
def float16_overflows():
    x = np.zeros((N, T, 2), "float32")
    x[SAMPLE, 5, 0] = 300
    rnn = layers.LSTM(2, activation="relu", dtype="mixed_float16", name="rnn")
    model = _sequential(rnn, layers.Dense(1), shape=(T, 2))
    kernel = np.zeros((2, 8), "float32")
    kernel[0, 5] = 300  # 90000 > 65504
    rnn.cell.kernel.assign(kernel)
    return model, x, np.zeros((N, 1), "float32"), None


@planted(
    "forward",
    layer="shared",
    direction="forward",
    role="gates@1",
    gate="update",
    timestep=2,
    units=(1,),
    samples=(SAMPLE,),
)
def shared_layer_second_call():
    fine, y = _plain()
    fine[..., -1] = 0
    spiked, _ = _spiked(2)
    a, b = keras.Input((T, F), name="a"), keras.Input((T, F), name="b")
    shared = layers.GRU(U, name="shared", **BRITTLE)
    model = _compiled(keras.Model([a, b], layers.Dense(1)(layers.Concatenate()([shared(a), shared(b)]))))
    _wire(shared.cell, "update", 1, GRU)
    return model, [fine, spiked], y, None


@planted(
    "forward",
    layer="encoder/inner",
    direction="forward",
    role="gates",
    gate="output",
    timestep=6,
    units=(1,),
    samples=(SAMPLE,),
)
def nested_model():
    x, y = _spiked(6)
    inner = layers.LSTM(U, name="inner", **BRITTLE)
    encoder = keras.Sequential([keras.Input((T, F)), inner], name="encoder")
    model = _sequential(encoder, layers.Dense(1))
    _wire(inner.cell, "output", 1, LSTM)
    return model, x, y, None


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.rnn = layers.LSTM(U, name="inside", **BRITTLE)
        self.head = layers.Dense(1)

    def call(self, x, training=False):
        return self.head(self.rnn(x * 1.0, training=training))


@planted(
    "forward",
    layer="inside",
    direction="forward",
    role="gates",
    gate="input",
    timestep=0,
    units=(0,),
    samples=(SAMPLE,),
)
def subclassed_model():
    x, y = _spiked(0)
    model = Subclassed()
    model(x)
    _wire(model.rnn.cell, "input", 0, LSTM)
    return _compiled(model), x, y, None


@planted(
    "forward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="cell",
    timestep=3,
    units=(1,),
    samples=(SAMPLE,),
)
def with_recurrent_dropout_and_mask():
    x, y = _spiked(3)
    x[0, 5:] = 0
    x[1, :] = 0  # all padding
    rnn = layers.LSTM(U, recurrent_dropout=0.3, name="rnn", **BRITTLE)
    model = _sequential(layers.Masking(), rnn, layers.Dense(1))
    _wire(rnn.cell, "cell", 1, LSTM)
    return model, x, y, None


@planted(
    "forward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="cell",
    timestep=0,
    units=(0, 1, 2),
    samples=(1,),
)
def initial_state_given():
    x, y = _plain()
    seq, h, c = keras.Input((T, F)), keras.Input((U,)), keras.Input((U,))
    rnn = layers.LSTM(U, activation="linear", name="rnn")
    model = _compiled(keras.Model([seq, h, c], layers.Dense(1)(rnn(seq, initial_state=[h, c]))))
    recurrent = np.zeros((U, 4 * U), "float32")
    recurrent[:, 2 * U : 3 * U] = HUGE
    rnn.cell.recurrent_kernel.assign(recurrent)
    start = np.zeros((N, U), "float32")
    start[1] = HUGE
    return model, [x, start, np.zeros((N, U), "float32")], y, None


# -- other layers, forward --------------------------------------------------------------------------------


@planted("forward", layer="ratio", role="output", timestep=2, units=(1,), samples=(3,))
def division_in_a_custom_layer():
    x, y = _plain()
    x = np.abs(x) + 1
    x[3, 2, 1] = 0
    model = _sequential(layers.Lambda(lambda t: t / t, name="ratio"), layers.LSTM(U), layers.Dense(1))
    return model, x, y, None


class MaskedMean(layers.Layer):
    """Mean over the timesteps that are not masked: 0/0 where all are."""

    supports_masking = True

    def call(self, x, mask=None):
        weight = ops.cast(mask, x.dtype)[..., None]
        return ops.sum(x * weight, axis=1) / ops.sum(weight, axis=1)

    def compute_mask(self, x, mask=None):
        return None


@planted("forward", layer="mean", role="output", units=(0, 1, 2), samples=(0, 3))
def masked_all_padding():
    rng = _rng()
    tokens = rng.integers(1, 9, (N, T))
    tokens[0] = tokens[3] = 0
    tokens[1, 4:] = 0
    model = _sequential(
        layers.Embedding(9, 4, mask_zero=True),
        layers.LSTM(U, return_sequences=True),
        MaskedMean(name="mean"),
        layers.Dense(1),
        shape=(T,),
    )
    return model, tokens, rng.normal(size=(N, 1)), None


class OverBatch(layers.Layer):
    """Normalisation over the batch without an epsilon: 0/0 for one sample."""

    def call(self, x):
        return (x - ops.mean(x, axis=0)) / ops.std(x, axis=0)


@planted("forward", layer="norm", role="output", units=(0, 1, 2), samples=(0,))
def normalisation_with_one_sample():
    x, y = _plain()
    return _sequential(layers.LSTM(U), OverBatch(name="norm"), layers.Dense(1)), x[:1], y[:1], None


@planted("forward", layer="twice", role="output@1", units=(0,), samples=(1,))
def shared_custom_layer_second_call():
    rng = _rng()
    a, b = keras.Input((2,)), keras.Input((2,))
    twice = layers.Lambda(lambda t: ops.log(t), name="twice", output_shape=(2,))
    model = _compiled(keras.Model([a, b], layers.Dense(1)(twice(a) + twice(b))))
    one, other = rng.uniform(1, 2, (2, N, 2)).astype("float32")
    other[1, 0] = 0
    return model, [one, other], rng.normal(size=(N, 1)), None


@planted("forward", layer="each", role="output", timestep=6, units=(1,), samples=(0,))
def time_distributed_dense():
    x, y = _plain()
    x = np.abs(x)
    x[0, 6] = -1
    dense = layers.Dense(2, activation=ops.sqrt)
    model = _sequential(layers.TimeDistributed(dense, name="each"), layers.LSTM(U), layers.Dense(1))
    dense.kernel.assign(np.eye(F, 2) * [0, 1])
    return model, x, y, None


@planted("forward", layer="true_divide", role="output", units=(0,), samples=(2,))
def operation_between_layers():
    rng = _rng()
    inputs = keras.Input((1,))
    divided = ops.true_divide(inputs, inputs)
    divided._keras_history.operation.name = "true_divide"
    model = _compiled(keras.Model(inputs, layers.Dense(1)(divided)))
    x = rng.uniform(1, 2, (N, 1)).astype("float32")
    x[2] = 0
    return model, x, rng.normal(size=(N, 1)), None


class RawOps(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.head = layers.Dense(2, name="first"), layers.Dense(1, name="head")

    def call(self, x):
        return self.head(tf.math.log(self.first(x)))


@planted("forward", layer="head", role="input", units=(0,), samples=(3,))
def raw_operation_in_a_subclassed_model():
    rng = _rng()
    model = RawOps()
    x = rng.uniform(1, 2, (N, 2)).astype("float32")
    model(x)
    model.first.set_weights([np.eye(2), np.zeros(2)])
    x[3, 0] = 0
    return _compiled(model), x, rng.normal(size=(N, 1)), None


class EndsRaw(keras.Model):
    def __init__(self):
        super().__init__(name="ends_raw")
        self.first = layers.Dense(2, name="first")

    def call(self, x):
        return 1 / self.first(x)


@planted("forward", layer="ends_raw", role="output", units=(1,), samples=(0,))
def raw_operation_at_the_end():
    rng = _rng()
    model = EndsRaw()
    x = rng.uniform(1, 2, (N, 2)).astype("float32")
    model(x)
    model.first.set_weights([np.eye(2), np.zeros(2)])
    x[0, 1] = 0
    return _compiled(model), x, rng.normal(size=(N, 2)), None


@planted("forward", layer="second", role="output", units=(0,), samples=(SAMPLE,))
def behind_a_mask_of_minus_infinity():
    # The scores hold -inf on purpose, which the softmax takes; the fault comes after.
    rng = _rng()
    x = rng.normal(size=(N, 3)).astype("float32")
    allowed = np.zeros((N, 3), "float32")
    allowed[:, 2] = -np.inf
    scores, mask, other = keras.Input((3,)), keras.Input((3,)), keras.Input((1,))
    open_ = layers.Softmax(name="open")(layers.Add(name="masked")([scores, mask]))
    second = layers.Lambda(lambda t: 1 / t, name="second")(other)
    model = _compiled(
        keras.Model([scores, mask, other], layers.Dense(1)(layers.Concatenate()([open_, second])))
    )
    divisor = np.ones((N, 1), "float32")
    divisor[SAMPLE] = 0
    return model, [x, allowed, divisor], rng.normal(size=(N, 1)), None


# -- data -----------------------------------------------------------------------------------------------


@planted("data", role="x", timestep=4, units=(1,), samples=(1,))
def nan_in_x():
    x, y = _plain()
    x[1, 4, 1] = np.nan
    return _sequential(layers.LSTM(U), layers.Dense(1)), x, y, None


@planted("data", role="x", timestep=0, units=(0, 2), samples=(0, 3))
def infinities_in_x():
    x, y = _plain()
    x[0, 0, 0], x[3, 0, 2], x[3, 5, 1] = np.inf, -np.inf, np.inf
    return _sequential(layers.GRU(U), layers.Dense(1)), x, y, None


@planted("data", role="y", units=(0,), samples=(3,))
def nan_in_y():
    x, y = _plain()
    y[3] = np.nan
    return _sequential(layers.LSTM(U), layers.Dense(1)), x, y, None


@planted("data", role="sample_weight", samples=(2,))
def inf_in_sample_weight():
    x, y = _plain()
    weight = np.ones(N, "float32")
    weight[2] = np.inf
    return _sequential(layers.LSTM(U), layers.Dense(1)), x, y, weight


@planted("data", role="x/extra", units=(1,), samples=(0,))
def nan_in_a_dict():
    x, y = _plain()
    sequence, extra = keras.Input((T, F), name="sequence"), keras.Input((2,), name="extra")
    joined = layers.Concatenate()([layers.LSTM(U)(sequence), extra])
    model = _compiled(keras.Model({"sequence": sequence, "extra": extra}, layers.Dense(1)(joined)))
    more = np.zeros((N, 2), "float32")
    more[0, 1] = np.nan
    return model, {"sequence": x, "extra": more}, y, None


@planted("data", role="x/1", timestep=6, units=(0,), samples=(1,))
def nan_in_a_list():
    x, y = _plain()
    a, b = keras.Input((T, F)), keras.Input((T, F))
    joined = layers.Concatenate()([layers.LSTM(U)(a), layers.GRU(U)(b)])
    second = x.copy()
    second[1, 6, 0] = np.nan
    return _compiled(keras.Model([a, b], layers.Dense(1)(joined))), [x, second], y, None


class MaskedBy(layers.Layer):
    """Computes a mask from the second input, and hands the first one on as it is."""

    def call(self, inputs):
        return inputs[0] * 1.0

    def compute_mask(self, inputs, mask=None):
        return ops.cast(inputs[1], "bool")


@planted("data", role="x/0", timestep=5, units=(0, 1, 2), samples=(SAMPLE,))
def nan_under_a_mask_comes_out_in_the_backward_pass():
    # The forward pass is finite, as the mask keeps it away; the kernel's gradient is 0 · NaN.
    x, y = _plain()
    x[SAMPLE, 5:] = np.nan
    counts = np.ones((N, T), "float32")
    counts[SAMPLE, 5:] = 0
    a, b = keras.Input((T, F)), keras.Input((T,))
    model = _compiled(keras.Model([a, b], layers.Dense(1)(layers.LSTM(U)(MaskedBy()([a, b])))))
    return model, [x, counts], y, None


@planted("forward", layer="ratio", role="output", timestep=1, units=(2,), samples=(0,))
def nan_in_x_that_is_cleaned_before_another_fault():
    x, y = _plain()
    x = np.abs(x) + 1
    x[3, 3, 0] = np.nan
    x[0, 1, 2] = 0
    clean = layers.Lambda(lambda t: ops.where(ops.isnan(t), 1.0, t), name="clean")
    model = _sequential(clean, layers.Lambda(lambda t: 1 / t, name="ratio"), layers.LSTM(U), layers.Dense(1))
    return model, x, y, None


# -- weights -----------------------------------------------------------------------------------------------


def _bad_weight(kind: str, role: str, gate: str, bidirectional: bool) -> Callable[[], Made]:
    def make() -> Made:
        x, y = _plain()
        ctor, gates = KINDS[kind]
        rnn = layers.Bidirectional(ctor(U), name="rnn") if bidirectional else ctor(U, name="rnn")
        model = _sequential(rnn, layers.Dense(1))
        cell = rnn.backward_layer.cell if bidirectional else rnn.cell
        weight = getattr(cell, role)
        values = weight.numpy()
        values[..., gates.index(gate) * U + 1] = np.nan
        weight.assign(values)
        return model, x, y, None

    return make


for _kind, _role, _gate, _both in (
    ("lstm", "kernel", "input", False),
    ("lstm", "recurrent_kernel", "forget", False),
    ("lstm", "bias", "cell", True),
    ("lstm", "kernel", "output", True),
    ("gru", "kernel", "update", False),
    ("gru_before", "recurrent_kernel", "new", True),
    ("gru", "bias", "reset", False),
    ("simplernn", "recurrent_kernel", "hidden", False),
):
    _case(
        f"bad_{_kind}_{_role}_{_gate}{'_backward' if _both else ''}",
        _bad_weight(_kind, _role, _gate, _both),
        "weights",
        layer="rnn",
        direction="backward" if _both else "forward",
        role=_role,
        gate=_gate,
        units=(1,),
    )


@planted("weights", layer="tokens", role="embeddings", units=(2,))
def bad_embedding_row_that_is_used():
    return _embedding(row=3)


@planted("forward", layer="ratio", role="output", units=(0,), samples=(0, 1, 2, 3))
def bad_embedding_row_that_is_not_used():
    return _embedding(row=8)


def _embedding(row: int) -> Made:
    rng = _rng()
    tokens = rng.integers(1, 8, (N, T))
    tokens[1, 2] = 3
    embedding = layers.Embedding(9, 4, name="tokens")
    ratio = layers.Lambda(lambda t: t / (t - t) if row == 8 else t, name="ratio")
    model = _sequential(embedding, layers.LSTM(U), layers.Dense(1), ratio, shape=(T,))
    values = embedding.embeddings.numpy()
    values[row, 2] = np.nan
    embedding.embeddings.assign(values)
    return model, tokens, rng.normal(size=(N, 1)), None


@planted("weights", layer="norm", role="gamma", units=(0,))
def bad_gamma():
    x, y = _plain()
    norm = layers.BatchNormalization(name="norm")
    model = _sequential(layers.LSTM(U), norm, layers.Dense(1))
    norm.gamma.assign([np.nan, 1, 1])
    return model, x, y, None


@planted("weights", layer="rnn", direction="forward", role="kernel", gate="input", units=(0, 1, 2))
def every_weight_is_nan():
    x, y = _plain()
    model = _sequential(layers.LSTM(U, name="rnn"), layers.Dense(1))
    model.set_weights([np.full_like(w, np.nan) for w in model.get_weights()])
    return model, x, y, None


@planted("weights", layer="idle", role="kernel", units=(1,))
def bad_weight_felt_by_its_regularizer_only():
    rng = _rng()
    a, b = keras.Input((2,)), keras.Input((2,))
    idle = layers.Dense(2, kernel_regularizer="l2", name="idle")
    stopped = layers.Lambda(lambda t: ops.zeros_like(t))(idle(b))
    model = _compiled(keras.Model([a, b], layers.Dense(1)(layers.Add()([a, stopped]))))
    idle.kernel.assign([[1, np.inf], [1, 1]])
    x = rng.normal(size=(2, N, 2)).astype("float32")
    return model, list(x), rng.normal(size=(N, 1)), None


# -- loss ------------------------------------------------------------------------------------------------


def _log_loss(y_true, y_pred):
    return -ops.mean(ops.log(y_pred) * y_true, axis=-1)


@planted("loss", role="loss", samples=(1,))
def log_of_zero_in_a_custom_loss():
    x, _ = _plain()
    sequence, factor = keras.Input((T, F)), keras.Input((1,))
    positive = layers.Dense(1, activation="sigmoid")(layers.LSTM(U)(sequence))
    model = _compiled(keras.Model([sequence, factor], layers.Multiply()([positive, factor])), _log_loss)
    given = np.ones((N, 1), "float32")
    given[1] = 0
    return model, [x, given], np.ones((N, 1), "float32"), None


@planted("loss", role="loss", timestep=3, samples=(SAMPLE,))
def loss_of_a_sequence():
    x, _ = _plain()
    model = _sequential(layers.LSTM(U, return_sequences=True), layers.Dense(1), loss=_inverse_loss)
    y = np.ones((N, T, 1), "float32")
    y[SAMPLE, 3] = 0
    return model, x, y, None


def _inverse_loss(y_true, y_pred):
    return ops.mean(y_pred**2 / y_true, axis=-1)


@planted("loss", role="loss/second", samples=(0,))
def second_of_two_outputs():
    x, y = _plain()
    inputs = keras.Input((T, F))
    h = layers.GRU(U)(inputs)
    outputs = [layers.Dense(1, name="first")(h), layers.Dense(1, name="second")(h)]
    model = _compiled(keras.Model(inputs, outputs), ["mse", _inverse_loss])
    targets = np.ones((N, 1), "float32")
    targets[0] = 0
    return model, x, [y, targets], None


class Penalty(layers.Layer):
    def call(self, x):
        self.add_loss(ops.log(ops.sum(x - x)))
        return x


@planted("loss", layer="penalty", role="loss")
def add_loss_of_a_layer():
    x, y = _plain()
    return _sequential(layers.LSTM(U), Penalty(name="penalty"), layers.Dense(1)), x, y, None


@planted("loss", layer="rnn", role="loss")
def regularizer_overflows():
    x, y = _plain()
    rnn = layers.LSTM(U, kernel_regularizer=keras.regularizers.L2(1e30), name="rnn")
    model = _sequential(rnn, layers.Dense(1))
    rnn.cell.kernel.assign(np.full((F, 4 * U), 1e5))
    return model, x, y, None


@planted("loss", role="loss")
def overflow_in_the_mean():
    x, _ = _plain()
    y = np.full((N, 1), 1.5e19, "float32")  # squared 2.25e38 each; their sum is beyond 3.4e38
    return _sequential(layers.LSTM(U), layers.Dense(1)), x, y, None


class OwnStep(keras.Model):
    """A train step that computes its own loss and never calls `compute_loss`."""

    def train_step(self, data):
        x, y = data[0], data[1]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.math.log(y) * self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


@planted("loss", role="loss")
def loss_of_a_custom_train_step():
    x, y = _plain()
    inputs = keras.Input((T, F))
    model = _compiled(OwnStep(inputs, layers.Dense(1)(layers.LSTM(U)(inputs))))
    y = np.abs(y)
    y[0] = 0
    return model, x, y, None


# -- backward ------------------------------------------------------------------------------------------------


@planted("backward", layer="root", role="input", units=(1,), samples=(SAMPLE,))
def square_root_at_zero():
    rng = _rng()
    x = rng.uniform(1, 2, (N, 2)).astype("float32")
    x[SAMPLE, 1] = 0
    first = layers.Dense(2, name="first")
    model = _sequential(first, layers.Lambda(ops.sqrt, name="root"), layers.Dense(1), shape=(2,))
    first.set_weights([np.eye(2), np.zeros(2)])
    return model, x, rng.normal(size=(N, 1)), None


@planted("backward", layer="norm", role="input", timestep=2, units=(0, 1, 2), samples=(1,))
def norm_of_zero_over_a_sequence():
    x, y = _plain()
    x[1, 2] = 0
    scale = layers.Dense(F, use_bias=False)
    norm = layers.Lambda(lambda t: ops.sqrt(ops.sum(t**2, axis=-1, keepdims=True)), name="norm")
    return _sequential(scale, norm, layers.LSTM(U), layers.Dense(1)), x, y, None


@planted(
    "backward", layer="rnn", direction="forward", role="h", timestep=T - 5, units=(0,), samples=(SAMPLE,)
)
def exploding_state_gradient():
    # dL/dh_{t-1} = 1e10 · dL/dh_t, from 0.25 at the last timestep: 1e30 / 4, then beyond 3.4e38.
    rnn = layers.SimpleRNN(1, activation="linear", use_bias=False, name="rnn")
    model = _sequential(rnn, shape=(T, 1))
    rnn.set_weights([np.ones((1, 1)), np.full((1, 1), 1e10)])
    return model, np.zeros((N, T, 1), "float32"), _one_target(), None


@planted(
    "backward", layer="rnn", direction="forward", role="c", timestep=T - 5, units=(0,), samples=(SAMPLE,)
)
def exploding_cell_state_gradient():
    return _linear_lstm([0, 1e10, 0, 1])


@planted(
    "backward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="cell",
    timestep=T - 1,
    units=(0,),
    samples=(SAMPLE,),
)
def gradient_of_the_cell_gate():
    return _linear_lstm([1e20, 0, 0, 1e20])


@planted(
    "backward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="input",
    timestep=T - 1,
    units=(0,),
    samples=(SAMPLE,),
)
def gradient_of_the_input_gate():
    return _linear_lstm([0, 0, 1e20, 1e20])


@planted(
    "backward",
    layer="rnn",
    direction="backward",
    role="gates",
    gate="cell",
    timestep=0,
    units=(0,),
    samples=(SAMPLE,),
)
def gradient_in_a_backward_layer():
    return _linear_lstm([1e20, 0, 0, 1e20], go_backwards=True)


def _linear_lstm(bias: list[float], **options: Any) -> Made:
    """One unit whose gates are the biases: nothing goes in, and the state stays 0."""
    rnn = layers.LSTM(1, activation="linear", recurrent_activation="linear", name="rnn", **options)
    model = _sequential(rnn, shape=(T, 1))
    rnn.set_weights([np.zeros((1, 4)), np.zeros((1, 4)), np.array(bias)])
    return model, np.zeros((N, T, 1), "float32"), _one_target(), None


def _one_target() -> np.ndarray:
    """A target that only one sample misses, by 0.5: dL/dy is 0.25 there and 0 elsewhere."""
    y = np.zeros((N, 1), "float32")
    y[SAMPLE] = -0.5
    return y


@planted(
    "backward",
    layer="rnn",
    direction="forward",
    role="gates",
    gate="new",
    timestep=T - 4,
    units=(0,),
    samples=(SAMPLE,),
)
def gradient_of_the_new_gate_of_a_gru():
    # dL/dh_t = 0.25e30 at T - 4; there dL/dnew = (1 - update) · dL/dh is beyond 3.4e38 before dL/dh_{t-1} is.
    rnn = layers.GRU(1, activation="linear", recurrent_activation="linear", reset_after=False, name="rnn")
    model = _sequential(rnn, shape=(T, 1))
    rnn.set_weights([np.zeros((1, 3)), np.zeros((1, 3)), np.array([1e10, 0, 0])])
    return model, np.zeros((N, T, 1), "float32"), _one_target(), None


@planted("backward", layer="first", role="kernel", units=(0,))
def gradient_of_a_kernel_overflows():
    # dL/dkernel = x · dL/dy: 1e20 · 1e20 for the only sample that misses its target, by 2e20 / N … of 1e20.
    x = np.zeros((N, 1), "float32")
    x[SAMPLE] = 1e20
    first = layers.Dense(1, use_bias=False, name="first")
    model = _sequential(first, shape=(1,), loss=lambda a, b: ops.sum(a * b, axis=-1))
    first.set_weights([np.zeros((1, 1))])
    y = np.zeros((N, 1), "float32")
    y[SAMPLE] = 1e20
    return model, x, y, None


# -- healthy -------------------------------------------------------------------------------------------------


@healthy
def padded_text():
    rng = _rng()
    tokens = rng.integers(1, 9, (N, T))
    tokens[0], tokens[1, 3:] = 0, 0
    model = _sequential(
        layers.Embedding(9, 4, mask_zero=True),
        layers.Bidirectional(layers.LSTM(U, return_sequences=True)),
        layers.GRU(U, dropout=0.2, recurrent_dropout=0.2),
        layers.Dense(1, activation="sigmoid"),
        shape=(T,),
        loss="binary_crossentropy",
    )
    return model, tokens, rng.integers(0, 2, (N, 1)), None


@healthy
def garbage_under_a_mask():
    x, y = _plain()
    x[1, 4:] = 1e30
    counts = np.ones((N, T), "float32")
    counts[1, 4:] = 0
    a, b = keras.Input((T, F)), keras.Input((T,))
    model = _compiled(keras.Model([a, b], layers.Dense(1)(layers.LSTM(U)(MaskedBy()([a, b])))))
    return model, [x, counts], y, None


@healthy
def mask_of_minus_infinity():
    rng = _rng()
    x = rng.normal(size=(N, 3)).astype("float32")
    scores, mask = keras.Input((3,)), keras.Input((3,))
    softmax = layers.Softmax()(layers.Add()([scores, mask]))
    model = _compiled(keras.Model([scores, mask], layers.Dense(1)(softmax)))
    allowed = np.zeros((N, 3), "float32")
    allowed[:, 2] = -np.inf
    return model, [x, allowed], rng.normal(size=(N, 1)), None


@healthy
def attention_with_a_mask():
    x, y = _plain()
    x[0, 4:] = 0
    inputs = keras.Input((T, F))
    masked = layers.LSTM(4, return_sequences=True)(layers.Masking()(inputs))
    attended = layers.MultiHeadAttention(2, 3)(masked, masked)
    return (
        _compiled(keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(attended)))),
        x,
        y,
        None,
    )


@healthy
def nan_that_a_layer_replaces():
    x, y = _plain()
    x[2, 2] = np.nan
    clean = layers.Lambda(lambda t: ops.where(ops.isnan(t), 0.0, t))
    return _sequential(clean, layers.LSTM(U), layers.Dense(1)), x, y, None


@healthy
def unused_bad_embedding_row():
    rng = _rng()
    embedding = layers.Embedding(9, 4)
    model = _sequential(embedding, layers.LSTM(U), layers.Dense(1), shape=(T,))
    embedding.embeddings.assign(np.where(np.arange(9)[:, None] == 8, np.nan, np.full((9, 4), 0.1)))
    return model, rng.integers(0, 8, (N, T)), rng.normal(size=(N, 1)), None


@healthy
def stateful():
    x, y = _plain()
    inputs = keras.Input(batch_shape=(N, T, F))
    return _compiled(keras.Model(inputs, layers.Dense(1)(layers.LSTM(U, stateful=True)(inputs)))), x, y, None


@healthy
def half_precision_with_loss_scaling():
    x, y = _plain()
    rnn = layers.LSTM(U, dtype="mixed_float16")
    model = _sequential(rnn, layers.Dense(1, dtype="float32"))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=2.0**60), "mse")
    return model, x, y, None


@healthy
def dropout_and_normalisation():
    x, y = _plain()
    return (
        _sequential(
            layers.GaussianNoise(0.1),
            layers.LSTM(U, dropout=0.5, return_sequences=True),
            layers.LayerNormalization(),
            layers.GRU(U, recurrent_dropout=0.5),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(1, kernel_regularizer="l2", activity_regularizer="l1"),
            metrics=["mae"],
        ),
        x,
        y,
        np.array([1, 0, 2, 1], "float32"),
    )


@healthy
def batch_normalisation_of_one_sample():
    x, y = _plain()
    return _sequential(layers.LSTM(U), layers.BatchNormalization(), layers.Dense(1)), x[:1], y[:1], None


@healthy
def saturated_gates():
    # Pre-activations of ±inf, of which the sigmoid is 0 or 1.
    x, y = _spiked(3)
    rnn = layers.LSTM(U, name="rnn")
    model = _sequential(rnn, layers.Dense(1))
    _wire(rnn.cell, "input", 1, LSTM, HUGE)
    return model, x, y, None


@healthy
def convolutional():
    rng = _rng()
    x = rng.normal(size=(N, 3, 5, 5, 2)).astype("float32")
    model = _sequential(
        layers.ConvLSTM2D(2, 3, return_sequences=True, dropout=0.2),
        layers.TimeDistributed(layers.Flatten()),
        layers.SimpleRNN(3, unroll=True, activation="sigmoid"),
        layers.Dense(1),
        shape=(3, 5, 5, 2),
    )
    return model, x, rng.normal(size=(N, 1)), None


@healthy
def several_outputs():
    x, y = _plain()
    inputs = keras.Input((T, F))
    sequence, h, c = layers.LSTM(U, return_sequences=True, return_state=True)(inputs)
    outputs = {"a": layers.Dense(1, name="a")(sequence), "b": layers.Dense(1, name="b")(h + c)}
    model = _compiled(keras.Model(inputs, outputs), {"a": "mse", "b": "mae"}, metrics={"a": ["mae"]})
    return model, x, {"a": np.zeros((N, T, 1), "float32"), "b": y}, None


@healthy
def custom_cells():
    x, y = _plain()
    cells = [RegisteredCell(U), layers.SimpleRNNCell(2), UnknownCell(3)]
    return _sequential(layers.RNN(cells), layers.Dense(1)), x, y, None


@healthy
def softmax_with_certain_predictions():
    rng = _rng()
    head = layers.Dense(3, activation="softmax")
    model = _sequential(layers.LSTM(U), head, loss="sparse_categorical_crossentropy")
    head.bias.assign([200.0, -200.0, 0.0])
    return model, rng.normal(size=(N, T, F)).astype("float32"), np.array([1, 0, 2, 1]), None


@healthy
def unused_output_that_is_infinite():
    x, y = _plain()
    inputs = keras.Input((T, F))
    h = layers.LSTM(U)(inputs)
    side = layers.Lambda(lambda t: t / 0.0, name="side")(h)
    model = _compiled(keras.Model(inputs, [layers.Dense(1, name="used")(h), side]), ["mse", None])
    return model, x, [y, np.zeros((N, U), "float32")], None


@healthy
def custom_train_step():
    x, y = _plain()
    inputs = keras.Input((T, F))
    return _compiled(OwnStep(inputs, layers.Dense(1)(layers.LSTM(U)(inputs)))), x, np.abs(y) + 1, None
