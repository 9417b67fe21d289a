"""`bert-jax predict`: what its arguments mean, and where its predictions go."""

import json
import os
import pathlib
import sys
from collections.abc import Sequence

from bert_jax.config import FileConfig
from bert_jax.config.checks import require
from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.labelled import tables, words
from bert_jax.data.labelled.unlabelled import Unlabelled, from_lines

_SUFFIXES = {*tables.SUFFIXES, *words.SUFFIXES, ".json"}
_TOP = 3


def predict(
    run: pathlib.Path,
    arguments: Sequence[str],
    output: pathlib.Path | None,
    top: int | None,
    file: FileConfig,
) -> None:
    """Predicts on texts, a file or standard input, and prints or writes what was found.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no text, an argument that may be a file or a text, a text that the run
            cannot take, or a flag that would be ignored.
    """
    require(top is None or top > 0, f"--top {top} must be greater than 0.")
    path = _file_among(arguments)
    if output is not None:
        _check_output(output, path, top)
    lines = None if path or arguments else _standard_input()

    # JAX starts here: mistakes above are told at once.
    from bert_jax.train.predict import Predictor, is_empty

    predictor = Predictor(run)
    if path is not None:
        given = predictor.read(path, file)
        print(f"{len(given.texts):,} texts of {path} ({given.how})", file=sys.stderr)
        for warning in given.warnings:
            print(f"  warning: {warning}", file=sys.stderr)
    else:
        require(
            file == predictor.file_settings,
            "Flags that say how a file is read would be ignored: no file is "
            "given. Leave them out, or pass a file.",
        )
        given = _given(arguments if lines is None else lines, predictor.num_texts)
    found = predictor.lines(given)
    num_empty = sum(map(is_empty, given.texts))
    if num_empty:
        print(f"  {num_empty:,} empty texts got no prediction", file=sys.stderr)
    if output is not None:
        written = (json.dumps(line, ensure_ascii=False) + "\n" for line in found)
        write_atomically(output, "".join(written))
        print(f"{len(found):,} predictions are in {output}", file=sys.stderr)
        return
    for text, line in zip(given.texts, found, strict=True):
        said = "empty" if is_empty(text) else predictor.task.say(line, top or _TOP)
        print(f"{said}  |  " + "\t".join(text))


def _given(texts: Sequence[str], num_texts: int | None) -> Unlabelled:
    if num_texts == len(texts) == 2 and not any("\t" in text for text in texts):
        return Unlabelled([tuple(texts)])
    return from_lines(texts)


def _file_among(arguments: Sequence[str]) -> pathlib.Path | None:
    """The file that the only argument names, or `None` if all arguments are texts."""
    for text in arguments:
        way_out = f"To predict on {text!r} as a text, pass it on standard input."
        suffix = os.path.splitext(text)[1].lower()
        if os.path.isfile(text) and len(arguments) == 1 and suffix in _SUFFIXES:
            return pathlib.Path(text)
        if os.path.exists(text):
            raise ValueError(
                f"The argument {text!r} names something on this disk, which may be meant "
                "instead of the text. Pass one file alone, one that ends in "
                f"{', '.join(sorted(_SUFFIXES))}. {way_out}"
            )
        if suffix in _SUFFIXES and not any(sign.isspace() for sign in text):
            raise FileNotFoundError(f"{text} does not exist. {way_out}")
    return None


def _check_output(
    output: pathlib.Path, path: pathlib.Path | None, top: int | None
) -> None:
    require(
        top is None,
        f"--top {top} would be ignored: {output} gets all labels. Leave it out.",
    )
    require(
        output.suffix == ".jsonl",
        f"--output {output}: predictions are written as one JSON object a line; give a "
        "name that ends in .jsonl.",
    )
    require(
        path is None or not output.exists() or not output.samefile(path),
        f"--output {output} is the file of the texts; choose another name.",
    )


def _standard_input() -> list[str]:
    # A closed standard input is None.
    try:
        lines = [line.rstrip("\n") for line in sys.stdin or ()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Standard input is not {error.encoding.upper()} ({error.reason}); put the "
            "texts into a file and pass it with --encoding."
        ) from None
    if not lines:
        raise ValueError("No text given; pass texts as arguments or on stdin.")
    return [lines[0].removeprefix("\ufeff"), *lines[1:]]
