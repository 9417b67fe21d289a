"""`--checkpoint` brings its architecture, says so, and lets no flag be ignored."""

import dataclasses
import re

import pytest
from prepared_corpus import other_tokenizer

from bert_jax import cli
from bert_jax.commands.architecture import take_architecture
from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
)
from bert_jax.train.run import RunInfo, start_run

CONFIG_FILE = """
from bert_jax.config import DataConfig, ModelConfig, PretrainConfig


def get_config():
    return PretrainConfig(
        model=ModelConfig(num_layers=2, gelu="tanh", max_positions=64),
        data=DataConfig(sequence_length=32),
    )
"""
IN_FILE = ModelConfig(num_layers=2, gelu="tanh", max_positions=64)
TRAINED = dataclasses.replace(IN_FILE, num_layers=4, gelu="exact", max_positions=32)


def begun(folder, kind="pretrain"):
    config = PretrainConfig() if kind == "pretrain" else FinetuneConfig()
    tokenizer = other_tokenizer()
    info = RunInfo(kind=kind, model=TRAINED, tokenizer_sha256=tokenizer.sha256, data={})
    start_run(folder, config, info, tokenizer)
    return folder


@pytest.fixture
def run(tmp_path):
    """A pretraining run with the architecture `TRAINED`."""
    return begun(tmp_path / "run")


@pytest.fixture
def parse(run, tmp_path):
    """parse(flags) -> the settings of `bert-jax pretrain` that starts from the run."""
    file = tmp_path / "config.py"
    file.write_text(CONFIG_FILE)

    def parse(*flags: str) -> PretrainConfig:
        args = [str(file), "--output", "new", "--checkpoint", str(run), *flags]
        return cli.parse("pretrain", args).settings

    return parse


def config(run, model=IN_FILE, **changes):
    data = changes.pop("data", DataConfig(sequence_length=32))
    return PretrainConfig(model=model, data=data, checkpoint=run, **changes)


def test_it_says_what_it_takes(run, capsys):
    cfg = config(run)
    taken = take_architecture(cfg, IN_FILE)
    assert taken == dataclasses.replace(cfg, model=TRAINED)
    assert capsys.readouterr().out == (
        f"architecture of {run}: num_layers=4 (the config says 2), max_positions=32 "
        "(the config says 64), gelu='exact' (the config says 'tanh')\n"
    )


def test_it_says_nothing_where_nothing_changes(run, capsys):
    cfg = config(run, TRAINED)
    assert take_architecture(cfg, TRAINED) == cfg
    assert capsys.readouterr().out == ""


def test_it_takes_nothing_else_from_the_checkpoint(run):
    compute, dropout = ComputeConfig(remat="full"), DropoutConfig(hidden=0.3)
    cfg = config(run, compute=compute, dropout=dropout, seed=5)
    taken = take_architecture(cfg, IN_FILE)
    assert (taken.compute, taken.dropout, taken.seed) == (compute, dropout, 5)


def test_a_flag_that_would_be_ignored_is_refused(run):
    asked = dataclasses.replace(IN_FILE, num_layers=3)
    message = (
        f"--model.num-layers 3 would be ignored: the checkpoint {run} has num_layers=4, "
        "and a run takes over the architecture of the checkpoint that it starts from. "
        "Leave --model.num-layers out."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        take_architecture(config(run, asked), IN_FILE)


def test_a_flag_that_says_what_the_checkpoint_has_is_welcome(run):
    asked = dataclasses.replace(IN_FILE, num_layers=4)
    assert take_architecture(config(run, asked), IN_FILE).model == TRAINED


def test_settings_that_do_not_fit_the_architecture_are_refused(run):
    cfg = config(run, data=DataConfig(sequence_length=64))
    with pytest.raises(ValueError, match=r"sequence_length=64 exceeds .*positions=32"):
        take_architecture(cfg, IN_FILE)


@pytest.mark.parametrize("kind", ["finetune", None])
def test_only_a_pretraining_run_has_it(tmp_path, kind):
    folder = tmp_path / "other"
    if kind is not None:
        begun(folder, kind)
    with pytest.raises((ValueError, FileNotFoundError), match=r"expected (a|one)"):
        take_architecture(config(folder), IN_FILE)


def test_the_command_line_takes_it(parse, capsys):
    settings = parse("--compute.remat", "dots", "--dropout.hidden", "0.2")
    assert settings.model == TRAINED
    assert settings.compute == ComputeConfig(remat="dots")
    assert settings.dropout == DropoutConfig(hidden=0.2)
    assert "num_layers=4 (the config says 2)" in capsys.readouterr().out


def test_the_command_line_refuses_an_ignored_flag(parse):
    with pytest.raises(ValueError, match=r"--model.num-layers 3 would be ignored"):
        parse("--model.num-layers", "3")
