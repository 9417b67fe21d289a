"""`prepare` on more than one machine: an Apache Beam pipeline.

TFDS's split builder makes the pipeline and writes the shards, so it runs wherever Beam
does: Dataflow, Flink, Spark. One element is the work of one shard and goes through the
functions of the local path, so records, their order and the audit are the same. So are
the files, to the byte, if each shard has documents of both splits: an empty file is
left out here, and the others are numbered without it.

What workers write goes to the output: a folder that all share, or one in an object
store (tried with a stand-in for gs:// only). Sources are files that all workers can
open by the same name. Workers need bert_jax and Beam; neither JAX nor TensorFlow is
imported.
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
from etils import epath
from tensorflow_datasets.core import split_builder, writer
from tensorflow_datasets.core.utils import shard_utils

from bert_jax.config import DEFAULT_OPTIONS, PrepareOptions
from bert_jax.data.file_hash import file_sha256
from bert_jax.data.prepared.duplicates import Duplicates
from bert_jax.data.prepared.locking import locked
from bert_jax.data.prepared.metadata import file_names
from bert_jax.data.prepared.prepare import (
    MANIFEST,
    TOKENIZER,
    begin,
    choose_what_to_drop,
    finish,
    make_jobs,
    make_plan,
    refuse_empty_splits,
    refuse_problems,
)
from bert_jax.data.prepared.records import DATASET_NAME, SPLITS, features, in_one_order
from bert_jax.data.prepared.shards import (
    ShardFile,
    ShardJob,
    ShardWork,
    open_shard,
    write_fingerprints,
)
from bert_jax.data.prepared.storage import (
    copy_all,
    is_in_store,
    open_folder,
    put,
    write_text_atomically,
)
from bert_jax.data.text.sources import Source, open_source
from bert_jax.data.tokenizers.saved_tokenizer import load_tokenizer
from bert_jax.data.tokenizers.tokenizer import Tokenizer

# The keys of a job's records begin at its number times this. TFDS cuts the range of
# keys into equal shares, a shard each: by so wide a step, between jobs.
_KEYS_A_JOB = 1 << 40


def prepare_with_beam(
    source: str,
    tokenizer: pathlib.Path,
    output: str | os.PathLike[str],
    options: PrepareOptions = DEFAULT_OPTIONS,
    *,
    beam_options: Sequence[str],
    strict: bool = False,
) -> dict[str, Any]:
    """Does what `prepare` does, on the machines of a Beam runner.

    A run that was stopped begins its pipeline anew; if that had ended, only the audit
    is left. One run at a time may write to an output: in a shared folder a second one
    is refused, an object store has no locks.

    Args:
        source: as `open_source` takes it; workers open its files.
        tokenizer: directory of a saved tokenizer, on this machine.
        output: directory of the dataset, or its address in an object store (gs://,
            s3://), for all workers to reach.
        options: what decides the content. A worker holds the records of a shard while
            it writes them, and no more workers than shards are busy: raise `num_shards`
            with the corpus.
        beam_options: flags of Beam and its runner, `--runner=...` among them.
        strict: refuse a corpus in which the audit finds what would spoil training.

    Returns:
        The manifest.

    Raises:
        ValueError: as `prepare`; or no runner is named, or a file must be unpacked and
            workers could not reach it.
    """
    _pipeline_options(beam_options)
    opened = open_source(source)
    loaded = load_tokenizer(tokenizer)
    folder = open_folder(output)
    plan = make_plan(opened, loaded, options, runner="beam")
    begin(folder, plan)
    if not (folder / MANIFEST).exists():
        with _only_writer(folder), tempfile.TemporaryDirectory() as here:
            run = _Run(folder, pathlib.Path(here), loaded, options, beam_options)
            run.write(opened, plan, strict)
    manifest = json.loads((folder / MANIFEST).read_text())
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
    return options


def _only_writer(folder: epath.Path) -> contextlib.AbstractContextManager[None]:
    if is_in_store(folder):
        return contextlib.nullcontext()
    return locked(pathlib.Path(folder))


@dataclasses.dataclass(frozen=True)
class _Run:
    """The work between a plan and a manifest, as the machine that starts it sees it."""

    folder: epath.Path
    here: pathlib.Path
    """A folder of this machine, where parts are gathered to be judged."""
    tokenizer: Tokenizer
    options: PrepareOptions
    beam_options: Sequence[str]

    def write(self, source: Source, plan: dict[str, Any], strict: bool) -> None:
        if (self.folder / MANIFEST).exists():
            return  # Another process had the lock, and finished.
        jobs = self._make_jobs(source)
        written = self._part("written.json")
        copies = None
        if not written.exists():
            self._start_over()
            if self.options.duplicates == "drop":
                copies = self._choose_what_to_drop(jobs)
            try:
                files = self._write_shards(jobs)
            except Exception:
                # TFDS refuses an empty split as well, in a worker and in its own words.
                with contextlib.suppress(FileNotFoundError):
                    refuse_empty_splits(self._results(jobs), self.options, plan)
                raise
            write_text_atomically(written, json.dumps(files, indent=2))
        files = {
            split: [ShardFile(*values) for values in found]
            for split, found in json.loads(written.read_text()).items()
        }
        for facts in self.folder.glob(f"{DATASET_NAME}-*.json"):
            facts.unlink()
        results = self._results(jobs)
        self._gather(jobs, "counts.npy.gz", *self._fingerprints)
        finish(
            self.folder,
            jobs,
            results,
            files,
            self.tokenizer,
            self.options,
            plan,
            copies,
            strict=strict,
        )
        (self.folder / "unpacked").rmtree(missing_ok=True)

    def _make_jobs(self, source: Source) -> list[ShardJob]:
        in_store = is_in_store(self.folder)
        base = self.here if in_store else pathlib.Path(self.folder)
        workspace = base / "unpacked"
        jobs = make_jobs(source, self.tokenizer, self.here, self.options, workspace)
        if in_store and workspace.exists():
            raise ValueError(
                f"{source.spec} has large compressed files; workers could not reach "
                "what this machine unpacks. Unpack them first, or choose an output in a "
                "folder that the workers share."
            )
        return [
            dataclasses.replace(
                job,
                units=tuple(
                    dataclasses.replace(unit, path=os.path.abspath(unit.path))
                    for unit in job.units
                ),
            )
            for job in jobs
        ]

    def _part(self, name: str) -> epath.Path:
        return self.folder / "shards" / name

    def _start_over(self) -> None:
        self._part("").rmtree(missing_ok=True)
        for left in self.folder.glob(f"*{DATASET_NAME}-*"):
            left.unlink()
        self._part("").mkdir(parents=True, exist_ok=True)
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

    def _gather(self, jobs: list[ShardJob], *kinds: str) -> None:
        """Copies parts of all shards to this machine."""
        jobs[0].part("").parent.mkdir(exist_ok=True)
        parts = [job.part(kind) for job in jobs for kind in kinds]
        copy_all((self._part(part.name), part) for part in parts)

    def _results(self, jobs: list[ShardJob]) -> list[dict[str, Any]]:
        self._gather(jobs, "stats.json")
        return [json.loads(job.part("stats.json").read_text()) for job in jobs]

    def _choose_what_to_drop(self, jobs: list[ShardJob]) -> Duplicates:
        work = _WriteFingerprints(os.fspath(self.folder))
        with beam.Pipeline(options=_pipeline_options(self.beam_options)) as pipeline:
            _ = (
                pipeline
                | beam.Create(jobs)
                | beam.Reshuffle()
                | "Fingerprints" >> beam.ParDo(work)
            )
        self._gather(jobs, *self._fingerprints)
        copies = choose_what_to_drop(jobs, self.options)
        parts = [job.part("drop.npy") for job in jobs]
        copy_all((part, self._part(part.name)) for part in parts)
        return copies

    def _write_shards(self, jobs: list[ShardJob]) -> dict[str, list[ShardFile]]:
        builder = split_builder.SplitBuilder(
            split_dict={},
            features=features(self.tokenizer.vocab_size),
            dataset_size=0,
            beam_options=_pipeline_options(self.beam_options),
            beam_runner=None,  # of the options
            max_examples_per_split=None,
            example_writer=_ShardWriter("array_record"),
            shard_config=shard_utils.ShardConfig(num_shards=len(jobs)),
        )
        names = {split: file_names(self.folder, split) for split in SPLITS}
        work = _WriteRecords(os.fspath(self.folder), self.tokenizer)
        with builder.maybe_beam_pipeline():
            records = (
                builder.beam_pipeline
                | beam.Create(jobs)
                | beam.Reshuffle()
                | "Tokenize" >> beam.ParDo(work).with_outputs(*SPLITS)
            )
            infos = {
                split: builder.submit_split_generation(
                    split_name=split,
                    generator=records[split],
                    filename_template=names[split],
                    disable_shuffling=True,  # The order of keys is that of the source.
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
def _here(job: ShardJob, folder: epath.Path) -> Iterator[ShardJob]:
    """The job with a folder of this worker's own, whose parts go to the shared one."""
    with tempfile.TemporaryDirectory() as here:
        mine = dataclasses.replace(job, output=pathlib.Path(here))
        parts = mine.part("").parent
        parts.mkdir()
        if (
            job.drop
            and (drop := folder / "shards" / job.part("drop.npy").name).exists()
        ):
            drop.copy(mine.part("drop.npy"))
        yield mine
        mine.part("drop.npy").unlink(missing_ok=True)
        for part in parts.iterdir():
            put(part, folder / "shards" / part.name)


class _WriteFingerprints(beam.DoFn):
    """What tells a shard's documents from their copies goes to the shared folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def process(self, job: ShardJob) -> None:
        with _here(job, epath.Path(self._folder)) as mine:
            write_fingerprints(mine, _count_bytes)


class _WriteRecords(beam.DoFn):
    """(key, record) of a shard's documents by split; the rest to the shared folder."""

    def __init__(self, folder: str, tokenizer: Tokenizer) -> None:
        self._folder, self._tokenizer = folder, tokenizer

    def process(self, job: ShardJob) -> Iterator[Any]:
        with _here(job, epath.Path(self._folder)) as mine:
            work = ShardWork(mine, self._tokenizer)
            first = job.index * _KEYS_A_JOB
            for number, (split, record) in enumerate(work.records(_count_bytes)):
                keyed = first + number, record._asdict()
                yield beam.pvalue.TaggedOutput(SPLITS[split], keyed)
            mine.scratch.mkdir(parents=True)
            work.save_parts(mine.scratch)
            write_text_atomically(
                mine.part("stats.json"), json.dumps(work.result(), indent=2)
            )


def _count_bytes(count: int) -> None:
    """Shown by the runner: bytes of the source that were worked through."""
    beam.metrics.Metrics.counter("bert_jax", "source_bytes").inc(count)


class _ShardWriter(writer.ExampleWriter):
    """Writes a shard on the worker and copies it: ArrayRecord knows no object store."""

    def write(
        self, path: str | os.PathLike[str], examples: Iterable[tuple[int, bytes]]
    ) -> None:
        shared = epath.Path(path)
        with tempfile.TemporaryDirectory() as here:
            file = pathlib.Path(here) / "shard"
            shard = open_shard(file)
            for _, example in examples:
                shard.write(in_one_order(example))
            shard.close()
            facts = {"size_bytes": file.stat().st_size, "sha256": file_sha256(file)}
            epath.Path(file).copy(shared)
        # TFDS gives what begins with this temporary name its final one.
        _facts(shared).write_text(json.dumps(facts))


def _facts(path: epath.Path) -> epath.Path:
    """What the worker knew of a shard's file, until it is in the manifest."""
    return path.with_name(f"{path.name}.json")
