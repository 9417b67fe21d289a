"""Runs with a tokenizer and an architecture, which is all that a start from scratch takes."""

from prepared_corpus import make_corpus

from bert_jax.config import DataConfig, ModelConfig, PretrainConfig
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.train.runs.run import RunInfo
from bert_jax.train.runs.run_start import start_run

MODEL = ModelConfig(
    vocab_size=44,
    hidden_size=32,
    num_layers=1,
    num_heads=2,
    mlp_size=64,
    max_positions=64,
)
"""For the tokenizer of `make_corpus`."""


def bare_run(folder):
    """A run directory with a tokenizer and an architecture, and no weights."""
    make_corpus(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    begun = RunInfo(
        kind="pretrain", model=MODEL, tokenizer_sha256=tokenizer.sha256, data={}
    )
    shown = PretrainConfig(model=MODEL, data=DataConfig(sequence_length=32))
    start_run(folder / "pretrain", shown, begun, tokenizer)
    return folder / "pretrain"
