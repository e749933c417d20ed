"""The page on loops other than fit: its examples run, and record what it says."""

from __future__ import annotations

import re
from pathlib import Path

import keras  # noqa: F401  (the page makes models)
import numpy as np
import pytest
from test_extract_docs import run_page

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "loops.md").read_text(encoding="utf-8")


def test_every_loop_on_the_page_is_recorded():
    found, _ = run_page("loops.md")
    runs = [found[name].run for name in ("monitor", "taped", "compiled")]
    assert "monitor.run.steps  # [0, 10]" in PAGE
    assert [run.steps for run in runs] == [[0, 10]] * 3
    for run in runs:
        assert np.isfinite(run.stats("lstm/forward/kernel:gradient")["norm"]).all()
        assert np.isfinite(run.stats("loss:value")["mean"]).all()
    given, taped, compiled = ({str(key) for key in run.infos()} for run in runs)
    assert given == taped
    assert {name for name in given if "output" not in name} == compiled
    assert [event.kind for event in found["compiled"].run.events] == ["not-recorded"]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)", PAGE))))
def test_links_lead_somewhere(target):
    assert (DOCS / target).exists()
