"""Rows that speed is measured on, the peers' work on them, and the check before it."""

import jax
import numpy as np
import pytest

from benchmarks import correctness
from benchmarks.correctness_rows import changed, packed_rows, unpacked
from benchmarks.measure import Findings, read_findings
from benchmarks.peers import MissingPeerError
from benchmarks.run_settings import RunSettings
from benchmarks.train_models import Task, mask_rows, synthetic_batch, work_of
from benchmarks.train_worker import check_loss
from bert_jax.exchange.families.bert import BERT
from bert_jax.exchange.tensors import to_tensors
from bert_jax.model.masking import MaskedBatch
from bert_jax.train.flops import pretrain_work

SMALL = Task(size="test", length=32, packed=True, pairs_per_row=4, vocab_size=61)


def test_packed_rows_have_the_mean_length_of_mlperf():
    task = Task(size="large", length=512, packed=True)
    for rows in (16, 64):
        batch = synthetic_batch(task, rows)
        work = work_of(batch)
        assert work.tokens / work.sequences == pytest.approx(254.0, abs=2.0)
        assert work.tokens / batch.input_ids.size > 0.97
    again = synthetic_batch(task, 64)
    np.testing.assert_array_equal(batch.input_ids, again.input_ids)


@pytest.mark.parametrize("packed", [True, False])
def test_work_is_what_training_counts(packed):
    task = Task(size="base", length=128, packed=packed)
    batch = synthetic_batch(task, 6)
    counted = pretrain_work(batch, mask_rows(task, batch).weights)
    assert work_of(batch) == tuple(map(float, counted))


def test_unpacked_rows_are_the_same_sequences():
    rows = packed_rows(SMALL, 5)
    alone = unpacked(rows)
    assert len(alone.origin) == rows.batch.nsp_weights.sum() > 5
    tokens = [
        ids[real > 0].tolist()
        for ids, real in zip(
            alone.masked.input_ids, alone.batch.sequence_ids, strict=True
        )
    ]
    whole = [
        rows.masked.input_ids[b][rows.batch.sequence_ids[b] == p + 1].tolist()
        for b, p in alone.origin
    ]
    assert tokens == whole
    assert alone.masked.weights.sum() == rows.masked.weights.sum()
    used = alone.masked.weights > 0
    hidden = np.take_along_axis(alone.batch.input_ids, alone.masked.positions, axis=1)
    np.testing.assert_array_equal(hidden[used], alone.masked.labels[used])


def test_a_change_is_of_one_sequence():
    rows = packed_rows(SMALL, 5)
    moved = changed(rows).masked.input_ids != rows.masked.input_ids
    assert (rows.batch.sequence_ids[moved] == 1).all()
    assert moved.any(axis=1).all()


def test_an_untrained_model_has_the_loss_of_guessing():
    check_loss(np.log(61) + np.log(2) + 0.1, 61)
    for wrong in (0.0, 9.0, float("nan")):
        with pytest.raises(ValueError, match="untrained"):
            check_loss(wrong, 61)


@pytest.fixture(scope="module")
def params():
    return correctness._random_params(SMALL.model())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_peers_loss_is_ours(params, transformers, attention):
    """Packed rows through the gathered head; by row, also the library's own loss."""
    import torch

    from benchmarks.train_torch import (
        bert_config,
        gathered_loss,
        inputs_of,
        library_loss,
    )

    model = transformers.BertForPreTraining(bert_config(SMALL, attention)).eval()
    tensors = to_tensors(SMALL.model(), params, BERT.rows(SMALL.model(), "pretraining"))
    model.load_state_dict(
        {name: torch.from_numpy(x.copy()) for name, x in tensors.items()}, strict=False
    )
    cfg = SMALL.model()
    for packed in (True, False):
        task = Task(**{**vars(SMALL), "packed": packed})
        batch = synthetic_batch(task, 3)
        masked = MaskedBatch(*mask_rows(task, batch))
        (ours, _), _ = jax.jit(correctness._compute, static_argnums=0)(
            cfg, params, batch, masked
        )
        inputs = inputs_of(task, 3, torch.device("cpu"))
        if packed and attention == "eager":
            # Added to the scores there: the lowest number is no weight.
            mask = inputs["attention_mask"]
            inputs["attention_mask"] = torch.where(mask, 0.0, -1e9)
        losses = [gathered_loss] if packed else [gathered_loss, library_loss]
        for loss in losses:
            # As test_parity_torch: both round float32 sums.
            assert loss(model, inputs).item() == pytest.approx(float(ours), rel=1e-6)


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """checked() -> figures and left out of `correctness.check` on a small model."""
    monkeypatch.setattr(correctness, "_TASK", SMALL)
    monkeypatch.setattr(correctness, "_LENGTHS", (32,))

    def run():
        path = tmp_path / "findings.jsonl"
        settings = RunSettings(
            workdir=tmp_path, platform="cpu", device_kind="cpu", memory_bytes=0.0
        )
        with Findings(path) as findings:
            correctness.check(settings, findings)
        return read_findings(path)

    return run


def test_training_is_correct_here(checked, transformers):
    figures, left_out = checked()
    assert not left_out
    assert all(figure.met for figure in figures)
    assert len(figures) == 11


def test_a_missing_peer_is_named(checked, monkeypatch):
    def missing(*modules):
        raise MissingPeerError("torch is not installed")

    monkeypatch.setattr(correctness, "require", missing)
    monkeypatch.setattr(correctness, "_compare_packed", lambda *args: None)
    figures, left_out = checked()
    assert len(figures) == 1
    assert left_out == [
        "ours against PyTorch: MissingPeerError: torch is not installed"
    ]


def test_a_wrong_model_is_found(checked, transformers, monkeypatch):
    honest = correctness._run

    def wrong(cfg, params, rows):
        computed = honest(cfg, params, rows)
        if rows.origin:  # sequences alone
            return computed
        return computed._replace(mlm_logits=computed.mlm_logits * 1.001)

    monkeypatch.setattr(correctness, "_run", wrong)
    missed = [f.what for f in checked()[0] if f.met is False]
    assert len(missed) == 1
    assert "packed and unpacked: logits" in missed[0]
