"""`bert-jax embed`: a file of texts in, a matrix of vectors out."""

import dataclasses
import io
import pathlib
import sys
from typing import Annotated, Any, Literal

import tyro

from bert_jax.commands.shared import Bar, RunDir, Step
from bert_jax.config import FileConfig
from bert_jax.config.checks import require, require_positive, require_used
from bert_jax.config.flags import box
from bert_jax.data.plural import plural


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embed:
    """Writes a vector for each text of a file, as a matrix that NumPy loads.

    For example: `bert-jax embed encoder texts.txt --output vectors.npy`.
    """

    run_dir: RunDir
    """Run directory. That of `finetune --task embeddings` gives the best vectors; those of
    `pretrain`, `import` and other tasks can be used too."""
    texts: Annotated[pathlib.Path, tyro.conf.Positional]
    """File of texts: a .txt with a text a line, or a .tsv, .csv, .jsonl or .parquet with
    a column of them (--text)."""
    output: pathlib.Path
    """File to write (.npy): float32 [texts, hidden size], in the order of the texts. An
    empty text has zeros."""
    pooling: Literal["mean", "cls"] | None = None
    """Which vector a text gets. mean: the mean of its tokens' vectors. cls: the vector of
    [CLS]. Default: what the run was fine-tuned with, else mean."""
    normalise: tyro.conf.FlagCreatePairsOff[bool] = False
    """Scale every vector to length 1, so that a dot product is a cosine."""
    sequence_length: int | None = None
    """Tokens that a text is cut to. Default: those of the run's rows."""
    batch_size: int = 32
    """Texts that are computed at once."""
    step: Step = None
    file: Annotated[FileConfig, *box("file")] = FileConfig()
    """How the file is read."""

    def run(self) -> None:
        require(
            self.output.suffix == ".npy",
            f"--output {self.output}: vectors are written in the format of NumPy; give a "
            "name that ends in .npy.",
        )
        require_positive(self, "batch_size")
        given = _read(self.texts, self.file)
        print(f"{plural(len(given.texts), 'text')} of {self.texts} ({given.how})")
        for warning in given.warnings:
            print(f"  warning: {warning}", file=sys.stderr)

        # JAX starts here: mistakes above are told at once.
        import numpy as np

        from bert_jax.data.atomic_file import remove_leftovers_of, write_atomically
        from bert_jax.train.inference.embed import Embedder
        from bert_jax.train.tasks.embeddings import normalised

        embedder = Embedder(
            self.run_dir,
            step=self.step,
            pooling=self.pooling,
            sequence_length=self.sequence_length,
            batch_size=self.batch_size,
        )
        texts = [text for (text,) in given.texts]
        with Bar("batches", unit_scale=False) as bar:
            vectors = embedder(texts, bar.update)
        if self.normalise:
            vectors = normalised(vectors)
        written = io.BytesIO()
        np.save(written, vectors, allow_pickle=False)
        remove_leftovers_of(self.output)
        write_atomically(self.output, written.getvalue())
        num_empty = sum(not text.strip() for text in texts)
        said = f"; zeros for {plural(num_empty, 'empty text')}" if num_empty else ""
        print(
            f"{self.output}: float32 {list(vectors.shape)}, {embedder.pooling} pooling, "
            f"at most {embedder.sequence_length} tokens{said}"
        )


def _read(path: pathlib.Path, file: FileConfig) -> Any:
    """`Unlabelled` with single texts, one tuple each.

    Raises:
        ValueError: two columns could be meant, or as for `read_unlabelled`.
        FileNotFoundError: nothing is there.
    """
    from bert_jax.data.labelled.unlabelled import read_lines, read_unlabelled

    require_used(file, False, "vectors have no label. Leave it out.", "label")
    if path.suffix.lower() == ".txt" and not file.text and path.is_file():
        given = read_lines(path, file)
        # A tab is part of the text: there are no pairs here.
        return given._replace(texts=[("\t".join(text),) for text in given.texts])
    given = read_unlabelled(path, file)
    require(
        all(len(text) == 1 for text in given.texts),
        f"{path} has two columns of texts ({given.how}); name one with --text.",
    )
    return given
