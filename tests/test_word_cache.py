"""Words are remembered in bounded memory."""

import collections
import concurrent.futures
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_texts import sentences, train

from bert_jax.data.tokenizers.word_cache import WordCache

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


def test_a_small_cache_does_not_change_what_comes_out():
    """Every word is met, forgotten and met again."""
    large, small = train("bpe"), train("bpe")
    small._cache = WordCache(small._encode_word, small.id_dtype, max_bytes=1_000)
    texts = list(sentences(300, seed=3)) * 2
    assert small.encode(texts) == large.encode(texts)
