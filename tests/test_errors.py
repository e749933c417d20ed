"""Every error is ours and also the built-in one a caller would expect, and prints as a sentence."""

import inspect

import pytest

from see_rnn_like import errors

BUILT_IN = {
    "ArgumentError": ValueError,
    "ArgumentTypeError": TypeError,
    "UnknownLayerError": ValueError,
    "UnsupportedLayerError": TypeError,
    "ForeignModelError": TypeError,
    "UnknownTensorError": KeyError,
    "StoreError": RuntimeError,
    "StoreVersionError": RuntimeError,
    "DamagedStoreError": RuntimeError,
    "CaptureError": RuntimeError,
    "NonFiniteError": RuntimeError,
    "UntrustedModelError": ValueError,
}

OURS = {
    name: found
    for name, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, Exception) and found.__module__ == errors.__name__
}


def test_the_list_of_this_test_is_complete():
    warnings = {name for name, found in OURS.items() if issubclass(found, Warning)}
    assert set(OURS) - warnings == {"SeeRNNError", *BUILT_IN}
    assert all(issubclass(OURS[name], UserWarning) for name in warnings)


@pytest.mark.parametrize(("name", "built_in"), BUILT_IN.items())
def test_an_error_can_be_caught_as_ours_and_as_the_built_in_one(name, built_in):
    error = OURS[name]
    for caught_as in (errors.SeeRNNError, built_in):
        with pytest.raises(caught_as):
            raise error("what was given; what to do")


@pytest.mark.parametrize("name", OURS)
def test_an_error_prints_its_sentence_without_quotes_around_it(name):
    assert str(OURS[name]("nothing was recorded under 'a'")) == "nothing was recorded under 'a'"


def test_errors_of_the_run_file_can_be_caught_together():
    assert issubclass(errors.StoreVersionError, errors.StoreError)
    assert issubclass(errors.DamagedStoreError, errors.StoreError)


def test_a_choice_that_is_none_lists_those_that_are():
    error = errors.one_of("on_nan", "explode", ("warn", "stop", None))
    assert isinstance(error, errors.ArgumentError)
    assert str(error) == "on_nan must be one of 'warn', 'stop', None; got 'explode'"
