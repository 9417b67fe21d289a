"""Texts that are normalised with operations on strings are as the rules have them."""

from unicodedata import category

import numpy as np
import pytest
from tokenizer_texts import train
from tokenizers import normalizers

from bert_jax.data.tokenizers.fast_normalization import FastNormalization

# What text in some language has often.
COMMON = "–—’“”éüñçßÉÖ…\u00a0™½\u200b\ufeff\u00ad日本語、。가한नमскийΣςı€£→•☺😀\t\nα×°"
KINDS = [
    ["NFC", "Lowercase"],
    ["NFKC"],
    ["NFD", "StripAccents", "Lowercase"],
    ["Lowercase"],
]


def rules(name):
    if name in ("cased", "lower"):
        lowercase = name == "lower"
        tokenizer = train("bpe", lowercase=lowercase)
        return tokenizer.normalize, {"lowercase": lowercase, "drops_spaces": True}
    kinds = name.split()
    normalizer = normalizers.Sequence([getattr(normalizers, x)() for x in kinds])
    return normalizer.normalize_str, {"lowercase": "Lowercase" in kinds}


@pytest.mark.parametrize("name", ["cased", "lower", *map(" ".join, KINDS)])
def test_each_text_is_as_the_rules_have_it(name):
    normalize, options = rules(name)
    changed = []

    def counted(text):
        changed.append(text)
        return normalize(text)

    normalization = FastNormalization(counted, **options)
    rng = np.random.default_rng(0)
    codes = [*range(0x80, 0x3100), *range(0x3100, 0x20000, 7), *map(ord, COMMON * 20)]
    letters = np.array([chr(x) for x in codes if category(chr(x)) not in ("Cs", "Cn")])
    # Marks are among them, and with each other character they may make a new one.
    texts = [
        "".join(rng.choice([*"aZ   .", *rng.choice(letters, 3)], 12))
        for _ in range(4_000)
    ]
    found = [x for text in texts for x in normalization([text])]
    assert found == [
        normalize(x).strip(" ") if "drops_spaces" in options else normalize(x)
        for x in texts
    ]
    # Few texts were given to the rules themselves: those with marks.
    assert 100 < len(set(changed) & set(texts)) < 1_500
    changed.clear()
    assert (
        normalization([f"Zoe  {COMMON} "] * 9, COMMON)
        == [
            normalize(f"Zoe  {COMMON} ").strip(" " if "drops_spaces" in options else "")
        ]
        * 9
    )
    assert len(changed) < 3 * len(COMMON)
