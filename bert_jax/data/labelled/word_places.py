"""Where the words of a text are, nearly by the rules of BERT's basic tokenizer."""

import functools
from typing import Any

from bert_jax.data.tokenizers.fast_normalization import without_surrogates

# Chinese characters as google-research/bert counts them (tokenization.py).
_IDEOGRAPH = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}"
    r"\x{2A700}-\x{2CEAF}\x{2F800}-\x{2FA1F}]"
)
_LETTER = rf"(?!{_IDEOGRAPH})[\p{{L}}\p{{M}}\p{{N}}]"
# Marks and joiners that belong to a sign, as in an emoji of several code points.
_MARKS = r"[\p{M}\p{Sk}\x{200D}]*(?<=[\p{M}\p{Sk}])"
_SIGN = r"[^\p{L}\p{N}\p{Z}\p{C}]"
_WORD = (
    rf"{_LETTER}(?:\p{{Cf}}*{_LETTER})*"
    rf"|[^\p{{Z}}\p{{Cc}}\p{{Cf}}](?:{_MARKS})?(?:\x{{200D}}{_SIGN}(?:{_MARKS})?)*"
)


@functools.lru_cache(maxsize=1_024)
def places_of_words(text: str) -> tuple[tuple[int, int], ...]:
    """Where each word of a text begins and ends, in characters.

    A word is a run of letters, digits and the marks on them. An ideograph (Chinese
    character), a punctuation mark or a symbol is a word of its own, together with its
    marks and with what is joined to it. White space and control characters belong to no
    word.

    Source: google-research/bert, tokenization.py (BasicTokenizer). There, symbols beyond
    ASCII do not stand alone.
    """
    # As many characters as before.
    found = _splitter().pre_tokenize_str(without_surrogates(text))
    return tuple(place for _, place in found)


@functools.cache
def _splitter() -> Any:
    # Python's `re` knows no categories of Unicode, and its \w no marks, without which
    # no word of Hindi is whole.
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
