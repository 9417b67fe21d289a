"""A preparation compares a fast library with the defining one, and says which it used."""

import pytest
from prepared_corpus import contents, make_corpus, prepared

from bert_jax.config import PrepareOptions
from bert_jax.data.prepared.encoding_check import read_sample
from bert_jax.data.prepared.summary import describe
from bert_jax.data.text.sources import open_source
from bert_jax.data.tokenizers import wordpiece_tokenizer
from bert_jax.data.tokenizers.fast_encoding import fast_encoder
from bert_jax.data.tokenizers.vocabulary import train_wordpiece


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    source, records, _ = make_corpus(folder)
    texts = [record["text"] for record in records]
    tokenizer = train_wordpiece(texts, vocab_size=90, lowercase=True)
    tokenizer.save(folder / "wordpiece")
    return source, records, folder / "wordpiece"


def wrong_in_this_corpus(rules):
    """nanotoken, which gives other ids for a word of the corpus."""
    fast = fast_encoder(rules)

    def encode(texts, uncommon):
        ids, lengths = fast.encode(texts, uncommon)
        return ids + any("illage" in text for text in texts), lengths

    return fast._replace(encode=encode)


def test_a_difference_falls_back_to_the_defining_library(corpus, tmp_path, monkeypatch):
    fast = prepared(corpus, tmp_path / "fast")
    assert fast["encoding"]["library"].startswith("nanotoken ")
    assert fast["encoding"]["checked_characters"] > 1_000
    [line] = [line for line in describe(fast) if line.startswith("encoded by")]
    assert "of this source" in line
    monkeypatch.setattr(wordpiece_tokenizer, "fast_encoder", wrong_in_this_corpus)
    slow = prepared(corpus, tmp_path / "slow")
    assert slow["encoding"]["library"].startswith("tokenizers ")
    assert slow["encoding"]["refused"].startswith("nanotoken ")
    assert "because other ids came from nanotoken" in "\n".join(describe(slow))
    files, others = contents(tmp_path / "fast"), contents(tmp_path / "slow")
    for name in ("manifest.json", "README.md"):  # they say which library it was
        assert files.pop(name) != others.pop(name)
    assert files == others


def test_of_many_small_files_more_than_a_few_are_compared(tmp_path):
    lengths = [4, 40_000, 4, 30_000, 4] * 4
    for number, length in enumerate(lengths):
        (tmp_path / f"{number:02d}.txt").write_text(
            f"{number:02d} {'x' * (length - 3)}"
        )
    sections = open_source(f"files:{tmp_path}/*.txt").sections
    chosen = [int(sentence[:2]) for sentence in read_sample(sections, PrepareOptions())]
    # Every fifth file, then their neighbours, until four times 32,768 characters are there.
    assert chosen == [0, 5, 10, 15, 1, 6, 11, 16]
