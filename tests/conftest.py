"""What every test starts from: no screen, no figures and no Keras state left by the test before."""

from __future__ import annotations

import gc
import os
import shutil
import sys

import hypothesis
import pytest

# The same examples in every run, so that a change is judged by itself; HYPOTHESIS_PROFILE=explore draws
# new ones, and ten times as many where a test does not set their number.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(autouse=True)
def _clean_slate(request):
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    # Collecting garbage takes a while once TensorFlow is loaded: only after tests that build models.
    if hasattr(request.module, "keras"):
        request.module.keras.backend.clear_session()
        gc.collect()
        # The graphs of this module's models (see below) out of the way of later collections, which otherwise
        # take longer and longer.
        gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def graphs_let_go():
    """Lets go of the graphs of a module's models.

    TensorFlow keeps every graph in which `tf.custom_gradient` was used (two per fit of any Keras model, some
    18 MB) for ever, in its registry of gradients: all tests together would need more memory than there is.
    """
    yield
    if "keras" in sys.modules:
        from tensorflow.python.framework import ops

        registry = ops.gradient_registry._registry
        for name in [name for name in registry if name.startswith("CustomGradient-")]:
            del registry[name]
        gc.unfreeze()
        gc.collect()
        gc.freeze()


@pytest.fixture
def float64():
    """Models are built and computed in float64."""
    # Not at the top: many tests do without TensorFlow.
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One replay bundle for the tests that only read it or take a copy."""
    # Not at the top, as above.
    from made_up_bundles import bad_step

    from see_rnn_like import bundle

    place = tmp_path_factory.mktemp("bundles") / "nan-step-3"
    model, batch, autopsy = bad_step(dropout=0.2, batchnorm=True)
    return bundle.write(place, model, batch, autopsy)


@pytest.fixture
def copied(written, tmp_path):
    """A copy of that bundle, to be damaged."""
    return shutil.copytree(written, tmp_path / written.name)
