"""Random choices of labelled examples: a share to judge on, shots of each class."""

import pathlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.config import TaskConfig
from bert_jax.data.labelled.choices import Choices
from bert_jax.data.labelled.draws import shots, split_share, stratified_groups
from bert_jax.data.labelled.label_sets import rarest
from bert_jax.data.labelled.questions import Questions
from bert_jax.data.labelled.text_pairs import TextPairs
from bert_jax.data.labelled.texts import LabelledTexts
from bert_jax.data.labelled.words import TaggedSentences


def examples(labels):
    return LabelledTexts(tuple((f"t{n}",) for n in range(len(labels))), tuple(labels))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from("aaaabbc"), min_size=12, max_size=300),
    st.sampled_from([0.05, 0.1, 0.25, 0.5]),
    st.integers(0, 99),
)
def test_a_share_has_every_class_in_its_share_and_parts_nothing(labels, share, seed):
    whole = examples(labels)
    train, held_out = split_share(whole, share, seed, whole.labels)
    assert sorted(train.texts + held_out.texts) == sorted(whole.texts)
    assert len(held_out) == max(1, round(share * len(whole)))
    sizes, found = Counter(labels), Counter(held_out.labels)
    for label, size in sizes.items():
        # A share of few examples is rounded; a class never leaves the training.
        assert abs(found[label] - share * size) < 1.5
        assert found[label] < size
    places = [int(text[1:]) for (text,) in train.texts]
    assert places == sorted(places), "file order"
    again = split_share(whole, share, seed, whole.labels)
    assert (train, held_out) == again


def test_another_seed_draws_another_share():
    whole = examples("ab" * 50)
    draws = {split_share(whole, 0.1, seed)[1].texts for seed in range(5)}
    assert len(draws) == 5


def test_equal_texts_and_questions_of_a_passage_stay_together():
    texts = [(f"t{n // 3}",) for n in range(90)]
    train, held_out = split_share(LabelledTexts(tuple(texts), ("a",) * 90), 0.2, seed=0)
    assert not {*train.texts} & {*held_out.texts}
    assert len(held_out) == 18
    passages = tuple(f"p{n // 4}" for n in range(40))
    asked = Questions(tuple(map(str, range(40))), passages, ((),) * 40)
    train, held_out = split_share(asked, 0.2, seed=0)
    assert not {*train.passages} & {*held_out.passages}
    same = tuple(("q", "x", "y") if n < 12 else ("q", "x", f"{n}") for n in range(40))
    for some in (
        Choices(same, ("0",) * 40),
        TextPairs(same, None),
        TaggedSentences(same, (("O",) * 3,) * 40),
    ):
        train, held_out = split_share(some, 0.5, seed=0)
        assert not {*map(repr, train.records())} & {*map(repr, held_out.records())}


@pytest.mark.parametrize(
    "some",
    [
        LabelledTexts((("a",), ("b",)), ("x", "y"), places=("line 1", "line 2")),
        Choices((("q", "x", "y"), ("q", "z", "y")), ("0", "1")),
        TextPairs((("a", "b"), ("c", "d")), (0.5, 1.0)),
        TextPairs((("a", "b"), ("c", "d")), None),
        Questions(("q", "r"), ("p", "p"), ((), ()), ids=("1", "2")),
        TaggedSentences((("a",), ("b",)), (("O",), ("B-x",)), ("a", "b")),
        TaggedSentences((("a",), ("b",)), None),
    ],
)
def test_taking_takes_every_field(some):
    assert len(some) == 2
    turned = some.take(np.array([1, 0]))
    assert [*turned.records()] == [*some.records()][::-1]
    for name, values in vars(some).items():
        expected = values[::-1] if isinstance(values, tuple) else values
        assert getattr(turned, name) == expected, name
    assert len(some.take(np.array([1, 1, 1]))) == 3


def test_parts_of_the_order_are_stratified_folds():
    whole = examples(["a"] * 80 + ["b"] * 20)
    groups = stratified_groups(whole, 3, whole.labels)
    folds = [np.concatenate(groups[n : n + 20]) for n in range(0, 100, 20)]
    assert sorted(np.concatenate(folds).tolist()) == list(range(100))
    assert [sum(whole.labels[n] == "b" for n in fold) for fold in folds] == [4] * 5


def test_what_cannot_be_parted_is_refused():
    same = LabelledTexts((("t",),) * 9, ("a", "b", "c") * 3)
    with pytest.raises(ValueError, match=r"9 examples of .* --dev FILE"):
        split_share(same, 0.1, seed=0)


def test_shots_are_drawn_of_each_class_and_grow():
    whole = examples("aaaaabbbbbbbbbccc")
    few = shots(whole, 2, 0, whole.labels)
    assert Counter(few.labels) == {"a": 2, "b": 2, "c": 2}
    assert {*few.texts} <= {*shots(whole, 3, 0, whole.labels).texts}
    assert few != shots(whole, 2, 1, whole.labels)
    with pytest.raises(ValueError, match=r"has 3 examples of the class 'c'.*--shots 3"):
        shots(whole, 4, 0, whole.labels)


def test_an_example_of_several_labels_counts_for_the_rarest():
    assert rarest([("x", "y"), ("x",), (), ("x", "z"), ("z",)]) == (
        "y",
        "x",
        "",
        "z",
        "z",
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dev": 0.0}, "dev=0.0 is no share"),
        ({"dev": 0.9}, "dev=0.9 is no share"),
        ({"dev": 0.1, "dev_label": "x"}, "would be ignored: dev=0.1 is a share"),
        ({"shots": 4, "max_train": 9}, "shots=4 and max_train=9 both"),
        ({"shots": 0}, "shots=0 must be greater"),
        ({"draw_seed": -1, "dev": 0.5}, "draw_seed=-1"),
        ({"draw_seed": 1, "dev": pathlib.Path("x.tsv")}, "nothing is drawn"),
        ({"label": "a", "label_columns": ("b",)}, "both say where the labels are"),
        ({"label_separator": "::"}, "not one character"),
    ],
)
def test_settings_of_draws_that_cannot_be_meant(fields, message):
    with pytest.raises(ValueError, match=message):
        TaskConfig(**fields)
