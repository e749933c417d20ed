"""Small training tasks with known answers: real text, a real time series, a synthetic long memory.

Every task comes with a baseline, in units a person reads: a network that does not beat it has learnt
nothing. NumPy only, no downloads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from see_rnn_like.errors import ArgumentError, one_of

TARGETS = ("every", "last")


@dataclass(frozen=True, eq=False)
class Task:
    """Data to train on, data to judge by, and what a guess without a network would score.

    Attributes:
        name: what it is called.
        x: inputs, ``(sample, time)`` of character numbers or ``(sample, time, feature)``.
        y: targets, ``(sample, time)`` or ``(sample,)`` of character numbers, or ``(sample, 1)`` of values.
        validation: `x` and `y` of data that is not in the training part.
        names: what the numbers stand for: the vocabulary, or the names of the input features.
        loss: the Keras loss that fits the targets; for a vocabulary it expects probabilities.
        unit: unit of `baseline` and of what `score` returns. Lower is better.
        baseline: the score of `baseline_name`, the best guess that needs no memory, in `unit`.
        baseline_name: what that guess is.
        score: turns a mean loss, as Keras reports it, into `unit`.
        decode: turns inputs or targets of one sample back into what they stand for: a string, or values
            in their natural units.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]
    names: tuple[str, ...]
    loss: str
    unit: str
    baseline: float
    baseline_name: str
    score: Callable[[float], float]
    decode: Callable[[Any], Any]


def text(
    sequence: int = 64, stride: int | None = None, targets: str = "every", validation: float = 0.1
) -> Task:
    """Next-character prediction on English text that every Python has: its own language reference.

    The text is that of `pydoc_data.topics` (what ``help("if")`` prints), topics in alphabetical order,
    one paragraph a line. A paragraph that several topics share is kept once: it must not be in the
    training and in the validation part. The text differs a little between versions of Python, and so
    do the numbers.

    Args:
        sequence: characters in a window.
        stride: characters between the starts of two windows; None for `sequence` (no overlap).
        targets: ``"every"``: each character is to be told from those before it in the window.
            ``"last"``: one target per window, the character after it. A network that reads the
            window backwards too has seen the answers of ``"every"``; for it use ``"last"``.
        validation: share of the text kept for validation, its end.

    Returns:
        The task. Baseline: each character guessed with its frequency in the training part (one added
        to every count, so that none is impossible), in bits per character on the validation targets.

    Raises:
        ArgumentError: if a size is < 1, the share not between 0 and 1, `targets` unknown, or the
            validation part too short for one window.

    Example:
        >>> task = text(sequence=20)
        >>> task.x.shape == task.y.shape, task.unit
        (True, 'bits per character')
        >>> task.decode(task.x[0])
        'The "assert" stateme'
    """
    stride = sequence if stride is None else stride
    _require_at_least_one(sequence=sequence, stride=stride)
    if targets not in TARGETS:
        raise one_of("targets", targets, TARGETS)
    if not 0 < validation < 1:
        raise ArgumentError(f"validation is a share between 0 and 1; got {validation!r}")
    characters = np.array(list(reference_text()))
    vocabulary, ids = np.unique(characters, return_inverse=True)
    cut = round(len(ids) * (1 - validation))
    if len(ids) - cut <= sequence:
        raise ArgumentError(
            f"a window of {sequence} characters and its target do not fit into the validation part, "
            f"{len(ids) - cut} characters; use a shorter sequence or a larger share"
        )
    x, y = _next_character(ids[:cut], sequence, stride, targets)
    held_out = _next_character(ids[cut:], sequence, stride, targets)
    return Task(
        name="text",
        x=x,
        y=y,
        validation=held_out,
        names=tuple(map(str, vocabulary)),
        loss="sparse_categorical_crossentropy",
        unit="bits per character",
        baseline=_unigram_bits(ids[:cut], held_out[1], len(vocabulary)),
        baseline_name="character frequencies",
        score=lambda nats: nats / math.log(2),
        decode=lambda numbers: "".join(vocabulary[np.asarray(numbers).reshape(-1)]),
    )


def sunspots(window: int = 22, validation_from: int = 1950) -> Task:
    """Next year's sunspot number from those of the years before: 1700–2008, yearly means.

    Public-domain data of the NOAA National Geophysical Data Center (the international number as it was
    before its revision of 2015), as distributed with statsmodels. The cycle of about 11 years is what
    there is to learn.

    Args:
        window: years a forecast looks back.
        validation_from: forecasts for this year and later ones are kept for validation. They look
            back on training years too, as a forecast made at the time would.

    Returns:
        The task. Inputs and targets are scaled to mean 0 and standard deviation 1 of the training
        years; `decode` undoes it. Baseline: next year is like this year (persistence), as root mean
        square error in sunspot numbers on the validation years.

    Raises:
        ArgumentError: if `window` < 1, or there is no year left to train on or to validate.

    Example:
        >>> task = sunspots()
        >>> task.x.shape, task.y.shape, len(task.validation[1])
        ((228, 22, 1), (228, 1), 59)
        >>> task.decode(task.y[0]).round(1).tolist()  # 1722
        [22.0]
    """
    _require_at_least_one(window=window)
    years, numbers = sunspot_numbers()
    forecast_years = years[window:]
    is_training = forecast_years < validation_from
    if not is_training.any() or is_training.all():
        raise ArgumentError(
            f"a window of {window} years and validation from {validation_from} leave nothing to train on "
            f"or to validate; the numbers reach from {years[0]} to {years[-1]}"
        )
    known = numbers[years < validation_from]
    mean, deviation = known.mean(), known.std()
    scaled = (numbers - mean) / deviation
    x = np.lib.stride_tricks.sliding_window_view(scaled[:-1], window)[..., None].astype("float32")
    y = scaled[window:, None].astype("float32")
    jumps = np.diff(numbers)[window - 1 :]
    return Task(
        name="sunspots",
        x=x[is_training],
        y=y[is_training],
        validation=(x[~is_training], y[~is_training]),
        names=("sunspot number",),
        loss="mean_squared_error",
        unit="sunspots (root mean square error)",
        baseline=float(np.sqrt(np.mean(jumps[~is_training] ** 2))),
        baseline_name="same as last year",
        score=lambda loss: math.sqrt(loss) * float(deviation),
        decode=lambda values: np.asarray(values) * deviation + mean,
    )


def adding(n: int = 4096, timesteps: int = 30, seed: int = 0) -> Task:
    """The adding problem: the sum of the two values that are marked in a long random sequence.

    Hochreiter & Schmidhuber (1997), *Long Short-Term Memory*, experiment 4, in the form of Arjovsky,
    Shah & Bengio (2016), *Unitary Evolution Recurrent Neural Networks*: values uniform in 0 … 1, one mark
    in each half, the target is the plain sum. It needs a value carried over many timesteps.

    Args:
        n: training samples; a quarter as many, at least one, are drawn for validation.
        timesteps: length of the sequences, at least 2.
        seed: of NumPy's generator; the same seed gives the same task.

    Returns:
        The task. Baseline: always answer 1, the mean; its mean squared error is the variance of the
        sum of two uniform numbers, 2 · 1/12 = 1/6, in expectation.

    Raises:
        ArgumentError: if `n` < 1 or `timesteps` < 2.

    Example:
        >>> task = adding(n=8, timesteps=10)
        >>> values, marks = task.x[0].T
        >>> bool(np.isclose(values[marks == 1].sum(), task.y[0, 0]))
        True
    """
    _require_at_least_one(n=n)
    if timesteps < 2:
        raise ArgumentError(f"timesteps must be at least 2, one for each marked value; got {timesteps!r}")
    generator = np.random.default_rng(seed)
    x, y = _marked_sums(generator, n, timesteps)
    return Task(
        name="adding",
        x=x,
        y=y,
        validation=_marked_sums(generator, max(n // 4, 1), timesteps),
        names=("value", "mark"),
        loss="mean_squared_error",
        unit="mean squared error",
        baseline=1 / 6,
        baseline_name="always 1",
        score=float,
        decode=np.asarray,
    )


def reference_text() -> str:
    """Python's language reference, as `text` uses it: one paragraph a line, each paragraph once."""
    from pydoc_data.topics import topics

    blocks = (block for topic in sorted(topics) for block in re.split(r"\n\s*\n", topics[topic]))
    # Rows of *, =, - only are underlines of headings.
    paragraphs = (" ".join(re.sub(r"(?m)^[*=\-~^#]{3,}$", "", block).split()) for block in blocks)
    return "\n".join(filter(None, dict.fromkeys(paragraphs)))


def sunspot_numbers() -> tuple[np.ndarray, np.ndarray]:
    """Years 1700 … 2008 (int) and their mean sunspot numbers (float64)."""
    with resources.files("see_rnn_like").joinpath("data/sunspots.csv").open(encoding="utf-8") as file:
        years, numbers = np.loadtxt(file, delimiter=",", unpack=True)
    return years.astype(int), numbers


def _next_character(
    ids: np.ndarray, sequence: int, stride: int, targets: str
) -> tuple[np.ndarray, np.ndarray]:
    windows = np.lib.stride_tricks.sliding_window_view(ids.astype("int32"), sequence + 1)[::stride]
    return windows[:, :-1].copy(), (windows[:, 1:] if targets == "every" else windows[:, -1]).copy()


def _unigram_bits(training: np.ndarray, targets: np.ndarray, size: int) -> float:
    counts = np.bincount(training, minlength=size) + 1
    return float(-np.log2(counts / counts.sum())[targets].mean())


def _marked_sums(generator: np.random.Generator, n: int, timesteps: int) -> tuple[np.ndarray, np.ndarray]:
    values = generator.uniform(size=(n, timesteps))
    half = timesteps // 2
    marks = np.zeros_like(values)
    rows = np.arange(n)
    marks[rows, generator.integers(0, half, n)] = 1
    marks[rows, generator.integers(half, timesteps, n)] = 1
    sums = (values * marks).sum(1, keepdims=True)
    return np.stack([values, marks], axis=-1).astype("float32"), sums.astype("float32")


def _require_at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ArgumentError(f"{name} must be at least 1; got {size!r}")
