"""Words of a text, and that characters lead back to it."""

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from bert_jax.data.labelled.word_places import places_of_words

# Letters with marks, ideographs, emoji of several code points, and right to left.
SCRIPTS = (
    *(
        "Oslo",
        "cafe\u0301",
        "हिन्दी",
        "東",
        "京",
        "は",
        "สวัสดี",
        "שלום",
        "مرحبا\u200cبكم",
    ),
    *("👍🏽", "👨\u200d👩\u200d👧", "❤️", "1990", ",", "$", "'", "«", "_"),
)
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*SCRIPTS, " ", "\u3000", "\u200b", "\u200f"]), st.characters()
    ),
    max_size=20,
).map("".join)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's $5.30, @bo_b!", "It ' s $ 5 . 30 , @ bo _ b !"),
        ("हिन्दी में cafe\u0301.", "हिन्दी में cafe\u0301 ."),
        ("東京は日本の首都。", "東 京 は 日 本 の 首 都 。"),
        ("👨\u200d👩\u200d👧 ok👍🏽! ❤️x", "👨\u200d👩\u200d👧 ok 👍🏽 ! ❤️ x"),
        ("שלום\u200f עולם, مرحبا\u200cبكم", "שלום עולם , مرحبا\u200cبكم"),
        ("\u200b\x07 \u00a0", ""),
        ("a\u200bb", "a\u200bb"),
    ],
)
def test_words_are_those_of_bert(text, words):
    assert [text[start:end] for start, end in places_of_words(text)] == words.split()


@given(TEXTS)
@example("\ud800a\ud800")
def test_words_are_apart_and_leave_out_nothing_visible(text):
    behind = 0
    for start, end in places_of_words(text):
        assert behind <= start < end
        assert (
            not text[behind:start].strip().isprintable()
            or not text[behind:start].strip()
        )
        behind = end
    assert not any(sign.isalnum() for sign in text[behind:])
