"""Training of vocabularies: repeatable, complete, and refused where impossible."""

import subprocess
import sys

import pytest
from tokenizer_texts import SIZES, WORDS, sentences, train

KINDS = ["unigram", "bpe", "wordpiece"]


@pytest.mark.parametrize("kind", ["unigram", "wordpiece", "byte-bpe"])
def test_training_is_a_function_of_the_sentences(kind):
    first, second = (train(kind, max_sentences=90) for _ in range(2))
    assert first.model == second.model
    # SentencePiece's own sampling agrees within a process and differs between two; so
    # do the hash tables of `tokenizers`.
    program = (
        "import sys; sys.path.insert(0, 'tests'); import tokenizer_texts as t\n"
        f"print(t.train({kind!r}, max_sentences=90).sha256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == first.sha256
    assert first.sha256 != train(kind).sha256
    assert first.sha256 != train(kind, max_bytes=9_000).sha256


@pytest.mark.parametrize("kind", [*KINDS, "byte-bpe"])
def test_vocabularies_are_whole(kind):
    tokenizer = train(kind)
    assert tokenizer.pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.vocab_size == SIZES.get(kind, 58)
    texts = list(sentences())
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert tokenizer.special.unk not in ids
        assert tokenizer.decode(ids) == text.lower()


def test_wordpiece_of_real_text_is_repeatable(shared_data):
    """Ties between pairs are many here, and threads share the work."""
    text = (shared_data / "wikitext" / "valid.txt").read_text(encoding="utf-8")
    lines = text.split("\n")
    one, two = (train("wordpiece", lines, vocab_size=4_000) for _ in range(2))
    assert one.model == two.model
    assert one.vocab_size == len(set(one.pieces)) == 4_000
    (ids,) = one.encode(["The government announced that the station would be built ."])
    assert len(ids) <= 12, "common words are pieces"


def test_byte_bpe_spells_every_text():
    tokenizer = train("byte-bpe", lowercase=False, vocab_size=350)
    texts = ["Rivers", "日本 😀 e\u0301", "\x00\u200b\ufffd", "[MASK] [UNK]"]
    encoded = tokenizer.encode(texts)
    for text, ids in zip(texts, encoded, strict=True):
        assert tokenizer.decode(ids) == text.replace("e\u0301", "é")
    assert {tokenizer.special.mask} & {*encoded[-1]} == set()
    assert tokenizer.encode_masked("a [MASK]")[1:] == [tokenizer.special.mask]
    # Words are learned as they stand within a sentence.
    assert "Ġriver" in tokenizer.pieces
    assert tokenizer.encode_words(["river"]) == [[tokenizer.pieces.index("Ġriver")]]
    assert (tokenizer.pair.separators, tokenizer.pair.second_segment) == (1, 1)
    with pytest.raises(ValueError, match=r"vocab_size=260 .* alone need 261"):
        train("byte-bpe", vocab_size=260)
    with pytest.raises(ValueError, match="supports at most"):
        train("byte-bpe", vocab_size=9_000)
    with pytest.raises(ValueError, match="nothing to train on"):
        train("byte-bpe", [""])


def test_wordpiece_has_no_inner_pieces_that_never_occur():
    texts = [*sentences(), *["river, (stone) 日本 1a2"] * 5]
    pieces = train("wordpiece", texts, vocab_size=90).pieces
    assert {",", "(", ")", "日", "本", "1", "##1", "##2", "##a"} <= {*pieces}
    assert not {"##,", "##(", "##日"} & {*pieces}


@pytest.mark.parametrize("kind", KINDS)
def test_the_rarest_characters_are_left_out(kind):
    texts = [*sentences(1_000), "stone \u0436 \u5317"]
    tokenizer = train(kind, texts)
    assert not {"\u0436", "\u5317"} & {*"".join(tokenizer.pieces)}
    assert tokenizer.special.unk in tokenizer.encode(["\u0436"])[0]
    often = train(kind, [*sentences(), *["\u0436\u0436 stone\u0436"] * 9])
    assert "\u0436" in "".join(often.pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_case_folding_follows_lowercase(kind):
    texts = [*sentences(), *map(str.upper, sentences(100))]
    folded = train(kind, texts)
    cased = train(kind, texts, lowercase=False, vocab_size=110)
    assert folded.encode(["RIVER"]) == folded.encode(["river"])
    assert cased.encode(["RIVER"]) != cased.encode(["river"])
    assert not any(c.isupper() for p in folded.pieces[5:] for c in p)
    assert any(c.isupper() for p in cased.pieces[5:] for c in p)


def test_accents_are_removed_only_where_asked():
    texts = [*sentences(), *["r\u00ccver \u00e9t\u00e9"] * 40]
    stripped = train("wordpiece", texts, strip_accents=True)
    kept = train("wordpiece", texts)
    assert stripped.strip_accents
    assert not kept.strip_accents
    assert "\u00e9" not in stripped.pieces
    assert "\u00e9" in kept.pieces
    assert kept.special.unk not in kept.encode(["\u00e9t\u00e9"])[0]


def test_long_and_awkward_lines_reach_the_trainer():
    # SentencePiece itself would skip each of these lines.
    texts = [" ".join(sentences(2_000)), "z" * 9_000, "tab\tq\u2585q", "nul\0nul"]
    texts += ["tab\tq\u2585q", "nul\0nul"] * 50
    pieces = train("bpe", texts, vocab_size=60).pieces
    assert {"z", "q", "u"} <= {*pieces}


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        ([], 100, "nothing to train on"),
        (["\ufeff", "  "], 100, "nothing to train on"),
        (["the river the river"] * 9, 5_000, "at most [0-9]+ pieces"),
        (["abcdefghijklmnopqrstuvwxyz"] * 9, 12, "alone need [35][0-9]"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_vocabularies_say_what_is_possible(kind, texts, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        train(kind, texts, vocab_size=vocab_size)


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_what_is_possible_is_possible(kind):
    texts = ["the river the river"] * 9
    with pytest.raises(ValueError, match="at most") as caught:
        train(kind, texts, vocab_size=5_000)
    size = int(str(caught.value).split("at most ")[1].split()[0])
    assert train(kind, texts, vocab_size=size).vocab_size == size


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_the_reader_pass_through(kind):
    def broken():
        yield from WORDS
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        train(kind, broken())


# Two words of each script that differ in nothing but marks.
MARKED_WORDS = {
    "Hindi": "\u092e\u0947\u0902 \u092e",
    "Bengali": "\u0995\u09c1 \u0995\u09c2",
    "Tamil": "\u0b95\u0bcd \u0b95",
    "Telugu": "\u0c15\u0c3f \u0c15\u0c46",
    "Sinhala": "\u0d9a\u0dd2 \u0d9a\u0dd4",
    "Thai": "\u0e01\u0e34\u0e19 \u0e01\u0e34\u0e48\u0e19",
    "Lao": "\u0e81\u0eb4 \u0e81\u0eb5",
    "Khmer": "\u1780\u17b7 \u1780\u17bb",
    "Burmese": "\u1000\u102d \u1000\u102f",
    "Tibetan": "\u0f40\u0f72 \u0f40\u0f74",
    "Hebrew": "\u05d1\u05b7 \u05d1\u05b4",
    "Arabic": "\u0628\u064e \u0628\u0650",
    "Japanese": "\u304b\u304d \u304c\u304d",
    "Russian": "\u0432\u0441\u0435 \u0432\u0441\u0451",
    "Greek": "\u03c0\u03cc\u03c4\u03b5 \u03c0\u03bf\u03c4\u03ad",
    "German": "sch\u00f6n schon",
    "Vietnamese": "ma m\u00e3",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", MARKED_WORDS)
def test_marks_keep_words_apart(kind, script):
    text = MARKED_WORDS[script]
    size = 100 if kind == "wordpiece" else 64
    tokenizer = train(kind, [*sentences(), *[text] * 60], vocab_size=size)
    one, other = tokenizer.encode(text.split())
    assert one != other
    assert tokenizer.special.unk not in one + other


def test_korean_syllables_stay_whole():
    text = "\ud55c\uad6d \uad6d\uc5b4"
    tokenizer = train("wordpiece", [*sentences(), *[text] * 60], vocab_size=100)
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text
