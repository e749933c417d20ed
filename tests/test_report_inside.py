"""The inside of real networks, from the monitor to the report."""

import os
import re

import keras
import numpy as np
import pytest
from keras import layers

from see_rnn_like import RNNMonitor, Run, memory_horizon, plot_gradient_flow, plot_horizon, plot_saturation
from see_rnn_like.report import write_report
from see_rnn_like.report.pictures import flow_picture

SUMS = {"saturation_left", "saturation_right", "h_norm", "c_norm", "output_norm", "horizon_h", "horizon_c"}
EVERYTHING = ("weights", "outputs", "output_gradients", "gates", "states", "state_gradients", "horizon")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A masked Bidirectional LSTM and a GRU after it, recorded at steps 0 … 5, read back from the file."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 9, 3)).astype("float32")
    x[:, 7:] = 0
    model = keras.Sequential(
        [
            keras.Input((9, 3)),
            layers.Masking(),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both"),
            layers.GRU(3, name="gru"),
            layers.Dense(1, name="dense"),
        ]
    )
    model.compile("adam", "mse")
    path = tmp_path_factory.mktemp("run") / "run.sqlite"
    monitor = RNNMonitor(every=1, capture=EVERYTHING, store=path, strict=True, probe=(x[:5], x[:5, 0, :1]))
    model.fit(x, x[:, 0, :1], batch_size=8, epochs=2, verbose=0, callbacks=[monitor])
    return model, x, Run.open(path)


def test_what_the_monitor_sums_up_is_what_counts_as_derived(trained):
    _, _, run = trained
    assert {key.role for key, info in run.infos().items() if info.derived} == SUMS
    assert not {key.role for key, info in run.infos().items() if not info.derived} & SUMS


def test_masked_timesteps_of_a_real_run_are_not_shown_as_failed(trained):
    """The last 2 of 9 timesteps are padding in every sample."""
    _, _, run = trained
    _, axes = plot_gradient_flow(run)
    for ax in axes:
        assert not {mesh.get_label() for mesh in ax.collections} - {"L2 norm", "exactly 0"}
        assert not ax.lines
    (spoken,) = re.findall(r'aria-label="([^"]*)"', flow_picture(run, "both").svg)
    assert "no value" in spoken
    assert "nan" not in spoken.lower()


def test_the_horizon_that_was_recorded_is_drawn_with_its_lags(trained):
    """Read off the picture; masked timesteps are no lags, so 7 of 9 timesteps are drawn."""
    _, _, run = trained
    _, axes = plot_horizon(run, layer="both")
    assert [ax.get_title(loc="left").split(":")[0] for ax in axes] == [
        *("forward · h", "forward · c", "backward · h", "backward · c")
    ]
    assert [ax.get_xlim() for ax in axes] == [(0, 6)] * 4
    recorded = run["both/backward/horizon_c:value"]
    (line,) = [line for line in axes[3].lines if line.get_label() == "step 5"]
    np.testing.assert_allclose(line.get_ydata(), recorded.sel(step=5).values[:7])


def test_the_last_recorded_saturation_is_drawn(trained):
    _, _, run = trained
    _, axes = plot_saturation(run, layer="gru")
    left, right = (run[f"gru/forward/saturation_{side}:value"].isel(step=-1) for side in ("left", "right"))
    for ax, gate in zip(axes[0], ("update", "reset", "new"), strict=True):
        places = ax.collections[0].get_offsets()
        np.testing.assert_allclose(places, np.stack([right.sel(gate=gate), left.sel(gate=gate)], 1))
    assert axes[0, 2].get_title() == "new (candidate)"


def test_the_report_of_a_real_run_shows_the_inside(trained, tmp_path):
    _, _, run = trained
    source = write_report(run, tmp_path / "report.html").read_text("utf-8")
    assert source.count("<h3>Inside</h3>") == 2
    labels = re.findall(r'aria-label="([^"]*)"', source)
    assert sum(label.startswith("Gradients at the last step") for label in labels) == 2
    assert sum(label.startswith("Saturation of gates") for label in labels) == 2
    assert sum(label.startswith("Influence of earlier states") for label in labels) == 2
    assert not any(role in label for role in SUMS for label in labels)
    assert os.path.getsize(tmp_path / "report.html") < 50_000 * source.count("<svg")


def test_a_horizon_measured_afterwards_agrees_with_the_last_one_recorded(trained):
    """After the last step the weights have moved once more, and other random vectors are drawn."""
    model, x, run = trained
    found = memory_horizon(model, "gru", x[:5], probes=64)
    recorded = run["gru/forward/horizon_h:value"].sel(step=5).values[:7]
    np.testing.assert_allclose(recorded, found["strength"].sel(state="h").values[:7], rtol=0.5)
