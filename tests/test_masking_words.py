"""Whole words: where they are, that they are hidden whole, and by BERT's rule."""

import functools

import jax
import numpy as np
import pytest
from masked_rows import (
    VOCAB,
    assert_consistent,
    expect,
    found_words,
    hidden_tokens,
    hide_one_by_one,
    rows_of,
    scattered_rows,
    shown_tokens,
    vocabulary_of,
    words_of,
)
from small_tokenizers import wordpiece

from bert_jax.config import MaskingConfig
from bert_jax.data.tokenizers.vocabulary import train_sentencepiece
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.model.masking_words import hide_spans

WORD = MaskingConfig(unit="word")


_hide = jax.jit(functools.partial(hide_spans, num_slots=20))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0], ids=str)
def test_words_are_those_of_a_walk_along_the_row(special, share):
    batch = scattered_rows(24, 33, seed=int(share * 10))
    starts_word = np.random.default_rng(1).random(VOCAB) < share
    vocabulary = vocabulary_of(special, starts_word)
    found = jax.tree.map(np.asarray, found_words(batch, vocabulary))
    for b in range(24):
        words = words_of(batch, b, vocabulary)
        firsts = [positions[0] for positions, _ in words]
        np.testing.assert_array_equal(np.flatnonzero(found.opens[b]), firsts)
        inside = [at for positions, _ in words for at in positions]
        outside = np.setdiff1d(np.arange(33), inside)
        np.testing.assert_array_equal(found.begins[b, outside], outside)
        stop = None
        for positions, follows in reversed(words):
            end = positions[-1] + 1
            stop = end if stop is None else stop
            np.testing.assert_array_equal(found.begins[b, positions], positions[0])
            np.testing.assert_array_equal(found.ends[b, positions], end)
            np.testing.assert_array_equal(found.stops[b, positions], stop)
            stop = stop if follows else None


@pytest.mark.parametrize("seed", range(4))
def test_words_are_taken_as_one_by_one(special, seed):
    rng = np.random.default_rng(seed)
    batch = scattered_rows(64, 48, seed)
    vocabulary = vocabulary_of(special, rng.random(VOCAB) < rng.choice([0.3, 0.7, 1.0]))
    # Coarse scores, so that some are equal.
    scores = (rng.integers(0, 40, (64, 48)) / 64).astype(np.float32)
    wanted = rng.integers(0, 20, 64).astype(np.int32)
    words = found_words(batch, vocabulary)
    starts = np.asarray(_hide(words, words.ends, scores, wanted))
    for b in range(64):
        expected = hide_one_by_one(
            words_of(batch, b, vocabulary), scores[b], np.ones(48, int), wanted[b]
        )
        np.testing.assert_array_equal(starts[b], expected)


@pytest.mark.parametrize("rate", [0.15, 0.6])
def test_packed_rows_lose_whole_words_up_to_the_number(
    mask, make_batch, vocabulary, rate
):
    cfg = MaskingConfig(unit="word", rate=rate)
    batch = make_batch(rows=48, length=64, seed=int(10 * rate))
    masked = mask(batch, 1, cfg)
    assert_consistent(batch, masked, vocabulary)
    hidden = hidden_tokens(masked)
    parts = 0
    for b in range(48):
        left = cfg.num_slots(int((batch.sequence_ids[b] > 0).sum())) - hidden[b].sum()
        assert left >= 0
        for positions, _ in words_of(batch, b, vocabulary):
            assert hidden[b, positions].all() or not hidden[b, positions].any()
            assert hidden[b, positions].any() or len(positions) > left, "it did fit"
            parts += len(positions) > 1
    assert parts > 100


def test_words_longer_than_the_number_are_passed_over(mask, special):
    # One word of six pieces, one of three, and five tokens to hide.
    starts = np.zeros(VOCAB, bool)
    starts[10] = True
    ids = np.array([[2, 10, 11, 11, 11, 11, 11, 10, 11, 11, 3] + [3] * 22] * 64)
    masked = mask(rows_of(ids), 0, WORD, vocabulary_of(special, starts))
    assert masked.positions.shape[1] == 5
    np.testing.assert_array_equal(masked.positions, [[7, 8, 9, 0, 0]] * 64)
    # Nothing fits: nothing is hidden.
    masked = mask(rows_of(ids[:, :7]), 0, WORD, vocabulary_of(special, starts))
    assert not masked.weights.any()


def test_every_word_is_chosen_equally_often_whatever_stands_around_it(mask, special):
    # 31 words of two pieces and 4 * 2 of 64 tokens to hide, so that none is passed over.
    starts = np.arange(VOCAB) % 2 == 1
    ids = np.tile([7, 8], (4096, 31))
    ids = np.concatenate([np.full((4096, 1), 2), ids, np.full((4096, 1), 3)], axis=1)
    cfg = MaskingConfig(unit="word", rate=0.125)
    masked = mask(rows_of(ids), 2, cfg, vocabulary_of(special, starts))
    assert masked.weights.all()
    words = hidden_tokens(masked)[:, 1:-1:2].astype(float)
    for count in words.sum(0):
        expect(count, 4096, 4 / 31)
    together = words.T @ words
    for i in range(30):
        expect(together[i, i + 1], 4096, 4 * 3 / (31 * 30))


def test_80_10_10_of_each_token_by_itself(mask, special):
    starts = np.arange(VOCAB) % 2 == 1
    ids = np.tile([7, 8], (4096, 20))
    masked = mask(rows_of(ids), 0, WORD, vocabulary_of(special, starts))
    assert masked.weights.shape == (4096, 6)
    assert masked.weights.all()
    shown = shown_tokens(masked)
    hidden, kept = shown == special.mask, shown == masked.labels
    total = hidden.size
    expect(hidden.sum(), total, 0.8 + 0.1 / VOCAB)
    expect(kept.sum(), total, 0.1 + 0.1 / VOCAB)
    expect((~hidden & ~kept).sum(), total, 0.1 * (1 - 2 / VOCAB))
    # Both pieces of a word: as often as two tokens that have nothing in common.
    both = hidden.reshape(-1, 2).all(1)
    expect(both.sum(), both.size, (0.8 + 0.1 / VOCAB) ** 2)


TEXT = """The unbelievable river flows southeastwards through thirteen municipalities .
Archaeologists uncovered pre-Columbian earthenware near Tenochtitlan ; its glaze is
bluish-green . Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich ✪✪ ."""


def rows_of_text(tokenizer, num_rows):
    """[CLS] A [SEP] B [SEP], B cut at its front so that it may open inside a word."""
    lines = tokenizer.encode(TEXT.split("\n") * 2)
    special = tokenizer.special
    first, second = lines[0] + lines[1], lines[2] + lines[0]
    rows = [
        [special.cls, *first, special.sep, *second[n % 7 :], special.sep]
        for n in range(num_rows)
    ]
    ids = np.zeros((num_rows, max(map(len, rows)) + 3), np.int32)
    segments = np.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        segments[row, len(first) + 2 : len(tokens)] = 1
    assert special.pad == 0
    return rows_of(ids, segments)


@pytest.fixture(scope="module", params=["small ##", "bert ##", "unigram ▁", "bpe ▁"])
def tokenizer(request):
    if request.param == "bert ##":
        folder = request.getfixturevalue("shared_data") / "vocab"
        path = folder / "bert-base-uncased-vocab.txt"
        return WordPieceTokenizer.from_vocab(path, lowercase=True)
    if request.param == "small ##":
        letters = sorted(set(TEXT.lower()) - {" ", "\n", "✪"})
        behind = (f"##{letter}" for letter in letters)
        return wordpiece(*letters, *behind, "river", "##able", "##ly")
    kind = request.param.split()[0]
    lines = TEXT.replace("✪", "").split("\n")
    return train_sentencepiece(lines, vocab_size=70, lowercase=True, model_type=kind)


def test_words_of_real_tokenizers_are_hidden_whole(mask, tokenizer):
    vocabulary = tokenizer.mask_vocabulary
    batch = rows_of_text(tokenizer, 256)
    masked = mask(batch, 0, WORD, vocabulary)
    assert_consistent(batch, masked, vocabulary)
    hidden = hidden_tokens(masked)
    assert hidden.sum(1).min() > 0.8 * hidden.sum(1).max()
    chosen, seen = set(), set()
    for b, ids in enumerate(batch.input_ids):
        pieces = [tokenizer.pieces[index] for index in ids]
        for start, end in spelled_words(pieces, tokenizer.kind):
            word = tuple(pieces[start:end])
            assert len(set(hidden[b, start:end])) == 1, (b, word)
            seen.add(word)
            if hidden[b, start]:
                chosen.add(word)
    assert len(seen) > 30
    assert max(map(len, chosen)) > 1
    # Each word comes at least 36 times; only what is too long is never hidden.
    most = masked.weights.shape[1]
    assert {word for word in seen - chosen if len(word) < 0.6 * most} == set()
    unknown = batch.input_ids == tokenizer.special.unk
    assert hidden[unknown].any(), "[UNK] is as maskable as any other word"


def spelled_words(pieces, kind):
    """[(start, end)] by the spelling of the pieces, not by the table."""
    words, before = [], False
    for at, piece in enumerate(pieces):
        if piece in ("[PAD]", "[CLS]", "[SEP]"):
            before = False
            continue
        inside = piece.startswith("##") if kind == "wordpiece" else piece[0] != "▁"
        if before and inside:
            words[-1] = (words[-1][0], at + 1)
        else:
            words.append((at, at + 1))
        before = True
    return words


def test_unknown_pieces_are_words_where_they_stand_for_one(tokenizer):
    vocabulary = tokenizer.mask_vocabulary
    is_word = vocabulary.starts_word[tokenizer.special.unk]
    assert is_word == (tokenizer.kind == "wordpiece")
    others = np.arange(tokenizer.vocab_size) != tokenizer.special.unk
    np.testing.assert_array_equal(
        vocabulary.starts_word[others], tokenizer.starts_word[others]
    )
