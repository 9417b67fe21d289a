"""The corpus made from documentation, and the labelled task made from that."""

import pytest
from source_files import read

from bert_jax.data.text import docs, docstrings, library_task
from bert_jax.data.text.reading import read_section
from bert_jax.data.text.sentences import sentences, validation_group
from bert_jax.data.text.sources import open_source

DOCSTRING = """
    Return the thing, see :func:`~numpy.linalg.norm` and ``x.T`` [1]_.

    A paragraph that is wrapped
    over two lines, with *emphasis*.

    .. versionadded:: 1.2

    .. note:: The text of a note
        `stays` where it is.

    Parameters
    ----------
    x : {array_like, None}, optional
        The array to work with,
        or nothing at all.

    Examples
    --------
    This is how it is used::

        y = thing(x)

    >>> thing(3)
    3 is what it prints

    ====  =====
    name  value
    ====  =====
    a is  the first one of it
    ====  =====

    References
    ----------
    .. [1] Somebody, "A book of the things", 1999.
"""


def test_docstrings_become_prose():
    assert docstrings.prose(DOCSTRING) == (
        "Return the thing, see norm and x.T.",
        "A paragraph that is wrapped over two lines, with emphasis.",
        "The text of a note stays where it is.",
        "The array to work with, or nothing at all.",
        "This is how it is used:",
    )
    google = (
        "Makes a thing.\n\nArgs:\n  key: the key of the thing\n    that is made.\n"
        "  *others (int): what else there is.\n\nReturns:\n  A thing of the shape that"
        "\n  ``key`` has. See [2]_ for more.\n\nRaises:\n  ValueError: if it is wrong."
    )
    assert docstrings.prose(google) == (
        "The key of the thing that is made.",
        "What else there is.",
        "A thing of the shape that key has. See the literature for more.",
        "If it is wrong.",
    )


@pytest.mark.slow(ci=False)
def test_docs_do_not_depend_on_workers(tmp_path, monkeypatch):
    for num_workers in (2, 1):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(num_workers)))
        alone = open_source("docs:optax,grain", num_workers=num_workers)
    one, two = (tmp_path / n / "bert_jax" / "docs-optax-grain" for n in "12")
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert len(names) == 9
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in names)

    documents = [d for section in alone.sections for d in read_section(section)]
    assert documents == read(f"files:{one}/documents-*.jsonl")
    assert len({document.key for document in documents}) == len(documents) > 100
    assert all("\n\n" not in d.text and ">>>" not in d.text for d in documents)
    assert {d.group.partition(":")[0] for d in documents} == {"optax", "grain"}


def test_whole_docs_corpus_is_kept_and_a_broken_one_written_again(
    tmp_path, monkeypatch
):
    seen = []
    options = {"packages": ["optax"], "num_workers": 1}
    first = docs.write_docs_corpus(
        tmp_path, progress=lambda done, total: seen.append((done, total)), **options
    )
    assert seen[-1][0] == seen[-1][1] == len(seen)
    written = (tmp_path / "corpus.json").stat().st_mtime_ns
    assert docs.write_docs_corpus(tmp_path, **options) == first
    assert (tmp_path / "corpus.json").stat().st_mtime_ns == written
    (tmp_path / "documents-00001-of-00008.jsonl").write_text("{}")
    assert docs.write_docs_corpus(tmp_path, **options) == first
    assert (tmp_path / "corpus.json").stat().st_mtime_ns != written
    monkeypatch.setattr(docs, "_FILES", 2)
    assert len(docs.write_docs_corpus(tmp_path, **options)["files"]) == 2
    assert len(list(tmp_path.glob(docs.FILE_PATTERN))) == 2


def test_task_splits_share_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(library_task, "MIN_TRAIN_SENTENCES", 20)
    monkeypatch.setattr(library_task, "MIN_VALIDATION_SENTENCES", 5)
    docs.write_docs_corpus(tmp_path, packages=["optax", "grain"], num_workers=1)
    fraction = 0.3
    summary, again = (
        library_task.write_library_task(
            tmp_path,
            tmp_path / folder,
            validation_fraction=fraction,
            max_train=400,
            max_validation=100,
        )
        for folder in ("task", "again")
    )
    assert summary == again
    for name in ("train.tsv", "validation.tsv"):
        files = (tmp_path / folder / name for folder in ("task", "again"))
        assert len({file.read_bytes() for file in files}) == 1
    rows = {}
    for split, limit in (("train", 400), ("validation", 100)):
        text = (tmp_path / "task" / f"{split}.tsv").read_text()
        header, *lines = text.removesuffix("\n").split("\n")
        assert header == "text\tlabel"
        rows[split] = [tuple(line.split("\t")) for line in lines]
        assert 0.5 * limit < len(lines) <= limit
        assert {label for _, label in rows[split]} == {"optax", "grain"}
    assert not {text for text, _ in rows["train"]} & {t for t, _ in rows["validation"]}

    groups: dict[str, set[str]] = {"train": set(), "validation": set()}
    group_of: dict[str, set[str]] = {}
    for document in read(f"files:{tmp_path}/{docs.FILE_PATTERN}"):
        for sentence in sentences(document.text):
            shown = library_task.without_library_names(sentence)
            group_of.setdefault(shown, set()).add(document.group)
    for split in groups:
        for text, _ in rows[split]:
            groups[split] |= group_of[text]
    assert not groups["train"] & groups["validation"]
    assert all(validation_group(g, fraction) for g in groups["validation"])


def test_library_names_are_not_in_the_question():
    hidden = library_task.without_library_names
    assert (
        hidden("np.asarray gives jax.numpy arrays, as NumPy's own scikit-learn does.")
        == "Library gives library arrays, as library's own library does."
    )
    assert hidden("Objects with __jax_array__ and fine-grained plots.") == (
        "Objects with library and fine-grained plots."
    )
    assert hidden("Use tensorflow_datasets or tf.data in Python 3.") == (
        "Use library or library in library 3."
    )


def test_task_needs_two_libraries(tmp_path):
    docs.write_docs_corpus(tmp_path, packages=["optax"], num_workers=1)
    with pytest.raises(ValueError, match="two are needed"):
        library_task.write_library_task(
            tmp_path,
            tmp_path / "task",
            validation_fraction=0.1,
            max_train=10,
            max_validation=10,
        )
