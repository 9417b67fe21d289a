"""Entities, their scores and their characters; scores equal those of seqeval."""

import json
import pathlib
import string
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from small_tokenizers import wordpiece
from test_word_places import TEXTS

from bert_jax.config import FileConfig, FinetuneConfig, TaskConfig
from bert_jax.data.labelled.labels import ordered
from bert_jax.data.labelled.tags import entities, style_of
from bert_jax.data.labelled.words import GivenWords, read_tagged_sentences
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.entity_scores import entity_scores, entity_table
from bert_jax.train.tasks.task import Judged

GOLDEN = pathlib.Path(__file__).parent / "golden" / "seqeval.json"
# Sums of float64 in another order.
ROUNDING = 1e-12


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-PER I-PER O", [("PER", 1, 2)]),
        ("B-PER B-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),  # IOB1
        ("I-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)]),
        ("I-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        (
            "S-LOC B-PER I-PER E-PER I-PER",
            [("LOC", 0, 0), ("PER", 1, 3), ("PER", 4, 4)],
        ),
        ("U-LOC B-PER L-PER", [("LOC", 0, 0), ("PER", 1, 2)]),
        ("B-creative-work I-creative-work", [("creative-work", 0, 1)]),
        ("B I O B", [("_", 0, 1), ("_", 3, 3)]),
        (
            "PER PER O LOC creative-work",
            [("PER", 0, 1), ("LOC", 3, 3), ("creative-work", 4, 4)],
        ),
        ("NOUN NOUN -LRB-", [("NOUN", 0, 0), ("NOUN", 1, 1), ("-LRB-", 2, 2)]),
        ("O O", []),
    ],
)
def test_entities_are_those_of_conlleval(tags, expected):
    assert list(entities(tags.split(), style_of(tags.split()))) == expected


def test_an_entity_counts_where_type_and_ends_are_right():
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["O", "B-PER"]]
    scores = entity_scores(truth, found)  # one of three, three said
    assert scores == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3}, rel=ROUNDING
    )
    nothing = entity_scores(truth, [["O"] * 4, ["O"] * 2])
    assert nothing == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_parts_of_speech_are_scored_by_words():
    truth, found = [["NOUN", "NOUN", "VERB"]], [["NOUN", "VERB", "VERB"]]
    scores = entity_scores(truth, found, "words")
    assert list(scores.values()) == pytest.approx([2 / 3] * 3)
    assert entity_table(truth, found, "words")[0] == {
        "label": "NOUN",
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }


def as_seqeval(truth, found):
    """Our scores under seqeval's names."""
    table = {row.pop("label"): row for row in entity_table(truth, found)}
    report = {**table, "micro avg": entity_scores(truth, found)}
    renamed = {"f1": "f1-score"}
    return {
        kind: {renamed.get(name, name): value for name, value in of_kind.items()}
        for kind, of_kind in report.items()
    }


def agrees(ours, theirs):
    theirs["micro avg"].pop("support", None)
    assert set(ours) == set(theirs)
    for kind, expected in theirs.items():
        assert ours[kind] == pytest.approx(expected, rel=ROUNDING)


def test_scores_are_those_that_seqeval_gave():
    """BIO, IOB1 and broken sequences of both, letters without types, and BIOES."""
    cases = json.loads(GOLDEN.read_text())["cases"]
    for case in cases:
        truth, found = (
            [tags.split() for tags in case[name]] for name in ("truth", "found")
        )
        agrees(as_seqeval(truth, found), case["report"])


@given(st.data(), st.sampled_from(["BI", "BIES"]))
@settings(max_examples=60)
def test_scores_are_those_of_seqeval(data, letters):
    seqeval = pytest.importorskip("seqeval.metrics", reason="seqeval is not installed")
    tags = ["O", *(f"{letter}-{kind}" for letter in letters for kind in "XY")]
    words = st.lists(
        st.tuples(st.sampled_from(tags), st.sampled_from(tags)), min_size=1
    )
    pairs = data.draw(st.lists(words, min_size=1, max_size=4))
    truth, found = (
        [[pair[side] for pair in sentence] for sentence in pairs] for side in (0, 1)
    )
    if not any(tag != "O" for tags in truth for tag in tags):
        truth[0][0] = "B-X"  # seqeval wants an entity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = seqeval.classification_report(
            truth, found, output_dict=True, zero_division=0
        )
    kinds = {k: v for k, v in report.items() if k not in ("macro avg", "weighted avg")}
    agrees(as_seqeval(truth, found), kinds)


# From rows to scores and entities.


@pytest.fixture(scope="module")
def pieces():
    """A tokenizer that knows the letters of ASCII, alone and behind others."""
    letters = string.ascii_lowercase
    return wordpiece(*letters, *(f"##{x}" for x in letters))


def with_stride(stride):
    cfg = FinetuneConfig(task=TaskConfig(kind="tokens"), stride=stride)
    return TASKS["tokens"].configured(cfg)


def test_perfect_tags_of_real_sentences_score_100(shared_data, pieces):
    path = shared_data / "wnut17/dev.conll"
    examples = read_tagged_sentences(path, FileConfig()).sample(200)
    outputs = ordered(tag for tags in examples.tags for tag in tags)
    rows = with_stride(7).encode(pieces, examples, outputs, 24)
    # Each letter is a piece, so that most sentences have several rows.
    assert len(rows) > 5 * len(examples)
    logits = np.eye(len(outputs), dtype=np.float32)[np.maximum(rows.labels, 0)]
    judged = Judged(logits, rows, examples, outputs)
    scores = with_stride(7).scores(judged)
    names = ("precision", "recall", "f1", "accuracy")
    assert [scores[name] for name in names] == [1.0] * 4
    found = with_stride(7).predictions(judged)
    assert [tuple(x["tags"]) for x in found] == list(examples.tags)
    assert [tuple(x["words"]) for x in found] == list(examples.words)


@given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(0, 999), st.integers(1, 6))
@settings(max_examples=60)
def test_entities_are_found_again_in_the_text(pieces, texts, seed, stride):
    """In every script, in any windows, and for words that a file gives."""
    outputs = ("B-X", "I-X", "O")
    texts = [*texts, GivenWords([text for text in texts if text] or ["a"])]
    task = with_stride(stride)
    examples = task.unlabelled([(text,) for text in texts])
    rows = task.encode(pieces, examples, outputs, 8)
    shape = (*rows.input_ids.shape, 3)
    logits = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    found = task.predictions(Judged(logits, rows, examples, outputs))
    for text, said in zip(texts, found, strict=True):
        assert len(said["words"]) == len(said["tags"]) == len(said["probabilities"])
        marked = list(entities(said["tags"]))
        assert len(marked) == len(said["entities"])
        for entity, (_, first, last) in zip(said["entities"], marked, strict=True):
            cut = text[entity["start"] : entity["end"]]
            assert cut == entity["text"]
            assert cut.startswith(said["words"][first])
            assert cut.endswith(said["words"][last])
            assert 0.0 < entity["probability"] <= 1.0
    assert found[-1]["words"] == list(examples.words[-1])
