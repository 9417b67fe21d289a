"""Questions and their passages: files, and the rows that are made of them."""

import json

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from small_tokenizers import wordpiece
from test_word_places import SCRIPTS

from bert_jax.config import FileConfig
from bert_jax.data.labelled.question_rows import encode_questions
from bert_jax.data.labelled.questions import Answer, Questions, read_questions
from bert_jax.data.labelled.word_places import places_of_words
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer


@pytest.fixture(scope="module")
def pieces():
    """A tokenizer that has w0 ... w49 with the ids 5 ... 54, and ##x with 55."""
    return wordpiece(*(f"w{n}" for n in range(50)), "##x")


@pytest.fixture
def load(tmp_path):
    """load(document, **settings) -> the questions of a file of that JSON."""

    def read(document, **fields):
        (tmp_path / "a.json").write_text(json.dumps(document))
        return read_questions(tmp_path / "a.json", FileConfig(**fields))

    return read


def squad(*qas, context="w1 w2, w3 w4."):
    return {"data": [{"paragraphs": [{"context": context, "qas": list(qas)}]}]}


def qa(question, *answers, **more):
    answers = [{"text": text, "answer_start": start} for text, start in answers]
    return {"question": question, "answers": answers, **more}


# Files.


def test_a_name_that_stands_twice_is_refused(tmp_path):
    """Python's parser takes the last value without a word."""
    text = json.dumps(squad(qa("q1", ("w2", 3))))
    doubled = text.replace('"question": "q1"', '"question": "q0", "question": "q1"')
    (tmp_path / "a.json").write_text(doubled)
    with pytest.raises(ValueError, match="an object names 'question' twice"):
        read_questions(tmp_path / "a.json", FileConfig())


def test_questions_of_both_squads_are_read(load):
    found = load(
        squad(
            qa("q1", ("w2", 3), ("w2, w3", 3)),
            qa("q2", ("w1", 0), is_impossible=True),
            qa("q3", ("", -1)),
        )
    )
    assert found.questions == ("q1", "q2", "q3")
    assert found.answers == ((Answer("w2", 3), Answer("w2, w3", 3)), (), ())
    assert found.place_of(0, 1, 3) == (3, 9)
    assert not found.reading.warnings


def test_an_answer_is_moved_to_the_nearest_place_that_holds_it(load):
    document = squad(qa("q", ("w2", 11), (" w3\n", 0)), context="w2 w3 w1 w2 w2")
    found = load(document)
    assert found.answers == ((Answer("w2", 12), Answer("w3", 3)),)
    [warning] = found.reading.warnings
    assert warning.startswith("2 answers do not stand at their answer_start")


def test_an_answer_is_whole_words_where_the_passage_has_it_so(load):
    document = squad(
        qa("q", ("Japan", 0)), qa("r", ("Jap", 0)), context="Japanese in Japan."
    )
    found = load(document)
    assert found.answers == ((Answer("Japan", 12),), (Answer("Jap", 0),))
    assert found.reading.warnings[0].startswith("1 answers")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (squad(qa("q", ("w9", 3))), "'w9' at character 3, .* reads 'w2', .* at all"),
        (squad(qa(" ", ("w2", 3), id=7)), "the question of question 7 is empty"),
        (squad(qa("q"), context=""), "the passage of question 'q' is empty"),
        (
            squad(qa("q", ("w2", 3)), context=""),
            "the passage of question 'q' is empty",
        ),
        (
            {"questions": []},
            'a.json: "data" is missing, which is not the form of SQuAD',
        ),
        ([], 'a.json: there is no object with "data"'),
        ({"data": [{"paragraphs": None}]}, 'article 1: "paragraphs" is null'),
        (squad(qa("q"), 5), r'paragraph 1, question 2: there is no object with "quest'),
        (squad({"id": "x7"}), r"1, question 1 \(id 'x7'\): \"question\" is missing"),
        (squad({"question": "q"}), 'question 1: "answers" is missing'),
        (squad(qa(5, id=0)), r'\(id 0\): "question" is 5'),
        (squad(qa("q"), context=5), 'paragraph 1: "context" is 5'),
        (squad(qa("q", (None, 3))), 'question 1: "text" is null'),
        (squad(qa("q", ("w2", None))), 'question 1: "answer_start" is null'),
        (squad(qa("q", ("w2", "x"))), 'question 1: "answer_start" is "x"'),
        (
            squad(qa("q", ("w2", 3), is_impossible="false")),
            'question 1: "is_impossible" is "false"',
        ),
        ({"data": []}, "holds no question"),
    ],
)
def test_a_wrong_file_of_questions_is_named(load, document, message):
    with pytest.raises(ValueError, match=message):
        load(document)


def test_what_cannot_be_used_is_left_out_on_request(load):
    document = squad(qa("q1", ("w9", 3)), qa("", ("w2", 3)), qa("q2", ("w2", 3)))
    found = load(document, skip_incomplete=True)
    assert (found.questions, found.reading.num_skipped) == (("q2",), 2)


def test_tables_have_the_columns_of_squad(tmp_path):
    answers = {"text": ["w2"], "answer_start": [3]}
    rows = [
        {"id": "a", "question": "q1", "context": "w1 w2", "answers": answers},
        {
            "id": "b",
            "question": "q2",
            "context": "w1",
            "answers": {"text": [], "answer_start": []},
        },
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        found = read_questions(tmp_path / name, FileConfig())
        assert found.answers == ((Answer("w2", 3),), ())
        assert found.ids == ("a", "b")


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (None, 'line 1: "answers" is null'),
        ({"text": "w2", "answer_start": [3]}, 'line 1: "text" is "w2"'),
        (
            {"text": ["w2"], "answer_start": []},
            "line 1: .* 1 texts and 0 answer_starts",
        ),
    ],
)
def test_a_wrong_line_of_questions_is_named(tmp_path, answers, message):
    row = {"question": "q1", "context": "w1 w2", "answers": answers}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=message):
        read_questions(tmp_path / "a.jsonl", FileConfig())


# Rows.


def test_layout_of_a_question(pieces):
    examples = Questions(("w9",), ("w1 w2x w3",), ((Answer("w2x w3", 3),),))
    rows = encode_questions(pieces, examples, 10)
    assert rows.input_ids.tolist() == [[2, 14, 3, 6, 7, 55, 8, 3, 0, 0]]
    assert rows.segment_ids.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 0, 0]]
    assert rows.labels.tolist() == [[4, 6]]
    assert rows.word.tolist() == [[-1, -1, -1, 0, 1, 1, 2, -1, -1, -1]]


def test_a_window_knows_which_words_it_holds_whole(pieces):
    examples = Questions(("w9",), ("w1xxx w2xxx w3",), ((Answer("w1xxx", 0),),))
    rows = encode_questions(pieces, examples, 10, 6)  # windows of 6 pieces
    assert rows.word.tolist() == [
        [-1, -1, -1, 0, 0, 0, 0, -1, -1, -1],
        [-1, -1, -1, -1, -1, 2, -1, -1, -1, -1],
    ]
    assert rows.labels.tolist() == [[3, 6], [0, 0]]


def test_a_question_takes_half_of_a_row_at_most(pieces):
    examples = Questions(("w9 " * 40, "w9"), ("w1 w2", "\u200b"), ((), ()))
    rows = encode_questions(pieces, examples, 12)
    assert rows.num_cut == 1
    assert rows.input_ids[0].tolist() == [2, *[14] * 4, 3, 6, 7, 3, 0, 0, 0]
    assert rows.input_ids[1, :4].tolist() == [2, 14, 3, 3]  # no word, and yet a row
    assert (rows.word[1] == -1).all()


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=60),
    st.integers(8, 30),
    st.integers(1, 12),
    st.data(),
)
@settings(max_examples=80)
def test_every_answer_that_fits_is_found_again(pieces, sizes, length, asked, data):
    words = [f"w{n % 50}" + "x" * (size - 1) for n, size in enumerate(sizes)]
    passage = " ".join(words)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    places = places_of_words(passage)
    begin, end = places[first][0], places[last][1]
    answer = Answer(passage[begin:end], begin)
    examples = Questions((("w9 " * asked).strip(),), (passage,), ((answer,),))
    room = length - 3 - min(asked, length // 2 - 2)
    stride = data.draw(st.integers(1, room))
    rows = encode_questions(pieces, examples, length, stride)
    found = np.flatnonzero(rows.labels.any(axis=1))
    for row in found:
        ends = rows.word[row, rows.labels[row]]
        assert examples.place_of(0, *ends) == (begin, end)
    size = sum(sizes[first : last + 1])
    if size <= room - stride + 1:
        assert found.size
    # What is not labelled is not whole in any window.
    held = [{first, last} <= set(of_row) for of_row in rows.word]
    assert set(np.flatnonzero(held)) == set(found)
    seen = set(rows.word.ravel()) - {-1}
    assert {n for n, size in enumerate(sizes) if size <= room - stride + 1} <= seen


@given(st.lists(st.sampled_from(SCRIPTS), min_size=1, max_size=12), st.data())
@settings(max_examples=60)
def test_characters_of_an_answer_are_exact_in_every_script(pieces, words, data):
    blanks = data.draw(
        st.lists(st.sampled_from([" ", "\u200f "]), min_size=12, max_size=12)
    )
    passage = "".join(f"{w}{b}" for w, b in zip(words, blanks, strict=False))
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    begin = sum(len(w) + len(b) for w, b in zip(words[:first], blanks, strict=False))
    inside = zip(words[first:last], blanks[first:], strict=False)
    end = begin + sum(len(w) + len(b) for w, b in inside) + len(words[last])
    answer = Answer(passage[begin:end], begin)
    examples = Questions(("w9",), (passage,), ((answer,),))
    [row] = encode_questions(pieces, examples, 128).labels
    ends = encode_questions(pieces, examples, 128).word[0, row]
    start, stop = examples.place_of(0, *ends)
    assert (start, passage[start:stop]) == answer[::-1]


def test_real_answers_are_found_in_their_rows(shared_data):
    examples = read_questions(shared_data / "squad/dev.json", FileConfig())
    assert examples.reading.warnings[0].startswith("49 answers do not stand")
    examples = examples.sample(40)
    vocabulary = (shared_data / "vocab/bert-base-uncased-vocab.txt").read_bytes()
    tokenizer = WordPieceTokenizer(vocabulary.rstrip(b"\n"), lowercase=True)
    rows = encode_questions(tokenizer, examples, 384)
    labelled = np.flatnonzero(rows.labels.any(axis=1))
    assert {*rows.example[labelled]} == set(range(40))
    for row in labelled:
        first, last = rows.word[row, rows.labels[row]]
        number = int(rows.example[row])
        start, end = examples.place_of(number, int(first), int(last))
        answer = examples.answers[number][0].text
        assert answer == examples.passages[number][start:end]
