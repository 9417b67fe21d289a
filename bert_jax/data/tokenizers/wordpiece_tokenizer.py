"""BERT's own tokenizer over a given vocabulary (google-research/bert)."""

import json
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import Any

from bert_jax.data.tokenizers.fast_encoding import (
    Encoder,
    Joined,
    encode_each,
    fast_encoder,
)
from bert_jax.data.tokenizers.pieces import CONTINUES
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES, Tokenizer
from bert_jax.data.uncommon_characters import uncommon_characters

# A longer word is [UNK] (google-research/bert, tokenization.py).
WORDPIECE_MAX_CHARS_PER_WORD = 200

# Patterns of the `tokenizers` library, see `bert_rules`.
_REMOVED = r"[[\x{0}\x{FFFD}\p{Cc}\p{Cf}]&&[^\t\n\r]]"
_IDEOGRAPH = r"[\x{2B820}-\x{2B91F}]"
# The same for Python, whose patterns know no categories; and half characters, which become
# U+FFFD.
_REMOVED_BY_PYTHON = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"
    "\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ufffd"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0001\U000e0020-\U000e007f\ud800-\udfff]"
)
_IDEOGRAPH_BY_PYTHON = re.compile("[\U0002b820-\U0002b91f]")


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
            text = vocab.decode("utf-8-sig")
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
            library="tokenizers",
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

    def normalize(self, text: str) -> str:
        return str(self._fast.normalizer.normalize_str(text))

    def _opens_word(self, piece: str) -> bool:
        return not piece.startswith(CONTINUES)

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"strip_accents": self.strip_accents}

    def _encode(self, texts: Sequence[str]) -> Joined:
        return encode_each(self._fast, texts, self.id_dtype)

    def _load_fast(self) -> Encoder | None:
        rules = json.loads(self._fast.to_str())
        # nanotoken has no rule that replaces characters; `_as_bert_has_it` does it.
        rules["normalizer"] = rules["normalizer"]["normalizers"][-1]
        fast = fast_encoder(rules)
        if fast is None:
            return None

        def encode(texts: Sequence[str], uncommon: Collection[str] | None) -> Joined:
            return fast.encode(_as_bert_has_it(texts, uncommon), None)

        return fast._replace(encode=encode)

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
            # An empty match at the beginning of a text would make the library panic.
            normalizers.Replace(
                Regex(rf"(?!\A)(?={_IDEOGRAPH})|(?<={_IDEOGRAPH})"), " "
            ),
            normalizers.BertNormalizer(
                clean_text=False, lowercase=lowercase, strip_accents=strip_accents
            ),
        ]
    )
    return normalizer, pre_tokenizers.BertPreTokenizer()


def _as_bert_has_it(
    texts: Sequence[str], uncommon: Collection[str] | None
) -> Sequence[str]:
    """Texts after those of BERT's rules that replace or remove characters."""
    if uncommon is None:
        utf8 = "\n".join(texts).encode("utf-8", "surrogatepass")
        uncommon = uncommon_characters(utf8)
    # Only these few characters are searched.
    other = "".join(uncommon)
    for removed in set(_REMOVED_BY_PYTHON.findall(other)):
        texts = [text.replace(removed, "") for text in texts]
    if _IDEOGRAPH_BY_PYTHON.search(other):
        texts = [_IDEOGRAPH_BY_PYTHON.sub(r" \g<0> ", text) for text in texts]
    return texts
