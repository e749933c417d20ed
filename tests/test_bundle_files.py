"""The files of a replay bundle: what they hold survives exactly, and what was done to them shows.

Without Keras in its names, so that no session is cleared after every one of these many tests.
"""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from made_up_bundles import assert_same_arrays, assert_same_autopsy, made_up_autopsy, sign
from networks import data, network

from see_rnn_like import bundle
from see_rnn_like.bundle import directory as directories
from see_rnn_like.bundle.arrays import flattened, packed, unflattened, unpacked
from see_rnn_like.bundle.autopsies import autopsy_from_json, autopsy_to_json
from see_rnn_like.bundle.contents import FILES
from see_rnn_like.bundle.values import decode, encode
from see_rnn_like.errors import ArgumentTypeError, DamagedStoreError, StoreError, StoreVersionError

# ---- values --------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text() | st.integers() | st.just("__float__") | st.just("__tuple__"), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(plain)
def test_any_plain_value_survives_strict_json_exactly(value):
    text = json.dumps(encode(value, "it"), allow_nan=False)
    assert repr(decode(json.loads(text))) == repr(value)


numbers = st.sampled_from(["bool", "int8", "int64", "uint64", "float16", "float32", "float64", "<U5"])


@given(npst.arrays(numbers, npst.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_any_array_in_the_evidence_survives_strict_json_exactly(array):
    found = decode(json.loads(json.dumps(encode({"a": array}, "it"), allow_nan=False)))["a"]
    assert found.shape == array.shape
    assert found.dtype == array.dtype or array.dtype.kind == "U"
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "hostile",
    [
        {"__float__": "1e5"},
        {"__float__": {}},
        {"__tuple__": 3},
        {"__dict__": [[1]]},
        {"__dict__": [[[], 1]]},
        {"__array__": {"dtype": "O", "shape": [1], "values": [1]}},
        {"__array__": {"dtype": "float32", "shape": [10**15], "values": [1]}},
        {"__array__": {"dtype": "float32", "shape": [-1], "values": [1]}},
        {"__array__": {"dtype": "int8", "shape": [1], "values": [300]}},
        {"__array__": []},
        {"__labelled__": {"dims": 3}},
    ],
)
def test_json_that_was_not_written_here_is_a_value_error(hostile):
    with pytest.raises(ValueError):
        decode([hostile])


def test_a_value_json_cannot_hold_is_named():
    with pytest.raises(ArgumentTypeError, match=r"evidence of an autopsy can hold .*; got object"):
        autopsy_to_json(made_up_autopsy(evidence={"a": object()}))


def test_an_autopsy_survives_exactly():
    autopsy = made_up_autopsy()
    text = json.dumps(autopsy_to_json(autopsy), allow_nan=False)
    assert "NaN" in text
    found = autopsy_from_json(json.loads(text), bundle="here")
    expected = dataclasses.replace(
        autopsy, evidence=autopsy.evidence | {"largest": float(np.float32(3e38))}, bundle="here"
    )
    assert_same_autopsy(found, expected)
    assert found.bundle == "here"
    assert isinstance(found.where.units, tuple)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("message", 3),
        ("confidence", True),
        ("trail", [1]),
        ("growth", "x"),
        ("severity", "deadly"),
        ("where", {"step": 1}),
        ("evidence", None),
        ("extra", 1),
    ],
)
def test_an_autopsy_with_other_fields_is_refused(field, value):
    with pytest.raises(ValueError):
        autopsy_from_json(autopsy_to_json(made_up_autopsy()) | {field: value})


@pytest.mark.parametrize(
    "change", [{"step": 1.5}, {"units": 3}, {"samples": ["a"]}, {"layer": 3}, {"phase": "after"}, {"more": 1}]
)
def test_a_place_with_other_fields_is_refused(change):
    content = autopsy_to_json(made_up_autopsy())
    with pytest.raises(ValueError):
        autopsy_from_json(content | {"where": content["where"] | change})


# ---- batches -------------------------------------------------------------------------------------

kept = st.sampled_from(["bool", "int32", "uint8", "float16", "float32", "float64", "complex64"])
batches = st.recursive(
    st.none() | st.integers(-5, 5) | npst.arrays(kept, npst.array_shapes(min_dims=0, min_side=0, max_side=3)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(batches)
@settings(max_examples=60)
def test_any_nested_batch_survives_bit_for_bit(batch):
    structure, arrays = flattened(batch)
    labels = [str(number) for number in range(len(arrays))]
    index, pieces = packed(arrays, labels)
    index, structure = json.loads(json.dumps([index, structure], allow_nan=False))
    found = unflattened(structure, unpacked(index, labels, b"".join(bytes(piece) for piece in pieces)))
    assert_same_arrays(found, batch)


# ---- the directory -------------------------------------------------------------------------------


def test_two_that_want_one_name_at_the_same_moment_both_get_one(tmp_path, monkeypatch):
    # The other one takes the name after this one has looked.
    (tmp_path / "a" / "b").mkdir(parents=True)
    answers = iter([False, True, False])
    monkeypatch.setattr(directories.os.path, "lexists", lambda path: next(answers))
    assert directories.write_directory(tmp_path / "a", {"x": [b"1"]}).name == "a-2"


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch, name):
    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    owner = directories.os if name == "fsync" else directories.Path
    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(StoreError, match="No space left on device"):
        directories.write_directory(tmp_path / "a", {"x": [b"1"]})
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_nothing(tmp_path):
    def pieces():
        yield b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        directories.write_directory(tmp_path / "a", {"x": pieces()})
    assert os.listdir(tmp_path) == []


# ---- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, "SHA256SUMS"])
def test_a_flipped_bit_a_cut_or_a_missing_file_is_one_clear_error(copied, name):
    path = copied / name
    whole = path.read_bytes()
    for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 7
        path.write_bytes(changed)
        with pytest.raises(DamagedStoreError, match=r"damaged|not a replay bundle"):
            bundle.read(copied)
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DamagedStoreError):
            bundle.read(copied)
    path.unlink()
    with pytest.raises(DamagedStoreError, match=f"there is no '{name}'"):
        bundle.read(copied)
    path.mkdir()
    with pytest.raises(DamagedStoreError, match=f"'{name}' is not a file"):
        bundle.read(copied)


def test_a_link_out_of_the_bundle_is_not_followed(copied, tmp_path):
    (tmp_path / "elsewhere").write_bytes((copied / "batch.bin").read_bytes())
    (copied / "batch.bin").unlink()
    (copied / "batch.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedStoreError, match=r"'batch.bin' is not a file"):
        bundle.read(copied)


def test_no_directory_and_foreign_directories_are_clear_errors(tmp_path):
    with pytest.raises(StoreError, match=r"there is no bundle at '.*nothing': it is not a directory"):
        bundle.read(tmp_path / "nothing")
    with pytest.raises(
        DamagedStoreError, match="is not a replay bundle, or only a part of one: there is no 'SHA"
    ):
        bundle.read(tmp_path)
    (tmp_path / "SHA256SUMS").write_text("")
    with pytest.raises(DamagedStoreError, match=r"there is no 'bundle.json'"):
        bundle.read(tmp_path)


def test_a_newer_format_says_so_also_if_its_files_are_others(copied):
    manifest = json.loads((copied / "bundle.json").read_text())
    (copied / "bundle.json").write_text(json.dumps(manifest | {"version": 2}))
    (copied / "state.bin").unlink()
    with pytest.raises(
        StoreVersionError, match=r"has format 2, this version .* knows format 1; update see_rnn"
    ):
        bundle.read(copied)


def _changed(content, path, value):
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("bundle.json", ["format"], "another program"),
        ("bundle.json", ["version"], 0),
        ("bundle.json", ["version"], "1"),
        ("bundle.json", ["batch", "arrays", 0, "shape"], [10**9, 10**9]),
        ("bundle.json", ["batch", "arrays", 0, "shape"], [-8, -6, 3]),
        ("bundle.json", ["batch", "arrays", 0, "shape"], "8, 6, 3"),
        ("bundle.json", ["batch", "arrays", 0, "dtype"], "object"),
        ("bundle.json", ["batch", "arrays", 0, "dtype"], ["float32"]),
        ("bundle.json", ["batch", "arrays", 0, "crc"], 0),
        ("bundle.json", ["batch", "structure"], {"kind": "array", "content": 7}),
        ("bundle.json", ["batch", "structure"], {"kind": "array", "content": "0"}),
        ("bundle.json", ["batch", "structure"], {"kind": "pickle", "content": "0"}),
        (
            "bundle.json",
            ["batch", "structure"],
            {"kind": "texts", "content": {"values": ["€"], "shape": [1]}},
        ),
        ("bundle.json", ["batch", "structure"], []),
        ("bundle.json", ["batch"], None),
        ("bundle.json", ["state"], [{}]),
        ("bundle.json", ["state", 0, "group"], {}),
        ("bundle.json", ["settings"], 3),
        ("bundle.json", ["versions"], []),
        ("model.json", ["about"], 3),
        ("model.json", ["custom_objects"], 3),
        ("model.json", ["config"], {"__array__": 3}),
        ("autopsy.json", ["trail"], {"__array__": {"dtype": "float32", "shape": [2], "values": [1, 2]}}),
        ("autopsy.json", ["where", "phase"], "after"),
    ],
)
def test_a_bundle_made_to_harm_is_one_clear_error(copied, name, path, value):
    content = json.loads((copied / name).read_text())
    (copied / name).write_text(json.dumps(_changed(content, path, value)))
    sign(copied)
    if (name, path[-1]) == ("bundle.json", "group"):
        value = bundle.read(copied).state[0].group
        assert value == "{}"  # text, whatever it was
        return
    with pytest.raises(DamagedStoreError, match=r"is not a replay bundle of format 1: .+"):
        bundle.read(copied)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "NaN", "3", '{"format": NaN}', "\x00", "é"])
def test_text_that_is_not_strict_json_is_one_clear_error(copied, text):
    for name in ("bundle.json", "model.json", "autopsy.json"):
        before = (copied / name).read_bytes()
        (copied / name).write_bytes(text.encode("latin-1"))
        sign(copied)
        with pytest.raises(DamagedStoreError, match="is not a replay bundle of format 1"):
            bundle.read(copied)
        (copied / name).write_bytes(before)


# ---- what people find ----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum here")
def test_the_checksums_are_those_of_the_standard_program(written):
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=written, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_for_people_says_what_was_found_and_how_to_see_it_again(written):
    page = (written / "README.txt").read_text()
    assert page.startswith(
        "NaN at step 3: input x holds 1 NaN, first at timestep 3 of 6, sample 5, feature 1"
    )
    assert "\n    python -m see_rnn_like replay nan-step-3\n" in page
    assert "Nothing else is needed" in page


def test_arrays_can_be_read_with_numpy_alone(written):
    manifest = json.loads((written / "bundle.json").read_text())
    entry = manifest["batch"]["arrays"][0]
    size = int(np.prod(entry["shape"]))
    first = np.frombuffer((written / "batch.bin").read_bytes(), entry["dtype"], size).reshape(entry["shape"])
    np.testing.assert_array_equal(first, bundle.read(written).batch[0])


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    model, batch, autopsy = network(), data(n=4), made_up_autopsy()
    (tmp_path / "a").write_text("a file")
    (tmp_path / "a-2").mkdir()
    os.symlink("nowhere", tmp_path / "a-3")
    places = [bundle.write(tmp_path / "a", model, batch, autopsy).name for _ in range(2)]
    assert places == ["a-4", "a-5"]
    assert (tmp_path / "a").read_text() == "a file"
    assert list((tmp_path / "a-2").iterdir()) == []
    assert len(os.listdir(tmp_path)) == 5


def test_a_place_under_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        StoreError, match=r"'.*file/a' cannot be written: .*; nothing of it is left; make room"
    ):
        bundle.write(tmp_path / "file" / "a", network(), data(n=4), made_up_autopsy())


@pytest.mark.parametrize("module", ["bundle.values", "bundle.contents", "bundle.again", "cli"])
def test_the_examples_of_the_docstrings_work(module, capsys):
    found = doctest.testmod(importlib.import_module(f"see_rnn_like.{module}"))
    assert found.failed == 0, capsys.readouterr().out
    assert found.attempted or module == "bundle.again"


def test_a_healthy_step_replays_to_none(tmp_path):
    model, batch = network(), data(n=4)
    place = bundle.write(tmp_path / "a", model, batch, made_up_autopsy())
    assert bundle.replay(place) is None


def test_the_examples_of_the_page_work_and_give_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "bundles.md").read_text(encoding="utf-8")
    kept = re.sub(r"<!-- not run: .*? -->\n```python\n.*?```\n", "", text, flags=re.DOTALL)
    blocks = re.findall(r"```python\n(.*?)```", kept, flags=re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/bundles.md", "exec"), names)
    for code, result in (
        ("stored.autopsy.where.timestep", 2),
        ("bundle.replay(directory).where == stored.autopsy.where", True),
    ):
        assert f"{code}  # {result}" in text
        assert eval(code, names) == result


def test_a_batch_that_does_not_fit_the_model_is_one_clear_error(copied):
    content = json.loads((copied / "bundle.json").read_text())
    parts = content["batch"]["structure"]["content"]
    content["batch"]["structure"]["content"] = parts[::-1]
    (copied / "bundle.json").write_text(json.dumps(content))
    sign(copied)
    with pytest.raises(StoreError, match=r"the step of '.*' cannot be run again: \w+Error: .+"):
        bundle.replay(copied)
