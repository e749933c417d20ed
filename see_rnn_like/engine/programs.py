"""Compiled requests to a model, outside of training: made once, kept as long as the model stays as it is.

A `Request` says what to compute; `run` compiles it for a model, keeps it and runs it, and leaves nothing
behind: variables, states of random generators and the layers' own attributes are what they were.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from see_rnn_like.engine.native import inner_optimizer
from see_rnn_like.engine.untouched import (
    metric_variables,
    state_variables,
    untouched_attributes,
    untouched_variables,
)

#: Compiled requests kept per model; the one not used for longest goes first.
_KEPT_REQUESTS = 32


class Request(ABC):
    """What is to be computed from a model."""

    #: Names the compiled function, for TensorFlow's profiler and messages.
    name: str

    @abstractmethod
    def key(self) -> tuple[Hashable, ...]:
        """Equal for requests that one compiled program answers."""

    @abstractmethod
    def weakly(self) -> Callable[[], Request]:
        """A function that gives the request back and does not keep parts of the model alive."""

    @abstractmethod
    def compute(self, model: Any, kept: list[Any], *data: Any) -> Any:
        """Computes it; this is what is traced.

        Args:
            model: the model.
            kept: receives what the compiled program needs alive besides the model.
            *data: nested tensors.
        """


def run(model: Any, request: Request, *data: Any) -> Any:
    """Answers a request, compiled at the first time. Nothing of the model changes.

    Args:
        model: a built Keras 3 model.
        request: what to compute.
        *data: nested tensors that `request.compute` takes.
    """
    programs = _programs_of(model)
    key = request.key()
    if key not in programs.by_request:
        programs.by_request[key] = _compiled(model, request)
        if len(programs.by_request) > _KEPT_REQUESTS:
            programs.by_request.popitem(last=False)
    programs.by_request.move_to_end(key)
    with untouched_variables([*programs.state, *metric_variables(model)]):
        return programs.by_request[key](*data)


def once(model: Any, key: Hashable, check: Callable[[], None]) -> None:
    """Runs a check unless it has passed for this model in its present form.

    Args:
        model: a built Keras 3 model.
        key: names the check.
        check: raises if it does not pass.
    """
    if key not in _programs_of(model).passed:
        check()
        _programs_of(model).passed.add(key)


def optimizer_of(model: Any) -> Any:
    """The model's optimizer; None if it has none or has never been compiled."""
    return getattr(model, "optimizer", None)


@dataclass
class _Programs:
    """What has been compiled for a model in its present form."""

    form: tuple[Any, ...]
    state: list[Any]
    by_request: OrderedDict[Hashable, Callable[..., Any]] = field(default_factory=OrderedDict)
    passed: set[Hashable] = field(default_factory=set)


_programs: weakref.WeakKeyDictionary[Any, _Programs] = weakref.WeakKeyDictionary()


def _programs_of(model: Any) -> _Programs:
    form = _form(model)
    programs = _programs.get(model)
    if programs is None or programs.form != form:
        programs = _programs[model] = _Programs(form, state_variables(model))
    return programs


class _Program:
    """A request as a function of its data.

    It holds the model and its layers weakly, as the cache that keeps it must not keep them alive. An object
    and not a function: TensorFlow counts retracings per code object, and would warn of those of one request
    in the name of another.
    """

    def __init__(self, model: Any, request: Request) -> None:
        self.__name__ = f"see_rnn_like_{request.name}"
        self._model = weakref.ref(model)
        self._request = request.weakly()
        self._kept: list[Any] = []

    def __call__(self, *data: Any) -> Any:
        model: Any = self._model()
        # Run eagerly, nothing is needed any more once the call is over.
        kept = [] if tf.executing_eagerly() else self._kept
        with untouched_attributes(model._flatten_layers(), kept):
            return self._request().compute(model, kept, *data)


def _compiled(model: Any, request: Request) -> Callable[..., Any]:
    program = _Program(model, request)
    return program if model.run_eagerly else tf.function(program, autograph=False, reduce_retracing=True)


_LOSS_AND_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor")


def _form(model: Any) -> tuple[Any, ...]:
    """What a compiled request depends on: it is dropped when any of this changes.

    Plain attributes of every layer are part of it (rates, flags, activations), so that changing one is seen.
    """
    optimizer = optimizer_of(model)
    inner = inner_optimizer(optimizer)
    compiled = (
        _reference(optimizer),
        # A loss scale is a constant until the optimizer is built, then a variable.
        optimizer.built if inner is not optimizer else None,
        tuple(getattr(inner, name, None) for name in _LOSS_AND_CLIPPING),
        _reference(getattr(model, "_compile_loss", None)),
        model.run_eagerly,
        model.trainable,
    )
    layers = tuple(
        (id(layer), _plain_attributes(layer)) for layer in model._flatten_layers(include_self=False)
    )
    return compiled, layers, tuple((id(v), v.trainable) for v in model.variables)


def _reference(thing: Any) -> Hashable:
    return None if thing is None else weakref.ref(thing)


_PLAIN = bool | int | float | complex | str | np.generic

#: Attributes that change without changing what a layer computes.
_PASSING = frozenset({"_called", "_self_update_uid"})


def _plain_attributes(owner: Any) -> tuple[Any, ...]:
    marks = ((name, _mark(value)) for name, value in vars(owner).items() if name not in _PASSING)
    return tuple((name, mark) for name, mark in marks if mark is not None)


def _mark(value: Any) -> Any:
    """What tells a number, a text, several of them, or a function from another; None for anything else."""
    if isinstance(value, _PLAIN):
        # NaN equals nothing, its text does.
        return (type(value), repr(value))
    if isinstance(value, tuple | list) and value and all(isinstance(item, _PLAIN) for item in value):
        return (type(value), repr(value))
    return _Same(value) if callable(value) else None


class _Same:
    """Equal to a mark of the very same object only; not to that of one that came to lie at its address.

    The object is held weakly if it allows that: a function may know the model.
    """

    def __init__(self, value: Any) -> None:
        try:
            self._get: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self._get = lambda: value

    def __eq__(self, other: object) -> bool:
        mine = self._get()
        return isinstance(other, _Same) and mine is not None and mine is other._get()

    __hash__ = None  # type: ignore[assignment]
