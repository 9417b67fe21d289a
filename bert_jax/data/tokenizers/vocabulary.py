"""Trains vocabularies with BERT's special tokens, of each kind."""

import collections
import io
import re
from collections.abc import Iterable
from typing import Any, Literal

from bert_jax.config import MAX_BYTES, MAX_SENTENCES
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.line_sample import sample_lines
from bert_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizers.tokenizer import SPECIAL_PIECES
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer, bert_rules

# The vocabulary spells this fraction of the text's characters; rarer ones become [UNK].
_COVERAGE = 0.9999
# The trainer skips lines with characters that it uses itself: U+2585 for unknown
# characters, NUL for the end, tab for columns.
_TRAINER_RESERVED = str.maketrans({"\u2585": " ", "\0": " ", "\t": " ", "\n": " "})


def train_sentencepiece(
    sentences: Iterable[str],
    *,
    vocab_size: int,
    lowercase: bool,
    model_type: Literal["unigram", "bpe"] = "unigram",
    num_threads: int = 1,
    max_sentences: int = MAX_SENTENCES,
    max_bytes: int = MAX_BYTES,
) -> SentencePieceTokenizer:
    """Trains a vocabulary with special ids [PAD]=0 [UNK]=1 [CLS]=2 [SEP]=3 [MASK]=4.

    The result depends on the sentences, their order and `num_threads` (floating-point
    sums are split by thread), and on nothing else.

    Args:
        sentences: the text, read once; empty sentences are skipped, long ones are cut.
        vocab_size: V, special tokens included; the result has exactly so many pieces.
        lowercase: whether the rules are NFKC with case folding, or plain NFKC.
        model_type: "unigram" (Kudo 2018) or "bpe" (Sennrich et al. 2016).
        num_threads: threads of the trainer.
        max_sentences: if there are more, a uniform sample of so many is used.
        max_bytes: if the text is larger, a uniform sample of sentences is used. The
            trainer takes about 23 times that in memory ("unigram") or 11 times ("bpe").

    Raises:
        ValueError: the text is empty or cannot support `vocab_size`.
    """
    import sentencepiece

    if model_type not in ("unigram", "bpe"):
        raise ValueError(f"model_type={model_type!r} is not 'unigram' or 'bpe'.")
    model = io.BytesIO()
    lines = sample_lines(
        # The trainer's own sample differs between processes, even with the same seed
        # (sentencepiece 0.2.3).
        (sentence.translate(_TRAINER_RESERVED) for sentence in sentences),
        max_lines=max_sentences,
        max_bytes=max_bytes,
    )
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            num_threads=num_threads,
            character_coverage=_COVERAGE,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            pad_id=0,
            pad_piece=SPECIAL_PIECES["pad"],
            unk_id=1,
            unk_piece=SPECIAL_PIECES["unk"],
            bos_id=-1,
            eos_id=-1,
            control_symbols=[SPECIAL_PIECES[name] for name in ("cls", "sep", "mask")],
            minloglevel=2,  # errors only
        )
    except RuntimeError as error:
        raise _explained(str(error), vocab_size, len(lines)) from error
    return SentencePieceTokenizer(model.getvalue(), lowercase=lowercase)


def train_wordpiece(
    sentences: Iterable[str],
    *,
    vocab_size: int,
    lowercase: bool,
    strip_accents: bool = False,
    max_sentences: int = MAX_SENTENCES,
    max_bytes: int = MAX_BYTES,
) -> WordPieceTokenizer:
    """Trains a vocabulary with special ids [PAD]=0 [UNK]=1 [CLS]=2 [SEP]=3 [MASK]=4.

    Google never published how BERT's own vocabulary was made. This is the method of the
    `tokenizers` library: it starts with characters, and again and again makes a piece
    of the most frequent pair of neighbours within a word. The result depends on the
    sentences alone.

    Args:
        sentences: the text, read once; empty sentences are skipped, long ones are cut.
        vocab_size: V, special tokens included; the result has exactly so many pieces.
        lowercase: whether text is put in lower case.
        strip_accents: whether every combining mark is removed, the accents of Latin
            letters and the vowel signs of other scripts alike. BERT's uncased
            vocabularies were made so; it makes different words the same.
        max_sentences: if there are more, a uniform sample of so many is used.
        max_bytes: if the text is larger, a uniform sample of sentences is used.

    Raises:
        ValueError: the text is empty or cannot support `vocab_size`.
    """
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import models, trainers

    lines = sample_lines(sentences, max_lines=max_sentences, max_bytes=max_bytes)
    rules = bert_rules(lowercase, strip_accents)
    alphabet = _alphabet(lines, rules[0])
    # The trainer would number "##" pieces in the random order of a hash table, and
    # numbers decide between equally frequent pairs. So all are named before it starts.
    inner = [f"##{char}" for char in alphabet if _joins_a_word(char, rules)]
    special = list(SPECIAL_PIECES.values())
    smallest = len(special) + len(alphabet) + len(inner)
    if not alphabet:
        raise _nothing(vocab_size, len(lines))
    if vocab_size < smallest:
        raise _too_small(vocab_size, len(lines), smallest)
    fast = FastTokenizer(models.WordPiece(unk_token=SPECIAL_PIECES["unk"]))
    fast.normalizer, fast.pre_tokenizer = rules
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special + inner,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    fast.train_from_iterator(lines, trainer)
    ids = fast.get_vocab()
    if len(ids) < vocab_size:
        raise _too_large(vocab_size, len(lines), str(len(ids)))
    merged = sorted(ids.keys() - {*special, *inner, *alphabet}, key=ids.__getitem__)
    vocab = "\n".join([*special, *alphabet, *inner, *merged])
    return WordPieceTokenizer(
        vocab.encode(), lowercase=lowercase, strip_accents=strip_accents
    )


def train_byte_bpe(
    sentences: Iterable[str],
    *,
    vocab_size: int,
    lowercase: bool,
    max_sentences: int = MAX_SENTENCES,
    max_bytes: int = MAX_BYTES,
) -> HuggingFaceTokenizer:
    """Trains a byte-level BPE with special ids [PAD]=0 [UNK]=1 [CLS]=2 [SEP]=3 [MASK]=4.

    It has the form of ModernBERT's tokenizer: text is put in canonical order (NFC) and
    cut into words, each with the space before it, by the rules of GPT-2, and pieces are
    made of bytes. So every text can be spelled, and no text becomes [UNK]. The result
    depends on the sentences alone.

    Args:
        sentences: the text, read once; empty sentences are skipped, long ones are cut.
        vocab_size: V, special tokens included; the result has exactly so many pieces. A
            multiple of 64 is the fastest.
        lowercase: whether text is put in lower case.
        max_sentences: if there are more, a uniform sample of so many is used.
        max_bytes: if the text is larger, a uniform sample of sentences is used.

    Raises:
        ValueError: the text is empty or cannot support `vocab_size`.
    """
    from tokenizers import (
        AddedToken,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from tokenizers import Tokenizer as FastTokenizer

    lines = sample_lines(sentences, max_lines=max_sentences, max_bytes=max_bytes)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = list(SPECIAL_PIECES.values())
    if not lines:
        raise _nothing(vocab_size, 0)
    if vocab_size < (smallest := len(special) + len(alphabet)):
        raise _too_small(vocab_size, len(lines), smallest)
    fast = FastTokenizer(models.BPE())
    folding = [normalizers.Lowercase()] if lowercase else []
    fast.normalizer = normalizers.Sequence([normalizers.NFC(), *folding])
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[AddedToken(x, lstrip=x == "[MASK]") for x in special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    # Nearly every sentence stands behind another one.
    fast.train_from_iterator((f" {line}" for line in lines), trainer)
    if fast.get_vocab_size() < vocab_size:
        raise _too_large(vocab_size, len(lines), str(fast.get_vocab_size()))
    cls, sep = SPECIAL_PIECES["cls"], SPECIAL_PIECES["sep"]
    fast.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(piece, fast.token_to_id(piece)) for piece in (cls, sep)],
    )
    return HuggingFaceTokenizer(fast.to_str().encode())


def _alphabet(lines: list[str], normalizer: Any) -> list[str]:
    """The characters that the vocabulary spells, normalised, in code point order."""
    raw: collections.Counter[str] = collections.Counter()
    for line in lines:
        raw.update(line)
    counts: collections.Counter[str] = collections.Counter()
    for char, count in raw.items():
        # BERT's rules look at one character at a time.
        for normal in normalizer.normalize_str(char):
            if not normal.isspace():
                counts[normal] += count
    kept, covered = [], 0
    for char in sorted(counts, key=lambda char: (-counts[char], char)):
        if covered >= _COVERAGE * counts.total():
            break
        kept.append(char)
        covered += counts[char]
    return sorted(kept)


def _joins_a_word(char: str, rules: tuple[Any, Any]) -> bool:
    """Whether a character can stand within a word, unlike punctuation and CJK."""
    normalizer, pre_tokenizer = rules
    text = normalizer.normalize_str(f"a{char}a")
    return len(pre_tokenizer.pre_tokenize_str(text)) == 1


def _explained(error: str, vocab_size: int, num_lines: int) -> ValueError:
    """An error of SentencePiece's trainer in words that say what to do."""
    if num_lines == 0 or "all_chars_count" in error:
        return _nothing(vocab_size, num_lines)
    if found := re.search(r"too high .*<= (\d+)", error):
        return _too_large(vocab_size, num_lines, found[1])
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return _too_small(vocab_size, num_lines, int(found[1]))
    return ValueError(f"{_given(vocab_size, num_lines)}: SentencePiece says: {error}")


def _nothing(vocab_size: int, num_lines: int) -> ValueError:
    return ValueError(
        f"{_given(vocab_size, num_lines)}: there is nothing to train on; give some text."
    )


def _too_large(vocab_size: int, num_lines: int, largest: str) -> ValueError:
    return ValueError(
        f"{_given(vocab_size, num_lines)}: this text supports at most {largest} pieces; "
        "lower vocab_size or give more text."
    )


def _too_small(vocab_size: int, num_lines: int, smallest: int) -> ValueError:
    return ValueError(
        f"{_given(vocab_size, num_lines)}: characters and special tokens alone need "
        f"{smallest}; raise vocab_size."
    )


def _given(vocab_size: int, num_lines: int) -> str:
    return f"vocab_size={vocab_size} with {num_lines} lines of text"
