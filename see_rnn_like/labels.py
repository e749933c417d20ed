"""Names of things: dimensions, roles, kinds, and `TensorKey`, the name of one tensor of a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from see_rnn_like.errors import ArgumentError, one_of

KINDS = ("weight", "update", "gradient", "value")
DIRECTIONS = ("forward", "backward")

#: Written in place of a direction when a layer without one could be misread as having one.
_NO_DIRECTION = "-"


@dataclass(frozen=True, order=True)
class TensorKey:
    """Names one tensor: `layer`, `direction` (recurrent layers only), `role` and `kind`.

    Prints as ``lstm_1/forward/kernel:gradient`` and parses back from it.

    Attributes:
        layer: path of the layer through nested models, joined by ``/`` (``"encoder/lstm_1"``);
            empty for tensors of the whole model such as the loss.
        direction: ``"forward"``, ``"backward"`` or None for what has no direction.
        role: what it is in its layer: ``kernel``, ``recurrent_kernel``, ``bias``, ``output``, …
        kind: one of ``weight``, ``update``, ``gradient``, ``value``.

    Raises:
        ArgumentError: for an unknown direction or kind, an empty role, or ``/`` or ``:`` in the role.

    Example:
        >>> key = TensorKey("encoder/lstm_1", "forward", "kernel", "gradient")
        >>> str(key)
        'encoder/lstm_1/forward/kernel:gradient'
        >>> TensorKey.parse("encoder/lstm_1/forward/kernel:gradient") == key
        True
    """

    layer: str
    direction: str | None
    role: str
    kind: str

    def __post_init__(self) -> None:
        if self.direction is not None and self.direction not in DIRECTIONS:
            raise one_of("direction", self.direction, [*DIRECTIONS, None])
        if self.kind not in KINDS:
            raise one_of("kind", self.kind, KINDS)
        if not self.role or "/" in self.role or ":" in self.role:
            raise ArgumentError(f"role must be a name without '/' and ':'; got {self.role!r}")

    @classmethod
    def parse(cls, text: str) -> TensorKey:
        """Reads a key from its printed form.

        Args:
            text: for example ``"lstm/forward/kernel:gradient"``.

        Returns:
            The key.

        Raises:
            ArgumentError: if `text` is not of the form ``layer[/direction]/role:kind``.
        """
        path, colon, kind = text.rpartition(":")
        if not colon or not path:
            raise ArgumentError(
                f"a tensor key looks like 'lstm/forward/kernel:gradient' (layer/direction/role:kind); "
                f"got {text!r}"
            )
        *layer, role = path.split("/")
        direction = None
        if layer and layer[-1] in (*DIRECTIONS, _NO_DIRECTION):
            last = layer.pop()
            direction = None if last == _NO_DIRECTION else last
        return cls("/".join(layer), direction, role, kind)

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        layer = [self.layer] if self.layer else []
        if self.direction is not None:
            layer.append(self.direction)
        elif self.layer.rpartition("/")[2] in (*DIRECTIONS, _NO_DIRECTION):
            layer.append(_NO_DIRECTION)
        return "/".join([*layer, self.role]) + f":{self.kind}"

    def __repr__(self) -> str:
        return f"TensorKey({str(self)!r})"


def weight_dims(ndim: int) -> tuple[str, ...]:
    """Dimension names of a weight without gates: the last axis counts units, a matrix's first inputs.

    Example:
        >>> weight_dims(2), weight_dims(1), weight_dims(3)
        (('input', 'unit'), ('unit',), ('axis_0', 'input', 'unit'))
    """
    if ndim < 2:
        return ("unit",)[:ndim]
    return (*(f"axis_{i}" for i in range(ndim - 2)), "input", "unit")


def output_dims(ndim: int) -> tuple[str, ...]:
    """Dimension names of a layer's output: samples first, units last, time second if there are three.

    Example:
        >>> output_dims(2), output_dims(3), output_dims(4)
        (('sample', 'unit'), ('sample', 'time', 'unit'), ('sample', 'axis_1', 'axis_2', 'unit'))
    """
    if ndim <= 2:
        return ("sample", "unit")[:ndim]
    if ndim == 3:
        return ("sample", "time", "unit")
    return ("sample", *(f"axis_{i}" for i in range(1, ndim - 1)), "unit")
