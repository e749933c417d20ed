"""The page on the guard: its examples run, and what it says they give is what they give."""

from __future__ import annotations

import re
from pathlib import Path

import keras  # noqa: F401  (the page makes models)
import numpy as np
import pytest
from figures import nothing_is_cut_off
from matplotlib import pyplot as plt
from test_extract_docs import run_page

from see_rnn_like.errors import NonFiniteWarning

PAGE = (Path(__file__).parents[1] / "docs" / "guard.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page():
    with pytest.warns(NonFiniteWarning, match="^NaN at step 10: input x"):
        names, printed = run_page("guard.md")
    # Now: figures are closed after every test.
    assert nothing_is_cut_off(names["fig"])
    yield names, printed
    plt.close("all")


def test_healthy_training_has_no_alarm(page):
    names, _ = page
    assert (names["guard"].skipped, names["guard"].rollbacks, names["guard"].autopsy) == (0, 0, None)


def test_messages_are_those_on_the_page(page):
    names, printed = page
    place = "input x holds 1 NaN, first at timestep 4 of 10, sample 5, feature 1"
    assert f"NaN at step 10: {place}. Weights" in PAGE
    assert names["autopsy"].message == f"NaN: {place}"
    assert f"NaN at step 12: {place}. Weights are intact (step 11)." in printed.splitlines()
    assert names["autopsy"].advice in printed
    where = names["autopsy"].where
    assert (where.phase, where.timestep, where.samples) == ("data", 4, (5,))


def test_skipped_batch_does_not_count_in_the_loss(page):
    names, _ = page
    assert np.isfinite(names["history"].history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in names["model"].get_weights())
    trail = names["trained"].autopsy.trail.sel(tensor="loss:value").values
    assert np.isfinite(trail[:-1]).all()
    assert np.isnan(trail[-1])
    assert len(names["axes"]) == 1


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", PAGE))))
def test_links_lead_somewhere(target):
    assert (Path(__file__).parents[1] / "docs" / target).exists()
