"""Reads the fields of a SentencePiece model that this package needs.

SentencePiece's own Python code for its format does not load with an older protobuf
than it was made with, and other libraries (Apache Beam) need an older one. So the few
fields are described here, in a descriptor pool of their own.
Source: sentencepiece, src/sentencepiece_model.proto (field numbers and defaults).
"""

import functools
from typing import Any

from bert_jax.data.tokenizers.pieces import SPACE

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
_UNIGRAM, _BPE = 1, 2  # values of TrainerSpec.ModelType
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # values of Piece.Type


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


def splits_by_word(proto: Any) -> bool:
    """Whether the ids of every text are those of its words, joined.

    A word is what stands between two spaces. The answer is yes for every model that
    `train_sentencepiece` makes. It is yes only if nothing reaches over a space: neither the
    normalisation, nor a piece, nor the joining of neighbouring unknown characters. For a
    unigram model, SentencePiece compares sums in float32 over the whole text, so that in a
    long one rounding can decide between splits of a word that are nearly as likely.

    Args:
        proto: the model, from `parse_model`.
    """
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = {piece.type for piece in proto.pieces}
    ordinary = [piece.piece for piece in proto.pieces if piece.type == _NORMAL]
    return (
        trainer.model_type in (_UNIGRAM, _BPE)
        and not trainer.treat_whitespace_as_suffix
        # Every word begins like the first one, and nothing else is between words.
        and normalizer.add_dummy_prefix
        and normalizer.remove_extra_whitespaces
        and normalizer.escape_whitespaces
        # There is no user-defined symbol, which could hold a space.
        and kinds <= {_NORMAL, _UNKNOWN, _CONTROL}
        and not any(SPACE in piece[1:] for piece in ordinary)
        # Otherwise the space would be unknown and join unknown characters around it.
        and SPACE in ordinary
        and _rules_keep_to_words(normalizer)
    )


def rules_by_word(proto: Any) -> dict[str, Any]:
    """A model that splits by word (see there) as the rules of a tokenizer.json.

    They take text after the model's normalisation. No text is encoded to a special piece.
    In those of a BPE model, every byte of an unknown character is a piece of its own, with an
    id behind those of the model's pieces.

    Args:
        proto: the model, from `parse_model`.
    """
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always"}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**metaspace, "split": True},
        "post_processor": None,
        "decoder": None,
        "model": _unigram(proto) if is_unigram(proto) else _bpe(proto),
    }


def _unigram(proto: Any) -> dict[str, Any]:
    # A score of 0 leaves that of unknown characters as it is, which is the least score of
    # all pieces less 10.
    scores = [x.score if x.type == _NORMAL else 0.0 for x in proto.pieces]
    [unknown] = [i for i, piece in enumerate(proto.pieces) if piece.type == _UNKNOWN]
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": list(zip(_spellings(proto), scores, strict=True)),
        "byte_fallback": False,
    }


def _bpe(proto: Any) -> dict[str, Any]:
    # gigatoken, the library that is meant, knows no unknown piece.
    spellings = [*_spellings(proto), *[f"<0x{byte:02X}>" for byte in range(256)]]
    vocab = {spelling: index for index, spelling in enumerate(spellings)}
    ordinary = [piece for piece in proto.pieces if piece.type == _NORMAL]
    merges = [
        [piece.piece[:cut], piece.piece[cut:]]
        # SentencePiece joins first what has the highest score as a whole.
        for piece in sorted(ordinary, key=lambda piece: -piece.score)
        for cut in range(1, len(piece.piece))
        if piece.piece[:cut] in vocab and piece.piece[cut:] in vocab
    ]
    return {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": True}


def _spellings(proto: Any) -> list[str]:
    """The pieces; special ones with a space in front, which no word holds."""
    return [
        piece.piece if piece.type == _NORMAL else f" {piece.piece}"
        for piece in proto.pieces
    ]


def _rules_keep_to_words(normalizer: Any) -> bool:
    """Whether the rules are the library's own of `train_sentencepiece`.

    None of those reads a space together with something else, and `SPACE` in a text
    becomes a plain space.
    """
    import sentencepiece

    if normalizer.name not in ("nmt_nfkc", "nmt_nfkc_cf"):
        return False
    own = sentencepiece.SentencePieceNormalizer(rule_name=normalizer.name)
    spec = parse_model(own.serialized_model_proto()).normalizer_spec
    return bool(spec.precompiled_charsmap == normalizer.precompiled_charsmap)


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
