"""Naming what the taps saw: from tensors of a traced step to keys, labels and notes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from see_rnn_like.engine.losses import unscaled
from see_rnn_like.engine.taps import (
    GradientTaps,
    LossTaps,
    OutputTaps,
    TappedOutput,
    numbered_role,
    values_of,
)
from see_rnn_like.errors import CaptureError
from see_rnn_like.history import TensorInfo
from see_rnn_like.labels import TensorKey, output_dims, weight_dims
from see_rnn_like.models.layout import OutputPoint, WeightSlot


@dataclass(frozen=True)
class Note:
    """Something a person should know about what was, or was not, recorded."""

    kind: str
    key: TensorKey | None
    message: str


@dataclass
class Collected:
    """Tensors of one step by the text of their key, what they are, and what is missing.

    Attributes:
        tensors: in the order in which the step made them.
        infos: of the same order; also of tensors of which every replica has a share, see `replicas.Shares`.
        masks: where values are no padding, of those that came with a mask.
        sources: equal for tensors that hold the same values.
        notes: what could not be recorded, and why.
    """

    tensors: dict[str, Any] = field(default_factory=dict)
    infos: list[TensorInfo] = field(default_factory=list)
    masks: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Hashable] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @property
    def held(self) -> list[TensorInfo]:
        """What the tensors are, in their order."""
        return [info for info in self.infos if str(info.key) in self.tensors]

    def keep(self, info: TensorInfo, tensor: Any, mask: Any = None) -> None:
        """Adds a tensor, or a note if it cannot be reached from the step.

        Args:
            info: what it is.
            tensor: its values.
            mask: bool over its leading axes, False where there is padding; None without.

        Raises:
            CaptureError: if there is a tensor of that name already.
        """
        name = str(info.key)
        if name in self.tensors:
            raise CaptureError(f"two tensors of this model would be called {name}")
        if _is_reachable(tensor):
            self.tensors[name] = tensor
            self.infos.append(info)
            self.sources[name] = (_source(tensor), None if mask is None else _name(mask))
            if mask is not None:
                self.masks[name] = mask
        else:
            self.leave_out(
                "not-recorded",
                info.key,
                "computed inside a loop or a tf.function of its own, out of the train step's sight",
            )

    def leave_out(self, kind: str, key: TensorKey, why: str) -> None:
        """Notes that a tensor is missing."""
        self.notes.append(Note(kind, key, f"{key} is not recorded: {why}"))


def collect_outputs(into: Collected, outputs: OutputTaps, points: Sequence[OutputPoint]) -> None:
    """Keeps the outputs, and notes layers that were never called in sight."""
    for output in _shown(outputs):
        into.keep(output_info(output, "value", {}), output.value, not_padding(output))
    called = {id(output.point.source) for output in outputs.seen} | set(outputs.calls)
    for point in points:
        if id(point.source) not in called:
            key = TensorKey(point.layer, point.direction, "output", "value")
            into.leave_out("not-recorded", key, "the train step did not call the layer, or not in its sight")


def leave_out_scalars(into: Collected, outputs: OutputTaps) -> None:
    """Leaves out outputs without a sample axis: of such a number each replica has one of its own."""
    for output in outputs.seen:
        if output.value.shape.rank == 0:
            why = "of a single number without a sample axis every replica has another value"
            into.leave_out("not-recorded", output_info(output, "value", {}).key, why)
    outputs.seen = [output for output in outputs.seen if output.value.shape.rank != 0]


def collect_losses(into: Collected, losses: LossTaps) -> None:
    """Keeps what the model's `compute_loss` returned."""
    for call, value in enumerate(losses.seen):
        tensor = tf.convert_to_tensor(value)
        key = TensorKey("", None, numbered_role("loss", 0, call), "value")
        dims = output_dims(tensor.shape.rank)
        into.keep(TensorInfo(key, dims, tuple(tensor.shape), {}, {"from": "training batch"}), tensor)


def collect_output_gradients(into: Collected, outputs: OutputTaps, scale: Any) -> None:
    """Keeps dL/d(output), last layer first, and notes where none arrived."""
    shown = _shown(outputs)
    by_logits = {
        (o.point, o.role.replace("logits", "output", 1)) for o in shown if o.role.startswith("logits")
    }
    for output in reversed(shown):
        info = output_info(output, "gradient", scale_attrs(scale))
        if len(output.gradients) == 1:
            into.keep(info, unscaled(output.gradients[0], scale), not_padding(output))
        elif output.gradients:
            passes = len(output.gradients)
            into.leave_out("not-recorded", info.key, f"{passes} backward passes of this step reach it")
        elif (output.point, output.role) not in by_logits and output.point.source.trainable_weights:
            # Where nothing trainable lies before, as at a Masking or Dropout in front, no gradient is owed.
            into.leave_out("no-gradient", info.key, "the loss does not depend on it")


def collect_weight_gradients(
    into: Collected, gradients: GradientTaps, slots: Sequence[WeightSlot], scale: Any, attrs: dict[str, Any]
) -> None:
    """Keeps what the optimizer received, last layer first, and notes weights that get no gradient."""
    received: dict[int, Any] = {}
    for gradient, variable in gradients.received:
        if id(variable) in received:
            raise CaptureError(
                f"the optimizer got a gradient for {variable.path} twice in one train step; "
                'record without capture "gradients"'
            )
        received[id(variable)] = gradient
    for slot in reversed(slots):
        if id(slot.variable) not in received:
            continue
        info = weight_info(slot, "gradient", attrs)
        gradient = received[id(slot.variable)]
        if gradient is None:
            into.leave_out("no-gradient", info.key, "the loss does not depend on it")
        else:
            into.keep(info, unscaled(gradient, scale))


def weight_info(slot: WeightSlot, kind: str, attrs: dict[str, Any]) -> TensorInfo:
    """Labels of a weight, its gradient or its update, split by gate where there are gates."""
    shape = tuple(slot.variable.shape)
    if slot.spec is None:
        return TensorInfo(slot.key(kind), weight_dims(len(shape)), shape, {}, attrs)
    dims, split = slot.spec.dims(slot.role, len(shape)), slot.spec.split_shape(slot.role, shape)
    return TensorInfo(slot.key(kind), dims, split, slot.spec.coords(dims, split), attrs)


def output_info(output: TappedOutput, kind: str, attrs: dict[str, Any]) -> TensorInfo:
    """Labels of an output or its gradient."""
    point = output.point
    key = TensorKey(point.layer, point.direction, output.role, kind)
    shape = tuple(output.value.shape)
    attrs = {"from": "training batch", **attrs}
    # A recurrent layer's first tensor is its sequence, if it returns one; what follows are last states.
    if point.direction == "backward" and output.index == 0:
        attrs["time_order"] = "input" if point.reversed_time else "last state only"
    if output.mask is not None:
        left_out = not_padding(output) is not None
        attrs["mask"] = "statistics leave padding out" if left_out else "padding is part of the statistics"
    return TensorInfo(key, output_dims(len(shape)), shape, {}, attrs)


def not_padding(output: TappedOutput) -> Any:
    """Where the values of an output are no padding, bool over its leading axes; None if that is unknown."""
    mask, rank = output.mask, output.value.shape.rank
    if mask is None or not _is_reachable(mask) or mask.shape.rank is None or mask.shape.rank > rank:
        return None
    # Keras masks timesteps in input order; a backward layer makes its sequence in the other.
    turned = output.point.direction == "backward" and output.index == 0 and output.point.reversed_time
    return tf.reverse(mask, [1]) if turned else mask


def scale_attrs(scale: Any) -> dict[str, Any]:
    """What a label says of loss scaling."""
    return {} if scale is None else {"loss_scale": "divided out"}


def _shown(outputs: OutputTaps) -> list[TappedOutput]:
    # Every sigmoid or softmax output carries logits; they matter only where the loss went from them.
    return [o for o in outputs.seen if o.gradients or not o.role.startswith("logits")]


def _source(tensor: Any) -> Hashable:
    """Names the values of a tensor: the same for one that was only reshaped."""
    while tf.is_symbolic_tensor(tensor) and tensor.op.type in _RESHAPING:
        tensor = tensor.op.inputs[tensor.value_index if tensor.op.type == "IdentityN" else 0]
    return _name(tensor)


def _name(tensor: Any) -> Hashable:
    return tensor.name if tf.is_symbolic_tensor(tensor) else id(tensor)


#: Operations that hand values on as they are.
_RESHAPING = frozenset({"Identity", "IdentityN", "Reshape", "StopGradient"})


def _is_reachable(tensor: Any) -> bool:
    values = values_of(tensor)
    return not tf.is_symbolic_tensor(values) or values.graph is tf.compat.v1.get_default_graph()
