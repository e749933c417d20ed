"""First light: train a small recurrent network on real data and look inside while it learns.

    python sandbox.py                                    # a character LSTM on English text, about a minute
    python sandbox.py --task sunspots --rnn gru --show   # another task and network, report in the browser
    python sandbox.py --help

The cells (`# %%`) can be stepped through in an editor or notebook: change `Options()` in the second one.
Everything of a run lies in one directory, and no run ever overwrites another.
"""

# %% What can be chosen
import argparse
import itertools
import math
import os
import sys
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """What fits a task: units of the recurrent layer, optimizer steps, samples in a batch."""

    units: int
    steps: int
    batch: int


SIZES = {"text": Size(128, 1500, 32), "sunspots": Size(32, 300, 32), "adding": Size(32, 1000, 64)}
RNNS = {"lstm": "LSTM", "gru": "GRU", "simplernn": "SimpleRNN"}


@dataclass(frozen=True)
class Options:
    """What to train and where to write; None stands for what fits the task."""

    task: str = "text"
    rnn: str = "lstm"
    bidirectional: bool = False
    units: int | None = None
    steps: int | None = None
    every: int = 25
    out: Path | None = None
    show: bool = False


def whole_number(text: str) -> int:
    """A whole number of at least 1 from the command line."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text!r}")
    return int(text)


def defaults(field: str) -> str:
    """The value of one field of every size, as help text."""
    return "default: " + ", ".join(f"{getattr(size, field)} for {task}" for task, size in SIZES.items())


def read_options(arguments: list[str]) -> Options:
    """Options from the command line; wrong ones end the program with one message and status 2."""
    parser = argparse.ArgumentParser(
        prog="sandbox.py",
        allow_abbrev=False,
        description="Train a small recurrent network, monitored by see_rnn_like, and look inside.",
    )
    parser.add_argument(
        "--task",
        choices=SIZES,
        default=Options.task,
        help="text: the next character of English text (Python's own language reference); sunspots: next "
        "year's number from the 22 years before; adding: the sum of two marked values in a random sequence "
        "of 30, a test of memory (default: %(default)s)",
    )
    parser.add_argument(
        "--rnn", choices=RNNS, default=Options.rnn, help="the recurrent layer (default: %(default)s)"
    )
    parser.add_argument(
        "--bidirectional",
        action="store_true",
        help="read the sequence in both directions. With --task text a backward layer would see the very "
        "characters it is to tell, so there is then one target per window, the character after it, "
        "instead of one at every character; that learns more slowly",
    )
    parser.add_argument(
        "--units", type=whole_number, metavar="N", help=f"units of the layer ({defaults('units')})"
    )
    parser.add_argument(
        "--steps", type=whole_number, metavar="N", help=f"optimizer steps ({defaults('steps')})"
    )
    parser.add_argument(
        "--every",
        type=whole_number,
        metavar="N",
        default=Options.every,
        help="record every N-th step (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory for the run file and the report; if there is something in it, the next free of "
        "DIR-2, DIR-3, ... is taken (default: runs/TASK-RNN)",
    )
    parser.add_argument(
        "--show", action="store_true", help="open the report in the browser, if there is a screen"
    )
    options = Options(**vars(parser.parse_args(arguments)))
    if options.out is not None and not is_directory_possible(options.out):
        parser.error(f"argument --out: {options.out} or a part of it is a file, or cannot be written to")
    return options


def is_directory_possible(path: Path) -> bool:
    """Whether `path` is a directory that can be written to, or can become one."""
    nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def new_directory(options: Options) -> Path:
    """Makes the first directory of out, out-2, out-3, … that holds nothing yet."""
    names = [options.task, options.rnn] + ["bidirectional"] * options.bidirectional
    wanted = options.out or Path("runs", "-".join(names))
    numbered = (wanted.with_name(f"{wanted.name}-{n}") for n in itertools.count(2))
    for path in itertools.chain([wanted], numbered):
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            path.mkdir(parents=True, exist_ok=True)
            return path
    raise AssertionError("unreachable: there is no last number")


def has_screen() -> bool:
    """Whether a window can be opened: assumed on Windows and macOS, elsewhere if a display is named."""
    return sys.platform in ("win32", "darwin") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))


def show(report: Path) -> None:
    """Opens the report in the browser, or says why not."""
    if not has_screen() or not webbrowser.open(report.resolve().as_uri()):
        print("--show: no screen or no browser here; the report is one file, open it on any other machine")


# %% Options: from the command line if this runs as a script. In a notebook, change Options() here.
is_script = Path(sys.argv[0]).name == "sandbox.py"
options = read_options(sys.argv[1:]) if is_script else Options()

# %% Keras and the monitor
# Silences most of what TensorFlow's C++ side logs; a few lines that it prints while it starts still appear.
# Errors still raise.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from see_rnn_like import RNNMonitor, gate_saturation, memory_horizon, tasks, trace  # noqa: E402

size = SIZES[options.task]
steps, units = options.steps or size.steps, options.units or size.units
keras.utils.set_random_seed(0)

# %% The data
if options.task == "text" and options.bidirectional:
    task = tasks.text(sequence=64, stride=16, targets="last")
elif options.task == "text":
    task = tasks.text(sequence=64)
elif options.task == "sunspots":
    task = tasks.sunspots(window=22)
else:
    task = tasks.adding(n=16384, timesteps=30)

batches = tf.data.Dataset.from_tensor_slices((task.x, task.y))
batches = batches.shuffle(len(task.x), seed=0).repeat().batch(size.batch).prefetch(1)

# %% The model
answers_at_every_step = task.y.shape[:2] == task.x.shape[:2]
rnn = getattr(keras.layers, RNNS[options.rnn])(units, return_sequences=answers_at_every_step)
layer = keras.layers.Bidirectional(rnn) if options.bidirectional else rnn
if options.task == "text":
    read = [keras.layers.Embedding(len(task.names), 32)]
    answer = keras.layers.Dense(len(task.names), activation="softmax")
else:
    read, answer = [], keras.layers.Dense(1)
layers = [keras.Input(task.x.shape[1:]), *read, layer, answer]
model = keras.Sequential(layers, name=f"{options.task}_{options.rnn}")
rate = keras.optimizers.schedules.CosineDecay(0.005, decay_steps=steps)
model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), task.loss)

# %% Train, monitored
out = new_directory(options)
print(f"{options.task}: {steps} steps of {model.count_params():,} parameters, written to {out}")
training = ("weights", "updates", "gradients", "outputs", "output_gradients")
inside_layers = ("gates", "states", "state_gradients", "horizon")  # on the first batch, beside the training
monitor = RNNMonitor(every=options.every, capture=training + inside_layers, store=out / "run.sqlite")
epochs = 5 if steps % 5 == 0 else 1
began = time.perf_counter()
progress = model.fit(
    batches,
    epochs=epochs,
    steps_per_epoch=steps // epochs,
    shuffle=False,  # the batches come shuffled
    validation_data=task.validation,
    validation_batch_size=256,
    callbacks=[monitor],
)
seconds = time.perf_counter() - began

# %% What came of it
monitor.run.report(out / "report.html")
score = task.score(progress.history["val_loss"][-1])
if score < task.baseline:
    verdict = f"{1 - score / task.baseline:.0%} better than"
else:
    verdict = "no better yet (more --steps?) than"
print(f"\ntrained {steps} steps in {seconds:.0f} s")
print(f"on validation data: {score:.3g} {task.unit}")
print(f"  {verdict} a guess without a network ({task.baseline_name}): {task.baseline:.3g}")
for event in monitor.run.events:
    print(f"event at step {event.step}: {event.message}")

# %% Inside: which gate is most often stuck at an end of its range?
inside = trace(model, layer.name, task.validation[0][:64])
shares = gate_saturation(inside)
stuck = (shares.left + shares.right).mean("unit")
most = stuck.isel(stuck.argmax(stuck.dims))
worst = {dim: str(most[dim].values) for dim in stuck.dims}
left, right = (float(side.sel(worst).mean()) for side in (shares.left, shares.right))
low = 0.1 if worst["gate"] in inside.gating else -0.9  # a candidate such as LSTM's "cell" goes from -1 to 1
if left + right < 0.01:
    print(f"no gate of {layer.name} is saturated")
else:
    print(f"most saturated gate: {' '.join(worst.values())} of {layer.name}")
    print(f"  {left:.0%} of its values below {low}, {right:.0%} above 0.9")

# %% Memory: how far back does the last state still depend on the states before?
memory = memory_horizon(model, layer.name, task.validation[0][:16], probes=2)
lags, timesteps = memory.attrs["horizon"], memory.attrs["timesteps"]
reach = f"{lags:.1f} of" if math.isfinite(lags) else "all"
print(f"memory of {layer.name}: {reach} {timesteps} timesteps, until the influence falls below 1/e")

# %% Where everything lies
print(f"report:   {out / 'report.html'}")
print(f"run file: {out / 'run.sqlite'}  (see_rnn_like.Run.open reads it)")
if options.show:
    show(out / "report.html")
