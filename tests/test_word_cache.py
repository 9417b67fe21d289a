"""Words are remembered in bounded memory; ids are those of the bare libraries."""

import collections
import concurrent.futures
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import awkward_texts, sentences, train

from bert_jax.data.tokenizers.tokenizer import without_surrogates
from bert_jax.data.tokenizers.word_cache import WordCache
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer

BYTES = np.dtype(np.uint8)


def spell(word: str) -> bytes:
    return f"<{word}>".encode()


def make_cache(encode=spell, **options) -> WordCache:
    return WordCache(encode, BYTES, **options)


def assert_spelled(cache, texts):
    ids, lengths = cache.encode(texts)
    expected = [b"".join(map(spell, text.split(" "))) for text in texts]
    assert ids.tobytes() == b"".join(expected)
    assert lengths.tolist() == list(map(len, expected))


def counted():
    """spell, and how often it was called for each word."""
    calls = collections.Counter()

    def encode(word):
        calls[word] += 1
        return spell(word)

    return encode, calls


@given(st.lists(st.text(" ab\t\u3000", max_size=9)), st.integers(0, 2_000))
def test_texts_are_their_words_whatever_is_forgotten(texts, max_bytes):
    cache = make_cache(max_bytes=max_bytes)
    for _ in range(2):
        assert_spelled(cache, texts)


def test_lengths_count_ids_of_any_width():
    cache = WordCache(
        lambda word: np.arange(len(word), dtype="u4").tobytes(), np.dtype("u4")
    )
    ids, lengths = cache.encode(["abc de", "", "f"])
    assert ids.tolist() == [0, 1, 2, 0, 1, 0]
    assert ids.dtype == np.uint32
    assert lengths.tolist() == [5, 0, 1]
    assert lengths.dtype == np.int64


def test_a_word_is_encoded_once_while_there_is_room():
    encode, calls = counted()
    cache = make_cache(encode)
    cache.encode(["a b a", "b c", "a"])
    cache.encode(["c a"])
    assert calls == {"a": 1, "b": 1, "c": 1}


def test_common_words_outlive_rare_ones():
    encode, calls = counted()
    cache = make_cache(encode, max_bytes=20_000)
    for n in range(2_000):
        cache.encode([f"common rare{n}"])
    assert calls["common"] == 1
    cache.encode(["rare1999", "rare0"])
    assert calls["rare1999"] == 1
    assert calls["rare0"] == 2


@pytest.mark.parametrize("letter", ["a", "😀"])
def test_memory_is_bounded(letter):
    limit = 1 << 20
    cache = make_cache(max_bytes=limit)
    tracemalloc.start()
    try:
        for n in range(0, 15_000, 20):
            cache.encode([" ".join(f"{letter * 9}{i}" for i in range(n, n + 20))])
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 15,000 words would take 2 MB and more; a table that grows is there twice.
    assert held < limit
    assert peak < 1.5 * limit


def test_threads_may_share_a_cache():
    texts = [f"a{n % 97} b{n % 89} c{n}" for n in range(3_000)]
    cache = make_cache(max_bytes=30_000)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(assert_spelled, cache, texts) for _ in range(4)]:
            done.result()


def bare(tokenizer, texts):
    """Ids of each whole text, from the library itself."""
    texts = [without_surrogates(text) for text in texts]
    if isinstance(tokenizer, WordPieceTokenizer):
        found = tokenizer._fast.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]
    found = tokenizer._processor.encode(texts, num_threads=1)
    if tokenizer._interchangeable is None:
        return found
    found = [np.array(ids, np.int32) for ids in found]
    for ids in found:
        tokenizer._interchangeable.sort_runs(ids, np.array([ids.size]))
    return [ids.tolist() for ids in found]


KINDS = ["unigram cased", "bpe", "wordpiece", "wordpiece cased accents"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    kind, *rules = request.param.split()
    texts = [*sentences(), *["é à ö 가 日本 1000 (stone), \u0301 e\u0301 \u2017"] * 9]
    options = {"strip_accents": False} if "accents" in rules else {}
    size = 125 if kind == "wordpiece" else 75
    return train(
        kind, texts, vocab_size=size, lowercase="cased" not in rules, **options
    )


@given(texts=st.lists(awkward_texts, max_size=5))
@settings(derandomize=True, max_examples=60)
def test_awkward_texts_get_the_ids_of_the_library(tokenizer, texts):
    expected = bare(tokenizer, texts)
    assert tokenizer.encode(texts) == expected
    ids, lengths = tokenizer.encode_joined(texts)
    assert ids.tolist() == [x for one in expected for x in one]
    assert lengths.tolist() == list(map(len, expected))
    assert ids.dtype == np.uint16
    assert lengths.dtype == np.int64


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
def test_real_text_gets_the_ids_of_the_library(kind, shared_data):
    text = (shared_data / "wikitext" / "valid.txt").read_text(encoding="utf-8")
    lines = text.split("\n")
    if kind == "wordpiece":
        path = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
        tokenizer = WordPieceTokenizer.from_vocab(path, lowercase=True)
    else:
        tokenizer = train(kind, lines[:1_000], vocab_size=2_000, lowercase=False)
    found = tokenizer.encode(lines)
    assert sum(map(len, found)) > 200_000
    assert found == bare(tokenizer, lines)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_small_cache_does_not_change_what_comes_out(kind):
    """Every word is met, forgotten and met again."""
    large, small = train(kind), train(kind)
    small._cache = WordCache(small._encode_word, small.id_dtype, max_bytes=1_000)
    texts = list(sentences(300, seed=3)) * 2
    assert small.encode(texts) == large.encode(texts)
