"""A tokenizer.json of Hugging Face, kept as it is and run by the library `tokenizers`.

So byte-level BPE (RoBERTa, ModernBERT) and SentencePiece models that were converted
(XLM-R, CamemBERT) give the ids that they give there. Text that spells a token that stands
around texts, pads or hides stays text here.
"""

import functools
import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bert_jax.data.json_text import loads
from bert_jax.data.tokenizers.fast_encoding import (
    Encoder,
    Joined,
    encode_each,
    encoder_behind_normalizer,
    fast_encoder,
)
from bert_jax.data.tokenizers.fast_normalization import without_surrogates
from bert_jax.data.tokenizers.huggingface_rules import (
    load_fast,
    load_for_text,
    pair_layout,
    special_pieces,
    spelled_as_text,
    word_marks,
)
from bert_jax.data.tokenizers.pieces import row_name
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES, Tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

CONFIG_FILE = "tokenizer_config.json"

# The end of a sentence that the next one follows without a space: ideographs, kana and
# full-width signs, and quotation marks behind them.
_UNSPACED_END = re.compile(
    "[\u3000-\u312f\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff][\"'\u2019\u201d)]*$"
)


class HuggingFaceTokenizer(Tokenizer):
    """The vocabulary and the rules of a tokenizer.json.

    Attributes:
        config: what tokenizer_config.json says: the names of special tokens, the class
            that reads the files in transformers, and whatever an export hands on.
        as_text: tokens that transformers finds in a text and this tokenizer does not.
        gap: what is put before a word that stands alone, so that it has the ids that it
            has behind another one.
    """

    kind = "huggingface"
    model_file = "tokenizer.json"

    def __init__(
        self,
        model: bytes,
        *,
        config: Mapping[str, Any] | None = None,
        num_rows: int | None = None,
    ) -> None:
        """Takes the content of a tokenizer.json.

        Args:
            model: UTF-8 JSON, whose post-processor puts one special token before a text
                and one behind it.
            config: the content of tokenizer_config.json, if there is one.
            num_rows: rows of the token table, if it has more than there are ids. The rows
                left over become pieces that no text contains.

        Raises:
            ValueError: the library cannot read it, it draws ids at random, a special
                token is missing, or pairs or words are marked in an unknown way.
        """
        self.config = dict(config or {})
        self._num_rows = num_rows
        fast = load_fast(model.decode("utf-8"))
        rules = loads(model)
        if rules["model"].get("dropout"):
            raise ValueError(
                f"The BPE model has dropout={rules['model']['dropout']}, so a text has "
                "other ids each time; set it to null in tokenizer.json."
            )
        special = special_pieces(fast, rules, self.config)
        self._marks, self._unk = word_marks(fast, rules), special["unk"]
        normal = fast.normalizer.normalize_str("A") if fast.normalizer else "A"
        super().__init__(
            model,
            _pieces(fast, num_rows),
            lowercase="a" in normal,
            normalization={"rules": self.model_file},
            library="tokenizers",
            special_pieces=special,
            pair=pair_layout(fast, self.config),
        )
        names = dict(zip(special.values(), SPECIAL_PIECES.values(), strict=True))
        self.shown_pieces = [
            names.get(piece) or self._marks.shown(piece) for piece in self.pieces
        ]
        self.as_text = spelled_as_text(special, self.config)
        self._fast = load_for_text(rules, self.as_text)
        # Where the first word of a text differs from the same word behind another one,
        # a space before it makes it the same.
        a, b, both, behind = (
            self._fast.encode(text, add_special_tokens=False).ids
            for text in ("a", "b", "a b", " b")
        )
        self.gap = " " if both != a + b and both == a + behind else ""

    @classmethod
    def read(cls, path: pathlib.Path) -> "HuggingFaceTokenizer":
        """Reads a tokenizer.json and the tokenizer_config.json beside it, if there is one.

        Raises:
            ValueError: a file is damaged, or the constructor raised it.
        """
        beside = path.with_name(CONFIG_FILE)
        try:
            config = loads(beside.read_bytes()) if beside.is_file() else None
        except ValueError as error:
            raise ValueError(
                f"{beside} is damaged ({error}); fetch it again."
            ) from error
        try:
            return cls(path.read_bytes(), config=config)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def encode_places(
        self, text: str, places: Sequence[tuple[int, int]]
    ) -> tuple[list[int], np.ndarray]:
        found = self._fast.encode(without_surrogates(text), add_special_tokens=False)
        starts, ends = np.array([*places, (len(text), len(text))], np.int64).T
        first, last = np.array(found.offsets, np.int64).reshape(-1, 2).T
        word = np.searchsorted(ends[:-1], first, side="right")
        return found.ids, np.where(starts[word] < last, word, -1)

    def encode_masked(self, text: str) -> list[int]:
        # The mask can take the space before it, and what stands behind it is no beginning.
        ids: list[int] = self._with_special.encode(
            without_surrogates(text), add_special_tokens=False
        ).ids
        return ids

    @functools.cached_property
    def _with_special(self) -> "FastTokenizer":
        """The tokenizer as it is, which finds special tokens in a text."""
        return load_fast(self.model.decode("utf-8"))

    def _in_a_row(self, sentences: Sequence[str]) -> Sequence[str]:
        gap, ends_unspaced = self.gap, _UNSPACED_END.search
        behind = [
            # In most scripts a space stands between two sentences.
            sentence
            if not before.isascii() and ends_unspaced(before[-4:])
            else gap + sentence
            for before, sentence in itertools.pairwise(sentences)
        ]
        return [*sentences[:1], *behind]

    def rules_for_words(self) -> dict[str, Any]:
        """The content of a tokenizer.json that puts the gap before each text.

        transformers encodes a list of words by such rules. They put no gap before a token
        that was added to the vocabulary, which a space in the text itself would be.
        """
        rules: dict[str, Any] = json.loads(self.model)
        splits = rules["pre_tokenizer"] or {}
        if splits.get("add_prefix_space") is False:
            splits["add_prefix_space"] = True
        else:  # rules within others, such as those of EuroBERT
            before = {"type": "Prepend", "prepend": self.gap}
            parts = [before, *filter(None, [rules["normalizer"]])]
            rules["normalizer"] = {"type": "Sequence", "normalizers": parts}
        return rules

    @functools.cached_property
    def _for_words(self) -> "FastTokenizer":
        return load_for_text(self.rules_for_words(), self.as_text)

    def _encode_each_word(self, words: Sequence[str]) -> list[list[int]]:
        if not self.gap:
            return self.encode(words)
        encode = functools.partial(self._for_words.encode, add_special_tokens=False)
        return [encode(without_surrogates(word)).ids for word in words]

    def normalize(self, text: str) -> str:
        rules = self._fast.normalizer
        return str(rules.normalize_str(text)) if rules else text

    def _opens_word(self, piece: str) -> bool:
        if piece == self._unk:
            # Elsewhere it can stand within a word.
            return self._marks.style == "continues"
        return self._marks.opens(piece)

    def _options(self) -> dict[str, Any]:
        return {"config": self.config, "num_rows": self._num_rows}

    def _metadata(self) -> dict[str, Any]:
        return super()._metadata() | {"options": self._options()}

    def _encode(self, texts: Sequence[str]) -> Joined:
        return encode_each(self._fast, texts, self.id_dtype)

    def _load_fast(self) -> Encoder | None:
        rules = json.loads(self._fast.to_str())
        # What goes before a unigram model has rules that libraries seldom follow exactly.
        is_unigram = rules["model"].get("type") == "Unigram"
        fast = None if is_unigram else fast_encoder(rules)
        return fast or encoder_behind_normalizer(rules, self.normalize, self._encode)

    def _join(self, ids: list[int]) -> str:
        return str(self._fast.decode(ids, skip_special_tokens=False)).strip()


def _pieces(fast: "FastTokenizer", num_rows: int | None) -> list[str]:
    """The pieces by id; ids that no piece has, and rows left over, have names."""
    ids = fast.get_vocab(with_added_tokens=True)
    pieces = [row_name(n) for n in range(max(max(ids.values()) + 1, num_rows or 0))]
    for piece, index in ids.items():
        pieces[index] = piece
    return pieces
