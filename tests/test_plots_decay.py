import numpy as np
import pytest
from made_up_run import empty_run, record, tensor_info

from see_rnn_like.history import TensorInfo
from see_rnn_like.labels import TensorKey
from see_rnn_like.plots.decay import decay_rates, decay_share, l2_factor, penalty_share

KERNEL = TensorKey("dense", None, "kernel", "weight")
ADAMW = {"class": "AdamW", "learning_rate": 0.1, "weight_decay": 0.5}


def l2(factor=0.01, **more):
    return {"class_name": "L1L2", "config": {"l2": factor, **more}}


def layers_meta(*layers):
    return {"model": {"config": {"layers": [{"config": layer} for layer in layers]}}}


# ---------------------------------------------------------------------------- rates


def run_at(rates, **meta):
    """A run with a learning rate recorded at each step; None for none."""
    run = empty_run(meta)
    run.declare([tensor_info(str(KERNEL), (2,))])
    for step, rate in enumerate(rates):
        record(run, step, {str(KERNEL): np.ones(2)}, logs={} if rate is None else {"learning_rate": rate})
    return run


def test_the_rate_of_each_step_times_the_decay():
    run = run_at([0.1, 0.2, None, 0.4], optimizer=ADAMW)
    np.testing.assert_allclose(decay_rates(run, np.array([0, 1, 2, 3, 9])), [0.05, 0.1, np.nan, 0.2, np.nan])


def test_the_optimizer_inside_of_loss_scaling_is_the_one():
    inner = {"class_name": "AdamW", "config": {"learning_rate": 0.1, "weight_decay": 0.5}}
    run = run_at([0.1], optimizer={"class": "LossScaleOptimizer", "inner_optimizer": inner})
    assert decay_rates(run, np.array([0])).tolist() == [0.05]


@pytest.mark.parametrize(
    "optimizer",
    [
        None,
        {},
        {"class": "Adam", "learning_rate": 0.1, "weight_decay": None},
        {"class": "Muon", "learning_rate": 0.1, "weight_decay": 0.5},
        {"class": "OfSomebody", "learning_rate": 0.1, "weight_decay": 0.5},
    ],
)
def test_what_is_not_known_is_not_guessed(optimizer):
    assert np.isnan(decay_rates(run_at([0.1, 0.1], optimizer=optimizer), np.array([0, 1]))).all()
    assert np.isnan(decay_rates(run_at([None], optimizer=ADAMW), np.array([0]))).all()
    assert np.isnan(decay_rates(empty_run(), np.array([0, 1]))).all()


def test_only_the_last_of_several_fits_is_described():
    run = run_at([0.1] * 3, optimizer=ADAMW, fits=[{"first_step": 0}, {"first_step": 2}])
    np.testing.assert_allclose(decay_rates(run, np.array([1, 2])), [np.nan, 0.05])


# ---------------------------------------------------------------------------- factors


def test_a_layer_of_a_nested_model_is_found_by_its_path():
    meta = layers_meta(
        {"name": "encoder", "layers": [{"config": {"name": "dense", "kernel_regularizer": l2()}}]}
    )
    assert l2_factor(meta, TensorKey("encoder/dense", None, "kernel", "weight")) == 0.01
    assert l2_factor(meta, KERNEL) is None


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kernel_regularizer": None},
        {"kernel_regularizer": l2(l1=0.1)},
        {"kernel_regularizer": {"class_name": "L1", "config": {"l1": 0.1}}},
        {"kernel_regularizer": {"class_name": "OrthogonalRegularizer", "config": {"factor": 0.1}}},
        {"kernel_regularizer": l2(0.0)},
        {"kernel_regularizer": l2(), "trainable": False},
        {"bias_regularizer": l2()},
    ],
)
def test_a_weight_without_an_l2_penalty_of_known_size_has_no_factor(settings):
    assert l2_factor(layers_meta({"name": "dense", **settings}), KERNEL) is None


@pytest.mark.parametrize(
    "meta", [{}, {"model": None}, {"model": {"config": None}}, {"model": {"config": {"layers": 3}}}]
)
def test_a_model_that_is_not_described_has_no_factors(meta):
    assert l2_factor(meta, KERNEL) is None


def test_shares_are_unknown_where_the_loss_is_not_positive_and_none_where_never_known():
    run = empty_run(layers_meta({"name": "dense", "kernel_regularizer": l2()}))
    run.declare([tensor_info(str(KERNEL), (2,)), TensorInfo(TensorKey("", None, "loss", "value"), (), ())])
    record(run, 0, {str(KERNEL): np.ones(2), "loss:value": np.array(-1.0)})
    assert penalty_share(run, KERNEL) is None
    record(run, 1, {str(KERNEL): np.ones(2), "loss:value": np.array(0.5)})
    np.testing.assert_allclose(penalty_share(run, KERNEL)["share"], [np.nan, 0.04])
    assert decay_share(run, KERNEL) is None
