"""`bert-jax predict`: what its arguments mean, and where its predictions go."""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

import tyro

from bert_jax.commands.json_lines import check_output, write_lines
from bert_jax.commands.shared import RunDir, Step
from bert_jax.commands.text_input import CHUNK, file_among, standard_input
from bert_jax.config import FileConfig
from bert_jax.config.checks import require
from bert_jax.config.flags import box
from bert_jax.data.labelled import tables, words
from bert_jax.data.labelled.examples import Text
from bert_jax.data.labelled.unlabelled import Unlabelled, from_lines, no_text
from bert_jax.data.plural import plural

_SUFFIXES = {*tables.SUFFIXES, *words.SUFFIXES, ".json"}
_TOP = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict:
    """Predicts with a fine-tuned run, on texts, on a file or on lines of standard input.

    For example: `bert-jax predict tuned texts.csv --output answers.jsonl`.
    """

    run_dir: RunDir
    """Run directory of `finetune`."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The texts, one argument each; a pair is two arguments, or one with a tab between A
    and B; a question with its choices is one argument with tabs. Or one file (.tsv, .csv,
    .txt, .jsonl, .parquet; .conll for tags, .json for spans)."""
    output: pathlib.Path | None = None
    """File that gets one JSON object per text (.jsonl), with the text, its id if the file
    has one, and all numbers in full precision. Default: short lines on the screen."""
    top: int | None = None
    """Number of labels to show on the screen for each text, the most probable first.
    Default: 3."""
    step: Step = None
    compile_cache: pathlib.Path | None = None
    """Directory that keeps compiled programs, so that the next start need not compile."""
    task: Annotated[FileConfig, *box("file")] = FileConfig()
    """How the file is read. With --label, the output holds the label of the file as
    given_label. Default: as the run read its validation file."""

    def run(self) -> None:
        require(
            self.top is None or self.top > 0,
            f"--top {self.top} must be greater than 0.",
        )
        path = file_among(self.texts, _SUFFIXES)
        if self.output is not None:
            top = None if self.top is None else f"--top {self.top}"
            check_output(self.output, path, top)
        lines = None
        if not path and not self.texts:
            lines = standard_input()
            lines = itertools.chain([next(lines)], lines)

        # JAX starts here: mistakes above are told at once.
        import jax

        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.train.inference.predict import Predictor, is_empty

        use_compile_cache(self.compile_cache, jax.local_devices()[:1])
        predictor = Predictor(self.run_dir, step=self.step)
        task = predictor.task
        total = None
        parts: Iterable[Unlabelled]
        if path is not None:
            given = predictor.read(path, self.task)
            total = len(given.texts)
            print(f"{plural(total, 'text')} of {path} ({given.how})", file=sys.stderr)
            for warning in given.warnings:
                print(f"  warning: {warning}", file=sys.stderr)
            require(
                not all(map(is_empty, given.texts)),
                f"{path}: {no_text(total)}",
            )
            parts = given.parts(CHUNK)
        else:
            require(
                self.task == predictor.file_settings,
                "Flags that say how a file is read would be ignored: no file is "
                "given. Leave them out, or pass a file.",
            )
            if lines is None:
                parts = [_given(self.texts, predictor.num_texts)]
            else:
                parts = map(from_lines, lines)
        num_empty = 0

        def counted(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            nonlocal num_empty
            for line in lines:
                num_empty += is_empty(_texts(line))
                yield line

        found = counted(predictor.lines(parts))
        if self.output is not None:
            num_lines = write_lines(self.output, found, total)
            print(f"{num_lines:,} predictions are in {self.output}", file=sys.stderr)
        else:
            for line in found:
                texts = _texts(line)
                said = "empty" if is_empty(texts) else task.say(line, self.top or _TOP)
                print(f"{said}  |  " + "\t".join(texts))
        if num_empty:
            print(
                f"  {plural(num_empty, 'empty text')} got no prediction",
                file=sys.stderr,
            )


def _texts(line: dict[str, Any]) -> Text:
    text = line["text"]
    return (text,) if isinstance(text, str) else tuple(text)


def _given(texts: Sequence[str], num_texts: int | None) -> Unlabelled:
    if num_texts == len(texts) == 2 and not any("\t" in text for text in texts):
        return Unlabelled([tuple(texts)])
    return from_lines(texts)
