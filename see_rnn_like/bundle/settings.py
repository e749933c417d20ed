"""Keras's global settings, which a model that is built again depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from see_rnn_like.errors import StoreError

#: Name → how it is asked for and how it is set.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "floatx": (keras.config.floatx, keras.config.set_floatx),
    "epsilon": (keras.config.epsilon, keras.config.set_epsilon),
    "image_data_format": (keras.config.image_data_format, keras.config.set_image_data_format),
    # By name: the object belongs to the process.
    "dtype_policy": (lambda: keras.config.dtype_policy().name, keras.config.set_dtype_policy),
}


def current_settings() -> dict[str, Any]:
    """Name → value of all of them."""
    return {name: ask() for name, (ask, _) in SETTINGS.items()}


@contextmanager
def set_to(settings: Mapping[str, Any]) -> Iterator[None]:
    """Sets them for a while.

    Args:
        settings: as `current_settings` returned them, perhaps in another process; not trusted.

    Raises:
        StoreError: if Keras knows no such value.
    """
    before = current_settings()
    try:
        _set(settings)
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, Any]) -> None:
    try:
        for name, (_, put) in SETTINGS.items():
            put(settings[name])
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"the bundle was made with settings that Keras {keras.__version__} does not have: "
            f"{settings!r:.200} ({str(error).partition(chr(10))[0]:.100})"
        ) from error
