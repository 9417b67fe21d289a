"""One record of a prepared dataset: a tokenised document and its sentence lengths."""

from collections.abc import Callable
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
    tokenizer: Tokenizer, document: Document, language: str
) -> TokenizedDocument:
    """Encodes a document sentence by sentence; one without any token gives empty arrays."""
    tokens, lengths = tokenizer.encode_sentences(sentences(document.text, language))
    lengths = lengths[lengths > 0]
    if lengths.max(initial=0) > MAX_SENTENCE_TOKENS:
        lengths = np.concatenate([_cut(int(length)) for length in lengths])
    return TokenizedDocument(document.key, tokens, lengths.astype(np.uint16))


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


def record_serializer(vocab_size: int) -> Callable[[TokenizedDocument], bytes]:
    """A function from a document to the bytes of its record, equal in every process."""
    from tensorflow_datasets.core import example_serializer

    spec = features(vocab_size)
    serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())

    def serialize(document: TokenizedDocument) -> bytes:
        example = serializer.get_tf_example(spec.encode_example(document._asdict()))
        # Without this, protobuf orders the features differently in every process.
        return example.SerializeToString(deterministic=True)

    return serialize


def in_one_order(record: bytes) -> bytes:
    """The bytes that `record_serializer` would have written for a serialised record."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)
    return example.SerializeToString(deterministic=True)
