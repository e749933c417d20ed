"""The tasks: data, targets and baselines against second computations that share no code with them."""

import csv
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from see_rnn_like import tasks
from see_rnn_like.errors import ArgumentError


@pytest.fixture(scope="module")
def text():
    return tasks.text()


@pytest.fixture(scope="module")
def sunspots():
    return tasks.sunspots()


# ---- text ----------------------------------------------------------------------------------------


def test_text_windows_laid_end_to_end_are_the_reference_text(text):
    whole = tasks.reference_text()
    training = "".join(map(text.decode, text.x))
    assert training == whole[: len(training)]
    held_out = "".join(map(text.decode, text.validation[0]))
    cut = round(len(whole) * 0.9)
    assert held_out == whole[cut : cut + len(held_out)]
    # Nothing but an unfinished window is left out.
    assert cut - len(training) <= 64
    assert len(whole) - cut - len(held_out) <= 64


def test_text_target_is_the_next_character_at_every_timestep(text):
    whole = tasks.reference_text()
    for i in (0, 1, 1000):
        assert text.decode(text.y[i]) == whole[64 * i + 1 : 64 * i + 65]


def test_text_last_target_is_the_character_after_the_window():
    task = tasks.text(sequence=10, stride=3, targets="last")
    whole = tasks.reference_text()
    assert task.y.shape == (len(task.x),)
    for i in (0, 1, 500):
        assert task.decode(task.x[i]) == whole[3 * i : 3 * i + 10]
        assert task.decode(task.y[i]) == whole[3 * i + 10]


@pytest.mark.parametrize("targets", ["every", "last"])
def test_text_baseline_is_the_unigram_cross_entropy_of_the_validation_targets(targets):
    task = tasks.text(targets=targets)
    whole = tasks.reference_text()
    counts = Counter(whole[: round(len(whole) * 0.9)])
    total = sum(counts.values()) + len(set(whole))
    answers = "".join(map(task.decode, task.validation[1]))
    bits = [-math.log2((counts[character] + 1) / total) for character in answers]
    assert task.baseline == pytest.approx(sum(bits) / len(bits), rel=1e-9)


def test_text_score_is_bits(text):
    uniform = math.log(len(text.names))
    assert text.score(uniform) == pytest.approx(math.log2(len(text.names)))


def test_text_baseline_knows_more_than_a_uniform_guess(text):
    assert 3.5 < text.baseline < math.log2(len(text.names)) - 1


def test_no_paragraph_of_the_validation_part_is_in_the_training_part():
    """Topics quote each other; about a fifth of the raw text would leak."""
    whole = tasks.reference_text()
    cut = round(len(whole) * 0.9)
    # The paragraph that the cut goes through belongs to both.
    training, held_out = whole[:cut].split("\n")[:-1], whole[cut:].split("\n")[1:]
    assert len(held_out) > 50
    assert not set(training) & set(held_out)


def test_reference_text_is_english_without_underlines_or_runs_of_blanks():
    whole = tasks.reference_text()
    assert len(whole) > 200_000
    words = Counter(whole.lower().split())
    assert {word for word, _ in words.most_common(12)} >= {"the", "of", "a", "is", "to"}
    assert "  " not in whole
    assert "\n\n" not in whole
    assert not any(set(line) <= set("*=-~^#") for line in whole.split("\n"))


def test_text_vocabulary_numbers_every_character(text):
    assert "".join(text.names) == "".join(sorted(set(tasks.reference_text())))
    assert text.decode(range(len(text.names))) == "".join(text.names)
    assert text.x.dtype == text.y.dtype == np.dtype("int32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence": 0}, "sequence must be at least 1; got 0"),
        ({"stride": -1}, "stride must be at least 1; got -1"),
        ({"targets": "all"}, "targets must be one of 'every', 'last'; got 'all'"),
        ({"validation": 1.0}, "validation is a share between 0 and 1; got 1.0"),
        ({"sequence": 10**6}, "a window of 1000000 characters and its target do not fit"),
    ],
)
def test_text_tells_what_is_wrong(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        tasks.text(**arguments)


# ---- sunspots ------------------------------------------------------------------------------------


def test_sunspot_numbers_are_1700_to_2008_and_match_known_years():
    years, numbers = tasks.sunspot_numbers()
    assert years.tolist() == list(range(1700, 2009))
    known = {1700: 5.0, 1712: 0.0, 1778: 154.4, 1810: 0.0, 1957: 190.2, 2008: 2.9}
    assert {year: numbers[years == year][0] for year in known} == known


def test_sunspot_numbers_have_their_eleven_year_cycle():
    _, numbers = tasks.sunspot_numbers()
    power = np.abs(np.fft.rfft(numbers - numbers.mean()))
    assert 10 < 1 / np.fft.rfftfreq(len(numbers))[power.argmax()] < 12


def test_sunspot_windows_against_the_file(sunspots):
    numbers = sunspot_rows()
    forecasts = list(range(1722, 2009))
    inputs = np.concatenate([sunspots.x, sunspots.validation[0]])
    targets = np.concatenate([sunspots.y, sunspots.validation[1]])
    assert len(forecasts) == len(inputs) == len(targets)
    for year, window, target in zip(forecasts, inputs, targets, strict=True):
        before = [numbers[earlier] for earlier in range(year - 22, year)]
        np.testing.assert_allclose(sunspots.decode(window[:, 0]), before, atol=1e-4)
        np.testing.assert_allclose(sunspots.decode(target), [numbers[year]], atol=1e-4)
    assert len(sunspots.y) == len(range(1722, 1950))


def test_sunspots_are_scaled_by_the_training_years_only(sunspots):
    before = [number for year, number in sunspot_rows().items() if year < 1950]
    mean = sum(before) / len(before)
    deviation = math.sqrt(sum((number - mean) ** 2 for number in before) / len(before))
    assert sunspots.decode(0.0) == pytest.approx(mean)
    assert sunspots.decode(1.0) - sunspots.decode(0.0) == pytest.approx(deviation)
    assert sunspots.score(4.0) == pytest.approx(2 * deviation)


def test_sunspots_baseline_is_the_error_of_last_years_number(sunspots):
    numbers = sunspot_rows()
    errors = [(numbers[year] - numbers[year - 1]) ** 2 for year in range(1950, 2009)]
    assert sunspots.baseline == pytest.approx(math.sqrt(sum(errors) / len(errors)))


def test_sunspots_score_of_the_baseline_guess_is_the_baseline(sunspots):
    x, y = sunspots.validation
    loss = float(np.mean((x[:, -1] - y) ** 2))
    assert sunspots.score(loss) == pytest.approx(sunspots.baseline, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window must be at least 1; got 0"),
        ({"window": 400}, "a window of 400 years .* the numbers reach from 1700 to 2008"),
        ({"validation_from": 2009}, "leave nothing to train on or to validate"),
        ({"validation_from": 1722}, "leave nothing to train on or to validate"),
    ],
)
def test_sunspots_tell_what_is_wrong(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        tasks.sunspots(**arguments)


def sunspot_rows() -> dict[int, float]:
    """The data file read by the csv module: year → number."""
    with open(tasks.__file__.replace("tasks.py", "data/sunspots.csv"), encoding="utf-8") as file:
        rows = csv.reader(line for line in file if not line.startswith("#"))
        return {int(year): float(number) for year, number in rows}


# ---- adding --------------------------------------------------------------------------------------


@given(n=st.integers(1, 20), timesteps=st.integers(2, 40), seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_adding_target_is_the_sum_of_one_marked_value_from_each_half(n, timesteps, seed):
    task = tasks.adding(n, timesteps, seed)
    assert task.x.shape == (n, timesteps, 2)
    assert task.y.shape == (n, 1)
    assert len(task.validation[0]) == len(task.validation[1]) == max(n // 4, 1)
    for sample, target in zip(task.x, task.y, strict=True):
        marked = [t for t in range(timesteps) if sample[t, 1] == 1]
        assert len(marked) == 2
        assert marked[0] < timesteps // 2 <= marked[1]
        assert float(sample[:, 1].sum()) == 2
        assert target[0] == pytest.approx(sum(float(sample[t, 0]) for t in marked), abs=1e-6)


def test_adding_baseline_is_the_variance_of_the_targets():
    task = tasks.adding(n=200_000, timesteps=2)
    assert task.baseline == pytest.approx(float(np.mean((task.y - 1) ** 2)), rel=0.01)
    assert task.score(0.25) == 0.25


def test_adding_marks_reach_every_timestep():
    marks = tasks.adding(n=2000, timesteps=7).x[..., 1].sum(0)
    assert (marks > 0).all()


def test_adding_repeats_with_its_seed_and_leaves_the_global_generator_alone():
    # The global generator is what is asked about here.
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (tasks.adding(n=5, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.validation[0], again.validation[0])
    assert (first.x != other.x).any()
    assert not np.isin(first.validation[0][..., 0], first.x[..., 0]).any()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"n": 0}, "n must be at least 1; got 0"), ({"timesteps": 1}, "timesteps must be at least 2.*got 1")],
)
def test_adding_tells_what_is_wrong(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        tasks.adding(**arguments)


# ---- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [tasks.text, tasks.sunspots, tasks.adding])
def test_a_task_is_the_same_every_time_and_owns_its_arrays(make):
    first, again = make(), make()
    np.testing.assert_array_equal(first.x, again.x)
    np.testing.assert_array_equal(first.y, again.y)
    expected = again.x.copy()
    first.x[...] = 0
    first.validation[0][...] = 0
    np.testing.assert_array_equal(make().x, expected)
    with pytest.raises(AttributeError):
        first.baseline = 0.0
