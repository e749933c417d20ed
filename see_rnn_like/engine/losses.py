"""The loss of a model on a batch outside of training, scaled as the train step scales it."""

from __future__ import annotations

import concurrent.futures
import inspect
from typing import Any

import tensorflow as tf

from see_rnn_like.engine.taps import replaced


def forward(model: Any, x: Any, training: bool) -> Any:
    """Calls the model as Keras's own `train_step` and `predict_step` do."""
    return model(x, training=training) if model._call_has_training_arg else model(x)


def compiled_loss(
    model: Any, kept: list[Any], x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool
) -> Any:
    """What `model.compute_loss` returns, regularisation included, without adding metrics to the model.

    Args:
        model: compiled.
        kept: receives what the traced loss needs alive.
        x: inputs of the batch.
        y: targets of the batch.
        y_pred: what the model returned for `x`.
        sample_weight: weights of the samples, or None.
        training: whether the model ran in training mode.
    """
    arguments = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
    # `training` joined the signature in Keras 3.3; overrides may still be without.
    if "training" in inspect.signature(model.compute_loss).parameters:
        arguments["training"] = training
    compiled = getattr(model, "_compile_loss", None)
    if compiled is None or compiled.built:
        return model.compute_loss(**arguments)
    # Keras builds the compiled loss at its first use, which adds metrics to the model: build another one.
    another = type(compiled)(
        compiled._user_loss, compiled._user_loss_weights, compiled.reduction, compiled.output_names
    )
    # Its metrics are variables, which a traced function may not make; another thread is not in the trace.
    with concurrent.futures.ThreadPoolExecutor(1) as outside:
        outside.submit(another.build, y, y_pred).result()
    kept.append(another)
    with replaced(model, "_compile_loss", another):
        return model.compute_loss(**arguments)


def scaled(optimizer: Any, loss: Any) -> tuple[Any, Any]:
    """The loss as the train step differentiates it, and the factor it was multiplied by (None for 1)."""
    if optimizer is None:
        return loss, None
    one = tf.ones((), loss.dtype)
    scale = optimizer.scale_loss(one)
    return (loss, None) if scale is one else (optimizer.scale_loss(loss), scale)


def unscaled(gradient: Any, scale: Any) -> Any:
    """Divides the loss scale out, in float32: what was scaled may be too small for float16 without."""
    if gradient is None or scale is None:
        return gradient
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(unscaled(gradient.values, scale), gradient.indices, gradient.dense_shape)
    wide = tf.cast(gradient, tf.float32) if gradient.dtype.size < 4 else gradient
    return wide / tf.cast(scale, wide.dtype)
