"""A small prepared dataset of text that is on every machine: documentation of packages."""

import pathlib

from bert_jax.data.prepared.dataset import PreparedDataset, open_dataset
from bert_jax.data.prepared.prepare import prepare
from bert_jax.data.text.docs import write_docs_corpus
from bert_jax.data.tokenizers.tokenizer_training import wrap_vocab
from bert_jax.data.tokenizers.vocabulary import train_sentencepiece

PACKAGES = ("python", "numpy")
_SHARED_VOCAB = (
    pathlib.Path(__file__).resolve().parents[2]
    / "shared/data/vocab/bert-base-uncased-vocab.txt"
)
# Where that is not there: as many pieces as the text gives.
_VOCAB_SIZE = 8_000


def small_dataset(folder: pathlib.Path) -> PreparedDataset:
    """Makes it, or takes the one that an earlier section has made.

    Raises:
        ImportError: a library that datasets need is not installed.
    """
    output = folder / "dataset"
    try:
        return open_dataset(output)
    except FileNotFoundError:
        pass
    corpus, tokenizer = folder / "corpus", folder / "tokenizer"
    write_docs_corpus(corpus, packages=PACKAGES)
    if _SHARED_VOCAB.exists():
        wrap_vocab(_SHARED_VOCAB, tokenizer, lowercase=True)
    else:
        lines = (
            line
            for path in sorted(corpus.glob("documents-*.jsonl"))
            for line in path.read_text(encoding="utf-8").splitlines()
        )
        train_sentencepiece(lines, vocab_size=_VOCAB_SIZE, lowercase=True).save(
            tokenizer
        )
    prepare(f"files:{corpus}/documents-*.jsonl", tokenizer, output)
    return open_dataset(output)
