"""`bert-jax predict`: what its arguments mean, and where its predictions go."""

import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bert_jax.commands.json_lines import check_output, write_lines
from bert_jax.commands.text_input import CHUNK, file_among, standard_input
from bert_jax.config import FileConfig
from bert_jax.config.checks import require
from bert_jax.data.labelled import tables, words
from bert_jax.data.labelled.examples import Text
from bert_jax.data.labelled.unlabelled import Unlabelled, from_lines

_SUFFIXES = {*tables.SUFFIXES, *words.SUFFIXES, ".json"}
_TOP = 3


def predict(
    run: pathlib.Path,
    arguments: Sequence[str],
    output: pathlib.Path | None,
    top: int | None,
    file: FileConfig,
    compile_cache: pathlib.Path | None = None,
    *,
    step: int | None = None,
) -> None:
    """Predicts on texts, a file or standard input, and prints or writes what was found.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no text, an argument that may be a file or a text, a text that the run
            cannot take, or a flag that would be ignored.
    """
    require(top is None or top > 0, f"--top {top} must be greater than 0.")
    path = file_among(arguments, _SUFFIXES)
    if output is not None:
        check_output(output, path, None if top is None else f"--top {top}")
    lines = None
    if not path and not arguments:
        lines = standard_input()
        lines = itertools.chain([next(lines)], lines)

    # JAX starts here: mistakes above are told at once.
    import jax

    from bert_jax.runtime.compile_cache import use_compile_cache
    from bert_jax.train.predict import Predictor, is_empty

    use_compile_cache(compile_cache, jax.local_devices()[:1])
    predictor = Predictor(run, step=step)
    task = predictor.task
    total = None
    parts: Iterable[Unlabelled]
    if path is not None:
        given = predictor.read(path, file)
        total = len(given.texts)
        print(f"{total:,} texts of {path} ({given.how})", file=sys.stderr)
        for warning in given.warnings:
            print(f"  warning: {warning}", file=sys.stderr)
        parts = given.parts(CHUNK)
    else:
        require(
            file == predictor.file_settings,
            "Flags that say how a file is read would be ignored: no file is "
            "given. Leave them out, or pass a file.",
        )
        if lines is None:
            parts = [_given(arguments, predictor.num_texts)]
        else:
            parts = map(from_lines, lines)
    num_empty = 0

    def counted(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        nonlocal num_empty
        for line in lines:
            num_empty += is_empty(_texts(line))
            yield line

    found = counted(predictor.lines(parts))
    if output is not None:
        num_lines = write_lines(output, found, total)
        print(f"{num_lines:,} predictions are in {output}", file=sys.stderr)
    else:
        for line in found:
            texts = _texts(line)
            said = "empty" if is_empty(texts) else task.say(line, top or _TOP)
            print(f"{said}  |  " + "\t".join(texts))
    if num_empty:
        print(f"  {num_empty:,} empty texts got no prediction", file=sys.stderr)


def _texts(line: dict[str, Any]) -> Text:
    text = line["text"]
    return (text,) if isinstance(text, str) else tuple(text)


def _given(texts: Sequence[str], num_texts: int | None) -> Unlabelled:
    if num_texts == len(texts) == 2 and not any("\t" in text for text in texts):
        return Unlabelled([tuple(texts)])
    return from_lines(texts)
