"""Vocabularies that are extended on import: ids, rows of the token table, and refusals."""

import dataclasses
import json

import numpy as np
import pytest
from family_models import make
from huggingface_models import PIECES, make_random, save
from huggingface_tokenizers import save_tokenizer

from bert_jax.cli import main
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.exchange.added_tokens import add_tokens, read_token_list
from bert_jax.exchange.read_huggingface import read_huggingface
from bert_jax.exchange.source import Slots
from bert_jax.exchange.tokenizer import save_huggingface_tokenizer
from bert_jax.train.runs.run import load_run, load_run_tokenizer

TABLE, BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
TOKENS = ["covid", "Ri-ver", "COVID", "a", "##b", "日本"]


@pytest.fixture(scope="module")
def folder(hf, tmp_path_factory):
    model = make_random(hf, "BertForPreTraining")
    return save(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def source(folder):
    return read_huggingface(folder)


def test_added_tokens_have_the_ids_of_transformers(folder, source, hf, tmp_path):
    extended, added = add_tokens(source, TOKENS, "mean", seed=0)
    assert list(added.pieces) == ["covid", "Ri-ver", "日本"]
    assert added.pieces["covid"] == ["c", "##o", "##v", "##i", "##d"]
    assert added.pieces["日本"] == ["[UNK]", "[UNK]"]
    assert added.skipped == {
        "COVID": "it is the same as 'covid'",
        "a": "the vocabulary has it already",
        "##b": "the vocabulary has it already",
    }
    theirs = hf.AutoTokenizer.from_pretrained(folder)
    assert theirs.add_tokens(list(added.pieces)) == 3
    texts = ["the covid river , ri-ver Covid-ri-vers 日本", "uncovid", "a b [MASK]c"]
    expected = theirs(texts[:2], add_special_tokens=False)["input_ids"]
    tokenizer = extended.tokenizer
    assert tokenizer.encode(texts[:2]) == expected
    assert {61, 62, 63} <= {*expected[0]}
    # Text without these tokens has the ids that it had.
    assert tokenizer.encode(texts[2:]) == source.tokenizer.encode(texts[2:])
    assert tokenizer.special == source.tokenizer.special
    assert tokenizer.pair == source.tokenizer.pair
    save_huggingface_tokenizer(tokenizer, tmp_path, 24)
    again = hf.AutoTokenizer.from_pretrained(tmp_path)
    assert again(texts)["input_ids"] == theirs(texts)["input_ids"]


@pytest.mark.parametrize("name", ["distilbert", "nomic_bert"])
def test_every_family_can_have_more_tokens(hf, tmp_path, name):
    save(make(name, "mlm", vocab=len(PIECES), layers=1).model, tmp_path)
    source = read_huggingface(tmp_path)
    for head in (
        "mlm",
        "classifier",
    ):  # a classifier's file may hold the other head too
        given = dataclasses.replace(source, head=head)
        extended, _ = add_tokens(given, ["covid"], "mean", seed=0)
        sizes = {len(x) for x in extended.tensors.values()}
        assert len(PIECES) not in sizes
        assert len(PIECES) + 1 in sizes


def test_new_rows_are_the_means_of_the_pieces(source):
    extended, _ = add_tokens(source, TOKENS, "mean", seed=0)
    assert extended.model.vocab_size == 64
    for name in (TABLE, BIAS):
        before, after = source.tensors[name], extended.tensors[name]
        assert after.shape == (64, *before.shape[1:])
        np.testing.assert_array_equal(after[:61], before)
        pieces = [source.tokenizer.pieces.index(x) for x in ("c", "##o", "##v")]
        pieces += [source.tokenizer.pieces.index(x) for x in ("##i", "##d")]
        # Sums of five float32 numbers in another order.
        mean = before[pieces].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(after[61], mean, atol=1e-7)
        np.testing.assert_array_equal(after[63], before[1])  # [UNK]
    others = source.tensors.keys() - {TABLE, BIAS}
    assert all(extended.tensors[name] is source.tensors[name] for name in others)


def test_new_rows_are_drawn(source):
    extended, _ = add_tokens(source, TOKENS, "random", seed=0)
    again, _ = add_tokens(source, TOKENS, "random", seed=0)
    other, _ = add_tokens(source, TOKENS, "random", seed=1)
    rows = extended.tensors[TABLE][61:]
    assert 0.0 < np.abs(rows).max() <= 2 * source.model.init_std
    assert np.unique(rows).size > 0.9 * rows.size
    assert not extended.tensors[BIAS][61:].any()
    np.testing.assert_array_equal(rows, again.tensors[TABLE][61:])
    assert (rows != other.tensors[TABLE][61:]).any()


def test_moments_of_new_rows_are_zero(source):
    moments = {TABLE: np.ones((61, 32), np.float32)}
    with_slots = dataclasses.replace(source, slots=Slots(moments, moments))
    extended, _ = add_tokens(with_slots, TOKENS, "mean", seed=0)
    for tensors in extended.slots:
        assert tensors[TABLE].shape == (64, 32)
        assert tensors[TABLE][:61].all()
        assert not tensors[TABLE][61:].any()


def test_the_first_tokens_take_rows_that_are_left_over(hf, tmp_path):
    lines = ["the river and the sea, the stones of a river"] * 20
    model = make_random(hf, "BertForPreTraining", vocab_size=290)
    model.save_pretrained(tmp_path)
    save_tokenizer("modernbert", lines, tmp_path, 286)
    source = read_huggingface(tmp_path)
    used = len(hf.AutoTokenizer.from_pretrained(tmp_path))
    tokens = [f"new{n}" for n in range(290 - used + 2)]
    extended, added = add_tokens(source, tokens, "mean", seed=0)
    assert [*added.pieces] == tokens
    tokenizer = extended.tokenizer
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert tokenizer.pieces[used:] == tokens
    assert extended.model.vocab_size == tokenizer.vocab_size == 292
    pieces = source.tokenizer.encode_words(["new0"])[0]
    mean = source.tensors[TABLE][pieces].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(extended.tensors[TABLE][used], mean, atol=1e-7)
    assert tokenizer.config == source.tokenizer.config


def test_the_command_says_and_keeps_what_it_did(folder, tmp_path, capsys, refused):
    file, run = tmp_path / "tokens.txt", tmp_path / "run"
    file.write_text("covid\n\n  Ri-ver \na\n", encoding="utf-8")
    main(["import", str(folder), "--output", str(run), "--add-tokens", str(file)])
    said = capsys.readouterr().out
    assert "2 tokens were added, with their pieces before: covid (c ##o ##v" in said
    assert "'a' was not added: the vocabulary has it already" in said
    manifest = json.loads((run / "import.json").read_text())
    assert manifest["added_tokens"]["pieces"]["Ri-ver"] == [
        *("r", "##i", "[UNK]", "v", "##e", "##r")
    ]
    assert manifest["added_tokens"]["new_rows"] == "mean"
    assert load_run(run).model.vocab_size == 63
    assert load_run_tokenizer(run).pieces[61:] == ["covid", "Ri-ver"]
    for content, message in ((b"\n \n", "holds no token"), (b"\xff", "UTF-8")):
        file.write_bytes(content)
        assert message in refused(
            "import", folder, "--output", "x", "--add-tokens", file
        )


def test_lines_of_tokens_end_at_line_breaks_only(tmp_path):
    file = tmp_path / "tokens.txt"
    file.write_bytes("a\u2028b\r\nc\x1cd\n\ne\x85f".encode())
    assert read_token_list(file) == ["a\u2028b", "c\x1cd", "e\x85f"]


def test_nothing_new_changes_nothing(folder, source, tmp_path):
    extended, added = add_tokens(source, ["a", "b"], "mean", seed=0)
    assert not added.pieces
    assert extended.tokenizer is source.tokenizer
    assert extended.model == source.model
    assert extended.tensors is source.tensors
