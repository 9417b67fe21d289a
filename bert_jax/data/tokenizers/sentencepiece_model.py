"""Reads the fields of a SentencePiece model that this package needs.

SentencePiece's own Python code for its format does not load with an older protobuf
than it was made with, and other libraries (Apache Beam) need an older one. So the few
fields are described here, in a descriptor pool of their own.
Source: sentencepiece, src/sentencepiece_model.proto (field numbers and defaults).
"""

import functools
from typing import Any

# Message -> (field, number, type, default); a "*" before the type means "repeated".
_FIELDS: dict[str, tuple[tuple[str, int, str, str | None], ...]] = {
    "Piece": (
        ("piece", 1, "string", None),
        ("score", 2, "float", None),
        ("type", 3, "int32", "1"),
    ),
    "TrainerSpec": (
        ("model_type", 3, "int32", "1"),
        ("split_by_whitespace", 22, "bool", "true"),
        ("treat_whitespace_as_suffix", 24, "bool", "false"),
        ("byte_fallback", 35, "bool", "false"),
    ),
    "NormalizerSpec": (
        ("name", 1, "string", None),
        ("precompiled_charsmap", 2, "bytes", None),
        ("add_dummy_prefix", 3, "bool", "true"),
        ("remove_extra_whitespaces", 4, "bool", "true"),
        ("escape_whitespaces", 5, "bool", "true"),
    ),
    "Model": (
        ("pieces", 1, "*Piece", None),
        ("trainer_spec", 2, "TrainerSpec", None),
        ("normalizer_spec", 3, "NormalizerSpec", None),
    ),
}
_UNIGRAM = 1  # value of TrainerSpec.ModelType


def parse_model(model: bytes) -> Any:
    """Parses the content of a `.model` file; other fields than the ones above are kept.

    Raises:
        ValueError: the bytes are not a SentencePiece model.
    """
    from google.protobuf.message import DecodeError

    try:
        return _message_class().FromString(model)
    except DecodeError as error:
        raise ValueError(
            f"These {len(model)} bytes are not a SentencePiece model: {error}."
        ) from error


def is_unigram(proto: Any) -> bool:
    """Whether a parsed model is a unigram model."""
    return bool(proto.trainer_spec.model_type == _UNIGRAM)


@functools.cache
def _message_class() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="bert_jax/sentencepiece_model.proto", package="bert_jax", syntax="proto2"
    )
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind, default in fields:
            plain = kind.removeprefix("*")
            repeated = plain != kind
            field = described.field.add(
                name=name,
                number=number,
                label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
            )
            if plain in _FIELDS:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".bert_jax.{plain}"
            else:
                field.type = getattr(kinds, f"TYPE_{plain.upper()}")
            if default is not None:
                field.default_value = default
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("bert_jax.Model"))
