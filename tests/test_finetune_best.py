"""A fine-tuning run whose best state is not its last one, with LoRA, and its resume."""

import json

import jax
import pytest
from test_finetune_tasks import encoder, write_files  # noqa: F401

from bert_jax.config import (
    DropoutConfig,
    FinetuneConfig,
    LoopConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
)
from bert_jax.data.json_file import read_json
from bert_jax.train import finetune as finetuning
from bert_jax.train import loop
from bert_jax.train.finetune import finetune
from bert_jax.train.inference.evaluate import evaluate_run
from bert_jax.train.inference.predict import Predictor
from bert_jax.train.initial import load_params
from bert_jax.train.lora import PART
from bert_jax.train.mesh import make_mesh
from bert_jax.train.runs.checkpoint import Checkpoints
from bert_jax.train.runs.run import load_run
from bert_jax.train.stop_request import InterruptedRunError
from bert_jax.train.tasks.task import Judged
from bert_jax.train.tensors import tensors_sha256


@pytest.fixture(scope="module")
def cfg(encoder):  # noqa: F811
    """LoRA on random weights; three epochs of eight steps."""
    folder, pretrained = encoder
    return FinetuneConfig(
        checkpoint=pretrained,
        from_scratch=True,
        task=write_files(folder, "classification"),
        optimizer=OptimizerConfig(learning_rate=5e-3, warmup_steps=0.1, b2=0.98),
        lora=LoraConfig(rank=2),
        loop=LoopConfig(
            log_every_steps=8, eval_every_steps=None, checkpoint_every_steps=3
        ),
        dropout=DropoutConfig(hidden=0.1, attention=0.0),
        sequence_length=16,
        batch_size=32,
        num_epochs=3,
    )


@pytest.fixture(scope="module")
def falling():
    """The accuracy of the second evaluation is the highest, whatever is learned."""
    with pytest.MonkeyPatch.context() as patch:
        judge = finetuning.Judge.__call__
        numbers = {}

        def scores(self, params):
            found = judge(self, params)
            # Equal weights have equal scores, in whichever session.
            key = tensors_sha256(jax.device_get(params))
            number = numbers.setdefault(key, len(numbers))
            return {**found, "accuracy": [0.3, 0.9, 0.5][number]}

        patch.setattr(finetuning.Judge, "__call__", scores)
        yield


@pytest.fixture(scope="module")
def tuned(cfg, encoder, falling):  # noqa: F811
    run = encoder[0] / "lora"
    return run, finetune(cfg, run)


def weights(run):
    """(step, hash of all parameters) of the newest checkpoint and of the best state."""
    manifest = run / "checkpoints/24/manifest/metadata"
    with Checkpoints(run, load_run(run).identity, read_only=True) as newest:
        tensors = json.loads(manifest.read_text())["tensors"]
        shapes = {}
        for name, form in tensors.items():
            item, *keys = name.split("/")
            if item == "params":
                sizes = form.removeprefix("float32[").removesuffix("]").split(",")
                part = shapes
                for key in keys[:-1]:
                    part = part.setdefault(key, {})
                part[keys[-1]] = jax.ShapeDtypeStruct(tuple(map(int, sizes)), "float32")
        last = newest.latest_step(), tensors_sha256(newest.restore_params(shapes))
    best = load_params(run, make_mesh(MeshConfig(), jax.devices()[:1]))
    return last, (best.step, tensors_sha256(best.params)), tensors


def test_the_best_state_is_what_others_take(cfg, tuned):
    run, results = tuned
    assert results == read_json(run / "results.json", "")
    best, last = results["best"], results["last"]
    assert best == {"step": 16, "epoch": 2.0, "metric": "accuracy", "value": 0.9}
    assert (last["step"], last["epoch"], last["value"]) == (24, 3.0, 0.5)
    assert (results["step"], results["eval"]["accuracy"]) == (24, 0.9)
    assert last["eval"]["loss"] != results["eval"]["loss"]

    # Loss and confusion matrix are those of the best weights, not of the last ones.
    predictor = Predictor(run)
    assert predictor.params.keys() == {"embed", "layers", "pooler", "classifier"}
    held_out = predictor.task.read(cfg.task.dev, cfg.task, "validation")
    encoded = predictor.encode(held_out)
    found = predictor.logits(encoded)
    judged = Judged(found, encoded, held_out, predictor.outputs)
    scores = predictor.task.scores(judged)
    # One device here, eight there: sums in another order.
    assert scores["loss"] == pytest.approx(results["eval"]["loss"], rel=1e-4)
    details = predictor.task.details(judged)
    assert details["confusion"] == results["confusion"]
    assert evaluate_run(run, None)["loss"] == pytest.approx(scores["loss"], rel=1e-5)


def test_lora_is_in_the_weights_that_others_take(tuned):
    run, _ = tuned
    (step, _), (best_step, _), tensors = weights(run)
    assert (step, best_step) == (24, 16)
    assert {name.split("/")[1] for name in tensors if name.startswith("params/")} == {
        *("embed", "layers", "pooler", "classifier", PART)
    }
    moments = [name for name in tensors if "/mu/" in name]
    assert all("/lora/" in name or "/classifier/" in name for name in moments)
    best = json.loads((run / "best/16/manifest/metadata").read_text())
    assert not any(PART in name or "opt_state" in name for name in best["tensors"])
    assert best["evaluation"]["accuracy"] == 0.9


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("stop", [2, 11, 16, 21])
def test_it_goes_on_to_the_same_best_and_last_state(
    cfg, tuned, tmp_path, monkeypatch, stop
):
    """Stopped before an evaluation, between one and a checkpoint, and after the best."""
    whole, expected = tuned
    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_must_stop", lambda self: self.done >= stop)
        with pytest.raises(InterruptedRunError):
            finetune(cfg, tmp_path / "run")
    if stop == 2:
        with pytest.raises(ValueError, match="stopped before its first evaluation"):
            Predictor(tmp_path / "run")
    results = finetune(cfg, tmp_path / "run")
    for name in ("best", "last", "eval", "confusion", "step"):
        assert results[name] == expected[name], name
    assert weights(tmp_path / "run") == weights(whole)
