"""Optimizers, precisions and train steps of one's own: trained as without the monitor, recorded exactly."""

from __future__ import annotations

import keras
import pytest
from networks import data
from taped import checked, momentum, on_arrays, small

X, Y = data()

OPTIMIZERS = {
    "accumulation": lambda: small(optimizer=momentum(gradient_accumulation_steps=2)),
    "accumulation over executions": lambda: small(
        optimizer=momentum(gradient_accumulation_steps=3), steps_per_execution=7
    ),
    "moving averages": lambda: small(
        optimizer=momentum(use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2), steps_per_execution=3
    ),
    "moving averages at the end": lambda: small(optimizer=momentum(use_ema=True)),
    "accumulation with moving averages": lambda: small(
        optimizer=momentum(gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=1)
    ),
    "a constant loss scale": lambda: small(optimizer=momentum(loss_scale_factor=64.0)),
    "weight decay": lambda: small(optimizer=keras.optimizers.AdamW(0.01, weight_decay=0.1)),
    "a schedule": lambda: small(
        optimizer=keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
        steps_per_execution=4,
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_optimizes(optimizer):
    run, _ = checked(lambda: on_arrays(OPTIMIZERS[optimizer](), X, Y, epochs=3), every=4)
    assert run.steps == [0, 4, 8, 12]
    attrs = run.info("rnn/forward/kernel:gradient").attrs
    assert ("of one micro-step of" in attrs.get("accumulation", "")) == ("accumulation" in optimizer)
    assert ("loss_scale" in attrs) == ("loss scale" in optimizer)


def scaled(initial, growth=2000, **options):
    """A scale of the loss that doubles after `growth` steps and halves at an overflow."""
    inner = keras.optimizers.SGD(0.002, momentum=0.9, **options)
    return keras.optimizers.LossScaleOptimizer(inner, initial_scale=initial, dynamic_growth_steps=growth)


# Precision, optimizer, further arguments of compile.
MIXED = {
    "bfloat16": ("mixed_bfloat16", lambda: keras.optimizers.SGD(0.002), {}),
    "bfloat16, scaled, compiled": ("mixed_bfloat16", lambda: scaled(2.0**10), {"jit_compile": True}),
    "float16": ("mixed_float16", lambda: scaled(2.0**10), {}),
    "overflows": ("mixed_float16", lambda: scaled(2.0**18), {}),
    "overflows, compiled": ("mixed_float16", lambda: scaled(2.0**18), {"jit_compile": True}),
    "overflows, eagerly": ("mixed_float16", lambda: scaled(2.0**18), {"run_eagerly": True}),
    "overflows within an execution": (
        "mixed_float16",
        lambda: scaled(2.0**13, growth=3),
        {"steps_per_execution": 4},
    ),
    "overflows while accumulating": (
        "mixed_float16",
        lambda: scaled(2.0**18, gradient_accumulation_steps=2),
        {"steps_per_execution": 7},
    ),
}


@pytest.mark.parametrize("case", MIXED)
def test_mixed_precision(case):
    dtype, optimizer, how = MIXED[case]

    def make():
        return on_arrays(small(optimizer=optimizer(), dtype=dtype, **how), X, Y, epochs=3)

    run, told = checked(make, every=2, rtol=0.05, atol=0.02)
    skipped = [step.tag for step in told if not step.applied]
    assert bool(skipped) == ("overflows" in case)
    assert [e.step for e in run.events] == [tag for tag in skipped if tag % 2 == 0]
    assert all(e.kind == "skipped-step" and "overflowed" in e.message for e in run.events)
    attrs = run.info("rnn/forward/kernel:gradient").attrs
    assert attrs.get("loss_scale") == ("divided out" if hasattr(optimizer(), "inner_optimizer") else None)
