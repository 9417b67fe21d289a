"""Ids, word starts, storage and training of both kinds of tokenizer."""

import hashlib
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from bert_jax.batch import SpecialIds
from bert_jax.data import vocabulary as module
from bert_jax.data.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizer import METADATA_FILE
from bert_jax.data.vocabulary import train_sentencepiece
from bert_jax.data.wordpiece_tokenizer import WordPieceTokenizer

WORDS = [
    "river",
    "stone",
    "window",
    "garden",
    "teacher",
    "letter",
    "morning",
    "village",
    "winter",
    "music",
]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", "mask"]
VOCAB += ["the", "un", "##believ", "##able", "river", "##s", ".", "e", "##e"]


def sentences(count=400, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        words = rng.choice(WORDS, rng.integers(4, 12))
        endings = rng.choice(["", "s", "ed", "ing"], words.size)
        yield " ".join(map("".join, zip(words, endings, strict=True))).capitalize()


def train(texts=None, **options):
    options = {"vocab_size": 58, "lowercase": True} | options
    return train_sentencepiece(sentences() if texts is None else texts, **options)


@pytest.fixture(scope="module", params=["unigram", "bpe", "wordpiece"])
def tokenizer(request, tmp_path_factory):
    if request.param != "wordpiece":
        return train(model_type=request.param)
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


def test_decode_shows_special_tokens(tokenizer):
    (ids,) = tokenizer.encode(["river"])
    assert tokenizer.decode([2, *ids, 4, 1, *ids, 3]) == (
        "[CLS] river [MASK] [UNK] river [SEP]"
    )
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(ValueError, match="outside"):
        tokenizer.decode([-1])


def test_encode_refuses_one_string_and_survives_lone_surrogates(tokenizer):
    with pytest.raises(ValueError, match="one string"):
        tokenizer.encode("river")
    assert (
        tokenizer.encode(["river \ud83d"])[0][:1] == tokenizer.encode(["river"])[0][:1]
    )
    assert tokenizer.encode([]) == []


def test_saved_and_loaded_tokenizers_agree_in_another_process(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    texts = [*sentences(20, seed=7), "The river [SEP] ÉCOLE"]
    program = (
        "import json, sys\n"
        "from bert_jax.data.saved_tokenizer import load_tokenizer\n"
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
    np.testing.assert_array_equal(loaded.starts_word, tokenizer.starts_word)


def test_damaged_directories_are_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=METADATA_FILE):
        load_tokenizer(tmp_path / "nowhere")
    tokenizer.save(tmp_path)
    path = tmp_path / METADATA_FILE
    good = json.loads(path.read_text())
    for change, message in (
        ({"sha256": "0" * 64}, "was changed"),
        ({"lowercase": False}, "was changed"),
        ({"kind": "bytes"}, "not one of"),
        ({"format_version": 99}, "format version 99"),
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


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_training_is_a_function_of_the_sentences(model_type):
    first, second = (train(model_type=model_type, max_sentences=90) for _ in range(2))
    assert first.model == second.model
    # SentencePiece's own sampling agrees within a process and differs between two.
    program = (
        "import sys; sys.path.insert(0, 'tests'); import test_tokenizer as t\n"
        f"print(t.train(model_type={model_type!r}, max_sentences=90).sha256)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == first.sha256
    assert first.sha256 != train(model_type=model_type).sha256


def test_sample_is_bounded_and_uniform():
    lines = module._training_lines((f"line {i}" for i in range(20_000)), 2_000)
    numbers = np.array([int(line.split()[1]) for line in lines])
    assert numbers.size == np.unique(numbers).size == 2_000
    # 2,000 of 20,000 in ten equal parts: 200 each, standard deviation below 15.
    counts = np.histogram(numbers, 10, (0, 20_000))[0]
    assert np.abs(counts - 200).max() < 60


def test_long_and_awkward_lines_reach_the_trainer():
    # SentencePiece itself would skip each of these lines.
    texts = [" ".join(sentences(2_000)), "z" * 9_000, "tab\tq\u2585q", "nul\0nul"]
    lines = module._training_lines(texts, 10_000)
    assert max(len(line.encode()) for line in lines) <= 4_096
    letters = "".join(lines)
    for text in texts:
        kept = text.replace("\u2585", "").replace("\0", "").split()
        assert "".join(kept) in letters.replace(" ", "")
    assert "z" in train(texts, vocab_size=60).pieces


def test_case_folding_follows_lowercase():
    folded, cased = train(), train(lowercase=False)
    assert folded.encode(["RIVER"]) == folded.encode(["river"])
    assert cased.encode(["RIVER"]) != cased.encode(["river"])
    assert folded.sha256 != cased.sha256


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        ([], 100, "nothing to train on"),
        (["the river the river"] * 9, 5_000, "at most [0-9]+ pieces"),
        (["abcdefghijklmnopqrstuvwxyz"] * 9, 12, "alone need 3[0-9]"),
    ],
)
def test_impossible_vocabularies_say_what_is_possible(texts, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        train(texts, vocab_size=vocab_size)


def test_errors_of_the_reader_pass_through():
    def broken():
        yield "river"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        train(broken())


def test_vocabularies_without_special_or_with_double_pieces_are_refused(tmp_path):
    path = tmp_path / "vocab.txt"
    with pytest.raises(ValueError, match="no such file"):
        WordPieceTokenizer.from_vocab(path, lowercase=True)
    path.write_text("\n".join(p for p in VOCAB if p != "[MASK]"))
    with pytest.raises(ValueError, match=r"\[MASK\]"):
        WordPieceTokenizer.from_vocab(path, lowercase=True)
    path.write_text("\n".join([*VOCAB, "river"]))
    with pytest.raises(ValueError, match="'river' twice"):
        WordPieceTokenizer.from_vocab(path, lowercase=True)


def test_line_endings_do_not_change_the_hash(tmp_path):
    path = tmp_path / "vocab.txt"
    hashes = set()
    for end in ("\n", "\r\n"):
        path.write_bytes(end.join(VOCAB).encode())
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
