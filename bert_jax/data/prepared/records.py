"""One record of a prepared dataset: a tokenised document and its sentence lengths."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.text.reading import Document
from bert_jax.data.text.sentences import sentences
from bert_jax.data.tokenizers.tokenizer import Tokenizer, token_dtype

# The length of a sentence is stored in 16 bits; a longer sentence is cut into several.
MAX_SENTENCE_TOKENS = 65_535


class TokenizedDocument(NamedTuple):
    """A document as it is stored."""

    key: str
    tokens: np.ndarray  # uint16 or uint32 [tokens]
    sentence_lengths: np.ndarray  # uint16 [sentences], each at least 1


def tokenize(
    tokenizer: Tokenizer, documents: Sequence[Document], language: str
) -> list[TokenizedDocument]:
    """Encodes documents sentence by sentence; one without any token gives empty arrays."""
    cut = [sentences(document, language) for document in documents]
    return encode_sentences(tokenizer, documents, cut)


def encode_sentences(
    tokenizer: Tokenizer, documents: Sequence[Document], cut: Sequence[Sequence[str]]
) -> list[TokenizedDocument]:
    """Encodes documents of which the sentences are known."""
    uncommon = frozenset().union(*(document.uncommon for document in documents))
    encoded = tokenizer.encode_documents(cut, uncommon)
    # Looked at for all documents at once, which takes as long as for one.
    num_tokens = np.concatenate([np.ones(1, np.int64), *(x for _, x in encoded)])
    if num_tokens.min() == 0 or num_tokens.max() > MAX_SENTENCE_TOKENS:
        encoded = [(tokens, _storable(lengths)) for tokens, lengths in encoded]
    return [
        TokenizedDocument(document.key, tokens, lengths.astype(np.uint16))
        for document, (tokens, lengths) in zip(documents, encoded, strict=True)
    ]


def _storable(lengths: np.ndarray) -> np.ndarray:
    """The lengths that are not 0; one that 16 bits cannot hold becomes several."""
    lengths = lengths[lengths > 0]
    if lengths.max(initial=0) > MAX_SENTENCE_TOKENS:
        lengths = np.concatenate([_cut(int(length)) for length in lengths])
    return lengths


def _cut(length: int) -> np.ndarray:
    whole, rest = divmod(length, MAX_SENTENCE_TOKENS)
    return np.array([MAX_SENTENCE_TOKENS] * whole + [rest] * (rest > 0), np.int64)


def features(vocab_size: int) -> Any:
    """The TFDS features of one record."""
    import tensorflow_datasets as tfds

    # Raw bytes take 2 bytes per token here; TFDS's default encoding takes up to 3.
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "tokens": tfds.features.Tensor(
                shape=(None,), dtype=token_dtype(vocab_size), encoding="bytes"
            ),
            "sentence_lengths": tfds.features.Tensor(
                shape=(None,), dtype=np.uint16, encoding="bytes"
            ),
        }
    )


def serialize(document: TokenizedDocument) -> bytes:
    """The bytes of a document's record, equal in every process.

    They are those that TFDS writes for `features`, which takes ten times as long, and its
    import as long as 10 MB of text.
    Source: protobuf.dev, Encoding; tensorflow, core/example/example.proto.
    """
    # Protobuf leaves the order of a map open, but has the keys of this one sorted.
    features = b"".join(
        [
            _entry(b"\n\x03key", document.key.encode()),
            _entry(b"\n\x10sentence_lengths", document.sentence_lengths.tobytes()),
            _entry(b"\n\x06tokens", document.tokens.tobytes()),
        ]
    )
    return _head(1, len(features)) + features


def _entry(name: bytes, value: bytes) -> bytes:
    """A feature of bytes in the map of features, which has its name as a field already."""
    head = _head(1, len(value))
    head = _head(1, len(head) + len(value)) + head
    head = name + _head(2, len(head) + len(value)) + head
    return _head(1, len(head) + len(value)) + head + value


# Most lengths come again and again.
@functools.lru_cache(maxsize=1 << 12)
def _head(number: int, length: int) -> bytes:
    """How a field of a message in protobuf's format begins: its number and length."""
    digits = [number << 3 | 2]
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    return bytes([*digits, length])


def in_one_order(record: bytes) -> bytes:
    """The bytes that `serialize` would have written for a serialised record."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)
    return example.SerializeToString(deterministic=True)
