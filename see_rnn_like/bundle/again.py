"""Running the train step of a bundle again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import xarray as xr

from see_rnn_like.bundle.contents import Bundle, read
from see_rnn_like.bundle.settings import set_to
from see_rnn_like.bundle.state import put_in, variables_of
from see_rnn_like.engine.untouched import untouched_variables
from see_rnn_like.errors import SeeRNNError, StoreError
from see_rnn_like.extract.nonfinite import examine
from see_rnn_like.findings import Autopsy
from see_rnn_like.models.layout import require_keras_model
from see_rnn_like.models.trusted import build


def replay(
    directory: str | os.PathLike[str] | Bundle,
    model: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> Autopsy | None:
    """Runs the train step of a replay bundle again and looks for the first non-finite tensor.

    The bundle may come from a stranger: only Keras's own layers that compute and do nothing else are built
    from it, and code that is handed in here.

    Args:
        directory: of the bundle, or what `bundle.read` returned.
        model: the model the bundle is from, built and compiled as it was; its variables are put back
            afterwards. By default it is built from the configuration in the bundle.
        custom_objects: name → class or function of your own that the model needs.

    Returns:
        What is found, or None if everything is finite this time.

    Raises:
        UntrustedModelError: if the model needs code that was not handed in, or that no bundle may run.
        StoreError: if there is no whole bundle, or `model` is another model.

    Example:
        >>> replay("runs/a/nan-step-1284").where.layer  # doctest: +SKIP
        'lstm_1'
    """
    bundle = directory if isinstance(directory, Bundle) else read(directory)
    with set_to(bundle.settings):
        if model is None:
            model = rebuilt(bundle, custom_objects)
        require_keras_model(model)
        with untouched_variables(variables_of(model)):
            put_in(model, bundle.state)
            return _found(model, bundle)


def rebuilt(bundle: Bundle, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The model of a bundle, built from its configuration; see `replay`.

    Raises:
        UntrustedModelError: if it needs code that was not handed in, or that no bundle may run.
        StoreError: if there is no configuration, or Keras cannot build it.
    """
    if bundle.config is None:
        raise StoreError(
            f"'{bundle.directory}' can be replayed only with its model: {bundle.obstacle}; build and compile "
            "the model as it was and hand it in: replay(directory, model=model)"
        )
    return build(bundle.config, custom_objects)


def _found(model: Any, bundle: Bundle) -> Autopsy | None:
    try:
        return examine(model, bundle.batch, step=bundle.autopsy.where.step, trail=_trail(bundle.autopsy))
    except SeeRNNError:
        raise
    except Exception as error:  # whatever the model's own code raises on data that is not its own
        raise StoreError(
            f"the step of '{bundle.directory}' cannot be run again: {type(error).__name__}: "
            f"{' '.join(str(error).split()):.300}"
        ) from error


def _trail(autopsy: Autopsy) -> xr.DataArray | None:
    return autopsy.trail if autopsy.trail.size else None
