"""Run directories: what a continued run may change, and what it may not."""

import dataclasses
import json
import pathlib
import shutil

import pytest
from prepared_corpus import other_tokenizer
from varied_configs import varied

from bert_jax.config import (
    ComputeConfig,
    DataConfig,
    DropoutConfig,
    FinetuneConfig,
    LoopConfig,
    MaskingConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PretrainConfig,
    TaskConfig,
)
from bert_jax.data import atomic_file, json_file
from bert_jax.data.hashes import json_sha256
from bert_jax.data.json_file import read_json, write_json
from bert_jax.data.tokenizers import tokenizer as tokenizer_module
from bert_jax.data.tokenizers.tokenizer import METADATA_FILE
from bert_jax.exchange.importing import is_foreign
from bert_jax.train import planned_steps
from bert_jax.train.planned_steps import with_planned_steps
from bert_jax.train.runs import run_start as run_module
from bert_jax.train.runs.checkpoint_files import MANIFEST_FILE
from bert_jax.train.runs.history import Change, add_event
from bert_jax.train.runs.run import (
    RunInfo,
    is_new_run,
    load_run,
    load_run_config,
    load_run_tokenizer,
)
from bert_jax.train.runs.run_start import save_origin, start_run

CONFIG = PretrainConfig()


def begin(run, config=CONFIG, devices="cpu x 1", data=None):
    """Starts a run, or goes on with it."""
    kind = "pretrain" if isinstance(config, PretrainConfig) else "finetune"
    tokenizer = other_tokenizer()
    info = RunInfo(
        kind=kind,
        model=ModelConfig(),
        tokenizer_sha256=tokenizer.sha256,
        data=data or {},
        devices=devices,
    )
    start_run(run, config, info, tokenizer)


@pytest.fixture
def run(tmp_path):
    """A run directory that was begun."""
    begin(tmp_path / "run")
    return tmp_path / "run"


def quicker(run, lock):
    """A lock that is got when another process has begun the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "RunLock", lock)
        begin(run, dataclasses.replace(CONFIG, seed=1))
    return lock(run)


class KilledError(Exception):
    """A kill between two files."""


@pytest.mark.parametrize("files", range(6))
def test_a_start_that_was_killed_is_made_again(tmp_path, monkeypatch, files):
    """The kill comes before the so-many-th file of the directory is written."""
    left = files

    def killed(path, *args):
        nonlocal left
        left -= 1
        if left < 0:
            path.with_name(f"{path.name}.partial-1").touch()
            raise KilledError
        return write(path, *args)

    write = atomic_file.write_atomically
    with monkeypatch.context() as patch:
        for module in (json_file, tokenizer_module):
            patch.setattr(module, "write_atomically", killed)
        try:
            begin(tmp_path / "run")
            assert files == 5
        except KilledError:
            assert not (tmp_path / "run" / "run.json").exists() or files == 4
    begin(tmp_path / "run")
    assert load_run_config(tmp_path / "run") == CONFIG
    begin(tmp_path / "run")


@pytest.mark.parametrize("begun_before", [False, True])
def test_of_two_that_start_at_once_one_is_refused(tmp_path, monkeypatch, begun_before):
    other = dataclasses.replace(CONFIG, loop=LoopConfig(log_every_steps=7))
    if begun_before:
        begin(tmp_path / "run")

    def write_between(*args):
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "write_json", write_json)
            with pytest.raises(ValueError, match="is being trained by process"):
                begin(tmp_path / "run", other)
        write_json(*args)

    monkeypatch.setattr(run_module, "write_json", write_between)
    begin(tmp_path / "run")
    assert load_run_config(tmp_path / "run") == CONFIG


def test_a_start_that_was_quicker_is_not_overwritten(tmp_path, monkeypatch):
    lock = run_module.RunLock
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "RunLock", lambda run: quicker(run, lock))
        with pytest.raises(ValueError, match="was begun by another process just now"):
            begin(tmp_path / "run")
    assert load_run_config(tmp_path / "run").seed == 1


def test_a_folder_with_other_files_is_no_start_of_a_run(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        begin(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        begin(tmp_path)


def test_checkpoints_without_their_run_are_no_new_run_and_no_foreign_model(run):
    (run / "checkpoints" / "1200").mkdir(parents=True)
    (run / "run.json").unlink()
    for look in (is_new_run, load_run):
        with pytest.raises(
            FileNotFoundError, match=r"step 1,200, but its run\.json is"
        ):
            look(run)
    assert not is_foreign(run)


def test_a_lost_tokenizer_is_written_again(run, capsys):
    for lost in (run / "tokenizer" / METADATA_FILE, run / "tokenizer"):
        shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
        begin(run)
        load_run_tokenizer(run)
        assert f"no {METADATA_FILE} there" in capsys.readouterr().out
    begin(run)
    assert "tokenizer" not in capsys.readouterr().out


@pytest.mark.parametrize("field", [x.name for x in dataclasses.fields(ComputeConfig)])
def test_a_continued_run_may_be_computed_in_another_way_and_says_so(run, capsys, field):
    for compute in varied(ComputeConfig(), field):
        begin(run, dataclasses.replace(CONFIG, compute=compute))
        before, now = getattr(ComputeConfig(), field), getattr(compute, field)
        said = f"compute.{field} is {before!r} there and {now!r} here"
        assert (
            f"another layout, equal up to rounding: {said}" in capsys.readouterr().out
        )
        assert load_run_config(run).compute == compute
        begin(run)
        capsys.readouterr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": DropoutConfig(hidden=0.0)}, "dropout.hidden is 0.1 there and 0.0"),
        ({"dropout": DropoutConfig(attention=0.2)}, "dropout.attention is 0.1 there"),
        (
            {"model": ModelConfig(gelu="exact")},
            "model.gelu is 'tanh' there and 'exact'",
        ),
        ({"optimizer": OptimizerConfig(b1=0.8)}, "optimizer.b1 is 0.9 there and 0.8"),
    ],
    ids=str,
)
def test_a_continued_run_learns_the_same(run, change, message):
    before = (run / "config.json").read_text()
    with pytest.raises(ValueError, match=f"other settings: {message}"):
        begin(run, dataclasses.replace(CONFIG, **change))
    assert (run / "config.json").read_text() == before


def test_mesh_and_loop_may_change_and_only_the_mesh_is_announced(run, capsys):
    changed = dataclasses.replace(
        CONFIG, mesh=MeshConfig(tensor=2), loop=LoopConfig(log_every_steps=7)
    )
    begin(run, changed)
    out = capsys.readouterr().out
    assert "mesh.tensor is 1 there and 2 here" in out
    assert "log_every_steps" not in out
    assert load_run_config(run) == changed


def test_a_setting_that_is_younger_than_the_run_has_its_default(run):
    path = run / "config.json"
    config = read_json(path, "")
    del config["optimizer"]["decay_shape"]
    write_json(path, config)
    root = OptimizerConfig(schedule="trapezoidal", decay_shape="sqrt")
    with pytest.raises(ValueError, match=r"other settings: .*decay_shape is 'linear'"):
        begin(run, dataclasses.replace(CONFIG, optimizer=root))
    begin(run)
    assert load_run_config(run) == CONFIG


@pytest.mark.parametrize(
    ("warmup", "end_rate", "message"),
    [
        (10, None, None),
        (10, 0.05, r"masking rates .* without --masking\.end-rate"),
        (0.5, None, r"same number of warm-up updates \(--optimizer\.warmup-steps 50\)"),
    ],
)
def test_only_a_run_of_constant_rates_can_be_made_longer(
    tmp_path, warmup, end_rate, message
):
    optimizer = OptimizerConfig(schedule="constant", warmup_steps=warmup)
    cfg = dataclasses.replace(
        CONFIG,
        num_steps=100,
        optimizer=optimizer,
        masking=MaskingConfig(end_rate=end_rate),
    )
    begin(tmp_path / "run", cfg)
    longer = dataclasses.replace(cfg, num_steps=200)
    if message is None:
        begin(tmp_path / "run", longer)
        return
    with pytest.raises(ValueError, match=message):
        begin(tmp_path / "run", longer)


def test_a_run_whose_rates_were_changed_to_fall_is_not_made_longer(tmp_path):
    optimizer = OptimizerConfig(schedule="constant", warmup_steps=10)
    cfg = dataclasses.replace(CONFIG, num_steps=100, optimizer=optimizer)
    run, longer = tmp_path / "run", dataclasses.replace(cfg, num_steps=200)
    begin(run, cfg)
    add_event(run, Change(from_step=5, settings={"optimizer.learning_rate": 1e-5}))
    begin(run, longer)
    add_event(run, Change(from_step=150, settings={"optimizer.schedule": "linear"}))
    with pytest.raises(ValueError, match=r"200 steps .* schedule 'linear'"):
        begin(run, dataclasses.replace(cfg, num_steps=300))


def test_other_devices_are_announced(run, capsys):
    begin(run)
    assert capsys.readouterr().out == ""
    begin(run, devices="cpu x 8")
    said = "devices are 'cpu x 1' there and 'cpu x 8' here"
    assert f"another layout, equal up to rounding: {said}" in capsys.readouterr().out


def test_other_data_is_told_without_the_hashes(tmp_path):
    begin(tmp_path / "run", data={"sha256": {"file": "a"}})
    with pytest.raises(ValueError, match=r"was begun on other data.* name its present"):
        begin(tmp_path / "run", data={"sha256": {"file": "b"}})


def test_a_folder_of_a_mixture_with_another_name_is_named(tmp_path):
    begin(tmp_path / "run", data={"sha256": {"wiki": "a", "books": "b"}})
    with pytest.raises(
        ValueError, match=r"same data .*: wiki books then, wiki texts now"
    ):
        begin(tmp_path / "run", data={"sha256": {"wiki": "a", "texts": "b"}})
    with pytest.raises(ValueError, match="hashes of the dataset's files have changed"):
        begin(tmp_path / "run", data={"sha256": {"wiki": "a", "books": "c"}})
    begin(tmp_path / "imported", data={})
    with pytest.raises(ValueError, match="was begun on other data"):
        begin(tmp_path / "imported", data={"sha256": {"wiki": "a"}})


def test_datasets_of_a_mixture_may_move_but_not_change_places(tmp_path):
    """Weights are given by place, so that other datasets would get them."""

    def mixture(*paths):
        data = DataConfig(mixture=tuple(map(pathlib.Path, paths)), weights=(0.9, 0.1))
        return dataclasses.replace(CONFIG, data=data)

    begin(tmp_path / "run", mixture("old/wiki", "old/books"))
    begin(tmp_path / "run", mixture("new/wiki", "new/books"))
    with pytest.raises(ValueError, match="another order: wiki books then, books wiki"):
        begin(tmp_path / "run", mixture("new/books", "new/wiki"))


def test_a_run_is_not_its_own_mirror(tmp_path):
    loop = LoopConfig(mirror=f"{tmp_path}/other/../run")
    with pytest.raises(
        ValueError, match=r"--loop.mirror .* is the run directory itself"
    ):
        begin(tmp_path / "run", dataclasses.replace(CONFIG, loop=loop))
    assert not (tmp_path / "run").exists()


def test_minutes_keep_the_steps_of_a_run_that_only_its_mirror_has(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(planned_steps, "planned_steps", pytest.fail)
    begin(tmp_path / "mirror", dataclasses.replace(CONFIG, num_steps=7))
    cfg = dataclasses.replace(CONFIG, loop=LoopConfig(mirror=str(tmp_path / "mirror")))
    assert with_planned_steps(cfg, 1.0, tmp_path / "lost").num_steps == 7


def test_minutes_of_pretraining_in_a_run_of_another_kind_are_refused(tmp_path):
    begin(tmp_path / "run", FinetuneConfig())
    with pytest.raises(ValueError, match="is a finetune run; expected a pretrain run"):
        with_planned_steps(CONFIG, 1.0, tmp_path / "run")


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_paths_are_kept_absolute(tmp_path, kind, monkeypatch):
    """A run that is looked at from another folder must not read other data."""
    data = pathlib.Path("data")
    if kind == "pretrain":
        config = PretrainConfig(data=DataConfig(dataset=data), checkpoint=data)
    else:
        task = TaskConfig(train=data, dev=data)
        config = FinetuneConfig(task=task, checkpoint=data)
    monkeypatch.chdir(tmp_path)
    begin(pathlib.Path("run"), config)
    begin(pathlib.Path("run"), config)
    text = (tmp_path / "run" / "config.json").read_text()
    assert text.count(f'"{tmp_path}/data"') == (2 if kind == "pretrain" else 3)


@pytest.mark.parametrize("config", [CONFIG, FinetuneConfig()])
def test_other_weights_than_a_run_began_from_are_refused(tmp_path, config, capsys):
    """They may have been moved, but weights that would be ignored are no silent choice."""
    first, other, run = (tmp_path / name for name in ("first", "other", "run"))
    begin(first)
    begin(other)
    began, with_other = (
        dataclasses.replace(config, checkpoint=x) for x in (first, other)
    )
    begin(run, began)
    begin(run, with_other)  # it has read no weights yet
    begin(run, began)
    save_origin(run, {"run": str(first), "step": 3, "num_tensors": 1, "sha256": "a"})
    begin(run, began)
    with pytest.raises(
        ValueError, match=r"weights of .*first at step 3, .*other would"
    ):
        begin(run, with_other)
    first.rename(tmp_path / "moved")
    capsys.readouterr()
    begin(run, dataclasses.replace(config, checkpoint=tmp_path / "moved"))
    assert "moved is taken for their new place" in capsys.readouterr().out


def test_a_copy_of_the_weights_that_a_run_began_from_is_the_same(tmp_path):
    first, copy, run = (tmp_path / name for name in ("first", "copy", "run"))
    begin(first)
    hashes = {"files": {"params/a": "b"}}
    sealed = json.dumps({**hashes, "sha256": json_sha256(hashes)})
    for place in (first, copy):
        manifest = place / "checkpoints" / "3" / MANIFEST_FILE
        manifest.parent.mkdir(parents=True)
        manifest.write_text(sealed)
    begin(run, dataclasses.replace(CONFIG, checkpoint=first))
    save_origin(run, {"run": str(first), "step": 3, "num_tensors": 1, "sha256": "a"})
    begin(run, dataclasses.replace(CONFIG, checkpoint=copy))


def test_a_checkpoint_for_a_run_that_began_with_random_weights_is_refused(run):
    with pytest.raises(ValueError, match="with random weights, so that --checkpoint"):
        begin(run, dataclasses.replace(CONFIG, checkpoint=run))


@pytest.mark.parametrize("config", [CONFIG, FinetuneConfig(seed=3)])
def test_the_whole_config_is_read_back(tmp_path, config):
    begin(tmp_path / "run", config)
    assert load_run_config(tmp_path / "run") == config


@pytest.mark.parametrize("version", [1, 2, 4])
def test_a_run_of_another_format_is_refused_by_its_version(run, version):
    raw = read_json(
        run / "run.json", ""
    )  # without the hash, which old ones did not have
    (run / "run.json").write_text(json.dumps({**raw, "format_version": version}))
    with pytest.raises(
        ValueError, match=rf"has format {version}; .* reads 3\. Start a new run, or use"
    ):
        load_run(run)


def test_another_kind_is_refused(run):
    assert load_run(run, kind="pretrain").model == ModelConfig()
    told = "is a pretrain run; expected a finetune run. `bert-jax finetune .* makes one"
    with pytest.raises(ValueError, match=told):
        load_run(run, kind="finetune")


def test_other_examples_are_told_before_the_settings_that_follow_from_them(tmp_path):
    cfg = FinetuneConfig(sequence_length=16)
    begin(tmp_path / "run", cfg, data={"train": "a", "validation": "b"})
    longer = dataclasses.replace(cfg, sequence_length=24)
    with pytest.raises(ValueError, match="other examples: those of train have changed"):
        begin(tmp_path / "run", longer, data={"train": "c", "validation": "b"})


def test_another_pooling_is_another_run(tmp_path):
    """Files may move, but vectors of another kind are others."""
    task = TaskConfig(kind="embeddings", train=pathlib.Path("a"), pooling="mean")
    cfg = FinetuneConfig(task=task)
    begin(tmp_path / "run", cfg)
    moved = dataclasses.replace(cfg.task, train=pathlib.Path("b"))
    begin(tmp_path / "run", dataclasses.replace(cfg, task=moved))
    other = dataclasses.replace(cfg.task, pooling="cls")
    with pytest.raises(ValueError, match="pooling is 'mean' there and 'cls' here"):
        begin(tmp_path / "run", dataclasses.replace(cfg, task=other))
