"""A sample of lines is uniform and within its bounds."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.config.tokenizer import MAX_LINE_BYTES
from bert_jax.data.tokenizers.line_sample import num_bytes, sample_lines

MANY = 10**9


def numbers(lines):
    return np.array([int(line.split()[1]) for line in lines])


@pytest.mark.parametrize("bound", ["lines", "bytes"])
def test_the_sample_is_uniform_and_in_order(bound):
    max_lines, max_bytes = (2_000, MANY) if bound == "lines" else (MANY, 21_500)
    texts = [f"line {i:05d}" for i in range(20_000)]
    lines = sample_lines(texts, max_lines=max_lines, max_bytes=max_bytes)
    kept = numbers(lines)
    assert kept.size == (2_000 if bound == "lines" else 21_500 // 10)
    assert (np.diff(kept) > 0).all()
    # In ten equal parts of the text: 200 or 215 each, standard deviation below 15.
    counts = np.histogram(kept, 10, (0, 20_000))[0]
    assert np.abs(counts - kept.size / 10).max() < 60


def test_long_lines_are_not_favoured_and_not_left_out():
    texts = [f"line {i:05d}" + " x" * 200 * (i % 2) for i in range(20_000)]
    kept = numbers(sample_lines(texts, max_lines=MANY, max_bytes=400_000))
    # About 1,900 lines, half of them long; standard deviation 22.
    assert abs(int((kept % 2).sum()) - kept.size / 2) < 100


@given(
    st.lists(st.text(max_size=30), max_size=30), st.integers(1, 40), st.integers(1, 300)
)
def test_bounds_hold_and_what_fits_is_kept(texts, max_lines, max_bytes):
    everything = sample_lines(texts, max_lines=MANY, max_bytes=MANY)
    assert len(everything) == sum(bool(text.strip()) for text in texts)
    lines = sample_lines(texts, max_lines=max_lines, max_bytes=max_bytes)
    assert len(lines) <= max_lines
    assert sum(map(num_bytes, lines)) <= max_bytes
    if len(everything) <= max_lines and sum(map(num_bytes, everything)) <= max_bytes:
        assert lines == everything
    rest = iter(everything)
    assert all(line in rest for line in lines), "another order"


def test_length_and_neighbours_decide_nothing():
    """Those with the smallest random numbers stay, whatever came and went between."""
    draw = random.Random(0).random
    texts = [f"{i}" + "x" * (i * 37 % 300) for i in range(500)]
    drawn = {text: draw() for text in texts}
    for max_bytes in range(5_000, 15_000, 100):
        kept = {*sample_lines(texts, max_lines=MANY, max_bytes=max_bytes)}
        assert max(drawn[text] for text in kept) < min(
            number for text, number in drawn.items() if text not in kept
        )


def test_one_more_sentence_changes_little():
    texts = [f"line {i:05d}" for i in range(5_000)]
    one = sample_lines(texts, max_lines=500, max_bytes=MANY)
    two = sample_lines([*texts, "line 99999"], max_lines=500, max_bytes=MANY)
    assert len({*one} ^ {*two}) <= 2


def test_long_lines_are_cut_at_spaces():
    texts = ["word " * 3_000, "z" * 9_000, "\u00e9" * 5_000, "\ud83d x"]
    lines = sample_lines(texts, max_lines=MANY, max_bytes=MANY)
    assert max(map(num_bytes, lines)) <= MAX_LINE_BYTES
    joined = "".join(lines).replace(" ", "")
    assert joined == "word" * 3_000 + "z" * 9_000 + "\u00e9" * 5_000 + "\ufffdx"
    assert all(set(line.split()) == {"word"} for line in lines if "w" in line)
