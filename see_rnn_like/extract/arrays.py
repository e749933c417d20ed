"""Tensors to NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_numpy(tensor: Any) -> np.ndarray:
    """A NumPy copy of a tensor or variable, in its own dtype; bfloat16, which NumPy lacks, as float32.

    Example:
        >>> import keras
        >>> to_numpy(keras.ops.ones((2,), "bfloat16")).dtype
        dtype('float32')
    """
    values = np.asarray(tensor.numpy())  # a copy: TensorFlow never hands out its own memory
    return values.astype("float32") if values.dtype.name == "bfloat16" else values
