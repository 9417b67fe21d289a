"""`bert-jax fill`: guesses what masks of texts hide."""

import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated

import tyro

from bert_jax.commands.json_lines import check_output, write_lines
from bert_jax.commands.shared import RunDir, Step
from bert_jax.commands.text_input import CHUNK, file_among, standard_input
from bert_jax.config import FileConfig
from bert_jax.config.checks import require
from bert_jax.data.labelled.decoding import read_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fill:
    """Fills in the masks of texts with a pretrained run: what could stand at [MASK]?

    For example: `bert-jax fill encoder 'The [MASK] runs past the town.'`.
    """

    run_dir: RunDir
    """Run directory of `pretrain` or `import`."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The texts, one argument each, with the mask once or more often, which is [MASK] or
    what else the tokenizer calls it, such as <mask>; or one .txt file with
    a text a line. Default: lines of standard input."""
    top: int = 5
    """Number of guesses for each mask, the most probable first."""
    output: pathlib.Path | None = None
    """File that gets one JSON object per text (.jsonl), with all numbers in full
    precision. Default: lines on the screen."""
    encoding: str = "utf-8"
    """How the bytes of the file become letters, such as utf-8 or latin-1."""
    step: Step = None
    compile_cache: pathlib.Path | None = None
    """Directory that keeps compiled programs, so that the next start need not compile."""

    def run(self) -> None:
        require(self.top > 0, f"--top {self.top} must be greater than 0.")
        path = file_among(self.texts, {".txt"})
        require(
            path is not None or self.encoding == "utf-8",
            f"--encoding {self.encoding} would be ignored: no file is given. Leave it out.",
        )
        FileConfig(encoding=self.encoding)  # raises an error where Python lacks it
        if self.output is not None:
            check_output(self.output, path)
        total, where = None, "Standard input, line"
        parts: Iterable[Sequence[str]]
        if path is not None:
            decoded = read_text(path, self.encoding)
            for warning in decoded.warnings:
                print(f"  warning: {warning}", file=sys.stderr)
            lines, where = decoded.lines, f"{path}, line"
            parts = (lines[n : n + CHUNK] for n in range(0, len(lines), CHUNK))
            total = sum(bool(line.strip()) for line in lines)
        elif self.texts:
            parts, where = [self.texts], "Text"
        else:
            some = standard_input()
            parts = itertools.chain([next(some)], some)

        # JAX starts here: mistakes above are told at once.
        import jax

        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.train.inference.fill import Filler

        use_compile_cache(self.compile_cache, jax.local_devices()[:1])
        found = Filler(self.run_dir, step=self.step, top=self.top).lines(parts, where)
        if self.output is not None:
            num_lines = write_lines(self.output, found, total)
            print(f"{num_lines:,} filled texts are in {self.output}", file=sys.stderr)
            return
        for line in found:
            print(line["filled"])
            for number, guesses in enumerate(line["masks"], 1):
                said = (f"{x['text']} {x['probability']:.1%}" for x in guesses)
                print(f"  mask {number}: {'  '.join(said)}")
