"""Small tokenizers in the formats of RoBERTa, ModernBERT and XLM-R, made of given text."""

import io
import json
import pathlib
from collections.abc import Sequence

import sentencepiece
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.models import BPE

from bert_jax.data.tokenizers.sentencepiece_model import parse_model

FORMATS = ("roberta", "modernbert", "xlm-roberta")


def save_tokenizer(
    kind: str, lines: Sequence[str], directory: pathlib.Path, vocab_size: int = 700
) -> pathlib.Path:
    """Writes tokenizer.json and tokenizer_config.json as the published models have them."""
    directory.mkdir(parents=True, exist_ok=True)
    _SAVE[kind](lines, directory, vocab_size)
    return directory


def _byte_level(lines, special, vocab_size):
    fast = Tokenizer(BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(lines, trainer)
    return fast


def _roberta(lines, directory, vocab_size):
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=True)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    fast = _byte_level(lines, special, vocab_size - 1)
    fast.add_special_tokens([mask])
    fast.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    _write(fast, directory, tokenizer_class="RobertaTokenizer", model_max_length=512)


def _modernbert(lines, directory, vocab_size):
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    fast = _byte_level(lines, [], vocab_size - 7)
    fast.normalizer = normalizers.NFC()
    fast.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3)])
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    fast.add_special_tokens([*special, mask])
    cls, sep = (fast.token_to_id(piece) for piece in ("[CLS]", "[SEP]"))
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    _write(
        fast,
        directory,
        tokenizer_class="PreTrainedTokenizerFast",
        model_max_length=8192,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{x[1:-1].lower()}_token": x for x in (*special, "[MASK]")},
    )


def _write(fast, directory, **config):
    fast.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def _xlm_roberta(lines, directory, vocab_size):
    from transformers import XLMRobertaTokenizer

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([x.strip() for x in lines if x.strip()]),
        model_writer=trained,
        vocab_size=vocab_size - 2,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    # What transformers' converter does; its protobuf code asks for a newer library.
    proto = parse_model(trained.getvalue())
    ordinary = [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    first = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    XLMRobertaTokenizer(
        vocab=[*first, *ordinary, ("<mask>", 0.0)],
        _spm_precompiled_charsmap=proto.normalizer_spec.precompiled_charsmap,
        model_max_length=512,
    ).save_pretrained(directory)


_SAVE = {"roberta": _roberta, "modernbert": _modernbert, "xlm-roberta": _xlm_roberta}
