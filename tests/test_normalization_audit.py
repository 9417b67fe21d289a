"""The audit counts what normalisation deletes or merges, and refuses lost vowel signs."""

import json

import pytest
from tokenizer_texts import train

from bert_jax import cli
from bert_jax.data.prepared.normalization_audit import lost_in_normalization
from bert_jax.data.tokenizers.vocabulary import train_wordpiece

TEXTS = ["मैं घर में हूँ", "Así, café Straße", "がく ﬁ 가 Ａ", "שָׁלוֹם"]
HINDI = "मैं घर में हूँ और वह भी घर में है। "


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe", "byte-bpe"])
def test_default_vocabularies_lose_no_mark(kind):
    tokenizer = train(kind)
    found = lost_in_normalization(tokenizer, TEXTS)
    assert found["characters"] == sum(map(len, TEXTS))
    assert found["needed_marks"] == 0
    assert "Mn" not in found["lost"]
    assert "Mc" not in found["lost"]


def test_what_bert_uncased_loses_is_counted_with_examples():
    found = lost_in_normalization(train("wordpiece", strip_accents=True), TEXTS)
    lost = found["lost"]
    # Six signs of Hindi and the voicing of a kana; two accents and three Hebrew points.
    assert found["needed_marks"] == 7
    assert lost["Mn"]["count"] == 12
    assert lost["Mn"]["examples"][:2] == [["मैं", "म"], ["में", "म"]]


def test_merged_compatibility_characters_are_counted():
    lost = lost_in_normalization(train("unigram"), TEXTS)["lost"]
    assert ["ﬁ", "fi"] in lost["Ll"]["examples"]
    assert ["Ａ", "a"] in lost["Lu"]["examples"]


def test_spaces_around_ideographs_take_nothing_away():
    found = lost_in_normalization(train("wordpiece"), ["我爱北京。", "川 𫢸 \uf900"])
    assert "Lo" not in found["lost"]


def test_strict_refuses_a_tokenizer_that_deletes_vowel_signs(tmp_path, capsys, refused):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"{HINDI * 3} {n}. {HINDI}"}) for n in range(40)]
    path.write_text("\n".join(lines), encoding="utf-8")
    stripped = {"lowercase": True, "strip_accents": True}
    train_wordpiece([HINDI + "0123456789."] * 9, vocab_size=46, **stripped).save(
        tmp_path / "tokenizer"
    )
    command = ["prepare", "--source", f"files:{path}", "--num-workers", "1"]
    command += [
        "--tokenizer",
        str(tmp_path / "tokenizer"),
        "--validation-fraction",
        "0.3",
    ]
    command += ["--language", "hi", "--output", str(tmp_path / "dataset")]
    cli.main(command)
    assert "category Mn: " in "".join(capsys.readouterr())
    assert "vowel signs" in refused(*command, "--strict")
