"""Scores a run's newest checkpoint, on its own held-out data or on other data."""

import dataclasses
import pathlib
import sys

from bert_jax.config import FileConfig, FinetuneConfig, MeshConfig, PretrainConfig
from bert_jax.data.file_hash import file_sha256
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.runtime import process
from bert_jax.runtime.agreement import agree
from bert_jax.train.held_out import PretrainEvaluator, held_out_rows
from bert_jax.train.initial import load_params
from bert_jax.train.mesh import make_mesh
from bert_jax.train.predict import Predictor
from bert_jax.train.reading import show_reading
from bert_jax.train.run import load_run_config, load_run_tokenizer
from bert_jax.train.sharding import check_batch_size


def evaluate_run(
    run: pathlib.Path, data: pathlib.Path | None, file: FileConfig | None = None
) -> dict[str, float]:
    """Scores of the newest checkpoint of a run.

    Args:
        run: run directory of `pretrain`, `finetune` or `import`.
        data: prepared dataset for a pretraining run, or labelled file for a fine-tuned
            run. Default: the run's own held-out data.
        file: how the labelled file is read. Default: as the run read its own.

    Raises:
        ValueError: the data was prepared with another tokenizer or has other labels, or
            an imported run has no data of its own, or the run's own file has changed.
    """
    cfg = load_run_config(run)
    if isinstance(cfg, PretrainConfig):
        return _evaluate_pretraining(run, cfg.phases[-1], data)
    return _evaluate_task(run, cfg, data, file or cfg.task.file)


def _evaluate_pretraining(
    run: pathlib.Path, cfg: PretrainConfig, data: pathlib.Path | None
) -> dict[str, float]:
    cfg = dataclasses.replace(cfg, compute=cfg.compute.on_any_platform)
    if data is None and cfg.data.dataset is None:
        raise ValueError(
            f"{run} was imported and has no data of its own; pass a dataset "
            f"that `bert-jax prepare --tokenizer {run}/tokenizer` wrote."
        )
    dataset = open_dataset(data or cfg.data.dataset)
    expected = load_run_tokenizer(run).sha256
    if dataset.tokenizer.sha256 != expected:
        raise ValueError(
            f"{dataset.directory} was prepared with tokenizer "
            f"{dataset.tokenizer.sha256[:12]}, but the run was trained with "
            f"{expected[:12]}; prepare the dataset with --tokenizer {run}/tokenizer."
        )
    _agree(run, dataset.manifest["sha256"])
    mesh = make_mesh(MeshConfig())  # the devices here; the run may have used others
    check_batch_size(mesh, cfg.batch_size)
    rows = held_out_rows(dataset, cfg.data)
    vocabulary = dataset.tokenizer.mask_vocabulary
    params = load_params(run, mesh).params
    return PretrainEvaluator(cfg, rows, vocabulary, mesh)(params)


def _evaluate_task(
    run: pathlib.Path, cfg: FinetuneConfig, data: pathlib.Path | None, file: FileConfig
) -> dict[str, float]:
    if data is None and cfg.task.validation is None:
        raise ValueError(
            f"{run} was imported and has no data of its own; pass a file of labelled "
            f"text whose text stands in {' and '.join(file.text_columns)}, or name its "
            "columns with --task.text-columns and --task.label-column."
        )
    mesh = None if process.this().count == 1 else make_mesh(MeshConfig())
    predictor = Predictor(run, batch_size=cfg.batch_size, mesh=mesh)
    task = predictor.task
    held_out = task.read(
        data or cfg.task.validation, cfg.task.with_file(file), "validation"
    )
    own = predictor.info.data.get("validation")
    if data is None and held_out.sha256() != own:
        raise ValueError(
            f"{cfg.task.validation} is not the file that {run} was judged on: its examples "
            f"have SHA-256 {held_out.sha256()[:16]}, and those of the run {str(own)[:16]}. "
            "Restore the file, or name it as DATA to judge on it as it is."
        )
    if process.is_first():
        show_reading(task, "judged on", held_out, predictor.outputs, file=sys.stderr)
    _agree(run, held_out.sha256())
    encoded = predictor.encode(held_out)
    return task.scores(predictor.logits(encoded), encoded, held_out, predictor.outputs)


def _agree(run: pathlib.Path, data_sha256: str) -> None:
    """Raises ValueError on all hosts if their runs or data differ."""
    found = {"run.json": file_sha256(run / "run.json"), "data": data_sha256}
    agree("what is evaluated", found)
