"""The audit of a whole prepared dataset: found, dropped, refused when strict."""

import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from prepared_corpus import FRACTION, contents, make_corpus, prepared

from bert_jax.config import PrepareOptions, ReadOptions
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.format import SPLITS
from bert_jax.data.prepared.locking import locked
from bert_jax.data.prepared.prepare import prepare


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(source, its records, tokenizer): files of which two hold copies."""
    folder = tmp_path_factory.mktemp("corpus")
    source, records, tokenizer = make_corpus(folder)
    copies = [{**record, "key": f"copy {n}"} for n, record in enumerate(records[:7])]
    # One word of a long document changed.
    rng = np.random.default_rng(1)
    text = " ".join(rng.choice(["river", "stone", "music", "garden"], 300))
    long = {"text": text, "key": "long", "group": "long"}
    near = {"text": text.replace(" ", "  ", 1) + " letter", "key": "near", "group": "n"}
    for name, lines in (("x", [*copies, long]), ("y", [*copies[:3], near])):
        lines = [line | {"key": f"{name} {line['key']}"} for line in lines]
        records += lines
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"part-{name}.jsonl").write_text(text)
    return source, records, tokenizer


@pytest.fixture(scope="module")
def kept(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("kept") / "dataset"
    return output, prepared(corpus, output, near_threshold=0.9)


def keys(directory) -> set[str]:
    builder = tfds.builder_from_directory(str(directory))
    return {
        record["key"].decode()
        for split in SPLITS
        for record in builder.as_data_source(split=split)
    }


def test_copies_are_counted_over_all_shards(kept):
    copies = kept[1]["audit"]["duplicates"]
    assert (copies["exact"], copies["near"], copies["dropped"]) == (10, 1, False)


def test_held_out_copies_are_counted(corpus, kept):
    output, manifest = kept
    builder = tfds.builder_from_directory(str(output))
    text_of = {record["key"]: record["text"] for record in corpus[1]}
    train, validation = (
        [text_of[r["key"].decode()] for r in builder.as_data_source(split=split)]
        for split in SPLITS
    )
    leaked = sum(text in train for text in validation)
    assert manifest["audit"]["duplicates"]["leaked"] == leaked


def test_copies_are_dropped_and_the_first_stays(corpus, kept, tmp_path):
    dropped = prepared(
        corpus, tmp_path / "dataset", near_threshold=0.9, duplicates="drop"
    )
    assert dropped["audit"]["duplicates"]["dropped"]
    assert dropped["audit"]["duplicates"]["exact"] == 10
    gone = keys(kept[0]) - keys(tmp_path / "dataset")
    assert gone == {
        *(f"x copy {n}" for n in range(7)),
        *(f"y copy {n}" for n in range(3)),
        "y near",
    }
    assert keys(tmp_path / "dataset") < keys(kept[0])
    documents = sum(split["documents"] for split in dropped["splits"].values())
    assert documents == len(keys(tmp_path / "dataset"))
    assert dropped["audit"]["lines"] == documents


@pytest.mark.slow(ci=False)
def test_two_workers_drop_the_same(corpus, tmp_path):
    reports = []
    for workers in (1, 2):
        prepared(
            corpus,
            tmp_path / str(workers),
            duplicates="drop",
            num_workers=workers,
            progress=lambda done, total: reports.append((done, total)),
        )
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len({total for _, total in reports}) == 1
    assert reports[-1][0] == reports[-1][1]


def test_strict_names_everything_and_keeps_the_work(corpus, tmp_path):
    source, _, tokenizer = corpus
    options = PrepareOptions(validation_fraction=FRACTION)
    output = tmp_path / "dataset"
    with pytest.raises(ValueError, match=r"--strict: the audit of .*found") as refused:
        prepare(source, tokenizer, output, options, strict=True, num_workers=1)
    assert re.search(r"\n  - copies of other documents: 1\d\.", str(refused.value))
    assert not (output / "manifest.json").exists()
    shard = next(output.glob("documents-train*"))
    before = shard.stat().st_mtime_ns
    prepare(source, tokenizer, output, options, num_workers=1)
    assert shard.stat().st_mtime_ns == before, "a finished shard was written again"
    # A finished dataset is judged as well.
    with pytest.raises(ValueError, match=r"--strict: the audit of .*found"):
        prepare(source, tokenizer, output, options, strict=True, num_workers=1)


def test_how_documents_are_read_is_a_setting(corpus, tmp_path):
    (tmp_path / "pages").mkdir()
    for n in range(20):
        text = f"<p>The river {n}.</p>\n\nA stone &amp; music.\n"
        (tmp_path / "pages" / f"{n:02}.txt").write_text(text)
    manifest = prepare(
        f"files:{tmp_path}/pages/*.txt",
        corpus[2],
        tmp_path / "dataset",
        PrepareOptions(
            validation_fraction=0.3,
            read=ReadOptions(documents="file", markup="strip"),
        ),
        num_workers=1,
    )
    assert manifest["read"]["documents"] == manifest["read"]["markup_documents"] == 20
    assert manifest["read"]["markup_elements"] == 60
    opened = open_dataset(tmp_path / "dataset")
    text = opened.tokenizer.decode(opened.load_split("train").tokens)
    assert "river" in text
    assert "amp" not in text


def test_an_unknown_language_is_refused_at_once(corpus, tmp_path):
    with pytest.raises(ValueError, match="'klingon'"):
        prepared(corpus, tmp_path / "dataset", language="klingon")
    assert not (tmp_path / "dataset").exists()


def test_one_writer_at_a_time(corpus, tmp_path):
    (tmp_path / "dataset").mkdir()
    with (
        locked(tmp_path / "dataset"),
        pytest.raises(ValueError, match=r"dataset is being written by another"),
        locked(tmp_path / "dataset"),
    ):
        raise AssertionError("two writers")
    with locked(tmp_path / "dataset"):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"near_threshold": 1.5}, r"near_threshold=1.5 is not in \[0, 1\]"),
        ({"num_shards": 0}, "num_shards=0 must be greater than 0"),
        ({"validation_fraction": 1.0}, r"validation_fraction=1.0 is not in \(0, 1\)"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        PrepareOptions(**settings)
