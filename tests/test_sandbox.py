"""The sandbox: what a person sees who runs it, for every task and network, and when an option is wrong."""

import argparse
import re
import runpy
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
import xarray as xr

from see_rnn_like import Run, tasks

SANDBOX = Path(__file__).parents[1] / "sandbox.py"
CELLS = re.split(r"(?m)^(?=# %% )", SANDBOX.read_text(encoding="utf-8"))


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """Runs the sandbox in an empty directory as `python sandbox.py …` would; returns its names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")

    def run(*arguments: str) -> dict:
        monkeypatch.setattr(sys, "argv", [str(SANDBOX), *arguments])
        return runpy.run_path(str(SANDBOX), run_name="__main__")

    return run


@pytest.fixture
def first_cell():
    """The names of the first cell: everything but the run itself."""
    names: dict = {"__name__": "first_cell"}
    # Dataclasses look their module up by name.
    sys.modules["first_cell"] = type(sys)("first_cell")
    exec(compile(CELLS[0] + CELLS[1], str(SANDBOX), "exec"), names)
    yield argparse.Namespace(**names)
    del sys.modules["first_cell"]


# ---- it runs -------------------------------------------------------------------------------------

#: Every task with every network; each of both with and without `--bidirectional`.
COMBINATIONS = [
    (task, rnn, (i + j) % 2 == 1)
    for i, task in enumerate(("text", "sunspots", "adding"))
    for j, rnn in enumerate(("lstm", "gru", "simplernn"))
]


@pytest.mark.parametrize(("task", "rnn", "bidirectional"), COMBINATIONS)
def test_every_task_with_every_network(sandbox, capsys, task, rnn, bidirectional):
    arguments = ["--task", task, "--rnn", rnn, *["--bidirectional"] * bidirectional]
    names = sandbox(*arguments, "--units", "16", "--steps", "25", "--every", "10")
    told = capsys.readouterr().out
    out = Path("runs") / "-".join([task, rnn, *["bidirectional"] * bidirectional])

    history = Run.open(out / "run.sqlite")
    assert history.steps == [0, 10, 20]
    assert history.events == []
    assert int(names["model"].optimizer.iterations) == 25
    recorded = history.keys()
    directions = {key.direction for key in recorded if key.direction}
    assert directions == ({"forward", "backward"} if bidirectional else {"forward"})

    assert "</html>" in (out / "report.html").read_text(encoding="utf-8")
    assert told.endswith(
        f"report:   {out / 'report.html'}\nrun file: {out / 'run.sqlite'}  (see_rnn_like.Run.open reads it)\n"
    )
    assert score_as_told(names) in told
    assert saturation_as_told(names) in told


def score_as_told(names: dict) -> str:
    """What the sandbox must say of the score, from a new evaluation of the model."""
    task = names["task"]
    score = task.score(names["model"].evaluate(*task.validation, verbose=0, batch_size=256))
    better = f"{1 - score / task.baseline:.0%} better than" if score < task.baseline else "no better yet"
    return f"on validation data: {score:.3g} {task.unit}\n  {better}"


def saturation_as_told(names: dict) -> str:
    """What the sandbox must say of the gates, from the values of the trace."""
    gates = names["inside"]["gates"]
    if "direction" not in gates.dims:
        gates = gates.expand_dims(direction=[""])
    lines = {}
    for direction in gates.direction.values:
        for gate in gates.gate.values:
            values = gates.sel(direction=direction, gate=gate).values
            low = -0.9 if gate in ("cell", "new", "hidden") else 0.1
            left, right = (values < low).mean(), (values > 0.9).mean()
            place = f"{direction} {gate}".strip()
            shares = f"{left:.0%} of its values below {low}, {right:.0%} above 0.9"
            lines[left + right] = f"most saturated gate: {place} of {names['layer'].name}\n  {shares}\n"
    return lines[max(lines)] if max(lines) >= 0.01 else f"no gate of {names['layer'].name} is saturated\n"


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.0, "no gate of lstm is saturated\n"),
        (0.009, "no gate of lstm is saturated\n"),
        (0.02, "most saturated gate: forget of lstm\n  2% of its values below 0.1, 0% above 0.9\n"),
    ],
)
def test_less_than_a_hundredth_of_saturation_is_none(share, told, capsys):
    left = xr.DataArray(
        [[0.0, 0.0], [share, share]], dims=("gate", "unit"), coords={"gate": ["input", "forget"]}
    )
    names = {
        "trace": lambda *_: argparse.Namespace(gating=("input", "forget")),
        "gate_saturation": lambda _: argparse.Namespace(left=left, right=left * 0),
        "layer": argparse.Namespace(name="lstm"),
        "model": None,
        "task": argparse.Namespace(validation=[[]]),
    }
    (inside,) = [cell for cell in CELLS if cell.startswith("# %% Inside")]
    exec(compile(inside, str(SANDBOX), "exec"), names)
    assert capsys.readouterr().out == told


def test_the_default_network_beats_the_frequencies_of_characters(sandbox, capsys):
    names = sandbox("--steps", "150", "--units", "64", "--every", "50")
    assert names["score"] < names["task"].baseline - 1
    told = capsys.readouterr().out
    assert "most saturated gate: " in told
    lags = names["memory"].attrs["horizon"]
    assert f"memory of {names['layer'].name}: {lags:.1f} of 64 timesteps, until the influence" in told
    assert "lstm/forward/horizon_c:value" in names["monitor"].run or names["layer"].name != "lstm"


def test_a_bidirectional_reader_of_text_is_never_shown_its_answer(sandbox):
    names = sandbox("--bidirectional", "--units", "4", "--steps", "1")
    x, y = names["task"].x, names["task"].y
    whole = tasks.reference_text()
    assert y.ndim == 1
    for i in (0, 1, 999):
        assert names["task"].decode(x[i]) == whole[16 * i : 16 * i + 64]
        assert names["task"].decode(y[i]) == whole[16 * i + 64]
    assert names["model"].output_shape == (None, len(names["task"].names))


def test_a_second_run_keeps_the_first(sandbox, capsys):
    small = ["--task", "adding", "--units", "3", "--steps", "2", "--out", "mine"]
    sandbox(*small)
    first = Path("mine/run.sqlite").read_bytes()
    sandbox(*small)
    assert Path("mine/run.sqlite").read_bytes() == first
    assert Run.open("mine-2/run.sqlite").steps == [0]
    assert "written to mine-2" in capsys.readouterr().out


# ---- in a notebook -------------------------------------------------------------------------------


def test_cells_run_one_by_one_with_the_arguments_of_a_notebook_kernel(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/usr/lib/ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    names: dict = {"__name__": "__main__"}
    monkeypatch.setitem(sys.modules, "__main__", type(sys)("__main__"))
    assert len(CELLS) >= 7
    for cell in CELLS:
        exec(compile(cell, "cell", "exec"), names)
        if cell.startswith("# %% Options"):
            assert names["options"] == names["Options"]()
            names["options"] = names["Options"](task="sunspots", rnn="gru", units=3, steps=2, show=True)
    assert Path("runs/sunspots-gru/report.html").exists()
    assert "--show: no screen or no browser here" in capsys.readouterr().out


# ---- --show --------------------------------------------------------------------------------------


def test_show_opens_the_report_where_there_is_a_screen(first_cell, monkeypatch, capsys, tmp_path):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    monkeypatch.setenv("DISPLAY", ":0")
    first_cell.show(tmp_path / "report.html")
    assert opened == [(tmp_path / "report.html").resolve().as_uri()]
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a screen is assumed")
def test_show_without_a_screen_says_so_and_opens_nothing(first_cell, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(webbrowser, "open", lambda address: pytest.fail("opened without a screen"))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    first_cell.show(tmp_path / "report.html")
    assert capsys.readouterr().out.startswith("--show: no screen or no browser here")


def test_show_without_a_browser_says_so(first_cell, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    monkeypatch.setenv("DISPLAY", ":0")
    first_cell.show(tmp_path / "report.html")
    assert capsys.readouterr().out.startswith("--show: no screen or no browser here")


# ---- wrong options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "argument --steps: must be a whole number of at least 1; got '0'"),
        (["--units", "many"], "argument --units: must be a whole number of at least 1; got 'many'"),
        (["--every", "1.5"], "argument --every: must be a whole number of at least 1; got '1.5'"),
        (["--task", "music"], "argument --task: invalid choice: 'music'"),
        (["--rnn", "LSTM"], "argument --rnn: invalid choice: 'LSTM'"),
        (["--step", "3"], "unrecognized arguments: --step 3"),
        (["--out", "taken"], "argument --out: taken or a part of it is a file, or cannot be written to"),
        (["--out", "taken/below"], "argument --out: taken/below or a part of it is a file"),
    ],
)
def test_a_wrong_option_is_one_clear_message_before_anything_starts(tmp_path, arguments, message):
    (tmp_path / "taken").write_text("")
    done = subprocess.run(
        [sys.executable, str(SANDBOX), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_help_shows_every_option_and_its_default(first_cell, capsys):
    with pytest.raises(SystemExit) as end:
        first_cell.read_options(["--help"])
    assert end.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for option in ("--task", "--rnn", "--bidirectional", "--units", "--steps", "--every", "--out", "--show"):
        assert option in told
    size = first_cell.SIZES["sunspots"]
    assert f"{size.units} for sunspots" in told
    assert f"{size.steps} for sunspots" in told
    assert "(default: text)" in told
    assert "(default: lstm)" in told
    assert f"record every N-th step (default: {first_cell.Options.every})" in told


def test_options_without_arguments_are_the_defaults(first_cell):
    assert first_cell.read_options([]) == first_cell.Options()


def test_new_directory_takes_the_first_number_that_is_free(first_cell, tmp_path):
    options = first_cell.Options(out=tmp_path / "run")
    made = []
    for _ in range(3):
        made.append(first_cell.new_directory(options))
        (made[-1] / "run.sqlite").write_text("")
    assert [path.name for path in made] == ["run", "run-2", "run-3"]
    (tmp_path / "empty").mkdir()
    assert first_cell.new_directory(first_cell.Options(out=tmp_path / "empty")).name == "empty"
