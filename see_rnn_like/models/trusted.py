"""Building a model from a configuration that a stranger may have written, without running their code.

Keras's own deserialization is not enough: its older versions import whatever module a configuration names
(CVE-2025-1550), call any function that Keras exports (CVE-2025-8747), or leave its safe mode on a legacy path
(CVE-2025-9905, CVE-2025-9906), and some layers read files or run code by design. So every part of the
configuration is looked at before Keras sees it, and all that is not on the list below is refused. Code of the
user's own runs only if the user handed it in.
"""

from __future__ import annotations

import builtins
import copy
import inspect
import random
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras

from see_rnn_like.errors import StoreError, UntrustedModelError

#: Public module → what a class has to be to be taken from it.
_CLASSES = {
    "keras.layers": (keras.layers, keras.layers.Layer),
    "keras.initializers": (keras.initializers, keras.initializers.Initializer),
    "keras.regularizers": (keras.regularizers, keras.regularizers.Regularizer),
    "keras.constraints": (keras.constraints, keras.constraints.Constraint),
    "keras.losses": (keras.losses, keras.losses.Loss),
    "keras.metrics": (keras.metrics, keras.metrics.Metric),
    "keras.optimizers": (keras.optimizers, keras.optimizers.Optimizer),
    "keras.mixed_precision": (
        keras.mixed_precision,
        (keras.mixed_precision.DTypePolicy, keras.optimizers.Optimizer),
    ),
    "keras.optimizers.schedules": (
        keras.optimizers.schedules,
        keras.optimizers.schedules.LearningRateSchedule,
    ),
    "keras.dtype_policies": (
        getattr(keras, "dtype_policies", keras.mixed_precision),
        keras.mixed_precision.DTypePolicy,
    ),
    "keras.models": (keras.models, keras.Model),
    "keras": (keras, (keras.Model, keras.mixed_precision.DTypePolicy)),
}

#: Public modules of which every function is a formula, except those in `_NO_FORMULA`.
_FUNCTIONS = {
    "keras.activations": keras.activations,
    "keras.losses": keras.losses,
    "keras.metrics": keras.metrics,
}
_NO_FORMULA = {"get", "serialize", "deserialize"}

#: Inside Keras: the operations of a functional model (``x + 1``), and the functional model itself.
_OPERATIONS = re.compile(r"keras\.src\.ops\.(numpy|nn|math|linalg|image|core|einops)")
_FUNCTIONAL = ("keras.src.models.functional", "Functional")

#: Where Keras defines the layers that compute and do nothing else. A layer that a later version of Keras
#: adds elsewhere is refused until it has been looked at.
_LAYERS = re.compile(
    r"keras\.src\.layers\."
    r"((activations|attention|convolutional|merging|normalization|pooling|regularization|reshaping|rnn)\.\w+"
    r"|core\.(dense|einsum_dense|embedding|reversible_embedding|identity|input_layer|masking|wrapper)"
    r"|preprocessing\.(image_preprocessing\.\w+|random_\w+|category_encoding|center_crop|discretization"
    r"|hashed_crossing|hashing|integer_lookup|mel_spectrogram|normalization|pipeline|rescaling|resizing"
    r"|stft_spectrogram|string_lookup|text_vectorization))"
)

#: Layers that read the file or address which stands in their vocabulary.
_LOOKUPS = (keras.layers.StringLookup, keras.layers.IntegerLookup, keras.layers.TextVectorization)

#: What stands for a value JSON does not know. ``__lambda__`` (machine code) and ``__typespec__`` (a class by
#: its module) are not among them.
_VALUES = {"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__slice__", "__ellipsis__"}

#: Packages in which nobody has code of their own.
_NOBODYS_OWN = {"keras", *sys.stdlib_module_names} - {"__main__"}

#: A stranger's names are printed: no more of them than that, in characters.
_SHOWN = 80


class Node(NamedTuple):
    """A part of a configuration that asks for a class or a function.

    Attributes:
        place: where it stands, such as ``config.layers[2].config.activation``.
        module: the module it is said to be in.
        name: of the class or function.
        registered_name: under which Keras looks it up first.
        function: whether it is a function.
        config: what the class is built from.
    """

    place: str
    module: str | None
    name: str
    registered_name: str | None
    function: bool
    config: Any

    def __str__(self) -> str:
        name = f"{self.module}.{self.name}" if self.module else self.name
        return f"{name[:_SHOWN]!r} (at {self.place[:_SHOWN]})"


def build(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Builds a model, compiled if it was, from a configuration that is not trusted.

    Args:
        config: as `keras.saving.serialize_keras_object(model)` gives it; left as it is.
        custom_objects: name → class or function that the configuration may use besides Keras's own.

    Returns:
        The model. Random state of Python that Keras draws seeds from is left as it was.

    Raises:
        UntrustedModelError: if the configuration asks for anything else; then nothing was run.
        StoreError: if Keras cannot build a model from it.
    """
    try:
        wanted = _checked(config, _by_name(custom_objects or {}))
    except RecursionError:
        raise _refused("a configuration", "it is nested too deeply") from None
    try:
        with _python_random_kept():
            # Functional models take their configuration apart.
            model = keras.saving.deserialize_keras_object(copy.deepcopy(config), wanted, safe_mode=True)
    except Exception as error:  # whatever Keras, or code handed in, raises
        raise StoreError(
            f"Keras {keras.__version__} cannot build the model from its configuration: "
            f"{_root_of(error)}; "
            "build it yourself and hand it in: replay(directory, model=model)"
        ) from error
    if not isinstance(model, keras.Model):
        raise StoreError(f"the configuration makes a {type(model).__name__}, not a model")
    return model


def _root_of(error: BaseException) -> str:
    """The error at the bottom: Keras wraps each in the configuration of every layer around it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


def custom_names(config: Any) -> list[str]:
    """Names of the classes and functions a configuration needs besides Keras's own, in order.

    Raises:
        UntrustedModelError: if it asks for what is never built.
    """
    names: dict[str, None] = {}
    for node in _nodes(config, "model"):
        if _is_own(node):
            names[node.name.rpartition(">")[2]] = None
        else:
            _require_harmless(node)
    return list(names)


def _checked(config: Any, handed_in: Mapping[str, Any]) -> dict[str, Any]:
    """Looks at all of it; returns what Keras may find under which name."""
    wanted = dict(handed_in)
    missing = []
    for node in _nodes(config, "model"):
        custom = handed_in.get(node.registered_name or node.name, handed_in.get(node.name))
        if custom is not None:
            wanted |= {name: custom for name in (node.name, node.registered_name) if name}
        elif _is_own(node):
            missing.append(node)
        else:
            _require_harmless(node)
    if missing:
        raise _missing(missing)
    _refuse_registered(config, wanted)
    return wanted


def _by_name(custom_objects: Mapping[str, Any]) -> dict[str, Any]:
    """The objects under their given, their own and their registered names.

    Keras's own classes are not the user's code: they are looked at like all others, `Lambda` too.
    """
    named: dict[str, Any] = {}
    for name, custom in custom_objects.items():
        if _is_exported(custom):
            continue
        own = {name, custom.__name__} if hasattr(custom, "__name__") else {name}
        if inspect.isclass(custom) or inspect.isfunction(custom):
            own |= {keras.saving.get_registered_name(custom)}
        named |= dict.fromkeys(own, custom)
    return named


def _nodes(part: Any, place: str) -> Iterator[Node]:
    """Everything in a configuration that Keras could take for a class or a function, at any depth."""
    if isinstance(part, list | tuple):
        for number, item in enumerate(part):
            yield from _nodes(item, f"{place}[{number}]")
    elif isinstance(part, Mapping):
        if "class_name" in part:
            yield from _as_nodes(part, place)
        for name, item in part.items():
            yield from _nodes(item, f"{place}.{name}")


def _as_nodes(part: Mapping[str, Any], place: str) -> Iterator[Node]:
    class_name, module, config = part["class_name"], part.get("module"), part.get("config")
    registered = part.get("registered_name")
    if not all(isinstance(text, str | None) for text in (class_name, module, registered)) or not class_name:
        raise _refused(f"{class_name!r:.80} (at {place})", "a class is named by texts")
    if class_name in _VALUES:
        return
    if class_name.startswith("__"):
        raise _refused(f"{class_name[:_SHOWN]!r} (at {place})", "it can run any code")
    if "module" not in part:
        raise _refused(f"{class_name[:_SHOWN]!r} (at {place})", "a class without a module is never looked up")
    function = class_name == "function"
    name = config if function else class_name
    if not isinstance(name, str):
        raise _refused(f"a function (at {place})", "functions are named by texts")
    # Keras writes "function" as the registered name of a function where it has no better one.
    registered = None if function and registered == "function" else registered
    yield Node(place, module, name, registered, function, config)


def _is_own(node: Node) -> bool:
    """Whether it is said to be somebody's own code rather than Keras's or Python's."""
    if node.function and node.module == "builtins":
        # Older versions of Keras write this for every function.
        return not _is_harmless_function(node) and not hasattr(builtins, node.name)
    return node.module is None or node.module.partition(".")[0] not in _NOBODYS_OWN


def _require_harmless(node: Node) -> None:
    """Lets pass what Keras exports and what does nothing but compute.

    Raises:
        UntrustedModelError: for anything else.
    """
    if node.registered_name not in (None, node.name):
        raise _refused(str(node), f"it is registered under another name, {node.registered_name[:_SHOWN]!r}")
    if node.function:
        if not _is_harmless_function(node):
            raise _refused(str(node), "it is not one of Keras's activations, losses, metrics or operations")
        return
    found = _exported_class(node)
    if found is None:
        raise _refused(str(node), "it is no class that Keras exports to build models of")
    if issubclass(found, keras.layers.Layer) and not issubclass(found, keras.Model):
        _require_harmless_layer(node, found)


def _require_harmless_layer(node: Node, found: type) -> None:
    if not _LAYERS.fullmatch(found.__module__):
        raise _refused(str(node), "it can run code or read files")
    if issubclass(found, _LOOKUPS):
        vocabulary = node.config.get("vocabulary") if isinstance(node.config, Mapping) else None
        if not isinstance(vocabulary, list | tuple | None):
            raise _refused(str(node), "its vocabulary is the name of a file")


def _exported_class(node: Node) -> type | None:
    module = node.module or ""
    if (module, node.name) == _FUNCTIONAL:
        return keras.Model
    if _OPERATIONS.fullmatch(module):
        space, kind = sys.modules.get(module), keras.Operation
    else:
        space, kind = _CLASSES.get(module, (None, object))
    found = vars(space).get(node.name) if space is not None else None
    ours = inspect.isclass(found) and issubclass(found, kind) and found.__module__.startswith("keras.src.")
    return found if ours else None


def _is_harmless_function(node: Node) -> bool:
    if node.module == "builtins":
        return any(_is_formula(space, node.name) for space in _FUNCTIONS.values())
    if node.module == "keras.ops" or _OPERATIONS.fullmatch(node.module or ""):
        found = vars(keras.ops).get(node.name)
        return inspect.isfunction(found) and bool(_OPERATIONS.fullmatch(found.__module__))
    space = _FUNCTIONS.get(node.module or "")
    return space is not None and _is_formula(space, node.name)


def _is_formula(space: Any, name: str) -> bool:
    return name not in _NO_FORMULA and inspect.isfunction(vars(space).get(name))


def _is_exported(custom: Any) -> bool:
    return inspect.isclass(custom) and custom.__module__.partition(".")[0] == "keras"


def _refuse_registered(config: Any, wanted: Mapping[str, Any]) -> None:
    """Keras prefers what was registered in this process over everything else, by any text in the config."""
    for place, text in _texts(config, "model"):
        registered = keras.saving.get_registered_object(text)
        if registered is not None and registered is not wanted.get(text):
            raise UntrustedModelError(
                f"the model of the bundle names {text[:_SHOWN]!r} (at {place[:_SHOWN]}), which is registered "
                "with Keras in this process, but was not handed in; if it is the right one, hand it in: "
                f"replay(directory, custom_objects={{{text[:_SHOWN]!r}: …}})"
            )


def _texts(part: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(part, str):
        yield place, part
    elif isinstance(part, list | tuple):
        for number, item in enumerate(part):
            yield from _texts(item, f"{place}[{number}]")
    elif isinstance(part, Mapping):
        for name, item in part.items():
            yield from _texts(item, f"{place}.{name}")


def _missing(nodes: list[Node]) -> UntrustedModelError:
    names = dict.fromkeys(node.name.rpartition(">")[2][:_SHOWN] for node in nodes)
    handed_in = ", ".join(f"{name!r}: {name}" for name in names)
    return UntrustedModelError(
        f"the model needs code that is not part of Keras: {', '.join(map(str, nodes[:5]))}"
        f"{', …' if len(nodes) > 5 else ''}. A bundle runs only code you hand in: "
        f"replay(directory, custom_objects={{{handed_in}}}), or the model: replay(directory, model=model); "
        "on the command line: --code FILE.py with the definitions"
    )


def _refused(what: str, why: str) -> UntrustedModelError:
    return UntrustedModelError(
        f"the model of the bundle asks for {what}, which is not built from a file: {why}. If you know and "
        "trust the model, build it with its own code and hand it in: replay(directory, model=model)"
    )


@contextmanager
def _python_random_kept() -> Iterator[None]:
    """Layers and initializers without a seed take theirs from Python's own generator."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
