"""What every test starts from: no screen, no figures and no Keras state left by the test before."""

from __future__ import annotations

import gc
import os
import sys

import pytest

os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(autouse=True)
def _clean_slate():
    yield
    # Only what the test itself has loaded: many tests need neither.
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
        gc.collect()
