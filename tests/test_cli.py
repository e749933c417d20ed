"""The command line: what it prints, its exit status, and that errors are one line.

Without Keras in its names, so that no session is cleared after every one of these many tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from keras import Input, Sequential, layers, ops, saving, utils
from keras import __version__ as keras_version
from made_up_bundles import bad_step, made_up_autopsy, sign
from networks import data, network

from see_rnn_like import __version__, bundle
from see_rnn_like.cli import main
from see_rnn_like.extract.nonfinite import autopsy_of


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return bundle.write(tmp_path_factory.mktemp("bundles") / "nan-step-3", *bad_step())


@pytest.fixture(autouse=True)
def _width(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def assert_one_line(status, out, err):
    assert status == 2
    assert err.startswith("see-rnn-like: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


def test_a_bad_step_is_shown_again(written, capsys):
    status, out, err = run(capsys, "replay", written)
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80 or str(written) in out
    lines = out.splitlines()
    assert f"bundle    {written}" in " ".join(lines[:3]).replace("\n", "") or str(written) in out.replace(
        "\n", ""
    )
    assert "step      3" in lines
    assert "batch[0]  [8, 6, 3] float32" in lines
    assert "batch[1]  [8, 1] float32" in lines
    assert f"keras {keras_version}" in out
    assert "warning" not in out
    message = "NaN at step 3: input x holds 1 NaN, first at timestep 3 of 6, sample 5, feature 1"
    assert " ".join(out.split()).count(message) == 2
    for row in ("step      3", "phase     data", "role      x", "timestep  3", "units     1", "samples   5"):
        assert row in lines
    assert "layer" not in " ".join(line.split()[0] for line in lines if line)
    evidence = bundle.read(written).autopsy.evidence
    assert [line.split() for line in lines if line.startswith("nan ")] == [["nan", str(evidence["nan"])]]
    assert "\nWhat to do: " in out
    assert lines[-1] == "Reproduced: the same place as when it was written."


def test_a_step_that_is_finite_now_is_status_1(tmp_path, capsys):
    place = bundle.write(tmp_path / "a", network(), data(n=4), made_up_autopsy())
    status, out, err = run(capsys, "replay", place)
    assert (status, err) == (1, "")
    assert out.endswith("\nNot reproduced: this time the loss and all gradients are finite.\n")


def test_another_place_is_status_1_and_says_what_differs(tmp_path, capsys):
    model, batch, _ = bad_step()
    place = bundle.write(tmp_path / "a", model, batch, made_up_autopsy())
    status, out, _ = run(capsys, "replay", place)
    assert status == 1
    last = " ".join(out[out.index("Not reproduced") :].split())
    assert last.startswith(
        "Not reproduced: another place than when it was written: phase data instead of forward,"
    )
    assert "timestep 3 instead of 2" in last


def test_other_versions_are_warned_of(written, tmp_path, capsys):
    import shutil

    place = shutil.copytree(written, tmp_path / "a")
    content = json.loads((place / "bundle.json").read_text())
    content["versions"] |= {"keras_version": "3.0.0", "see_rnn_like_version": "9"}
    (place / "bundle.json").write_text(json.dumps(content))
    sign(place)
    status, out, _ = run(capsys, "replay", place)
    assert status == 0
    expected = (
        f"warning: versions differ, results may too: keras {keras_version} instead of 3.0.0, "
        f"see_rnn_like {__version__} instead of 9"
    )
    assert expected in " ".join(out.split())


def test_what_steers_a_terminal_is_not_printed(tmp_path, capsys):
    autopsy = made_up_autopsy(message="\x1b]0;owned\x07NaN \x1b[2Jat step 7", advice="\x9b31m")
    place = bundle.write(tmp_path / "a", network(), data(n=4), autopsy)
    _, out, _ = run(capsys, "replay", place)
    assert not any(letter in out for letter in "\x1b\x07\x9b")
    assert "NaN �[2Jat step 7" in out


OWN_CODE = """
import dataclasses
import keras
from subprocess import run
from beside import factor

@dataclasses.dataclass
class Config:
    units: int = 3

@keras.saving.register_keras_serializable("cli_test")
class OwnLayer(keras.layers.Dense):
    def call(self, x):
        return super().call(x) * factor

def own_loss(y, y_pred):
    return keras.ops.mean(keras.ops.log(0 * y_pred), -1)

if __name__ == "__main__":
    raise SystemExit("imported, not run")
"""


@pytest.fixture
def own_code(tmp_path):
    (tmp_path / "beside.py").write_text("factor = 2.0\n")
    file = tmp_path / "own_code.py"
    file.write_text(OWN_CODE)
    before = dict(saving.get_custom_objects())
    yield file
    sys.modules.pop("beside", None)
    saving.get_custom_objects().clear()
    saving.get_custom_objects().update(before)


def bundle_of_own_code(place, file):
    code = {"__name__": "own_code"}
    sys.path.insert(0, str(file.parent))
    try:
        exec(
            compile(OWN_CODE.replace("import dataclasses\n", "").partition("@dataclasses")[0], "a", "exec"),
            code,
        )
        exec(compile("@keras.saving" + OWN_CODE.partition("@keras.saving")[2], "b", "exec"), code)
    finally:
        sys.path.remove(str(file.parent))
    utils.set_random_seed(0)
    parts = [Input((6, 3)), layers.LSTM(2), code["OwnLayer"](1, name="own")]
    model = Sequential(parts)
    model.compile("sgd", code["own_loss"])
    batch = tuple(map(ops.convert_to_tensor, data(n=4)))
    return bundle.write(place, model, batch, autopsy_of(model, batch, step=0))


def test_own_code_is_asked_for_and_taken_from_a_file(own_code, tmp_path, capsys):
    place = bundle_of_own_code(tmp_path / "nan-step-0", own_code)
    status, out, err = run(capsys, "replay", place)
    assert_one_line(status, out, err)
    assert "'OwnLayer'" in err
    assert "'own_loss'" in err
    assert "--code FILE.py" in err
    path = list(sys.path)
    status, out, err = run(capsys, "replay", place, "--code", own_code)
    assert (status, err) == (0, "")
    assert out.endswith("Reproduced: the same place as when it was written.\n")
    assert sys.path == path


def test_a_function_that_the_file_merely_imports_is_not_handed_to_the_bundle(own_code, tmp_path, capsys):
    place = bundle_of_own_code(tmp_path / "nan-step-0", own_code)
    text = (place / "model.json").read_text()
    for module in ("null", '"subprocess"'):
        attack = (
            f'{{"module": {module}, "class_name": "function", "config": "run", "registered_name": "run"}}'
        )
        assert '"linear"' in text
        (place / "model.json").write_text(text.replace('"linear"', attack))
        sign(place)
        status, out, err = run(capsys, "replay", place, "--code", own_code)
        assert_one_line(status, out, err)
        assert "run' (at model.config.layers[2].config.activation)" in err


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("missing.py", None, "--code takes a Python file such as model.py; got '"),
        ("code.txt", "x = 1", "--code takes a Python file such as model.py; got '"),
        ("broken.py", "x = 1 +", "cannot be imported: SyntaxError: "),
        ("fails.py", "raise KeyError('a')", "cannot be imported: KeyError: 'a'"),
        ("ends.py", "raise SystemExit(0)", "cannot be imported: SystemExit: 0"),
    ],
)
def test_code_that_cannot_be_imported_is_one_line(written, tmp_path, capsys, name, text, expected):
    if text is not None:
        (tmp_path / name).write_text(text)
    status, out, err = run(capsys, "replay", written, "--code", tmp_path / name)
    assert_one_line(status, out, err)
    assert expected in err


def test_no_bundle_is_one_line(tmp_path, capsys):
    status, out, err = run(capsys, "replay", tmp_path / "nothing")
    assert_one_line(status, out, err)
    assert f"there is no bundle at '{tmp_path / 'nothing'}'" in err
    status, out, err = run(capsys, "replay", tmp_path)
    assert_one_line(status, out, err)
    assert "is not a replay bundle" in err


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["--version"], 0, f"see-rnn-like {__version__}\n"),
        (["--help"], 0, "run the train step of a replay bundle again"),
        (["replay", "--help"], 0, "exit status:\n  0  the step went bad again, in the same place"),
        ([], 2, "usage: see-rnn-like"),
        (["replay"], 2, "the following arguments are required: BUNDLE"),
        (["explode"], 2, "invalid choice: 'explode'"),
    ],
)
def test_help_version_and_wrong_use(capsys, arguments, status, expected):
    found, out, err = run(capsys, *arguments)
    assert found == status
    assert expected in (err if status else out)
    assert max(map(len, (out + err).splitlines())) <= 90


def test_as_a_program_it_loads_nothing_to_answer_and_ends_with_the_status(tmp_path):
    code = "import sys; from see_rnn_like.cli import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'argparse'" in done.stdout
    for heavy in ("tensorflow", "keras", "matplotlib"):
        assert f"'{heavy}'" not in done.stdout
    command = [sys.executable, "-m", "see_rnn_like", "replay", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"}
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("see-rnn-like: ")]
    assert "Traceback" not in done.stderr


def test_the_environment_and_numpy_are_as_before(written, capsys):
    environment, state = dict(os.environ), np.random.get_state()[1].tobytes()  # noqa: NPY002
    assert run(capsys, "replay", written)[0] == 0
    assert dict(os.environ) == environment
    assert np.random.get_state()[1].tobytes() == state  # noqa: NPY002
