import errno
import html.parser
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from made_up_probe import probed_run
from made_up_run import LSTM_GATES, empty_run, lstm_run, record, tensor_info
from matplotlib.figure import Figure

import see_rnn_like.report
from see_rnn_like import stats
from see_rnn_like.errors import ArgumentError, ArgumentTypeError, StoreError
from see_rnn_like.history import Event, Snapshot, TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.curves import HUES
from see_rnn_like.plots.steps import BAD
from see_rnn_like.plots.units import plot_units_on_text
from see_rnn_like.report import write_report
from see_rnn_like.report.page import STATISTICS, build_page
from see_rnn_like.report.svg import DARK_PAGE, contrast, drawing_style, on_dark, theme, to_svg
from see_rnn_like.report.write import render

SCRIPT = "<script>alert(1)</script>"
META = {
    "package_version": "0.1.0",
    "keras_version": "3.15.0",
    "tensorflow_version": "2.21.0",
    "numpy_version": "2.4.6",
    "python_version": "3.11.2",
    "backend": "tensorflow",
    "host": "lab",
    "started": "2025-01-02T03:04:05+00:00",
    "model": {
        "name": "char_lstm",
        "parameters": 123456,
        "layers": [
            {
                "path": "lstm",
                "class": "LSTM",
                "parameters": 4321,
                "output_shape": "(None, 20, 16)",
                "trainable": True,
            },
            {
                "path": "dense",
                "class": "Dense",
                "parameters": 170,
                "output_shape": "(None, 10)",
                "trainable": False,
            },
        ],
        "summary": "Model: char_lstm\n  lstm (LSTM)",
    },
    "optimizer": {"class": "Adam", "learning_rate": 0.001, "clipnorm": 1.0},
    "loss": "mse",
    "jit_compile": False,
    "every": "every(20)",
    "level": "stats",
    "capture": ["weights", "gradients"],
    "git_commit": None,
    "fits": [{"first_step": 0, "epochs": 2, "batch_size": 32, "started": "2025-01-02T03:04:05+00:00"}],
}


class Page(html.parser.HTMLParser):
    """Every tag with its attributes, and the text with the tags it stands in."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, source):
        super().__init__()
        self.tags, self.texts, self.stack = [], [], []
        self.feed(source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.stack) or ("",), data))

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def text(self, inside=""):
        return " ".join(" ".join(data.split()) for stack, data in self.texts if not inside or inside in stack)


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    before, environment = dict(mpl.rcParams), dict(os.environ)
    yield
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    environment["PYTEST_CURRENT_TEST"] = os.environ["PYTEST_CURRENT_TEST"]
    assert dict(os.environ) == environment


@pytest.fixture(scope="module")
def run():
    run = lstm_run(steps=range(0, 200, 20), layers=["lstm"], meta=META, roles=["kernel"])
    run.add_epoch(0, 99, {"loss": 2.5, "val_loss": 2.6, "accuracy": 0.25})
    run.add_epoch(1, 199, {"loss": 1.5, "val_loss": 1.6, "accuracy": 0.5})
    return run


@pytest.fixture(scope="module")
def built(run):
    return build_page(run)


@pytest.fixture(scope="module")
def source(run):
    return render(run)


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


@pytest.fixture
def small():
    """The smallest run with everything: a tensor with gates, one without, a loss."""
    run = empty_run()
    run.declare([tensor_info("lstm/forward/kernel:weight", (2, 4, 3), LSTM_GATES)])
    run.declare([tensor_info("dense/kernel:weight", (3,))])
    arrays = {"lstm/forward/kernel:weight": np.ones((2, 4, 3)), "dense/kernel:weight": np.ones(3)}
    record(run, 0, arrays, logs={"loss": 1.0})
    return run


# ---------------------------------------------------------------------------- what it says


def test_headline_names_what_was_trained_and_how_it_went(run, page):
    assert page.text("h1") == "char_lstm"
    loss = run.stats("loss:value")["mean"].values
    text = page.text("header")
    assert "10 steps were recorded, 0 to 180." in text
    assert f"from {loss[0]:.4g} to {loss[-1]:.4g}." in text
    assert "No NaN and no Inf was seen" in text


def test_facts_come_from_the_meta_data(page):
    names = [data for stack, data in page.texts if stack[-1] == "dt"]
    values = [data for stack, data in page.texts if stack[-1] == "dd"]
    facts = dict(zip(names, values, strict=True))
    assert facts["Parameters"] == "123,456"
    assert facts["Optimizer"] == "Adam, learning rate 0.001, clipnorm 1.0"
    assert facts["Recorded"] == "10 steps, every(20)"
    assert facts["Captured"] == "weights, gradients"
    assert facts["Batch size"] == "32"
    assert facts["Started"] == "2025-01-02 03:04:05+00:00"
    assert facts["jit_compile"] == "False"
    assert facts["A recorded step took"] == "1.0 ms (median)"
    assert facts["Versions"] == (
        "see_rnn_like 0.1.0, Keras 3.15.0, TensorFlow 2.21.0, NumPy 2.4.6, Python 3.11.2, backend tensorflow"
    )
    assert "Git commit" not in facts
    assert page.text("pre") == "Model: char_lstm lstm (LSTM)"


def test_table_of_layers_and_of_epochs(page):
    text = page.text("table")
    assert "lstm LSTM (None, 20, 16) 4321 yes" in re.sub(" +", " ", text)
    assert "dense Dense (None, 10) 170 no" in re.sub(" +", " ", text)
    assert "epoch step loss val_loss accuracy 0 99 2.5 2.6 0.25 1 199 1.5 1.6 0.5" in re.sub(" +", " ", text)


def test_tables_of_last_statistics_are_those_of_the_run(run, built):
    (layer,) = [layer for layer in built.layers if layer.name == "lstm"]
    (kernel,) = [tensor for tensor in layer.tensors if tensor.name == "kernel"]
    assert [(row.kind, row.gate) for row in kernel.rows] == [
        (kind, gate) for kind in ("weight", "update", "gradient") for gate in LSTM_GATES
    ]
    ((_, sums),) = run.load(TensorKey.parse("lstm/forward/kernel:gradient"), "moments", [180])
    count, nan, inf, zero, total, squares, low, high = sums[1]
    mean = total / count
    expected = (squares**0.5, mean, (squares / count - mean**2) ** 0.5, low, high, zero / count, nan, inf)
    forget = kernel.rows[9]
    assert forget.step == 180
    np.testing.assert_allclose([forget.numbers[name] for name in STATISTICS], expected)


def test_every_layer_and_tensor_has_its_pictures(built):
    assert [layer.name for layer in built.layers] == ["lstm", "dense"]
    assert [tensor.name for tensor in built.layers[0].tensors] == ["kernel", "output"]
    assert [len(tensor.pictures) for tensor in built.layers[0].tensors] == [4, 3]
    assert [heading for heading, _ in built.overview] == ["Weights", "Updates", "Gradients", "Outputs"]
    assert built.layers[0].facts == ["LSTM", "4,321 parameters", "(None, 20, 16)"]
    assert built.layers[1].facts[-1] == "frozen"
    texts = Page(str(built.layers[0].tensors[0].pictures[1].svg)).text("text")
    assert "lstm/forward/kernel:weight" in texts
    for gate in LSTM_GATES:
        assert gate in texts


def test_captions_say_what_the_attributes_of_a_tensor_say():
    run = empty_run()
    run.declare(
        [tensor_info("dense/kernel:gradient", (3,), clipping="before clipnorm", from_="training batch")]
    )
    record(run, 0, {"dense/kernel:gradient": np.ones(3)})
    assert "clipping: before clipnorm; from_: training batch" in Page(render(run)).text("figcaption")


def test_directions_have_their_own_sections():
    run = lstm_run([0], ["lstm"], bidirectional=True, roles=["kernel"])
    names = [tensor.name for tensor in build_page(run).layers[0].tensors]
    assert names == ["forward · kernel", "backward · kernel", "output"]


@pytest.fixture
def troubled(small):
    """The small run with a NaN in the second layer."""
    key = TensorKey.parse("dense/kernel:weight")
    counts = {"nan": 1300, "inf": 0, "count": 2048}
    small.add_event(Event(20, "nan", key, "forget", counts, "NaN at step 20: dense, forget gate"))
    small.add_event(Event(20, "thinned", None, None, {}, "older steps were thinned"))
    return small


def test_events_come_first_with_step_tensor_gate_and_counts(troubled):
    page = Page(render(troubled))
    assert "NaN was first seen at step 20 in dense/kernel:weight, gate forget." in page.text("header")
    headings = [data for stack, data in page.texts if stack[-1] == "h2" and "main" in stack]
    assert headings[0] == "Events"
    items = [attrs["class"] for attrs in page.named("li") if "event" in attrs.get("class", "")]
    assert items == ["event bad", "event note"]
    text = re.sub(" +", " ", page.text("ol")).strip()
    assert text == (
        "NaN at step 20: dense, forget gate (dense/kernel:weight, nan 1,300, inf 0, count 2,048) "
        "older steps were thinned (step 20)"
    )
    assert "Time line of the events" in " ".join(attrs["aria-label"] for attrs in page.named("svg"))


def test_the_layer_of_the_first_event_is_open(troubled):
    page = Page(render(troubled))
    details = [attrs for attrs in page.named("details") if attrs.get("class") == "layer"]
    assert ["open" in attrs for attrs in details] == [False, True]
    assert build_page(troubled).open_layer == "layer-1"


def test_without_events_the_first_recurrent_layer_is_open(built):
    assert built.open_layer == "layer-0"
    run = empty_run()
    run.declare([tensor_info("embedding/embeddings:weight", (3,))])
    run.declare([tensor_info("lstm/forward/kernel:weight", (2, 4, 3), LSTM_GATES)])
    arrays = {"embedding/embeddings:weight": np.ones(3), "lstm/forward/kernel:weight": np.ones((2, 4, 3))}
    record(run, 0, arrays)
    assert build_page(run).open_layer == "layer-1"


def test_many_events_are_folded_behind_the_first():
    run = empty_run()
    for number in range(30):
        run.add_event(Event(number, "nan", None, None, {}, f"event number {number}"))
    source = render(run)
    assert source.count("event number") == 30
    assert source.index("event number 7") < source.index("<summary>22 more") < source.index("event number 8")


def test_an_event_repeats_nothing_its_message_says(small):
    key = TensorKey.parse("dense/kernel:gradient")
    counts = {"count": 30, "nan": 3, "inf": 0}
    message = "NaN at step 2: dense, kernel gradient, forget gate: 3 NaN and 0 Inf among 30 values"
    event = Event(2, "nan", key, "forget", counts, message)
    assert build_page(small).untold(event) == []
    elsewhere = Event(20, "capture-off", key, "for", counts | {"nan": 31}, message)
    assert build_page(small).untold(elsewhere) == ["step 20", "capture-off", "gate for", "nan 31"]


def test_many_epochs_are_folded_before_the_last(small):
    for number in range(25):
        small.add_epoch(number, number, {"loss": 100.0 + number})
    page = Page(render(small))
    tables = [data for stack, data in page.texts if stack[-1] == "td" and "details" not in stack]
    shown = [float(cell) for cell in tables if cell.strip().startswith("1") and len(cell) == 3]
    assert shown == [100.0 + number for number in range(15, 25)]
    assert "15 earlier epochs" in page.text("summary")
    folded = [data for stack, data in page.texts if stack[-1] == "td" and "details" in stack]
    assert {str(100 + number) for number in range(15)} <= set(folded)
    assert "At the end of each of the last 10 epochs" in page.text("caption")


def test_a_learning_rate_schedule_is_told_with_its_settings(small):
    config = {
        "initial_learning_rate": 0.005,
        "decay_steps": 1500,
        "warmup_target": None,
        "name": "CosineDecay",
    }
    schedule = {"module": "keras.optimizers.schedules", "class_name": "CosineDecay", "config": config}
    small.set_meta("optimizer", {"class": "Adam", "learning_rate": schedule})
    page = build_page(small)
    told = "CosineDecay (initial_learning_rate 0.005, decay_steps 1500)"
    assert dict(page.facts)["Optimizer"] == f"Adam, learning rate {told}"
    assert dict(page.optimizer)["learning_rate"] == told


def test_what_is_no_run_is_refused_with_the_way_to_one(tmp_path):
    with pytest.raises(ArgumentTypeError, match=r"Run\.open\(path\) of a run file; got 'run\.sqlite'"):
        write_report("run.sqlite", tmp_path / "report.html")


def test_counts_of_nan_stand_out_in_the_table():
    run = empty_run()
    run.declare([tensor_info("dense/kernel:weight", (3,))])
    record(run, 0, {"dense/kernel:weight": np.array([1, np.nan, np.inf])})
    cells = [attrs for attrs in Page(render(run)).named("td") if "bad" in attrs.get("class", "")]
    assert len(cells) == 2


def test_a_run_without_a_step_says_so():
    page = Page(render(empty_run()))
    assert "No step has been recorded yet." in page.text("header")
    assert page.named("svg") == []
    assert page.named("h1")


def test_a_run_with_tensors_but_no_steps_and_one_without_loss():
    run = empty_run(META)
    run.declare([tensor_info("dense/kernel:weight", (3,))])
    assert Page(render(run)).named("svg") == []
    record(run, 0, {"dense/kernel:weight": np.ones(3)})
    page = Page(render(run))
    assert [data for stack, data in page.texts if stack[-1] == "h2"] == [
        "Contents",
        "What was trained",
        "Norms",
        "Layer by layer",
    ]


@pytest.mark.parametrize(
    "meta",
    [
        {"model": None, "optimizer": None, "fits": None, "capture": None, "started": None},
        {"model": {"layers": None, "name": None}, "optimizer": {}},
        {"optimizer": {"class": "SGD", "learning_rate": {"class_name": "CosineDecay", "config": {}}}},
        {"fits": [{"first_step": 0}, {"first_step": 5, "batch_size": 8}]},
        {"model": {"layers": [{"path": "lstm"}]}},
    ],
)
def test_missing_meta_entries_are_left_out(meta):
    run = empty_run(meta)
    run.declare([tensor_info("lstm/kernel:weight", (3,))])
    record(run, 0, {"lstm/kernel:weight": np.ones(3)})
    page = Page(render(run))
    assert "None" not in page.text("dl") + page.text("table")
    assert page.text("h1") == "a run"


# ---------------------------------------------------------------------------- safe and self-contained


def hostile_run():
    names = [
        SCRIPT,
        "a\"b' onload='x",
        "{{ 7 * 7 }}",
        "$x^$",
        "_hidden",
        "名前",
        "x\u202ey",
        "&amp;",
        "#123456",
    ]
    meta = dict.fromkeys(
        ("package_version", "keras_version", "backend", "host", "loss", "every", "level"), SCRIPT
    )
    meta |= {"started": SCRIPT, "git_commit": SCRIPT, "capture": [SCRIPT]}
    meta["model"] = {"name": SCRIPT, "parameters": 3, "summary": SCRIPT}
    meta["model"]["layers"] = [{"path": SCRIPT, "class": SCRIPT, "parameters": 1, "output_shape": SCRIPT}]
    meta["optimizer"] = {"class": SCRIPT, SCRIPT: SCRIPT}
    run = empty_run(meta)
    for name in names:
        run.declare([tensor_info(f"{name}/forward/kernel:weight", (2, 2, 3), (SCRIPT, "b"), note=SCRIPT)])
    for step in (0, 1):
        arrays = {f"{name}/forward/kernel:weight": np.ones((2, 2, 3)) for name in names}
        record(run, step, arrays, logs={f"{SCRIPT}_loss": 1.0})
    run.add_epoch(0, 1, {SCRIPT: 1.0, f"val_{SCRIPT}_loss": 2.0})
    run.add_event(Event(1, SCRIPT, TensorKey(SCRIPT, None, "k", "weight"), SCRIPT, {SCRIPT: 3}, SCRIPT))
    return run, names


@pytest.fixture(scope="module")
def hostile():
    run, names = hostile_run()
    return render(run), names


def test_hostile_names_come_out_as_text(hostile):
    source, names = hostile
    assert SCRIPT not in source
    page = Page(source)
    assert page.named("script") == []
    text = page.text()
    for name in names:
        assert name.replace("\u202e", "�") in text
    assert "\u202e" not in source
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


@pytest.mark.parametrize("which", ["page", "hostile"])
def test_the_file_needs_nothing_from_outside(which, request):
    found = request.getfixturevalue(which)
    page = found if which == "page" else Page(found[0])
    assert {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    } == set()
    for _, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,"))
    (policy,) = [attrs["content"] for attrs in page.named("meta") if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    style = "".join(data for stack, data in page.texts if stack[-1] == "style")
    assert "url(" not in style
    assert "@import" not in style


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"][1:] for attrs in page.named("a")]
    targets += [attrs["href"][1:] for attrs in page.named("use")]
    assert targets
    assert set(targets) <= set(ids)
    clips = {
        name for _, attrs in page.tags for name in re.findall(r"url\(#(\w+)\)", attrs.get("clip-path", ""))
    }
    assert clips
    assert clips <= set(ids)


def test_every_picture_and_scroll_box_has_words_and_headings_are_nested(page):
    pictures = page.named("svg")
    assert pictures
    for attrs in pictures:
        assert attrs["role"] == "img"
        assert len(attrs["aria-label"]) > 30
    for attrs in (a for _, a in page.tags if a.get("class") == "scroll"):
        assert attrs["tabindex"] == "0"
        assert attrs["aria-label"]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert {tag for tag, _ in page.tags} >= {"main", "nav", "header", "footer"}
    assert page.named("html")[0]["lang"] == "en"


def test_words_of_a_picture_tell_its_numbers(run, built):
    norms = np.array(run.stats("dense/kernel:weight")["norm"])
    words = [Page(str(picture.svg)).named("svg")[0]["aria-label"] for _, picture in built.overview]
    assert f"dense from {norms[0]:.3g} to {norms[-1]:.3g}" in words[0]
    spoken = Page(str(built.layers[1].tensors[0].pictures[1].svg)).named("svg")[0]["aria-label"]
    last = run.stats("dense/kernel:weight").isel(step=-1)
    assert spoken == (
        "Distribution of dense/kernel:weight at 10 steps; at the last one; "
        f"{float(last['min']):.3g} to {float(last['max']):.3g}, 0% exact zeros."
    )


def test_the_same_run_gives_the_same_report(small):
    first, second = (re.sub(r"on [\d :+-]+\. This", "", render(small)) for _ in range(2))
    assert first == second


def test_a_picture_takes_no_more_than_it_must(source, page):
    # So a report of eighty pictures, such as one on three LSTM layers, stays below 4 MB.
    assert len(source.encode()) < 50_000 * len(page.named("svg"))


# ---------------------------------------------------------------------------- pictures


def test_pictures_do_not_depend_on_the_style_of_the_user(small):
    plain = render(small)
    with mpl.rc_context(), mpl.style.context("dark_background"):
        mpl.rcParams.update({"text.usetex": True, "font.size": 30, "svg.fonttype": "path", "axes.grid": True})
        styled = render(small)
        assert mpl.rcParams["font.size"] == 30
    cut = re.compile(r"on [\d :+-]+\. This")
    assert cut.sub("", plain) == cut.sub("", styled)


def test_svg_has_real_text_no_style_rules_and_only_themed_colours():
    with drawing_style("x"):
        fig = Figure(figsize=(3, 2))
        ax = fig.add_subplot()
        ax.plot([1, 2], color="#0072b2", label="a < b & c")
        ax.set_title("a < b & c")
        svg = to_svg(fig, 'words & "more"')
    page = Page(str(svg))
    assert page.named("svg")[0]["aria-label"] == 'words & "more"'
    assert "a < b & c" in page.text("text")
    tags = {tag for tag, _ in page.tags}
    assert "style" not in tags
    assert "metadata" not in tags
    styles = " ".join(attrs.get("style", "") for _, attrs in page.tags)
    assert "var(--c-0072b2)" in styles
    assert not re.search("#[0-9a-f]{6}", styles)
    assert ("--c-0072b2", "#0072b2", on_dark("#0072b2")) in theme([svg])


def test_a_layer_named_like_a_colour_keeps_its_name(hostile):
    source, _ = hostile
    assert "#123456" in Page(source).text("text")


@pytest.mark.parametrize("colour", [*HUES, BAD, "#888888", "#000000", "#24292f", "#440154"])
def test_colours_show_on_the_dark_page(colour):
    assert contrast(on_dark(colour), DARK_PAGE) >= (3 if colour == "#888888" else 4.5)


def test_contrast_is_that_of_the_standard():
    # The examples of WCAG's understanding documents: #767676 is the lightest grey with 4.5:1 on white.
    assert contrast("#767676", "#ffffff") >= 4.5 > contrast("#777777", "#ffffff")
    assert contrast("#ff0000", "#ffffff") == pytest.approx(4.0, abs=0.01)


def test_the_dark_page_of_the_style_sheet_is_the_one_colours_are_made_for():
    sheet = Path(see_rnn_like.report.__file__).with_name("report.css").read_text("utf-8")
    assert f"--page: {DARK_PAGE}" in sheet


@pytest.mark.parametrize(
    "pair", [("--ink", "--page"), ("--soft", "--card"), ("--link", "--page"), ("--bad", "--bad-back")]
)
def test_text_of_the_page_has_the_contrast_of_the_standard(pair):
    sheet = Path(see_rnn_like.report.__file__).with_name("report.css").read_text("utf-8")
    values = [re.findall(rf"{name}: (#\w{{6}});", sheet) for name in pair]
    for ink, paper in zip(*values, strict=True):
        assert contrast(ink, paper) >= 4.5


def full_run(reset_after=True):
    """A GRU whose weights were kept at two steps, in Keras's layout of gates."""
    rng = np.random.default_rng(0)
    run = empty_run({"level": "full"})
    gates = {"gate": ("update", "reset", "new")}
    shapes = {
        "kernel": (("input", "gate", "unit"), (5, 3, 4)),
        "recurrent_kernel": (("state", "gate", "unit"), (4, 3, 4)),
        "bias": (("side", "gate", "unit"), (2, 3, 4)) if reset_after else (("gate", "unit"), (3, 4)),
    }
    for role, (dims, shape) in shapes.items():
        coords = gates | ({"side": ("input", "recurrent")} if "side" in dims else {})
        run.declare([TensorInfo(TensorKey("gru", "forward", role, "weight"), dims, shape, coords)])
    for step in (0, 7):
        values = {info.key: rng.normal(size=info.shape).astype("float32") for info in run.infos().values()}
        moments = {key: stats.moments(array, array.ndim - 2) for key, array in values.items()}
        histograms = {key: stats.histogram(array, array.ndim - 2) for key, array in values.items()}
        run.append(Snapshot(step, 0, 0.0, 0.0, moments, histograms, values if step else {}))
    return run


@pytest.mark.parametrize("reset_after", [True, False])
def test_weights_that_were_kept_are_shown_as_heatmaps(reset_after):
    (layer,) = build_page(full_run(reset_after)).layers
    (picture,) = layer.heatmaps
    assert picture.caption == "forward weights before the update of step 7"
    text = Page(str(picture.svg)).text("text")
    assert "KERNEL" in text
    assert "RECURRENT" in text
    for gate in ("UPDATE", "RESET", "NEW"):
        assert gate in text


def test_weights_that_were_not_kept_have_no_heatmap(built):
    assert [layer.heatmaps for layer in built.layers] == [[], []]


# ---------------------------------------------------------------------------- the inside of layers


@pytest.fixture(scope="module")
def inside():
    """A Bidirectional LSTM whose output the network reads at the last timestep, and a SimpleRNN."""
    return probed_run(
        {"bidirectional": ("LSTM", ["forward", "backward"]), "rnn": ("SimpleRNN", ["forward"])}, meta=META
    )


@pytest.fixture(scope="module")
def inside_page(inside):
    return build_page(inside)


def spoken(picture):
    return Page(str(picture.svg)).named("svg")[0]["aria-label"]


def test_recurrent_layers_show_gradient_flow_saturation_and_horizon(inside_page):
    assert [(layer.name, len(layer.inside)) for layer in inside_page.layers] == [
        ("bidirectional", 3),
        ("rnn", 3),
    ]
    for layer in inside_page.layers:
        flow, saturation, horizon = layer.inside
        assert "dL/dh and dL/dc are total, through time" in flow.caption
        assert "dL/d(output) leaves out the recurrent path" in flow.caption
        assert all("probe batch" in picture.caption for picture in (flow, saturation, horizon))
        assert not any(picture.wide for picture in layer.inside)
        texts = [Page(str(picture.svg)).text("text") for picture in layer.inside]
        assert "dL/dh" in texts[0]
        assert "leaves out the recurrent path; probe batch" in texts[0]
        assert "step 20, probe batch" in texts[1]
        assert "step 0 step 10 step 20" in texts[2]


def test_words_of_the_inside_tell_its_numbers(inside_page):
    flow, saturation, horizon = map(spoken, inside_page.layers[0].inside)
    first, middle = (0.54 ** (11 - timestep) for timestep in (0, 6))
    assert (
        f"bidirectional/forward · dL/dh, total, through time; probe batch: {first:.2g}, {middle:.2g}, 1."
        in flow
    )
    assert "dL/d(output), leaves out the recurrent path; probe batch: exactly 0, exactly 0, 0.25." in flow
    assert "backward · cell (candidate): mean of 4 units, 18% below −0.9, 28% above 0.9." in saturation
    lags = [np.log(level) / np.log(factor) for level in (np.exp(-1), 0.01) for factor in (0.5, 0.54)]
    assert "forward · h: 1/e at {:.3g} → {:.3g}, 1% at {:.3g} → {:.3g}.".format(*lags) in horizon


@pytest.mark.parametrize(
    ("masked", "words"), [([], "NaN or Inf, NaN or Inf, 2."), ([0], "no value, NaN or Inf, 2.")]
)
def test_nan_gradients_are_told_in_words_and_padding_is_none(masked, words):
    run = empty_run()
    key = TensorKey("rnn", "forward", "h_norm", "gradient")
    run.declare([TensorInfo(key, ("time",), (3,), {}, {"from": "probe batch", "masked": masked})])
    norms = np.array([np.nan, np.inf, 2.0])
    run.append(Snapshot(0, 0, 0.0, 0.0, {key: stats.moments(norms)}, {}, {key: norms}))
    (layer,) = build_page(run).layers
    assert spoken(layer.inside[0]).endswith(f"probe batch: {words}")


def test_sums_of_other_tensors_have_no_sections_of_their_own(inside_page):
    headings = [heading for heading, _ in inside_page.overview]
    assert headings == ["Gradients", "Outputs, gates and states"]
    text = " ".join(Page(str(picture.svg)).text("text") for _, picture in inside_page.overview)
    assert "gates · value" in text
    names = [tensor.name for layer in inside_page.layers for tensor in layer.tensors]
    both = [f"{way} · {role}" for way in ("forward", "backward") for role in ("gates", "h", "c")]
    assert names == [*both, "gates", "h"]
    for word in ("saturation_", "_norm", "horizon_"):
        assert word not in text
        assert not any(word in name for name in names)


def test_a_layer_of_which_only_the_horizon_was_recorded_is_shown():
    run = empty_run()
    key = TensorKey("gru", "forward", "horizon_h", "value")
    run.declare([TensorInfo(key, ("lag",), (3,))])
    strength = np.array([1.0, 0.3, 0.1])
    run.append(Snapshot(5, 0, 0.0, 0.0, {key: stats.moments(strength)}, {}, {key: strength}))
    page = build_page(run)
    assert [(layer.name, len(layer.inside), layer.tensors) for layer in page.layers] == [("gru", 1, [])]
    assert (page.overview, page.activations, page.open_layer) == ([], None, "layer-0")
    assert Page(render(run)).text("h3") == "Inside"


def test_outputs_and_states_of_all_layers_are_overviewed(inside_page, built):
    words = spoken(inside_page.activations)
    for name in ("bidirectional/forward · h", "bidirectional/backward · c", "rnn · h"):
        assert f"{name}, probe batch" in words
    assert inside_page.activations.wide
    # Outputs alone are one column, which a phone has room for.
    assert not built.activations.wide
    assert spoken(built.activations) == "Distributions over training: lstm · output, dense · output."


def test_what_a_run_did_not_record_is_not_on_its_page(built, page):
    assert [layer.inside for layer in built.layers] == [[], []]
    assert "Inside" not in page.text("h3")
    assert "probe batch" not in page.text()


def test_norms_name_both_kinds_of_gradients_apart(inside):
    text = Page(render(inside)).text("p")
    assert "gradients of h and c are of the probe batch; these gradients are total, through time" in text
    assert "that of an output leaves out the recurrent path" in text


def test_the_legend_of_an_image_keeps_its_colours_in_the_dark_theme(inside_page):
    """The image itself does: a grey of "exactly 0" that turned dark would name another colour."""
    svg = str(inside_page.layers[0].inside[0].svg)
    assert "fill: #b8b8b8" in svg
    assert "--c-b8b8b8" not in svg
    assert "unthemed" not in svg


def test_lists_among_attributes_are_written_as_words(inside_page):
    (gates,) = [tensor for tensor in inside_page.layers[0].tensors if tensor.name == "forward · gates"]
    assert gates.pictures[1].caption.endswith("gating: input, forget, output")


def test_the_inside_of_a_layer_takes_no_more_than_it_must(inside):
    """Three pictures per layer and an overview: some 20 kB each."""
    source = render(inside)
    assert len(source.encode()) < 50_000 * len(Page(source).named("svg"))


# ---------------------------------------------------------------------------- the file


def test_the_file_is_written_and_its_path_returned(small, tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    assert write_report(small, str(target)) == target
    assert target.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert os.listdir(tmp_path) == ["report.html"]
    monkeypatch.chdir(tmp_path)
    assert write_report(small, "other.html") == Path("other.html")
    assert (tmp_path / "other.html").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert write_report(small, "~/home.html") == tmp_path / "home.html"
    monkeypatch.undo()


def test_the_file_has_the_permissions_of_other_new_files(small, tmp_path):
    (tmp_path / "plain").write_text("")
    write_report(small, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(small, tmp_path):
    real = tmp_path / "reports"
    real.mkdir()
    link = tmp_path / "latest.html"
    link.symlink_to(real / "report.html")
    assert write_report(small, link) == link
    assert link.is_symlink()
    assert os.listdir(real) == ["report.html"]


def test_text_that_utf8_cannot_hold_does_not_stop_the_report(tmp_path, small):
    small.set_meta("host", "half a pair: \ud83d, bell: \x07")
    source = write_report(small, tmp_path / "report.html").read_text("utf-8")
    assert "half a pair: �, bell: �" in source


def test_a_directory_or_a_missing_one_is_refused_before_any_work(small, tmp_path):
    with pytest.raises(ArgumentError, match=r"is a directory: try '.*report.html'"):
        write_report(small, tmp_path)
    with pytest.raises(ArgumentError, match=r"there is no directory '.*missing'; make it first"):
        write_report(small, tmp_path / "missing" / "report.html")
    assert os.listdir(tmp_path) == []


def test_when_the_file_cannot_take_its_place_the_old_one_stays(small, tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    target.write_text("the old report")

    def refuse(source, target):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(
        StoreError, match=r"the report cannot be written to '.*report.html': Permission denied"
    ):
        write_report(small, target)
    assert os.listdir(tmp_path) == ["report.html"]
    assert target.read_text() == "the old report"


@pytest.mark.skipif(
    os.name != "posix" or os.geteuid() == 0, reason="needs a user who may not write everywhere"
)
def test_a_directory_one_may_not_write_to(small, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        write_report(small, tmp_path / "report.html")
    tmp_path.chmod(0o700)
    assert os.listdir(tmp_path) == []


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
from made_up_run import empty_run
from see_rnn_like.errors import StoreError
from see_rnn_like.report import write_report
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    write_report(empty_run(), sys.argv[2])
except StoreError as error:
    sys.stdout.write(str(error))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX has it")
def test_a_disk_without_room_leaves_nothing_behind(tmp_path):
    target = tmp_path / "report.html"
    command = [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"the report cannot be written to '{target}': File too large"
    assert os.listdir(tmp_path) == []


def test_writing_a_report_does_not_print(small, tmp_path, capsys):
    write_report(small, tmp_path / "report.html")
    assert capsys.readouterr() == ("", "")


# ---- units on text -------------------------------------------------------------------------------


def colored(text="a<b>"):
    h = xr.DataArray(np.linspace(-1, 1, len(text))[None, :, None], dims=("sample", "time", "unit"))
    traced = xr.Dataset({"h": h, "gates": h.expand_dims(gate=["hidden"], axis=2)}, attrs={"gating": []})
    return plot_units_on_text(traced, text, 0)


def test_texts_coloured_by_units_come_last_and_are_escaped(tmp_path):
    page = write_report(lstm_run(), tmp_path / "r.html", texts={"in <quotes>": colored()}).read_text("utf-8")
    assert "<h3>in &lt;quotes&gt;</h3>" in page
    assert colored().html in page
    assert "<b>" not in page.partition('class="srl-read"')[2]
    assert page.index('href="#texts"') < page.index('id="texts"')
    assert "Units on text" not in write_report(lstm_run(), tmp_path / "r.html").read_text("utf-8")


@pytest.mark.parametrize("texts", [["a"], {"a": "<script>"}, {1: colored()}])
def test_texts_of_another_kind_are_refused(texts, tmp_path):
    with pytest.raises(ArgumentTypeError, match="texts maps headings to"):
        write_report(lstm_run(), tmp_path / "r.html", texts=texts)
    assert not list(tmp_path.iterdir())
