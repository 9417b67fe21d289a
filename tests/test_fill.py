"""`bert-jax fill`: masks of texts, beside transformers and from the command line."""

import io
import json
import sys

import numpy as np
import pytest
from exchange_models import make_tokenizer
from random_runs import random_run
from small_tokenizers import wordpiece

from bert_jax import cli
from bert_jax.exchange.export import export_run
from bert_jax.train.inference.fill import Filler

TEXTS = (
    "A [MASK] river.",
    "[MASK] stone, [MASK]",
    "the window is [MASK][MASK] music and [MASK] teach ed",
    "un[MASK]ed Stone",
)


def cased():
    signs = [mark + sign for sign in "abcdeinorstuvwABST" for mark in ("", "##")]
    return wordpiece(".", ",", *signs, lowercase=False)


TOKENIZERS = {
    "uncased": lambda: make_tokenizer("wordpiece"),
    "cased": cased,
    "unigram": lambda: make_tokenizer("unigram"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return random_run(
        tmp_path_factory.mktemp("fill") / "run", make_tokenizer("wordpiece")
    )


@pytest.fixture(scope="module")
def filler(run):
    return Filler(run, top=3)


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_guesses_are_those_of_the_pipeline_of_transformers(
    tmp_path, kind, hf, record_route
):
    """Float32. Largest difference of a probability: 1.5e-7; ten times that."""
    run = random_run(tmp_path / "run", TOKENIZERS[kind]())
    export_run(run, tmp_path / "hf", "huggingface")
    pipe = hf.pipeline("fill-mask", model=str(tmp_path / "hf"), top_k=4)
    # A Unigram model of transformers begins a word behind every mask. Ours goes on with
    # the word, as pretraining has it, so the last text is another one there.
    texts = TEXTS[:-1] if kind == "unigram" else TEXTS
    found = Filler(run, top=4)([(text,) for text in texts])
    worst = 0.0
    for text, ours in zip(texts, found, strict=True):
        theirs = pipe(text)
        theirs = [theirs] if isinstance(theirs[0], dict) else theirs
        assert len(theirs) == len(ours["masks"]) == text.count("[MASK]")
        for guesses, expected in zip(ours["masks"], theirs, strict=True):
            pieces = [
                pipe.tokenizer.convert_ids_to_tokens(x["token"]) for x in expected
            ]
            assert [x["piece"] for x in guesses] == pieces
            shares = np.array([x["probability"] for x in guesses])
            worst = max(worst, np.abs(shares - [x["score"] for x in expected]).max())
    assert worst < 1.5e-6
    record_route(f"fill beside the fill-mask pipeline, {kind}", f"{worst:.1e}")


def test_batches_and_masks_of_others_change_nothing(filler):
    texts = [(f"{'stone ' * n}[MASK] {'river ' * (n % 3)}",) for n in range(3)]
    together = filler([*texts, ("[MASK] " * 5,)])
    for text, expected in zip(texts, together, strict=False):
        [alone] = filler([text])
        assert alone["filled"] == expected["filled"]
        for a, b in zip(alone["masks"][0], expected["masks"][0], strict=True):
            assert a["probability"] == pytest.approx(b["probability"], rel=1e-4)
    assert [len(x["masks"]) for x in together] == [1, 1, 1, 5]


@pytest.mark.parametrize(
    ("text", "best", "filled"),
    [
        ("É [MASK]  Zoo [MASK], x [MASK]", ["a", "##b", "."], "É a  Zoob, x ."),
        # A word is no part of the one before it.
        ("Zoo[MASK][MASK],[MASK] x[MASK]", ["a", "b", "a", "."], "Zoo a b,a x."),
        ("[MASK]Zoo, [MASK]Zoo", ["a", "."], "a Zoo, .Zoo"),
    ],
)
def test_a_guess_is_put_into_the_text_as_it_was_written(
    filler, monkeypatch, text, best, filled
):
    ids = {piece: index for index, piece in enumerate(filler.tokenizer.pieces)}
    given = iter(best)

    def guesses(rows):
        pieces = [[[ids[next(given)]] for _ in row.masks] for row in rows]
        return np.ones(np.shape(pieces)), np.array(pieces)

    monkeypatch.setattr(filler, "_guesses", guesses)
    [found] = filler([(text,)])
    assert found["filled"] == filled
    assert [x[0]["text"] for x in found["masks"]] == [x.strip("#") for x in best]


def test_what_stands_behind_a_mask_begins_no_word(tmp_path):
    """SentencePiece takes the beginning of every text for that of a word."""
    filler = Filler(random_run(tmp_path / "run", make_tokenizer("unigram")))
    pieces = filler.tokenizer.pieces
    row = filler._row(("[MASK]. [MASK] river",), "Text 1")
    assert [pieces[index] for index in row.ids[:3]] == ["[MASK]", ".", "[MASK]"]
    assert pieces[row.ids[3]].startswith("▁")
    assert row.masks == [0, 2]


@pytest.fixture
def failed(refused):
    return lambda *args: " ".join(refused("fill", *args).split())


def test_texts_a_file_and_standard_input_are_filled(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["fill", str(run), "a [MASK]", "--top", "2"])
    filled, guesses = capsys.readouterr().out.splitlines()
    assert filled.startswith("a")
    assert guesses.count("%") == 2
    (tmp_path / "x.txt").write_bytes("\ufeffé\u2028 [MASK]\r\n\r\n[MASK] b\n".encode())
    cli.main(["fill", str(run), "x.txt", "--output", "y.jsonl"])
    written = (tmp_path / "y.jsonl").read_text().strip().split("\n")
    lines = [json.loads(x) for x in written]
    assert [line["text"] for line in lines] == ["é\u2028 [MASK]", "[MASK] b"]
    assert {len(line["masks"][0]) for line in lines} == {5}
    monkeypatch.setattr(sys, "stdin", io.StringIO("a [MASK]\n"))
    cli.main(["fill", str(run), "--top", "2"])
    assert capsys.readouterr().out.splitlines() == [filled, guesses]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no mask"], "Text 1, 'no mask', has no mask. Write [MASK]"),
        (["[MASK] " * 31], "has 33 tokens; this run takes at most 32"),
        (["[MASK]", "--top", "0"], "--top 0 must be greater than 0"),
        (["[MASK]", "--top", "999"], "top=999 is no number from 1 to 61"),
        (["[MASK]", "--encoding", "latin-1"], "would be ignored: no file is given"),
        (["[MASK]", "--output", "x.txt"], "give a name that ends in .jsonl"),
        (["none.txt"], "none.txt does not exist"),
        ([" "], "Nothing to work on: of 1 text, each is empty"),
        (["blank.txt"], "Nothing to work on: of 2 texts, each is empty"),
    ],
)
def test_what_cannot_be_filled_is_told(
    run, failed, tmp_path, monkeypatch, arguments, message
):
    (tmp_path / "blank.txt").write_text("\n \n")
    monkeypatch.chdir(tmp_path)
    assert message in failed(run, *arguments)


def test_an_unknown_encoding_is_told(run, failed, tmp_path):
    (tmp_path / "a.txt").write_text("[MASK]")
    said = failed(run, str(tmp_path / "a.txt"), "--encoding", "utf-9")
    assert "encoding='utf-9' is no encoding of text" in said


def test_a_fine_tuned_run_has_no_head_for_it(tmp_path, failed):
    run = random_run(tmp_path / "run", make_tokenizer("wordpiece"), "classification")
    said = failed(run, "[MASK]")
    assert "is a fine-tuned run (task classification), which has no MLM head" in said
