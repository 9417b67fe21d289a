"""Ids, word starts and storage of both kinds of tokenizer."""

import hashlib
import json
import pickle
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from small_tokenizers import wordpiece
from tokenizer_texts import awkward_texts, sentences, train

from bert_jax.batch import SpecialIds
from bert_jax.data.tokenizers.fast_normalization import without_surrogates
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer, open_tokenizer
from bert_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizers.tokenizer import METADATA_FILE
from bert_jax.data.tokenizers.wordpiece_tokenizer import (
    WordPieceTokenizer,
    bert_rules,
)

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", "mask"]
VOCAB += ["the", "un", "##believ", "##able", "river", "##s", ".", "e", "##e"]


@pytest.fixture(scope="module", params=["unigram", "bpe", "wordpiece"])
def tokenizer(request, tmp_path_factory):
    if request.param != "wordpiece":
        return train(request.param)
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return WordPieceTokenizer.from_vocab(path, lowercase=True)


def test_special_ids_come_first_and_start_no_word(tokenizer):
    assert tokenizer.special == SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
    assert tokenizer.pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.vocab_size == len(tokenizer.pieces) == tokenizer.starts_word.size
    assert tokenizer.starts_word.dtype == bool
    assert not tokenizer.starts_word[:5].any()
    assert tokenizer.starts_word.any()
    assert not tokenizer.starts_word[5:].all()


@pytest.mark.parametrize(
    "spelled", ["[SEP]", "the [MASK] river", "[CLS][PAD]", "［SEP］"]
)
def test_text_never_spells_a_special_token(tokenizer, spelled):
    (ids,) = tokenizer.encode([spelled])
    assert ids, "the text vanished"
    assert not set(ids) & {0, 2, 3, 4}


def test_word_starts_are_the_words(tokenizer):
    text = "river rivers the unbelievable"
    (ids,) = tokenizer.encode([text])
    if tokenizer.special.unk in ids:  # characters outside the small vocabulary
        text = "river rivers stoneing"
        (ids,) = tokenizer.encode([text])
    assert tokenizer.special.unk not in ids
    assert tokenizer.starts_word[ids].sum() == len(text.split())
    assert tokenizer.decode(ids) == text


@given(text=awkward_texts)
def test_what_is_decoded_is_the_text_up_to_normalisation(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    assert ("[UNK]" in tokenizer.decode(ids)) == (tokenizer.special.unk in ids)
    if tokenizer.special.unk in ids:
        return
    if tokenizer.kind == "sentencepiece":
        normal = tokenizer._processor.normalize(without_surrogates(text))
        spelled = normal.replace("\u2581", " ").strip()
        assert tokenizer.decode(ids) == spelled
    assert tokenizer.encode([tokenizer.decode(ids)]) == [ids]


def test_decode_shows_special_tokens(tokenizer):
    (ids,) = tokenizer.encode(["river"])
    assert tokenizer.decode([2, *ids, 4, 1, *ids, 3]) == (
        "[CLS] river [MASK] [UNK] river [SEP]"
    )
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode([-1])


def test_joined_ids_are_those_of_encode(tokenizer):
    texts = ["river rivers", "", " \u200b", "the river"]
    ids, lengths = tokenizer.encode_joined(texts)
    expected = tokenizer.encode(texts)
    assert lengths.tolist() == list(map(len, expected))
    assert lengths[1] == lengths[2] == 0
    assert np.split(ids, np.cumsum(lengths)[:-1])[3].tolist() == expected[3]
    assert ids.dtype == tokenizer.id_dtype == np.uint16
    ids, lengths = tokenizer.encode_joined([])
    assert ids.size == lengths.size == 0
    assert ids.dtype == np.uint16
    assert lengths.dtype == np.int64


def test_documents_at_once_have_the_ids_of_each(tokenizer):
    texts = [*sentences(30, seed=3), ""]
    documents = [texts[:20], [], texts[20:21], [""], texts[21:]]
    found = tokenizer.encode_documents(documents)
    for document, (ids, lengths) in zip(documents, found, strict=True):
        assert [ids.tolist(), lengths.tolist()] == [
            part.tolist() for part in tokenizer.encode_joined(document)
        ]
    assert tokenizer.encode_documents([]) == []


def test_large_vocabularies_have_wide_ids():
    pieces = [*VOCAB, *(f"w{n}" for n in range(70_000))]
    tokenizer = WordPieceTokenizer("\n".join(pieces).encode(), lowercase=True)
    ids, _ = tokenizer.encode_joined(["the w69999"])
    assert ids.dtype == tokenizer.id_dtype == np.uint32
    assert ids.tolist() == [VOCAB.index("the"), len(VOCAB) + 69_999]


def test_a_tokenizer_travels_to_another_process(tokenizer):
    tokenizer.encode(["river"])
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.sha256 == tokenizer.sha256
    assert copy.encode(["rivers the"]) == tokenizer.encode(["rivers the"])
    assert len(pickle.dumps(copy)) == len(pickle.dumps(tokenizer))


def test_encode_refuses_one_string_and_survives_lone_surrogates(tokenizer):
    for encode in (tokenizer.encode, tokenizer.encode_joined):
        with pytest.raises(ValueError, match="one string"):
            encode("river")
    assert (
        tokenizer.encode(["river \ud83d"])[0][:1] == tokenizer.encode(["river"])[0][:1]
    )
    assert tokenizer.encode([]) == []


@pytest.mark.slow(ci=False)
def test_saved_and_loaded_tokenizers_agree_in_another_process(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    texts = [*sentences(20, seed=7), "The river [SEP] ÉCOLE"]
    program = (
        "import json, sys\n"
        "from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer\n"
        "t = load_tokenizer(sys.argv[1])\n"
        "print(json.dumps([t.encode(json.loads(sys.argv[2])), t.sha256]))\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), json.dumps(texts)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [tokenizer.encode(texts), tokenizer.sha256]
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.pieces == tokenizer.pieces
    assert loaded.special == tokenizer.special
    assert loaded.normalization == tokenizer.normalization
    np.testing.assert_array_equal(loaded.starts_word, tokenizer.starts_word)


def test_damaged_directories_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=METADATA_FILE):
        load_tokenizer(tmp_path / "nowhere")
    tokenizer.save(tmp_path)
    path = tmp_path / METADATA_FILE
    good = json.loads(path.read_text())
    for change, message in (
        ({"sha256": "0" * 64}, "was changed"),
        ({"lowercase": False}, "was changed|folds case"),
        ({"kind": "bytes"}, "not one of"),
        ({"format_version": 99}, "format version 99"),
        ({"normalization": None}, "damaged"),
    ):
        path.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path)
    path.write_text('{"kind": ')
    with pytest.raises(ValueError, match="damaged"):
        load_tokenizer(tmp_path)
    path.write_text(json.dumps(good))
    (tmp_path / tokenizer.model_file).unlink()
    with pytest.raises(ValueError, match="missing"):
        load_tokenizer(tmp_path)


def test_vocabularies_without_special_pieces_or_utf8_are_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    with pytest.raises(ValueError, match="no such file"):
        WordPieceTokenizer.from_vocab(path, lowercase=True)
    with pytest.raises(ValueError, match=r"json of Hugging Face\.$"):
        open_tokenizer(path)
    path.write_text("\n".join(VOCAB))
    for named in (path, tmp_path):
        with pytest.raises(ValueError, match=f"`bert-jax tokenizer wrap {path} --out"):
            open_tokenizer(named)
    path.write_text("\n".join(p for p in VOCAB if p != "[MASK]"))
    with pytest.raises(ValueError, match=r"\[MASK\]"):
        WordPieceTokenizer.from_vocab(path, lowercase=True)
    path.write_bytes("\n".join([*VOCAB, "café"]).encode("latin-1"))
    with pytest.raises(ValueError, match=rf"byte 0xe9 on line {len(VOCAB) + 1}\."):
        WordPieceTokenizer.from_vocab(path, lowercase=True)


def test_a_doubled_piece_leaves_every_id_at_its_line(tmp_path):
    pieces = [*VOCAB, "river", "", "zz"]
    tokenizer = WordPieceTokenizer("\n".join(pieces).encode(), lowercase=True)
    assert tokenizer.pieces == pieces
    assert tokenizer.encode(["river zz"]) == [[len(VOCAB), len(VOCAB) + 2]]
    assert tokenizer.decode([VOCAB.index("river")]) == "river"
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).sha256 == tokenizer.sha256


def test_casing_and_normalisation_are_recorded(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / METADATA_FILE).read_text())
    assert saved["lowercase"] is True
    if tokenizer.kind == "sentencepiece":
        assert saved["normalization"] == {"rules": "nmt_nfkc_cf"}
        assert train(lowercase=False).normalization == {"rules": "nmt_nfkc"}
    else:
        assert saved["normalization"] == {
            "rules": "bert",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": True,
        }


def test_casing_cannot_be_recorded_wrongly():
    for lowercase in (True, False):
        model = train(lowercase=lowercase).model
        with pytest.raises(ValueError, match=f"pass lowercase={lowercase}"):
            SentencePieceTokenizer(model, lowercase=not lowercase)


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [None, True, False])
def test_accents_follow_case_unless_told(lowercase, strip_accents, tmp_path):
    vocab = "\n".join([*VOCAB[:5], *"aAéÉ", "e\u0301"]).encode()
    tokenizer = WordPieceTokenizer(
        vocab, lowercase=lowercase, strip_accents=strip_accents
    )
    strips = lowercase if strip_accents is None else strip_accents
    assert tokenizer.normalization["strip_accents"] == strips
    (ids,) = tokenizer.encode(["É á A"])
    found = [tokenizer.pieces[index] for index in ids]
    e, a = ("[UNK]", "a") if strips else ("é" if lowercase else "É", "[UNK]")
    assert found == [e, a, "a" if lowercase else "A"]

    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(["É á A"]) == [ids]
    plain = WordPieceTokenizer(vocab, lowercase=lowercase)
    assert (loaded.sha256 == plain.sha256) == (strips == lowercase)


def test_line_endings_and_a_byte_order_mark_do_not_change_the_hash(tmp_path):
    path = tmp_path / "vocab.txt"
    hashes = set()
    for end in ("\n", "\r\n"):
        path.write_bytes(
            end.join(VOCAB).encode("utf-8-sig" if "\r" in end else "utf-8")
        )
        hashes.add(WordPieceTokenizer.from_vocab(path, lowercase=True).sha256)
    assert len(hashes) == 1


def bert_reference(text: str, ids: dict[str, int], lowercase: bool) -> list[int]:
    """BERT's rules one character at a time (Devlin et al. 2018, their tokenization)."""
    if lowercase:
        text = unicodedata.normalize("NFD", text.lower())
        text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    spaced = ""
    for c in text:
        kind = unicodedata.category(c)
        if c in "\t\n\r" or kind == "Zs":
            spaced += " "
        elif c in "\0\ufffd" or kind in ("Cc", "Cf"):
            continue
        elif kind.startswith("P") or (c.isascii() and not c.isalnum()):
            spaced += f" {c} "
        else:
            spaced += f" {c} " if 0x4E00 <= ord(c) <= 0x9FFF else c
    found = []
    for word in spaced.split():
        start, pieces = 0, []
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in ids:
                    break
            else:
                pieces = ["[UNK]"]
                break
            pieces.append(piece)
            start = end
        found += [ids[piece] for piece in pieces]
    return found


@pytest.mark.parametrize("case", ["cased", "uncased"])
def test_wordpiece_ids_are_those_of_bert(case, shared_data):
    path = shared_data / "vocab" / f"bert-base-{case}-vocab.txt"
    tokenizer = WordPieceTokenizer.from_vocab(path, lowercase=case == "uncased")
    assert tokenizer.special.mask == 103
    ids = {piece: index for index, piece in enumerate(tokenizer.pieces)}
    text = (shared_data / "wikitext" / "valid.txt").read_text(encoding="utf-8")
    lines = [*text.split("\n"), "École\u00a0naïve 日本語 \u200b[SEP] A\u030a co-op"]
    lines += ["a" * 150, "a" * 199]
    expected = [bert_reference(line, ids, tokenizer.lowercase) for line in lines]
    assert tokenizer.encode(lines) == expected
    assert sum(map(len, expected)) > 200_000


def test_published_vocabularies_are_read_as_they_are(shared_data):
    path = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
    tokenizer = WordPieceTokenizer.from_vocab(path, lowercase=True)
    joined = "".join(f"{piece}\n" for piece in tokenizer.pieces).encode()
    digest = hashlib.sha256(path.read_bytes().rstrip(b"\n") + b"\n").hexdigest()
    assert hashlib.sha256(joined).hexdigest() == digest


def basic_words(text, lowercase):
    """BERT's words of a text, as google-research/bert's tokenization.py says."""

    def is_ideograph(char):
        code = ord(char)
        return any(first <= code <= last for first, last in IDEOGRAPHS)

    spaced = ""
    for char in text:
        category = unicodedata.category(char)
        if char in " \t\n\r" or category == "Zs":
            spaced += " "
        elif char in "\0\ufffd" or category in ("Cc", "Cf"):
            continue
        else:
            spaced += f" {char} " if is_ideograph(char) else char
    words = []
    for word in spaced.split():
        if lowercase:
            parts = unicodedata.normalize("NFD", word.lower())
            word = "".join(c for c in parts if unicodedata.category(c) != "Mn")
        for char in word:
            is_symbol = char.isascii() and char.isprintable() and not char.isalnum()
            apart = is_symbol or unicodedata.category(char).startswith("P")
            words.append(f" {char} " if apart else char)
        words.append(" ")
    return "".join(words).split()


IDEOGRAPHS = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF)]
IDEOGRAPHS += [(0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF)]
IDEOGRAPHS += [(0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]


@pytest.mark.parametrize("lowercase", [True, False])
def test_characters_of_every_category_get_the_words_of_bert(lowercase):
    """Characters that Unicode 3.2 knew: later ones depend on the tables' version."""
    normalizer, pre_tokenizer = bert_rules(lowercase, None)
    old = unicodedata.ucd_3_2_0
    codes = [*range(0x3100), *range(0x3100, 0x110000, 61)]
    codes += [*range(0xF8F0, 0xFB10), *range(0xFE00, 0x10000), *range(0x1D100, 0x1D200)]
    seen = set()
    for char in map(chr, codes):
        category = unicodedata.category(char)
        is_kept_apart = category in ("Co", "Cn") or 0x2B820 <= ord(char) <= 0x2CEAF
        if category == "Cs" or not (is_kept_apart or old.category(char) == category):
            continue
        if category == "Cn" and ord(char) % 0x10000 < 0xFFFE:
            continue  # Another version of Unicode may assign it.
        seen.add(category)
        text = f"a{char}b"
        found = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
        assert [word for word, _ in found] == basic_words(text, lowercase), hex(
            ord(char)
        )
    assert len(seen) == 29, "every category but surrogates"


def test_a_text_may_begin_with_any_ideograph():
    normalizer, pre_tokenizer = bert_rules(lowercase=True, strip_accents=None)
    for code in [code for first_last in IDEOGRAPHS for code in first_last]:
        text = f"{chr(code)}{chr(code)}b"
        found = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
        assert [word for word, _ in found] == basic_words(text, lowercase=True)
    tokenizer = wordpiece("b", "\U0002b820")
    # The library `tokenizers` panicked here, so both encode.
    for _ in range(2):
        assert tokenizer.encode(["\U0002b820b", "\U0002b820"]) == [[6, 5], [6]]
        tokenizer.encoder.use_defining()


def test_private_use_and_unassigned_characters_are_unknown():
    tokenizer = wordpiece("a", "##b")
    texts = ["a\uf059b", "a\U000f0000b", "a\U0010fffdb", "a\ufffeb", "\ue000"]
    assert tokenizer.encode(texts) == [[tokenizer.special.unk]] * len(texts)
    assert tokenizer.encode(["a\u200bb", "a\u00adb", "a\x07b"]) == [[5, 6]] * 3
    known = wordpiece("a", "##b", "##\uf059")
    assert known.encode(["a\uf059b"]) == [[5, 7, 6]]


def test_spaces_of_a_segmenter_make_words():
    text = "北京 大学 学生 喜欢 北京 。"
    tokenizer = train("unigram", [text] * 20, vocab_size=15)
    [ids] = tokenizer.encode([text])
    assert tokenizer.starts_word[ids].sum() == len(text.split())
    [ids] = tokenizer.encode([text.replace(" ", "")])
    assert tokenizer.starts_word[ids].sum() == 1
