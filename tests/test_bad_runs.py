"""Bad numbers in runs of the command line: exit codes, replaying, going on otherwise."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_pretraining import one_device, pretrain, pretrain_args  # noqa: F401
from test_finetune_tasks import encoder, write_files  # noqa: F401

from bert_jax import cli
from bert_jax.config import (
    DataConfig,
    FinetuneConfig,
    LoopConfig,
    LoraConfig,
    OptimizerConfig,
)
from bert_jax.data.batches.documents import documents_of_batch
from bert_jax.data.batches.rows import open_rows
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.report.provenance import origin
from bert_jax.report.runs import read_run
from bert_jax.train import finetune as finetuning
from bert_jax.train import pretrain as pretraining
from bert_jax.train.monitoring.metrics import NotFiniteError, read_metrics

ONE_OVERFLOW = ("--num-steps", 1, "--optimizer.learning-rate", 3e38)


@pytest.mark.slow(ci=False)
def test_one_update_that_overflows_is_an_error(tmp_path, dataset, refused):
    flags = (*ONE_OVERFLOW, "--loop.max-rollbacks", 0)
    said = refused(*pretrain_args(tmp_path, *flags, dataset=dataset))
    assert "A weight or a moment is NaN or infinite at step 1. This state was" in said
    assert "--resume-with optimizer.learning-rate=RATE" in said
    assert not (tmp_path / "results.json").exists()


@pytest.mark.slow(ci=False)
def test_a_run_goes_back_once_and_then_on_with_another_rate(tmp_path, dataset, capsys):
    run = tmp_path / "run"
    flags = (*ONE_OVERFLOW, "--loop.max-rollbacks", 1)
    with pytest.raises(SystemExit) as error:
        pretrain(run, *flags, dataset=dataset)
    assert error.value.code == 1
    said = capsys.readouterr().out
    assert "going back: step 1: A weight or a moment is NaN or infinite" in said
    other_rate = ("--resume-with", "optimizer.learning-rate=1e-3")
    pretrain(run, *flags, *other_rate, dataset=dataset)
    assert json.loads((run / "results.json").read_text())["step"] == 1
    assert read_metrics(run)[-2]["learning_rate"] == pytest.approx(1e-3)
    lines, _ = origin(read_run(run, "pretrain"), None)
    assert "from step 0 on: optimizer.learning_rate=0.001 (--resume-with)" in lines
    pretrain(run, *flags, dataset=dataset)
    assert "is finished at step 1; nothing to do" in capsys.readouterr().out


@pytest.mark.slow(ci=False)
def test_a_run_that_stops_is_replayed(tmp_path, dataset, capsys, refused, monkeypatch):
    """Huge weights make activations overflow."""
    make = pretraining.pretrain_program

    @jax.jit
    def spoiled(state):
        params = jax.tree.map(lambda x: x, state.params)
        up = params["layers"]["mlp"]["up"]
        up["kernel"] = jnp.where(up["kernel"] > 0, 3e38, -3e38)
        return dataclasses.replace(state, params=params)

    def spoiling(*args):
        program = make(*args)

        def step(state, batch):
            state, metrics = program.step(state, batch)
            return (spoiled(state) if int(state.step) == 3 else state), metrics

        return program._replace(step=step)

    monkeypatch.setattr(pretraining, "pretrain_program", spoiling)
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        cli.main(["--debug", "replay", str(run)])
    with pytest.raises(SystemExit) as error:
        pretrain(run, "--num-steps", 8, "--loop.max-rollbacks", 0, dataset=dataset)
    assert error.value.code == 1
    said = capsys.readouterr()
    diagnosis = (
        "the first activations that are not are the inner feed-forward activations"
    )
    assert "stopped before batch 3: 3 updates in a row were skipped" in said.err
    assert f"{diagnosis} of layer 1: " in said.err
    skipped = [line for line in read_metrics(run) if line["kind"] == "skipped"]
    assert skipped == []  # it has gone back to the beginning, to find out
    with np.load(run / "bad_step" / "batch.npz") as arrays:
        assert arrays["input_ids"].shape == (8, 16)
    cli.main(["replay", str(run)])
    replayed = capsys.readouterr().out
    assert replayed.startswith(
        f"batch 3 of {run}: Forward, weights and moments are finite"
    )
    assert replayed.strip().partition(": ")[2] in said.err
    (run / "bad_step" / "batch.npz").write_bytes(b"PK")
    assert "batch.npz is damaged" in refused("replay", run)


@pytest.mark.parametrize("layout", ["packed", "buckets"])
def test_the_documents_of_a_batch_are_those_that_its_text_is_from(dataset, layout):
    opened = open_dataset(dataset)
    cfg = DataConfig(sequence_length=32, layout=layout)
    rows = open_rows(opened, "train", cfg, seed=0, batch_size=8)
    found = documents_of_batch([opened], rows, 3, batch_size=8)["documents"]
    batch = rows.batch_of_step(3, batch_size=8)
    keys = opened.document_keys(
        "train", list(range(rows.store.document_starts.size - 1))
    )
    assert set(found) < set(keys)
    bounds = rows.store.sentence_starts[rows.store.document_starts]
    texts = {
        key: " ".join(map(str, rows.store.tokens[start:end]))
        for key, start, end in zip(keys, bounds[:-1], bounds[1:], strict=True)
    }
    for row in range(8):
        first = batch.sequence_ids[row] == 1
        part = batch.input_ids[row][first & (batch.segment_ids[row] == 0)][1:-1]
        text = " ".join(map(str, part))
        assert any(text in texts[key] for key in found)


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize(
    "optimizer",
    [
        # It warms up for longer than it has trained.
        OptimizerConfig(warmup_steps=8),
        OptimizerConfig(schedule="trapezoidal", warmup_steps=0.1, decay_steps=0.9),
    ],
    ids=lambda cfg: cfg.schedule,
)
def test_a_fine_tuning_that_stops_is_replayed(
    encoder,  # noqa: F811
    capsys,
    monkeypatch,
    optimizer,
):
    """The first matrix of LoRA is lost in the second update."""
    folder, pretrained = encoder
    compile_step = finetuning.compile_step

    @jax.jit
    def spoiled(state):
        params = jax.tree.map(lambda x: x, state.params)
        first = params["lora"]["attention"]["query"]
        first["a"] = first["a"] * jnp.inf
        return dataclasses.replace(state, params=params)

    def spoiling(*args, **options):
        made = compile_step(*args, **options)

        def step(state, batch):
            state, metrics = made(state, batch)
            return (spoiled(state) if int(state.step) == 2 else state), metrics

        return step

    monkeypatch.setattr(finetuning, "compile_step", spoiling)
    cfg = FinetuneConfig(
        checkpoint=pretrained,
        from_scratch=True,
        task=write_files(folder, "classification"),
        lora=LoraConfig(rank=2),
        optimizer=optimizer,
        loop=LoopConfig(log_every_steps=8, max_rollbacks=0),
        sequence_length=16,
        batch_size=32,
        num_epochs=2,
    )
    run = folder / f"spoiled-{optimizer.schedule}"
    with pytest.raises(NotFiniteError) as error:
        finetuning.finetune(cfg, run)
    said = "the first is lora/attention/query/a of layer 1 ("
    assert "Before the step, " in str(error.value)
    assert said in str(error.value)
    cli.main(["replay", str(run)])
    assert said in capsys.readouterr().out
