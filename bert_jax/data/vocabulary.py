"""Training a SentencePiece vocabulary with BERT's special tokens."""

import io
import random
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from bert_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizer import SPECIAL_PIECES, without_surrogates

# SentencePiece skips longer training lines and says so only in its log.
_MAX_TRAINING_BYTES = 4_000
# The trainer skips lines that hold its own stand-ins: U+2585 for unknown characters,
# NUL for the end, tab for a column break.
_TRAINER_RESERVED = str.maketrans({"\u2585": " ", "\0": " ", "\t": " ", "\n": " "})


def train_sentencepiece(
    sentences: Iterable[str],
    *,
    vocab_size: int,
    lowercase: bool,
    model_type: Literal["unigram", "bpe"] = "unigram",
    num_threads: int = 1,
    max_sentences: int = 1_000_000,
) -> SentencePieceTokenizer:
    """Trains a vocabulary with special ids [PAD]=0 [UNK]=1 [CLS]=2 [SEP]=3 [MASK]=4.

    The result depends on the sentences, their order and `num_threads` (floating-point
    sums are split by thread), and on nothing else.

    Args:
        sentences: text, read once; empty ones are skipped and long ones cut in parts.
        vocab_size: V, special tokens included; reached exactly or refused.
        lowercase: NFKC with case folding instead of plain NFKC.
        model_type: "unigram" (Kudo 2018) or "bpe" (Sennrich et al. 2016).
        num_threads: of the trainer.
        max_sentences: of more, a uniform sample of so many is kept in memory.

    Raises:
        ValueError: the text is empty or cannot support `vocab_size`.
    """
    import sentencepiece

    if model_type not in ("unigram", "bpe"):
        raise ValueError(f"model_type={model_type!r} is not 'unigram' or 'bpe'.")
    model = io.BytesIO()
    lines = _training_lines(sentences, max_sentences)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size,
            num_threads=num_threads,
            character_coverage=0.9999,
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
        raise ValueError(_explain(str(error), vocab_size, len(lines))) from error
    return SentencePieceTokenizer(model.getvalue(), lowercase=lowercase)


def _training_lines(sentences: Iterable[str], max_lines: int) -> list[str]:
    """Lines that the trainer accepts; a uniform sample where there are too many.

    The trainer's own sampling differs from process to process, whatever its seed
    (sentencepiece 0.2.3), so the choice is made here (Vitter 1985, algorithm R).
    """
    lines: list[str] = []
    rng = random.Random(0)
    seen = 0
    for sentence in sentences:
        text = without_surrogates(sentence).translate(_TRAINER_RESERVED)
        for part in _split_long(text.strip()):
            seen += 1
            if len(lines) < max_lines:
                lines.append(part)
            elif (slot := rng.randrange(seen)) < max_lines:
                lines[slot] = part
    return lines


def _split_long(text: str) -> Iterator[str]:
    """Parts of at most _MAX_TRAINING_BYTES, cut at spaces where there are any."""
    limit = _MAX_TRAINING_BYTES // 4  # UTF-8 takes four bytes a character at most
    while len(text) > limit and len(text.encode()) > _MAX_TRAINING_BYTES:
        cut = text.rfind(" ", 0, limit)
        cut = cut if cut > 0 else limit
        yield text[:cut]
        text = text[cut:].lstrip()
    if text:
        yield text


def _explain(error: str, vocab_size: int, num_lines: int) -> str:
    given = f"vocab_size={vocab_size} with {num_lines} lines of text"
    if num_lines == 0:
        return f"{given}: there is nothing to train on; give some text."
    if found := re.search(r"too high .*<= (\d+)", error):
        return (
            f"{given}: this text supports at most {found[1]} pieces; lower vocab_size "
            "or give more text."
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return (
            f"{given}: characters and special tokens alone need {found[1]}; raise "
            "vocab_size."
        )
    return f"{given}: SentencePiece refused them: {error}"
