"""Pretrain a BERT of your own in JAX, fine-tune it and take it anywhere."""

__version__ = "0.1.0"
