"""A prepared dataset that was damaged, cut short or mixed up is refused by name."""

import json
import pathlib
import shutil

import pytest
from prepared_corpus import copy_of, make_corpus, other_tokenizer, prepared

from bert_jax.data.prepared.dataset import open_dataset


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """(source, its records, a directory with a tokenizer of it)."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def dataset(corpus, tmp_path_factory):
    """A finished dataset of four shards; leave it as it is."""
    output = tmp_path_factory.mktemp("prepared") / "dataset"
    prepared(corpus, output)
    return output


@pytest.fixture
def damaged(dataset, tmp_path):
    """A copy to damage."""
    return copy_of(dataset, tmp_path)


def shard(directory: pathlib.Path) -> pathlib.Path:
    return directory / "documents-train.array_record-00001-of-00004"


def edit_manifest(directory: pathlib.Path, **changes) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_flipped_bit_is_found(damaged):
    data = bytearray(shard(damaged).read_bytes())
    data[len(data) // 2] ^= 1
    shard(damaged).write_bytes(data)
    opened = open_dataset(damaged)
    with pytest.raises(ValueError, match=r"train\.array_record-00001.* is corrupt"):
        opened.load_split("train")
    assert not (damaged / "index").exists()
    assert opened.load_split("validation").tokens.size


def test_a_missing_shard_is_found(damaged):
    shard(damaged).unlink()
    with pytest.raises(
        ValueError, match=r"lacks 1 of its 8 .*train\.array_record-0000"
    ):
        open_dataset(damaged)


def test_an_unfinished_dataset_is_not_opened(damaged):
    (damaged / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        open_dataset(damaged)
    with pytest.raises(ValueError, match=r"--data\.dataset DIR"):
        open_dataset(None)


def test_a_newer_format_is_not_guessed_at(damaged):
    edit_manifest(damaged, format_version=4)
    with pytest.raises(ValueError, match=r"has format version 4; .* reads 3\."):
        open_dataset(damaged)


def test_a_manifest_cut_off_is_named(damaged):
    (damaged / "manifest.json").write_text('{"format_version": 1,')
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON"):
        open_dataset(damaged)


def test_a_swapped_tokenizer_is_found(damaged):
    shutil.rmtree(damaged / "tokenizer")
    other_tokenizer().save(damaged / "tokenizer")
    with pytest.raises(ValueError, match=r"is not the one that the dataset was"):
        open_dataset(damaged)


def test_there_are_two_splits(dataset):
    with pytest.raises(ValueError, match="'test'; there are train, validation"):
        open_dataset(dataset).load_split("test")


def test_an_index_of_another_dataset_is_refused(damaged):
    opened = open_dataset(damaged)
    opened.load_split("train")
    shutil.copytree(damaged / "index/train", damaged / "index/validation")
    with pytest.raises(ValueError, match="does not belong to this dataset"):
        opened.load_split("validation")
