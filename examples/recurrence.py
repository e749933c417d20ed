"""Makes the pictures of docs/recurrence.md: an LSTM that learns to remember, seen from inside.

``python examples/recurrence.py`` trains on the adding problem (add the two marked numbers of 30), in about
half a minute on two cores, with gates, states, their gradients and the horizon measured on a probe batch.
"""

import tempfile
from pathlib import Path

import keras
from matplotlib.figure import Figure, SubFigure

from see_rnn_like import (
    RNNMonitor,
    Run,
    log_spaced,
    memory_horizon,
    plot_activations_over_training,
    plot_gates,
    plot_gradient_flow,
    plot_horizon,
    plot_saturation,
    plot_spectrum,
    recurrent_spectrum,
    tasks,
    trace,
)

IMAGES = Path(__file__).parents[1] / "docs" / "images"
STEPS, BATCH, PROBE = 1500, 64, 64


def train(task: tasks.Task, run_file: Path) -> tuple[keras.Model, Run]:
    """Trains an LSTM, looked into at 20 steps per decade."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(task.x.shape[1:])
    outputs = keras.layers.Dense(1)(keras.layers.LSTM(32, name="lstm")(inputs))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.005, clipnorm=1.0), task.loss)
    held_out, answers = task.validation
    monitor = RNNMonitor(
        every=log_spaced(20),
        capture=("weights", "gates", "states", "state_gradients", "horizon"),
        probe=(held_out[:PROBE], answers[:PROBE]),
        store=run_file,
    )
    epochs = -(-STEPS * BATCH // len(task.x))
    model.fit(task.x, task.y, batch_size=BATCH, epochs=epochs, shuffle=False, callbacks=[monitor])
    return model, monitor.run


def pictures(model: keras.Model, run: Run, task: tasks.Task) -> dict[str, Figure | SubFigure]:
    """Name → figure."""
    x = task.validation[0][:PROBE]
    traced = trace(model, "lstm", x)
    return {
        "gates": plot_gates(traced, sample=0, units=range(16))[0],
        "saturation": plot_saturation(traced)[0],
        "horizon": plot_horizon(memory_horizon(model, "lstm", x))[0],
        "spectrum": plot_spectrum(recurrent_spectrum(model, "lstm"))[0],
        "gradient-flow": plot_gradient_flow(run)[0],
        "activations": plot_activations_over_training(run)[0],
    }


if __name__ == "__main__":
    adding = tasks.adding(n=16384, timesteps=30)
    with tempfile.TemporaryDirectory() as directory:
        trained, recorded = train(adding, Path(directory) / "run.sqlite")
        drawn = pictures(trained, recorded, adding)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figure.savefig(IMAGES / f"recurrence-{name}.png", dpi=90)
