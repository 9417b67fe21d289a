"""What tests of sweeps share: settings of short runs, and runs without training."""

import numpy as np
import pytest
from bare_runs import bare_run
from prepared_corpus import WORDS

from bert_jax.config import (
    FinetuneConfig,
    LoopConfig,
    OptimizerConfig,
    SweepConfig,
    TaskConfig,
)
from bert_jax.train import finetune as finetuning
from bert_jax.train.monitoring.metrics import WAY_OUT, NotFiniteError
from bert_jax.train.runs.results_file import load_results
from bert_jax.train.runs.run import load_run, load_run_tokenizer


@pytest.fixture(scope="module", name="base")
def base_settings(tmp_path_factory):
    """Settings of short runs on short and long texts, from random weights."""
    folder = tmp_path_factory.mktemp("sweep")
    checkpoint = bare_run(folder)
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("dev", 24)):
        rows = [rng.choice(WORDS, n) for n in rng.choice([2, 10], count)]
        lines = [f"{' '.join(row)}\t{row[0] < 'n'}\n" for row in rows]
        (folder / f"{name}.tsv").write_text(f"text\tlabel\n{''.join(lines)}")
    return FinetuneConfig(
        checkpoint=checkpoint,
        from_scratch=True,
        task=TaskConfig(train=folder / "train.tsv", dev=folder / "dev.tsv"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0.1),
        loop=LoopConfig(log_every_steps=2, eval_every_steps=0),
        sequence_length=48,
        batch_size=8,
        num_epochs=1,
    )


@pytest.fixture(name="quick")
def quick_runs(monkeypatch):
    """Runs that are begun and finished as always, with random answers in place of training."""

    def answers(cfg, run, data, keep_weights=True):
        mesh = finetuning.make_mesh(cfg.mesh)
        model = load_run(cfg.checkpoint).model
        tokenizer = load_run_tokenizer(cfg.checkpoint)
        finetuning.begin_run(cfg, run, data, model, tokenizer, mesh)
        if finished := load_results(run):
            return finished
        if cfg.optimizer.learning_rate > 1:
            raise NotFiniteError(f"loss is nan before step 5. {WAY_OUT}")
        rng = np.random.default_rng((cfg.seed, len(data.train)))
        ids = data.held_out_rows.input_ids
        shapes = {
            "choice": ids.shape[:2],
            "embeddings": (*ids.shape[:2], 4),
            "spans": (*ids.shape, 2),
        }
        of_texts = len(ids), len(data.outputs)
        logits = rng.normal(size=shapes.get(data.task.name, of_texts))
        judged = data.judged(logits)
        scores = data.task.scores(judged)
        return finetuning.finish_run(
            cfg, run, data, judged, step=5, evaluation=scores, elapsed_secs=1.0
        )

    monkeypatch.setattr("bert_jax.train.sweeps.sweep.finetune", answers)


GRID = SweepConfig(seeds=(0, 1), learning_rates=(1e-3, 5e-3), at_once=4)
