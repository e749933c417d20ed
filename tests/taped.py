"""A second computation of what the monitor records: a twin of the model, trained eagerly by a plain tape.

A `Training` is a model, what `fit` is told, and the batches that `fit` then feeds, written down by hand.
`checked` trains it bare, watched and by hand, and compares.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from networks import different, state

from see_rnn_like import RNNMonitor

#: ``(x, y, sample_weight)``; None for a call that finds no data left, which Keras's function may count.
Batch = tuple[Any, Any, Any] | None


@dataclass
class Training:
    """A compiled model, and of each fit the arguments and ``(x, y, sample_weight)`` of every step in order.

    Attributes:
        between: what is done to the model between two fits.
    """

    model: Any
    fits: list[dict[str, Any]]
    batches: list[list[Batch]]
    between: Callable[[Any], None] = lambda model: None

    def then(self, other: Training, between: Callable[[Any], None] = lambda model: None) -> Training:
        """This training, followed by the fits of another one of the same model."""
        return Training(self.model, [*self.fits, *other.fits], [*self.batches, *other.batches], between)


def on_arrays(model, x, y, sample_weight=None, *, batch_size=8, epochs=2, weighed_as=None, **fit):
    """Training on arrays, unshuffled.

    Args:
        weighed_as: the weights of samples that other arguments of `fit` amount to.
    """
    told = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": batch_size, "epochs": epochs}
    weights = sample_weight if weighed_as is None else weighed_as
    rounds = epochs - fit.get("initial_epoch", 0)
    batches = sliced(x, y, weights, batch_size) * rounds
    return Training(model, [{**told, "shuffle": False, **fit}], [batches])


def on_batches(model, data, batches, **fit):
    """Training on anything that yields these batches."""
    return Training(model, [{"x": data, "shuffle": False, **fit}], [batches])


def sliced(x, y, sample_weight=None, batch_size=8):
    """Batches of one epoch, the last one as small as it comes."""
    starts = range(0, len(tf.nest.flatten(x)[0]), batch_size)
    return [each(lambda a: a[i : i + batch_size], (x, y, sample_weight)) for i in starts]  # noqa: B023


def each(change, data):
    """Data of the same structure, None left as it is."""
    return tf.nest.map_structure(lambda a: None if a is None else change(a), data)


def momentum(**options):
    """Linear in its gradients, unlike Adam, so that differences of rounding stay small; with slots."""
    return keras.optimizers.SGD(0.05, momentum=0.9, **options)


def small(kind=keras.Sequential, *, inputs=(6, 3), dtype=None, **compiling):
    """SimpleRNN -> Dense: the quickest recurrent network to compile."""
    rnn, head = layers.SimpleRNN(4, name="rnn", dtype=dtype), layers.Dense(1, name="head", dtype=dtype)
    model = kind([keras.Input(inputs), rnn, head])
    model.compile(**{"optimizer": momentum(), "loss": "mse", "metrics": ["mae"], **compiling})
    return model


# -- by hand ------------------------------------------------------------------------------------


@dataclass
class Step:
    """One step by hand.

    Attributes:
        tag: the optimizer's count before it.
        applied: False if it was skipped because a gradient overflowed.
        tensors: by the names the monitor has for them.
        optional: names of those that no backward pass has to come by.
    """

    tag: int
    applied: bool
    tensors: dict[str, np.ndarray]
    optional: set[str]


@dataclass
class Twin:
    """A model of the same weights that is trained step by step."""

    model: Any
    done: int = 0
    owed: set[str] = field(default_factory=set)

    def steps(self, batches):
        """Trains on the batches and tells every step."""
        self.owed = set()
        if not self.model.built:
            self.model(each(keras.ops.convert_to_tensor, batches[0][0]))
        return [self.step(*batch) for batch in batches if batch is not None or self._counted()]

    def _counted(self):
        self.model.optimizer.iterations.assign_add(1)
        self.done += 1
        return False

    def step(self, x, y, sample_weight):
        """One step of plain Keras calls under a plain tape."""
        model, optimizer = self.model, self.model.optimizer
        x, y, sample_weight = each(keras.ops.convert_to_tensor, (x, y, sample_weight))
        before = {name: v.numpy() for name, v in weights_of(model).items()}
        with calls() as seen, tf.GradientTape(persistent=True) as tape:
            predicted = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=predicted, sample_weight=sample_weight)
            scaled = optimizer.scale_loss(loss)
        scale = float(scaled / loss)
        outputs = named_outputs(model, seen)
        trained = list(model.trainable_variables)
        found = tape.gradient(scaled, [*outputs.values(), *trained])
        owed = self._owed(tape, outputs, trained)
        flows = dict(zip(outputs, found, strict=False))
        slots = {id(v): name for name, v in weights_of(model).items()}
        received = {slots[id(v)]: g for v, g in zip(trained, found[len(outputs) :], strict=True)}
        applied = scale == 1 or all(np.isfinite(dense(g)).all() for g in received.values())
        optimizer.apply(found[len(outputs) :], trained)
        after = {name: v.numpy() for name, v in weights_of(model).items()}
        tensors = {"loss:value": np.asarray(loss)}
        for name, tensor in outputs.items():
            if "/logits" not in name or flows[name] is not None:
                tensors[f"{name}:value"] = in_input_order(name, dense(tensor), model)
            if flows[name] is not None:
                tensors[f"{name}:gradient"] = in_input_order(name, dense(flows[name]) / scale, model)
        tensors |= {f"{n}:gradient": dense(g) / scale for n, g in received.items() if g is not None}
        tensors |= {f"{name}:weight": array for name, array in before.items()}
        tensors |= {f"{name}:update": after[name] - array for name, array in before.items()}
        told = Step(self.done, applied, tensors, {f"{name}:gradient" for name in outputs.keys() - owed})
        self.done += applied
        return told

    def _owed(self, tape, outputs, trained):
        """Outputs that lie behind something trainable: only there does a backward pass come by."""
        for name in outputs.keys() - self.owed:
            reached = tape.gradient(outputs[name], trained)
            if any(gradient is not None for gradient in reached):
                self.owed.add(name)
        return self.owed


def dense(tensor):
    """An array of float32 at least, of slices too."""
    array = np.asarray(tf.convert_to_tensor(tensor))
    return array if array.dtype in (np.float32, np.float64) else array.astype("float32")


@contextlib.contextmanager
def calls():
    """Layers and what they returned, in the order in which they were called in the block."""
    seen: list[tuple[Any, Any]] = []
    call = layers.Layer.__call__

    def spied(self, *args, **kwargs):
        # A copy: where a state is also an element of the sequence, eager tensors are one and the same.
        outputs = tf.nest.map_structure(copied, call(self, *args, **kwargs))
        seen.append((self, outputs))
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers.Layer, "__call__", spied)
        yield seen


def copied(tensor):
    """A tensor of its own with the marks that Keras left on it."""
    copy = tf.identity(tensor)
    for name in ("_keras_mask", "_keras_logits"):
        if hasattr(tensor, name):
            setattr(copy, name, getattr(tensor, name))
    return copy


def named_outputs(model, seen):
    """Name → tensor for the floating-point outputs of named layers, uses of a shared one told apart."""
    names, found, used = names_of(model), {}, {}
    for layer, outputs in seen:
        if id(layer) not in names:
            continue
        use = used.get(id(layer), 0)
        used[id(layer)] = use + 1
        for index, tensor in enumerate(tf.nest.flatten(outputs)):
            if not tensor.dtype.is_floating:
                continue
            suffix = (f"_{index}" if index else "") + (f"@{use}" if use else "")
            found[f"{names[id(layer)]}/output{suffix}"] = tensor
            if getattr(tensor, "_keras_logits", None) is not None:
                found[f"{names[id(layer)]}/logits{suffix}"] = tensor._keras_logits
    return found


def names_of(model):
    """Id of a layer → what its outputs go by: path through nested models, and direction."""
    return {id(layer): name for name, layer, _ in walk(model)}


def walk(owner, prefix=""):
    """``(name, layer, path)`` of the layers whose outputs can be seen, nested ones after their owner."""
    inner = list(owner.layers if isinstance(owner, keras.Model) else owner._flatten_layers(False, False))
    both = [layer for layer in inner if isinstance(layer, layers.Bidirectional)]
    within = {id(one) for layer in both for one in (layer.forward_layer, layer.backward_layer)}
    for layer in inner:
        path = prefix + layer.name
        if isinstance(layer, layers.InputLayer) or id(layer) in within:
            continue
        if isinstance(layer, layers.Bidirectional):
            yield f"{path}/forward", layer.forward_layer, path
            yield f"{path}/backward", layer.backward_layer, path
            yield path, layer, path
        elif isinstance(layer, layers.RNN):
            yield f"{path}/{'backward' if layer.go_backwards else 'forward'}", layer, path
        elif isinstance(layer, layers.Wrapper):
            yield path, layer, path
        else:
            if not isinstance(layer, keras.Model):
                yield path, layer, path
            yield from walk(layer, f"{path}/")


def weights_of(model):
    """Name → floating-point variable; the cells of stacked ones go by their own names."""
    found = {}
    for name, layer, path in walk(model):
        if isinstance(layer, layers.RNN):
            direction = name.rpartition("/")[2]
            stacked = isinstance(layer.cell, layers.StackedRNNCells)
            for cell in layer.cell.cells if stacked else [layer.cell]:
                owner = f"{path}/{cell.name}" if stacked else path
                found |= {f"{owner}/{direction}/{v.name}": v for v in cell.weights}
        elif not isinstance(layer, layers.Bidirectional):
            inside = {id(v) for one in layer._flatten_layers(False, False) for v in one.weights}
            own = inside if not isinstance(layer, layers.Wrapper) else set()
            recurrent = isinstance(getattr(layer, "layer", None), layers.RNN)
            owner = f"{name}/forward" if recurrent else name
            found |= {f"{owner}/{v.name}": v for v in layer.weights if id(v) not in own}
    return {name: v for name, v in found.items() if "float" in str(v.dtype)}


def in_input_order(name, array, model):
    """Sequences of a layer that runs backwards, turned round."""
    place, _, role = name.rpartition("/")
    layer = next(layer for known, layer, _ in walk(model) if known == place)
    turned = isinstance(layer, layers.RNN) and layer.go_backwards and layer.return_sequences
    return array[:, ::-1] if turned and role.split("@")[0] == "output" else array


# -- comparing ----------------------------------------------------------------------------------


def checked(make, *, every=2, rtol=1e-4, atol=1e-6, **monitor):
    """Trains bare, watched and by hand; asserts that training is untouched, tags and values are exact.

    Args:
        make: returns a fresh `Training`.
        every: of the monitor.
        rtol: relative tolerance of values, under `atol` times the largest value.
        atol: see `rtol`.
        monitor: further arguments of the monitor.

    Returns:
        The run, and the steps by hand.
    """
    bare, history = fitted(make)
    watching = RNNMonitor(every=every, level="full", strict=True, **monitor)
    watched, watched_history = fitted(make, watching)
    np.testing.assert_equal(watched_history, history)
    np.testing.assert_equal(different(state(bare), state(watched)), [])
    told = by_hand(fresh(make))
    assert_recorded(watching.run, told, every=every, rtol=rtol, atol=atol)
    return watching.run, told


def fresh(make):
    """A training from the same seed as all others."""
    # Automatic names are the same too: by them TensorFlow orders what it adds up.
    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    return make()


def fitted(make, *callbacks):
    """The model of a training that has run, and its histories."""
    training, histories = fresh(make), []
    for number, fit in enumerate(training.fits):
        if number:
            training.between(training.model)
        told = {**fit, "callbacks": [*callbacks, *fit.get("callbacks", [])]}
        histories.append(training.model.fit(**told, verbose=0).history)
    return training.model, histories


def by_hand(training):
    """Every step of a training by hand."""
    twin = Twin(training.model)
    told = twin.steps(training.batches[0])
    for batches in training.batches[1:]:
        training.between(training.model)
        told += twin.steps(batches)
    return told


def assert_recorded(run, told, *, every, rtol=1e-4, atol=1e-6):
    """The run holds the applied steps that are due, each with all its tensors and no others."""
    due = [step for step in told if step.applied and step.tag % every == 0]
    np.testing.assert_equal(run.steps, [step.tag for step in due])
    np.testing.assert_equal([e.message for e in run.events if e.kind == "capture-off"], [])
    values = {str(key): dict(run.load(key, "value")) for key in run.keys()}  # noqa: SIM118
    for step in due:
        found = {name for name, by_step in values.items() if step.tag in by_step}
        assert not found - step.tensors.keys(), found - step.tensors.keys()
        assert not step.tensors.keys() - found - step.optional, step.tensors.keys() - found - step.optional
        for name in found:
            expected = step.tensors[name]
            largest = max(1.0, float(abs(expected).max(initial=0)))
            np.testing.assert_allclose(
                values[name][step.tag].reshape(expected.shape).astype(expected.dtype),
                expected,
                rtol=rtol,
                atol=atol * largest,
                err_msg=f"{name} at step {step.tag}",
            )
