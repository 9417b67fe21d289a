"""BERT's own tokenizer over a given vocabulary (google-research/bert)."""

import functools
import pathlib
import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.data.tokenizers.pieces import CONTINUES
from bert_jax.data.tokenizers.tokenizer import (
    SPECIAL_PIECES,
    Tokenizer,
    without_surrogates,
)
from bert_jax.data.tokenizers.word_cache import WordCache

# A longer word is [UNK] (google-research/bert, tokenization.py).
WORDPIECE_MAX_CHARS_PER_WORD = 200

# "word", "word," and "(word)" are three words for the cache, but share "word".
_CACHED_ASCII_WORDS = 1 << 17
_ASCII_WORD = re.compile("[A-Za-z0-9]+|[^A-Za-z0-9]")

# Patterns of the `tokenizers` library, see `bert_rules`.
_REMOVED = r"[[\x{0}\x{FFFD}\p{Cc}\p{Cf}]&&[^\t\n\r]]"
_IDEOGRAPH = r"[\x{2B820}-\x{2B91F}]"


class WordPieceTokenizer(Tokenizer):
    """Cuts words and punctuation into the longest possible pieces from the left.

    Control characters are removed, CJK characters and punctuation become words of their
    own, and `lowercase` and `strip_accents` decide about the rest.
    """

    kind = "wordpiece"
    model_file = "vocab.txt"

    def __init__(
        self, vocab: bytes, *, lowercase: bool, strip_accents: bool | None = None
    ) -> None:
        """Takes the content of a `vocab.txt`.

        Args:
            vocab: UTF-8 text with one piece per line; its id is the line's number. If
                a piece stands on several lines, text gets the id of the last one, as in
                google-research/bert and transformers.
            lowercase: whether text is put in lower case; true for an uncased
                vocabulary.
            strip_accents: whether accents are removed; `None` does what `lowercase`
                says, as in BERT.

        Raises:
            ValueError: a special token is missing, or this is no UTF-8 text.
        """
        from tokenizers import Tokenizer as FastTokenizer
        from tokenizers import models

        try:
            text = vocab.decode("utf-8")
        except UnicodeDecodeError as error:
            line = vocab.count(b"\n", 0, error.start) + 1
            raise ValueError(
                f"The vocabulary is no UTF-8 text: byte 0x{vocab[error.start]:02x} on "
                f"line {line}. Save it as UTF-8, or fetch it again."
            ) from error
        pieces = text.replace("\r\n", "\n").rstrip("\n").split("\n")
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        super().__init__(
            # Built from the pieces again, so that line ends do not change the hash.
            "".join(f"{piece}\n" for piece in pieces).encode(),
            pieces,
            lowercase=lowercase,
            normalization={
                "rules": "bert",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": self.strip_accents,
            },
            # BERT's rules look at one character at a time, and no piece holds a space.
            splits_by_word=True,
        )
        ids = {piece: index for index, piece in enumerate(pieces)}
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
        self._ascii_word = functools.lru_cache(_CACHED_ASCII_WORDS)(
            self._encode_ascii_word
        )

    @classmethod
    def from_vocab(
        cls, path: pathlib.Path, *, lowercase: bool, strip_accents: bool | None = None
    ) -> "WordPieceTokenizer":
        """Reads a `vocab.txt`, for example a published one of BERT.

        Raises:
            ValueError: there is no such file, or the constructor raised it.
        """
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"vocab={path}: no such file; expected a vocab.txt.")
        return cls(path.read_bytes(), lowercase=lowercase, strip_accents=strip_accents)

    def to_json(self) -> str:
        """Vocabulary and rules as a tokenizer.json, without special tokens."""
        return self._fast.to_str()

    def _opens_word(self, piece: str) -> bool:
        return not piece.startswith(CONTINUES)

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
            return self._ascii_word(word)
        # Every other printable ASCII character is punctuation and a word of its own.
        return b"".join(map(self._ascii_word, _ASCII_WORD.findall(word)))

    def _encode_ascii_word(self, word: str) -> bytes:
        # For ASCII letters and digits, BERT's rules only change case, so the slow
        # normalisation of the library is not needed.
        pieces = self._fast.model.tokenize(word.lower() if self.lowercase else word)
        return array(self.id_dtype.char, [piece.id for piece in pieces]).tobytes()

    def _join(self, ids: list[int]) -> str:
        return " ".join(self.pieces[index] for index in ids).replace(" ##", "")


def bert_rules(lowercase: bool, strip_accents: bool | None) -> tuple[Any, Any]:
    """BERT's normaliser and pre-tokeniser, made of the `tokenizers` library's.

    That library's `BertNormalizer` differs from google-research/bert (tokenization.py)
    in two points, which are put right here: it removes characters for private use as if
    they were control characters, so that "a\uf059b" would become the word "ab", and it
    does not make words of the ideographs U+2B820 to U+2B91F. Which characters are marks
    or punctuation follows that library's tables (about Unicode 8), whatever Python's.
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    if strip_accents == lowercase:
        strip_accents = None  # The files of published models have it so.
    normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_REMOVED), ""),
            normalizers.Replace(Regex(rf"(?={_IDEOGRAPH})|(?<={_IDEOGRAPH})"), " "),
            normalizers.BertNormalizer(
                clean_text=False, lowercase=lowercase, strip_accents=strip_accents
            ),
        ]
    )
    return normalizer, pre_tokenizers.BertPreTokenizer()
