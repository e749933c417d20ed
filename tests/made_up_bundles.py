"""Bundles for tests: an autopsy made up, a real step that went bad, and a stranger's hand."""

from __future__ import annotations

import dataclasses
import hashlib

import keras
import numpy as np
import xarray as xr
from networks import data, network

from see_rnn_like.bundle.contents import FILES
from see_rnn_like.bundle.directory import SUMS
from see_rnn_like.extract.nonfinite import autopsy_of
from see_rnn_like.findings import Autopsy, Where


def made_up_autopsy(**changes):
    steps, names = [5, 6, 7], ["lstm/forward/output:value", "loss:value"]
    trail = xr.DataArray(
        [[1.0, 2.0], [1e30, 3.5], [np.nan, -np.inf]],
        dims=("step", "tensor"),
        coords={"step": steps, "tensor": names},
        attrs={"of": "largest |value|"},
    )
    growth = xr.DataArray(np.float32([0.1, 3e38, np.inf]), dims=("time",))
    fields = {
        "rule": "not-finite",
        "severity": "error",
        "confidence": 0.95,
        "where": Where(7, "forward", "lstm", "forward", "gates", "cell", 2, (0, 4), (3, 11)),
        "evidence": {
            "nan": 3,
            "largest": np.float32(3e38),
            "growth": float("nan"),
            "shape": (2, 3),
            "NaN": "NaN",
        },
        "message": "NaN at step 7: lstm (forward), cell gate, first at timestep 2 of 3",
        "advice": "use tanh",
        "see": "plot_autopsy",
        "trail": trail,
        "growth": growth,
    }
    return Autopsy(**fields | changes)


def bad_step(seed=0, **kwargs):
    """A model, a batch with one NaN, and the autopsy of it."""
    model = network(**kwargs)
    x, y = data(n=8, seed=seed)
    model.fit(x, y, batch_size=4, verbose=0)
    x = x.copy()
    x[5, 3, 1] = np.nan
    batch = (keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y))
    return model, batch, autopsy_of(model, batch, step=3)


def sign(place):
    """What a stranger does after changing a bundle: makes the checksums right."""
    lines = [f"{hashlib.sha256((place / name).read_bytes()).hexdigest()}  {name}\n" for name in FILES]
    (place / SUMS).write_text("".join(lines))


def assert_same_autopsy(found, expected):
    for field in dataclasses.fields(Autopsy):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, xr.DataArray):
            xr.testing.assert_identical(a, b)
            assert a.dtype == b.dtype
        elif field.name == "evidence":
            assert repr(a) == repr(b)
        elif field.name != "bundle":
            assert a == b


def assert_same_arrays(a, b):
    """Same nesting, same types, same bits."""
    assert type(a) is type(b)
    if isinstance(b, dict):
        assert list(a) == list(b)
        for name in b:
            assert_same_arrays(a[name], b[name])
    elif isinstance(b, tuple | list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same_arrays(one, other)
    elif isinstance(b, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tolist() == b.tolist() if b.dtype == object else a.tobytes() == b.tobytes()
    else:
        assert a == b
