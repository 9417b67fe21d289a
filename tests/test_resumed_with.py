"""`--resume-with`: settings that a run changes on its way, and those that it may not."""

import dataclasses

import pytest
from prepared_corpus import other_tokenizer

from bert_jax.config import OptimizerConfig, PhaseConfig, PretrainConfig
from bert_jax.train.runs import checkpoint_recovery
from bert_jax.train.runs.history import Change, add_event
from bert_jax.train.runs.resumed_with import resumed_with
from bert_jax.train.runs.run import RunInfo
from bert_jax.train.runs.run_start import start_run

CONFIG = PretrainConfig(num_steps=1_000, next_phases=(PhaseConfig(num_steps=100),))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that has a checkpoint of step 40; one with a file in it counts as damaged."""
    monkeypatch.setattr(
        checkpoint_recovery,
        "damage_of",
        lambda path: "x" if list(path.iterdir()) else None,
    )
    tokenizer = other_tokenizer()
    info = RunInfo(
        kind="pretrain", model=CONFIG.model, tokenizer_sha256=tokenizer.sha256, data={}
    )
    start_run(tmp_path / "run", CONFIG, info, tokenizer)
    (tmp_path / "run" / "checkpoints" / "40").mkdir(parents=True)
    return tmp_path / "run"


def test_a_change_holds_until_the_next_one_and_the_first_command_is_understood(
    run, capsys
):
    asked = ("optimizer.learning-rate=5e-05", "--optimizer.schedule=constant")
    cfg, change = resumed_with(CONFIG, run, asked)
    expected = {"optimizer.learning_rate": 5e-5, "optimizer.schedule": "constant"}
    assert change == Change(from_step=40, settings=expected)
    assert cfg.optimizer == OptimizerConfig(learning_rate=5e-5, schedule="constant")
    assert dataclasses.replace(cfg, optimizer=CONFIG.optimizer) == CONFIG
    add_event(run, change)
    # A launcher gives the same flags again; a user leaves them out.
    for again in (asked, ()):
        capsys.readouterr()
        assert resumed_with(CONFIG, run, again) == (cfg, None)
        assert capsys.readouterr().out == (
            "settings from step 40 on: optimizer.learning_rate=5e-05, "
            "optimizer.schedule=constant (--resume-with)\n"
        )
    (run / "checkpoints" / "80").mkdir()
    back, change = resumed_with(CONFIG, run, ["optimizer.learning-rate=1e-4"])
    assert change == Change(from_step=80, settings={"optimizer.learning_rate": 1e-4})
    assert back.optimizer == OptimizerConfig(schedule="constant")


def test_a_change_is_noted_with_the_step_that_the_run_goes_on_from(run, tmp_path):
    """The newest checkpoint is damaged, or all are and the mirror has a copy."""
    asked = ["optimizer.learning-rate=3e-5"]
    (run / "checkpoints" / "80" / "damaged").mkdir(parents=True)
    assert resumed_with(CONFIG, run, asked)[1].from_step == 40
    (run / "checkpoints" / "40" / "damaged").mkdir()
    (tmp_path / "mirror" / "checkpoints" / "30").mkdir(parents=True)
    loop = dataclasses.replace(CONFIG.loop, mirror=str(tmp_path / "mirror"))
    mirrored = dataclasses.replace(CONFIG, loop=loop)
    assert resumed_with(mirrored, run, asked)[1].from_step == 30


def test_a_later_phase_has_its_own_rate(run):
    cfg, _ = resumed_with(CONFIG, run, ["next-phases.0.learning-rate=3e-5"])
    assert cfg.next_phases[0].learning_rate == 3e-5
    with pytest.raises(
        ValueError, match=r"next_phases\.1\.learning_rate: the run has no"
    ):
        resumed_with(CONFIG, run, ["next-phases.1.learning-rate=3e-5"])
    (run / "checkpoints" / "1000").mkdir()
    with pytest.raises(ValueError, match=r"step 1,000 lies behind the phase"):
        resumed_with(CONFIG, run, ["optimizer.learning-rate=3e-5"])
    third = PhaseConfig(num_steps=50, learning_rate=1e-5)
    longer = dataclasses.replace(CONFIG, next_phases=(*CONFIG.next_phases, third))
    (run / "checkpoints" / "1100").mkdir()
    with pytest.raises(ValueError, match=r"step 1,100 lies behind the phase"):
        resumed_with(longer, run, ["next-phases.0.learning-rate=3e-5"])
    cfg, _ = resumed_with(longer, run, ["next-phases.1.learning-rate=3e-5"])
    assert cfg.next_phases[1].learning_rate == 3e-5
    with pytest.raises(ValueError, match=r"made all its 1,100 steps"):
        resumed_with(CONFIG, run, ["next-phases.0.learning-rate=3e-5"])


@pytest.mark.parametrize("step", [1000, 1100])
def test_a_launcher_gives_a_change_again_in_a_later_phase(run, step):
    asked = ["optimizer.learning-rate=5e-05"]
    cfg, change = resumed_with(CONFIG, run, asked)
    add_event(run, change)
    (run / "checkpoints" / str(step)).mkdir()
    assert resumed_with(CONFIG, run, asked) == (cfg, None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("loop.log-every-steps=5", "give --loop.log-every-steps itself"),
        ("model.num-layers=5", "one of the names that a run may change"),
        ("optimizer.name=lamb", "one of the names that a run may change"),
        ("optimizer.learning-rat=1", "Did you mean optimizer.learning_rate"),
        ("optimizer.learning-rate", "expected NAME=VALUE"),
        ("optimizer.learning-rate=fast", "'fast' is a str; expected float"),
        ("optimizer.learning-rate=-1", "must be greater than 0"),
        ("optimizer.bias-correction=1", "is a int; expected bool"),
    ],
)
def test_what_cannot_be_changed_is_refused_in_a_sentence(run, asked, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        resumed_with(CONFIG, run, [asked])


def test_there_must_be_a_run_to_go_on_with(tmp_path):
    with pytest.raises(ValueError, match="holds no run yet"):
        resumed_with(CONFIG, tmp_path / "none", ["optimizer.learning-rate=1e-3"])
