"""Ids are those of the libraries that define them, whichever library encodes."""

import unicodedata

import huggingface_tokenizers
import numpy as np
import pytest
import tokie  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_texts import awkward_texts, sentences, train

from bert_jax.data.tokenizers import fast_encoding
from bert_jax.data.tokenizers.fast_encoding import (
    CHECK_TEXTS,
    CheckedEncoder,
    Encoder,
    fast_encoder,
)
from bert_jax.data.tokenizers.fast_normalization import (
    without_surrogates,
)
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer


def bare(tokenizer, texts):
    """Ids of each whole text, from the library itself."""
    texts = [without_surrogates(text) for text in texts]
    if not isinstance(tokenizer, SentencePieceTokenizer):
        found = tokenizer._fast.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]
    found = tokenizer._processor.encode(texts, num_threads=1)
    if tokenizer._interchangeable is None:
        return found
    found = [np.array(ids, np.int32) for ids in found]
    for ids in found:
        tokenizer._interchangeable.sort_runs(ids, np.array([ids.size]))
    return [ids.tolist() for ids in found]


# Kind -> the library that encodes; gigatoken is the extra `fast`.
KINDS = {
    "unigram cased": "tokie",
    "unigram": "tokie",
    "bpe cased": "gigatoken",
    "bpe": "gigatoken",
    "xlm-roberta": "tokie",
    "byte-bpe": "gigatoken",
    "byte-bpe cased": "gigatoken",
    "roberta": "gigatoken",
    "modernbert": "gigatoken",
    "wordpiece": "nanotoken",
    "wordpiece cased accents": "nanotoken",
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    pytest.importorskip(KINDS[request.param])
    kind, *rules = request.param.split()
    texts = [*sentences(), *["é à ö 가 日本 1000 (stone), \u0301 e\u0301 \u2017"] * 9]
    size = {"wordpiece": 125, "unigram": 75, "bpe": 75, "xlm-roberta": 75}.get(
        kind, 360
    )
    if kind in huggingface_tokenizers.FORMATS:
        if kind == "xlm-roberta":
            pytest.importorskip("transformers")
        folder = tmp_path_factory.mktemp(kind)
        huggingface_tokenizers.save_tokenizer(kind, texts, folder, size)
        found = HuggingFaceTokenizer.read(folder / "tokenizer.json")
    else:
        options = {"strip_accents": False} if "accents" in rules else {}
        lowercase = "cased" not in rules
        found = train(kind, texts, vocab_size=size, lowercase=lowercase, **options)
    assert found.encoder.library.startswith(KINDS[request.param])
    return found


@given(texts=st.lists(awkward_texts, max_size=5))
@settings(derandomize=True, max_examples=30)
def test_awkward_texts_get_the_ids_of_the_library(tokenizer, texts):
    expected = bare(tokenizer, texts)
    assert tokenizer.encode(texts) == expected
    ids, lengths = tokenizer.encode_joined(texts)
    assert ids.tolist() == [x for one in expected for x in one]
    assert lengths.tolist() == list(map(len, expected))
    assert ids.dtype == np.uint16
    assert lengths.dtype == np.int64


def test_letters_newer_than_the_tables_of_unicode_divide_as_by_the_library():
    pytest.importorskip("gigatoken")
    # The letter came with Unicode 17, so that libraries with older tables split before it.
    texts = ["ab\ua7d4ab \U00032975\U00032975 .\ua7d4.", "plain words"] * 9
    tokenizer = train("byte-bpe", texts, vocab_size=275, lowercase=False)
    assert tokenizer.encode(texts) == bare(tokenizer, texts)
    assert tokenizer.encoder.check(texts) is None
    assert tokenizer.encoder.is_fast


@pytest.mark.parametrize("kind", ["unigram", "bpe", "byte-bpe", "wordpiece"])
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


def marked_code_points():
    """Code points that BERT's rules can treat in ways of their own, and some others."""
    for code in range(0xE0200):
        kind = unicodedata.category(chr(code))
        if kind in ("Cc", "Cf", "Mn", "Zs") or code < 0x180 or code % 509 == 0:
            yield code
    yield from range(0x2B810, 0x2B930, 15)


@pytest.mark.parametrize("lowercase", [True, False])
def test_characters_are_removed_and_divided_as_by_the_library(lowercase):
    tokenizer = train("wordpiece", lowercase=lowercase)
    texts = [f"a{chr(code)}b {chr(code)}" for code in marked_code_points()]
    assert tokenizer.encoder.check(texts) is None
    assert tokenizer.encoder.library.startswith("nanotoken")


def lengths_of(texts, _):
    return np.array([len(text) for text in texts]), np.ones(len(texts), np.int64)


def wrong_for_a_word(texts, _):
    ids, lengths = lengths_of(texts, _)
    return ids + np.array(["odd" in text for text in texts]), lengths


def test_a_difference_in_the_source_ends_the_use_of_a_fast_library():
    fast = Encoder("young 0.1", wrong_for_a_word)
    encoder = CheckedEncoder(Encoder("old 9", lengths_of), lambda: fast)
    assert encoder.check(["even", "all"]) is None
    assert encoder.library == "young 0.1"
    assert encoder.check(["even", "an odd one", "all"]) == "an odd one"
    assert encoder.library == "old 9"
    assert encoder.encode(["an odd one"])[0] == [10]


def test_a_difference_in_texts_of_our_own_keeps_a_fast_library_away(monkeypatch):
    monkeypatch.setattr(fast_encoding, "CHECK_TEXTS", (*CHECK_TEXTS, "odd"))
    fast = Encoder("young 0.1", wrong_for_a_word)
    encoder = CheckedEncoder(Encoder("old 9", lengths_of), lambda: fast)
    assert encoder.library == "old 9"


@pytest.mark.parametrize("model", ["Unigram", "WordPiece", "BPE", None])
def test_rules_that_no_fast_library_reads_are_left_to_the_defining_one(model):
    assert fast_encoder({"model": {"type": model, "vocab": 3}}) is None


@pytest.mark.parametrize("kind", ["bpe", "byte-bpe"])
def test_a_text_may_hold_what_stands_between_texts(kind):
    pytest.importorskip("gigatoken")
    tokenizer = train(kind, lowercase=False)
    texts = ["river", "\uffff", "", "a\uffff\uffffstone", ""]
    for some in (texts, texts[:1], texts[1:2], ["", ""], [""], []):
        assert tokenizer.encode(some) == bare(tokenizer, some)
    assert tokenizer.encoder.library.startswith("gigatoken")


@pytest.mark.parametrize("alphabet", ["a", "ab", "abcd"])
def test_joins_of_bpe_have_the_order_of_the_library(alphabet):
    """Pieces such as "aba" have two splits, and places of text offer both."""
    pytest.importorskip("gigatoken")
    rng = np.random.default_rng(len(alphabet))

    def texts(count):
        for _ in range(count):
            letters = rng.choice([*alphabet, *alphabet, " "], 90)
            yield "".join(letters).strip()

    size = 18 if alphabet == "a" else 100
    tokenizer = train("bpe", texts(300), vocab_size=size)
    found = [*texts(1_000)]
    assert tokenizer.encode(found) == bare(tokenizer, found)
    assert tokenizer.encoder.library.startswith("gigatoken")


@pytest.mark.parametrize("kind", ["unigram", "byte-bpe"])
def test_words_are_forgotten_after_so_many_characters(kind, monkeypatch):
    gigatoken = pytest.importorskip("gigatoken")
    library, name = (
        (tokie.Tokenizer, "from_json")
        if kind == "unigram"
        else (gigatoken.gigatoken_rs, "load_hf_json")
    )
    load, loaded, tokenizer = getattr(library, name), [], train(kind)
    monkeypatch.setattr(library, name, lambda x: loaded.append(x) or load(x))
    monkeypatch.setattr(fast_encoding, "_MOST_REMEMBERED_CHARACTERS", 9_000)
    monkeypatch.setattr(fast_encoding, "CHECK_TEXTS", ())
    assert tokenizer.encoder.is_fast
    loaded.clear()
    texts = ["river stone " * 400]
    assert [tokenizer.encode(texts) for _ in range(5)] == [bare(tokenizer, texts)] * 5
    # 4,800 characters a call: before calls 3 and 5.
    assert len(loaded) == 2
