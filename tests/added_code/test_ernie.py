"""ERNIE, a family: models of transformers are read, and computed as they are there."""

import family_models
import numpy as np
import pytest
from huggingface_models import PIECES, save_tokenizer

from bert_jax import cli
from bert_jax.exchange.families.registry import FAMILIES, family_of_model
from bert_jax.exchange.read_huggingface import read_huggingface


@pytest.fixture(scope="module")
def ernie(hf):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(family_models.OWN, "ernie", {})
        made = family_models.make("ernie", "mlm", vocab=len(PIECES), layers=2)
    assert type(made.model).__name__ == "ErnieForMaskedLM"
    return made


def test_its_logits_are_those_of_transformers(ernie):
    """1e-5 as for every other family in test_families."""
    worst = family_models.differences(ernie, "ernie", "mlm", 40)
    assert max(worst.values()) <= 1e-5, worst


@pytest.fixture(scope="module")
def folder(ernie, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ernie")
    ernie.model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def test_its_directory_is_read(ernie, folder):
    source = read_huggingface(folder)
    assert (source.model, source.head) == (ernie.cfg, "pretraining")
    assert source.tensors.keys() == ernie.tensors.keys()
    assert source.tokenizer.vocab_size == len(PIECES)
    assert family_of_model(source.model) is FAMILIES["bert"], "exports write a BERT"


@pytest.mark.slow
def test_import_and_export_keep_its_logits(ernie, folder, hf, tmp_path):
    cli.main(["import", str(folder), "--output", str(tmp_path / "run")])
    cli.main(["export", str(tmp_path / "run"), "--output", str(tmp_path / "back")])
    again = hf.AutoModelForMaskedLM.from_pretrained(tmp_path / "back").eval()
    assert type(again).__name__ == "BertForMaskedLM"
    given = family_models.rows(ernie.cfg, 40)
    ours, theirs = (
        family_models.theirs_of(model, "mlm", given, ernie.cfg)["logits"]
        for model in (again, ernie.model)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
