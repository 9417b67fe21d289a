"""Marks within the pieces of a vocabulary, and pieces as people read them."""

SPACE = "▁"  # U+2581, which stands for a space in pieces of SentencePiece
CONTINUES = "##"  # before a piece of WordPiece that goes on with a word


def bare(piece: str) -> str:
    """A piece without its marks; empty if it is nothing but a space."""
    return piece.removeprefix(CONTINUES).replace(SPACE, " ").strip()


def row_name(index: int) -> str:
    """The piece of a row of the token table that no piece has.

    WordPiece cuts brackets off every word, so that no text can spell it.
    """
    return f"[row{index}]"
