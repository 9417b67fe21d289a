"""A foreign model as a run directory: pretraining goes on from it, fine-tuning starts."""

import dataclasses
import pathlib
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
from bert_jax.data.whole_directory import whole_directory
from bert_jax.exchange.heads import fresh_params, task_of_source
from bert_jax.exchange.json_files import save_json
from bert_jax.exchange.read_google import read_google
from bert_jax.exchange.read_huggingface import read_huggingface
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
from bert_jax.train.checkpoint import Checkpoints, tensors_sha256
from bert_jax.train.optimizer import Moments, make_optimizer, with_moments
from bert_jax.train.run import RunInfo, start_run
from bert_jax.train.schedules import make_schedule
from bert_jax.train.step import TrainState, init_state
from bert_jax.train.tasks import Task

IMPORT_MANIFEST = "import.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of every tensor.

    Attributes:
        kind: of the run that was written, "pretrain" or "finetune".
        used: names of theirs that are in the run.
        unused: names of theirs that are not.
        new: our parameters that the source did not have; freshly drawn.
        sha256: of all parameters of the run.
        notes: what the reader decided or converted.
    """

    kind: str
    origin: str
    step: int
    used: tuple[str, ...]
    unused: tuple[str, ...]
    new: tuple[str, ...]
    moments: bool
    sha256: str
    notes: tuple[str, ...]


def read_source(path: pathlib.Path, *, lowercase: bool | None = None) -> Source:
    """Reads a Hugging Face directory or a checkpoint of Google's, told by its files.

    Args:
        path: the directory, or the prefix of a TensorFlow checkpoint.
        lowercase: casing of the vocabulary, where the source does not say.

    Raises:
        FileNotFoundError: nothing of either kind is there.
        ValueError: the source is damaged, contradicts itself, or is no BERT.
    """
    if (path / "bert_config.json").is_file() or (
        not path.exists() and path.with_name(f"{path.name}.index").is_file()
    ):
        return read_google(path, lowercase=lowercase)
    if (path / "config.json").is_file():
        return read_huggingface(path, lowercase=lowercase)
    raise FileNotFoundError(
        f"{path} is no model: expected a Hugging Face directory (config.json), or one "
        "of Google's (bert_config.json, vocab.txt and a checkpoint), or the prefix of "
        "such a checkpoint."
    )


@our_settings()
def import_run(
    path: pathlib.Path,
    run: pathlib.Path,
    *,
    lowercase: bool | None = None,
    encoder_only: bool = False,
    allow_incomplete: bool = False,
    num_texts: int = 1,
    seed: int = 0,
) -> Imported:
    """Writes a run directory with the source's weights, tokenizer and architecture.

    A sequence classifier becomes a fine-tuned run, everything else a pretraining run
    whose missing heads are drawn afresh.

    Args:
        path: what `read_source` takes.
        run: directory to create.
        lowercase: as for `read_source`.
        encoder_only: make a pretraining run of a classifier, too.
        allow_incomplete: draw missing parts of the encoder afresh instead of refusing.
        num_texts: 2 for a classifier of pairs.
        seed: of what is drawn.

    Raises:
        FileNotFoundError: no model is there.
        ValueError: the source cannot be represented exactly, parts of its encoder are
            missing, or `run` is in use.
    """
    source = read_source(path, lowercase=lowercase)
    task = task_of_source(source, encoder_only=encoder_only)
    head = "pretraining" if task is None else source.head
    read = from_tensors(source.model, source.tensors, source.rows(head))
    fresh = fresh_params(source.model, task, len(source.labels or ()), seed)
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
        step=source.step,
        used=tuple(sorted(read.used)),
        unused=tuple(sorted(set(source.tensors) - set(read.used))),
        new=read.new,
        moments=moments is not None,
        sha256=tensors_sha256(params),
        notes=source.notes,
    )
    with whole_directory(run, overwrite=False) as partial:
        _write(partial, source, task, result, params, moments, num_texts)
    return result


def describe(result: Imported) -> list[str]:
    """Lines for the user: what was used, what was not, what is new."""

    def some(found: tuple[str, ...]) -> str:
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        return f"{len(found)}" + (f": {', '.join(found[:8])}{more}" if found else "")

    return [
        f"{len(result.used)} tensors of {result.origin} used, "
        f"{'with' if result.moments else 'without'} moments",
        f"not used: {some(result.unused)}",
        f"new, drawn afresh: {some(result.new)}",
        *(f"note: {note}" for note in result.notes),
        f"a {result.kind} run at step {result.step:,}, sha256 {result.sha256[:16]}",
    ]


def _parts_of_encoder(new: tuple[str, ...]) -> list[str]:
    # A model without pooler is whole: several heads do not have one.
    return [path for path in new if path.startswith(("embed/", "layers/"))]


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
    return DataConfig(sequence_length=min(128, source.model.max_positions))


def _write(
    run: pathlib.Path,
    source: Source,
    task: Task | None,
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
        labels=None if task is None else source.labels,
        sequence_length=_data(source).sequence_length,
        encoder={
            "run": source.origin,
            "step": source.step,
            "num_tensors": len(result.used),
            "sha256": result.sha256,
        },
    )
    config: PretrainConfig | FinetuneConfig
    if task is not None:
        columns = ("text",) if num_texts == 1 else ("text_a", "text_b")
        config = FinetuneConfig(
            task=TaskConfig(text_columns=columns),
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
