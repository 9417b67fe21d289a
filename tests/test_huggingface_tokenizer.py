"""A tokenizer.json that is kept as it is: ids, words, masks and pairs of transformers."""

import itertools
import json
import pathlib
import pickle
import warnings

import numpy as np
import pytest
from huggingface_tokenizers import FORMATS, save_tokenizer

from bert_jax.batch import MaskVocabulary
from bert_jax.config import DataConfig, ModelConfig, PretrainConfig
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.labelled.question_rows import _answer_tokens, encode_questions
from bert_jax.data.labelled.questions import Answer, Questions
from bert_jax.data.labelled.texts import encode_texts
from bert_jax.data.labelled.word_places import places_of_words
from bert_jax.data.labelled.word_rows import encode_words
from bert_jax.data.labelled.words import TaggedSentences
from bert_jax.data.prepared.records import tokenize
from bert_jax.data.text.reading import Document
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer, open_tokenizer
from bert_jax.data.tokenizers.tokenizer import PairLayout
from bert_jax.topology import compiled

AWKWARD = [
    *("", " ", "\r\n", "  two  spaces  ", "tab\there", "    four    spaces", "\x85"),
    *("E\u0301cole e\u0301", "日本語テスト", "👩‍👩‍👧‍👦 👍🏽", "ﬁ ① ﷺ", "İstanbul ß"),
    *("▁the▁river", "Ġriver", "it's we'll", "a" * 300, "<unk> <unk>", "x<unk>y"),
]


@pytest.fixture(scope="session")
def lines(shared_data):
    text = (shared_data / "wikitext" / "valid.txt").read_text(encoding="utf-8")
    return text.split("\n")


@pytest.fixture(scope="session")
def folders(lines, tmp_path_factory):
    home = tmp_path_factory.mktemp("formats")
    # A tokenizer would learn nothing from text that it takes for one token.
    plain = [line.replace("<unk>", "river") for line in lines[:150]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return {kind: save_tokenizer(kind, plain, home / kind) for kind in FORMATS}


@pytest.fixture(scope="module", params=FORMATS)
def folder(request, folders):
    return folders[request.param]


@pytest.fixture(scope="module")
def tokenizer(folder):
    return open_tokenizer(folder)


@pytest.fixture(scope="module")
def theirs(folder, transformers):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs_for_words(folder, transformers):
    """What transformers needs to be told before it takes words."""
    found = transformers.AutoTokenizer.from_pretrained(folder, add_prefix_space=True)
    if folder.name == "modernbert":  # where it does not listen
        from tokenizers import pre_tokenizers

        found._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return found


def check_ids(tokenizer, theirs, texts):
    ours = tokenizer.encode(texts)
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    for text, found, wanted in zip(texts, ours, expected, strict=True):
        assert found == wanted, ascii(text)


def test_ids_are_those_of_transformers(tokenizer, theirs, lines):
    some = [*lines[150:400], *AWKWARD]
    assert any("<unk>" in line for line in some)
    check_ids(tokenizer, theirs, some)
    assert tokenizer.vocab_size == len(theirs) == 700
    for name in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(tokenizer.special, name) == getattr(theirs, f"{name}_token_id")


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_line_of_wikitext_has_the_ids_of_transformers(
    kind, lines, tmp_path, transformers
):
    plain = [line.replace("<unk>", "river") for line in lines]
    folder = save_tokenizer(kind, plain, tmp_path, vocab_size=7_000)
    theirs = transformers.AutoTokenizer.from_pretrained(folder, model_max_length=10**9)
    assert len(lines) > 3_700
    check_ids(open_tokenizer(folder), theirs, lines)


def test_text_spells_no_special_token_but_the_unknown(tokenizer):
    special = tokenizer.special
    for index in {special.pad, special.cls, special.sep, special.mask}:
        (ids,) = tokenizer.encode([f"the {tokenizer.pieces[index]} river"])
        assert len(ids) > 3
        assert not {*ids} & {special.pad, special.cls, special.sep, special.mask}
    (ids,) = tokenizer.encode([f"the {tokenizer.pieces[special.unk]} river"])
    assert special.unk in ids


def test_tokens_behind_the_special_ones_have_the_ids_of_transformers(
    folder, transformers, tmp_path
):
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.add_tokens(["covid", "Zürich"]) == 2
    theirs.save_pretrained(tmp_path)
    text = "the covid of Zürich, uncovid <mask> [MASK]s"
    check_ids(open_tokenizer(tmp_path), theirs, [text.partition(" <")[0]])
    assert {700, 701} < {*open_tokenizer(tmp_path).encode([text])[0]}


def test_word_starts_are_the_words(tokenizer):
    words = ["the", "lobster", "and", "the", "river", ",", "unbelievable"]
    (ids,) = tokenizer.encode([" ".join(["first", *words])])
    starts = tokenizer.starts_word[ids]
    assert starts[1:].sum() == len(words)  # byte-level BPE does not mark the first word
    begins = [0, *(np.flatnonzero(starts[1:]) + 1), len(ids)]
    pairs = itertools.pairwise(begins)
    found = [tokenizer.decode(ids[begin:end]) for begin, end in pairs]
    assert found == ["first", *words]
    shown = "".join(tokenizer.shown_pieces[index] for index in ids)
    assert shown.lstrip("▁") == "▁".join(["first", *words])
    for index in vars(tokenizer.special).values():
        assert not tokenizer.starts_word[index]
    assert not tokenizer.mask_vocabulary.starts_word[tokenizer.special.unk]
    names = [tokenizer.shown_pieces[x] for x in vars(tokenizer.special).values()]
    assert names == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_a_saved_tokenizer_is_the_same(tokenizer, folder, tmp_path, lines):
    tokenizer.save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
    copies = (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer)))
    for copy in copies:
        assert copy.sha256 == tokenizer.sha256
        assert copy.special == tokenizer.special
        assert copy.pair == tokenizer.pair
        assert copy.config == tokenizer.config
        assert copy.encode(lines[:5]) == tokenizer.encode(lines[:5])
        np.testing.assert_array_equal(copy.starts_word, tokenizer.starts_word)
    run = tmp_path / "run" / "tokenizer"
    tokenizer.save(run)
    for path in (run, run.parent, folder, folder / "tokenizer.json"):
        assert open_tokenizer(path).sha256 == tokenizer.sha256
    with pytest.raises(
        ValueError, match=r"expected a directory .* or a tokenizer\.json"
    ):
        open_tokenizer(tmp_path / "nothing")
    other = HuggingFaceTokenizer(
        tokenizer.model, config=tokenizer.config | {"pad_token": "a"}
    )
    assert other.sha256 != tokenizer.sha256


def test_sentences_have_the_ids_of_their_text(tokenizer):
    text = "The lobster is blue. It lives in the sea. They moult."
    document = Document.of(text, "key", "g")
    [found] = tokenize(tokenizer, [document], "en")
    assert found.sentence_lengths.size == 3
    (whole,) = tokenizer.encode([text])
    assert found.tokens.tolist() == whole


@pytest.mark.parametrize("kind", ["roberta", "modernbert"])
def test_no_space_comes_between_sentences_of_a_script_without(folders, kind):
    tokenizer = open_tokenizer(folders[kind])
    text = "今日は雨です。「明日は晴れ。」と彼は言った。It rained。𠀀だ！ＯＫ。"
    [found] = tokenize(tokenizer, [Document.of(text, "key", "g")], "ja")
    assert found.sentence_lengths.size > 3
    (whole,) = tokenizer.encode([text])
    assert found.tokens.tolist() == whole


# Rows of labelled text.


@pytest.mark.parametrize("room", [60, 61, 21])
@pytest.mark.parametrize("num_texts", [1, 2])
def test_rows_are_those_of_transformers(tokenizer, theirs, lines, room, num_texts):
    length = room + tokenizer.pair.num_special(num_texts)
    some = [line for line in lines[100:200] if 20 < len(line) < 400][:24]
    texts = list(zip(*[iter(some)] * num_texts, strict=False))
    rows = encode_texts(tokenizer, texts, [0] * len(texts), length)
    expected = theirs(
        *map(list, zip(*texts, strict=True)),
        padding="max_length",
        truncation=True,
        max_length=length,
        return_token_type_ids=True,
    )
    assert rows.num_cut > 0
    np.testing.assert_array_equal(rows.input_ids, expected["input_ids"])
    np.testing.assert_array_equal(rows.input_mask, expected["attention_mask"])
    # ModernBERT's file has segments, which its model does not take.
    assert (
        "token_type_ids" not in theirs.model_input_names
        or num_texts == 1
        or (rows.segment_ids.tolist() == expected["token_type_ids"])
    )
    assert not rows.segment_ids.any()


def test_layouts_of_pairs(folders, transformers):
    layouts = {kind: open_tokenizer(folders[kind]).pair for kind in FORMATS}
    two = PairLayout(separators=2, second_segment=0)
    one = PairLayout(separators=1, second_segment=0)
    assert layouts == {"roberta": two, "modernbert": one, "xlm-roberta": two}
    # Without model_input_names, transformers passes the file's segments on.
    model = (folders["modernbert"] / "tokenizer.json").read_bytes()
    bare = HuggingFaceTokenizer(model)
    assert bare.pair == PairLayout() == PairLayout(separators=1, second_segment=1)
    rows = encode_texts(bare, [("a", "b")], [0], 6)
    cls, sep, pad = bare.special.cls, bare.special.sep, bare.special.pad
    (a,), (b,) = bare.encode(["a", "b"])
    assert rows.input_ids.tolist() == [[cls, a, sep, b, sep, pad]]
    assert rows.segment_ids.tolist() == [[0, 0, 0, 1, 1, 0]]


def test_words_have_the_ids_of_transformers(tokenizer, theirs_for_words):
    words = [
        "EU",
        "rejects",
        "German",
        "call",
        "to",
        "boycott",
        "(",
        "lamb",
        ")",
        ",",
        "said",
        "J.",
        "O'Hara",
        "日本",
    ]
    expected = theirs_for_words(words, is_split_into_words=True)
    examples = TaggedSentences((tuple(words),), (("O",) * len(words),))
    length = len(expected["input_ids"])
    rows = encode_words(tokenizer, examples, ["O"], length)
    assert rows.input_ids[0].tolist() == expected["input_ids"]
    firsts = np.flatnonzero(rows.labels[0] == 0)
    word_ids = expected.word_ids()
    assert firsts.tolist() == [word_ids.index(n) for n in range(len(words))]
    assert rows.word[0, firsts].tolist() == list(range(len(words)))


def test_questions_have_the_ids_and_answers_of_transformers(tokenizer, theirs):
    passage = "In (1984), the  lobsters\nwere blue. “Red” 日本 👍🏽 ones came."
    texts = ("1984", "blue", "lobsters\nwere", "日", "came")
    answers = tuple((Answer(x, passage.index(x)),) for x in texts)
    question = "What were the lobsters ?"
    examples = Questions((question,) * len(texts), (passage,) * len(texts), answers)
    expected = theirs(question, passage)
    places = theirs(question, passage, return_offsets_mapping=True)["offset_mapping"]
    length = len(expected["input_ids"])
    rows = encode_questions(tokenizer, examples, length)
    assert len(rows) == len(texts)
    for row, text in enumerate(texts):
        assert rows.input_ids[row].tolist() == expected["input_ids"]
        start, end = passage.index(text), passage.index(text) + len(text)
        inside = [
            token
            for token, place in enumerate(places)
            if expected.sequence_ids()[token] == 1
            and max(place[0], start) < min(place[1], end)
        ]
        assert rows.labels[row].tolist() == [inside[0], inside[-1]], text
    # A window has only words that are whole in it.
    cut = encode_questions(tokenizer, examples, length - 6)
    assert len(cut) > len(rows)
    for row in range(len(cut)):
        ids = cut.input_ids[row]
        for word in {*cut.word[row]} - {-1}:
            begin, end = places_of_words(passage)[word]
            spelled = tokenizer.decode(ids[cut.word[row] == word])
            assert passage[begin:end] in spelled or "unk" in spelled


def test_a_token_over_several_words_belongs_to_the_first(folders):
    """As ")," of byte-level BPE, which is two words to us."""
    tokenizer = open_tokenizer(folders["roberta"])
    (ids,) = tokenizer.encode(["a the"])
    assert [tokenizer.pieces[index] for index in ids] == ["a", "Ġthe"]
    found, words = tokenizer.encode_places("a the", [(0, 1), (2, 3), (3, 5)])
    assert (found, words.tolist()) == (ids, [0, 1])
    # An answer is found where its words are, even if they have no token of their own.
    assert _answer_tokens(words, (2, 2)) == _answer_tokens(words, (1, 2)) == [1, 1]
    found, words = tokenizer.encode_places("", [])
    assert found == words.tolist() == _answer_tokens(words, (0, 0)) == []


def test_a_mask_in_a_text_is_that_of_transformers(tokenizer, theirs):
    mask = theirs.mask_token
    for text in (f"In {mask} the", f"{mask} and{mask}s .", f"a {mask}{mask} b", mask):
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode_masked(text) == expected
        assert tokenizer.special.mask in expected


# What is missing or other.


@pytest.fixture
def edited(folders):
    """edited(kind, change) -> a tokenizer whose JSON `change` has changed."""

    def make(change, kind="roberta", **options):
        rules = json.loads((folders[kind] / "tokenizer.json").read_bytes())
        change(rules)
        return HuggingFaceTokenizer(json.dumps(rules).encode(), **options)

    return make


def test_a_tokenizer_may_lack_the_unknown_token(edited):
    def rename(rules):
        for token in rules["added_tokens"]:
            token["content"] = token["content"].replace("<unk>", "<|extra|>")
        rules["model"]["vocab"]["<|extra|>"] = rules["model"]["vocab"].pop("<unk>")
        rules["normalizer"] = {
            "type": "Replace",
            "pattern": {"String": "x"},
            "content": "",
        }

    tokenizer = edited(rename)
    assert tokenizer.special.unk is None
    assert isinstance(tokenizer.mask_vocabulary, MaskVocabulary)
    assert tokenizer.encode_words(["a"]) == [tokenizer.encode([" a"])[0]]
    tokenizer.gap = ""
    with pytest.raises(ValueError, match="leaves nothing of the word 'x', and has no"):
        tokenizer.encode_words(["a", "x"])
    assert tokenizer.decode(tokenizer.encode(["a b"])[0]) == "a b"


def no_template(rules):
    rules["post_processor"] = None


def dropout(rules):
    rules["model"]["dropout"] = 0.1


def other_words(rules):
    rules["pre_tokenizer"] = {"type": "Whitespace"}


def same(rules):
    rules["post_processor"] |= {"sep": ["<s>", 0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_template, r"makes \[\] of an empty text; expected two special"),
        (dropout, "has dropout=0.1, so a text has other ids each time"),
        (other_words, r"which pieces begin a word: the model is BPE.*\['Whitespace'\]"),
        (same, "expected five that differ"),
        (dict.clear, "is no tokenizer.json that the library tokenizers reads"),
    ],
)
def test_what_cannot_be_kept_is_refused(edited, change, message):
    with pytest.raises(ValueError, match=message):
        edited(change)


def test_other_layouts_of_pairs_are_refused_when_pairs_come(edited):
    def bare(rules):
        rules["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, A, SEP],
            "pair": [A, B],
            "special_tokens": {
                piece: {"id": piece, "ids": [index], "tokens": [piece]}
                for piece, index in (("<s>", 0), ("</s>", 2))
            },
        }

    A, B = ({"Sequence": {"id": x, "type_id": 0}} for x in "AB")
    SEP = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    tokenizer = edited(bare)
    assert encode_texts(tokenizer, [("a",)], [0], 4).input_ids[0, 0] == 0
    with pytest.raises(ValueError, match=r"makes \['a', 'b'\] of a pair.*single texts"):
        encode_texts(tokenizer, [("a", "b")], [0], 8)


def test_a_special_token_that_the_vocabulary_lacks_is_refused(edited):
    with pytest.raises(ValueError, match=r"no mask token \(<m>\).*\"mask_token\" in"):
        edited(lambda rules: None, config={"mask_token": "<m>"})


def test_pretraining_on_pairs_is_for_the_layout_of_bert(tokenizer, monkeypatch):
    class Dataset:
        directory = pathlib.Path("dataset")

    Dataset.tokenizer = tokenizer
    with pytest.raises(ValueError, match=r"pairs='next_sentence'.*--data\.pairs none"):
        open_rows(Dataset(), "train", DataConfig(pairs="next_sentence"), seed=0)
    monkeypatch.setattr(compiled, "open_dataset", lambda directory: Dataset())
    cfg = PretrainConfig(
        model=ModelConfig(vocab_size=tokenizer.vocab_size),
        data=DataConfig(dataset=pathlib.Path("dataset")),
    )
    with pytest.raises(ValueError, match=r"pairs='next_sentence'.*--data\.pairs none"):
        compiled.vocabulary_of(cfg)


def test_rows_without_an_id_are_pieces(tokenizer):
    larger = HuggingFaceTokenizer(
        tokenizer.model, config=tokenizer.config, num_rows=703
    )
    assert larger.vocab_size == 703
    assert larger.pieces[-3:] == ["[row700]", "[row701]", "[row702]"]
    assert larger.encode(["a [row701]"]) == tokenizer.encode(["a [row701]"])
    assert larger.special == tokenizer.special
    assert pickle.loads(pickle.dumps(larger)).vocab_size == 703
