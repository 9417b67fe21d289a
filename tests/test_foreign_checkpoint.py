"""A foreign model as --checkpoint is imported once; other commands say how to."""

import json
import shutil

import pytest
import reference
from exchange_models import LABELS, fitting, make_tokenizer

from bert_jax import cli
from bert_jax.commands.settled import settled
from bert_jax.exchange.portable import PortableModel
from bert_jax.exchange.write_huggingface import write_huggingface
from bert_jax.train.runs.run import load_run

CONFIG = """
from bert_jax.config import DataConfig, PretrainConfig


def get_config():
    return PretrainConfig(data=DataConfig(sequence_length=16))
"""


@pytest.fixture(scope="module")
def written(tiny, tmp_path_factory):
    """A classifier as a Hugging Face directory; tests copy it before they change it."""
    tokenizer = make_tokenizer("wordpiece")
    shapes = reference.classifier_shapes(tiny, len(LABELS))
    cfg, params = fitting(tiny, tokenizer, reference.random_params(shapes, seed=1))
    folder = tmp_path_factory.mktemp("models") / "my model"
    model = PortableModel(cfg, params, "classifier", tokenizer, labels=LABELS)
    write_huggingface(model, folder)
    return folder


@pytest.fixture
def source(written, tmp_path):
    return shutil.copytree(written, tmp_path / "my model")


def take(command, source, output, *flags):
    args = ["--output", str(output), "--checkpoint", str(source), *flags]
    return settled(cli.parse(command, args))


@pytest.mark.parametrize(
    ("command", "kind"), [("finetune", "finetune"), ("pretrain", "pretrain")]
)
def test_it_is_imported_beside_the_run_and_only_once(
    source, tmp_path, capsys, command, kind
):
    output = tmp_path / "my run"
    small = []
    if command == "pretrain":
        (tmp_path / "small.py").write_text(CONFIG)
        small = ["--config", str(tmp_path / "small.py")]
    settings = take(command, source, output, *small)
    imported = tmp_path / "my run-checkpoint"
    assert settings.checkpoint == imported
    assert not output.exists()
    info = load_run(imported)
    assert (info.kind, info.model.hidden_size) == (kind, 32)
    said = capsys.readouterr().out
    assert f"{source} is imported into {imported}" in said
    assert "tensors of" in said
    assert "not used: " in said

    before = (imported / "import.json").stat().st_mtime_ns
    assert take(command, source, output, *small).checkpoint == imported
    assert "before" in capsys.readouterr().out
    # A model that moved is the same model; one that is gone is no longer needed.
    moved = source.rename(tmp_path / "moved")
    assert take(command, moved, output, *small).checkpoint == imported
    shutil.rmtree(moved)
    assert take(command, source, output, *small).checkpoint == imported
    assert "which is gone" in capsys.readouterr().out
    assert (imported / "import.json").stat().st_mtime_ns == before


def test_other_files_than_before_are_refused(source, tmp_path):
    take("finetune", source, tmp_path / "run")
    (source / "README.md").write_text("A card that nobody reads.")
    take("finetune", source, tmp_path / "run")
    vocab = source / "vocab.txt"
    vocab.write_text(vocab.read_text().replace("##z\n", "##é\n"))
    with pytest.raises(ValueError, match=r"other files.*choose another --output"):
        take("finetune", source, tmp_path / "run")


def test_a_damaged_import_is_named(source, tmp_path):
    take("finetune", source, tmp_path / "run")
    (tmp_path / "run-checkpoint/import.json").write_bytes(b"{")
    with pytest.raises(
        ValueError, match=r"import.json is damaged.*Delete .*checkpoint"
    ):
        take("finetune", source, tmp_path / "run")


def test_a_refusal_says_where_the_flags_of_import_are(source, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    with pytest.raises(
        ValueError, match=r"--lowercase .*`bert-jax import .*my model --output RUN`"
    ):
        take("finetune", source, tmp_path / "run")
    assert not (tmp_path / "run-checkpoint").exists()


def test_a_job_of_several_processes_must_import_first(source, tmp_path):
    job = ["--cluster.kind", "flags", "--cluster.coordinator", "localhost:1"]
    job += ["--cluster.num-processes", "2", "--cluster.process-id", "0"]
    with pytest.raises(ValueError, match="several processes cannot import it"):
        take("finetune", source, tmp_path / "run", *job)
    take("finetune", source, tmp_path / "run")
    settings = take("finetune", source, tmp_path / "run", *job)
    assert settings.checkpoint == tmp_path / "run-checkpoint"


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "{}"],
        ["predict", "{}", "a river"],
        ["export", "{}", "--output", "out"],
    ],
)
def test_other_commands_say_how_to_import(source, tmp_path, refused, command):
    said = refused(*(part.format(source) for part in command))
    assert f"`bert-jax import {source} --output RUN`" in said


@pytest.mark.slow(ci=False)
def test_fine_tuning_from_it_goes_on_after_a_stop(source, tmp_path):
    rows = "".join(f"{'ab'[n % 2]} river\t{n % 2}\n" for n in range(16))
    data = tmp_path / "train.tsv"
    data.write_text(f"text\tlabel\n{rows}")
    run = tmp_path / "run"
    command = ["finetune", "--output", str(run), "--checkpoint", str(source)]
    command += ["--train", str(data), "--dev", str(data)]
    command += ["--sequence-length", "16", "--batch-size", "8", "--num-epochs", "1"]
    cli.main(command)
    first = json.loads((run / "results.json").read_text())
    assert first["encoder"]["num_tensors"] > 0
    cli.main(command)
    assert json.loads((run / "results.json").read_text())["eval"] == first["eval"]
