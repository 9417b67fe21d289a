"""`prepare` on more than one machine: an Apache Beam pipeline.

TFDS's split builder makes the pipeline and writes the files, so it runs wherever Beam
does: Dataflow, Flink, Spark. One element of the pipeline is one shard, and it goes
through the same functions as on one machine, so records, their order and the audit are
the same. The files are the same to the byte if every shard has documents of both
splits. If not, the empty files are left out, and the others are numbered without them.

Workers write to the output: a folder that all of them share, or one in an object store
(tried with a stand-in for gs:// only). They must be able to open the source's files by
the same names. Workers need bert_jax and Beam; neither JAX nor TensorFlow is imported.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

try:
    import apache_beam as beam
except ModuleNotFoundError as error:
    if error.name != "apache_beam":
        raise
    raise ValueError(
        "Preparing with Apache Beam needs that library, which is not installed: "
        "pip install 'bert_jax[beam]'."
    ) from error
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner
from etils import epath
from tensorflow_datasets.core import split_builder, writer
from tensorflow_datasets.core.utils import shard_utils

from bert_jax.config import DEFAULT_OPTIONS, PrepareOptions
from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.hashes import file_sha256
from bert_jax.data.prepared.duplicates import Duplicates
from bert_jax.data.prepared.format import (
    DATASET_NAME,
    MANIFEST,
    SIDE_FILES,
    SPLITS,
    TOKENIZER,
)
from bert_jax.data.prepared.locking import locked
from bert_jax.data.prepared.manifest import read_manifest
from bert_jax.data.prepared.metadata import file_names
from bert_jax.data.prepared.records import features, in_one_order
from bert_jax.data.prepared.shards import (
    Shard,
    ShardFile,
    ShardRecords,
    open_writer,
    write_fingerprints,
)
from bert_jax.data.prepared.stages import (
    begin,
    choose_what_to_drop,
    finish,
    make_plan,
    make_shards,
    refuse_empty_splits,
    refuse_problems,
)
from bert_jax.data.prepared.storage import (
    copy_all,
    is_in_store,
    open_folder,
    put,
)
from bert_jax.data.text.sections import Source
from bert_jax.data.text.sources import open_source
from bert_jax.data.tokenizers.saved_tokenizer import open_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# The keys of a shard's records begin at the shard's number times this. TFDS cuts the
# range of all keys into equal ranges, one per file; with so wide a step, it cuts between
# shards.
_KEYS_PER_SHARD = 1 << 40


def prepare_with_beam(
    source: str | Sequence[str],
    tokenizer: pathlib.Path,
    output: str | os.PathLike[str],
    options: PrepareOptions = DEFAULT_OPTIONS,
    *,
    beam_options: Sequence[str],
    strict: bool = False,
) -> dict[str, Any]:
    """Does what `prepare` does, on the machines of a Beam runner.

    A run that was stopped starts its pipeline again; if the pipeline had ended, only
    the audit is left to do. Only one run at a time may write to an output. In a shared
    folder a second one is refused; in an object store nothing prevents it.

    Args:
        source: where the text is, one or more names as `open_source` takes them;
            workers open its files.
        tokenizer: directory of a saved tokenizer, on this machine.
        output: directory of the dataset, or its address in an object store (gs://,
            s3://); all workers must be able to reach it.
        options: everything else that decides the content. A worker holds the records
            of a shard in memory while it writes them, and at most `num_shards` workers
            are busy, so a larger corpus needs more shards.
        beam_options: flags of Beam and of its runner; `--runner=...` is required.
        strict: raise an error if the audit finds what would spoil training.

    Returns:
        The manifest.

    Raises:
        ValueError: as `prepare`; or no runner is named, or a file must be unpacked
            where workers cannot reach it.
    """
    _pipeline_options(beam_options)
    opened = open_source(source)
    loaded = open_tokenizer(tokenizer)
    folder = open_folder(output)
    plan = make_plan(opened, loaded, options, runner="beam")
    begin(folder, plan, opened, options)
    if not (folder / MANIFEST).exists():
        with _only_writer(folder), tempfile.TemporaryDirectory() as here:
            run = _Run(folder, pathlib.Path(here), loaded, options, beam_options)
            run.write(opened, strict)
    manifest = read_manifest(folder)
    if strict:
        refuse_problems(manifest, folder)
    return manifest


def _pipeline_options(flags: Sequence[str]) -> PipelineOptions:
    options = PipelineOptions(list(flags))
    if options.view_as(StandardOptions).runner is None:
        raise ValueError(
            f"The Beam options {' '.join(flags)!r} name no runner; expected for example "
            "--runner=DataflowRunner and its settings, or --runner=DirectRunner to try "
            "it on this machine."
        )
    # Refuses a name that Beam does not know before anything is written.
    create_runner(options.view_as(StandardOptions).runner)
    return options


def _only_writer(folder: epath.Path) -> contextlib.AbstractContextManager[None]:
    if is_in_store(folder):
        return contextlib.nullcontext()
    return locked(pathlib.Path(folder))


@dataclasses.dataclass(frozen=True)
class _Run:
    """The work between the plan and the manifest, on the machine that starts it."""

    folder: epath.Path
    here: pathlib.Path
    """A folder of this machine, into which side files are copied to be read."""
    tokenizer: Tokenizer
    options: PrepareOptions
    beam_options: Sequence[str]

    def write(self, source: Source, strict: bool) -> None:
        if (self.folder / MANIFEST).exists():
            return  # Another process had the lock and finished the dataset.
        shards = self._make_shards(source)
        written = self._side_file("written.json")
        copies = None
        if not written.exists():
            self._start_over()
            if self.options.duplicates == "drop":
                copies = self._choose_what_to_drop(shards)
            try:
                files = self._write_shards(shards)
            except Exception:
                # TFDS refuses an empty split too, but with a message of its own.
                with contextlib.suppress(FileNotFoundError):
                    refuse_empty_splits(self._results(shards), self.options, source)
                raise
            write_atomically(written, json.dumps(files, indent=2))
        files = {
            split: [ShardFile(*values) for values in found]
            for split, found in json.loads(written.read_text()).items()
        }
        for facts in self.folder.glob(f"{DATASET_NAME}-*.json"):
            facts.unlink()
        results = self._results(shards)
        self._gather(shards, "counts.npy.gz", *self._fingerprints)
        finish(
            self.folder,
            shards,
            results,
            files,
            self.tokenizer,
            self.options,
            source,
            copies,
            strict=strict,
        )
        (self.folder / "unpacked").rmtree(missing_ok=True)

    def _make_shards(self, source: Source) -> list[Shard]:
        in_store = is_in_store(self.folder)
        base = self.here if in_store else pathlib.Path(self.folder)
        workspace = base / "unpacked"
        shards = make_shards(source, self.tokenizer, self.here, self.options, workspace)
        if in_store and workspace.exists():
            raise ValueError(
                f"{source.spec} has large compressed files, and workers could not reach "
                "what this machine unpacks. Unpack the files first, or choose an output "
                "in a folder that the workers share."
            )
        return [
            dataclasses.replace(
                shard,
                sections=tuple(
                    dataclasses.replace(section, path=os.path.abspath(section.path))
                    for section in shard.sections
                ),
            )
            for shard in shards
        ]

    def _side_file(self, name: str) -> epath.Path:
        return self.folder / SIDE_FILES / name

    def _start_over(self) -> None:
        self._side_file("").rmtree(missing_ok=True)
        for left in self.folder.glob(f"*{DATASET_NAME}-*"):
            left.unlink()
        self._side_file("").mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(self.here / TOKENIZER)
        (self.folder / TOKENIZER).mkdir(exist_ok=True)
        copy_all(
            (path, self.folder / TOKENIZER / path.name)
            for path in (self.here / TOKENIZER).iterdir()
        )

    @property
    def _fingerprints(self) -> tuple[str, ...]:
        near = self.options.near_threshold > 0.0
        return ("held_out.npy", "hashes.npy", *["signatures.npy"] * near)

    def _gather(self, shards: list[Shard], *kinds: str) -> None:
        """Copies side files of all shards to this machine."""
        shards[0].side_file("").parent.mkdir(exist_ok=True)
        files = [shard.side_file(kind) for shard in shards for kind in kinds]
        copy_all((self._side_file(file.name), file) for file in files)

    def _results(self, shards: list[Shard]) -> list[dict[str, Any]]:
        self._gather(shards, "stats.json")
        files = [shard.side_file("stats.json") for shard in shards]
        return [json.loads(file.read_text()) for file in files]

    def _choose_what_to_drop(self, shards: list[Shard]) -> Duplicates:
        work = _WriteFingerprints(os.fspath(self.folder))
        with beam.Pipeline(options=_pipeline_options(self.beam_options)) as pipeline:
            _ = (
                pipeline
                | beam.Create(shards)
                | beam.Reshuffle()
                | "Fingerprints" >> beam.ParDo(work)
            )
        self._gather(shards, *self._fingerprints)
        copies = choose_what_to_drop(shards, self.options)
        files = [shard.side_file("drop.npy") for shard in shards]
        copy_all((file, self._side_file(file.name)) for file in files)
        return copies

    def _write_shards(self, shards: list[Shard]) -> dict[str, list[ShardFile]]:
        builder = split_builder.SplitBuilder(
            split_dict={},
            features=features(self.tokenizer.vocab_size),
            dataset_size=0,
            beam_options=_pipeline_options(self.beam_options),
            beam_runner=None,  # The runner is one of the options.
            max_examples_per_split=None,
            example_writer=_ShardWriter("array_record"),
            shard_config=shard_utils.ShardConfig(num_shards=len(shards)),
        )
        names = {split: file_names(self.folder, split) for split in SPLITS}
        work = _WriteRecords(os.fspath(self.folder), self.tokenizer)
        with builder.maybe_beam_pipeline():
            records = (
                builder.beam_pipeline
                | beam.Create(shards)
                | beam.Reshuffle()
                | "Tokenize" >> beam.ParDo(work).with_outputs(*SPLITS)
            )
            infos = {
                split: builder.submit_split_generation(
                    split_name=split,
                    generator=records[split],
                    filename_template=names[split],
                    disable_shuffling=True,  # Keys have the order of the source.
                    nondeterministic_order=False,
                )
                for split in SPLITS
            }
        files = {}
        for split in SPLITS:
            lengths = infos[split].result().shard_lengths
            paths = names[split].sharded_filepaths(len(lengths))
            files[split] = [
                ShardFile(path.name, length, **json.loads(_facts(path).read_text()))
                for path, length in zip(paths, lengths, strict=True)
            ]
        return files


@contextlib.contextmanager
def _here(shard: Shard, folder: epath.Path) -> Iterator[Shard]:
    """Yields the shard in a folder of this worker, then copies side files to `folder`."""
    with tempfile.TemporaryDirectory() as here:
        mine = dataclasses.replace(shard, output=pathlib.Path(here))
        drop, shared = mine.side_file("drop.npy"), folder / SIDE_FILES
        drop.parent.mkdir()
        if shard.drop and (shared / drop.name).exists():
            (shared / drop.name).copy(drop)
        yield mine
        drop.unlink(missing_ok=True)
        for file in drop.parent.iterdir():
            put(file, shared / file.name)


class _WriteFingerprints(beam.DoFn):
    """Writes a shard's side files for finding copies to the shared folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, shard: Shard) -> None:
        with _here(shard, epath.Path(self._folder)) as mine:
            write_fingerprints(mine, _count_bytes)


class _WriteRecords(beam.DoFn):
    """Yields (key, record) of a shard's documents, tagged by split.

    The shard's side files go to the shared folder.
    """

    def __init__(self, folder: str, tokenizer: Tokenizer) -> None:
        self._folder, self._tokenizer = folder, tokenizer

    def process(self, shard: Shard) -> Iterator[Any]:
        with _here(shard, epath.Path(self._folder)) as mine:
            records = ShardRecords(mine, self._tokenizer)
            first = shard.index * _KEYS_PER_SHARD
            for number, (split, record) in enumerate(records.records(_count_bytes)):
                keyed = first + number, record._asdict()
                yield beam.pvalue.TaggedOutput(SPLITS[split], keyed)
            records.save_arrays()
            stats = json.dumps(records.result(), indent=2)
            write_atomically(mine.side_file("stats.json"), stats)


def _count_bytes(count: int) -> None:
    """Adds to a counter that the runner shows: bytes of the source that were read."""
    beam.metrics.Metrics.counter("bert_jax", "source_bytes").inc(count)


class _ShardWriter(writer.ExampleWriter):
    """Writes a file on the worker and copies it: ArrayRecord cannot write to a store."""

    def write(
        self, path: str | os.PathLike[str], examples: Iterable[tuple[int, bytes]]
    ) -> None:
        shared = epath.Path(path)
        with tempfile.TemporaryDirectory() as here:
            file = pathlib.Path(here) / "shard"
            shard = open_writer(file)
            for _, example in examples:
                shard.write(in_one_order(example))
            shard.close()
            facts = {"size_bytes": file.stat().st_size, "sha256": file_sha256(file)}
            epath.Path(file).copy(shared)
        # TFDS renames every file whose name begins with the temporary name.
        _facts(shared).write_text(json.dumps(facts))


def _facts(path: epath.Path) -> epath.Path:
    """The file with the size and hash of a shard file, until the manifest has them."""
    return path.with_name(f"{path.name}.json")
