"""Autopsies as JSON and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import xarray as xr

from see_rnn_like.bundle.values import decode, encode
from see_rnn_like.findings import Autopsy, Where

_WHERE = tuple(field.name for field in dataclasses.fields(Where))

#: Field → what it has to be; `where` and `bundle` are looked at by themselves.
_TYPES: dict[str, Any] = {
    "rule": str,
    "severity": str,
    "confidence": int | float,
    "evidence": dict,
    "message": str,
    "advice": str,
    "see": str,
    "trail": xr.DataArray,
    "growth": xr.DataArray | None,
}


def autopsy_to_json(autopsy: Autopsy) -> dict[str, Any]:
    """Everything in an autopsy but the directory of its bundle, which can move.

    Raises:
        ArgumentTypeError: if its evidence holds something else than plain values and arrays.
    """
    fields = {name: encode(getattr(autopsy, name), f"{name} of an autopsy") for name in _TYPES}
    where = {name: encode(getattr(autopsy.where, name), f"where.{name}") for name in _WHERE}
    return {"where": where, **fields}


def autopsy_from_json(content: Any, bundle: str | None = None) -> Autopsy:
    """The autopsy again, exactly. Nothing in `content` is trusted.

    Args:
        content: what `autopsy_to_json` made.
        bundle: the directory it was found in.

    Raises:
        ValueError: if it is something else.
    """
    if not isinstance(content, dict) or content.keys() != {"where", *_TYPES}:
        raise ValueError("these are not the fields of an autopsy")
    fields = {name: decode(content[name]) for name in _TYPES}
    for name, kind in _TYPES.items():
        if not isinstance(fields[name], kind) or isinstance(fields[name], bool):
            raise ValueError(f"{name!r} of an autopsy cannot be a {type(fields[name]).__name__}")
    return Autopsy(where=_where(content["where"]), bundle=bundle, **fields)


def _where(content: Any) -> Where:
    if not isinstance(content, dict) or content.keys() != set(_WHERE):
        raise ValueError("these are not the fields of a place")
    found = {name: decode(content[name]) for name in _WHERE}
    for name, value in found.items():
        if value is not None and not _fits(name, value):
            raise ValueError(f"{name!r} of a place cannot be {value!r:.40}")
    return Where(**found)


def _fits(name: str, value: Any) -> bool:
    if name in ("step", "timestep"):
        return type(value) is int
    if name in ("units", "samples"):
        return isinstance(value, tuple) and all(type(position) is int for position in value)
    return isinstance(value, str)
