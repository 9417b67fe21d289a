"""Extends the vocabulary of a model that is imported, as `add_tokens` of transformers does.

Shape letters: V vocabulary, D embedding width.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.exchange.source import Slots, Source
from bert_jax.exchange.tensors import Head, Tensors
from bert_jax.exchange.tokenizer import to_fast_tokenizer

NewRows = Literal["mean", "random"]


@dataclasses.dataclass(frozen=True)
class AddedTokens:
    """What became of the tokens of a file.

    Attributes:
        pieces: token -> the pieces that it was before.
        skipped: token -> why it was not added.
        new_rows: how the rows of the token table were made.
    """

    pieces: dict[str, list[str]]
    skipped: dict[str, str]
    new_rows: NewRows

    def notes(self) -> list[str]:
        """A sentence about those that were added, and one for each that was not."""
        some = [
            f"{token} ({' '.join(pieces)})"
            for token, pieces in list(self.pieces.items())[:5]
        ]
        how = {
            "mean": "the mean of the rows of the pieces that the token was before",
            "random": "drawn at random",
        }[self.new_rows]
        return [
            f"{len(self.pieces)} tokens were added, with their pieces before: "
            f"{', '.join(some)}{' ...' if len(self.pieces) > 5 else ''}. Each new row of "
            f"the token table is {how}.",
            *(
                f"{token!r} was not added: {why}."
                for token, why in self.skipped.items()
            ),
        ]


def read_token_list(path: pathlib.Path) -> list[str]:
    """The tokens of a file, one a line; empty lines are left out.

    Raises:
        ValueError: there is no such file, it is not UTF-8, or it holds no token.
    """
    try:
        # Not `splitlines`, which also cuts at signs such as U+2028.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--add-tokens {path}: {error}; expected a text in UTF-8 with a token a line."
        ) from error
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens:
        raise ValueError(f"--add-tokens {path} holds no token; expected one a line.")
    return tokens


def add_tokens(
    source: Source, tokens: Sequence[str], new_rows: NewRows, seed: int
) -> tuple[Source, AddedTokens]:
    """The source with a larger vocabulary.

    A token is found wherever its letters stand in a text, also within a word, before the
    text is cut into words. It is normalised like the text.

    Args:
        source: the model as it was read.
        tokens: in the order of their new ids.
        new_rows: mean: each new row of the token table is the mean of the rows of the
            pieces that the token was before; its output bias likewise. random: drawn as
            in a fresh model, with the output bias 0.
        seed: of what is drawn.

    Returns:
        The source, whose tokenizer is a tokenizer.json from now on, and what was done.
    """
    before = source.tokenizer
    fast, config = to_fast_tokenizer(before), None
    if isinstance(before, HuggingFaceTokenizer):
        config = before.config
    found: dict[str, list[int]] = {}
    skipped: dict[str, str] = {}
    seen: dict[str, str] = {}
    for token in tokens:
        normal = fast.normalizer.normalize_str(token) if fast.normalizer else token
        ids = before.encode_words([token])[0]
        if normal in seen:
            skipped[token] = f"it is the same as {seen[normal]!r}"
        elif token in before.pieces or (len(ids) == 1 and ids[0] != before.special.unk):
            skipped[token] = "the vocabulary has it already"
        else:
            seen[normal], found[token] = token, ids
    pieces = {token: [before.pieces[n] for n in ids] for token, ids in found.items()}
    added = AddedTokens(pieces, skipped, new_rows)
    if not found:
        return dataclasses.replace(source, notes=(*source.notes, *added.notes())), added
    fast.add_tokens(list(found))
    tokenizer = HuggingFaceTokenizer(
        fast.to_str().encode(), config=config, num_rows=before.vocab_size
    )
    # Where the table has rows that no piece had, the first tokens take these.
    rows = {tokenizer.pieces.index(token): ids for token, ids in found.items()}
    return _with_rows(source, tokenizer, rows, added, seed), added


def _with_rows(
    source: Source,
    tokenizer: Tokenizer,
    rows: dict[int, list[int]],
    added: AddedTokens,
    seed: int,
) -> Source:
    draw = np.random.default_rng(seed)
    std = source.model.init_std

    def larger(tensor: np.ndarray, *, fresh: bool) -> np.ndarray:
        """The tensor [V, ...] with its new rows; zeros, unless they are `fresh`."""
        more = tokenizer.vocab_size - len(tensor)
        new = np.concatenate([tensor, np.zeros((more, *tensor.shape[1:]), np.float32)])
        for row, before in rows.items():
            if fresh and added.new_rows == "mean":
                new[row] = tensor[before].mean(axis=0)
            elif fresh and tensor.ndim > 1:
                new[row] = np.clip(draw.normal(size=tensor.shape[1:]), -2.0, 2.0) * std
            else:
                new[row] = 0.0
        return new

    def every(tensors: Tensors, *, fresh: bool) -> Tensors:
        return {
            name: larger(tensor, fresh=fresh) if name in names else tensor
            for name, tensor in tensors.items()
        }

    of_words: Head = "pretraining" if source.model.next_sentence else "mlm"
    names = {
        row.theirs
        for head in (source.head, of_words)
        for row in source.rows(head)
        if row.shape.startswith("V")
    }
    slots = source.slots and Slots(*(every(x, fresh=False) for x in source.slots))
    return dataclasses.replace(
        source,
        model=dataclasses.replace(source.model, vocab_size=tokenizer.vocab_size),
        tokenizer=tokenizer,
        tensors=every(source.tensors, fresh=True),
        slots=slots,
        notes=(*source.notes, *added.notes()),
    )
