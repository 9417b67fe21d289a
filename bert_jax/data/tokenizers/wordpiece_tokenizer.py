"""BERT's own tokenizer over a given vocabulary (google-research/bert, tokenization.py)."""

import functools
import pathlib
import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.data.tokenizers.tokenizer import (
    SPECIAL_PIECES,
    Tokenizer,
    without_surrogates,
)
from bert_jax.data.tokenizers.word_cache import WordCache

# google-research/bert, tokenization.py; longer words are [UNK].
WORDPIECE_MAX_CHARS_PER_WORD = 200

# "word", "word," and "(word)" are three words that share one part.
_PARTS_KEPT = 1 << 17
_ASCII_PART = re.compile("[A-Za-z0-9]+|[^A-Za-z0-9]")


class WordPieceTokenizer(Tokenizer):
    """Words and punctuation, each cut into the longest pieces from the left.

    Text is cleaned of control characters, CJK characters and punctuation stand alone,
    and `lowercase` and `strip_accents` fold the rest.
    """

    kind = "wordpiece"
    model_file = "vocab.txt"

    def __init__(
        self, vocab: bytes, *, lowercase: bool, strip_accents: bool | None = None
    ) -> None:
        """Takes the content of a `vocab.txt`.

        Args:
            vocab: UTF-8, one piece a line, id = line number.
            lowercase: of the vocabulary; an uncased one needs true.
            strip_accents: follows `lowercase` by default, as in BERT.

        Raises:
            ValueError: a special token is missing, or a piece is double.
        """
        from tokenizers import Tokenizer as FastTokenizer
        from tokenizers import models

        pieces = vocab.decode("utf-8").replace("\r\n", "\n").rstrip("\n").split("\n")
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        super().__init__(
            # Rebuilt from the pieces, so that line endings do not change the hash.
            "".join(f"{piece}\n" for piece in pieces).encode(),
            pieces,
            lowercase=lowercase,
            normalization={
                "rules": "bert",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": self.strip_accents,
            },
            # BERT's rules look at one character at a time, and no word holds a space.
            splits_by_word=True,
        )
        ids = {piece: index for index, piece in enumerate(pieces)}
        if len(ids) < len(pieces):
            double = next(p for i, p in enumerate(pieces) if ids[p] != i)
            raise ValueError(
                f"The vocabulary of {len(pieces)} lines holds {double!r} twice; every "
                "piece needs one id. Remove the second line."
            )
        self._fast = FastTokenizer(
            models.WordPiece(
                ids,
                unk_token=SPECIAL_PIECES["unk"],
                max_input_chars_per_word=WORDPIECE_MAX_CHARS_PER_WORD,
            )
        )
        self._fast.normalizer, self._fast.pre_tokenizer = bert_rules(
            lowercase, strip_accents
        )
        self._cache = WordCache(self._encode_word, self.id_dtype)
        self._part = functools.lru_cache(_PARTS_KEPT)(self._encode_part)

    @classmethod
    def from_vocab(
        cls, path: pathlib.Path, *, lowercase: bool, strip_accents: bool | None = None
    ) -> "WordPieceTokenizer":
        """Reads a `vocab.txt`, for example the published one of BERT.

        Raises:
            ValueError: no such file, or as the constructor.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"vocab={path}: no such file; expected a vocab.txt.")
        return cls(path.read_bytes(), lowercase=lowercase, strip_accents=strip_accents)

    def to_json(self) -> str:
        """These rules as a tokenizer.json, without special tokens."""
        return self._fast.to_str()

    @staticmethod
    def _opens_word(piece: str) -> bool:
        return not piece.startswith("##")

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"strip_accents": self.strip_accents}

    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return self._cache.encode(texts)

    def _encode_word(self, word: str) -> bytes:
        if not (word.isascii() and word.isprintable()):
            word = without_surrogates(word)
            ids = self._fast.encode(word, add_special_tokens=False).ids
            return array(self.id_dtype.char, ids).tobytes()
        if word.isalnum():
            return self._part(word)
        # The other printable ASCII characters are punctuation: each a word of its own.
        return b"".join(map(self._part, _ASCII_PART.findall(word)))

    def _encode_part(self, part: str) -> bytes:
        # Of BERT's rules only case applies here, which spares the library's slow half.
        pieces = self._fast.model.tokenize(part.lower() if self.lowercase else part)
        return array(self.id_dtype.char, [piece.id for piece in pieces]).tobytes()

    def _join(self, ids: list[int]) -> str:
        return " ".join(self.pieces[index] for index in ids).replace(" ##", "")


def bert_rules(lowercase: bool, strip_accents: bool | None) -> tuple[Any, Any]:
    """BERT's normalizer and pre-tokenizer, of the `tokenizers` library."""
    from tokenizers import normalizers, pre_tokenizers

    if strip_accents == lowercase:
        strip_accents = None  # as in the files of published models
    normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents
    )
    return normalizer, pre_tokenizers.BertPreTokenizer()
