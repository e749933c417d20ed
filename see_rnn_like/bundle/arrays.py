"""Nested batches and lists of arrays as one file of raw numbers and a JSON index of what is where."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from see_rnn_like.bundle.values import decode, encode
from see_rnn_like.errors import ArgumentTypeError
from see_rnn_like.store.codec import DTYPES, Packed, from_json, pack, unpack

#: Bytes of one number; the types themselves are those of the run file.
_SIZES = {name: 2 if name == "bfloat16" else np.dtype(name).itemsize for name in DTYPES}

#: What stands in a batch for an array that is in the file, or for an array of texts.
_ARRAY, _TEXTS = "array", "texts"


def packed(arrays: Sequence[np.ndarray], labels: Sequence[str]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The index and the bytes of arrays, one behind the other.

    Raises:
        CaptureError: if one does not hold numbers.
    """
    rows = [pack(array, label) for array, label in zip(arrays, labels, strict=True)]
    index = [{"dtype": row.dtype, "shape": from_json(row.shape), "crc": row.crc} for row in rows]
    return index, [row.data for row in rows]


def unpacked(index: Sequence[Any], labels: Sequence[str], content: bytes) -> list[np.ndarray]:
    """The arrays of a file. Neither the index nor the file is trusted.

    Raises:
        ValueError: if they are not what `packed` made.
    """
    found, start = [], 0
    for entry, label in zip(index, labels, strict=True):
        dtype, shape = entry["dtype"], entry["shape"]
        end = start + _SIZES[dtype] * math.prod(shape)
        row = Packed(dtype, json.dumps(shape), entry["crc"], content[start:end])
        # bfloat16 comes as float32, which holds each of them exactly; here Keras knows the type itself.
        found.append(unpack(row, label).astype(dtype, copy=False))
        start = end
    if start != len(content):
        raise ValueError(f"{len(content)} bytes where the index tells of {start}")
    return found


def flattened(data: Any) -> tuple[Any, list[np.ndarray]]:
    """Takes a batch apart.

    Args:
        data: tensors and arrays in tuples, lists and mappings; None, numbers and strings may be among them.

    Returns:
        The structure as JSON, and the arrays of numbers in it. A named tuple is kept as a tuple, any mapping
        as a dict.

    Raises:
        ArgumentTypeError: if something else is in it, such as a sparse or a ragged tensor.
    """
    arrays: list[np.ndarray] = []
    return _structure(data, arrays), arrays


def unflattened(structure: Any, arrays: Sequence[Any]) -> Any:
    """Puts a batch together again.

    Args:
        structure: as `flattened` returned it.
        arrays: what to put in the place of its arrays, in their order.

    Raises:
        ValueError: if `flattened` cannot have returned it.
    """
    kind, content = structure["kind"], structure["content"]
    if kind == "value":
        return decode(content)
    if kind == _TEXTS:
        texts = [text.encode("latin-1") for text in content["values"]]
        return np.array(texts, object).reshape(content["shape"])
    if kind == _ARRAY:
        return arrays[range(len(arrays))[content]]
    if kind == "dict":
        return {decode(name): unflattened(item, arrays) for name, item in content}
    if kind in ("tuple", "list"):
        items = (unflattened(item, arrays) for item in content)
        return tuple(items) if kind == "tuple" else list(items)
    raise ValueError(f"{kind!r:.40} is no part of a batch")


def shapes(data: Any, place: str = "") -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Place, shape and type of every array of a batch as `read` returns it."""
    if isinstance(data, np.ndarray):
        yield place, data.shape, "string" if data.dtype.kind == "O" else data.dtype.name
    elif isinstance(data, dict):
        for name, item in data.items():
            yield from shapes(item, f"{place}[{name!r}]")
    elif isinstance(data, tuple | list):
        for number, item in enumerate(data):
            yield from shapes(item, f"{place}[{number}]")


def _structure(data: Any, arrays: list[np.ndarray]) -> dict[str, Any]:
    if data is None or isinstance(data, bool | int | float | str):
        return {"kind": "value", "content": encode(data, "a batch")}
    if isinstance(data, Mapping):
        items = [[encode(name, "a batch"), _structure(item, arrays)] for name, item in data.items()]
        return {"kind": "dict", "content": items}
    if isinstance(data, tuple | list):
        kind = "tuple" if isinstance(data, tuple) else "list"
        return {"kind": kind, "content": [_structure(item, arrays) for item in data]}
    array = _as_array(data)
    if array.dtype.kind in "OSU":
        return {"kind": _TEXTS, "content": _texts(array)}
    arrays.append(array)
    return {"kind": _ARRAY, "content": len(arrays) - 1}


def _as_array(leaf: Any) -> np.ndarray:
    # A sparse or ragged tensor would come as a dense one: another batch.
    composite = hasattr(leaf, "dense_shape") or hasattr(leaf, "row_splits")
    if composite or not (keras.ops.is_tensor(leaf) or isinstance(leaf, np.ndarray | np.generic)):
        raise ArgumentTypeError(
            "a bundle keeps batches of dense tensors in tuples, lists and dicts; "
            f"got a {type(leaf).__name__} among them"
        )
    return leaf.numpy() if keras.ops.is_tensor(leaf) else np.asarray(leaf)


def _texts(array: np.ndarray) -> dict[str, Any]:
    # Bytes of any encoding: Latin-1 gives every byte a character and gives it back.
    raw = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return {"shape": list(array.shape), "values": [item.decode("latin-1") for item in raw]}
