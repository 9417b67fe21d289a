"""A prepared dataset that was damaged, cut short or mixed up is refused by name."""

import json
import pathlib
import shutil

import pytest
from prepared_corpus import other_tokenizer

from bert_jax.config import DataConfig
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.json_file import read_json, write_json
from bert_jax.data.prepared import index
from bert_jax.data.prepared.dataset import open_dataset


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
    assert not (damaged / "index/train").exists()
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


@pytest.mark.parametrize("content", ["text.txt", "run.json"])
def test_what_never_was_a_dataset_is_not_said_to_be_prepared_there(tmp_path, content):
    (tmp_path / content).write_text("A text.")
    given = tmp_path / content if content == "text.txt" else tmp_path
    with pytest.raises(FileNotFoundError, match="expected a directory that") as caught:
        open_dataset(given)
    assert ("is a file and" in str(caught.value)) is given.is_file()
    assert "--output" not in str(caught.value)


def test_a_newer_format_is_not_guessed_at(damaged):
    edit_manifest(damaged, format_version=4)
    with pytest.raises(ValueError, match=r"has format 4; .* reads 3\."):
        open_dataset(damaged)


@pytest.mark.parametrize(
    "content", [b"", b'{"format_version": 1,', b"[]", b"7", b"\xff", b"[" * 100_000]
)
def test_a_manifest_cut_off_is_named(damaged, content):
    (damaged / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: "):
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
    shutil.rmtree(damaged / "index/validation")
    record = damaged / "index/train/index.json"
    written = read_json(record, "")
    write_json(record, written | {"dataset": "of another text"})
    with pytest.raises(ValueError, match="does not belong to this dataset"):
        open_dataset(damaged).load_split("train")


def test_arrays_are_checked_once(damaged, monkeypatch):
    opened = open_dataset(damaged)
    first = opened.load_split("train")
    monkeypatch.setattr(index, "_check", None)
    assert opened.load_split("train") is first


def flip(path: pathlib.Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0, 9, -1], ids=["first", "header", "last"])
@pytest.mark.parametrize("name", ["tokens", "sentence_starts", "document_starts"])
def test_a_flipped_bit_of_an_array_is_found(damaged, monkeypatch, name, place):
    monkeypatch.setattr(index, "_CHUNK_BYTES", 64)
    open_dataset(damaged).load_split("train")
    array = damaged / "index/train" / f"{name}.npy"
    flip(array, place)
    with pytest.raises(
        ValueError, match=rf"index/train/{name}\.npy is damaged.*Delete"
    ):
        open_dataset(damaged).load_split("train")
    flip(array, place)
    assert open_dataset(damaged).load_split("train").tokens.size
    array.unlink()
    with pytest.raises(ValueError, match=rf"{name}\.npy is damaged"):
        open_dataset(damaged).load_split("train")


@pytest.mark.parametrize(
    "content", [None, "{", "[]", "{}", '{"dataset": 1, "sha256": 2}', "[" * 100_000]
)
def test_arrays_without_their_hashes_are_not_used(damaged, content):
    open_dataset(damaged).load_split("train")
    record = damaged / "index/train/index.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    with pytest.raises(
        ValueError, match=r"index\.json (is missing|is damaged|was changed)"
    ):
        open_dataset(damaged).load_split("train")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_changed_metadata_is_found(damaged, name):
    path = damaged / name
    path.write_text(path.read_text() + " ")
    with pytest.raises(ValueError, match=rf"{name} is corrupt"):
        open_dataset(damaged).load_split("train")


def test_a_changed_manifest_is_found(damaged):
    edit_manifest(damaged, source="files:elsewhere/*")
    with pytest.raises(ValueError, match=r"manifest\.json was changed after"):
        open_dataset(damaged)


def test_a_dataset_that_cannot_be_written_is_laid_out_in_the_cache(
    damaged, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index.os, "access", lambda path, mode: False)
    opened = open_dataset(damaged)
    tokens = opened.load_split("train").tokens
    said = capsys.readouterr().err
    [folder] = (tmp_path / "cache/bert_jax").iterdir()
    assert f"{damaged} cannot be written to" in said
    assert str(folder / "train") in said
    assert not (damaged / "index").exists()
    before = (folder / "train/tokens.npy").stat().st_mtime_ns
    again = open_dataset(damaged).load_split("train").tokens
    assert again.tolist() == tokens.tolist()
    assert (folder / "train/tokens.npy").stat().st_mtime_ns == before
    assert "cannot be written to" not in capsys.readouterr().err
    rows = open_rows(opened, "train", DataConfig(sequence_length=32), seed=0)
    rows.batch(0, 2)
    assert (folder / "plans").is_dir()
    # What lies in the dataset already is read from there.
    shutil.copytree(folder / "train", damaged / "index/train")
    shutil.rmtree(folder)
    assert open_dataset(damaged).load_split("train").tokens.tolist() == tokens.tolist()
    assert not folder.exists()
