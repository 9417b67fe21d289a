"""Tokenizers beside imported weights: the ids of transformers, or a refusal."""

import dataclasses
import functools
import json
import re
import shutil

import numpy as np
import pytest
from huggingface_models import (
    PIECES,
    assert_equal,
    edit_json,
    make_random,
    save,
    save_tokenizer,
    state_of,
)

from bert_jax.data.tokenizers.vocabulary import train_sentencepiece
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.read_huggingface import read_huggingface
from bert_jax.exchange.tensors import from_tensors
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer
from bert_jax.exchange.write_huggingface import write_huggingface


@pytest.fixture(scope="module")
def make_model(hf):
    """make_model("BertForMaskedLM", **config): random everywhere, norms included."""
    return functools.partial(make_random, hf)


@pytest.fixture(scope="module")
def whole(make_model, tmp_path_factory):
    """A BertForPreTraining, saved; tests copy it before they change it."""
    return save(make_model("BertForPreTraining"), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json", "both"])
@pytest.mark.parametrize("kind", ["uncased", "cased"])
def test_real_text_gets_the_ids_of_transformers(
    hf, make_model, shared_data, tmp_path, form, kind
):
    vocab = shared_data / "vocab" / f"bert-base-{kind}-vocab.txt"
    size = len(vocab.read_text(encoding="utf-8").splitlines())
    small = {"hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 4}
    make_model("BertModel", vocab_size=size, **small).save_pretrained(tmp_path)
    theirs = hf.BertTokenizer(str(vocab), do_lower_case=kind == "uncased")
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").exists()
    if form != "tokenizer.json":
        shutil.copy(vocab, tmp_path / "vocab.txt")
    if form == "vocab.txt":
        (tmp_path / "tokenizer.json").unlink()
        theirs = hf.AutoTokenizer.from_pretrained(tmp_path)
    source = read_huggingface(tmp_path)
    assert source.tokenizer.lowercase == (kind == "uncased")
    assert source.tokenizer.vocab_size == source.model.vocab_size == size
    assert any("more than 100 characters" in note for note in source.notes)

    text = (shared_data / "wikitext" / "valid.txt").read_text(encoding="utf-8")
    lines = [*text.split("\n"), "École ALTÉRÉE", "日本 İstanbul", "a\u0301 \x00b"]
    ours = source.tokenizer.encode(lines)
    assert sum(map(len, ours)) > 200_000
    assert theirs(lines, add_special_tokens=False)["input_ids"] == ours


def test_the_length_limit_of_words_is_the_one_difference(hf, folder):
    theirs = hf.AutoTokenizer.from_pretrained(folder)
    source = read_huggingface(folder)
    (note,) = (note for note in source.notes if "characters" in note)
    assert "more than 100 characters are [UNK] there, of more than 200 here" in note
    for length, equal in ((100, True), (101, False), (200, False), (201, True)):
        ids = theirs("a" * length, add_special_tokens=False)["input_ids"]
        assert (source.tokenizer.encode(["a" * length]) == [ids]) == equal, length


@pytest.mark.parametrize("lowercase", [True, False])
def test_casing_needs_one_answer(hf, folder, lowercase):
    config = folder / "tokenizer_config.json"
    edit_json(config, do_lower_case=lowercase)
    assert read_huggingface(folder).tokenizer.lowercase == lowercase
    assert (
        read_huggingface(folder, lowercase=lowercase).tokenizer.lowercase == lowercase
    )
    flag = "--no-lowercase" if lowercase else "--lowercase"
    with pytest.raises(ValueError, match=f"{flag}.*disagree"):
        read_huggingface(folder, lowercase=not lowercase)

    save_fast(hf, folder, do_lower_case=lowercase)
    assert read_huggingface(folder).tokenizer.lowercase == lowercase
    edit_json(config, do_lower_case=not lowercase, strip_accents=None)
    with pytest.raises(ValueError, match=r"tokenizer\.json lowercase.*disagree"):
        read_huggingface(folder)
    edit_json(config, do_lower_case=...)
    assert read_huggingface(folder).tokenizer.lowercase == lowercase

    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"--lowercase .*or --no-lowercase"):
        read_huggingface(folder)
    config.unlink()
    assert (
        read_huggingface(folder, lowercase=lowercase).tokenizer.lowercase == lowercase
    )


def save_fast(hf, folder, pieces=PIECES, **settings):
    """tokenizer.json as transformers writes it."""
    vocab = {piece: index for index, piece in enumerate(pieces)}
    hf.BertTokenizer(vocab, **settings).save_pretrained(folder)


RULES = [
    ({"tokenize_chinese_chars": False}, "tokenize_chinese_chars=False"),
    ({"do_basic_tokenize": False}, "do_basic_tokenize"),
    ({"never_split": ["river"]}, "never_split"),
    ({"tokenizer_class": "BertJapaneseTokenizer"}, "BertJapaneseTokenizer"),
    ({"cls_token": "<s>"}, "cls_token='<s>'"),
    ({"mask_token": {"content": "<mask>"}}, "mask_token='<mask>'"),
    ({"additional_special_tokens": ["<x>"]}, "adds.*<x>"),
    ({"extra_special_tokens": {"image_token": "<image>"}}, "adds.*<image>"),
    ({"added_tokens_decoder": {"60": {"content": "##z"}}}, "adds.*##z"),
    ({"added_tokens_decoder": {"9": {"content": "[SEP]"}}}, r"'\[SEP\]' the id 9"),
    ({"bos_token": "<s>"}, "adds.*<s>"),
    ({"auto_map": {"AutoTokenizer": ["x.Y", None]}}, "auto_map"),
    ({"do_lower_case": "false"}, "do_lower_case='false'; expected True or False"),
    ({"strip_accents": "false"}, "strip_accents='false'"),
    ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type='mecab'"),
    ({"subword_tokenizer_type": "character"}, "subword_tokenizer_type"),
    ({"wordpieces_prefix": ""}, "wordpieces_prefix=''"),
]


@pytest.mark.parametrize(("change", "message"), RULES)
def test_settings_with_other_ids_are_refused(folder, change, message):
    read_huggingface(folder)
    edit_json(folder / "tokenizer_config.json", **change)
    with pytest.raises(ValueError, match=message):
        read_huggingface(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "Japanese"),
        ("config.json", {"tokenizer_class": "MyOwnTokenizer"}, "MyOwnTokenizer"),
        ("config.json", {"do_lower_case": False}, "disagree"),
        ("special_tokens_map.json", {"unk_token": "<unk>"}, "unk_token='<unk>'"),
        ("special_tokens_map.json", {"additional_special_tokens": ["<e>"]}, "<e>"),
        ("added_tokens.json", {"[MASK]": 7}, r"'\[MASK\]' the id 7"),
        ("sentence_bert_config.json", {"do_lower_case": True}, None),
    ],
)
def test_every_file_about_ids_is_read(folder, name, change, message):
    path = folder / name
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(said | change))
    if message is None:  # no contradiction in an uncased model, but in a cased one
        read_huggingface(folder)
        edit_json(folder / "tokenizer_config.json", do_lower_case=False)
        message = "sentence_bert_config.json do_lower_case.*disagree"
    with pytest.raises(ValueError, match=message):
        read_huggingface(folder)


def test_harmless_settings_pass_and_unknown_ones_are_named(folder):
    edit_json(
        folder / "tokenizer_config.json",
        never_split=["[MASK]"],
        padding_side="left",
        dialect="Gallo",
        model_max_length=16,
    )
    edit_json(folder / "config.json", tokenizer_class="BertTokenizer")
    source = read_huggingface(folder)
    notes = " ".join(source.notes)
    assert "padding_side='left'" in notes
    assert "nothing here reads: dialect." in notes
    assert source.max_length == 16
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    assert read_huggingface(folder).max_length == 12


@pytest.mark.parametrize("form", ["vocab.txt", "both", "tokenizer.json"])
def test_a_doubled_piece_keeps_every_id_as_transformers_has_it(hf, folder, form):
    pieces = [*PIECES]
    pieces[10], double = "y", pieces.index("y")
    assert double > 10
    save_tokenizer(folder, pieces)
    if form != "vocab.txt":
        save_fast(hf, folder, pieces)
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    if form == "tokenizer.json":
        (folder / "vocab.txt").unlink()
    source = read_huggingface(folder)
    named = "[row10]" if form == "tokenizer.json" else "y"
    assert source.tokenizer.pieces == [*pieces[:10], named, *pieces[11:]]
    texts = ["y zz", "yoga xyz. y"]
    theirs = hf.AutoTokenizer.from_pretrained(folder)
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert source.tokenizer.encode(texts) == expected
    assert source.tokenizer.encode(["y"]) == [[double]]
    said = any("'y' on the lines 11 and" in note for note in source.notes)
    assert said == (form != "tokenizer.json")
    save_huggingface_tokenizer(source.tokenizer, folder / "out", 24)
    again = hf.AutoTokenizer.from_pretrained(folder / "out")
    assert again(texts, add_special_tokens=False)["input_ids"] == expected


FAST_RULES = {
    'model unk_token="."': "unk_token='.'",
    "normalizer clean_text=false": "clean_text=False",
    "normalizer handle_chinese_chars=false": "handle_chinese_chars=False",
    "model max_input_chars_per_word=50": "max_input_chars_per_word=50",
    'model continuing_subword_prefix="@@"': "continuing_subword_prefix='@@'",
    'pre_tokenizer type="Whitespace"': "pre_tokenizer='Whitespace'",
    "- normalizer=null": "normalizer=''",
    "- post_processor=null": r"makes \['r', ",
}


@pytest.mark.parametrize("rule", FAST_RULES)
def test_fast_tokenizers_with_other_ids_are_refused(hf, folder, rule):
    save_fast(hf, folder)
    read_huggingface(folder)
    path = folder / "tokenizer.json"
    part, key, value = re.split("[ =]", rule)
    rules = json.loads(path.read_text())
    (rules if part == "-" else rules[part])[key] = json.loads(value)
    path.write_text(json.dumps(rules))
    with pytest.raises(ValueError, match=FAST_RULES[rule]):
        read_huggingface(folder)


@pytest.mark.parametrize("strip_accents", [True, False])
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("form", ["slow", "fast"])
def test_accents_are_stripped_as_they_are_there(
    hf, folder, tmp_path, form, lowercase, strip_accents
):
    rules = {"do_lower_case": lowercase, "strip_accents": strip_accents}
    if form == "fast":
        save_fast(hf, folder, **rules)
    edit_json(folder / "tokenizer_config.json", **rules)
    source = read_huggingface(folder)
    texts = ["R\u00ccver e\u0301 \u00c9 river", "\u00e9"]
    theirs = hf.AutoTokenizer.from_pretrained(folder)
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert source.tokenizer.encode(texts) == expected
    assert source.tokenizer.strip_accents == strip_accents

    save_huggingface_tokenizer(source.tokenizer, tmp_path / "ours", 16)
    again = hf.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again(texts, add_special_tokens=False)["input_ids"] == expected


def test_added_tokens_need_a_fast_tokenizer(folder):
    (folder / "added_tokens.json").write_text('{"ab": 61}')
    with pytest.raises(ValueError, match=r"adds \['ab'\].* without a tokenizer\.json"):
        read_huggingface(folder)


def test_an_added_token_needs_a_row(hf, folder):
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["ab"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"62 pieces, config\.json vocab_size=61"):
        read_huggingface(folder)


def test_two_vocabularies_must_be_one(hf, folder):
    save_fast(hf, folder, [*PIECES[:-2], PIECES[-1], PIECES[-2]])
    with pytest.raises(ValueError, match=r"differ in .*'##z', 'z'"):
        read_huggingface(folder)


def test_what_is_missing_is_said_before_what_is_not_read(folder):
    (folder / "vocab.txt").unlink()
    said = {"tokenizer_class": "XLMRobertaTokenizer", "cls_token": "<s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="holds no tokenizer; expected tokenizer"):
        read_huggingface(folder)


def test_a_directory_without_a_known_tokenizer_is_refused(hf, folder):
    (folder / "vocab.txt").unlink()
    with pytest.raises(ValueError, match=r"holds no tokenizer; expected .*vocab\.txt"):
        read_huggingface(folder, lowercase=True)
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(folder / "tokenizer.json"))
    with pytest.raises(
        ValueError, match=r"makes \[\] of an empty text; expected two special"
    ):
        read_huggingface(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        read_huggingface(folder)


def test_rows_without_a_piece_are_kept(make_model, tmp_path, hf):
    model = make_model("BertForPreTraining", vocab_size=64)
    source = read_huggingface(save(model, tmp_path / "theirs"))
    assert source.model.vocab_size == source.tokenizer.vocab_size == 64
    assert source.tokenizer.pieces[:61] == PIECES
    assert any("[row61] to [row63]" in note for note in source.notes)
    plain = WordPieceTokenizer("\n".join(PIECES).encode(), lowercase=True)
    texts = ["[row61] row61", "river [stone], [row63]"]
    assert source.tokenizer.encode(texts) == plain.encode(texts)
    assert_equal(source.tensors, state_of(model))
    read = from_tensors(
        source.model, source.tensors, BERT.rows(source.model, source.head)
    )
    parts = (source.model, read.params, source.head, source.tokenizer)
    write_huggingface(PortableModel(*parts), tmp_path / "ours")
    back = hf.BertForPreTraining.from_pretrained(tmp_path / "ours")
    assert_equal(state_of(back), state_of(model))
    again = read_huggingface(tmp_path / "ours")
    assert again.tokenizer.sha256 == source.tokenizer.sha256


def test_more_pieces_than_rows_are_refused(folder):
    save_tokenizer(folder, [*PIECES, "é"])
    with pytest.raises(ValueError, match=r"62 pieces.*vocab_size=61"):
        read_huggingface(folder)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_our_sentencepiece_exports_come_back(
    tiny, random_params, tmp_path, kind, lowercase
):
    def train(seed):
        rng = np.random.default_rng(seed)
        words = ["river", "Stone", "window", "École", "teach", "Music", "[x]", "."]
        words += [word + ending for word in words for ending in ("s", "ing", "ed")]
        lines = [" ".join(rng.choice(words, 9)) for _ in range(300)]
        return train_sentencepiece(
            lines, vocab_size=48, lowercase=lowercase, model_type=kind
        )

    tokenizer = train(0)
    cfg = dataclasses.replace(tiny, vocab_size=48)
    params = random_params(cfg)
    write_huggingface(
        PortableModel(cfg, params, "pretraining", tokenizer), tmp_path / "ours"
    )
    source = read_huggingface(tmp_path / "ours")
    assert source.tokenizer.sha256 == tokenizer.sha256
    assert source.tokenizer.lowercase == lowercase
    assert source.notes == ()
    with pytest.raises(ValueError, match="disagree"):
        read_huggingface(tmp_path / "ours", lowercase=not lowercase)
    model_path = tmp_path / "ours" / "sentencepiece.model"
    model = model_path.read_bytes()
    model_path.write_bytes(model.replace("▁river".encode(), "▁ravir".encode()))
    with pytest.raises(ValueError, match=r"tokenizer\.json.*differ in"):
        read_huggingface(tmp_path / "ours")
    model_path.write_bytes(model[:-3])
    with pytest.raises(ValueError, match="damaged"):
        read_huggingface(tmp_path / "ours")
    model_path.write_bytes(model)
    edit_json(tmp_path / "ours" / "config.json", vocab_size=50)
    with pytest.raises(ValueError, match=r"48 pieces.*vocab_size=50"):
        read_huggingface(tmp_path / "ours")
