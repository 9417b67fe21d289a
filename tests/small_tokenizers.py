"""WordPiece tokenizers of a few pieces."""

from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def wordpiece(*pieces: str, lowercase: bool = True) -> WordPieceTokenizer:
    """A tokenizer of BERT's special pieces, with the ids 0 to 4, and of these behind them."""
    text = "\n".join([*SPECIAL, *pieces])
    return WordPieceTokenizer(text.encode(), lowercase=lowercase)
