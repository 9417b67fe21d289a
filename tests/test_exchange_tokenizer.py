"""Exported tokenizers: transformers and tokenizers give text the ids that we give it."""

import tarfile

import pytest
from exchange_models import fitting, make_tokenizer, without_padding

from bert_jax.data.tokenizers.vocabulary import train_sentencepiece
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.tokenizer import to_fast_tokenizer
from bert_jax.exchange.write_huggingface import write_huggingface


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "bpe"])
def tokenizer(request):
    return make_tokenizer(request.param)


@pytest.fixture(scope="module")
def params(tiny, random_params):
    """Random everywhere; the vocabulary padding, which no export keeps, is zero."""
    return without_padding(tiny, random_params(tiny))


def test_autotokenizer_reads_the_export(
    tiny, params, tokenizer, tmp_path, transformers, silent
):
    cfg, params = fitting(tiny, tokenizer, params)
    write_huggingface(
        PortableModel(cfg, params, "pretraining", tokenizer), tmp_path / "export"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert theirs.is_fast
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.model_max_length == tiny.max_positions
    special = tokenizer.special
    assert theirs.pad_token_id == special.pad
    assert theirs.mask_token_id == special.mask
    a, b = tokenizer.encode(["River stone.", "music é"])
    pair = theirs("River stone.", "music é")
    assert pair["input_ids"] == [special.cls, *a, special.sep, *b, special.sep]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    one = theirs(["River", "River stone [MASK]"], padding=True)
    assert one["input_ids"][0][-1] == special.pad
    assert one["input_ids"][1][-2:] == [special.mask, special.sep]
    assert one["attention_mask"][0][-1] == 0


AWKWARD = [
    *("", " ", "\r\n", "  two  spaces  ", "\x00x", "x\x00", "a\x01b\x7fc", "\x85"),
    *("\u00a0Cuba.", "\u200bzero\u200bwidth\u200b", "\ufeffstart", "soft\u00adhyphen"),
    *("E\u0301cole", "e\u0301", "A\u030angstro\u0308m", "a\u0323\u0302", "\u0301alone"),
    *(
        "👩‍👩‍👧‍👦 family",
        "🇩🇪",
        "👍🏽",
        "▁the▁river",
        "▁▁",
        "ﬁ ① ～ Ǆ ﷺ",
        "İstanbul ſ ß ς",
    ),
    *(
        "［ＭＡＳＫ］ river",
        "日本語テスト",
        "한국어",
        "हिन्दी",
        "a" * 300,
        "[ MASK ]",
        "word [x]",
    ),
]


def test_awkward_text_gets_equal_ids(tokenizer):
    fast = to_fast_tokenizer(tokenizer)
    for text, ours in zip(AWKWARD, tokenizer.encode(AWKWARD), strict=True):
        theirs = fast.encode(text, add_special_tokens=False).ids
        assert theirs == ours, ascii(text)


@pytest.mark.parametrize("rare", ["", "[ ] [MASK] [SEP] [PAD]"])
def test_full_width_text_spells_no_special_token(rare):
    """Only a cased vocabulary can spell one: folded text has no capitals."""
    lines = ["the MASK and SEP of a river", "CLS PAD UNK", rare] * 50
    cased = train_sentencepiece(lines, vocab_size=31 if rare else 28, lowercase=False)
    assert ("[" in cased.pieces) == bool(rare)
    texts = ["［ＭＡＳＫ］ river", "［ＳＥＰ］", "［ＰＡＤ］"]
    found = to_fast_tokenizer(cased).encode_batch(texts, add_special_tokens=False)
    assert [encoding.ids for encoding in found] == cased.encode(texts)


def test_known_differences_are_still_there(tokenizer):
    """When one of these goes, the module's docstring has to change."""
    fast = to_fast_tokenizer(tokenizer)
    (ours,) = tokenizer.encode(["[MASK]"])
    theirs = fast.encode("[MASK]", add_special_tokens=False).ids
    assert theirs == [tokenizer.special.mask] != ours


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_real_text_gets_equal_ids(kind, shared_data):
    lines: list[str] = []
    with tarfile.open(shared_data / "enwiki" / "enwiki-2014-open.tar.xz") as archive:
        for member in archive:
            if member.isfile() and len(lines) < 20_000:
                lines += archive.extractfile(member).read().decode().split("\n")
    assert len(lines) >= 20_000
    text = (shared_data / "wikitext" / "valid.txt").read_text(encoding="utf-8")
    lines += text.split("\n")
    if kind == "wordpiece":
        path = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
        tokenizer = WordPieceTokenizer.from_vocab(path, lowercase=True)
    else:
        tokenizer = train_sentencepiece(
            lines[:1_500], vocab_size=3_000, lowercase=False, model_type=kind
        )
    fast = to_fast_tokenizer(tokenizer)
    theirs = fast.encode_batch_fast(lines, add_special_tokens=False)
    expected = tokenizer.encode(lines)
    assert sum(map(len, expected)) > 1_500_000
    assert sum(a.ids != b for a, b in zip(theirs, expected, strict=True)) == 0
