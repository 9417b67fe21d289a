"""`lines:GLOB`, a text source: its documents, in ranges too, and a dataset of them."""

import dataclasses
import gzip
import io
import tarfile

import pytest
from prepared_corpus import make_corpus

from bert_jax import cli
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.text.reading import read_source
from bert_jax.data.text.sources import divide, open_source

TEXTS = [f"Line {n} is a document. " * (1 + n % 5) for n in range(200)]


@pytest.fixture
def source(tmp_path):
    (tmp_path / "a.log").write_text("\n\n".join(TEXTS[:150]))
    packed = gzip.compress("\n".join(TEXTS[150:]).encode())
    (tmp_path / "b.log.gz").write_bytes(packed)
    return f"lines:{tmp_path}/*.log*"


def test_every_line_is_a_document_in_ranges_too(source, tmp_path):
    whole = open_source(source)
    found = list(read_source(whole))
    assert [document.text for document in found] == [text.strip() for text in TEXTS]
    assert len({document.key for document in found}) == len(TEXTS)
    parts = divide(whole, 1_000, tmp_path / "work")
    assert len(parts) > 10
    assert list(read_source(dataclasses.replace(whole, sections=parts))) == found


def test_prepare_makes_a_dataset_of_it(source, tmp_path):
    _, _, tokenizer = make_corpus(tmp_path)
    flags = ("--source", source, "--tokenizer", tokenizer, "--num-workers", 1)
    cli.main([*map(str, ("prepare", *flags, "--output", tmp_path / "dataset"))])
    dataset = open_dataset(tmp_path / "dataset")
    splits = dataset.manifest["splits"].values()
    assert sum(split["documents"] for split in splits) == len(TEXTS)
    assert dataset.manifest["source"] == source


def test_what_it_cannot_read_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    with pytest.raises(ValueError, match="is an archive; expected files of lines"):
        open_source(f"lines:{tmp_path}/*")
    with pytest.raises(ValueError, match=r"lines:GLOB"):
        open_source("line:x")
