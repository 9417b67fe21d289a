"""What a run takes from a checkpoint and a dataset is said, and no flag is ignored."""

import dataclasses
import re

import pytest
from prepared_corpus import other_tokenizer

from bert_jax import cli
from bert_jax.commands.settled import settle, settled
from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    FinetuneConfig,
    ModelConfig,
    PhaseConfig,
    PretrainConfig,
)
from bert_jax.train.runs.run import RunInfo
from bert_jax.train.runs.run_start import start_run

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


FILE = PretrainConfig(model=IN_FILE, data=DataConfig(sequence_length=32))


def settings_of(command, args):
    """What the command runs with, from the command line."""
    return settled(cli.parse(command, args))


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
        return settings_of("pretrain", args)

    return parse


def config(run, model=IN_FILE, **changes):
    data = changes.pop("data", DataConfig(sequence_length=32))
    return PretrainConfig(model=model, data=data, checkpoint=run, **changes)


def test_it_says_what_it_takes(run, capsys):
    cfg = config(run)
    taken = settle(cfg, FILE, ())
    assert taken == dataclasses.replace(cfg, model=TRAINED)
    assert capsys.readouterr().out == (
        f"architecture of {run}: num_layers=4 (the config says 2), max_positions=32 "
        "(the config says 64), gelu='exact' (the config says 'tanh')\n"
    )


def test_it_says_nothing_where_nothing_changes(run, capsys):
    cfg = config(run, TRAINED)
    assert settle(cfg, cfg, ()) == cfg
    assert capsys.readouterr().out == ""


def test_it_takes_nothing_else_from_the_checkpoint(run):
    compute, dropout = ComputeConfig(remat="full"), DropoutConfig(hidden=0.3)
    cfg = config(run, compute=compute, dropout=dropout, seed=5)
    taken = settle(cfg, FILE, ())
    assert (taken.compute, taken.dropout, taken.seed) == (compute, dropout, 5)


def test_positions_may_be_extended(run, capsys):
    asked = dataclasses.replace(IN_FILE, max_positions=128)
    taken = settle(config(run, asked), FILE, ("--model.max-positions", "128"))
    assert taken.model == dataclasses.replace(TRAINED, max_positions=128)
    assert "max_positions=128 (the checkpoint has 32)" in capsys.readouterr().out


def test_a_flag_that_would_be_ignored_is_refused(run):
    asked = dataclasses.replace(IN_FILE, num_layers=3)
    message = (
        f"--model.num-layers 3 would be ignored: the checkpoint {run} has num_layers=4, "
        "and a run takes over the architecture of the checkpoint that it starts from. "
        "Leave --model.num-layers out."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        settle(config(run, asked), FILE, ())


def test_a_flag_that_says_what_the_checkpoint_has_is_welcome(run):
    asked = dataclasses.replace(IN_FILE, num_layers=4)
    assert settle(config(run, asked), FILE, ()).model == TRAINED


def test_settings_that_do_not_fit_the_architecture_are_refused(run):
    cfg = config(run, data=DataConfig(sequence_length=64))
    with pytest.raises(ValueError, match=r"sequence_length=64 exceeds .*positions=32"):
        settle(cfg, FILE, ())


@pytest.mark.parametrize("kind", ["finetune", None])
def test_only_a_pretraining_run_has_it(tmp_path, kind):
    folder = tmp_path / "other"
    if kind is not None:
        begun(folder, kind)
    with pytest.raises((ValueError, FileNotFoundError), match=r"expected (a|one)"):
        settle(config(folder), FILE, ())


def test_the_command_line_takes_it(parse, capsys):
    settings = parse("--compute.remat", "dots", "--dropout.hidden", "0.2")
    assert settings.model == TRAINED
    assert settings.compute == ComputeConfig(remat="dots")
    assert settings.dropout == DropoutConfig(hidden=0.2)
    assert "num_layers=4 (the config says 2)" in capsys.readouterr().out


def test_the_command_line_refuses_an_ignored_flag(parse):
    with pytest.raises(ValueError, match=r"--model.num-layers 3 would be ignored"):
        parse("--model.num-layers", "3")


def test_rows_may_be_as_long_as_the_checkpoint_allows(run, tmp_path):
    """The config's own rows need not fit: flags and the checkpoint decide."""
    file = tmp_path / "long.py"
    file.write_text(CONFIG_FILE.replace("sequence_length=32", "sequence_length=64"))
    args = [str(file), "--output", "new", "--checkpoint", str(run)]
    settings = settings_of("pretrain", [*args, "--data.sequence-length", "32"])
    assert settings.model.max_positions == settings.data.sequence_length == 32
    with pytest.raises(ValueError, match=r"sequence_length=64 exceeds .*positions=32"):
        settings_of("pretrain", args)


@pytest.mark.parametrize("command", ["pretrain", "compile"])
def test_the_dataset_decides_the_vocabulary(dataset, command, capsys):
    where = ("--output", "new") if command == "pretrain" else ("--topology", "cpu:1")
    args = ["bert_tiny", *where, "--data.dataset", str(dataset)]
    assert settings_of(command, args).model.vocab_size == 44
    assert "vocabulary: 44 pieces, from the tokenizer of" in capsys.readouterr().out
    for flag in ("--model.vocab-size", "--model.vocab_size"):
        asked = settings_of(command, [*args, flag, "30522"])
        assert asked.model.vocab_size == 30_522  # refused where the dataset is read
    assert capsys.readouterr().out == ""


PHASES = """
from bert_jax.config import PhaseConfig, PretrainConfig


def get_config():
    return PretrainConfig(next_phases=(PhaseConfig(num_steps=70, sequence_length=512),))
"""


def test_later_phases_are_never_trained_unnoticed(tmp_path):
    file = tmp_path / "phases.py"
    file.write_text(PHASES)
    args = [str(file), "--output", "new"]
    assert settings_of("pretrain", args).next_phases
    with pytest.raises(
        ValueError, match=r"goes on with 70 steps of 512 .*--first-phase"
    ):
        settings_of("pretrain", [*args, "--num-steps", "200"])
    with pytest.raises(ValueError, match="sets the first phase only"):
        settings_of("pretrain", [*args, "--num_steps=200"])
    short = [*args, "--num-steps", "200", "--first-phase-only"]
    settings = settings_of("pretrain", short)
    assert (settings.num_steps, settings.next_phases) == (200, ())
    both = [*args, "--num-steps", "200", "--next-phases.0.num-steps", "9"]
    settings = settings_of("pretrain", both)
    assert (settings.num_steps, settings.next_phases) == (
        200,
        (PhaseConfig(num_steps=9, sequence_length=512),),
    )


def test_small_models_need_no_flag_for_phases_set_aside(tmp_path):
    small = ["--model.max-positions", "64", "--data.sequence-length", "64"]
    args = ["bert_base", "--output", "new", *small]
    with pytest.raises(ValueError, match=r"next_phases\[0\]: .*sequence_length=512"):
        settings_of("pretrain", args)
    settings = settings_of("pretrain", [*args, "--first-phase-only"])
    assert settings.model.max_positions == 64
    # A shorter run of a shipped config warms up for the same share of its steps.
    short = [*args, "--first-phase-only", "--num-steps", "300"]
    settings = settings_of("pretrain", short)
    assert settings.optimizer.warmup_updates(settings.num_steps) == 3
