"""Texts, plain and awkward, and small vocabularies trained on them."""

import numpy as np
from hypothesis import strategies as st

from bert_jax.data.tokenizers.vocabulary import (
    train_byte_bpe,
    train_sentencepiece,
    train_wordpiece,
)

WORDS = [
    "river",
    "stone",
    "window",
    "garden",
    "teacher",
    "letter",
    "morning",
    "village",
    "winter",
    "music",
]

# Of vocabularies that need more pieces than SentencePiece's 58.
SIZES = {"wordpiece": 80, "byte-bpe": 300}

# What has a rule of its own somewhere: spaces of all kinds, marks that stand alone, what
# is deleted, folded, widened or divided, half characters, special tokens, long words.
_AWKWARD = [
    *(" ", "  ", "\u00a0", "\u3000", "\u2009", "\u2028", "\t", "\n", "\r\n", "\x85"),
    *("\x00", "\x01", "\x1f", "\x7f", "\u00ad", "\u200b", "\u200d", "\ufeff", "\ufffd"),
    *("\u0301", "\u0308", "\u0323", "\u0344", "\u00a8", "\u00b4", "\u037a", "\u2017"),
    *(
        "e\u0301",
        "A\u030a",
        "É",
        "ß",
        "ς",
        "Σ",
        "İ",
        "ſ",
        "ﬁ",
        "ﷺ",
        "½",
        "［ＭＡＳＫ］",
    ),
    *("\u1100", "\u1161", "\u11a8", "가", "ᄒ", "\uffa0", "日", "本", "\u309b", "ภำ"),
    *("\ud83d", "\ude00", "😀", "👩\u200d👩", "\u2581", "\u2581\u2581", "\u2585"),
    *(
        "[MASK]",
        "[UNK]",
        "<unk>",
        "##",
        "river",
        "stones",
        "Window",
        "0",
        "00",
        "000",
        "10",
    ),
    *(".", ",", "...", "'s", '"', "(", ")", "x" * 201),
]
awkward_texts = st.lists(
    st.sampled_from([" ", *_AWKWARD]) | st.text(max_size=3), max_size=12
).map("".join)


def sentences(count=400, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        words = rng.choice(WORDS, rng.integers(4, 12))
        endings = rng.choice(["", "s", "ed", "ing"], words.size)
        yield " ".join(map("".join, zip(words, endings, strict=True))).capitalize()


def train(kind="unigram", texts=None, **options):
    texts = sentences() if texts is None else texts
    options = {"vocab_size": SIZES.get(kind, 58), "lowercase": True} | options
    if kind == "byte-bpe":
        return train_byte_bpe(texts, **options)
    if kind == "wordpiece":
        return train_wordpiece(texts, **options)
    return train_sentencepiece(texts, model_type=kind, **options)
