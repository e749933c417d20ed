"""Arrays and plain values as SQLite keeps them: raw bytes with a checksum, and strict JSON."""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from see_rnn_like.errors import ArgumentTypeError, CaptureError

#: Types of numbers a run file may hold. `bfloat16` is kept bit for bit and read as float32, which
#: represents every bfloat16 exactly, so that reading needs no package that knows the type.
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)

#: NumPy itself allows no more axes.
MAX_AXES = 32

#: Longest JSON text that is parsed; the configuration of a large model is a few hundred kilobytes.
MAX_JSON = 2**26

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Packed(NamedTuple):
    """One array as a row of the table ``arrays``.

    Attributes:
        dtype: one of `DTYPES`.
        shape: JSON list of sizes.
        crc: CRC-32 of the label, dtype, shape and data; a damaged byte in any of them shows.
        data: the numbers in C order, little-endian.
    """

    dtype: str
    shape: str
    crc: int
    data: bytes | memoryview


def pack(array: np.ndarray, label: str) -> Packed:
    """Turns an array into bytes, losslessly.

    Args:
        array: numbers of a type in `DTYPES`, any shape.
        label: what the array is; goes into the checksum, so that rows cannot be mixed up unseen.

    Raises:
        CaptureError: if the array does not hold numbers.

    Example:
        >>> packed = pack(np.array([1.0, 2.0], "float32"), "demo")
        >>> packed.dtype, packed.shape, len(packed.data)
        ('float32', '[2]', 8)
        >>> unpack(packed._replace(data=bytes(packed.data)), "demo")
        array([1., 2.], dtype=float32)
    """
    name = _dtype_name(array.dtype)
    if name not in DTYPES:
        raise CaptureError(f"{label}: arrays of type {name} cannot be kept; types are {', '.join(DTYPES)}")
    # NumPy hands out no buffer of a bfloat16 array; its bits are those of a 16-bit whole number.
    bits = array.view("uint16") if name == "bfloat16" else array
    little = np.ascontiguousarray(bits, _little_endian(bits.dtype))
    data = little.reshape(-1).view("uint8").data if little.size else b""
    shape = _shape_text(array.shape)
    return Packed(name, shape, _checksum(label, name, shape, data), data)


def unpack(packed: Packed, label: str) -> np.ndarray:
    """Turns bytes back into the array. Nothing in `packed` is trusted.

    Args:
        packed: as read from a run file.
        label: what `pack` was given.

    Returns:
        The array, read-only, of the type it had (bfloat16 comes as float32).

    Raises:
        ValueError: if the row is not what `pack` writes, or was damaged since.
    """
    dtype, shape_text, crc, data = packed
    if dtype not in DTYPES:
        raise ValueError(f"{dtype!r} is not a type of numbers")
    if not isinstance(data, bytes):
        raise ValueError(f"the numbers must be bytes, not {type(data).__name__}")
    shape = _shape(shape_text)
    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
    expected = math.prod(shape) * stored.itemsize
    if expected != len(data):
        raise ValueError(f"{len(data)} bytes where shape {shape_text} of {dtype} needs {expected}")
    if crc != _checksum(label, dtype, shape_text, data):
        raise ValueError("the checksum does not match")
    array = np.frombuffer(data, stored).reshape(shape)
    return _widened(array) if dtype == "bfloat16" else array


# NumPy makes these anew at each use; a run writes the same few of them thousands of times.
_dtype_name = functools.lru_cache(maxsize=64)(lambda dtype: dtype.name)
_little_endian = functools.lru_cache(maxsize=64)(lambda dtype: dtype.newbyteorder("<"))
_shape_text = functools.lru_cache(maxsize=256)(json.dumps)


@functools.lru_cache(maxsize=256)
def _shape(text: str) -> tuple[int, ...]:
    # A run has few different shapes, each thousands of times.
    shape = from_json(text)
    if not is_shape(shape):
        raise ValueError(f"{text:.100} is not a shape")
    return tuple(shape)


def is_shape(value: object) -> bool:
    """Whether a parsed JSON value is a list of sizes NumPy can have."""
    return (
        isinstance(value, list)
        and len(value) <= MAX_AXES
        and all(type(size) is int and 0 <= size < 2**48 for size in value)
    )


def narrowed(counts: np.ndarray) -> np.ndarray:
    """Counts in the smallest unsigned type that holds them all; most bins hold few."""
    most = counts.max(initial=0)
    return counts.astype(next(name for name, largest in _LARGEST.items() if most <= largest))


_LARGEST = {name: np.iinfo(name).max for name in ("uint8", "uint16", "uint32", "uint64")}


def to_json(value: Any, what: str) -> str:
    """Strict JSON; NaN and ±Inf become the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``.

    Args:
        value: numbers, strings, None, booleans, and lists, tuples and mappings of them; NumPy scalars too.
        what: named in the error.

    Raises:
        ArgumentTypeError: for anything else.

    Example:
        >>> to_json({"loss": float("nan"), "sizes": (1, 2)}, "logs")
        '{"loss": "NaN", "sizes": [1, 2]}'
    """
    return _ENCODER.encode(_plain(value, what))


def from_json(text: object) -> Any:
    """Parses what `to_json` wrote.

    Raises:
        ValueError: if it is not strict JSON text of a sane size and depth.
    """
    if not isinstance(text, str) or len(text) > MAX_JSON:
        raise ValueError(f"not JSON text of at most {MAX_JSON} characters")
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def numbers_from_json(text: object) -> dict[str, float]:
    """Parses a JSON mapping of names to numbers, NaN and ±Inf restored.

    Raises:
        ValueError: if it is something else.
    """
    parsed = from_json(text)
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON mapping")
    return {name: _number(value) for name, value in parsed.items()}


def _number(value: object) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not strict JSON")


_ENCODER = json.JSONEncoder(allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _plain(value: Any, what: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item, what) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, what) for item in value]
    raise ArgumentTypeError(
        f"{what} can hold numbers, strings, booleans, None, lists and mappings; got {type(value).__name__}"
    )


def _checksum(label: str, dtype: str, shape: str, data: bytes | memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(f"{label}|{dtype}|{shape}".encode()))


def _widened(bits: np.ndarray) -> np.ndarray:
    """Float32 of the same values: a bfloat16 is the upper half of a float32."""
    widened = (bits.astype("uint32") << 16).view("float32")
    widened.flags.writeable = False
    return widened
