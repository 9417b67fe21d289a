"""Scores a run's weights, on its own held-out data or on other data."""

import contextlib
import dataclasses
import math
import pathlib
from collections.abc import Callable

import jax

from bert_jax.config import FileConfig, FinetuneConfig, MeshConfig, PretrainConfig
from bert_jax.data.hashes import file_sha256, json_sha256
from bert_jax.data.prepared.corpus import open_corpus
from bert_jax.runtime import process
from bert_jax.runtime.agreement import agree
from bert_jax.runtime.jax_settings import our_settings
from bert_jax.train.held_out import check_held_out, num_batches, open_evaluator
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh
from bert_jax.train.reading import show_reading
from bert_jax.train.runs.run import load_run, load_run_config, load_run_tokenizer
from bert_jax.train.sharding import check_batch_size
from bert_jax.train.task_files import read_held_out, read_trained_on, warn_of_known
from bert_jax.train.tasks.task import Judged


@our_settings()
def evaluate_run(
    run: pathlib.Path,
    data: pathlib.Path | None,
    file: FileConfig | None = None,
    *,
    step: int | None = None,
    batches: int | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, float]:
    """Scores of a run's weights. It says on standard error what it judges on.

    Args:
        run: run directory of `pretrain`, `finetune` or `import`.
        data: prepared dataset for a pretraining run, or labelled file for a fine-tuned
            run. Default: the run's own held-out data.
        file: how the labelled file is read. Default: as the run read its own.
        step: step of the weights. Default: the best one that the run keeps, else that of
            the newest checkpoint.
        batches: most batches of held-out rows, for a pretraining run. Default: what the
            run itself evaluates on.
        progress: called with the numbers of batches done and of all.

    Raises:
        ValueError: the run's own data has changed, the data was prepared with another
            tokenizer or has other labels, or an imported run has no data of its own.
    """
    cfg = load_run_config(run)
    if isinstance(cfg, PretrainConfig):
        cfg = cfg.phases[-1]
        if batches is not None:
            cfg = dataclasses.replace(cfg, eval_batches=batches)
        return _evaluate_pretraining(run, cfg, data, step, progress)
    if batches is not None:
        raise ValueError(
            f"--batches {batches} would be ignored: {run} is a fine-tuned run, which is "
            "judged on whole files. Leave it out."
        )
    return _evaluate_task(run, cfg, data, file or cfg.task.file, step, progress)


def _evaluate_pretraining(
    run: pathlib.Path,
    cfg: PretrainConfig,
    data: pathlib.Path | None,
    step: int | None,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    cfg = dataclasses.replace(cfg, compute=cfg.compute.on_any_platform)
    if data is None and not cfg.data.datasets:
        raise ValueError(
            f"{run} was imported and has no data of its own; pass a dataset "
            f"that `bert-jax prepare --tokenizer {run}/tokenizer` wrote."
        )
    if data is not None:
        own = dataclasses.replace(cfg.data, dataset=data, mixture=(), weights=())
        cfg = dataclasses.replace(cfg, data=own)
    try:
        corpus = open_corpus(cfg.data)
    except FileNotFoundError as error:
        if data is not None:
            raise
        raise FileNotFoundError(
            f"{error} Here: `bert-jax evaluate {run} DATASET`."
        ) from None
    names = ", ".join(str(dataset.directory) for dataset in corpus.datasets)
    expected = load_run_tokenizer(run).sha256
    if corpus.tokenizer.sha256 != expected:
        raise ValueError(
            f"{names} was prepared with tokenizer {corpus.tokenizer.sha256[:12]}, but the "
            f"run was trained with {expected[:12]}; prepare the dataset with --tokenizer "
            f"{run}/tokenizer."
        )
    same = corpus.identity == load_run(run).data
    if data is None and not same:
        raise ValueError(
            f"{names} is not the dataset any more that {run} was trained on: its files have "
            "other hashes. Put the original back, or pass a dataset to judge on it as it "
            "is."
        )
    _agree(run, json_sha256(corpus.identity))
    devices = jax.devices()  # those here; the run may have used others
    if process.this().count == 1:
        devices = devices[: math.gcd(len(devices), cfg.batch_size)]
    mesh = make_mesh(MeshConfig(), devices)
    check_batch_size(mesh, cfg.batch_size)
    for dataset in corpus.datasets:
        check_held_out(dataset, cfg.data)
    evaluator = open_evaluator(cfg, corpus, mesh)
    _, step, params = load_params(run, mesh, step=step)
    for dataset, rows in zip(corpus.datasets, evaluator.rows.values(), strict=True):
        there = rows.size(0).num_rows
        judged = min(there, cfg.eval_batches * cfg.batch_size)
        print(
            f"step {step:,} of {run}, on {judged:,} of {there:,} held-out rows of "
            f"{dataset.directory} ({'the' if same else 'not the'} dataset of its training)",
            file=process.notes(),
        )
    total = num_batches(cfg, evaluator.rows.values())
    return evaluator(params, lambda done: progress(done, total))


def _evaluate_task(
    run: pathlib.Path,
    cfg: FinetuneConfig,
    data: pathlib.Path | None,
    file: FileConfig,
    step: int | None,
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    if data is None and cfg.task.dev is None:
        columns = (
            f" whose text stands in {' and '.join(file.text)}, or name its columns with "
            "--text and --label"
        )
        raise ValueError(
            f"{run} was imported and has no data of its own; pass a file of labelled "
            f"text{columns * bool(file.text)}."
        )
    mesh = None if process.this().count == 1 else make_mesh(MeshConfig())
    predictor = Predictor(run, step=step, batch_size=cfg.batch_size, mesh=mesh)
    task = predictor.task
    as_given = cfg.task.with_file(file)
    if data is None:
        held_out = read_held_out(task, as_given, predictor.info.data["validation"])
    else:
        held_out = task.read(data, as_given, "validation")
    show_reading(task, "judged on", held_out, predictor.outputs, process.notes())
    if data is None and isinstance(cfg.task.dev, float):
        drawn = (
            f"a share of {cfg.task.dev:g}, drawn with --draw-seed {cfg.task.draw_seed}"
        )
        print(f"  {drawn}, that the run was not trained on", file=process.notes())
    if data is not None and cfg.task.train is not None:
        # Only a hint, so the file of the training need not be there any more.
        with contextlib.suppress(OSError, ValueError):
            own = predictor.info.data["train"]
            if train := read_trained_on(task, cfg.task, own):
                warn_of_known(train, held_out, process.notes())
    _agree(run, held_out.sha256())
    encoded = predictor.encode(held_out)
    logits = predictor.logits(encoded, progress)
    return task.scores(Judged(logits, encoded, held_out, predictor.outputs))


def _agree(run: pathlib.Path, data_sha256: str) -> None:
    """Raises ValueError on all hosts if their runs or data differ."""
    found = {"run.json": file_sha256(run / "run.json"), "data": data_sha256}
    agree("what is evaluated", found)
