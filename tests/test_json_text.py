"""JSON that is nested too deeply, or holds a number that is too long, is refused by file."""

import json

import pytest
from prepared_corpus import make_corpus, prepared

from bert_jax.config import FileConfig
from bert_jax.data.json_text import loads
from bert_jax.data.labelled.questions import read_questions
from bert_jax.data.labelled.tables import read_table
from bert_jax.data.labelled.tfds_table import read_tfds_table
from bert_jax.data.prepared.manifest import read_manifest
from bert_jax.data.text.sources import open_source
from bert_jax.data.tfds_builder import open_builder
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.exchange.json_files import load_json

DEEP = '{"a":' + "[" * 200_000
HOSTILE = {"deep": DEEP, "long": f'{{"text": {"9" * 5_000}, "label": 1}}'}


@pytest.mark.parametrize(
    ("text", "message"),
    [(HOSTILE["deep"], "nested too deeply"), (HOSTILE["long"], "a number is too long")],
)
def test_every_fault_is_one_kind_of_error(text, message):
    for given in (text, text.encode()):
        with pytest.raises(json.JSONDecodeError, match=message):
            loads(given)
    assert loads(b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_line_of_a_task_file_is_named(tmp_path, kind):
    path = tmp_path / "task.jsonl"
    path.write_text('{"text": "a", "label": "b"}\n' + HOSTILE[kind] + "\n")
    with pytest.raises(ValueError, match=rf"^{path}, line 2: not JSON \("):
        read_table(path, FileConfig())


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (lambda path: read_questions(path, FileConfig(), answered=True), "squad.json"),
        (load_json, "config.json"),
        (HuggingFaceTokenizer.read, "tokenizer.json"),
        (lambda path: load_tokenizer(path.parent), "bert_jax_tokenizer.json"),
        (lambda path: read_manifest(path.parent), "manifest.json"),
        (lambda path: open_builder(path.parent), "features.json"),
        (lambda path: read_tfds_table(path.parent, "train"), "dataset_info.json"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_file_is_named(tmp_path, read, name):
    path = tmp_path / name
    path.write_text(DEEP)
    with pytest.raises(ValueError, match=rf"^{path}"):
        read(path)


def test_the_settings_beside_a_tokenizer_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    beside = tmp_path / "tokenizer_config.json"
    beside.write_text(DEEP)
    with pytest.raises(ValueError, match=rf"^{beside} is damaged \(nested too deeply"):
        HuggingFaceTokenizer.read(tmp_path / "tokenizer.json")


def test_prepare_names_the_line(tmp_path):
    _, _, tokenizer = make_corpus(tmp_path)
    path = tmp_path / "deep.jsonl"
    path.write_text('{"text": "A river."}\n' + DEEP + "\n")
    with pytest.raises(
        ValueError, match=r"deep\.jsonl, line 2: not JSON \(nested too deeply"
    ):
        prepared((f"files:{path}", [], tokenizer), tmp_path / "dataset")
    assert open_source(f"files:{path}").sections
