"""Tokenizers from sources and vocabularies: whole directories, written once."""

import json

import pytest
from tokenizer_texts import sentences, train

from bert_jax.cli import main
from bert_jax.config import ReadOptions, TokenizerOptions
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer_training import (
    TRAINING_FILE,
    train_tokenizer,
)

SMALL = {"unigram": 58, "bpe": 58, "wordpiece": 80, "byte-bpe": 290}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    lines = [f"{line}." for line in sentences()]
    for number in range(4):
        part = lines[number::4]
        (folder / f"{number}.txt").write_text("\n".join(part), encoding="utf-8")
    return f"files:{folder}/*.txt"


def options(kind="unigram", **changes):
    return TokenizerOptions(kind=kind, vocab_size=SMALL[kind], **changes)


@pytest.mark.parametrize("kind", SMALL)
def test_a_source_becomes_a_tokenizer(source, tmp_path, kind):
    seen = []
    made = train_tokenizer(
        source, tmp_path / "out", options(kind), lambda *done: seen.append(done)
    )
    assert made.is_new
    assert load_tokenizer(tmp_path / "out").sha256 == made.tokenizer.sha256
    assert made.tokenizer.vocab_size == SMALL[kind]
    assert made.tokenizer.lowercase
    (total,) = {total for _, total in seen}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen.count((total, total)) == 1
    assert seen[-1] == (total, total)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_done_work_is_found_and_other_settings_are_refused(source, tmp_path):
    out = tmp_path / "out"
    first = train_tokenizer(source, out, options())
    stamps = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = train_tokenizer(source, out, options(), lambda *done: pytest.fail("read"))
    assert not again.is_new
    assert "is there already: 58 pieces" in again.describe()[1]
    assert again.tokenizer.sha256 == first.tokenizer.sha256
    for change, message in (
        (options(lowercase=False), "lowercase is True there and False here"),
        (options("bpe"), "kind is 'unigram' there and 'bpe' here"),
        (options(read=ReadOptions(documents="file")), "read is .*'file'"),
    ):
        with pytest.raises(ValueError, match=message):
            train_tokenizer(source, out, change)
    with pytest.raises(ValueError, match=r"source is .*source_bytes is "):
        train_tokenizer(source.replace("*", "0"), out, options())
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == stamps


def test_a_taken_directory_is_refused_before_reading(source, tmp_path):
    train().save(tmp_path / "saved")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    for name, message in (
        ("saved", "this command did not train"),
        ("other", "is taken"),
    ):
        with pytest.raises(ValueError, match=message):
            train_tokenizer(
                source, tmp_path / name, options(), lambda *done: pytest.fail("read")
            )


def test_a_failure_leaves_nothing(source, tmp_path):
    with pytest.raises(ValueError, match="at most"):
        train_tokenizer(source, tmp_path / "out", TokenizerOptions(vocab_size=9_000))
    with pytest.raises(ValueError, match=r"language='x1'"):
        train_tokenizer(source, tmp_path / "out", options(language="x1"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strip_accents": True}, "rule of WordPiece"),
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"max_bytes": -1}, "max_bytes=-1"),
        ({"max_bytes": 3_999}, "max_bytes=3999 must be at least 4,000"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TokenizerOptions(**changes)


def test_a_vocabulary_is_wrapped_once(tmp_path, capsys, refused):
    vocab, out = tmp_path / "vocab.txt", tmp_path / "out"
    vocab.write_bytes(train("wordpiece").model)
    command = ["tokenizer", "wrap", str(vocab), "--lowercase", "--output", str(out)]
    main(command)
    assert "written" in capsys.readouterr().out
    assert load_tokenizer(out).pieces == train("wordpiece").pieces
    assert load_tokenizer(out).strip_accents, "as BERT does"
    main(command)
    assert "is there already" in capsys.readouterr().out
    new = ["--output", str(tmp_path / "x")]
    for wrong, message in (
        ([*command, "--strip-accents", "False"], "other rules"),
        ([*command[:2], str(tmp_path / "none.txt"), *new], "none.txt: no such file"),
        ([*command[:2], str(tmp_path), *new], f"{tmp_path}: a folder; expected"),
        ([*command[:3], *new], "pass --lowercase"),
    ):
        assert message in refused(*wrong)
    assert not (tmp_path / "x").exists()


def test_a_tokenizer_json_is_wrapped(tmp_path, refused):
    tokenizer = train("byte-bpe")
    file, out = tmp_path / "tokenizer.json", tmp_path / "out"
    file.write_bytes(tokenizer.model)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    command = ["tokenizer", "wrap", str(file), "--output", str(out)]
    assert "leave --lowercase" in refused(*command, "--lowercase")
    main(command)
    found = load_tokenizer(out)
    assert found.encode(["Rivers"]) == tokenizer.encode(["Rivers"])
    assert found.config == {"model_max_length": 77}


def test_commands(source, tmp_path, capsys, refused):
    out = str(tmp_path / "out")
    command = ["tokenizer", "train", "--source", source, "--output", out]
    command += ["--kind", "wordpiece", "--vocab-size", "30", "--no-lowercase"]
    command += ["--strip-accents", "--max-sentences", "300"]
    assert "need" in refused(*command)
    command[command.index("30")] = "100"
    main(command)
    said = capsys.readouterr().out
    assert f"{out} written: 100 pieces" in said
    assert "removes accents and vowel signs" in said
    settings = json.loads((tmp_path / "out" / TRAINING_FILE).read_text())
    assert settings["strip_accents"] is True
    assert settings["max_sentences"] == 300
    tokenizer = load_tokenizer(tmp_path / "out")
    assert not tokenizer.lowercase
    assert tokenizer.normalization["strip_accents"]
    main(command)
    assert "is there already" in capsys.readouterr().out

    vocab = str(tmp_path / "out" / "vocab.txt")
    wrap = ["tokenizer", "wrap", vocab, "--output", str(tmp_path / "wrapped")]
    assert "pass --lowercase" in refused(*wrap)
    main([*wrap, "--no-lowercase"])
    assert not load_tokenizer(tmp_path / "wrapped").lowercase
    for args in (["tokenizer"], ["tokenizer", "--help"]):
        with pytest.raises(SystemExit):
            main(args)
        shown = capsys.readouterr()
        assert "train" in shown.out + shown.err
        assert "wrap" in shown.out + shown.err


def test_two_sources_are_one_text(source, tmp_path, capsys):
    (tmp_path / "more.txt").write_text("A zebra, a zebra.\n\nQuickly!\n" * 40)
    command = ["tokenizer", "train", "--source", source]
    command += ["--source", str(tmp_path / "more.txt"), "--vocab-size", "64"]
    command += ["--output", str(tmp_path / "out")]
    for _ in range(2):
        main(command)
        said = capsys.readouterr().out
        assert f"source {source}: 4 documents of" in said
        assert "more.txt: 41 documents of" in said
    assert "z" in "".join(load_tokenizer(tmp_path / "out").pieces)


@pytest.mark.parametrize("command", ["tokenizer train --vocab-size 66", "prepare"])
def test_broken_records_are_counted_over_all_files_of_a_source(
    tmp_path, refused, command
):
    line = json.dumps({"text": "The river was long. A stone lay there."})
    for number in range(2):
        lines = [line] * 30 + ['{"text": 5}\n']
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    train_tokenizer(
        f"files:{tmp_path}/*.jsonl",
        tmp_path / "tokenizer",
        TokenizerOptions(
            kind="wordpiece", vocab_size=40, read=ReadOptions(skip_broken=2)
        ),
    )
    given = ["--tokenizer", str(tmp_path / "tokenizer")] * (command == "prepare")
    said = refused(
        *(*command.split(), "--source", f"files:{tmp_path}/*.jsonl", *given),
        *("--output", str(tmp_path / "out"), "--read.skip-broken", "1"),
    )
    assert "2 records that cannot be read, more than --read.skip-broken 1" in said
