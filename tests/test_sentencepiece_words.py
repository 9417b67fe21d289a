"""Which SentencePiece models may be cut at spaces, and that no other is.

BPE models are cut here, and unigram models by the fast library that encodes them.
"""

import io

import pytest
import sentencepiece
from tokenizer_texts import sentences, train

from bert_jax.data.tokenizers import sentencepiece_tokenizer
from bert_jax.data.tokenizers.sentencepiece_model import parse_model
from bert_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES

NORMAL, USER_DEFINED, UNUSED, BYTE = 1, 4, 5, 6
TEXTS = [
    *(
        "river stones",
        "q z qq",
        " two  spaces ",
        "a\u2581 b\u2581",
        "\u2581",
        "\u2581 a",
    ),
    *("the stone", "winter music", "q\u2581z", "stone r", "s r", " ", "", "x y z"),
]


def add(proto, piece, kind=NORMAL, score=50.0):
    proto.pieces.add(piece=piece, type=kind, score=score)


def add_bytes(proto):
    proto.trainer_spec.byte_fallback = True
    for number in range(256):
        add(proto, f"<0x{number:02X}>", BYTE, score=0.0)


def space_is_unknown(proto):
    (piece,) = (piece for piece in proto.pieces if piece.piece == "▁")
    piece.piece = "another"


CHANGES = {
    "piece over a space": lambda p: [add(p, "r▁"), add(p, "r▁s")],
    "piece that ends in a space": lambda p: add(p, "er▁"),
    "user-defined symbol": lambda p: add(p, "qz", USER_DEFINED),
    "bytes": add_bytes,
    "unused piece": lambda p: add(p, "▁riverss", UNUSED),
    "space is unknown": space_is_unknown,
    "no dummy prefix": lambda p: setattr(p.normalizer_spec, "add_dummy_prefix", False),
    "extra spaces": lambda p: setattr(
        p.normalizer_spec, "remove_extra_whitespaces", False
    ),
    "spaces stay": lambda p: setattr(p.normalizer_spec, "escape_whitespaces", False),
    "space as suffix": lambda p: setattr(
        p.trainer_spec, "treat_whitespace_as_suffix", True
    ),
    "characters": lambda p: setattr(p.trainer_spec, "model_type", 4),
    "unigram": lambda p: setattr(p.trainer_spec, "model_type", 1),
    "no rules": lambda p: p.normalizer_spec.ClearField("precompiled_charsmap"),
}
# Of these, no text is known that would come out otherwise if it were cut at spaces.
HARMLESS = {
    "unused piece",
    "user-defined symbol",
    "characters",
    "unigram",
    "bytes",
    "spaces stay",
}


def whole(tokenizer, texts):
    return tokenizer._processor.encode(texts, num_threads=1)


def words_joined(tokenizer, texts):
    return [
        [index for ids in whole(tokenizer, text.split(" ")) for index in ids]
        for text in texts
    ]


@pytest.mark.parametrize("lowercase", [True, False])
def test_trained_bpe_models_may_be_cut(lowercase):
    tokenizer = train("bpe", lowercase=lowercase)
    assert tokenizer._ids_of_word is not None
    tokenizer.encoder.use_defining()
    assert tokenizer.encode(TEXTS) == whole(tokenizer, TEXTS)
    assert words_joined(tokenizer, TEXTS) == whole(tokenizer, TEXTS)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("change", CHANGES)
def test_other_models_are_left_to_the_defining_library(change, kind):
    trained = train(kind)
    if kind == "unigram":
        assert trained.encoder.is_fast
    assert trained.encode(TEXTS) == whole(trained, TEXTS)
    proto = parse_model(trained.model)
    CHANGES[change](proto)
    if change != "unigram":
        tokenizer = SentencePieceTokenizer(proto.SerializeToString(), lowercase=True)
        assert not tokenizer.encoder.is_fast
        assert tokenizer.encode(TEXTS) == whole(tokenizer, TEXTS)


def test_a_word_has_the_same_ids_alone_and_in_a_long_text():
    """Two splits of it are nearly as likely; SentencePiece sums up the whole text."""
    proto = parse_model(train("unigram").model)
    scores = {"qz": -3.0, "k": -1.99999, "q": -2.5, "zk": -2.5}
    for piece in proto.pieces:
        if piece.piece in scores:
            piece.score = scores.pop(piece.piece)
    for piece, score in scores.items():
        add(proto, piece, score=score)
    tokenizer = SentencePieceTokenizer(proto.SerializeToString(), lowercase=True)
    long = "stone " * 500
    [alone], [behind] = tokenizer.encode(["qzk"]), tokenizer.encode([long + "qzk"])
    assert [tokenizer.pieces[index] for index in alone] == ["▁", "qz", "k"]
    assert behind[-3:] == alone
    assert whole(tokenizer, ["qzk"]) == [alone]
    assert whole(tokenizer, [long + "qzk"])[0][-3:] != alone


@pytest.mark.parametrize("change", CHANGES)
def test_other_models_are_not_cut(change):
    proto = parse_model(train("bpe").model)
    CHANGES[change](proto)
    tokenizer = SentencePieceTokenizer(proto.SerializeToString(), lowercase=True)
    assert tokenizer._ids_of_word is None
    expected = whole(tokenizer, TEXTS)
    assert tokenizer.encode(TEXTS) == expected
    if change not in HARMLESS:
        assert words_joined(tokenizer, TEXTS) != expected


def with_rules(tmp_path, rules):
    """A tokenizer whose normalisation is `rules`: code points read -> written."""
    path = tmp_path / "rules.tsv"
    path.write_text("".join(f"{read}\t{written}\n" for read, written in rules.items()))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences(),
        model_writer=model,
        vocab_size=60,
        model_type="bpe",
        normalization_rule_tsv=str(path),
        pad_id=0,
        pad_piece=SPECIAL_PIECES["pad"],
        unk_id=1,
        unk_piece=SPECIAL_PIECES["unk"],
        bos_id=-1,
        eos_id=-1,
        control_symbols=[SPECIAL_PIECES[name] for name in ("cls", "sep", "mask")],
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue(), lowercase=False)


@pytest.mark.parametrize("name", ["nmt_nfkc", "nmt_nfkc_cf"])
def test_the_librarys_rules_keep_to_words(name):
    rules = dict(sentencepiece.SentencePieceNormalizer(rule_name=name).decompile())
    assert rules["▁"] == " "
    assert not any("▁" in written for written in rules.values())
    assert not any(" " in read for read in rules)


@pytest.mark.parametrize(
    "rules",
    [
        {"2581": "20"},
        {"2581": "2D"},
        {"2581": "20", "72 20 73": "72 73"},
        {"2581": "20", "20 73": "73"},
    ],
    ids=str,
)
def test_models_with_other_rules_are_not_cut(tmp_path, rules):
    tokenizer = with_rules(tmp_path, rules)
    assert tokenizer._ids_of_word is None
    assert tokenizer.encode(TEXTS) == whole(tokenizer, TEXTS)
    if any("20 " in f"{read} " for read in rules):
        assert words_joined(tokenizer, TEXTS) != whole(tokenizer, TEXTS)


def test_forgotten_words_and_long_texts_do_not_change_what_comes_out(monkeypatch):
    texts = [*sentences(300, seed=3)] * 2
    expected = whole(train("bpe"), texts)
    monkeypatch.setattr(sentencepiece_tokenizer, "_WORDS", 3)
    monkeypatch.setattr(sentencepiece_tokenizer, "_MOST_CHARACTERS", 40)
    assert {len(text) > 40 for text in texts} == {True, False}
    tokenizer = train("bpe")
    tokenizer.encoder.use_defining()
    assert tokenizer.encode(texts) == expected
    assert tokenizer._ids_of_word.cache_info().currsize == 3
