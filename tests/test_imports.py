"""What importing the package does and does not do, and what its modules never do."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import see_rnn_like

PACKAGE = Path(see_rnn_like.__file__).parent

# ---- what gets imported --------------------------------------------------------------------------

HEAVY = {"matplotlib", "seaborn", "tensorflow", "keras", "jinja2", "pandas", "xarray"}
BACKEND = {"tensorflow", "keras"}


def imported_by(statement: str, path: Path | None = None) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statement`.

    Args:
        statement: Python code; the package is importable.
        path: a directory to import from first.
    """
    code = f"import sys; sys.path[:0] = {[str(p) for p in (path, PACKAGE.parent) if p]}; {statement}\n"
    code += "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert not imported_by("import see_rnn_like") & HEAVY


@pytest.mark.parametrize(
    "statement",
    [
        "import see_rnn_like.tasks; see_rnn_like.tasks.text(); see_rnn_like.tasks.sunspots()",
        "from see_rnn_like import every, log_spaced, TensorKey, SeeRNNError",
        "import see_rnn_like.stats, see_rnn_like.history",
        "from see_rnn_like import Run",
        "import see_rnn_like.plots, see_rnn_like.report",
    ],
)
def test_what_needs_no_model_does_not_load_tensorflow(statement):
    assert not imported_by(statement) & BACKEND


@pytest.mark.parametrize("module", ["tensorflow", "matplotlib"])
def test_the_tests_above_would_see_an_import(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("")
    assert imported_by(f"import see_rnn_like, {module}", tmp_path) & HEAVY == {module}


# ---- public names --------------------------------------------------------------------------------

PUBLIC = {
    "__version__",
    "Autopsy",
    "Finding",
    "find_nonfinite",
    "NaNGuard",
    "NonFiniteError",
    "NonFiniteWarning",
    "plot_autopsy",
    "replay",
    "Where",
    "at",
    "CellSpec",
    "clipnums",
    "detect_nans",
    "every",
    "features_0D",
    "features_1D",
    "features_2D",
    "features_hist",
    "features_hist_v2",
    "first",
    "gate_saturation",
    "plot_events",
    "recover",
    "get_full_name",
    "get_gradients",
    "get_layer",
    "get_outputs",
    "get_rnn_weights",
    "get_weight_penalties",
    "get_weights",
    "hist_clipped",
    "log_spaced",
    "plot_histograms",
    "plot_loss",
    "plot_norms",
    "plot_update_ratio",
    "register_cell",
    "rnn_heatmap",
    "rnn_histogram",
    "rnn_summary",
    "RNNMonitor",
    "Run",
    "scalefig",
    "Schedule",
    "SeeRNNError",
    "TensorKey",
    "trace",
    "get_state_gradients",
    "memory_horizon",
    "lyapunov",
    "recurrent_spectrum",
    "unit_correlation",
    "dead_and_exploding",
    "find_interpretable_units",
    "plot_gradient_flow",
    "plot_activations_over_training",
    "plot_weight_norms",
    "animate",
    "plot_gates",
    "plot_saturation",
    "plot_horizon",
    "plot_spectrum",
    "plot_units_on_text",
    "weight_loss",
    "weights_norm",
}


def test_all_is_exactly_the_public_names():
    assert sorted(see_rnn_like.__all__) == sorted(PUBLIC)


def test_every_public_name_loads_and_is_listed():
    for name in PUBLIC:
        assert getattr(see_rnn_like, name) is not None
        assert name in dir(see_rnn_like)
    names: dict[str, object] = {}
    exec("from see_rnn_like import *", names)
    assert set(names) - {"__builtins__"} == PUBLIC


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {
        alias.name: line.module.removeprefix("see_rnn_like.")
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
    assert declared == see_rnn_like._HOME


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'see_rnn_like' has no attribute 'RNMonitor'"):
        see_rnn_like.RNMonitor  # noqa: B018


def test_version_is_that_of_the_distribution():
    assert see_rnn_like.__version__ == importlib.metadata.version("see_rnn_like")


# ---- what no module does -------------------------------------------------------------------------

#: Functions that print because a person asked them to: a summary, and `weights_norm(verbose=1)`.
PRINTING = {"rnn_summary", "weights_norm"}
FORBIDDEN_CALLS = {"print", "eval", "exec", "breakpoint", "input"}
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def offences(source: str) -> list[str]:
    """What a module does that it must not: print, show a figure, evaluate text, unpickle."""
    tree = ast.parse(source)
    may_print = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name in PRINTING
        for inner in ast.walk(function)
    }
    nodes = [node for node in ast.walk(tree) if id(node) not in may_print]
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in nodes if is_offence(node)]


def is_offence(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] in FORBIDDEN_MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] in FORBIDDEN_MODULES
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in FORBIDDEN_CALLS | {"show"}
    allows_pickle = any(
        word.arg == "allow_pickle" and getattr(word.value, "value", None) is not False
        for word in node.keywords
    )
    return allows_pickle or (isinstance(node.func, ast.Attribute) and node.func.attr == "show")


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_module_prints_shows_evaluates_or_unpickles(path):
    # The command line is there to print.
    allowed = "print(" if path.name == "cli.py" else "nothing"
    assert [found for found in offences(path.read_text(encoding="utf-8")) if allowed not in found] == []


@pytest.mark.parametrize(
    "line",
    [
        "print('x')",
        "plt.show()",
        "figure.show()",
        "show()",
        "eval('1')",
        "import pickle",
        "from pickle import loads",
        "np.load(file, allow_pickle=True)",
        "def f():\n    def rnn_summary(): pass\n    print('x')",
    ],
)
def test_the_test_above_would_see_an_offence(line):
    assert len(offences(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "def rnn_summary(layer):\n    print(layer)",
        "np.load(file, allow_pickle=False)",
        "# print('x')",
        "'plt.show()'",
        "model.summary(print_fn=write)",
    ],
)
def test_what_is_allowed_is_no_offence(line):
    assert offences(line) == []
