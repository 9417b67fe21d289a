"""Sentences by rules, and the side of the split that does not depend on the process."""

import json
import subprocess
import sys

import pytest

from bert_jax.data.text.sentences import LANGUAGES, sentences, validation_group


def test_sentences():
    text = "Dr. Smith  came, e.g. today.\tHe left!\n\nA heading\nIs it 3.5?  Yes."
    assert sentences(text) == [
        "Dr. Smith came, e.g. today.",
        "He left!",
        "A heading",
        "Is it 3.5?",
        "Yes.",
    ]
    assert sentences(" \n\t\n") == []


def test_languages_have_rules_of_their_own():
    text = "Siehe Nr. 5 usw. im Text. Ende."
    assert sentences(text, "de") == ["Siehe Nr. 5 usw. im Text.", "Ende."]
    assert len(sentences(text, "en")) > 2
    assert sentences("これは一。これは二。", "ja") == ["これは一。", "これは二。"]
    assert all(
        sentences("One word", language) == ["One word"] for language in LANGUAGES
    )


@pytest.mark.parametrize("language", ["x1", "english", "EN", ""])
def test_no_language_is_cut_as_another_silently(language):
    with pytest.raises(ValueError, match=f"language='{language}'; expected one of am"):
        sentences("", language)


def test_validation_group_is_the_same_in_every_process():
    groups = [f"group {k}" for k in range(2_000)]
    held_out = [validation_group(group, 0.1) for group in groups]
    # A share of 0.1 over 2,000 draws: five standard deviations are 0.034.
    assert sum(held_out) / 2_000 == pytest.approx(0.1, abs=0.034)
    assert not any(validation_group(group, 0.0) for group in groups)
    wider = [validation_group(group, 0.2) for group in groups]
    assert all(b for a, b in zip(held_out, wider, strict=True) if a)
    program = (
        "from bert_jax.data.text.sentences import validation_group as v\n"
        "print([k for k in range(2000) if v(f'group {k}', 0.1)])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert json.loads(said) == [k for k in range(2_000) if held_out[k]]


WHITE_SPACE = [chr(code) for code in range(0x10000) if chr(code).isspace()]


@pytest.mark.parametrize("space", [*WHITE_SPACE, "\r\n", "  ", " \t "], ids=ascii)
def test_white_space_divides_lines_or_words_as_python_does(space):
    text = f"{space}One  b.{space}{space}Two{space}"
    paragraphs = [" ".join(line.split()) for line in text.splitlines()]
    expected = [s for one in paragraphs if one for s in sentences(one)]
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "你好。他走了！你呢？", ["你好。", "他走了！", "你呢？"]),
        ("cs", "Přišel. Odešel?\nAno\u00a0ne.", ["Přišel.", "Odešel?", "Ano ne."]),
        ("th", "สวัสดี 😀 ครับ!!!\nลา", ["สวัสดี 😀 ครับ!!!", "ลา"]),
    ],
)
def test_other_languages_have_the_rules_of_unicode(language, text, expected):
    pytest.importorskip("icu4py")
    assert sentences(text, language) == expected


def test_without_icu_other_languages_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "icu4py.breakers", None)
    with pytest.raises(ValueError, match=r"language='zh'.*\[icu\]"):
        sentences("", "zh")
