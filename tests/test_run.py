"""What a person holds: a run that reads, describes itself, exports, and loads no training library."""

import ast
import html.parser
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from made_up_snapshots import INFOS, KERNEL, LOSS, OUTPUT, assert_whole, snapshot

import see_rnn_like.report
from see_rnn_like.errors import ArgumentTypeError, StoreError, UnknownTensorError
from see_rnn_like.history import Event
from see_rnn_like.run import Run
from see_rnn_like.store import SQLiteHistory

NAN_SEEN = Event(2, "nan", KERNEL, "forget", {"nan": 3}, "3 NaN in the <forget> gate")


def recorded(path, steps=4):
    history = SQLiteHistory.create(path)
    history.declare(INFOS)
    for step in range(steps):
        history.append(snapshot(step, level="full" if step % 2 == 0 else "stats"))
    return history


@pytest.fixture
def history(tmp_path):
    made = recorded(tmp_path / "run.sqlite")
    made.add_epoch(0, 3, {"loss": 1.0})
    made.add_epoch(1, 7, {"loss": 0.5, "val_loss": 0.75})
    made.add_event(NAN_SEEN)
    made.set_meta("model", {"name": "lstm", "layers": [1, 2]})
    made.set_meta("batch", 32)
    yield made
    made.close()


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way_in", [Run, lambda history: Run.open(history.path)])
def test_a_run_reads_what_its_history_holds(history, way_in):
    run = way_in(history)
    assert run.path == history.path
    assert run.steps == [0, 1, 2, 3]
    assert len(run) == 4
    assert run.keys() == [KERNEL, OUTPUT, LOSS]
    assert run.infos() == history.infos()
    assert run.events == [NAN_SEEN]
    assert run.epochs == history.epochs
    assert run.meta == history.meta
    assert run.logs().identical(history.logs())
    assert run.stats(str(KERNEL)).identical(history.stats(KERNEL))
    assert run[KERNEL].identical(history[KERNEL])
    assert run[str(KERNEL)].step.values.tolist() == [0, 2]
    assert_whole(run, 2)


def test_a_live_run_shows_each_step_as_soon_as_it_is_written(tmp_path):
    history = recorded(None, steps=0)
    run = Run(history)
    assert run.steps == []
    for step in range(3):
        history.append(snapshot(step))
        assert run.steps[-1] == step
        assert run.stats(KERNEL).sizes["step"] == step + 1


def test_a_run_tells_whether_it_holds_a_tensor_and_is_not_read_by_number(history):
    run = Run(history)
    assert KERNEL in run
    assert "lstm/forward/kernel:gradient" in run
    assert "lstm/forward/kernel:weight" not in run
    assert 0 not in run
    with pytest.raises(TypeError, match="'Run' object is not iterable"):
        iter(run)


def test_a_run_is_made_of_a_history_and_says_so_when_given_a_path():
    with pytest.raises(ArgumentTypeError) as caught:
        Run("run.sqlite")
    assert str(caught.value) == "Run takes a History; got str. Run.open(path) opens a run file"


def test_closing_a_run_leaves_one_file_and_reading_on_is_possible(tmp_path):
    with Run(recorded(tmp_path / "run.sqlite")) as run:
        assert len(list(tmp_path.iterdir())) == 3
    assert [found.name for found in tmp_path.iterdir()] == ["run.sqlite"]
    assert run.steps == [0, 1, 2, 3]
    with Run.open(run.path) as again:
        assert_whole(again, 0)
    again.close()


# ---- without TensorFlow --------------------------------------------------------------------------

READ_ALL = """
import sys
sys.path[:0] = sys.argv[2:]
from see_rnn_like.run import Run
run = Run.open(sys.argv[1])
run.stats("lstm/forward/kernel:gradient"), run["lstm/output:value"], run.events, run.epochs, run.meta
repr(run), run._repr_html_(), run.to_xarray(), run.close()
"""


def loaded_after(code, *arguments):
    code += "\nprint(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_opening_and_reading_a_run_loads_neither_tensorflow_nor_a_drawing_library(history):
    assert not loaded_after(READ_ALL, history.path) & {"tensorflow", "keras", "matplotlib", "seaborn"}


def test_the_test_above_can_fail(history, tmp_path):
    (tmp_path / "keras.py").touch()
    assert "keras" in loaded_after(READ_ALL + "\nimport keras", history.path, tmp_path)


# ---- describing itself ---------------------------------------------------------------------------


def test_a_run_describes_itself_in_one_line(history, tmp_path):
    run = Run(history)
    assert repr(run) == f"<Run '{run.path}': 4 snapshots, steps 0 … 3, 3 tensors, 1 event (1 nan)>"
    history.add_event(NAN_SEEN)
    history.add_event(Event(3, "thinned", None, None, {}, ""))
    assert repr(run).endswith("3 tensors, 3 events (2 nan, 1 thinned)>")
    assert repr(Run(recorded(None, steps=1))) == "<Run in memory: 1 snapshot, step 0, 3 tensors>"
    assert repr(Run(recorded(None, steps=0))) == "<Run in memory: nothing recorded yet>"


class Texts(html.parser.HTMLParser):
    """Collects the tags and the texts of a piece of HTML."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_a_notebook_shows_the_same_facts_with_everything_escaped(tmp_path):
    place = tmp_path / "<script>alert('x')<"
    run = Run(recorded(place / "run.sqlite"))
    page = Texts(run._repr_html_())
    assert set(page.tags) == {"table", "tr", "th", "td"}
    assert page.texts == [
        *("Run", str(run.path)),
        *("Steps", "4 snapshots, steps 0 … 3"),
        *("Tensors", "3 tensors"),
    ]
    run.close()
    assert Texts(Run(recorded(None, steps=0))._repr_html_()).texts == [
        *("Run", "in memory"),
        *("Steps", "nothing recorded yet"),
    ]


# ---- handing on ----------------------------------------------------------------------------------


def test_the_tree_holds_statistics_values_and_everything_else_once(history):
    run = Run(history)
    tree = run.to_xarray()
    gradient = tree["tensors/lstm/forward/kernel/gradient"]
    assert gradient["statistics"].to_dataset().equals(run.stats(KERNEL))
    assert gradient["value"]["value"].equals(run[KERNEL].rename("value"))
    assert gradient["value"]["value"].attrs == {"unscaled": "true"}
    assert tree["tensors/lstm/output/value/value"].sizes == {"step": 2, "sample": 8, "time": 7, "unit": 6}
    assert tree["tensors/loss/value/statistics"].sizes["step"] == 4
    assert tree["logs"].to_dataset().equals(run.logs())
    assert tree["epochs"]["loss"].values.tolist() == [1.0, 0.5]
    np.testing.assert_array_equal(tree["epochs"]["val_loss"].values, [np.nan, 0.75])
    assert tree["events"]["message"].values.tolist() == ["3 NaN in the <forget> gate"]
    assert tree["events"]["key"].values.tolist() == [str(KERNEL)]
    assert json.loads(tree["events"]["counts"].values[0]) == {"nan": 3}
    assert tree.attrs["batch"] == 32
    assert json.loads(tree.attrs["model"]) == {"name": "lstm", "layers": [1, 2]}


def test_the_tree_takes_only_the_tensors_asked_for(history):
    tree = Run(history).to_xarray(["loss:value"])
    assert set(tree["tensors"].children) == {"loss"}
    with pytest.raises(
        UnknownTensorError, match=r"'los:value'; did you mean 'loss:value' or 'lstm/output:value'\?"
    ):
        Run(history).to_xarray(["los:value"])


def test_a_run_without_values_epochs_and_events_makes_a_tree_without_them():
    history = SQLiteHistory.create(None)
    history.declare(INFOS)
    history.append(snapshot(0, level="stats"))
    tree = Run(history).to_xarray()
    assert set(tree.children) == {"logs", "tensors"}
    assert set(tree["tensors/loss/value"].children) == {"statistics"}
    assert set(Run(SQLiteHistory.create(None)).to_xarray().children) == {"logs"}


def test_every_attribute_and_variable_of_the_tree_is_one_that_netcdf_can_hold(history):
    history.set_meta("flag", True)
    history.set_meta("nothing", None)
    for node in Run(history).to_xarray().subtree:
        for owner in (node, *node.variables.values()):
            assert all(type(value) in (str, int, float) for value in owner.attrs.values())
        assert all(variable.dtype.kind in "iufU" for variable in node.variables.values())
        assert not set(node.name or "") & set('/:*?"<>|\\')


def test_the_tree_survives_netcdf(history, tmp_path):
    pytest.importorskip("h5netcdf")
    tree = Run(history).to_xarray()
    tree.to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "run.nc", engine="h5netcdf") as back:
        assert back.equals(tree)
        assert back.attrs == tree.attrs


def test_an_xarray_without_trees_is_told_apart_with_a_way_out(history, monkeypatch):
    monkeypatch.delattr(xr, "DataTree")
    monkeypatch.setattr(xr, "__version__", "2024.1.0")
    with pytest.raises(StoreError) as caught:
        Run(history).to_xarray()
    assert str(caught.value) == (
        "to_xarray() needs xarray 2024.10 or newer; 2024.1.0 is installed: pip install --upgrade xarray"
    )


def test_report_hands_the_run_and_the_path_to_the_report_writer(history, tmp_path, monkeypatch):
    asked = []

    def write_report(run, path, *, texts):
        asked.append((run, path, texts))
        return Path(path)

    monkeypatch.setattr(see_rnn_like.report, "write_report", write_report)
    run = Run(history)
    assert run.report(tmp_path / "report.html", texts={}) == tmp_path / "report.html"
    assert asked == [(run, tmp_path / "report.html", {})]


# ---- the documentation ---------------------------------------------------------------------------


def test_the_examples_of_the_documentation_work_and_give_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "runs.md").read_text(encoding="utf-8")
    skipped, *parts = re.split(r"<!-- not run: .*? -->\n```python\n.*?```\n", text, flags=re.DOTALL)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", skipped + "".join(parts), flags=re.DOTALL)
    assert len(blocks) == 6
    told = 0
    for block in blocks:
        exec(compile(block, "docs/runs.md", "exec"), names)
        for code, result in re.findall(r"^([^#\n]+?) +# (\[.*?\])(?::.*)?$", block, flags=re.MULTILINE):
            assert eval(code, names) == ast.literal_eval(result), code
            told += 1
    assert told == 3
    assert names["rescued"].steps == [0, 50, 100, 150]
