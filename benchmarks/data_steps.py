"""What input costs a training step: waiting for batches, and masking on the device."""

import functools
import itertools
import statistics
import time
from typing import Any, Literal

import jax

from benchmarks.data_rows import prepared_dataset
from benchmarks.data_settings import DataSettings
from benchmarks.measure import Findings
from bert_jax.config import (
    DataConfig,
    LoopConfig,
    MaskingConfig,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.prepared.dataset import PreparedDataset
from bert_jax.family import model_config
from bert_jax.model.masking import mask_tokens
from bert_jax.train.metrics import read_metrics
from bert_jax.train.pretrain import pretrain

# T -> rows of a batch: 4,096 places either way.
_BATCH_SIZES = {128: 32, 512: 8}
_LOG_EVERY_STEPS = 5
_UNITS: tuple[Literal["token", "word", "span"], ...] = ("token", "word", "span")
_MASKS_A_REPETITION = 10


def train_briefly(settings: DataSettings, findings: Findings) -> None:
    """Trains a small model for some steps at both lengths, then times the masks."""
    dataset = prepared_dataset(settings)
    device = jax.devices()[0].device_kind
    for length, batch_size in _BATCH_SIZES.items():
        what = f"BERT-{settings.model}, T={length}, {batch_size} packed rows, {device}"
        cfg = PretrainConfig(
            model=model_config(settings.model, vocab_size=dataset.tokenizer.vocab_size),
            data=DataConfig(dataset=dataset.directory, sequence_length=length),
            optimizer=OptimizerConfig(warmup_steps=1),
            loop=LoopConfig(log_every_steps=_LOG_EVERY_STEPS, eval_every_steps=0),
            batch_size=batch_size,
            num_steps=settings.num_steps,
            eval_batches=1,
        )
        run = settings.workdir / f"run-{length}"
        pretrain(cfg, run)
        windows = [line for line in read_metrics(run) if line["kind"] == "train"]
        seconds = step_seconds(windows)
        findings.figure(f"step, {what}", "s", *seconds)
        findings.figure(
            f"of it waiting for input, T={length}",
            "%",
            *(100.0 * line["input_wait_share"] for line in windows[1:]),
        )
        _time_masks(settings, findings, cfg, dataset, statistics.median(seconds))


def step_seconds(windows: list[dict[str, Any]]) -> list[float]:
    """Seconds of a step in each window of a log but the first, in which it compiles."""
    return [
        (now["elapsed_secs"] - before["elapsed_secs"]) / (now["step"] - before["step"])
        for before, now in itertools.pairwise(windows)
    ]


def _time_masks(
    settings: DataSettings,
    findings: Findings,
    cfg: PretrainConfig,
    dataset: PreparedDataset,
    step: float,
) -> None:
    """`mask_tokens` alone, compiled, on a batch of the run; as a share of its step."""
    length = cfg.data.sequence_length
    batch = jax.device_put(
        open_rows(dataset, "train", cfg.data, seed=cfg.seed).batch(0, cfg.batch_size)
    )
    vocabulary = dataset.tokenizer.mask_vocabulary
    for unit in _UNITS:
        mask = jax.jit(
            functools.partial(mask_tokens, MaskingConfig(unit=unit)), static_argnums=1
        )
        seconds = []
        for number in range(settings.repetitions + 1):
            key = jax.random.key(number)
            started = time.perf_counter()
            for _ in range(_MASKS_A_REPETITION):
                jax.block_until_ready(mask(batch, vocabulary, key))
            seconds.append((time.perf_counter() - started) / _MASKS_A_REPETITION)
        # The first one compiles.
        what = f"masking by {unit}, T={length}"
        findings.figure(what, "ms", *(1e3 * x for x in seconds[1:]))
        findings.figure(f"of it {what}", "%", *(100.0 * x / step for x in seconds[1:]))
