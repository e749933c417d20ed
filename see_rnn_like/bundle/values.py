"""Plain values, arrays and labelled arrays as strict JSON that gives back exactly what went in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from see_rnn_like.errors import ArgumentTypeError
from see_rnn_like.store.codec import is_shape

#: What JSON cannot say is a mapping with one of these names as its only key.
_FLOAT, _TUPLE, _DICT, _ARRAY, _LABELLED = "__float__", "__tuple__", "__dict__", "__array__", "__labelled__"

#: Kinds of NumPy arrays that are written as a list of their items.
_KINDS = "biufU"


def encode(value: Any, what: str) -> Any:
    """Turns a value into what `json.dumps(allow_nan=False)` writes; `decode` gives it back.

    NumPy scalars become Python's, everything else keeps its type: tuples, NaN and infinities, mappings with
    keys that are no strings, arrays and labelled arrays with their type.

    Args:
        value: None, booleans, numbers, strings, and lists, tuples, mappings, NumPy arrays and
            `xarray.DataArray`s of them.
        what: named in the error.

    Raises:
        ArgumentTypeError: for anything else.

    Example:
        >>> encode({"peak": float("inf"), "shape": (2, 3)}, "evidence")
        {'peak': {'__float__': 'inf'}, 'shape': {'__tuple__': [2, 3]}}
        >>> decode(encode({"peak": float("inf"), "shape": (2, 3)}, "evidence"))
        {'peak': inf, 'shape': (2, 3)}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: str(value)}
    if isinstance(value, list):
        return [encode(item, what) for item in value]
    if isinstance(value, tuple):
        return {_TUPLE: [encode(item, what) for item in value]}
    if isinstance(value, Mapping):
        return _encode_mapping(value, what)
    if isinstance(value, np.ndarray):
        return {_ARRAY: _encode_array(value, what)}
    if isinstance(value, xr.DataArray):
        return {_LABELLED: _encode_labelled(value, what)}
    raise ArgumentTypeError(
        f"{what} can hold numbers, strings, booleans, None, arrays, and lists, tuples and mappings of them; "
        f"got {type(value).__name__}"
    )


def decode(value: Any) -> Any:
    """Turns parsed JSON back into what `encode` was given. Nothing in it is trusted.

    Raises:
        ValueError: if `encode` cannot have written it.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items() if len(value) == 1 else ((None, None),)
    if tag not in _DECODERS:
        return {name: decode(item) for name, item in value.items()}
    try:
        return _DECODERS[tag](content)
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{json.dumps(value):.100} is not what `encode` writes") from error


def _encode_mapping(value: Mapping[Any, Any], what: str) -> dict[str, Any]:
    looks_tagged = len(value) == 1 and not _DECODERS.keys().isdisjoint(value)
    if all(isinstance(name, str) for name in value) and not looks_tagged:
        return {name: encode(item, what) for name, item in value.items()}
    return {_DICT: [[encode(name, what), encode(item, what)] for name, item in value.items()]}


def _encode_array(array: np.ndarray, what: str) -> dict[str, Any]:
    if array.dtype.kind == "O" and all(isinstance(item, str) for item in array.flat):
        dtype = "object"
    elif array.dtype.kind in _KINDS:
        dtype = "str" if array.dtype.kind == "U" else array.dtype.name
    else:
        raise ArgumentTypeError(f"{what} can hold arrays of numbers, booleans and strings; got {array.dtype}")
    return {"dtype": dtype, "shape": list(array.shape), "values": encode(array.ravel().tolist(), what)}


def _encode_labelled(array: xr.DataArray, what: str) -> dict[str, Any]:
    coords = {
        str(name): {"dims": list(coord.dims), "values": _encode_array(coord.values, what)}
        for name, coord in array.coords.items()
    }
    return {
        "name": array.name,
        "dims": list(array.dims),
        "values": _encode_array(array.values, what),
        "coords": coords,
        "attrs": encode(array.attrs, what),
    }


def _decode_float(text: Any) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError(f"{text!r:.100} is neither NaN nor infinite")
    return float(text)


def _decode_tuple(items: Any) -> tuple[Any, ...]:
    if not isinstance(items, list):
        raise ValueError("the items of a tuple are a list")
    return tuple(decode(items))


def _decode_array(content: Any) -> np.ndarray:
    dtype, shape, values = content["dtype"], content["shape"], content["values"]
    known = dtype in ("object", "str") or (isinstance(dtype, str) and np.dtype(dtype).kind in "biuf")
    if not known or not is_shape(shape) or not isinstance(values, list):
        raise ValueError(f"{dtype!r:.40} of shape {shape!r:.40} is not an array")
    if math.prod(shape) != len(values):
        raise ValueError(f"{len(values)} values do not fill the shape {shape}")
    items = decode(values)
    if dtype not in ("object", "str") and np.dtype(dtype).kind in "iu":
        _require_range(items, np.iinfo(dtype))
    return np.array(items, "<U" if dtype == "str" else dtype).reshape(shape)


def _require_range(items: list[Any], limits: np.iinfo) -> None:
    # Older versions of NumPy wrap what is too large.
    if not all(type(item) is int and limits.min <= item <= limits.max for item in items):
        raise ValueError(f"not all values are whole numbers of type {limits.dtype}")


def _decode_labelled(content: Any) -> xr.DataArray:
    coords = {
        name: (coord["dims"], _decode_array(coord["values"])) for name, coord in content["coords"].items()
    }
    values, name = _decode_array(content["values"]), content["name"]
    return xr.DataArray(values, coords, content["dims"], name=name, attrs=decode(content["attrs"]))


_DECODERS: dict[Any, Callable[[Any], Any]] = {
    _FLOAT: _decode_float,
    _TUPLE: _decode_tuple,
    _DICT: lambda items: {decode(name): decode(item) for name, item in items},
    _ARRAY: _decode_array,
    _LABELLED: _decode_labelled,
}
