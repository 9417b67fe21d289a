"""Records have the bytes that TFDS would write."""

import numpy as np
import pytest
from tensorflow_datasets.core import example_serializer

from bert_jax.data.prepared.records import TokenizedDocument, features, serialize


@pytest.mark.parametrize("vocab_size", [100, 100_000])
@pytest.mark.parametrize("size", [0, 3, 58, 64, 8_190, 40_000])
def test_records_have_the_bytes_that_tfds_writes(vocab_size, size):
    dtype = np.uint16 if vocab_size < 2**16 else np.uint32
    tokens = (np.arange(size) % vocab_size).astype(dtype)
    document = TokenizedDocument("clé/1", tokens, np.array([size] * (size > 0), "u2"))
    spec = features(vocab_size)
    serializer = example_serializer.ExampleSerializer(spec.get_serialized_info())
    example = serializer.get_tf_example(spec.encode_example(document._asdict()))
    assert serialize(document) == example.SerializeToString(deterministic=True)
