"""Text to a prepared dataset and back: counts, bytes, settings, interruptions.

Worker processes take a second to start, so tests share one dataset or damage copies.
"""

import collections
import json
import math
import os
import re
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from prepared_corpus import (
    FRACTION,
    NUM_FILES,
    contents,
    make_corpus,
    other_tokenizer,
    prepared,
)

from bert_jax import cli
from bert_jax.config import DataConfig, PrepareOptions, ReadOptions
from bert_jax.data.batches.packing import pack
from bert_jax.data.batches.pairs import make_pairs
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.prepared.format import SPLITS
from bert_jax.data.prepared.manifest import read_manifest
from bert_jax.data.prepared.prepare import prepare
from bert_jax.data.prepared.stages import unigram_entropy
from bert_jax.data.prepared.summary import describe, problems
from bert_jax.data.text.sentences import sentences, validation_group
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer


def expected_documents(corpus, tokenizer) -> dict[str, dict[str, list[list[int]]]]:
    """split -> key -> sentences of ids, straight from the records."""
    found = {split: {} for split in SPLITS}
    for record in corpus[1]:
        ids = [tokenizer.encode([x])[0] for x in sentences(record["text"])]
        ids = [sentence for sentence in ids if sentence]
        held_out = validation_group(record["group"], FRACTION)
        if ids:
            found["validation" if held_out else "train"][record["key"]] = ids
    return found


def test_manifest_counts_what_is_there(corpus, dataset):
    opened = open_dataset(dataset)
    documents = expected_documents(corpus, opened.tokenizer)
    text_of = {record["key"]: record["text"] for record in corpus[1]}
    for split, counts in opened.manifest["splits"].items():
        mine = documents[split]
        ids = [x for document in mine.values() for s in document for x in s]
        shares = [n / len(ids) for n in collections.Counter(ids).values()]
        entropy = -math.fsum(p * math.log(p) for p in shares)
        assert counts == {
            "documents": len(mine),
            "sentences": sum(len(document) for document in mine.values()),
            "tokens": len(ids),
            "bytes": sum(len(text_of[key].encode()) for key in mine),
            "unigram_entropy": pytest.approx(entropy, rel=1e-12),
        }
        assert min(counts.values()) > 0
    assert opened.manifest["audit"]["documents_without_tokens"] == 1
    assert opened.manifest["read"]["documents"] == len(corpus[1])
    assert opened.manifest["tokenizer"]["vocab_size"] == 44
    assert len(opened.manifest["sha256"]) == 2 * NUM_FILES


def test_tfds_opens_it_and_finds_the_tokens(corpus, dataset):
    builder = tfds.builder_from_directory(str(dataset))
    assert set(builder.info.splits) == set(SPLITS)
    documents = expected_documents(corpus, open_dataset(dataset).tokenizer)
    for split in SPLITS:
        found = {}
        for record in builder.as_data_source(split=split):
            bounds = np.cumsum(record["sentence_lengths"])[:-1]
            assert record["tokens"].dtype == np.uint16
            parts = np.split(record["tokens"], bounds)
            found[record["key"].decode()] = [part.tolist() for part in parts]
        assert found == documents[split]
        assert builder.info.splits[split].num_examples == len(found)


def test_streams_hold_the_same_documents(corpus, dataset):
    opened = open_dataset(dataset)
    documents = expected_documents(corpus, opened.tokenizer)
    for split in SPLITS:
        store = opened.load_split(split)
        for starts in (store.sentence_starts, store.document_starts):
            assert starts.dtype == np.int64
            assert starts[0] == 0
            assert (np.diff(starts) > 0).all(), "an empty sentence or document"
        assert store.sentence_starts[-1] == store.tokens.size
        assert store.document_starts[-1] == store.sentence_starts.size - 1
        sentence = np.split(store.tokens, store.sentence_starts[1:-1])
        sentence = [part.tolist() for part in sentence]
        bounds = zip(store.document_starts, store.document_starts[1:], strict=False)
        found = [sentence[start:end] for start, end in bounds]
        # Shards and files stand in order, whoever wrote them.
        assert found == list(documents[split].values())
        assert opened.tokenizer.vocab_size > store.tokens.max()


def test_streams_are_laid_out_once(damaged):
    first = open_dataset(damaged).load_split("train")
    index = damaged / "index" / "train"
    before = {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    again = open_dataset(damaged).load_split("train")
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {p.name: p.stat().st_mtime_ns for p in index.iterdir()} == before
    assert os.listdir(index.parent) == ["train"]


def test_groups_stay_on_one_side(corpus, dataset):
    group_of = {record["key"]: record["group"] for record in corpus[1]}
    builder = tfds.builder_from_directory(str(dataset))
    groups = {
        split: [
            group_of[record["key"].decode()]
            for record in builder.as_data_source(split=split)
        ]
        for split in SPLITS
    }
    assert not set(groups["train"]) & set(groups["validation"])
    for split in SPLITS:
        counts = collections.Counter(groups[split])
        assert set(counts.values()) == {3}, "a group of three lost a member"
    assert sum(len(x) for x in groups.values()) == NUM_FILES * 15


def test_workers_do_not_matter(corpus, dataset, tmp_path):
    reports = []

    def progress(done, total):
        reports.append((done, total))

    manifest = prepared(corpus, tmp_path / "two", num_workers=2, progress=progress)
    assert contents(tmp_path / "two") == contents(dataset)
    assert manifest == read_manifest(dataset)
    done, totals = zip(*reports, strict=True)
    assert len(set(totals)) == 1
    assert done[0] == 0
    assert done[-1] == totals[0] > 0
    assert list(done) == sorted(done)


def test_unfinished_work_is_finished_to_the_same_bytes(corpus, dataset, damaged):
    expected = contents(dataset)
    # What a kill can leave: no manifest, one shard done but for its statistics, one
    # not begun, one half written.
    (damaged / "manifest.json").unlink()
    for name in ("dataset_info.json", "features.json"):
        (damaged / name).unlink()
    for index in (1, 2, 3):
        (damaged / "shards" / f"{index:05d}.stats.json").unlink()
    half, absent = (
        damaged / f"documents-train.array_record-{index:05d}-of-00004"
        for index in (2, 3)
    )
    absent.unlink()
    scratch = damaged / "unfinished" / "00002-1234"
    scratch.mkdir(parents=True)
    (scratch / "train").write_bytes(half.read_bytes()[:-99] * 2)
    half.unlink()
    (scratch / "counts.npy.gz").write_bytes(b"half")
    (damaged / "shards" / "00003.stats.json.partial-1234").write_bytes(b"{")
    (damaged / "manifest.json.partial-1234").write_bytes(b"{")
    (damaged / "tokenizer" / "vocab.txt.partial-1234").write_bytes(b"{")
    kept = damaged / "documents-train.array_record-00000-of-00004"
    before = kept.stat().st_mtime_ns

    with pytest.raises(FileNotFoundError, match=r"no finished dataset"):
        open_dataset(damaged)
    prepared(corpus, damaged)
    assert contents(damaged) == expected
    assert kept.stat().st_mtime_ns == before, "a finished shard was written again"
    assert open_dataset(damaged).load_split("validation").tokens.size


def test_a_finished_dataset_is_not_written_again(corpus, dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    manifest = prepared(corpus, dataset)
    assert manifest == read_manifest(dataset)
    assert before == {p: p.stat().st_mtime_ns for p in dataset.rglob("*")}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"validation_fraction": 0.2}, "validation_fraction"),
        ({"language": "de"}, "language"),
        ({"num_shards": 2}, "num_shards"),
    ],
    ids=str,
)
def test_other_settings_need_another_directory(
    corpus, dataset, tmp_path, settings, name
):
    differs = rf"dataset of other settings \({name} differ\)"
    with pytest.raises(ValueError, match=f"holds a {differs}"):
        prepared(corpus, dataset, **settings)
    unfinished = shutil.copytree(dataset, tmp_path / "unfinished")
    (unfinished / "manifest.json").unlink()
    with pytest.raises(ValueError, match=f"holds an unfinished {differs}"):
        prepared(corpus, unfinished, **settings)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_plan_is_named(corpus, dataset, tmp_path, content):
    damaged = shutil.copytree(dataset, tmp_path / "damaged")
    (damaged / "plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json is damaged, so it does not say"):
        prepared(corpus, damaged)


def test_other_text_or_pieces_need_another_directory(corpus, dataset, tmp_path):
    source, _, tokenizer = corpus
    one_file = source.replace("*", "part-0")
    options = PrepareOptions(validation_fraction=FRACTION)
    others = r"\(files part-1.jsonl, part-2.jsonl, part-3.jsonl, source differ\)"
    with pytest.raises(ValueError, match=others):
        prepare(one_file, tokenizer, dataset, options)
    other_tokenizer().save(tmp_path)
    with pytest.raises(ValueError, match=r"\(tokenizer_sha256 differ\)"):
        prepare(source, tmp_path, dataset, options)


def test_a_directory_of_something_else_is_left_alone(corpus, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no prepared"):
        prepared(corpus, tmp_path)
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_something_must_be_held_out(corpus, tmp_path, fraction):
    with pytest.raises(ValueError, match=rf"validation_fraction={fraction} is not in"):
        prepared(corpus, tmp_path / "new", validation_fraction=fraction)
    assert not (tmp_path / "new").exists()


def test_an_empty_split_is_said_before_any_work(corpus, tmp_path):
    with pytest.raises(
        ValueError, match="the validation split would be empty"
    ) as found:
        prepared(corpus, tmp_path / "new", validation_fraction=1e-12)
    assert not (tmp_path / "new").exists()
    advised = re.search(
        r"--validation-fraction (\S+) holds out 3 documents", str(found)
    )
    manifest = prepared(corpus, tmp_path / "new", validation_fraction=float(advised[1]))
    assert manifest["splits"]["validation"]["documents"] == 3
    with pytest.raises(ValueError, match="the training split would be empty") as found:
        prepared(corpus, tmp_path / "other", validation_fraction=1.0 - 1e-12)
    assert "holds out 58 documents" in str(found)


def test_small_corpora_are_told_which_fraction_fits(tmp_path, corpus):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"River stone {n}." for n in range(20)))
    small = f"files:{text}", None, corpus[2]
    with pytest.raises(ValueError, match=r"0\.001 .*holds 20 documents of 2\d\d bytes"):
        prepared(small, tmp_path / "new", validation_fraction=0.001)
    one = {"validation_fraction": 0.05, "read": ReadOptions(documents="file")}
    with pytest.raises(ValueError, match=r"is one document .* leave out --read"):
        prepared(small, tmp_path / "new", **one)
    lines = [{"text": f"River {n}.", "group": "site.org"} for n in range(300)]
    text.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, lines)))
    grouped = f"files:{tmp_path}/text.jsonl", None, corpus[2]
    with pytest.raises(
        ValueError,
        match=r"300 documents .*one group, 'site\.org'.* field \"group\" .*take that",
    ):
        prepared(grouped, tmp_path / "new")


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([7], 0.0),
        ([5, 0, 5, 5, 5], math.log(4)),
        ([1, 2, 1], 1.5 * math.log(2)),
    ],
)
def test_unigram_entropy(counts, expected):
    found = unigram_entropy(np.array(counts))
    assert found == pytest.approx(expected, rel=1e-14)
    assert "-" not in f"{found}", "a minus before a zero"


@pytest.mark.slow(ci=False)
def test_wikipedia_has_few_unknowns_and_packs_densely(shared_data, tmp_path):
    with tarfile.open(shared_data / "enwiki/enwiki-2014-open.tar.xz") as archive:
        member = next(x for x in archive if x.isfile())
        (tmp_path / "wiki").write_bytes(archive.extractfile(member).read())
    vocab = shared_data / "vocab/bert-base-uncased-vocab.txt"
    WordPieceTokenizer.from_vocab(vocab, lowercase=True).save(tmp_path / "tokenizer")
    manifest = prepare(
        f"files:{tmp_path}/wiki",
        tmp_path / "tokenizer",
        tmp_path / "dataset",
        PrepareOptions(validation_fraction=0.1),
        num_workers=1,
    )
    opened = open_dataset(tmp_path / "dataset")
    store = opened.load_split("train")
    counts = manifest["splits"]["train"]
    # About four bytes an English word piece; entropy as in any large English text.
    assert 3.5 < counts["bytes"] / counts["tokens"] < 5.0
    assert 6.0 < counts["unigram_entropy"] < 8.0
    assert (store.tokens == opened.tokenizer.special.unk).mean() < 2e-3
    assert store.tokens.size == counts["tokens"]

    lengths = make_pairs(store, DataConfig(), seed=0, epoch=0).num_tokens()
    _, row_sizes = pack(lengths, 128, 8, np.random.default_rng(0))
    assert lengths.sum() / (128 * row_sizes.size) > 0.97


def test_two_sources_are_prepared_as_one(corpus, tmp_path, capsys):
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "part-0.jsonl").write_text('{"text": "The river. A stone. Windows."}\n')
    source, records, tokenizer = corpus
    sources = [source, f"files:{folder}/*"]
    command = ["prepare", "--tokenizer", str(tokenizer), "--num-workers", "1"]
    command += [flag for one in sources for flag in ("--source", one)]
    command += ["--output", str(tmp_path / "out"), "--validation-fraction", "0.3"]
    cli.main(command)
    manifest = read_manifest(tmp_path / "out")
    assert [one["source"] for one in manifest["sources"]] == sources
    counts = [(one["files"], one["documents"]) for one in manifest["sources"]]
    assert counts == [(NUM_FILES, len(records)), (1, 1)]
    assert manifest["read"]["documents"] == len(records) + 1
    assert manifest["sources"][1]["text_bytes"] == len("The river. A stone. Windows.")
    said = capsys.readouterr().out
    assert (
        f"source {sources[1]}: 1 document of 28 bytes of text, from 1 file of" in said
    )
    assert f"source {source}: {len(records)} documents" in said


def test_changed_files_need_another_directory(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    changing = make_corpus(folder)
    prepared(changing, tmp_path / "out")
    file = folder / "part-0.jsonl"
    file.write_text(file.read_text().replace("river", "stone"))
    os.utime(file, (1, 1))
    with pytest.raises(ValueError, match=r"\(files part-0.jsonl differ\)"):
        prepared(changing, tmp_path / "out")


def test_a_card_is_written_beside_the_manifest(corpus, dataset):
    card = (dataset / "README.md").read_text(encoding="utf-8")
    manifest = read_manifest(dataset)
    tokens = manifest["splits"]["train"]["tokens"]
    assert (
        f"| train | {manifest['splits']['train']['documents']:,} | {tokens:,} |" in card
    )
    for line in (*describe(manifest), *problems(manifest)):
        assert f"- {line}" in card
