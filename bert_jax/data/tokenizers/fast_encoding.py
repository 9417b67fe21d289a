"""Young libraries that encode many times faster than the ones that define the ids.

`nanotoken` runs WordPiece, `tokie` runs unigram models, `gigatoken` runs BPE and is an extra
of this package (`fast`). All read the rules of a tokenizer.json. `CheckedEncoder` uses them
only as long as they give the ids of the library that defines them.
"""

import functools
import importlib.metadata
import itertools
import json
import pathlib
import re
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.tokenizers.fast_normalization import (
    FastNormalization,
    without_surrogates,
)
from bert_jax.data.uncommon_characters import uncommon_characters

# Unsigned [tokens], ids of all texts one behind the other, and int64 [texts], their number
# in each text.
Joined = tuple[np.ndarray, np.ndarray]
EncodeTexts = Callable[[Sequence[str]], Joined]
# The second argument is that of `Tokenizer.encode_joined`.
Encode = Callable[[Sequence[str], Collection[str] | None], Joined]

# Stands between texts that are encoded together. Unicode says that it is not a character.
_BETWEEN_TEXTS = "\uffff"
# Normalisers of `tokenizers` that change nothing of ASCII text but its case.
_KEEP_ASCII_BUT_CASE = {"NFC", "NFD", "NFKC", "NFKD", "StripAccents", "Lowercase"}
_SPACE_IN_PYTHON = ["\x1c", "\x1d", "\x1e", "\x1f"]

# tokie and gigatoken keep all words that they have seen: up to 10 bytes for each character of
# a text whose words are all different. After so many characters, they begin without any.
_MOST_REMEMBERED_CHARACTERS = 1 << 26

# What BERT's rules, accents, scripts without spaces, BPE's splits and special tokens treat
# in ways of their own.
CHECK_TEXTS = (
    "The quick brown fox, 1,234.5 times -- 'twas don't (e.g.) U.S.A. 50% $3 a_b x=y;",
    "  two  spaces\tand a tab   \u00a0 no-break\u3000ideographic\u2009thin ",
    "Ångström café naïve coöperate e\u0301 A\u030a \u0301 ÇA ß ẞ İstanbul ıI ς Σ ﬁ ½ ﷺ",
    "मैं में सीमा हिन्दी, தமிழ் සිංහල ภาษาไทย ภำ မြန်မာ עִבְרִית العَرَبِيَّة می\u200cخواهم",
    "日本語のテキスト、中文「引号」。한국어 가 \u1100\u1161 \u2b820 \U0002b820 Ａ１ ｶﾞ",
    "👩\u200d👩 😀🏽 \u00ad\u200b\u200d\ufeff\ufffd \x01\x7f\x85 a\uf059b \ue000 \u0378",
    "[CLS] [MASK] <s> </s> <mask> <|endoftext|> [UNK] ## ##ing ▁ ▁▁ <0x41>",
    "x" * 201 + " " + "y" * 100 + " " + "é" * 120,
    "https://example.org/a?b=c&d=e#f user@example.org C:\\dir\\file.txt `code` {a: [1]}",
    "IT'S we'll I'M they'RE  \u2019s 12345678901 \n\n  def f(x):\n    return x**2\r\n",
    "",
    " ",
)


class Encoder(NamedTuple):
    """A library that has loaded a tokenizer."""

    library: str
    """Its name and version."""
    encode: Encode


class CheckedEncoder:
    """Encodes with a fast library as long as it gives the ids of the one that defines them."""

    def __init__(
        self, defining: Encoder, load_fast: Callable[[], Encoder | None]
    ) -> None:
        """Takes the defining library.

        Args:
            defining: the library that defines the ids.
            load_fast: loads the same tokenizer into a faster library, or returns `None`. It
                is called when the first text comes.
        """
        self._defining, self._load_fast = defining, load_fast
        self._chosen: Encoder | None = None

    @property
    def library(self) -> str:
        """Name and version of the library that encodes."""
        return self._choose().library

    @property
    def is_fast(self) -> bool:
        """Whether that is not the library that defines the ids."""
        return self._choose() is not self._defining

    def encode(
        self, texts: Sequence[str], uncommon: Collection[str] | None = None
    ) -> Joined:
        chosen = self._choose()
        if chosen is self._defining:
            return chosen.encode(texts, uncommon)
        if uncommon is None:
            utf8 = "".join(texts).encode("utf-8", "surrogatepass")
            uncommon = uncommon_characters(utf8)
        # Libraries with other versions of Unicode split words at them in other places.
        unassigned = "".join(x for x in uncommon if unicodedata.category(x) == "Cn")
        if not unassigned or not texts:
            return chosen.encode(texts, uncommon)
        has_some = re.compile(f"[{unassigned}]").search
        parts = [
            encoder.encode(list(some), None)
            for defines, some in itertools.groupby(texts, lambda x: bool(has_some(x)))
            for encoder in [self._defining if defines else chosen]
        ]
        ids, lengths = zip(*parts, strict=True)
        return np.concatenate(ids), np.concatenate(lengths)

    def check(self, texts: Sequence[str]) -> str | None:
        """Compares the ids of the fast library with those of the defining one.

        From a difference on, this object encodes with the defining library.

        Returns:
            The first text with other ids, or `None`.
        """
        chosen = self._choose()
        if chosen is self._defining:
            return None
        encoder = chosen._replace(encode=self.encode)
        differing = _first_difference(encoder, self._defining, texts)
        if differing is not None:
            self.use_defining()
        return differing

    def use_defining(self) -> None:
        """Encodes with the library that defines the ids from now on."""
        self._chosen = self._defining

    def _choose(self) -> Encoder:
        if self._chosen is None:
            fast = self._load_fast()
            if fast and _first_difference(fast, self._defining, CHECK_TEXTS) is None:
                self._chosen = fast
            else:
                self._chosen = self._defining
        return self._chosen


def _first_difference(
    fast: Encoder, defining: Encoder, texts: Sequence[str]
) -> str | None:
    for text, found, expected in zip(
        texts,
        _by_text(*fast.encode(texts, None)),
        _by_text(*defining.encode(texts, None)),
        strict=False,
    ):
        if not np.array_equal(found, expected):
            return text
    return None


def _by_text(ids: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(ids, np.cumsum(lengths)[:-1])


def named(library: str) -> str:
    """The name of an installed library with its version."""
    return f"{library} {importlib.metadata.version(library)}"


def fast_encoder(rules: Mapping[str, Any]) -> Encoder | None:
    """The library that can encode by the rules of a tokenizer.json.

    Returns:
        `None` if no such library is installed, or if none can read these rules.
    """
    load = _LOADERS.get(rules["model"].get("type"))
    if load is None:
        return None
    library, make = load
    try:
        encode = make(json.dumps(rules))
    except Exception:
        # The library is missing or does not know the rules. Each has errors of its own.
        return None
    return Encoder(named(library), _without_half_characters(encode))


def encoder_behind_normalizer(
    rules: Mapping[str, Any], normalize: Callable[[str], str], defining: EncodeTexts
) -> Encoder | None:
    """As `fast_encoder`, with the normalisation of the library that defines the ids.

    So the fast library need not know the rules of normalisation, which are the ones that it
    most often gets wrong.

    Args:
        rules: those of a tokenizer.json.
        normalize: applies their normaliser to a text.
        defining: the library that defines the ids.
    """
    splitting = rules["pre_tokenizer"] or {}
    parts = splitting.get("pretokenizers", [])
    splits_at_space = [x["type"] for x in parts] == ["WhitespaceSplit", "Metaspace"]
    if splits_at_space:
        splitting = parts[1]
    changed: dict[str, Any] = {
        "normalizer": None,
        "pre_tokenizer": splitting,
        "added_tokens": [],
    }
    fast = fast_encoder({**rules, **changed})
    if fast is None:
        return None
    normalizer = rules["normalizer"] or {}
    kinds = {x["type"] for x in normalizer.get("normalizers", [normalizer]) if x}
    # Added tokens are looked for before a text is normalised, and to Python alone a few
    # control characters are white space. Texts with them are left to `defining`.
    left_out = [x["content"] for x in rules["added_tokens"]]
    left_out += _SPACE_IN_PYTHON if splits_at_space else []

    fast_normalization = None
    if kinds <= _KEEP_ASCII_BUT_CASE:
        fast_normalization = FastNormalization(
            normalize, lowercase="Lowercase" in kinds
        )

    def encode(texts: Sequence[str], uncommon: Collection[str] | None) -> Joined:
        together = "\n".join(texts)
        if any(part in together for part in left_out):
            return defining(texts)
        if fast_normalization is None:
            texts = [normalize(without_surrogates(text)) for text in texts]
        else:
            texts = fast_normalization(texts, uncommon)
        if splits_at_space:
            texts = [" ".join(text.split()) for text in texts]
        return fast.encode(texts, None)

    return fast._replace(encode=encode)


def _without_half_characters(encode: EncodeTexts) -> Encode:
    def encode_all(texts: Sequence[str], _: Collection[str] | None) -> Joined:
        try:
            return encode(texts)
        except (UnicodeEncodeError, TypeError):
            return encode([without_surrogates(text) for text in texts])

    return encode_all


def _nanotoken(rules: str) -> EncodeTexts:
    # Not from the package itself, which also imports what transformers needs.
    from nanotoken.nanotoken_rs import WordPieceTokenizer

    backend = WordPieceTokenizer.from_json(rules)

    def encode(texts: Sequence[str]) -> Joined:
        ids, ends = backend.encode_batch(
            texts, add_special_tokens=False, parallel=False
        )
        return ids, np.diff(ends)

    return encode


class _Forgetting:
    """A tokenizer that is loaded anew before it has remembered too many words."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._backend, self._num_characters = load(), 0

    def before(self, num_characters: int) -> Any:
        """The tokenizer, which is about to encode so many characters."""
        if self._num_characters > _MOST_REMEMBERED_CHARACTERS:
            self._backend, self._num_characters = self._load(), 0
        self._num_characters += num_characters
        return self._backend


def _gigatoken(rules: str) -> EncodeTexts:
    from gigatoken.gigatoken_rs import load_hf_json

    # One long text takes half the time of as many calls as there are texts, or of a call that
    # pads them to the longest. An added token splits it before any other rule.
    parsed = json.loads(rules)
    added = parsed["added_tokens"]
    if any(token["single_word"] for token in added):
        raise ValueError("It would find these tokens within words, too.")
    between = 1 + max(
        [*parsed["model"]["vocab"].values(), *[token["id"] for token in added]]
    )
    token = {"id": between, "content": _BETWEEN_TEXTS, "special": True}
    token |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    with_token = json.dumps({**parsed, "added_tokens": [*added, token]})
    together = _Forgetting(lambda: load_hf_json(with_token))
    alone = functools.cache(lambda: load_hf_json(rules))

    def encode(texts: Sequence[str]) -> Joined:
        text = _BETWEEN_TEXTS.join(texts)
        if text.count(_BETWEEN_TEXTS) >= max(len(texts), 1):
            found = [alone().encode(text) for text in texts]
            lengths = np.fromiter(map(len, found), np.int64, len(found))
            return np.concatenate(found), lengths
        ids = together.before(len(text)).encode(text)
        places = np.flatnonzero(ids == between)
        ends = np.append(places, ids.size)[: len(texts)] - np.arange(len(texts))
        return np.delete(ids, places), np.diff(ends, prepend=0)

    return encode


def _tokie(rules: str) -> EncodeTexts:
    import tokie

    def load() -> Any:
        with tempfile.TemporaryDirectory() as folder:
            # The library reads no rules but those of a file.
            path = pathlib.Path(folder) / "tokenizer.json"
            path.write_text(rules, encoding="utf-8")
            return tokie.Tokenizer.from_json(str(path))

    tokenizer = _Forgetting(load)

    def encode(texts: Sequence[str]) -> Joined:
        backend = tokenizer.before(sum(map(len, texts)))
        ids, lengths = backend.encode_batch_flat(list(texts), add_special_tokens=False)
        return ids, lengths.astype(np.int64)

    return encode


_LOADERS: dict[Any, tuple[str, Callable[[str], EncodeTexts]]] = {
    "WordPiece": ("nanotoken", _nanotoken),
    "Unigram": ("tokie", _tokie),
    "BPE": ("gigatoken", _gigatoken),
}


def encode_each(
    tokenizer: Any, texts: Sequence[str], dtype: np.dtype[np.unsignedinteger]
) -> Joined:
    """The ids of texts by the library `tokenizers`, as they are without special tokens.

    Args:
        tokenizer: a tokenizer of that library.
        texts: the texts.
        dtype: type of ids.
    """
    found = [
        tokenizer.encode(without_surrogates(text), add_special_tokens=False).ids
        for text in texts
    ]
    lengths = np.fromiter(map(len, found), np.int64, len(found))
    return np.array([index for ids in found for index in ids], dtype), lengths
