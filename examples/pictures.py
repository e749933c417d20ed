"""Makes the picture of the README from a real run.

``python examples/pictures.py`` trains a character LSTM as sandbox.py does (under a minute on two cores),
and draws how its gradients and updates went, and the forget gate of the trained network while it reads
text it has not seen.
"""

import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure, SubFigure

from see_rnn_like import RNNMonitor, Run, plot_histograms, plot_norms, tasks, trace

IMAGES = Path(__file__).parents[1] / "docs" / "images"
STEPS = 1000
#: Where in the validation text to read, and how far: from the start of a word.
START, LENGTH = 13, 64


def train(task: tasks.Task, run_file: Path) -> tuple[keras.Model, Run]:
    """Trains a character LSTM for `STEPS` steps, recorded every 10 steps."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Embedding(len(task.names), 32),
        keras.layers.LSTM(64, return_sequences=True),
        keras.layers.Dense(len(task.names), activation="softmax"),
    ]
    model = keras.Sequential([keras.Input(task.x.shape[1:]), *layers])
    rate = keras.optimizers.schedules.CosineDecay(0.01, decay_steps=STEPS)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), task.loss)
    monitor = RNNMonitor(every=10, store=run_file)
    samples = np.random.default_rng(0).integers(len(task.x), size=32 * STEPS)
    model.fit(task.x[samples], task.y[samples], batch_size=32, shuffle=False, callbacks=[monitor])
    return model, monitor.run


def draw_forget_gate(inside: xr.Dataset, text: str, fig: SubFigure) -> None:
    """The forget gate of every unit over a text, characters on the time axis."""
    values = inside["gates"].isel(sample=0).sel(gate="forget")
    values = values.isel(unit=np.argsort(values.mean("time").values)).transpose("unit", "time")
    ax = fig.subplots()
    bar = {"label": "0: forgets … 1: keeps", "pad": 0.01}
    sns.heatmap(values, vmin=0, vmax=1, cmap="viridis", ax=ax, cbar_kws=bar)
    ax.set(xlabel="text the network has not seen", ylabel="unit, most forgetful first", yticks=[])
    characters = list(text.replace("\n", "¶"))
    ax.set_xticks(np.arange(len(text)) + 0.5, characters, rotation=0, family="monospace")
    ax.set_title("forget gate of lstm while it reads", loc="left")


def first_light(model: keras.Model, run: Run, task: tasks.Task) -> Figure:
    """Gradients and updates by gate over training; below, the forget gate reading."""
    reading = task.validation[0].reshape(1, -1)[:, START : START + LENGTH]
    fig = plt.figure(figsize=(13, 7.5), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=(1, 1))
    left, right = top.subfigures(1, 2)
    plot_norms(run, "lstm/forward/recurrent_kernel:gradient", fig=left)
    plot_histograms(run, "lstm/forward/recurrent_kernel:update", gate="forget", fig=right)
    draw_forget_gate(trace(model, "lstm", reading), task.decode(reading), bottom)
    return fig


if __name__ == "__main__":
    text_task = tasks.text(sequence=LENGTH)
    with tempfile.TemporaryDirectory() as directory:
        trained, recorded = train(text_task, Path(directory) / "run.sqlite")
        picture = first_light(trained, recorded, text_task)
    IMAGES.mkdir(parents=True, exist_ok=True)
    picture.savefig(IMAGES / "first-light.png", dpi=110)
