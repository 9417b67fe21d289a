"""Tokenizers of several kinds: encoding, training, saving, loading."""
