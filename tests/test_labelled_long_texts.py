"""Texts that do not fit into a row: cut, head and tail, or windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import wordpiece

from bert_jax.config import FinetuneConfig
from bert_jax.data.labelled.long_texts import cut, head_and_tail, windows
from bert_jax.data.labelled.texts import encode_texts
from bert_jax.train.tasks import TASKS


@pytest.fixture(scope="module")
def words():
    """A tokenizer that has w0 ... w99 with the ids 5 ... 104."""
    return wordpiece(*(f"w{n}" for n in range(100)))


def text(count):
    return " ".join(f"w{n}" for n in range(count))


def test_head_and_tail_share_the_row_as_in_sun_et_al():
    [[row]] = head_and_tail([range(1_000)], 510)
    assert row[:127] == list(range(127))
    assert row[127:] == list(range(1_000 - 383, 1_000))
    assert head_and_tail([range(510)], 510) == [[list(range(510))]]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(4, 40))
def test_of_a_pair_head_and_tail_keep_what_a_cut_keeps_in_number(a, b, room):
    [short] = cut([range(a), range(b)], room)
    [row] = head_and_tail([range(a), range(b)], room)
    assert list(map(len, row)) == list(map(len, short))
    for part, size in zip(row, (a, b), strict=True):
        assert not part or part[-1] == size - 1


@given(st.integers(1, 300), st.integers(2, 40), st.data())
def test_windows_leave_no_token_out(size, room, data):
    stride = data.draw(st.none() | st.integers(1, room))
    rows = [row for [row] in windows([list(range(size))], room, stride)]
    assert sorted({token for row in rows for token in row}) == list(range(size))
    assert all(row == list(range(row[0], row[0] + len(row))) for row in rows)
    assert all(len(row) == min(room, size) for row in rows), "full but where all fits"
    starts = [row[0] for row in rows]
    assert starts == sorted(set(starts))
    steps = np.diff(starts)
    assert (steps <= (stride or room // 2)).all()


@given(st.integers(1, 80), st.integers(1, 80), st.integers(6, 40))
def test_windows_of_a_pair_move_over_the_longer_text(a, b, room):
    rows = windows([list(range(a)), list(range(b))], room)
    assert all(sum(map(len, row)) <= room for row in rows)
    longer = 0 if a >= b else 1
    seen = {token for row in rows for token in row[longer]}
    assert seen == set(range(max(a, b)))
    kept = {tuple(row[1 - longer]) for row in rows}
    whole = min(a, b) if a + b <= room else min(a, b, room // 2)
    assert kept == {tuple(range(whole))}


def test_a_stride_that_would_lose_tokens_is_refused():
    with pytest.raises(ValueError, match=r"stride=9 is longer than a window of 8"):
        windows([list(range(30))], 8, 9)


def test_rows_of_a_text_share_its_label_and_its_weight(words):
    rows = encode_texts(words, [(text(3),), (text(9),)], [7, 8], 6, "windows")
    assert rows.example.tolist() == [0, 1, 1, 1, 1]
    assert rows.labels.tolist() == [7, 8, 8, 8, 8]
    assert rows.input_ids[1:, 1].tolist() == [5, 7, 9, 10]
    assert (rows.num_cut, rows.lost) == (1, "became several rows")
    assert rows.batch(np.array([0, 2]), 3).weights.tolist() == [1.0, 0.25, 0.0]
    weighed = rows.weighed(np.float32([3.0, 2.0]))
    assert weighed.batch(np.array([0, 2]), 2).weights.tolist() == [3.0, 0.5]


def test_what_a_long_text_lost_is_said(words):
    for how, lost in (("cut", "lost their end"), ("head-tail", "lost their middle")):
        rows = encode_texts(words, [(text(9),)], [0], 6, how)
        assert (len(rows), rows.num_cut, rows.lost) == (1, 1, lost)
    assert rows.input_ids.tolist() == [[2, 5, 11, 12, 13, 3]]


def test_a_stride_without_windows_is_refused():
    with pytest.raises(ValueError, match="long_texts='cut' makes no windows"):
        TASKS["classification"].configured(FinetuneConfig(stride=4))
