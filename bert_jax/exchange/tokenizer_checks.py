"""What every reader of a foreign tokenizer checks: its casing, and its number of pieces."""

import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer


def agreed_casing(
    where: pathlib.Path, said: Mapping[str, Any], lowercase: bool | None
) -> bool | None:
    """Whether case is folded, by every file that says so and by the user.

    Args:
        where: for messages.
        said: who says it -> true, false or nothing.
        lowercase: what the user says.

    Returns:
        `None` when nobody says anything.

    Raises:
        ValueError: they disagree.
    """
    stated = {name: value for name, value in said.items() if value is not None}
    if lowercase is not None:
        stated["--lowercase" if lowercase else "--no-lowercase"] = lowercase
    if len(set(stated.values())) > 1:
        raise ValueError(
            f"{where}: {stated} disagree on whether the tokenizer folds case. Correct "
            "or leave out the one that is wrong."
        )
    return bool(next(iter(stated.values()))) if stated else None


def fill_table(
    where: pathlib.Path,
    tokenizer: Tokenizer,
    num_rows: int,
    config: str,
    notes: list[str],
) -> Tokenizer:
    """Names the rows of the token table that no piece has, so that none is lost.

    Args:
        where: of the vocabulary, for messages.
        tokenizer: with at most `num_rows` pieces.
        num_rows: of the table.
        config: name of the file that states `num_rows`.
        notes: gets a sentence when rows were named.

    Raises:
        ValueError: there are more pieces than rows, or rows left over that a
            SentencePiece model has no way to name.
    """
    size = tokenizer.vocab_size
    if size == num_rows:
        return tokenizer
    if size > num_rows or not isinstance(tokenizer, WordPieceTokenizer):
        raise ValueError(
            f"{where} has {size} pieces, {config} vocab_size="
            f"{num_rows}; expected as many. Fetch the tokenizer of this model."
        )
    # Brackets are cut off every word, so that no text can spell these.
    rows = [f"[row{index}]" for index in range(size, num_rows)]
    notes.append(
        f"The token table has {num_rows} rows for {size} pieces; the rows left over are "
        f"kept as the pieces {rows[0]} to {rows[-1]}, which no text contains."
    )
    vocab = "\n".join([*tokenizer.pieces, *rows]).encode()
    return WordPieceTokenizer(
        vocab,
        lowercase=tokenizer.lowercase,
        strip_accents=tokenizer.strip_accents,
    )
