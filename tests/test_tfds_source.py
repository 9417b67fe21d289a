"""Text datasets of TFDS, prepared here as TFDS does it, read as a source."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bert_jax.config import ReadOptions
from bert_jax.data.text.documents import Document, ReadStats
from bert_jax.data.text.reading import read_section
from bert_jax.data.text.sources import divide, open_source

NUM_TRAIN = 230


class TinyWiki(tfds.core.GeneratorBasedBuilder):
    """Articles in two languages."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012  # as TFDS declares it
        tfds.core.BuilderConfig(name=language) for language in ("de", "en")
    ]

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "title": tfds.features.Text(),
            "views": tfds.features.Scalar(dtype=np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(NUM_TRAIN),
            "test": self._generate_examples(3),
        }

    def _generate_examples(self, count=0):
        for n in range(count):
            text = (
                b"caf\xe9" if n == 7 else f"Article {n} of {self.builder_config.name}."
            )
            yield n, {"text": text, "title": f"Title {n}", "views": n}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    TinyWiki(
        data_dir=folder, config="en", file_format="array_record"
    ).download_and_prepare()
    return folder


@pytest.fixture(autouse=True)
def environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def read(spec: str, stats: ReadStats | None = None, **options) -> list[Document]:
    [section] = open_source(spec).sections
    return list(read_section(section, stats, ReadOptions(**options)))


def test_records_become_documents(data_dir):
    stats = ReadStats()
    documents = read("tfds:tiny_wiki/en", stats)
    texts = {f"Article {n} of en." for n in range(NUM_TRAIN) if n != 7} | {"caf\ufffd"}
    assert {document.text for document in documents} == texts
    assert [document.key for document in documents] == [
        f"tiny_wiki/en/1.0.0/train#{n}" for n in range(NUM_TRAIN)
    ]
    assert all(document.group == document.key for document in documents)
    assert (stats.documents, stats.undecodable_bytes) == (NUM_TRAIN, 1)
    assert stats.disk_bytes == sum(
        path.stat().st_size for path in data_dir.rglob("*-train.array_record-*")
    )


@pytest.mark.parametrize(
    ("spec", "count", "first"),
    [
        ("tfds:tiny_wiki/en:test", 3, "Article"),
        ("tfds:tiny_wiki/en:1.0.0", NUM_TRAIN, "Article"),
        ("tfds:tiny_wiki/en:1.0.0:test:title", 3, "Title"),
        ("tfds:tiny_wiki/en::title", NUM_TRAIN, "Title"),
        ("tfds:tiny_wiki/en:train[:10%]:text", 23, "Article"),
        ("tfds:tiny_wiki/en:train[5:9]", 4, "Article"),
        ("tfds:tiny_wiki/en:test+train[:7]:title", 10, "Title"),
        ("tfds:{data_dir}/tiny_wiki/en/1.0.0:test", 3, "Article"),
        ("tfds:{data_dir}/tiny_wiki/en/1.0.0::title", NUM_TRAIN, "Title"),
    ],
)
def test_grammar(data_dir, spec, count, first):
    documents = read(spec.format(data_dir=data_dir))
    assert len(documents) == count
    assert len({document.key for document in documents}) == count
    assert sum(document.text.startswith(first) for document in documents) >= count - 1


def test_a_slice_counts_for_its_fraction():
    whole = open_source("tfds:tiny_wiki/en").size_bytes
    assert open_source("tfds:tiny_wiki/en:train[:10%]").size_bytes == whole // 10


def test_text_field_is_the_default():
    assert read("tfds:tiny_wiki/en:test", text_field="title")[0].text[:5] == "Title"
    assert read("tfds:tiny_wiki/en:test:text", text_field="title")[0].text[:3] == "Art"


def test_sections_hold_every_record_once(tmp_path):
    source = open_source("tfds:tiny_wiki/en")
    whole = [d for section in source.sections for d in read_section(section)]
    sections = divide(source, source.size_bytes // 7, tmp_path)
    stats = ReadStats()
    assert [d for section in sections for d in read_section(section, stats)] == whole
    assert len(sections) == 7
    part = ReadStats()
    next(read_section(sections[3], part))
    assert 0 < part.disk_bytes < sections[3].size_bytes / 8
    assert stats.disk_bytes == source.size_bytes


def test_newest_version_is_taken(data_dir, tmp_path, monkeypatch):
    shutil.copytree(data_dir / "tiny_wiki", tmp_path / "tiny_wiki")
    parent = tmp_path / "tiny_wiki" / "en"
    for version in ("1.2.0", "1.10.0"):
        shutil.copytree(parent / "1.0.0", parent / version)
        info = parent / version / "dataset_info.json"
        content = json.loads(info.read_text()) | {"version": version}
        info.write_text(json.dumps(content))
    (parent / "2.0.0").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    [section] = open_source("tfds:tiny_wiki/en:test").sections
    assert section.name == "tiny_wiki/en/1.10.0/test"
    [section] = open_source("tfds:tiny_wiki/en:1.2.0:test").sections
    assert section.name == "tiny_wiki/en/1.2.0/test"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tfds:", "is not understood; expected tfds:NAME"),
        ("tfds:a:b:c:d", "is not understood; expected tfds:NAME"),
        ("tfds:c4/en", r"tfds\.builder\('c4/en', file_format='array_record'\)"),
        ("tfds:tiny_wiki/en:3.0.0", r"tfds\.builder\('tiny_wiki/en:3\.0\.0', "),
        ("tfds:tiny_wiki", "prepared here are en. Name one: tfds:tiny_wiki/en"),
        ("tfds:tiny_wiki/en:dev", "no split 'dev' .*; there are train, test"),
        ("tfds:tiny_wiki/en:train[:x]", r"no split 'train\[:x\]'"),
        ("tfds:tiny_wiki/en:train[:0]", r"no split 'train\[:0\]'"),
        (
            "tfds:tiny_wiki/en:test:views",
            r"no field 'views' of text; its features are ",
        ),
        (
            "tfds:tiny_wiki/en:test:body",
            r"are text \(Text\), title \(Text\), views \(Scalar\)\. Name",
        ),
        ("tfds:/nowhere", "/nowhere holds no prepared dataset"),
    ],
)
def test_wrong_specs_say_what_to_do(spec, message):
    with pytest.raises(ValueError, match=message):
        open_source(spec)


def test_unknown_default_field_is_an_error():
    with pytest.raises(ValueError, match="no field 'body' of text"):
        read("tfds:tiny_wiki/en:test", text_field="body")


def test_formats_without_random_access_are_named(data_dir, tmp_path, monkeypatch):
    shutil.copytree(data_dir / "tiny_wiki", tmp_path / "tiny_wiki")
    info = tmp_path / "tiny_wiki" / "en" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"stored as tfrecord.*\n  tfds convert_format "
    ):
        open_source("tfds:tiny_wiki/en")


def damaged(data_dir: pathlib.Path, folder: pathlib.Path, pattern: str) -> pathlib.Path:
    copy = folder / "tiny_wiki"
    shutil.copytree(data_dir / "tiny_wiki" / "en" / "1.0.0", copy)
    [file] = copy.glob(pattern)
    return file


def test_missing_and_damaged_files_are_named(data_dir, tmp_path):
    file = damaged(data_dir, tmp_path, "*-train.array_record-*")
    content = bytearray(file.read_bytes())
    # The chunks of records lie before the index at the end.
    content[200:600] = bytes(400)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"Cannot read .*, records from 0 on"):
        read(f"tfds:{file.parent}")
    file.unlink()
    with pytest.raises(ValueError, match=r"train\.array_record-.* is missing"):
        read(f"tfds:{file.parent}")
    (file.parent / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset_info\.json is damaged"):
        read(f"tfds:{file.parent}")


@pytest.mark.slow(ci=False)
def test_tensorflow_is_not_needed(data_dir):
    program = (
        "import sys\n"
        "from bert_jax.data.text.sources import open_source\n"
        "from bert_jax.data.text.reading import read_section\n"
        f"[section] = open_source('tfds:{data_dir}/tiny_wiki/en/1.0.0:test').sections\n"
        "print(len(list(read_section(section))), 'tensorflow' in sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout == "3 False\n"
