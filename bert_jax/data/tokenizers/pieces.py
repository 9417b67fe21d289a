"""Marks within the pieces of a vocabulary, and pieces as people read them."""

SPACE = "▁"  # U+2581, which stands for a space in pieces of SentencePiece
CONTINUES = "##"  # before a piece of WordPiece that goes on with a word


def bare(piece: str) -> str:
    """A piece without its marks; empty if it is nothing but a space."""
    return piece.removeprefix(CONTINUES).replace(SPACE, " ").strip()
