"""Tokenizers, parameters and labels that fit each other, for the tests of exports."""

import dataclasses

import numpy as np
import reference

from bert_jax.data.tokenizers.vocabulary import train_sentencepiece
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer

LABELS = ("down", "level", "up")
HEADS = ("pretraining", "classifier", "tokens", "spans")


def make_tokenizer(kind):
    if kind == "wordpiece":
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "[", "]"]
        pieces += [
            prefix + c for c in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")
        ]
        return WordPieceTokenizer("\n".join(pieces).encode(), lowercase=True)
    rng = np.random.default_rng(0)
    words = ["river", "Stone", "window", "école", "teach", "music", "[x]", "."]
    words += [word + ending for word in words for ending in ("s", "ing", "ed")]
    lines = [" ".join(rng.choice(words, 9)) for _ in range(300)]
    return train_sentencepiece(
        lines,
        vocab_size=42,
        lowercase=True,
        model_type=kind,
    )


def make_head_params(cfg, params, head):
    """The whole parameters of each head; `params` are those of pretraining."""
    if head == "pretraining":
        return params
    shapes = reference.classifier_shapes(cfg, 2 if head == "spans" else 3)
    shapes[head] = shapes.pop("classifier")
    if head != "classifier":
        del shapes["pooler"]
    return without_padding(cfg, reference.random_params(shapes, seed=1))


def without_padding(cfg, params):
    flat = reference.flatten(params)
    for name in ("embed/token/embedding", "mlm/output_bias"):
        if name in flat:
            flat[name][cfg.vocab_size :] = 0.0
    return reference.unflatten(flat)


def fitting(cfg, tokenizer, params):
    """The same parameters under a vocabulary as large as the tokenizer's."""
    cfg = dataclasses.replace(cfg, vocab_size=tokenizer.vocab_size)
    return cfg, without_padding(cfg, params)


def labels_of(head):
    return LABELS if head in ("classifier", "tokens") else None


def worst(differences):
    """The largest difference of all outputs, or NaN."""
    return float(np.max(list(differences.values())))
