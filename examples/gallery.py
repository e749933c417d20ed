"""Draws the pictures of docs/plots.md: the examples of the see-rnn page, on networks trained here.

    python examples/gallery.py             # all of them, two to three minutes on two cores
    python examples/gallery.py 2 13        # only these
    python examples/gallery.py --out DIR   # write to another directory than docs/images

Unless an example says otherwise, a network is two recurrent layers that learn noise: sequences (16, 100,
2 · units) of normal numbers are to give uniform ones, and there are new ones every 40 iterations. Outputs
and gradients are of the first layer, which returns sequences, on sequences it has not seen. Where the page
asks for more than a few minutes of two cores, examples make do with fewer iterations; docs/plots.md says so.
"""

import argparse
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras.layers import GRU, LSTM, Bidirectional, Conv1D, Conv1DTranspose, SimpleRNN, SpatialDropout1D
from keras.regularizers import L1
from matplotlib.figure import Figure
from PIL import Image

from see_rnn_like import (
    features_0D,
    features_1D,
    features_2D,
    features_hist,
    features_hist_v2,
    get_gradients,
    get_outputs,
    get_rnn_weights,
    hist_clipped,
    rnn_heatmap,
    rnn_histogram,
)

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SAMPLES, TIMESTEPS = 16, 100

#: What an example makes: file names, without ending, and figures.
Pictures = Iterator[tuple[str, Figure]]


class Trained(NamedTuple):
    """A trained network and a batch it has not seen."""

    model: keras.Model
    x: np.ndarray
    y: np.ndarray


def noise(model: keras.Model, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A batch of sequences ~ N(0, 1) and targets ~ U(-1, 1)."""
    x = rng.normal(size=model.input_shape).astype("float32")
    return x, rng.uniform(-1, 1, size=model.output_shape).astype("float32")


@functools.cache
def trained(
    rnn: type[keras.Layer],
    units: int,
    iterations: int,
    *,
    inputs: int | None = None,
    both_ways: bool = False,
    activation: str = "tanh",
) -> Trained:
    """Two layers of one kind, the second of which returns its last step, trained on noise.

    Args:
        rnn: kind of the layers.
        units: of each layer.
        iterations: training steps.
        inputs: input channels; None for ``2 * units``.
        both_ways: make the layers bidirectional.
        activation: of the layers.
    """
    keras.backend.clear_session()  # so that the layers are called lstm and lstm_1 every time
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    layers = [rnn(units, activation=activation, return_sequences=again) for again in (True, False)]
    layers = [Bidirectional(layer) for layer in layers] if both_ways else layers
    shape = (SAMPLES, TIMESTEPS, 2 * units if inputs is None else inputs)
    x = given = keras.Input(batch_shape=shape)
    for layer in layers:
        x = layer(x)
    model = keras.Model(given, x)
    model.compile(keras.optimizers.Adam(4e-3), "mse")
    for i in range(iterations):
        if i % 40 == 0:
            batch = noise(model, rng)
        model.train_on_batch(*batch)
    return Trained(model, *noise(model, rng))


def gradients(network: Trained, layer: int = 1) -> np.ndarray:
    """Of the loss with respect to the output of a layer, the first recurrent one unless said otherwise."""
    return get_gradients(network.model, layer, network.x, network.y)


def ex_1(units: int = 32, iterations: int = 300) -> Pictures:
    """What a bidirectional LSTM puts out, one sample."""
    model, x, _ = trained(LSTM, units, iterations, both_ways=True, activation="relu")
    outs = get_outputs(model, 1, x)
    yield "ex01-own-limits", features_1D(outs[:1], share_xy=False)[0]
    yield "ex01-shared-limits", features_1D(outs[:1], share_xy=True, show_y_zero=True)[0]


def ex_2(units: int = 6, iterations: int = 20) -> Pictures:
    """Gradients of one sample."""
    grads = gradients(trained(LSTM, units, iterations))
    yield "ex02-gradients", features_1D(grads[:1], n_rows=2, title="grads", h=0.6)[0]


def ex_3(units: int = 6, iterations: int = 20) -> Pictures:
    """Gradients of all samples, as curves and as heatmaps."""
    grads = gradients(trained(LSTM, units, iterations))
    yield "ex03-curves", features_1D(grads, n_rows=2, title="grads", h=0.6)[0]
    heatmaps = features_2D(grads, n_rows=4, norm=(-0.01, 0.01), timesteps_xaxis=True, title="grads", h=0.7)
    yield "ex03-heatmaps", heatmaps[0]


def ex_4(units: int = 6, iterations: int = 200) -> Pictures:
    """The same as EX 3 after ten times as many iterations."""
    grads = gradients(trained(LSTM, units, iterations))
    yield "ex04-curves", features_1D(grads, n_rows=2, title="grads", h=0.6)[0]
    heatmaps = features_2D(grads, n_rows=4, norm=(-0.01, 0.01), timesteps_xaxis=True, title="grads", h=0.7)
    yield "ex04-heatmaps", heatmaps[0]


def ex_5(units: int = 256, iterations: int = 200) -> Pictures:
    """Many channels of one sample as curves, many samples of one channel as a heatmap."""
    grads = gradients(trained(LSTM, units, iterations))
    yield "ex05-channels", features_1D(grads[0, :, :], title="grads")[0]
    words = "(Samples vs. Timesteps) vs. Gradients of channel 0 -- norm=(-0.0001, 0.0001)"
    heatmap = features_2D(grads[:, :, 0], norm=(-0.0001, 0.0001), title=words, h=0.5)
    yield "ex05-samples", heatmap[0]


def ex_6(units: int = 256, iterations: int = 100) -> Pictures:
    """Gradients of a bidirectional GRU, one sample, the backward half turned round in time."""
    grads = gradients(trained(GRU, units, iterations, both_ways=True))
    heatmap = features_2D(
        grads[0], norm=(-0.0001, 0.0001), reflect_half=True, timesteps_xaxis=True, title="grads", h=0.7
    )
    yield "ex06-both-ways", heatmap[0]


def ex_7(units: int = 6, iterations: int = 200) -> Pictures:
    """Gradients of a layer that returns its last step only."""
    grads = gradients(trained(LSTM, units, iterations), layer=2)
    yield "ex07-last-step", features_0D(grads, title="grads")[0]


def ex_8(units: int = 256, iterations: int = 200) -> Pictures:
    """Gradients of three kinds of layers, all samples."""
    for rnn in (LSTM, GRU, SimpleRNN):
        grads = gradients(trained(rnn, units, iterations))
        name = rnn.__name__
        heatmaps = features_2D(
            grads,
            n_rows=8,
            norm=(-0.0001, 0.0001),
            timesteps_xaxis=True,
            show_xy_ticks=(0, 0),
            title=name,
            w=0.5,
        )
        yield f"ex08-{name.lower()}", heatmaps[0]


def ex_9(units: int = 256, iterations: int = 20) -> Pictures:
    """Weights of an LSTM."""
    model = trained(LSTM, units, iterations, inputs=20).model
    yield "ex09-own-limits", rnn_histogram(model, "lstm", equate_axes=False, show_bias=False)[0][0]
    yield "ex09-shared-limits", rnn_histogram(model, "lstm", equate_axes=True, show_bias=False)[0][0]
    yield "ex09-heatmap", rnn_heatmap(model, "lstm", w=0.8)[0][0]


def ex_10(units: int = 256, iterations: int = 20) -> Pictures:
    """Weights of a bidirectional LSTM, a picture per direction."""
    model = trained(LSTM, units, iterations, inputs=16, both_ways=True).model
    directions = ("forward", "backward")
    for direction, fig in zip(directions, rnn_histogram(model, "bidir", equate_axes=2)[0], strict=True):
        yield f"ex10-histogram-{direction}", fig
    for direction, fig in zip(
        directions, rnn_heatmap(model, "bidir", norm=(-0.15, 0.15), w=0.8)[0], strict=True
    ):
        yield f"ex10-heatmap-{direction}", fig


def ex_11(units: int = 64, iterations: int = 20) -> Pictures:
    """Sizes of the gradients of a GRU's weights."""
    model, x, y = trained(GRU, units, iterations, inputs=16)
    figs, _ = rnn_heatmap(
        model, "gru", mode="grads", input_data=x, labels=y, cmap=None, absolute_value=True, w=0.8
    )
    yield "ex11-weight-gradients", figs[0]


def ex_12(units: int = 512, iterations: int = 5) -> Pictures:
    """Weights with a few NaN and Inf in them, as a network has them just before it is lost."""
    model = trained(LSTM, units, iterations, inputs=16).model
    weights = get_rnn_weights(model, "lstm")
    kernel, recurrent, _ = weights
    forget, cell = (gate * units + units // 3 for gate in (1, 2))
    kernel[3, forget] = np.nan
    recurrent[:, forget] = np.nan
    recurrent[5:8, cell] = np.inf
    before = [weight.copy() for weight in weights]
    yield "ex12-heatmap", rnn_heatmap(model, "lstm", data=weights, w=0.8)[0][0]
    yield "ex12-histogram", rnn_histogram(model, "lstm", data=weights)[0][0]
    for weight, kept in zip(weights, before, strict=True):
        np.testing.assert_array_equal(weight, kept)


def autoencoder(channels: int) -> keras.Model:
    """Two convolutions and back, with whole channels dropped in training: the features become sparse."""
    layers = [
        Conv1D(64, 16, strides=2, padding="same", activation="relu"),
        SpatialDropout1D(0.5),
        Conv1D(channels, 16, strides=2, padding="same", activation="relu", kernel_regularizer=L1(3e-5)),
        SpatialDropout1D(0.5),
        Conv1DTranspose(64, 16, strides=2, padding="same", activation="relu"),
        Conv1DTranspose(1, 16, strides=2, padding="same"),
    ]
    model = keras.Sequential([keras.Input(batch_shape=(SAMPLES, 256, 1)), *layers])
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    return model


def chirps(rng: np.random.Generator) -> np.ndarray:
    """Tones that rise or fall, (sample, time, 1)."""
    time = np.linspace(0, 1, 256)
    pitch, bend, phase = rng.uniform([5, -15, 0], [40, 15, 2 * np.pi], size=(SAMPLES, 3)).T[..., None]
    return np.sin(2 * np.pi * (pitch * time + bend * time**2) + phase)[..., None].astype("float32")


def ex_13(units: int = 128, iterations: int = 400) -> Pictures:
    """Weights of a convolution inside an autoencoder."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = autoencoder(units)
    for _ in range(iterations):
        x = chirps(rng)
        model.train_on_batch(x, x)
    w = model.layers[2].get_weights()[0]
    title = "((Input channels vs. Filters) vs. Weights) vs. Kernel positions -- norm = (-0.1, 0.1)"
    fig, _ = features_2D(w, n_rows=16, norm=(-0.1, 0.1), tight=True, borderwidth=1, title=title)
    yield "ex13-convolution", fig


def ex_14(units: int = 32, iterations: int = 300) -> Pictures:
    """Histograms: outputs by sample and in all, weights before and after training."""
    networks = [trained(LSTM, units, n, both_ways=True, activation="relu") for n in (0, iterations)]
    model, x, _ = networks[-1]
    outs = get_outputs(model, 1, x)
    fig, _ = features_hist(outs, title="outputs", configs={"plot": {"peaks_to_clip": 1}})
    yield "ex14-samples", fig
    fig, ax = plt.subplots(figsize=(8, 3), dpi=76, layout="constrained")
    hist_clipped(outs, bins=100, ax=ax)
    yield "ex14-clipped", fig
    weights = [
        [[get_rnn_weights(network.model, layer)[kernel] for network in networks] for kernel in (0, 1)]
        for layer in (1, 2)
    ]
    fig, _ = features_hist_v2(
        weights,
        colnames=["forward kernel", "forward recurrent kernel"],
        side_annot="layer ",
        title="Weights before (blue) and after training (orange)",
        configs={"plot": {"density": True}},
        h=0.6,
    )
    yield "ex14-before-after", fig


EXAMPLES = {
    1: ex_1,
    2: ex_2,
    3: ex_3,
    4: ex_4,
    5: ex_5,
    6: ex_6,
    7: ex_7,
    8: ex_8,
    9: ex_9,
    10: ex_10,
    11: ex_11,
    12: ex_12,
    13: ex_13,
    14: ex_14,
}


def example_number(text: str) -> int:
    """The number of an example from the command line."""
    if text not in map(str, EXAMPLES):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to {len(EXAMPLES)}; got {text!r}")
    return int(text)


def write(fig: Figure, path: Path) -> None:
    """Writes a figure as a small PNG file and closes it."""
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png")
    plt.close(fig)
    picture = Image.open(drawn).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Draws the examples asked for and prints what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "examples", nargs="*", type=example_number, metavar="EX", help="1 to 14 (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, default=IMAGES, help="directory to write to (default: docs/images)"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for number in options.examples or EXAMPLES:
        for name, fig in EXAMPLES[number]():
            path = options.out / f"{name}.png"
            write(fig, path)
            print(f"EX {number}: {path}, {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
