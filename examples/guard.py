"""Makes the picture of docs/guard.md: a network that explodes, stopped before its weights are lost.

``python examples/guard.py`` trains two LSTMs, with relu in place of tanh, on English text. Nothing bounds
their states: after some thirty steps one of them grows from timestep to timestep until it overflows. Takes
about ten seconds. The bundle of that step stays in ``runs/guard``.
"""

import dataclasses
import warnings
from pathlib import Path

import keras

from see_rnn_like import NaNGuard, plot_autopsy, replay, tasks

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BUNDLES = Path("runs/guard")
WINDOWS, CHARACTERS = 2048, 100


def relu_lstms(vocabulary: int) -> keras.Model:
    """A character model whose recurrence is not bounded, with a learning rate it does not survive."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((CHARACTERS,)),
            layers.Embedding(vocabulary, 16, name="embedding"),
            layers.LSTM(64, activation="relu", return_sequences=True, name="lstm_1"),
            layers.LSTM(64, activation="relu", return_sequences=True, name="lstm_2"),
            layers.Dense(vocabulary, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.3), loss)
    return model


def guarded(task: tasks.Task) -> NaNGuard:
    """Trains until something is not finite."""
    keras.utils.set_random_seed(0)
    model = relu_lstms(len(task.names))
    guard = NaNGuard(bundle=BUNDLES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says what is printed below
        model.fit(task.x[:WINDOWS], task.y[:WINDOWS], shuffle=False, verbose=0, callbacks=[guard])
    return guard


if __name__ == "__main__":
    autopsy = guarded(tasks.text(CHARACTERS)).autopsy
    if autopsy is None:
        raise SystemExit("everything stayed finite: nothing to show")
    print(autopsy.message)
    print("Advice:", autopsy.advice)
    again = replay(autopsy.bundle)
    print("Replayed from the bundle:", again is not None and again.where == autopsy.where)
    # Where the bundle lies is another place on every machine.
    message = autopsy.message.partition(" Bundle:")[0]
    figure, _ = plot_autopsy(dataclasses.replace(autopsy, message=message))
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / "guard-autopsy.png", dpi=90)
