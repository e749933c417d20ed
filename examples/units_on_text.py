"""Which unit of a character LSTM knows that it is inside quotes?

``python examples/units_on_text.py [FILE.html]`` trains a network on English text (about a minute on two
cores), makes signals from the text (inside quotes, inside parentheses, position in the line, …), searches for
the units that tell each of them best, and prints them with their scores on text they were not chosen by,
beside that of the best unit before training: random networks hold some of their input, too. Then it draws the
text coloured by the best units: as docs/images/units-on-text.png, and as HTML in the file given, or in a new
temporary one.
"""

import sys
import tempfile
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from see_rnn_like import tasks, trace
from see_rnn_like.extract.units import dead_and_exploding, find_interpretable_units, unit_correlation
from see_rnn_like.plots.units import plot_units_on_text

IMAGES = Path(__file__).parents[1] / "docs" / "images"
STEPS, UNITS, SEQUENCE = 1500, 128, 64
#: Length of the passages that are read, and how much of each the network gets to see before it is judged: it
#: starts without knowing whether a passage begins inside quotes.
PASSAGE, WARM_UP = 400, 100
#: Signals of the picture, and its columns.
DRAWN = ("inside quotes", "position in the word", "in the first 20 characters of a line")
COLUMNS = 100


def network(task: tasks.Task) -> keras.Model:
    """A character LSTM."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Embedding(len(task.names), 32),
        keras.layers.LSTM(UNITS, return_sequences=True, name="lstm"),
        keras.layers.Dense(len(task.names), activation="softmax"),
    ]
    return keras.Sequential([keras.Input((None,)), *layers])


def train(model: keras.Model, task: tasks.Task) -> None:
    """Trains for `STEPS` steps."""
    rate = keras.optimizers.schedules.CosineDecay(0.005, decay_steps=STEPS)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), task.loss)
    samples = np.random.default_rng(0).integers(len(task.x), size=32 * STEPS)
    model.fit(task.x[samples], task.y[samples], batch_size=32, shuffle=False)


def passages(task: tasks.Task) -> np.ndarray:
    """The text that was not trained on, in passages ``(sample, time)`` of character numbers."""
    unseen = task.validation[0].reshape(-1)
    return unseen[: len(unseen) // PASSAGE * PASSAGE].reshape(-1, PASSAGE)


def line_starts(characters: np.ndarray) -> np.ndarray:
    """For each character the index of the first one of its line; a line end belongs to its line."""
    places = np.arange(len(characters))
    begins = np.concatenate([[True], characters[:-1] == "\n"])
    return np.maximum.accumulate(np.where(begins, places, 0))


def count_in_line(hits: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """How many of the hits there were since the line began, the character itself included."""
    totals = np.concatenate([[0], np.cumsum(hits)])
    return totals[1:] - totals[starts]


def signals(text: str) -> dict[str, np.ndarray]:
    """What could be known of a text after reading each character."""
    characters = np.array(list(text))
    starts = line_starts(characters)
    places = np.arange(len(characters))
    is_letter = np.char.isalpha(characters)
    open_brackets = count_in_line(characters == "(", starts) - count_in_line(characters == ")", starts)
    word_starts = np.maximum.accumulate(np.where(is_letter, 0, places + 1))
    return {
        "inside quotes": count_in_line(characters == '"', starts) % 2 == 1,
        "inside parentheses": open_brackets > 0,
        "in the first 20 characters of a line": places - starts < 20,
        "position in the line": np.minimum(places - starts, 200.0),
        "position in the word": np.maximum(places - word_starts + 1, 0).astype(float),
        "a capital letter": np.char.isupper(characters),
    }


def after_warm_up(signal: np.ndarray) -> np.ndarray:
    """A signal of the whole text in passages, unknown (NaN) where the network has seen too little of it."""
    known = signal.astype(float).reshape(-1, PASSAGE)
    known[:, :WARM_UP] = np.nan
    return known


def search(inside: xr.Dataset, text: str) -> dict[str, xr.Dataset]:
    """The best units for every signal, of both states."""
    return {
        name: find_interpretable_units(inside, after_warm_up(signal), state=("h", "c"), top=5)
        for name, signal in signals(text).items()
    }


def print_table(name: str, found: xr.Dataset, untrained: xr.Dataset) -> None:
    """The best units for a signal, and how well the best one did before training."""
    measure, before = found.attrs["measure"], float(untrained["score"][0])
    print(f"\n{name}: {measure}, {found.attrs['chance']:g} is chance; before training {before:.3f} held out")
    print("  rank  unit  state  sign  held out  fitted")
    for rank in found["rank"].values:
        row = found.sel(rank=rank)
        numbers = f"{float(row['score']):8.3f}  {float(row['train_score']):6.3f}"
        print(f"  {rank:4}  {int(row['unit']):4}  {row['state'].item():>5}  {int(row['sign']):+4}  {numbers}")


def draw_text(values: xr.DataArray, text: str, title: str, ax: Axes) -> None:
    """A text on a grid of characters, coloured by the values of a unit."""
    rows = -(-len(text) // COLUMNS)
    grid = np.full(rows * COLUMNS, np.nan)
    grid[: len(text)] = values
    limit = np.nanmax(np.abs(grid))
    characters = np.array([*text.replace("\n", "↵"), *" " * (len(grid) - len(text))])
    sns.heatmap(
        grid.reshape(rows, COLUMNS),
        annot=characters.reshape(rows, COLUMNS),
        fmt="",
        annot_kws={"family": "monospace", "size": 8, "color": "black"},
        cmap="vlag",
        vmin=-limit,
        vmax=limit,
        xticklabels=False,
        yticklabels=False,
        cbar_kws={"pad": 0.01, "aspect": 8, "ticks": [-limit, 0, limit], "format": "%.2g"},
        ax=ax,
    )
    ax.set_title(title, loc="left", size=10)


def draw(inside: xr.Dataset, text: str, tables: dict[str, xr.Dataset], sample: int) -> Figure:
    """One passage coloured by the best unit for each signal."""
    fig, axes = plt.subplots(len(tables), 1, figsize=(11, 1.2 * len(tables)), layout="constrained")
    for ax, (name, found) in zip(axes, tables.items(), strict=True):
        unit, state = best(found)
        score = f"{found.attrs['measure']} {float(found['score'][0]):.2f} on held-out text"
        values = inside[state].isel(sample=sample, unit=unit, time=slice(WARM_UP, None))
        draw_text(values, text[WARM_UP:], f"{name}: {state} of unit {unit}, {score}", ax)
    return fig


def as_html(inside: xr.Dataset, text: str, tables: dict[str, xr.Dataset], sample: int) -> str:
    """The same as a page of HTML."""
    blocks = ["<!doctype html><meta name=color-scheme content='light dark'><title>Units on text</title>"]
    for name, found in tables.items():
        unit, state = best(found)
        picture = plot_units_on_text(inside, text, unit, state=state, sample=sample)
        blocks.append(f"<h2>{name}</h2>{picture.html}")
    return "\n".join(blocks)


def best(found: xr.Dataset) -> tuple[int, str]:
    """The best unit, and of which of its states that was."""
    return int(found["unit"][0]), str(found["state"][0].item())


if __name__ == "__main__":
    text_task = tasks.text(sequence=SEQUENCE)
    read = passages(text_task)
    model = network(text_task)
    # What any network of this shape shows of its input: what was learnt is what goes beyond.
    untrained = search(trace(model, "lstm", read), text_task.decode(read))
    train(model, text_task)
    inside = trace(model, "lstm", read)
    found = search(inside, text_task.decode(read))
    for name, table in found.items():
        print_table(name, table, untrained[name])
    health, alike = dead_and_exploding(inside), unit_correlation(inside)
    print(f"\ndead: {health.share_dead:.1%} of the units, exploding: {health.share_exploding:.1%}")
    print(f"effective dimension: {alike.effective_dimension:.1f} of {UNITS} units")

    # A passage that no unit was chosen by: of the second half, the one with the most quotes.
    texts = [text_task.decode(passage) for passage in read]
    shown = max(range((len(read) + 1) // 2, len(read)), key=lambda i: texts[i][WARM_UP:].count('"'))
    drawn = {name: found[name] for name in DRAWN}
    IMAGES.mkdir(parents=True, exist_ok=True)
    picture = draw(inside, texts[shown], drawn, shown)
    picture.savefig(IMAGES / "units-on-text.png", dpi=110)
    page = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(), "units.html")
    page.write_text(as_html(inside, texts[shown], drawn, shown), encoding="ascii")
    print(f"drawn: {IMAGES / 'units-on-text.png'} and {page}")
