"""Sizes, styles, words and files of the see-rnn plotters, and their signatures."""

import inspect
import re
import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import tidy  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from see_rnn_like import plots
from see_rnn_like.errors import ArgumentError, ArgumentTypeError
from see_rnn_like.plots import clipnums, features_0D, features_1D, rnn_heatmap, scalefig
from see_rnn_like.plots.figure import add_title, merge_styles, new_figure, nonfinite_note, save_figures

# Names, order, defaults and which are keyword-only, as see-rnn users call them.
SIGNATURES = {
    "features_0D": "(data, marker='o', cmap='bwr', color=None, configs=None, *, w=1, h=1, "
    "show_borders=False, title='outputs', show_y_zero=True, ylims='auto', savepath=None)",
    "features_1D": "(data, n_rows=None, annotations='auto', share_xy=(1, 1), max_timesteps=None, "
    "subplot_samples=False, configs=None, *, w=1, h=1, show_borders=True, show_xy_ticks=(1, 1), "
    "title='outputs', show_y_zero=False, tight=False, borderwidth=None, color=None, savepath=None)",
    "features_2D": "(data, n_rows=None, norm=None, cmap='bwr', reflect_half=False, timesteps_xaxis=False, "
    "max_timesteps=None, share_xy=(1, 1), configs=None, *, w=1, h=1, show_borders=True, "
    "show_xy_ticks=(1, 1), show_colorbar=False, title='outputs', tight=False, channel_axis=-1, "
    "borderwidth=None, bordercolor=None, savepath=None)",
    "features_hist": "(data, n_rows='vertical', bins=100, xlims=None, tight=True, center_zero=False, "
    "share_xy=('col', 1), pad_xticks=None, annotations='auto', configs=None, *, w=1, h=1, "
    "show_borders=True, show_xy_ticks=(1, 1), title=None, borderwidth=None, savepath=None)",
    "features_hist_v2": "(data, colnames=None, bins=100, xlims=None, ylim=None, center_zero=False, "
    "tight=True, share_xy=('col', 1), pad_xticks=None, side_annot=None, configs=None, *, w=1, h=1, "
    "show_borders=True, show_xy_ticks=(1, 1), title=None, borderwidth=None, savepath=None)",
    "hist_clipped": "(data, peaks_to_clip=1, ax=None, annot_kw=None, **hist_kw)",
    "rnn_histogram": "(model, _id, layer=None, input_data=None, labels=None, mode='weights', "
    "equate_axes=1, data=None, configs=None, *, w=1, h=1, show_borders=False, show_xy_ticks=(1, 1), "
    "show_bias=True, bins=150, savepath=None)",
    "rnn_heatmap": "(model, _id, layer=None, input_data=None, labels=None, mode='weights', cmap='bwr', "
    "norm='auto', data=None, configs=None, *, w=1, h=1, show_borders=True, show_colorbar=True, "
    "show_bias=True, gate_sep_width=1, normalize=False, absolute_value=False, savepath=None)",
    "scalefig": "(fig)",
    "clipnums": "(nums)",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_see_rnn(name):
    signature = inspect.signature(getattr(plots, name))
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()
    ]
    assert str(inspect.Signature(bare)) == SIGNATURES[name]


def test_plotters_load_no_backend():
    code = "import sys, see_rnn_like.plots; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- configs ---------------------------------------------------------------------------------------


def test_an_unknown_configs_key_lists_the_known_ones():
    with pytest.raises(
        ArgumentError, match=r"unknown configs key 'subplots'; this plot draws plot, annot, subplot, title"
    ):
        features_1D(np.zeros((4, 2)), configs={"subplots": {}})


@pytest.mark.parametrize("configs", [["plot"], {"plot": 3}])
def test_configs_that_are_no_dicts_are_refused(configs):
    with pytest.raises(ArgumentTypeError, match="dict"):
        features_1D(np.zeros((4, 2)), configs=configs)


def test_configs_are_laid_over_the_defaults_key_by_key_and_not_changed():
    configs = {"title": {"fontsize": 9}, "pad": {"min": {"xy": (0, 0)}}}
    defaults = {
        "title": {"fontsize": 14, "weight": "bold"},
        "pad": {"min": {"xy": (1, 1), "c": 2}, "max": {}},
    }
    merged = merge_styles(configs, defaults)
    assert merged == {
        "title": {"fontsize": 9, "weight": "bold"},
        "pad": {"min": {"xy": (0, 0), "c": 2}, "max": {}},
    }
    merged["title"]["fontsize"] = merged["pad"]["min"]["c"] = 1
    assert configs == {"title": {"fontsize": 9}, "pad": {"min": {"xy": (0, 0)}}}
    assert defaults["title"]["fontsize"] == 14
    assert defaults["pad"]["min"]["c"] == 2


def test_either_name_of_an_argument_is_taken():
    style = {
        "plot": {"lw": 3, "ls": "--"},
        "annot": {"size": 7, "fontweight": "normal"},
        "title": {"size": 8},
    }
    fig, axes = features_1D(np.zeros((4, 2)), configs=style)
    line, text = axes[0, 0].lines[0], axes[0, 0].texts[0]
    assert (line.get_linewidth(), line.get_linestyle()) == (3, "--")
    assert (text.get_fontsize(), text.get_fontweight()) == (7, "normal")
    assert fig._suptitle.get_fontsize() == 8


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("entry", ["plot", "title", "annot", "tight", "subplot", "save"])
def test_arguments_that_matplotlib_does_not_know_are_named_with_their_entry(entry, channels, tmp_path):
    mine = plt.figure()
    with pytest.raises(ArgumentError, match=rf"configs\['{entry}'\]\['wrongg'\]") as caught:
        features_1D(np.zeros((4, channels)), configs={entry: {"wrongg": 3}}, savepath=tmp_path / "a.png")
    assert isinstance(caught.value.__cause__, (AttributeError, TypeError))
    # Neither a file nor a figure is left half done.
    assert plt.get_fignums() == [mine.number]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("plot", [features_0D, plots.features_hist, features_1D, plots.features_2D])
def test_all_plots_name_the_entry_of_an_unknown_argument(plot):
    with pytest.raises(ArgumentError, match=r"configs\['title'\]\['fontsiz'\]"):
        plot(np.arange(8.0).reshape(4, 2), title="a", configs={"title": {"fontsiz": 3}})


def test_other_errors_of_matplotlib_are_left_as_they_are():
    with pytest.raises(ValueError, match="Size is invalid") as caught:
        features_1D(np.zeros((4, 2)), configs={"title": {"fontsize": "hugee"}})
    assert not isinstance(caught.value, ArgumentError)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("setting", ["figure.constrained_layout.use", "figure.autolayout"])
def test_a_layout_set_for_all_figures_does_no_harm(setting):
    with mpl.rc_context({setting: True}):
        for channels in (3, 20):
            fig, _ = features_1D(np.zeros((4, channels)), tight=True)
            fig.canvas.draw()


# ---- size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "factors"),
    [("1", (1, 1)), ("1.5", (1.5, 1.5)), ("(1, 2)", (1, 2)), ("1,2", (1, 2)), ("[.5, 2]", (0.5, 2))],
)
def test_scalefig_takes_every_form_of_the_variable(monkeypatch, text, factors):
    monkeypatch.setenv("SCALEFIG", text)
    fig = Figure(figsize=(3, 4))
    scalefig(fig)
    assert fig.get_size_inches() == pytest.approx((3 * factors[0], 4 * factors[1]))


@pytest.mark.parametrize("text", ["", "big", "0", "-1", "1,2,3", "inf", "nan"])
def test_scalefig_names_the_variable_if_it_is_no_factor(monkeypatch, text):
    monkeypatch.setenv("SCALEFIG", text)
    with pytest.raises(ArgumentError, match=rf"SCALEFIG holds .* got {re.escape(repr(text))}"):
        scalefig(Figure())


def test_figure_sizes_are_scaled_by_arguments_and_the_variable(monkeypatch):
    weights = [np.zeros((2, 4)), np.zeros((1, 4))]
    assert features_0D(np.zeros((3, 2)), w=2)[0].get_size_inches() == pytest.approx((24, 4))
    fig = features_1D(np.zeros((4, 2)), h=0.5)[0]
    assert fig.get_size_inches() == pytest.approx((10, 5))
    assert fig.dpi == 76
    monkeypatch.setenv("SCALEFIG", "(1, 2)")
    assert features_1D(np.zeros((4, 2)))[0].get_size_inches() == pytest.approx((10, 20))
    assert rnn_heatmap(None, None, data=weights, w=0.5)[0][0].get_size_inches() == pytest.approx((7, 16))
    assert plots.rnn_histogram(None, None, data=weights)[0][0].get_size_inches() == pytest.approx((9, 18))


@pytest.mark.parametrize(("w", "h"), [(0, 1), (1, -1), (float("nan"), 1)])
def test_factors_that_are_not_positive_are_refused(w, h):
    with pytest.raises(ArgumentError, match="must be positive"):
        new_figure({"figsize": (1, 1)}, w, h)


# ---- words -----------------------------------------------------------------------------------------


def test_clipnums_keeps_whole_numbers_and_shortens_the_rest():
    assert clipnums([1, -2.0, 0.5, 999.0004, 1234.5, 0.001, -2e-7, 0]) == [
        *("1", "-2", "0.500", "999.000", "1.23e+3", "1.00e-3", "-2.00e-7", "0")
    ]
    assert clipnums(0.25) == clipnums([0.25]) == clipnums((0.25,)) == "0.250"
    assert clipnums(np.float32(3)) == "3"
    assert clipnums((float("inf"), float("nan"))) == ["inf", "nan"]


@given(st.floats(-1e300, 1e300))
def test_clipnums_are_short_and_near_the_number(number):
    text = clipnums(number)
    assert len(text) <= 10
    assert float(text) == pytest.approx(number, rel=6e-3, abs=5e-4 if abs(number) > 1e-3 else 0)


def test_a_note_counts_all_arrays_and_is_empty_for_finite_ones():
    assert nonfinite_note(np.array([np.nan, np.inf]), np.array([[-np.inf, 0]])) == "1 NaN, 2 Inf"
    assert nonfinite_note(np.zeros(3)) == nonfinite_note() == ""


def test_a_long_title_is_made_to_fit_the_figure():
    fig = new_figure({"figsize": (5, 3)}, 1, 1)
    text = add_title(fig, "a title " * 20, {"weight": "bold"})
    box = text.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= fig.bbox.width
    assert add_title(fig, "a title " * 20, {"fontsize": 14}).get_fontsize() == 14


# ---- files -----------------------------------------------------------------------------------------


def test_one_figure_is_saved_under_its_name_with_the_arguments_of_save(tmp_path):
    data = np.zeros((4, 2))
    features_1D(data, savepath=tmp_path / "a.png")
    features_1D(data, savepath=str(tmp_path / "b.png"), configs={"save": {"dpi": 19}})
    assert plt.imread(tmp_path / "a.png").shape[:2] == (760, 760)
    assert plt.imread(tmp_path / "b.png").shape[:2] == (190, 190)


def test_a_directory_that_does_not_exist_is_named_before_anything_is_drawn(tmp_path):
    weights = [np.zeros((2, 4)), np.zeros((1, 4))] * 2
    for name, words in (("no/a.png", "there is no directory"), (".", "is a directory")):
        with pytest.raises(ArgumentError, match=words):
            features_1D(np.zeros((4, 2)), savepath=tmp_path / name)
        with pytest.raises(ArgumentError, match=words):
            rnn_heatmap(None, None, data=weights, savepath=tmp_path / name)
    with pytest.raises(ArgumentError, match=r"no directory .*no'; create it first"):
        save_figures([Figure()], tmp_path / "no" / "a.png", {})
    assert plt.get_fignums() == []
    assert not any(tmp_path.iterdir())


def test_two_figures_are_numbered_before_the_extension(tmp_path):
    save_figures([Figure(), Figure()], tmp_path / "a.b.png", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b_0.png", "a.b_1.png"]
