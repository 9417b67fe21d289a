"""Loads a tokenizer that `Tokenizer.save` wrote, or a tokenizer.json of Hugging Face."""

import pathlib
from typing import Any

from bert_jax.data.json_text import loads
from bert_jax.data.tokenizers.huggingface_tokenizer import HuggingFaceTokenizer
from bert_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from bert_jax.data.tokenizers.tokenizer import FORMAT_VERSION, METADATA_FILE, Tokenizer
from bert_jax.data.tokenizers.wordpiece_tokenizer import WordPieceTokenizer

_KINDS: dict[str, Any] = {
    cls.kind: cls
    for cls in (SentencePieceTokenizer, WordPieceTokenizer, HuggingFaceTokenizer)
}


# Of a run directory, the folder of its tokenizer.
IN_RUN = "tokenizer"


def open_tokenizer(path: pathlib.Path) -> Tokenizer:
    """Opens what a user can name as a tokenizer.

    Args:
        path: directory of a saved tokenizer, a run directory, a tokenizer.json, or a
            directory with one.

    Raises:
        ValueError: there is none of these, or it is damaged.
    """
    path = pathlib.Path(path)
    for home in (path, path / IN_RUN):
        if (home / METADATA_FILE).is_file():
            return load_tokenizer(home)
    file = path / HuggingFaceTokenizer.model_file if path.is_dir() else path
    if file.suffix == ".json" and file.is_file():
        return HuggingFaceTokenizer.read(file)
    vocab = path / WordPieceTokenizer.model_file if path.is_dir() else path
    way_out = (
        f" `bert-jax tokenizer wrap {vocab} --output TOKENIZER` makes such a directory, "
        "with --lowercase or --no-lowercase."
        if vocab.name == WordPieceTokenizer.model_file and vocab.is_file()
        else ""
    )
    raise ValueError(
        f"tokenizer={path}: no {METADATA_FILE} there; expected a directory that "
        "`bert-jax tokenizer` wrote, a run directory, or a tokenizer.json of Hugging "
        f"Face.{way_out}"
    )


def load_tokenizer(directory: pathlib.Path) -> Tokenizer:
    """Loads the tokenizer in a directory.

    Raises:
        ValueError: a file is missing, has an unknown format, or was changed.
    """
    directory = pathlib.Path(directory)
    path = directory / METADATA_FILE
    if not path.is_file():
        raise ValueError(
            f"tokenizer={directory}: no {METADATA_FILE} there; expected a directory "
            "that `bert-jax tokenizer` or Tokenizer.save wrote."
        )
    try:
        metadata: dict[str, Any] = loads(path.read_text(encoding="utf-8"))
        version, kind = metadata["format_version"], metadata["kind"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}; this bert_jax reads "
            f"{FORMAT_VERSION}. Install the one that wrote it."
        )
    if kind not in _KINDS:
        raise ValueError(f"{path}: kind {kind!r} is not one of {sorted(_KINDS)}.")
    cls = _KINDS[kind]
    try:
        sha256, options = metadata["sha256"], {"lowercase": metadata["lowercase"]}
        strip_accents = metadata["normalization"].get("strip_accents")
        if cls is WordPieceTokenizer:
            options["strip_accents"] = strip_accents
        elif cls is HuggingFaceTokenizer:
            options = metadata["options"]
    except (KeyError, AttributeError) as error:
        raise _damaged(path, error) from error
    model_path = directory / cls.model_file
    if not model_path.is_file():
        raise ValueError(f"{model_path} is missing; copy the whole directory.")
    model = model_path.read_bytes()
    try:
        tokenizer: Tokenizer = cls(model, **options)
    except Exception as error:
        # The libraries behind them have classes of errors of their own.
        raise ValueError(
            f"{model_path} or {path} is damaged ({error}); copy the directory again."
        ) from error
    if tokenizer.sha256 != sha256:
        raise ValueError(
            f"{model_path} has hash {tokenizer.sha256[:12]}, but {path} expects "
            f"{str(sha256)[:12]}; one of them was changed. Copy the directory again."
        )
    return tokenizer


def _damaged(path: pathlib.Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({error!r}); copy it again.")
