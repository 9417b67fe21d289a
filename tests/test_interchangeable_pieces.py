"""Pieces that can change places stand in one order, whatever SentencePiece found."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.data.tokenizers.interchangeable_pieces import InterchangeablePieces
from bert_jax.data.tokenizers.sentencepiece_model import is_unigram, parse_model
from bert_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizers.vocabulary import train_sentencepiece
from bert_jax.exchange.tokenizer import to_fast_tokenizer

PIECES = ["[PAD]", "a", "aa", "aaaa", "ab", "abab", "b", "ba", "c", "[UNK]"]
POWERS = InterchangeablePieces(PIECES, {0, 9})


def in_order(powers, *texts):
    """Each text's ids in the one order, all sorted in one call."""
    lengths = np.array([len(ids) for ids in texts])
    joined = np.array([index for ids in texts for index in ids], np.int32)
    powers.sort_runs(joined, lengths)
    return [part.tolist() for part in np.split(joined, np.cumsum(lengths)[:-1])]


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=4))
def test_order_is_one_and_text_is_the_same(texts):
    found = in_order(POWERS, *texts)
    assert in_order(POWERS, *found) == found
    for ids, after in zip(texts, found, strict=True):
        assert "".join(PIECES[i] for i in after) == "".join(PIECES[i] for i in ids)
        assert sorted(after) == sorted(ids)
        assert in_order(POWERS, ids) == [after]


@given(st.permutations([1, 1, 2, 3]))
def test_every_order_of_powers_becomes_the_same(ids):
    assert in_order(POWERS, [8, *ids, 6]) == [[8, 1, 1, 2, 3, 6]]


def test_texts_are_no_neighbours():
    assert in_order(POWERS, [], [3], [], [2, 1], [1], []) == [
        *([], [3], [], [1, 2], [1], [])
    ]
    assert in_order(POWERS, []) == [[]]


def test_only_powers_of_one_string_can_change_places():
    """What the sorting rests on, by trying all pairs of short strings."""
    words = ["".join(w) for n in range(1, 5) for w in itertools.product("ab", repeat=n)]
    powers = InterchangeablePieces(words, set())
    for x, y in itertools.combinations(words, 2):
        (pair,) = in_order(powers, [words.index(y), words.index(x)])
        moved = pair == [words.index(x), words.index(y)]
        assert moved == (x + y == y + x and len(x) < len(y)), (x, y)


@pytest.fixture(scope="module")
def zeros():
    """A unigram model in which "0", "00" and "000" are pieces, and long texts."""
    rng = np.random.default_rng(0)
    parts = ["ri", "ver", "sto", "ne", "win", "dow", "mu", "sic", "la", "ke", "or"]
    words = ["".join(rng.choice(parts, 3)) for _ in range(200)]
    words += [f"{n}{'0' * k}" for n in range(1, 30) for k in range(2, 6)]
    lines = [" ".join(rng.choice(words, 30)) for _ in range(400)]
    trained = train_sentencepiece(lines, vocab_size=80, lowercase=True)
    proto = parse_model(trained.model)
    # Cheaper together than apart, as in vocabularies of real text.
    zero = next(piece.score for piece in proto.pieces if piece.piece == "0")
    for text in ("00", "000"):
        proto.pieces.add(piece=text, score=zero - 0.7)
    model = proto.SerializeToString()
    return SentencePieceTokenizer(model, lowercase=True), lines


def test_the_text_in_front_decides_nothing(zeros):
    tokenizer, lines = zeros
    assert is_unigram(parse_model(tokenizer.model))
    for number in ("1000", "25000", "100000", "7000000"):
        endings = set()
        for line in lines[:100]:
            (ids,) = tokenizer.encode([f"{line} {number}"])
            start = max(i for i, x in enumerate(ids) if tokenizer.starts_word[x])
            endings.add(tuple(ids[start:]))
        assert len(endings) == 1, number


def test_the_exported_tokenizer_breaks_ties_alike(zeros):
    tokenizer, lines = zeros
    texts = [f"{line} {10**n}" for n in range(3, 12) for line in lines[:50]]
    fast = to_fast_tokenizer(tokenizer)
    theirs = [x.ids for x in fast.encode_batch_fast(texts, add_special_tokens=False)]
    assert theirs == tokenizer.encode(texts)
