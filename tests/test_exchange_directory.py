"""Exported directories: labels, pipelines and the model card, whole or not at all."""

import dataclasses
import functools
import json
import logging

import pytest
from exchange_models import (
    HEADS,
    LABELS,
    fitting,
    labels_of,
    make_head_params,
    make_tokenizer,
    without_padding,
)

from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.write_huggingface import write_huggingface


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture(scope="module")
def small_tokenizer():
    """For what does not depend on its kind."""
    return make_tokenizer("wordpiece")


@pytest.fixture(scope="module")
def params(tiny, random_params):
    """Random everywhere; the vocabulary padding, which no export keeps, is zero."""
    return without_padding(tiny, random_params(tiny))


@pytest.fixture(scope="module")
def head_params(tiny, params):
    """head_params(head): the whole parameters of each head."""
    return functools.partial(make_head_params, tiny, params)


@pytest.mark.parametrize("head", ["classifier", "tokens"])
def test_labels_arrive_and_must_fit(
    tiny, head_params, small_tokenizer, tmp_path, transformers, silent, head
):
    cfg, params = fitting(tiny, small_tokenizer, head_params(head))

    def write(labels):
        write_huggingface(
            PortableModel(cfg, params, head, small_tokenizer, labels=labels),
            tmp_path / "export",
        )

    for wrong in (LABELS[:2], None, ("a", "b", "a")):
        with pytest.raises(ValueError, match="labels"):
            write(wrong)
    write(LABELS)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "export")
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: index for index, label in enumerate(LABELS)}
    assert config.pad_token_id == small_tokenizer.special.pad


def test_labels_without_a_use_are_refused(tiny, head_params, small_tokenizer, tmp_path):
    cfg, params = fitting(tiny, small_tokenizer, head_params("spans"))
    with pytest.raises(ValueError, match="would be ignored"):
        write_huggingface(
            PortableModel(cfg, params, "spans", small_tokenizer, labels=LABELS[:2]),
            tmp_path / "x",
        )


@pytest.mark.parametrize("head", HEADS[1:3])
def test_pipelines_load_silently(
    tiny, head_params, tokenizer, tmp_path, transformers, silent, head
):
    """There is none for spans in transformers 5."""
    cfg, params = fitting(tiny, tokenizer, head_params(head))
    folder = tmp_path / "export"
    write_huggingface(
        PortableModel(cfg, params, head, tokenizer, labels=LABELS), folder
    )
    task = card_of(folder)["pipeline_tag"]
    found = transformers.pipeline(task, model=str(folder))("river stone, music")
    assert {x.get("label", x.get("entity")) for x in found} <= set(LABELS)


def test_fill_mask_leaves_out_the_next_sentence_head_only(
    tiny, params, tokenizer, tmp_path, transformers
):
    """BertForMaskedLM has no place for four tensors and says so; nothing else."""
    cfg, params = fitting(tiny, tokenizer, params)
    folder = tmp_path / "export"
    write_huggingface(PortableModel(cfg, params, "pretraining", tokenizer), folder)
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    fill = transformers.pipeline(card_of(folder)["pipeline_tag"], model=str(folder))
    assert len(fill("a [MASK] river.")) == 5
    logger.removeHandler(handler)
    (report,) = records
    assert report.count("UNEXPECTED") == 5  # the table's four rows and its legend
    for name in ("bert.pooler.dense", "cls.seq_relationship"):
        assert f"{name}.weight" in report
        assert f"{name}.bias" in report
    assert "MISSING" not in report


def card_of(folder):
    """The front matter of the model card."""
    import yaml

    text = (folder / "README.md").read_text(encoding="utf-8")
    empty, front, _ = text.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front)


@pytest.mark.parametrize("head", HEADS)
def test_model_card_shows_what_was_measured(
    tiny, head_params, small_tokenizer, tmp_path, transformers, head
):
    from huggingface_hub import ModelCard

    cfg, params = fitting(tiny, small_tokenizer, head_params(head))
    folder = tmp_path / "export"
    results = {"sst2 | dev": {"accuracy": 0.5, "loss": 1.25}, "mrpc": {"f1": 0.75}}
    model = PortableModel(
        *(cfg, params, head, small_tokenizer),
        labels=labels_of(head),
        results=results,
        sequence_length=16,
    )
    write_huggingface(model, folder)
    task = {
        "pretraining": "fill-mask",
        "classifier": "text-classification",
        "tokens": "token-classification",
        "spans": "question-answering",
    }[head]
    assert card_of(folder) == {
        "library_name": "transformers",
        "pipeline_tag": task,
        "tags": ["bert", "bert_jax"],
    }
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == task
    assert ("`truncation=True, max_length=16`" in card.text) == (head == "classifier")
    overlap = "several rows of at most 16 tokens, which overlap"
    assert (overlap in card.text) == (head in ("tokens", "spans"))
    if head == "classifier":
        write_huggingface(dataclasses.replace(model, long_texts="head-tail"), folder)
        other = ModelCard.load(folder / "README.md").text
        assert "leave out the middle of a text of more than 16 tokens" in other
        assert "max_length" not in other
    table = card.text[card.text.index("| task") :].splitlines()
    assert table == [
        "| task | metric | value |",
        "|---|---|---|",
        r"| sst2 \| dev | accuracy | 0.5 |",
        r"| sst2 \| dev | loss | 1.25 |",
        "| mrpc | f1 | 0.75 |",
    ]


def test_what_does_not_fit_is_refused_before_anything_is_written(
    tiny, params, small_tokenizer, tmp_path
):
    cfg, params = fitting(tiny, small_tokenizer, params)
    folder = tmp_path / "export"

    def write(cfg=cfg, params=params):
        write_huggingface(
            PortableModel(cfg, params, "pretraining", small_tokenizer), folder
        )

    with pytest.raises(ValueError, match="pieces"):
        write(dataclasses.replace(cfg, vocab_size=17))
    with pytest.raises(ValueError, match="pooler/kernel"):
        write(params={**params, "pooler": {}})
    assert not folder.exists()
    write()
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert config["architectures"] == ["BertForPreTraining"]
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", "vocab.txt"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    }
