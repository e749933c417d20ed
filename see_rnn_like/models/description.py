"""What was trained, as plain data: the facts a run file keeps about model, optimizer and machine."""

from __future__ import annotations

import datetime
import io
import json
import math
import platform
import subprocess
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from see_rnn_like.models.layout import sites


def describe_model(model: Any) -> dict[str, Any]:
    """Name, size, layers and summary of a model.

    Returns:
        ``name``, ``parameters``, ``layers`` (one dict per layer: path, class, parameters, output_shape,
        trainable), ``summary`` (the text of `model.summary()`) and ``config`` (None if it has none).
    """
    text = io.StringIO()
    model.summary(print_fn=lambda line, **_: text.write(f"{line}\n"), line_length=100)
    return {
        "name": model.name,
        "parameters": _size(model),
        "layers": [_describe_layer(site.path, site.layer) for site in sites(model)],
        "summary": text.getvalue(),
        "config": _config_of(model),
    }


def describe_optimizer(optimizer: Any) -> dict[str, Any]:
    """Class and configuration of an optimizer, learning-rate schedules included."""
    return {"class": type(optimizer).__name__, **_plain(keras.optimizers.serialize(optimizer)["config"])}


def describe_machine() -> dict[str, Any]:
    """Versions, host and the git commit of the working directory, if it is in a repository."""
    return {
        "keras_version": keras.__version__,
        "tensorflow_version": tf.__version__,
        "numpy_version": np.__version__,
        "python_version": platform.python_version(),
        "backend": keras.backend.backend(),
        "host": platform.node(),
        "git_commit": _git_commit(),
    }


def seed_states(model: Any) -> dict[str, list[int]]:
    """Path and state of every seed generator of the model: what is needed to draw its numbers again."""
    return {
        v.path: [int(n) for n in np.ravel(v.numpy())]
        for v in model.variables
        if v.name == "seed_generator_state"
    }


def now() -> str:
    """The time in ISO 8601, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _describe_layer(path: str, layer: Any) -> dict[str, Any]:
    return {
        "path": path,
        "class": type(layer).__name__,
        "parameters": _size(layer),
        "output_shape": _output_shape(layer),
        "trainable": bool(layer.trainable),
    }


def _size(layer: Any) -> int:
    # Not `count_params()`: it refuses subclassed models, which Keras builds without saying so.
    return sum(math.prod(variable.shape) for variable in layer.weights)


def _output_shape(layer: Any) -> str | None:
    # A layer of a subclassed model has no symbolic output, a shared one has several.
    try:
        return str(tf.nest.map_structure(lambda tensor: tuple(tensor.shape), layer.output))
    except (AttributeError, ValueError):
        return None


def _config_of(model: Any) -> Any:
    try:
        return _plain(model.get_config())
    except NotImplementedError:
        return None


def _plain(value: Any) -> Any:
    """Anything as JSON-able data; objects without a JSON form as their text."""
    return json.loads(json.dumps(value, default=str))


def _git_commit() -> str | None:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
