"""What a replay bundle holds: writing one, and reading one without running anything in it."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from see_rnn_like.bundle.arrays import flattened, packed, unflattened, unpacked
from see_rnn_like.bundle.autopsies import autopsy_from_json, autopsy_to_json
from see_rnn_like.bundle.directory import read_directory, read_file, read_sums, write_directory
from see_rnn_like.bundle.readme import readme
from see_rnn_like.bundle.settings import current_settings
from see_rnn_like.bundle.state import Variable, state_of
from see_rnn_like.bundle.values import decode, encode
from see_rnn_like.errors import DamagedStoreError, StoreVersionError, UntrustedModelError
from see_rnn_like.findings import Autopsy
from see_rnn_like.models.description import describe_machine, describe_model, now
from see_rnn_like.models.trusted import custom_names
from see_rnn_like.store.codec import from_json, to_json

FORMAT = "see_rnn_like replay bundle"

#: Version of the files below and of what is in them.
VERSION = 1

MANIFEST, MODEL, AUTOPSY, BATCH, STATE, README = (
    *("bundle.json", "model.json", "autopsy.json"),
    *("batch.bin", "state.bin", "README.txt"),
)
FILES = (MANIFEST, MODEL, AUTOPSY, BATCH, STATE, README)

#: Facts about the machine that matter to a replay.
_VERSIONS = ("keras_version", "tensorflow_version", "numpy_version", "python_version", "backend")


@dataclass(frozen=True, eq=False)
class Bundle:
    """A train step that went bad, with all that is needed to run it again.

    Attributes:
        directory: where it was read.
        autopsy: what was found.
        batch: the data of the step as `model.train_step` takes it, in NumPy arrays; texts are bytes.
        state: every variable of the model and its optimizers before the step.
        config: the model as `keras.saving.serialize_keras_object` gives it, compile options included; None
            if it cannot be had. Not trusted: nothing but `models.trusted.build` may turn it into a model.
        obstacle: why `config` is None.
        custom_objects: names of the classes and functions the model needs besides Keras's own.
        model: ``name``, ``parameters``, ``layers`` and ``summary`` of the model.
        settings: Keras's global settings (`bundle.settings.SETTINGS`).
        versions: ``keras_version``, ``tensorflow_version``, ``numpy_version``, ``python_version``,
            ``backend``, ``see_rnn_like_version``.
        created: the time in ISO 8601, UTC.
    """

    directory: Path
    autopsy: Autopsy
    batch: Any
    state: list[Variable]
    config: Any
    obstacle: str | None
    custom_objects: list[str]
    model: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    created: str


def write(directory: str | os.PathLike[str], model: Any, data: Any, autopsy: Autopsy) -> Path:
    """Writes a replay bundle: whole, or not at all, also if the process is killed meanwhile.

    Args:
        directory: the directory to make, such as ``runs/a/nan-step-1284``; if there is one of that name,
            ``-2``, ``-3``, … is appended.
        model: a built Keras model, in the state before the step.
        data: the batch as `model.train_step` takes it: tensors in tuples, lists and dicts.
        autopsy: what was found.

    Returns:
        The directory.

    Raises:
        StoreError: if the place cannot be written to, or is full.
        ArgumentTypeError: if the batch holds something else than dense tensors.

    Example:
        >>> import tempfile, keras, numpy as np
        >>> from see_rnn_like import find_nonfinite
        >>> model = keras.Sequential([keras.Input((4, 2)), keras.layers.LSTM(3), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((5, 4, 2), "float32"), np.full((5, 1), np.nan, "float32")
        >>> autopsy = find_nonfinite(model, x, y)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     bundle = read(write(f"{place}/nan-step-0", model, (x, y), autopsy))
        >>> bundle.autopsy.where.role, bundle.batch[0].shape
        ('y', (5, 4, 2))
    """
    target = Path(directory).expanduser().absolute()
    structure, arrays = flattened(data)
    batch_index, batch = packed(arrays, _labels("batch", len(arrays)))
    state = state_of(model)
    state_index, numbers = packed([one.value for one in state], _labels("state", len(state)))
    config, obstacle = _config_of(model)
    description = describe_model(model)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "created": now(),
        "versions": versions(),
        "settings": current_settings(),
        "batch": {"structure": structure, "arrays": batch_index},
        "state": [
            {"group": one.group, "path": one.path, **entry}
            for one, entry in zip(state, state_index, strict=True)
        ],
    }
    about = {
        "config": config,
        "obstacle": obstacle,
        "custom_objects": [] if config is None else custom_names(decode(config)),
        "about": {name: description[name] for name in ("name", "parameters", "layers", "summary")},
    }
    files: dict[str, Sequence[bytes | memoryview]] = {
        MANIFEST: [to_json(manifest, "the manifest").encode()],
        MODEL: [to_json(about, "the model").encode()],
        AUTOPSY: [to_json(autopsy_to_json(autopsy), "the autopsy").encode()],
        BATCH: batch,
        STATE: numbers,
        README: [readme(autopsy, about, manifest, target.name).encode()],
    }
    return write_directory(target, files)


def read(directory: str | os.PathLike[str]) -> Bundle:
    """Reads a replay bundle. Nothing in it is run or trusted, so it may come from a stranger.

    Args:
        directory: as `write` made it.

    Returns:
        The bundle, with all arrays in memory.

    Raises:
        StoreError: if there is none, or it cannot be read.
        StoreVersionError: if a newer version of this package wrote it.
        DamagedStoreError: if it is not a bundle, or a file of it is missing, cut off or changed.
    """
    place = Path(directory).expanduser().absolute()
    read_sums(place)
    _require_version(place)
    files = read_directory(place, FILES)
    try:
        return _parsed(place, files)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise DamagedStoreError(
            f"'{place}' is not a replay bundle of format {VERSION}: {str(error) or type(error).__name__:.200}"
        ) from error


def versions() -> dict[str, str]:
    """The versions of what computes, here and now."""
    machine = describe_machine()
    # By name: the front of the package is above everything and imports all of it.
    front = importlib.import_module("see_rnn_like")
    return {**{name: machine[name] for name in _VERSIONS}, "see_rnn_like_version": front.__version__}


def _labels(what: str, count: int) -> list[str]:
    """What each array is, for its checksum."""
    return [f"{what}[{number}]" for number in range(count)]


def _config_of(model: Any) -> tuple[Any, str | None]:
    """The configuration as JSON, or None and why not.

    Tuples become lists, as in every configuration Keras reads from a file.
    """
    try:
        with warnings.catch_warnings():
            # Keras warns of lambdas; they are refused below, with words for the bundle.
            warnings.simplefilter("ignore")
            config = encode(_without_tuples(keras.saving.serialize_keras_object(model)), "the configuration")
        custom_names(decode(config))
    except UntrustedModelError as error:
        return None, str(error).partition(". If you")[0]
    except Exception as error:  # whatever Keras or the model's own `get_config` raises
        first = str(error).strip().partition("\n")[0]
        return None, f"its configuration cannot be had: {type(error).__name__}: {first}"
    return config, None


def _without_tuples(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return [_without_tuples(item) for item in part]
    if isinstance(part, dict):
        return {name: _without_tuples(item) for name, item in part.items()}
    return part


def _require_version(place: Path) -> None:
    """A newer format may have other files, and other checksums of them."""
    try:
        manifest = from_json(read_file(place, MANIFEST).decode())
        version = manifest["version"] if manifest["format"] == FORMAT else None
    except (ValueError, TypeError, KeyError):
        return
    if type(version) is int and version > VERSION:
        raise StoreVersionError(
            f"'{place}' has format {version}, this version of see_rnn_like knows format {VERSION}; "
            "update see_rnn_like"
        )


def _parsed(place: Path, files: dict[str, bytes]) -> Bundle:
    manifest, about, autopsy = (from_json(files[name].decode()) for name in (MANIFEST, MODEL, AUTOPSY))
    if manifest["format"] != FORMAT or manifest["version"] != VERSION:
        raise ValueError(f"it has format {manifest['format']!r:.40}, version {manifest['version']!r:.40}")
    index, state = manifest["batch"]["arrays"], manifest["state"]
    batch = unpacked(index, _labels("batch", len(index)), files[BATCH])
    values = unpacked(state, _labels("state", len(state)), files[STATE])
    return Bundle(
        directory=place,
        autopsy=autopsy_from_json(autopsy, bundle=str(place)),
        batch=unflattened(manifest["batch"]["structure"], batch),
        state=[
            Variable(str(entry["group"]), str(entry["path"]), value)
            for entry, value in zip(state, values, strict=True)
        ],
        config=decode(about["config"]),
        obstacle=about["obstacle"],
        custom_objects=[str(name) for name in about["custom_objects"]],
        model=dict(about["about"]),
        settings=dict(manifest["settings"]),
        versions={str(name): str(version) for name, version in manifest["versions"].items()},
        created=str(manifest["created"]),
    )
