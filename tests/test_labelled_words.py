"""Tagged sentences and questions: files, and the rows that are made of them."""

import json

import numpy as np
import pytest

from bert_jax.batch import IGNORED_LABEL
from bert_jax.data.labelled.labels import ordered
from bert_jax.data.labelled.questions import (
    Answer,
    Questions,
    encode_questions,
    read_questions,
)
from bert_jax.data.labelled.words import (
    TaggedSentences,
    encode_words,
    read_tagged_sentences,
)
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer

CONLL = "-DOCSTART-\tO\n\nOslo NNP B-LOC\nis\tO\r\n\n\nBo B-PER\n"


@pytest.fixture(scope="module")
def pieces():
    """A tokenizer that has w0 ... w49 with the ids 5 ... 54, and ##x with 55."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known += [f"w{n}" for n in range(50)] + ["##x"]
    return WordPieceTokenizer("\n".join(known).encode(), lowercase=True)


def test_sentences_are_cut_at_blank_lines(tmp_path):
    path = tmp_path / "a.conll"
    path.write_bytes(CONLL.encode())
    found = read_tagged_sentences(path)
    assert found.words == (("Oslo", "is"), ("Bo",))
    assert found.tags == (("B-LOC", "O"), ("B-PER",))
    assert ordered(tag for tags in found.tags for tag in tags) == (
        "B-LOC",
        "B-PER",
        "O",
    )
    assert found.sha256() != found.take(np.array([1, 0])).sha256()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Oslo B-LOC\nis\n", r"a\.conll, line 2: 'is' has no tag"),
        (b"\n\n", "holds no sentence"),
        (b"\xe9t\xe9 O\n", "is not UTF-8"),
    ],
)
def test_a_wrong_file_of_words_is_named(tmp_path, content, message):
    (tmp_path / "a.conll").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_tagged_sentences(tmp_path / "a.conll")


def test_wnut_is_read_whole(shared_data):
    for name, count in (("train", 3_394), ("dev", 1_009)):
        found = read_tagged_sentences(shared_data / f"wnut17/{name}.conll")
        assert len(found) == count
        assert len(ordered(tag for tags in found.tags for tag in tags)) == 13


def test_the_first_piece_of_a_word_bears_its_tag(pieces):
    examples = TaggedSentences((("w1x", "\u200b", "w2"),), (("A", "B", "A"),))
    rows = encode_words(pieces, examples, ("A", "B"), 8)
    assert rows.input_ids.tolist() == [[2, 6, 55, 1, 7, 3, 0, 0]]
    none = IGNORED_LABEL
    assert rows.labels.tolist() == [[none, 0, none, 1, 0, none, none, none]]
    assert rows.word.tolist() == [[-1, 0, -1, 1, 2, -1, -1, -1]]


def test_no_word_of_a_long_sentence_is_left_out(pieces):
    rng = np.random.default_rng(0)
    words = tuple(
        tuple(f"w{n}" + "x" * int(rng.integers(0, 3)) for n in range(size))
        for size in (1, 7, 8, 40)
    )
    words = (*words, ("w0" + "x" * 20, "w1"))  # a word that fills more than a row
    tags = tuple(tuple("AB"[n % 2] for n in range(len(w))) for w in words)
    rows = encode_words(pieces, TaggedSentences(words, tags), ("A", "B"), 10)
    for number, of_words in enumerate(tags):
        own = rows.example == number
        seen = rows.word[own][rows.word[own] >= 0]
        assert seen.tolist() == list(range(len(of_words)))
        labels = rows.labels[own][rows.word[own] >= 0]
        assert ["AB"[label] for label in labels] == list(of_words)


def test_a_tag_unknown_to_training_is_refused(pieces):
    examples = TaggedSentences((("w1",),), (("C",),))
    with pytest.raises(
        ValueError, match=r"'C' \(1 times\) does not occur in the training file"
    ):
        encode_words(pieces, examples, ("A", "B"), 8)


# Questions.


def squad(*qas, context="w1 w2, w3 w4."):
    return {"data": [{"paragraphs": [{"context": context, "qas": list(qas)}]}]}


def qa(question, *answers, **more):
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"question": question, "answers": answers, **more}


def test_questions_of_both_squads_are_read(tmp_path):
    document = squad(
        qa("q1", ("w2", 3), ("w2, w3", 3)), qa("q2", ("w1", 0), is_impossible=True)
    )
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = read_questions(tmp_path / "a.json")
    assert found.questions == ("q1", "q2")
    assert found.answers == ((Answer("w2", 3), Answer("w2, w3", 3)), ())
    assert found.text_of(0, 1, 3) == "w2, w3"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (squad(qa("q", ("w2", 4))), "the answer 'w2' at character 4, where .* '2,'"),
        ({"questions": []}, r"not in the form of SQuAD \(KeyError: 'data'\)"),
        ([], "not in the form of SQuAD"),
        ({"data": []}, "holds no question"),
    ],
)
def test_a_wrong_file_of_questions_is_named(tmp_path, document, message):
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / "a.json")


def test_layout_of_a_question(pieces):
    examples = Questions(("w9",), ("w1 w2x w3",), ((Answer("w2x w3", 3),),))
    rows = encode_questions(pieces, examples, 10)
    assert rows.input_ids.tolist() == [[2, 14, 3, 6, 7, 55, 8, 3, 0, 0]]
    assert rows.segment_ids.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 0, 0]]
    assert rows.labels.tolist() == [[4, 6]]
    assert rows.word.tolist() == [[-1, -1, -1, 0, 1, 1, 2, -1, -1, -1]]


def test_windows_of_a_passage_overlap_and_hold_every_short_answer(pieces):
    passage = " ".join(f"w{n}" for n in range(40))
    starts = {n: passage.index(f"w{n}") for n in range(40)}
    answers = [(Answer(f"w{n} w{n + 1}", starts[n]),) for n in range(10, 39)]
    examples = Questions(("w9",) * 29, (passage,) * 29, tuple(answers))
    rows = encode_questions(pieces, examples, 16)  # windows of 12 words
    for number in range(29):
        own = np.flatnonzero(rows.example == number)
        assert set(rows.word[own].ravel()) == {-1, *range(40)}
        found = {
            tuple(rows.word[row, rows.labels[row]])
            for row in own
            if rows.labels[row].any()
        }
        assert found == {(10 + number, 11 + number)}


def test_an_answer_of_real_squad_is_found_in_its_row(shared_data, tmp_path):
    examples = read_questions(shared_data / "squad/dev.json").sample(40)
    vocabulary = (shared_data / "vocab/bert-base-uncased-vocab.txt").read_bytes()
    tokenizer = WordPieceTokenizer(vocabulary.rstrip(b"\n"), lowercase=True)
    rows = encode_questions(tokenizer, examples, 384)
    labelled = np.flatnonzero(rows.labels.any(axis=1))
    assert {*rows.example[labelled]} == set(range(40))
    for row in labelled:
        first, last = rows.word[row, rows.labels[row]]
        number = int(rows.example[row])
        answer = examples.answers[number][0].text
        # Whole words, so signs and letters around the answer may come with it.
        assert answer in examples.text_of(number, int(first), int(last))
