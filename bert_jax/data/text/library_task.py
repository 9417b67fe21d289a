"""A labelled task made from `docs:`: which library does this sentence come from?

The task needs no network, and a pretrained model does better at it than a fresh one.
The answer must not be written in the question, so the name and the usual alias of every
library become the word "library"; what is left is what the sentence talks about.
"""

import collections
import glob
import hashlib
import pathlib
import re
from typing import Any, NamedTuple

from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.text import docs
from bert_jax.data.text.reading import read_source
from bert_jax.data.text.sentences import sentences, validation_group
from bert_jax.data.text.sources import open_source

MIN_WORDS = 8
MAX_WORDS = 60
MIN_TRAIN_SENTENCES = 300
MIN_VALIDATION_SENTENCES = 50
# A library keeps at most this many times the sentences of the median library, so that
# always answering with the largest library stays a poor guess.
MAX_OVER_MEDIAN = 2.0

# Whole words are matched: jax.numpy.sin and __jax_array__ tell as much as jax does.
_NAMES = re.compile(
    r"[\w.]*?(?:tensor[ _-]?flow(?:[ _-]datasets?)?|tfds|keras|python|num_?py|sci[- _]?py|"
    r"scikit(?:[- _]?learn)?|sklearn|jax|flax|optax|orbax|mat_?plot_?lib|py_?plot)"
    r"\w*(?:\.\w+)*|"
    r"(?<![\w.])(?:tf|np|sp|jnp|lax|linen|nnx|nn|ocp|mpl|pylab|plt|grain)"
    r"(?![A-Za-z0-9])(?:[._]\w+)*",
    re.IGNORECASE,
)
_REPEATED = re.compile(r"\blibrary(?:[ /-]library\b)+", re.IGNORECASE)
_WORD = re.compile(r"[(\"'“‘]*[A-Za-z][A-Za-z'’-]*[)\"'”’.,;:!?]*$")
_END = re.compile(r"[.!?][)\"']?$")


class Example(NamedTuple):
    """A sentence and the library that it comes from."""

    text: str
    label: str
    group: str


def write_library_task(
    corpus_dir: pathlib.Path,
    output_dir: pathlib.Path,
    *,
    validation_fraction: float,
    max_train: int,
    max_validation: int,
) -> dict[str, Any]:
    """Writes `train.tsv` and `validation.tsv` with the columns text and label.

    Groups (modules) are split by `sentences.validation_group`. If the fraction is the
    one that pretraining held out, no sentence of the validation split was pretrained
    on. No module is in both splits. A sentence that occurs in two libraries or in both
    splits is left out.

    Args:
        corpus_dir: folder that `docs.write_docs_corpus` wrote.
        output_dir: folder of the two files; created if it is missing.
        validation_fraction: expected fraction of modules held out, in (0, 1).
        max_train: most sentences of the training split, balanced over the labels.
        max_validation: most sentences of the validation split, balanced too.

    Returns:
        "train", "validation": label -> number of sentences; "labels": all labels, sorted.

    Raises:
        ValueError: the corpus is missing, or fewer than two libraries have enough
            sentences.
    """
    if not 0.0 < validation_fraction < 1.0:
        raise ValueError(
            f"validation_fraction={validation_fraction} is not in (0, 1); give the "
            "fraction that pretraining held out."
        )
    train, validation = _split_examples(corpus_dir, validation_fraction)
    labels = sorted(
        label
        for label in train
        if len(train[label]) >= MIN_TRAIN_SENTENCES
        and len(validation.get(label, ())) >= MIN_VALIDATION_SENTENCES
    )
    if len(labels) < 2:
        raise ValueError(
            f"Only {labels} of the libraries in {corpus_dir} have "
            f"{MIN_TRAIN_SENTENCES} training and {MIN_VALIDATION_SENTENCES} "
            "validation sentences; two are needed. Write the corpus of more packages, "
            "or hold out another fraction."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"labels": labels}
    for split, examples, limit in (
        ("train", train, max_train),
        ("validation", validation, max_validation),
    ):
        chosen = _balanced({label: examples[label] for label in labels}, limit)
        write_atomically(output_dir / f"{split}.tsv", _as_tsv(chosen))
        counts = collections.Counter(example.label for example in chosen)
        summary[split] = dict(sorted(counts.items()))
    return summary


def without_library_names(sentence: str) -> str:
    """Replaces names of libraries, which would give the answer away, by "library"."""
    replaced = _NAMES.sub("library", sentence)
    replaced = _REPEATED.sub("library", replaced)
    return replaced[:1].upper() + replaced[1:]


def _split_examples(
    corpus_dir: pathlib.Path, fraction: float
) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    """(training, validation), each label -> examples; no text twice, in corpus order."""
    places: dict[str, set[tuple[str, bool]]] = collections.defaultdict(set)
    first: dict[str, Example] = {}
    source = open_source(f"files:{glob.escape(str(corpus_dir))}/{docs.FILE_PATTERN}")
    for document in read_source(source):
        label = document.group.partition(":")[0]
        held_out = validation_group(document.group, fraction)
        for sentence in sentences(document):
            if _is_prose(sentence):
                text = without_library_names(sentence)
                shape = _shape(text)
                places[shape].add((label, held_out))
                first.setdefault(shape, Example(text, label, document.group))
    splits: tuple[dict[str, list[Example]], ...] = ({}, {})
    for shape, example in first.items():
        if len(places[shape]) == 1:
            [(label, held_out)] = places[shape]
            splits[held_out].setdefault(label, []).append(example)
    return splits[0], splits[1]


def _shape(text: str) -> str:
    """Equal for sentences that count as the same: they differ in case or signs only."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def _is_prose(sentence: str) -> bool:
    words = sentence.split()
    return (
        MIN_WORDS <= len(words) <= MAX_WORDS
        and sentence[0].isupper()
        and bool(_END.search(sentence))
        and sum(bool(_WORD.match(word)) for word in words) >= 0.75 * len(words)
    )


def _balanced(examples: dict[str, list[Example]], limit: int) -> list[Example]:
    """Takes at most `limit` examples, by limiting all labels to one common number."""
    median = sorted(map(len, examples.values()))[len(examples) // 2]
    cap = int(MAX_OVER_MEDIAN * median)
    while cap > 1 and sum(min(len(e), cap) for e in examples.values()) > limit:
        cap -= 1

    def rank(example: Example) -> bytes:
        # A hash of the text, so the choice does not depend on the order of the corpus.
        return hashlib.blake2b(f"0:{example.text}".encode()).digest()

    chosen = [e for label in examples.values() for e in sorted(label, key=rank)[:cap]]
    return sorted(chosen, key=rank)


def _as_tsv(examples: list[Example]) -> bytes:
    """Lines that are read alike with and without rules for quotes.

    Sentences hold no tab and no newline (their whitespace is squeezed) and begin
    with a capital letter, so a quote is never the first character of a field.
    """
    rows = [("text", "label"), *((example.text, example.label) for example in examples)]
    assert all(len(f"{text}\t{label}".split("\t")) == 2 for text, label in rows)
    assert all(text[0].isalnum() and text.isprintable() for text, _ in rows)
    return "".join(f"{text}\t{label}\n" for text, label in rows).encode()
