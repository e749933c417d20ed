"""Text coloured by units: what a browser gets to read, with which colours, and what must not get through."""

from __future__ import annotations

import html.parser
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from see_rnn_like import errors
from see_rnn_like.plots.units import plot_units_on_text

DIMS = ("sample", "time", "unit")


def as_trace(h, masked=(), directions=None, layer="lstm"):
    lead = () if directions is None else ("direction",)
    found = xr.Dataset(
        {"h": ((*lead, *DIMS), np.asarray(h, "float32"))}, attrs={"layer": layer, "gating": []}
    )
    if directions is not None:
        found = found.assign_coords(direction=list(directions))
    found["gates"] = found["h"].expand_dims({"gate": ["hidden"]}, axis=-2) * 0
    found["gates"].loc[{"time": list(masked)}] = np.nan
    return found


class Reader(html.parser.HTMLParser):
    """The spans of the text, block by block: class, tooltip, text; and everything else that is written."""

    def __init__(self):
        super().__init__()
        self.blocks, self.heads, self.tags, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append((tag, dict(attrs)))
        if dict(attrs).get("class") == "srl-read":
            self.blocks.append([])
        if dict(attrs).get("class") == "srl-head":
            self.heads.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        classes = [attrs.get("class") for _, attrs in self.open]
        if "srl-read" in classes:
            shade, title = self.open[-1][1]["class"], self.open[-1][1]["title"]
            self.blocks[-1].append((shade, title, data))
        elif "srl-head" in classes:
            self.heads[-1] += data


def read(picture):
    reader = Reader()
    reader.feed(picture.html)
    reader.close()
    return reader


def rules(style):
    """Class → background and ink, for the light and the dark theme."""
    light, dark = style.split("@media screen and (prefers-color-scheme:dark)")
    pattern = r"\.srl-units \.([sn]\d*)\{background:(#\w+);color:(#\w+)\}"
    return [{name: (back, ink) for name, back, ink in re.findall(pattern, part)} for part in (light, dark)]


def luminance(color):
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ---- what is drawn -------------------------------------------------------------------------------


def test_every_character_has_the_shade_of_its_value():
    h = np.zeros((2, 5, 3))
    h[1, :, 2] = [-0.5, -0.26, 0.0, 0.124, 0.25]
    reader = read(plot_units_on_text(as_trace(h), "abcde", 2, sample=1))
    assert reader.blocks == [
        [
            ("s0", "-0.5", "a"),
            ("s5", "-0.26", "b"),
            ("s10", "0", "c"),
            ("s12", "0.124", "d"),
            ("s15", "0.25", "e"),
        ]
    ]
    assert reader.heads == ["unit 2 · lstm · state h · sample 1-0.50.5"]


def test_shades_are_even_and_symmetric_about_zero():
    values = np.linspace(-2, 2, 401)
    (block,) = read(plot_units_on_text(as_trace(values[None, :, None]), "x" * 401, 0)).blocks
    shades = np.array([int(shade[1:]) for shade, _, _ in block])
    np.testing.assert_allclose(shades, (values / 2 + 1) * 10, atol=0.5 + 1e-6)
    np.testing.assert_array_equal(shades, 20 - shades[::-1])


def test_several_units_have_a_block_and_a_scale_each():
    h = np.array([[[1.0, 10.0, 100.0], [-1.0, 5.0, 0.0]]])
    reader = read(plot_units_on_text(as_trace(h), ["to", "ken"], np.array([2, 1])))
    assert reader.blocks == [
        [("s20", "100", "to"), ("s10", "0", "ken")],
        [("s20", "10", "to"), ("s15", "5", "ken")],
    ]
    assert [head.split(" ")[1] for head in reader.heads] == ["2", "1"]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_direction_is_chosen_and_named(direction):
    h = np.stack([np.full((1, 2, 1), 0.5), np.full((1, 2, 1), -0.5)])
    reader = read(
        plot_units_on_text(as_trace(h, directions=("forward", "backward")), "ab", 0, direction=direction)
    )
    sign = {"forward": ("s20", "0.5"), "backward": ("s0", "-0.5")}[direction]
    assert reader.blocks == [[(*sign, "a"), (*sign, "b")]]
    assert f"lstm · {direction} · state h" in reader.heads[0]


def test_another_state():
    traced = as_trace(np.zeros((1, 2, 1)))
    traced["c"] = traced["h"] + 3
    assert [title for _, title, _ in read(plot_units_on_text(traced, "ab", 0, state="c")).blocks[0]] == [
        "3",
        "3",
    ]


def test_masked_timesteps_have_no_colour_and_do_not_set_the_scale():
    h = np.array([0.5, 0.25, 9.0, 9.0]).reshape(1, 4, 1)
    (block,) = read(plot_units_on_text(as_trace(h, masked=[2, 3]), "ab  ", 0)).blocks
    assert block == [("s20", "0.5", "a"), ("s15", "0.25", "b"), ("m", "masked", " "), ("m", "masked", " ")]


def test_nan_and_inf_are_seen_and_counted():
    h = np.array([0.5, np.nan, np.inf, -np.inf]).reshape(1, 4, 1)
    reader = read(plot_units_on_text(as_trace(h, masked=[1]), "abcd", 0))
    assert [(shade, title) for shade, title, _ in reader.blocks[0]] == [
        ("s20", "0.5"),
        ("n", "nan"),
        ("n", "inf"),
        ("n", "-inf"),
    ]
    assert "3 NaN or Inf" in reader.heads[0]


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_unit_without_a_range(value):
    (block,) = read(plot_units_on_text(as_trace(np.full((1, 2, 1), value)), "ab", 0)).blocks
    assert {shade for shade, _, _ in block} == {"n" if np.isnan(value) else "s10"}


def test_half_precision_does_not_overflow():
    traced = as_trace(np.full((1, 2, 1), 60000.0))
    traced["h"] = traced["h"].astype("float16")
    assert read(plot_units_on_text(traced, "ab", 0)).blocks[0][0][0] == "s20"


# ---- colours -------------------------------------------------------------------------------------


def test_letters_are_legible_on_every_shade_in_both_themes():
    style = re.search("<style>(.*?)</style>", plot_units_on_text(as_trace(np.ones((1, 1, 1))), "a", 0).html)[
        1
    ]
    for theme in rules(style):
        assert set(theme) == {f"s{i}" for i in range(21)} | {"n"}
        for back, ink in theme.values():
            low, high = sorted([luminance(back), luminance(ink)])
            assert (high + 0.05) / (low + 0.05) >= 4.5


def test_sides_differ_in_blue_and_red_and_sizes_in_lightness():
    style = re.search("<style>(.*?)</style>", plot_units_on_text(as_trace(np.ones((1, 1, 1))), "a", 0).html)[
        1
    ]
    light, dark = ([luminance(theme[f"s{i}"][0]) for i in range(21)] for theme in rules(style))
    # Away from 0 it gets darker on the light page, lighter on the dark one: what the colour-blind see too.
    assert (np.diff(light[10:]) < 0).all()
    assert (np.diff(light[:11]) > 0).all()
    assert (np.diff(dark[10:]) > 0).all()
    assert (np.diff(dark[:11]) < 0).all()
    for theme in rules(style):
        for name, more, less in (("s4", 5, 1), ("s16", 1, 5)):
            back = theme[name][0]
            assert int(back[more : more + 2], 16) > int(back[less : less + 2], 16)


def test_the_style_reaches_nothing_else():
    style = re.search("<style>(.*?)</style>", plot_units_on_text(as_trace(np.ones((1, 1, 1))), "a", 0).html)[
        1
    ]
    flat = re.sub(r"@media[^{]*\{", "", style)
    selectors = [selector.strip("} ") for selector in re.findall(r"([^{}]+)\{", flat)]
    assert len(selectors) > 40
    assert all(selector.startswith(".srl-units ") for selector in selectors)


# ---- what is written -----------------------------------------------------------------------------


def test_nothing_in_the_text_or_the_names_becomes_markup():
    attack = '</span><script>alert("&amp;")</script>\'"'
    tokens = [attack, "<b>", "&lt;"]
    picture = plot_units_on_text(as_trace(np.ones((1, 3, 1)), layer=attack), tokens, 0)
    reader = read(picture)
    assert set(reader.tags) == {"div", "style", "b", "span", "i"}
    assert ["".join(data for _, _, data in reader.blocks[0])] == ["".join(tokens)]
    assert attack in reader.heads[0]


def test_what_cannot_be_seen_is_shown():
    text = "a\nb\tc\x07\u202ed\u00a0e\r\ud800\U0001f600"
    picture = plot_units_on_text(as_trace(np.ones((1, len(text), 1))), text, 0)
    (block,) = read(picture).blocks
    shown = ["a", "↵\n", "b", "⇥\t", "c", "�", "�", "d", "\u00a0", "e", "␍", "�", "\U0001f600"]
    assert [data for _, _, data in block] == shown
    assert picture.html.isascii()


def test_empty_tokens_are_kept():
    picture = plot_units_on_text(as_trace(np.ones((1, 3, 1))), ["a", "", "b"], 0)
    assert picture.html.count('<span class="s20"') == 3


def test_notebooks_get_the_same():
    picture = plot_units_on_text(as_trace(np.ones((1, 1, 1))), "a", 0)
    assert picture._repr_html_() == picture.html
    assert repr(picture) == f"<ColoredText: {len(picture.html):,} characters of HTML>"


def test_nothing_is_changed_or_printed(capsys):
    traced = as_trace(np.ones((1, 2, 1)))
    before, settings = traced.copy(deep=True), dict(mpl.rcParams)
    plot_units_on_text(traced, "ab", 0)
    xr.testing.assert_identical(traced, before)
    assert dict(mpl.rcParams) == settings
    assert capsys.readouterr() == ("", "")


def test_no_tensorflow_is_loaded():
    code = "import sys, see_rnn_like.plots.units; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("abc", 0), errors.ArgumentError, "text is a string of length 3, the trace has 2 timesteps"),
        ((["abc"], 0), errors.ArgumentError, "text is a list of length 1, the trace has 2 timesteps"),
        (([1, 2], 0), errors.ArgumentTypeError, "text is a string or a list of strings"),
        ((7, 0), errors.ArgumentTypeError, "text is a string or a list of strings; got 7"),
        (("ab", 3), errors.ArgumentError, r"unit is one of 0 … 2; got 3"),
        (("ab", -1), errors.ArgumentError, r"unit is one of 0 … 2; got -1"),
        (("ab", [0, 1.5]), errors.ArgumentTypeError, r"unit is a whole number; got 1.5"),
    ],
)
def test_texts_and_units_that_do_not_fit_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        plot_units_on_text(as_trace(np.ones((1, 2, 3))), *arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 1}, "sample is one of 0 … 0; got 1"),
        ({"state": "c"}, "state must be one of 'h'; got 'c'"),
        ({"direction": "forward"}, "one direction: leave direction out"),
    ],
)
def test_what_the_trace_does_not_have_is_refused(options, message):
    with pytest.raises(errors.ArgumentError, match=message):
        plot_units_on_text(as_trace(np.ones((1, 2, 3))), "ab", 0, **options)


def test_a_direction_must_be_chosen():
    both = as_trace(np.ones((2, 1, 2, 3)), directions=("forward", "backward"))
    with pytest.raises(
        errors.ArgumentError, match="direction must be one of 'forward', 'backward'; got None"
    ):
        plot_units_on_text(both, "ab", 0)


@pytest.mark.parametrize("wrong", [np.ones((1, 2, 3)), xr.Dataset({"h": (DIMS, np.ones((1, 2, 3)))})])
def test_no_trace(wrong):
    with pytest.raises(errors.ArgumentError, match="takes the Dataset that trace"):
        plot_units_on_text(wrong, "ab", 0)
