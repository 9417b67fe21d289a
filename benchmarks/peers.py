"""The libraries that the figures stand beside: bare tokenizers, `datasets`, a collator.

Each is used the fastest way that its own documentation offers, so that the comparison
is with what a careful user would get.
"""

import importlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

# As in bert_jax: with the 100 of `tokenizers`, a few ids of long words would differ.
_MAX_CHARS_PER_WORD = 200


class MissingPeerError(Exception):
    """A library to compare with is not installed."""


def require(*modules: str) -> None:
    """Raises MissingPeerError unless all of them can be imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise MissingPeerError(
                f"{error.name} is not installed; pip install -e '.[bench]'"
            ) from None


def bare_wordpiece(vocab: pathlib.Path) -> Any:
    """A `tokenizers.Tokenizer` with BERT's uncased rules and no special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = vocab.read_text(encoding="utf-8").split("\n")
    ids = {piece: number for number, piece in enumerate(pieces) if piece}
    bare = Tokenizer(
        models.WordPiece(
            ids, unk_token="[UNK]", max_input_chars_per_word=_MAX_CHARS_PER_WORD
        )
    )
    bare.normalizer = normalizers.BertNormalizer(lowercase=True)
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return bare


def bare_sentencepiece(model: pathlib.Path) -> Any:
    """A `sentencepiece.SentencePieceProcessor`."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def transformers_tokenizer(vocab: pathlib.Path) -> Any:
    """The fast tokenizer of `transformers` over the same rules, with [CLS] and [SEP]."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    bare = bare_wordpiece(vocab)
    cls, sep = (bare.token_to_id(piece) for piece in ("[CLS]", "[SEP]"))
    bare.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def prepare_with_datasets(
    documents: pathlib.Path,
    vocab: pathlib.Path,
    cache: pathlib.Path,
    length: int,
    *,
    offsets: bool = False,
) -> Any:
    """Tokenises and groups into blocks, in one process and one pass.

    Args:
        documents: JSONL with a field "text".
        vocab: of WordPiece, uncased.
        cache: where `datasets` keeps its Arrow files.
        length: tokens of a block; the rest of every thousand documents is dropped.
        offsets: keep the place of every token in its text, which the collator needs to
            find whole words.

    Returns:
        A `datasets.Dataset`, memory-mapped from the cache.
    """
    import datasets

    tokenizer = transformers_tokenizer(vocab)
    datasets.disable_progress_bars()

    def blocks(batch: dict[str, list[str]]) -> dict[str, list[Any]]:
        encoded = tokenizer(
            batch["text"],
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=offsets,
        )
        grouped = {}
        for name, column in encoded.items():
            flat = [entry for document in column for entry in document]
            ends = range(length, len(flat) + 1, length)
            grouped[name] = [flat[end - length : end] for end in ends]
        return grouped

    rows = datasets.load_dataset(
        "json", data_files=str(documents), cache_dir=str(cache), split="train"
    )
    return rows.map(blocks, batched=True, remove_columns=rows.column_names)


def stored_bytes(dataset: Any) -> int:
    """Size of the Arrow files that a `datasets.Dataset` is read from."""
    return sum(os.path.getsize(file["filename"]) for file in dataset.cache_files)


def collated_batches(
    dataset: Any,
    vocab: pathlib.Path,
    batch_size: int,
    *,
    tensors: str,
    whole_words: bool = False,
) -> Iterator[dict[str, Any]]:
    """Shuffled masked batches of one epoch from torch's DataLoader without workers.

    Args:
        dataset: of `prepare_with_datasets`.
        tensors: "pt", the default of `transformers`, or "np".
        whole_words: mask whole words.
    """
    import warnings

    import torch
    from transformers import DataCollatorForLanguageModeling

    with warnings.catch_warnings():
        # That whole words know [MASK] only, no random tokens.
        warnings.simplefilter("ignore", UserWarning)
        collator = DataCollatorForLanguageModeling(
            transformers_tokenizer(vocab),
            whole_word_mask=whole_words,
            return_tensors=tensors,
        )
    return iter(
        torch.utils.data.DataLoader(
            dataset, batch_size=batch_size, shuffle=True, collate_fn=collator
        )
    )


def num_real_tokens(batch: dict[str, Any]) -> int:
    """Tokens of a collated batch that are no padding."""
    return int(np.asarray(batch["attention_mask"]).sum())
