"""One record of a prepared dataset: a tokenised document with its sentence bounds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.text.reading import Document
from bert_jax.data.text.sentences import sentences
from bert_jax.data.tokenizers.tokenizer import Tokenizer, token_dtype

SPLITS = ("train", "validation")
DATASET_NAME = "documents"
# A sentence's length is stored in 16 bits; longer ones are cut into several.
MAX_SENTENCE_TOKENS = 65_535


class TokenizedDocument(NamedTuple):
    key: str
    tokens: np.ndarray  # uint16 or uint32 [tokens]
    sentence_lengths: np.ndarray  # uint16 [sentences], none 0


def tokenize(
    tokenizer: Tokenizer, document: Document, language: str
) -> TokenizedDocument:
    """Ids of a document and the lengths of its sentences, both possibly empty."""
    tokens, lengths = tokenizer.encode_joined(sentences(document.text, language))
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

    # Raw bytes: two a token, where the default encoding spends up to three.
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
    """What turns a document into the bytes of its record, the same in every process."""
    from tensorflow_datasets.core import example_serializer

    spec = features(vocab_size)
    serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())

    def serialize(document: TokenizedDocument) -> bytes:
        example = serializer.get_tf_example(spec.encode_example(document._asdict()))
        # Or protobuf would order the features anew in every process.
        return example.SerializeToString(deterministic=True)

    return serialize


def in_one_order(record: bytes) -> bytes:
    """A serialised record as `record_serializer` would have written it."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)
    return example.SerializeToString(deterministic=True)
