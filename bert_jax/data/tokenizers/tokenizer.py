"""From text to token ids and back: what SentencePiece and WordPiece have in common.

Both kinds have the special tokens [PAD] [UNK] [CLS] [SEP] [MASK], and know which pieces
start a word. No text is encoded to a special token other than [UNK]; the code that
builds rows adds special tokens by their ids.
"""

import abc
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bert_jax.batch import MaskVocabulary, SpecialIds

FORMAT_VERSION = 2
METADATA_FILE = "bert_jax_tokenizer.json"
SPECIAL_PIECES = {name: f"[{name.upper()}]" for name in SpecialIds.__annotations__}

_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(abc.ABC):
    """One trained vocabulary and the rules that apply it.

    Decoding gives the text that was encoded, except that normalisation may have changed
    case, accents and widths, white space is one space, what the vocabulary cannot spell
    is [UNK], and WordPiece puts spaces around punctuation.

    Attributes:
        kind: "sentencepiece" or "wordpiece".
        lowercase: whether text is put in lower case before it is split.
        normalization: the rules applied to text before it is split: their name
            ("rules") and their settings.
        pieces: all pieces by id, V strings.
        vocab_size: V, number of pieces.
        id_dtype: type that holds every id: uint16, or uint32 if V is over 65,536.
        special: ids of the five special tokens.
        starts_word: bool [V], whether a piece starts a word; false for special tokens.
        mask_vocabulary: the vocabulary as masking needs it. There, [UNK] of WordPiece
            starts a word; [UNK] of SentencePiece can stand within one and does not.
        splits_by_word: whether the ids of a text are the joined ids of its words (the
            texts between ASCII spaces). If so, the ids of a word are looked up in a
            cache. A unigram model compares sums over the whole text, whose rounding can
            reach over words, so it has false.
        sha256: hash of everything that decides ids.
    """

    kind: str
    model_file: str

    def __init__(
        self,
        model: bytes,
        pieces: list[str],
        *,
        lowercase: bool,
        normalization: dict[str, Any],
        splits_by_word: bool,
    ) -> None:
        self.pieces = pieces
        self.vocab_size = len(pieces)
        self.id_dtype = np.dtype(token_dtype(self.vocab_size))
        self.lowercase = lowercase
        self.normalization = normalization
        self._model = model
        self.special = _find_special(pieces)
        self._special_ids = frozenset(dataclasses.astuple(self.special))
        self.starts_word = np.array([self._opens_word(piece) for piece in pieces])
        self.starts_word[list(self._special_ids)] = False
        starts_word = self.starts_word.copy()
        starts_word[self.special.unk] = self._opens_word(SPECIAL_PIECES["unk"])
        self.mask_vocabulary = MaskVocabulary(
            self.special, self.vocab_size, starts_word
        )
        self.splits_by_word = splits_by_word
        rules = json.dumps([FORMAT_VERSION, self.kind, lowercase, normalization])
        self.sha256 = hashlib.sha256(rules.encode() + b"\n" + model).hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process builds its own tokenizer from the model; caches are not sent.
        return functools.partial(type(self), **self._options()), (self._model,)

    @staticmethod
    @abc.abstractmethod
    def _opens_word(piece: str) -> bool: ...

    @abc.abstractmethod
    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Does what `encode_joined` says."""

    @abc.abstractmethod
    def _join(self, ids: list[int]) -> str:
        """The text of one or more pieces, none of them special."""

    def _options(self) -> dict[str, Any]:
        """The arguments of the constructor besides the model."""
        return {"lowercase": self.lowercase}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens around them.

        No special id but [UNK] can appear, whatever the text spells. Lone surrogates,
        which are not characters, count as U+FFFD.

        Raises:
            ValueError: `texts` is one string instead of a sequence of them.
        """
        joined, lengths = self.encode_joined(texts)
        ids, ends = joined.tolist(), np.cumsum(lengths).tolist()
        starts = [0, *ends[:-1]]
        return [ids[start:end] for start, end in zip(starts, ends, strict=False)]

    def encode_joined(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts in one array, one text behind the other; fast.

        Returns:
            ids: `id_dtype` [tokens]; the array may be read-only.
            lengths: int64 [texts], number of ids of each text; it can be 0.

        Raises:
            ValueError: `texts` is one string instead of a sequence of them.
        """
        if isinstance(texts, str):
            raise ValueError(
                f"The tokenizer got one string ({texts[:40]!r}); it takes a sequence of "
                "texts. Wrap it: encode([text])."
            )
        return self._encode(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text; special tokens, also [UNK], are written as their pieces.

        Raises:
            ValueError: an id is outside [0, vocab_size).
        """
        parts = []
        known = [int(index) for index in ids]
        for index in known:
            if not 0 <= index < self.vocab_size:
                raise ValueError(
                    f"Token id {index} is outside [0, {self.vocab_size}); was this "
                    "text encoded with another tokenizer?"
                )
        for special, run in itertools.groupby(known, self._special_ids.__contains__):
            if special:
                parts += [self.pieces[index] for index in run]
            else:
                parts.append(self._join(list(run)))
        return " ".join(parts)

    def save(self, directory: pathlib.Path) -> None:
        """Writes the files that `load_tokenizer` reads; other files there are kept."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / self.model_file).write_bytes(self._model)
        metadata = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "lowercase": self.lowercase,
            "normalization": self.normalization,
            "vocab_size": self.vocab_size,
            "sha256": self.sha256,
            "special": dataclasses.asdict(self.special),
        }
        text = json.dumps(metadata, indent=2) + "\n"
        (directory / METADATA_FILE).write_text(text, encoding="utf-8")


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The type of ids: uint16 if it holds all of them, else uint32."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for lone surrogates, which are not characters."""
    # `isascii` reads a stored flag, so ordinary text is not searched.
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _find_special(pieces: list[str]) -> SpecialIds:
    if missing := set(SPECIAL_PIECES.values()).difference(pieces):
        raise ValueError(
            f"The vocabulary of {len(pieces)} pieces lacks {sorted(missing)}; BERT "
            f"needs all of {list(SPECIAL_PIECES.values())}."
        )
    ids = {piece: index for index, piece in enumerate(pieces)}
    return SpecialIds(**{name: ids[piece] for name, piece in SPECIAL_PIECES.items()})
