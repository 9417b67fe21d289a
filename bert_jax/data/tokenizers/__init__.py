"""Tokenizers (SentencePiece and WordPiece): encoding, training, saving, loading."""
