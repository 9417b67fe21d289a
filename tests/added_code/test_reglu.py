"""ReGLU, an encoder variant: its numbers, a run, and the exports of that."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import reference
from jax.sharding import PartitionSpec
from prepared_corpus import make_corpus, prepared
from small_pretraining import SMALL, one_device  # noqa: F401
from test_extending import PAGE
from test_model import HIDDEN, MLM, apply

from bert_jax import cli
from bert_jax.exchange.families.registry import family_of_model
from bert_jax.model import pretraining
from bert_jax.train.monitoring.metrics import read_metrics
from bert_jax.train.runs.run import load_run
from bert_jax.train.sharding import param_specs


def test_it_computes_what_numpy_computes(tiny, make_batch, make_masked, monkeypatch):
    cfg = dataclasses.replace(tiny, mlp="reglu", num_layers=2)
    shapes = reference.pretrain_shapes(cfg)
    shapes["layers"]["mlp"]["gate"] = shapes["layers"]["mlp"]["up"]
    params, batch = reference.random_params(shapes), make_batch(rows=2)
    masked = make_masked(batch)
    found = apply(cfg, params, batch, masked)

    def relu_or_gate(x: np.ndarray, kind: str) -> np.ndarray:
        if x.shape[-1] != 2 * cfg.mlp_size:  # in the masked-LM head
            return np.maximum(x, 0.0)
        gate, up = np.split(x, 2, axis=-1)
        return np.maximum(gate, 0.0) * up

    # The reference multiplies once, so both halves of a layer are one matrix for it.
    monkeypatch.setattr(reference, "gelu", relu_or_gate)
    mlp = params["layers"]["mlp"]
    gate, up = mlp.pop("gate"), mlp["up"]
    mlp["up"] = {name: np.concatenate([gate[name], up[name]], axis=-1) for name in up}
    expected = reference.pretrain(cfg, params, batch, masked)
    real = batch.sequence_ids > 0
    logits = found.mlm_logits[..., : cfg.vocab_size]
    np.testing.assert_allclose(
        found.hidden[real], expected.hidden[real], atol=HIDDEN, rtol=0
    )
    np.testing.assert_allclose(logits, expected.mlm_logits, atol=MLM, rtol=0)


def test_the_sharding_table_takes_it(tiny):
    cfg = dataclasses.replace(tiny, mlp="reglu")
    init = jax.eval_shape(lambda: pretraining.init_params(cfg, jax.random.key(0)))
    kernel = param_specs(init)["layers"]["mlp"]["gate"]["kernel"]
    assert kernel == PartitionSpec(None, "fsdp", "tensor")


def test_families_refuse_it_with_the_sentence_of_the_page(tiny):
    with pytest.raises(ValueError, match="No family") as refusal:
        family_of_model(dataclasses.replace(tiny, mlp="reglu"))
    [sentence] = re.findall(r"^> (No family.+)$", PAGE.read_text("utf-8"), re.M)
    first, last = sentence.split(" … ")
    assert str(refusal.value).startswith(first)
    assert str(refusal.value).endswith(last)


@pytest.mark.slow
def test_a_run_trains_keeps_it_and_goes_to_stablehlo_alone(tmp_path, capsys):
    prepared(make_corpus(tmp_path), tmp_path / "dataset")
    run, dataset = tmp_path / "run", ("--data.dataset", tmp_path / "dataset")
    flags = (*dataset, "--output", run, *SMALL, "--model.mlp", "reglu")
    cli.main([*map(str, ("pretrain", *flags, "--num-steps", 8))])
    assert load_run(run).model.mlp == "reglu"
    first, *_, last = (x for x in read_metrics(run) if x["kind"] == "eval")
    assert last["mlm_loss"] < first["mlm_loss"]
    program = tmp_path / "stablehlo"
    cli.main(["export", str(run), "--to", "stablehlo", "--output", str(program)])
    assert (program / "run.py").is_file()
    with pytest.raises(SystemExit):
        cli.main(["export", str(run), "--output", str(tmp_path / "theirs")])
    assert "No family of transformers computes this" in capsys.readouterr().err
