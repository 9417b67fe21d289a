"""Tagged sentences: files, their tags, and the rows that are made of them."""

import json

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from small_tokenizers import wordpiece

from bert_jax.batch import IGNORED_LABEL
from bert_jax.config import FileConfig
from bert_jax.data.labelled.labels import ordered
from bert_jax.data.labelled.tags import scheme_of
from bert_jax.data.labelled.word_rows import encode_words, windows
from bert_jax.data.labelled.words import (
    GivenWords,
    TaggedSentences,
    read_tagged_sentences,
    read_words,
    split_texts,
)
from bert_jax.train.tasks import TASKS

CONLL = "-DOCSTART-\tO\n\nOslo B-LOC\nis\tO\r\n\n\nBo B-PER\n"
CONLL_2003 = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

-DOCSTART- -X- O O

Peter NNP B-NP B-PER
"""
CONLLU = """\
# newdoc id = a
# sent_id = 1
# text = Vámonos al mar .
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\tV\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tP\t_\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\tS\t_\t5\tcase\t_\t_
4\tel\tel\tDET\tD\t_\t5\tdet\t_\t_
5\tmar\tmar\tNOUN\tN\t_\t1\tobl\t_\t_
5.1\tfue\tir\tVERB\tV\t_\t_\t_\t_\t_
#
6\t.\t.\tPUNCT\tF\t_\t1\tpunct\t_\t_

"""


@pytest.fixture(scope="module")
def pieces():
    """A tokenizer that has w0 ... w49 with the ids 5 ... 54, and ##x with 55."""
    return wordpiece(*(f"w{n}" for n in range(50)), "##x")


@pytest.fixture
def load(tmp_path):
    """load(name, content, **settings) -> the sentences of that file."""

    def read(name, content, **fields):
        (tmp_path / name).write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        return read_tagged_sentences(tmp_path / name, FileConfig(**fields))

    return read


def test_sentences_are_cut_at_blank_lines(load):
    found = load("a.conll", CONLL)
    assert found.words == (("Oslo", "is"), ("Bo",))
    assert found.tags == (("B-LOC", "O"), ("B-PER",))
    assert ordered(tag for tags in found.tags for tag in tags) == (
        "B-LOC",
        "B-PER",
        "O",
    )
    assert found.sha256() != found.take(np.array([1, 0])).sha256()


def test_the_columns_of_conll_2003_are_chosen_by_number(load):
    found = load("a.txt", CONLL_2003)
    assert found.words == (("EU", "rejects"), ("Peter",))
    assert found.tags == (("B-ORG", "O"), ("B-PER",))
    assert "its tag in its last column" in found.reading.how
    found = load("a.txt", CONLL_2003, label="2")
    assert found.tags == (("NNP", "VBZ"), ("NNP",))
    assert "its tag in column 2" in found.reading.how
    found = load("a.txt", "1 Oslo B-LOC\n2 is O\n", text=("2",))
    assert found.words == (("Oslo", "is"),)


def test_conllu_has_words_and_parts_of_speech(load):
    for name in ("a.conllu", "a.conll"):
        found = load(name, CONLLU)
        assert found.words == (("Vamos", "nos", "a", "el", "mar", "."),)
        assert found.tags == (("VERB", "PRON", "ADP", "DET", "NOUN", "PUNCT"),)
        assert "CoNLL-U, a word a line, its tag in UPOS" in found.reading.how
    found = load("a.conllu", CONLLU, text=("lemma",), label="XPOS")
    assert found.words[0][0] == "ir"
    assert found.tags == (("V", "P", "S", "D", "N", "F"),)


ROWS = [
    {"id": "7", "tokens": ["Oslo", "is"], "pos_tags": [1, 2], "ner_tags": [1, 0]},
    {"id": "8", "tokens": ["-DOCSTART-"], "pos_tags": [0], "ner_tags": [0]},
    {"id": "9", "tokens": ["Bo"], "pos_tags": [1], "ner_tags": [2]},
]
NAMES = ["O", "B-LOC", "B-PER"]


def datasets_table(feature):
    """What the `datasets` library writes."""
    features = {"tokens": {"_type": "List"}, "ner_tags": feature}
    info = json.dumps({"info": {"features": features}})
    table = pa.Table.from_pylist(ROWS)
    return table.replace_schema_metadata({"huggingface": info})


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"},
        {"feature": [{"names": NAMES, "_type": "ClassLabel"}], "_type": "Sequence"},
        [{"names": NAMES, "_type": "ClassLabel"}],
    ],
)
def test_numbers_of_tags_have_the_names_of_the_file(tmp_path, feature):
    pq.write_table(datasets_table(feature), tmp_path / "a.parquet")
    found = read_tagged_sentences(tmp_path / "a.parquet", FileConfig())
    assert found.words == (("Oslo", "is"), ("Bo",))
    assert found.tags == (("B-LOC", "O"), ("B-PER",))
    assert "words from 'tokens', tags from 'ner_tags'" in found.reading.how
    assert not found.reading.warnings
    found = read_tagged_sentences(tmp_path / "a.parquet", FileConfig(label="pos_tags"))
    assert found.tags == (("1", "2"), ("1",))
    assert "numbers without names" in found.reading.warnings[0]


def test_the_datasets_library_itself_writes_such_files(tmp_path):
    datasets = pytest.importorskip("datasets", reason="not installed: .[bench]")
    tags = datasets.Sequence(datasets.ClassLabel(names=NAMES))
    features = {"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags}
    rows = {"tokens": [["Oslo", "is"]], "ner_tags": [[1, 0]]}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
    made.to_parquet(tmp_path / "a.parquet")
    found = read_tagged_sentences(tmp_path / "a.parquet", FileConfig())
    assert found.tags == (("B-LOC", "O"),)


def test_a_no_break_space_is_a_part_of_the_word(load):
    found = load("a.conll", "10\u00a0000  _ O\n km   _ B-X \n")
    assert found.words == (("10\u00a0000", "km"),)
    assert found.tags == (("O", "B-X"),)


def test_lists_of_words_and_tags_are_read_from_json(load):
    rows = [{"words": ["a", "b"], "tags": ["B-X", "O"]}, {"words": [], "tags": []}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    found = load("a.jsonl", content)
    assert (found.words, found.tags) == ((("a", "b"),), (("B-X", "O"),))
    assert load("a.jsonl", content.replace('"O"', '"O "')).tags == (("B-X", "O"),)
    renamed = content.replace("words", "w").replace("tags", "t")
    found = load("a.jsonl", renamed, text=("w",), label="t")
    assert found.tags == (("B-X", "O"),)


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.conll", b"Oslo B-LOC\nis\n", {}, r"a\.conll, line 2: 'is' has no tag"),
        ("a.conll", b"\n\n", {}, "holds no sentence"),
        ("a.conll", b"\xe9t\xe9 O\n", {}, "is not UTF-8"),
        (
            "a.conll",
            b"a B c\n\nd O\n",
            {"label": "3"},
            "line 3 has nothing in column 3",
        ),
        ("a.conll", b"a O\n", {"label": "ner"}, "--label 'ner' is no column of"),
        ("a.conll", b"a O\n", {"text": ("4",)}, "line 1 has no column 4, which --text"),
        ("a.conllu", b"a O\n", {}, "line 1 is not CoNLL-U"),
        ("a.jsonl", b'{"tokens": ["a"]}\n', {}, "no columns of words and tags"),
        (
            "a.jsonl",
            b'{"tokens": ["a"], "tags": ["O", "O"]}\n',
            {},
            "line 1: 1 words, but 2",
        ),
        (
            "a.jsonl",
            b'{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["b"]}\n',
            {},
            "line 2: 1 words, but None in 'tags'",
        ),
        (
            "a.jsonl",
            b'{"tokens": "a b", "tags": ["O"]}\n',
            {},
            "expected a list of words",
        ),
        (
            "a.jsonl",
            b'{"tokens": ["a\\ud800"], "tags": ["O"]}\n',
            {},
            "line 1: column 'tokens' holds half of a character",
        ),
        ("a.csv", b"", {}, "unknown kind '.csv'"),
        (
            "a.jsonl",
            b'{"tokens": ["a", "b"], "tags": ["O", null]}\n',
            {},
            "a.jsonl, line 1: the tag of a word is None",
        ),
        ("a.jsonl", b'{"tokens": ["a"], "tags": [" "]}\n', {}, "tag of a word is ' '"),
        (
            "a.conll",
            b"Oslo B-LOC\nis O\n\nBo PER\n",
            {},
            r"a\.conll, sentence 2, word 1 \('Bo'\): the tag 'PER' has no letter of BIO",
        ),
        (
            "a.conll",
            b"# 7 lang=en\na a I-X\nb a O\n",
            {},
            "tag 'lang=en' has no letter",
        ),
        (
            "a.conll",
            b"# id 7 lang=en\na I-X\n\nb O\n",
            {},
            r"line 1 has 4 columns \(#, id, 7, lang=en\), where most lines have 2",
        ),
        (
            "a.conll",
            b"a NN B-X\nb NN O\n\nc B-X\n",
            {},
            r"line 4 has 2 columns \(c, B-X\), where most lines have 3; .* --label",
        ),
    ],
)
def test_a_wrong_file_of_words_is_named(load, name, content, fields, message):
    with pytest.raises(ValueError, match=message):
        load(name, content, **fields)


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        (["B-A I-A O B-A", "B-A B-A"], "BIO (IOB2)"),
        (["B-A O"], "BIO (IOB2)"),
        (["I-A I-A O I-A", "I-A B-A I-B"], "IOB1"),
        (["I-A O"], "IOB1"),
        (["B-A I-A O I-B", "B-A O"], "BIO (IOB2), with 1 entities that begin with I"),
        (["B-A E-A O S-A"], "BIOES"),
        (["B-A L-A O U-A"], "BILOU"),
        (["B I O"], "BIO (IOB2)"),
        (["PER PER O"], "IO, types without letters"),
        (["NOUN VERB"], "a tag for each word by itself, such as its part of speech"),
    ],
)
def test_the_scheme_of_tags_is_recognised(sentences, scheme):
    assert scheme_of([tags.split() for tags in sentences]) == scheme


@pytest.mark.parametrize(
    ("tags", "doubted"),
    [
        ("B_LOC I_LOC O", True),
        ("LOC-B PER-I O", True),
        ("b-loc i-loc o", True),
        ("B-LOC I-X_B O", False),
        ("B I O", False),
        ("LOC B_LOC O", False),
        ("O", False),
    ],
)
def test_tags_in_another_form_of_bio_are_doubted(tags, doubted):
    examples = TaggedSentences((("w",) * 3,), (tuple(tags.split()),))
    found = TASKS["tokens"].warnings(examples)
    assert [x.partition(" are read as types")[0] for x in found] == [
        f"tags such as {min(tags.split()[:2])!r} look like BIO, but"
    ] * doubted


def test_wnut_is_read_whole(shared_data):
    for name, count in (("train", 3_394), ("dev", 1_009)):
        path = shared_data / f"wnut17/{name}.conll"
        found = read_tagged_sentences(path, FileConfig())
        assert len(found) == count
        assert len(ordered(tag for tags in found.tags for tag in tags)) == 13
        assert scheme_of(found.tags) == "BIO (IOB2)"


# Words of texts.


def test_given_words_keep_their_places():
    text = GivenWords(["U.S.", "a b", "", "x"])
    assert text == "U.S. a b  x"
    assert [text[a:b] for a, b in text.places] == ["U.S.", "a b", "", "x"]
    found = split_texts([text, "U.S. x"])
    assert found.words == (("U.S.", "a b", "", "x"), ("U", ".", "S", ".", "x"))


def test_sentences_to_tag_are_words_or_texts(tmp_path):
    def read(name, content):
        (tmp_path / name).write_text(content)
        return read_words(tmp_path / name, FileConfig(), ("B-X", "O"))

    found = read("a.jsonl", '{"id": 3, "tokens": ["a.", "b"]}\n')
    assert (found.ids, found.texts) == ([3], [("a. b",)])
    assert found.texts[0][0].places == ((0, 2), (3, 4))
    assert read("b.jsonl", '{"text": "a. b"}\n').texts == [("a. b",)]
    assert read("c.csv", "text,id\na. b,1\n").texts == [("a. b",)]
    found = read("d.conllu", CONLLU)
    assert found.texts == [("Vamos nos a el mar .",)]
    comments = "# newdoc\n# newpar id = 3\n# text = a #\na\n#\n\n# newdoc\nb\n"
    assert read("g.conll", comments).texts == [("a #",), ("b",)]
    with pytest.raises(ValueError, match=r"line 1 has 3 columns \(#, id, 7\), where"):
        read("h.conll", "# id 7\na\nb\n")
    found = read("i.conll", "# seven\na\tO\n#\tO\nb\tX\n")
    assert found.texts == [("a # b",)]
    with pytest.raises(
        ValueError, match=r"line 1 \(#, seven\) ends with no tag of the"
    ):
        read("j.conll", "# seven\na O\n# O\nb B-X\n")
    assert read("l.conll", "#\n").texts == [("#",)]
    assert read("k.conll", "# SYM\na O\nb NOUN\n").texts == [("# a b",)]
    assert not isinstance(read("e.txt", "a. b\n").texts[0][0], GivenWords)
    with pytest.raises(ValueError, match="holds no sentence"):
        read("f.conll", "\n")
    for name in ("a.jsonl", "d.conllu"):
        with pytest.raises(ValueError, match="label='2' would be ignored"):
            read_words(tmp_path / name, FileConfig(label="2"), ("B-X", "O"))


# Rows.


def test_the_first_piece_of_a_word_bears_its_tag(pieces):
    examples = TaggedSentences((("w1x", "\u200b", "w2"),), (("A", "B", "A"),))
    rows = encode_words(pieces, examples, ("A", "B"), 8)
    assert rows.input_ids.tolist() == [[2, 6, 55, 1, 7, 3, 0, 0]]
    none = IGNORED_LABEL
    assert rows.labels.tolist() == [[none, 0, none, 1, 0, none, none, none]]
    assert rows.word.tolist() == [[-1, 0, -1, 1, 2, -1, -1, -1]]


def test_a_word_is_labelled_where_it_is_farthest_from_a_cut(pieces):
    words = tuple(f"w{n}" for n in range(12))
    examples = TaggedSentences((words,), (("A",) * 12,))
    rows = encode_words(pieces, examples, ("A",), 10, 4)  # windows of 8 words
    assert rows.input_ids[:, 1].tolist() == [5, 9]  # the second begins with w4
    # w6 has one word to the cut in the first window, and two in the second.
    assert rows.word[0].tolist() == [-1, 0, 1, 2, 3, 4, 5, -1, -1, -1]
    assert rows.word[1].tolist() == [-1, -1, -1, 6, 7, 8, 9, 10, 11, -1]


@given(
    st.lists(st.lists(st.integers(1, 30), max_size=60), min_size=1, max_size=4),
    st.integers(8, 24),
    st.data(),
)
@settings(max_examples=60)
def test_every_word_has_one_label_whatever_the_windows(pieces, sizes, length, data):
    stride = data.draw(st.one_of(st.none(), st.integers(1, length - 2)))
    words = tuple(
        tuple(f"w{n % 50}" + "x" * (size - 1) for n, size in enumerate(of_sentence))
        for of_sentence in sizes
    )
    tags = tuple(tuple("AB"[n % 2] for n in range(len(w))) for w in words)
    rows = encode_words(
        pieces, TaggedSentences(words, tags), ("A", "B"), length, stride
    )
    assert set(rows.example) == set(range(len(words)))
    assert (np.diff(rows.example) >= 0).all()
    for number, of_words in enumerate(tags):
        own = rows.example == number
        chosen = rows.word[own] >= 0
        assert rows.word[own][chosen].tolist() == list(range(len(of_words)))
        labels = rows.labels[own][chosen]
        assert ["AB"[label] for label in labels] == list(of_words)
        firsts = rows.input_ids[own][chosen]
        assert firsts.tolist() == [5 + n % 50 for n in range(len(of_words))]
    assert ((rows.labels == IGNORED_LABEL) == (rows.word < 0)).all()


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=40),
    st.integers(6, 20),
    st.integers(1, 20),
)
def test_the_deciding_window_is_the_one_with_most_context(sizes, room, stride):
    """Against each word and each window by itself."""
    found = windows(np.array(sizes), room, min(stride, room))

    def context(word, window):
        if not window.first <= word < window.end:
            return -1
        left, right = sum(sizes[window.first : word]), sum(sizes[word + 1 : window.end])
        left = left if window.first > 0 else 10**9
        right = right if window.end < len(sizes) else 10**9
        return min(left, right)

    for word in range(len(sizes)):
        [decider] = [w for w in found if w.decides_first <= word < w.decides_end]
        assert context(word, decider) == max(context(word, w) for w in found) >= 0
    assert all(sum(sizes[w.first : w.end]) <= room for w in found)


def test_a_tag_unknown_to_training_is_refused(pieces):
    examples = TaggedSentences((("w0",), ("w2", "w1")), (("A",), ("B", "C")))
    with pytest.raises(
        ValueError,
        match=r"^sentence 2, word 2 \('w1'\): the tag 'C' \(1 times\) is none of "
        "the model's tags",
    ):
        encode_words(pieces, examples, ("A", "B"), 8)
