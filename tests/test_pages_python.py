"""Every block of Python in the README and in docs/ runs, where its page says that it does."""

import pathlib
import re

import pytest
from exchange_models import make_tokenizer
from prepared_corpus import make_corpus, prepared
from random_runs import random_run
from test_command_lines import PAGES, ROOT

import bert_jax
from bert_jax import config

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
WITH_PYTHON = [page for page in PAGES if _BLOCK.search(page.read_text("utf-8"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """What the pages name: an encoder, a run of fine-tuning from it, and a dataset."""
    folder, tokenizer = tmp_path_factory.mktemp("pages"), make_tokenizer("wordpiece")
    random_run(folder / "encoder", tokenizer)
    random_run(folder / "sentiment", tokenizer, "classification")
    prepared(make_corpus(folder), folder / "dataset")
    return folder


@pytest.mark.parametrize(
    "page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_python_of_a_page_runs(page, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    called = []
    for name in ("prepare", "pretrain", "finetune"):  # they take minutes
        result = {"eval": {"mlm_loss": 0.0}}
        monkeypatch.setattr(
            bert_jax, name, lambda *args, r=result: called.append(args) or r
        )
    # A block may be an excerpt from a config file, whose imports stand above it.
    names = {name: getattr(config, name) for name in config.__all__}
    for number, block in enumerate(_BLOCK.findall(page.read_text("utf-8"))):
        code = compile(block, f"{page.name}, block {number}", "exec")
        exec(code, names | {"__name__": "__main__"})
    if page.name == "python.md":
        assert len(called) == 3
        # BERT-base with 256 rows a step needs more memory than most machines have.
        assert called[1][0].model.hidden_size * called[1][0].batch_size <= 128 * 32
        losses = re.findall(r"^\d0? ([\d.]+)$", capsys.readouterr().out, re.M)
        assert float(losses[-1]) < float(losses[0]) - 0.1  # the loop of the page learns
