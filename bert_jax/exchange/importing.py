"""A foreign model as a run directory: pretraining goes on from it, fine-tuning starts."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from bert_jax.config import (
    DataConfig,
    FinetuneConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.data.hashes import file_sha256
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange.added_tokens import NewRows, add_tokens
from bert_jax.exchange.heads import fresh_params, task_of_source
from bert_jax.exchange.imported import (
    Imported,
    about_fresh_heads,
    about_task,
    longest_row,
)
from bert_jax.exchange.json_files import save_json
from bert_jax.exchange.portable import VECTORS, refuse_not_finite
from bert_jax.exchange.read_google import read_google
from bert_jax.exchange.read_huggingface import read_huggingface
from bert_jax.exchange.sentence_transformers_modules import MODULES
from bert_jax.exchange.source import Source
from bert_jax.exchange.tensors import (
    Head,
    Params,
    Tensors,
    flatten,
    from_tensors,
    unflatten,
)
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.moments import Moments, with_moments
from bert_jax.train.optimizer import make_optimizer
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.checkpoint_in_store import CHECKPOINTS
from bert_jax.train.runs.checkpoint_mirror import steps_in
from bert_jax.train.runs.run import RunInfo
from bert_jax.train.runs.run_start import start_run
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import TrainState, init_state
from bert_jax.train.tasks import Task
from bert_jax.train.tensors import tensors_sha256

IMPORT_MANIFEST = "import.json"
_READ_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")
FORMAT_VERSION = 1


def is_foreign(path: pathlib.Path) -> bool:
    """Whether there is a model of Hugging Face or Google, told by its files' names."""
    return _is_google(path) or (
        (path / "config.json").is_file()
        and not (path / "run.json").exists()
        and not steps_in(path / CHECKPOINTS)  # a run that has lost its run.json
    )


def _is_google(path: pathlib.Path) -> bool:
    return (path / "bert_config.json").is_file() or (
        not path.exists() and path.with_name(f"{path.name}.index").is_file()
    )


def read_source(path: pathlib.Path, *, lowercase: bool | None = None) -> Source:
    """Reads a Hugging Face directory or a checkpoint of Google's, told by its files.

    Args:
        path: the directory, or the prefix of a TensorFlow checkpoint.
        lowercase: casing of the vocabulary, where the source does not say.

    Raises:
        FileNotFoundError: nothing of either kind is there.
        ValueError: the source is damaged, contradicts itself, or is no BERT.
    """
    if _is_google(path):
        return read_google(path, lowercase=lowercase)
    if is_foreign(path):
        return read_huggingface(path, lowercase=lowercase)
    raise FileNotFoundError(f"{path} is no model: {_what_is_there(path)}")


def _what_is_there(path: pathlib.Path) -> str:
    if (path / "run.json").exists():
        return "it is a run directory already, and needs no import."
    expected = (
        "expected a Hugging Face directory (config.json), or one of Google's "
        "(bert_config.json, vocab.txt and a checkpoint), or the prefix of such a "
        "checkpoint."
    )
    if (path / "adapter_config.json").is_file():
        return f"it is an adapter; {expected} Merge it into its model first."
    if (path / MODULES).is_file():
        return (
            "sentence-transformers wrote it, with config.json in a folder of its own, as "
            "old versions do, or the file is missing. `SentenceTransformer(DIR).save(OTHER)` "
            "of that library writes what can be imported."
        )
    below = [*path.glob("*/config.json"), *path.glob("snapshots/*/config.json")]
    if below:
        return f"{expected} Is it the one in {sorted(below)[-1].parent}?"
    if not path.exists():
        return (
            f"there is no such file or directory; {expected} `hf download NAME "
            "--local-dir DIR` fetches a model of the Hugging Face Hub."
        )
    return expected


@our_settings()
def import_run(
    path: pathlib.Path,
    run: pathlib.Path,
    *,
    lowercase: bool | None = None,
    encoder_only: bool = False,
    allow_incomplete: bool = False,
    num_texts: int = 1,
    tokens: Sequence[str] = (),
    new_rows: NewRows = "mean",
    seed: int = 0,
) -> Imported:
    """Writes a run directory with the source's weights, tokenizer and architecture.

    A model for a task becomes a fine-tuned run (`task_of_source`), everything else a
    pretraining run whose missing heads are drawn afresh.

    Args:
        path: what `read_source` takes.
        run: directory to create.
        lowercase: as for `read_source`.
        encoder_only: make a pretraining run of a model for a task, too.
        allow_incomplete: draw missing parts of the encoder afresh instead of refusing.
        num_texts: 2 for a classifier of pairs.
        tokens: to extend the vocabulary by, see `add_tokens`.
        new_rows: what their rows of the token table hold.
        seed: of what is drawn.

    Raises:
        FileNotFoundError: no model is there.
        ValueError: the source cannot be represented exactly, parts of its encoder are
            missing, `num_texts` would be ignored, or `run` is in use.
    """
    # First of all, so that a directory in use is refused before any work.
    with whole_directory(run, overwrite=False) as partial:
        source = read_source(path, lowercase=lowercase)
        refuse_not_finite(source.origin, source.tensors)
        for slots in source.slots or ():
            refuse_not_finite(f"{source.origin}, the optimizer's moments,", slots)
        added = None
        if tokens:
            source, added = add_tokens(source, tokens, new_rows, seed)
        task = task_of_source(source, encoder_only=encoder_only)
        head: Head = source.head
        if task is None:
            head = "pretraining" if source.model.next_sentence else "mlm"
        else:
            _check_head(source)
        if num_texts != 1 and (task is None or task.head != "classifier"):
            raise ValueError(
                f"--num-texts {num_texts} would be ignored: {source.origin} does not become "
                "a classifier. Leave it out."
            )
        labels = None if task is None else source.labels or task.fixed_outputs
        read = from_tensors(source.model, source.tensors, source.rows(head))
        fresh = fresh_params(source.model, task, len(labels or ()), seed)
        unknown = _parts_of_encoder(read.new)
        if unknown and not allow_incomplete:
            raise ValueError(
                f"{source.origin} lacks {len(unknown)} parameters of the encoder: "
                f"{', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}. Pass "
                "--allow-incomplete to draw them afresh."
            )
        flat = {**flatten(fresh), **flatten(read.params)}
        params = unflatten(flat)
        moments = _opt_state(source, params, head) if source.slots else None
        result = Imported(
            kind="pretrain" if task is None else "finetune",
            origin=source.origin,
            source=str(path.absolute()),
            source_sha256=source_sha256(path),
            step=source.step,
            used=tuple(sorted(read.used)),
            unused=tuple(sorted(set(source.tensors) - set(read.used))),
            new=read.new,
            moments=moments is not None,
            sha256=tensors_sha256(params),
            notes=(
                *source.notes,
                *about_fresh_heads(source.model, read.new),
                *about_task(source, task, labels),
            ),
            added_tokens=added,
        )
        _write(partial, source, task, labels, result, params, moments, num_texts)
    return result


def source_sha256(path: pathlib.Path) -> str:
    """The hash of every file that an import can read, by their names.

    Args:
        path: what `read_source` takes.
    """
    home = path if path.is_dir() else path.parent
    found = [x for x in home.iterdir() if x.suffix in _READ_FILES]
    if path.is_dir():
        found += home.glob("*/config.json")  # of sentence-transformers
    prefix = "*" if path.is_dir() else path.name
    found += [*home.glob(f"{prefix}.index"), *home.glob(f"{prefix}.data-*")]
    total = hashlib.sha256()
    for file in sorted(x for x in found if x.is_file()):
        total.update(f"{file.name} {file_sha256(file)}\n".encode())
    return total.hexdigest()


def _check_head(source: Source) -> None:
    """Refuses a task's model that cannot predict, or would predict at random."""
    lacking = [
        row.theirs
        for row in source.rows(source.head)
        if row.theirs and row.theirs not in source.tensors
        if not _is_of_encoder(row.ours)
    ]
    if lacking:
        raise ValueError(
            f"{source.origin} is a {source.head} by its config.json, but has no "
            f"{', '.join(lacking)}. Fetch the whole model; or pass --encoder-only to "
            "import it without its head."
        )
    num_logits = len(source.labels or ())
    is_regression = source.problem_type == "regression"
    if source.problem_type and is_regression != (num_logits == 1):
        raise ValueError(
            f"{source.origin} has problem_type={source.problem_type!r} and a classifier with "
            f"{num_logits} logits; expected one logit for a regression, and two or more for "
            "classes or labels. Pass --encoder-only to import it without its head."
        )


def _parts_of_encoder(new: tuple[str, ...]) -> list[str]:
    return [path for path in new if _is_of_encoder(path)]


def _is_of_encoder(path: str) -> bool:
    # A model without pooler is whole: several heads do not have one.
    return path.startswith(("embed/", "layers/", "final/"))


def _opt_state(source: Source, params: Params, head: Head) -> Any:
    """An optimizer's state with the source's moments, zeros where a tensor is new."""

    def tree(slots: Tensors) -> Params:
        read = from_tensors(source.model, slots, source.rows(head))
        zeros = {k: np.zeros_like(v) for k, v in flatten(params).items()}
        return unflatten({**zeros, **flatten(read.params)})

    assert source.slots is not None
    cfg = PretrainConfig(model=source.model, data=_data(source))
    schedule = make_schedule(cfg.optimizer, cfg.num_steps)
    fresh = jax.device_get(make_optimizer(cfg.optimizer, schedule).init(params))
    moments = Moments(
        mu=tree(source.slots.mu),
        nu=tree(source.slots.nu),
        age=jax.numpy.int32(source.step),
    )
    return with_moments(fresh, moments)


def _data(source: Source) -> DataConfig:
    limits = [128, source.model.max_positions, source.max_length or 128]
    pairs = DataConfig.pairs if source.model.next_sentence else "none"
    return DataConfig(sequence_length=min(limits), pairs=pairs)


def _write(
    run: pathlib.Path,
    source: Source,
    task: Task | None,
    labels: tuple[str, ...] | None,
    result: Imported,
    params: Params,
    opt_state: Any,
    num_texts: int,
) -> None:
    info = RunInfo(
        kind=result.kind,
        model=source.model,
        tokenizer_sha256=source.tokenizer.sha256,
        data={},
        task=None if task is None else task.name,
        labels=labels,
        sequence_length=(
            longest_row(source) if task else _data(source).sequence_length
        ),
        encoder={
            "run": source.origin,
            "step": source.step,
            "num_tensors": len(result.used),
            "sha256": result.sha256,
        },
    )
    config: PretrainConfig | FinetuneConfig
    if task is not None:
        of_task: dict[str, Any] = {"kind": task.name}
        if source.head in VECTORS:
            of_task["pooling"] = VECTORS[source.head]
        elif source.head == "classifier":
            of_task["text"] = ("text",) if num_texts == 1 else ("text_a", "text_b")
        config = FinetuneConfig(
            task=TaskConfig(**of_task),
            dropout=source.dropout,
            sequence_length=info.sequence_length,
        )
    else:
        config = PretrainConfig(
            model=source.model, dropout=source.dropout, data=_data(source)
        )
    start_run(run, config, info, source.tokenizer)
    # The key of masks and dropout belongs to the run that goes on from here.
    key = init_state(lambda _: {}, optax.identity(), 0).key
    state = TrainState(
        step=np.int32(source.step),  # type: ignore[arg-type]
        params=params,
        opt_state=opt_state,
        key=key,
    )
    with Checkpoints(run, info.identity) as checkpoints:
        checkpoints.save(jax.tree.map(jax.numpy.asarray, state))
        checkpoints.wait()
    manifest = {"format_version": FORMAT_VERSION, **dataclasses.asdict(result)}
    save_json(run / IMPORT_MANIFEST, manifest)
