"""Names of tensors print, parse back and refuse what would not; names of axes fit the number of axes."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from see_rnn_like.errors import ArgumentError
from see_rnn_like.labels import DIRECTIONS, KINDS, TensorKey, output_dims, weight_dims

# Layer names as Keras makes them, and the worst a person could choose.
parts = st.one_of(
    st.sampled_from(["lstm", "lstm_1", "forward", "backward", "-", "a:b", "ü x"]), st.text(max_size=5)
)
layers = st.lists(parts.filter(lambda part: "/" not in part), max_size=3).map("/".join)
roles = st.text("abz_@. -", min_size=1, max_size=6)
keys = st.builds(TensorKey, layers, st.sampled_from([*DIRECTIONS, None]), roles, st.sampled_from(KINDS))


@given(keys)
def test_every_key_parses_back_from_what_it_prints(key):
    assert TensorKey.parse(str(key)) == key


@given(keys, keys)
def test_different_keys_print_differently(first, second):
    assume(first != second)
    assert str(first) != str(second)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("lstm/forward/kernel:gradient", TensorKey("lstm", "forward", "kernel", "gradient")),
        ("encoder/lstm_1/backward/bias:weight", TensorKey("encoder/lstm_1", "backward", "bias", "weight")),
        ("dense/output:value", TensorKey("dense", None, "output", "value")),
        ("loss:value", TensorKey("", None, "loss", "value")),
        ("forward/-/kernel:update", TensorKey("forward", None, "kernel", "update")),
        ("forward/forward/kernel:update", TensorKey("forward", "forward", "kernel", "update")),
        ("my:layer/kernel:weight", TensorKey("my:layer", None, "kernel", "weight")),
    ],
)
def test_keys_look_like_this(text, key):
    assert str(key) == text
    assert TensorKey.parse(text) == key
    assert repr(key) == f"TensorKey({text!r})"


def test_keys_are_dictionary_keys_and_sort_by_layer_first():
    b, a = TensorKey("b", "forward", "bias", "weight"), TensorKey("a", "forward", "kernel", "weight")
    assert sorted([b, a]) == [a, b]
    assert {a: 1}[TensorKey.parse(str(a))] == 1


@pytest.mark.parametrize("text", ["", "lstm", "lstm/forward/kernel", ":gradient"])
def test_what_is_no_key_is_refused_with_an_example_of_one(text):
    with pytest.raises(ArgumentError) as caught:
        TensorKey.parse(text)
    assert str(caught.value) == (
        f"a tensor key looks like 'lstm/forward/kernel:gradient' (layer/direction/role:kind); got {text!r}"
    )


def test_wrong_parts_of_a_key_are_refused_with_the_valid_ones():
    with pytest.raises(
        ArgumentError, match="kind must be one of 'weight', 'update', 'gradient', 'value'; got 'grad'"
    ):
        TensorKey("lstm", "forward", "kernel", "grad")
    with pytest.raises(ArgumentError, match="direction must be one of 'forward', 'backward', None; got 'up'"):
        TensorKey("lstm", "up", "kernel", "gradient")
    for role in ("", "a/b", "a:b"):
        with pytest.raises(ArgumentError, match="role must be a name without '/' and ':'; got"):
            TensorKey("lstm", "forward", role, "gradient")


@pytest.mark.parametrize("dims", [weight_dims, output_dims])
@pytest.mark.parametrize("ndim", range(7))
def test_there_is_one_distinct_name_per_axis_and_the_last_counts_units(dims, ndim):
    names = dims(ndim)
    assert len(names) == len(set(names)) == ndim
    if dims is weight_dims and ndim:
        assert names[-1] == "unit"
    if dims is output_dims and ndim:
        assert names[0] == "sample"
    if dims is output_dims and ndim > 1:
        assert names[-1] == "unit"
