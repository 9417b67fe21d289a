"""What some minutes of this machine buy: a BERT pretrained and fine-tuned, from a script.

    python -m benchmarks.evidence [--model base|small|mini|tiny] [--minutes 20] [--workdir DIR]

Prepares English Wikipedia, measures the speed of a step, pretrains for a fixed number of
minutes with a schedule that ends in them, and fine-tunes on SST-2, CoLA, MRPC and STS-B,
each from these weights and from random ones with the same settings and seeds. Scores,
cost and curves go to `benchmarks/results/evidence-MACHINE-DATE.json` and `.md`. Every
stage is a command of `bert-jax`, shown before it runs. Stopped by Ctrl-C or SIGTERM, it
writes what there is, and the same command goes on.
"""

import dataclasses
import glob
import importlib.util
import json
import math
import pathlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from benchmarks.accelerator import DetectionError, find_accelerator
from benchmarks.evidence_curves import calibrated
from benchmarks.evidence_report import ARMS, Evidence, write_report
from benchmarks.evidence_settings import (
    Model,
    Recipe,
    default_model,
    finetune_flags,
    fitting_steps,
    pretrain_config,
    recipe_of,
)
from benchmarks.evidence_stages import Call, StageError, Stages
from benchmarks.evidence_tasks import Task, chosen, task_flags
from benchmarks.machine import describe_machine
from bert_jax.config_json import to_json
from bert_jax.data.tasks import load_examples

_HERE = pathlib.Path(__file__).resolve().parent
_SHARED = _HERE.parents[1] / "shared" / "data"
_BERT_VOCAB = _SHARED / "vocab" / "bert-base-uncased-vocab.txt"
# Of text that a vocabulary is trained on: thousands of pieces need no more.
_MOST_VOCAB_BYTES = 16 << 20
_NEEDED = ("tensorflow_datasets", "array_record", "grain", "tokenizers", "orbax")
_CONFIG = '''"""Written by `python -m benchmarks.evidence`."""

from bert_jax.config import PretrainConfig
from bert_jax.config_json import from_json

_JSON = """
{json}"""


def get_config() -> PretrainConfig:
    return from_json(PretrainConfig, _JSON)
'''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Pretrains for some minutes, fine-tunes on four tasks, records scores and cost."""

    model: Model | None = None
    """Size; base on a GPU or TPU, tiny on a CPU by default."""
    minutes: float | None = None
    """Of pretraining, from command to results, compiling included; as the size says by
    default (20 for base, 16 for tiny). All else comes on top."""
    source: str = f"files:{_SHARED}/enwiki/enwiki-2014-open.tar.xz"
    """As `bert-jax prepare` takes it."""
    vocab: pathlib.Path | None = None
    """A vocab.txt of WordPiece; text is put in lower case. By default BERT's own for
    base, and one that is trained on the text for the others."""
    tasks: pathlib.Path = _SHARED
    """Folder with sst2, cola, mrpc and stsb, a train.tsv and a dev.tsv in each."""
    only: tuple[str, ...] = ()
    """Names of tasks to fine-tune on; all four by default."""
    seeds: int = 1
    """Fine-tunings of each task and arm."""
    seed: int = 0
    """Of pretraining, and the first one of fine-tuning."""
    output: pathlib.Path = _HERE / "results"
    """Folder of the result files."""
    workdir: pathlib.Path = pathlib.Path("evidence")
    """Everything that is made; started again with it, finished stages are skipped."""
    vocab_size: int | None = None
    """Of a vocabulary that is trained; as the size says by default, as are these:"""
    batch_size: int | None = None
    """Packed rows of a pretraining step."""
    learning_rate: float | None = None
    sequence_length: int | None = None
    calibration_steps: int | None = None
    """Steps that measure the speed; pretraining must have time for as many."""
    max_train: int | None = None
    """Most labelled examples of a task."""
    tune_batch_size: int | None = None
    tune_epochs: int | None = None
    tune_learning_rate: float | None = None

    def recipe(self, model: str) -> Recipe:
        """What to train."""
        names = {field.name for field in dataclasses.fields(Recipe)}
        given = dataclasses.asdict(self)
        return recipe_of(model, {k: v for k, v in given.items() if k in names})

    def vocab_file(self, recipe: Recipe) -> pathlib.Path | None:
        """The vocabulary that there is; None where one is trained.

        Raises:
            FileNotFoundError: it is not there.
        """
        if self.vocab is None and recipe.vocab_size is not None:
            return None
        path = self.vocab or _BERT_VOCAB
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; give a WordPiece vocab.txt with --vocab, or "
                "have one trained with --vocab-size."
            )
        return path.resolve()

    def check(self) -> None:
        """Refuses before any work what would fail after it.

        Raises:
            FileNotFoundError: text or a task is not there.
            ModuleNotFoundError: a library that every stage needs is not installed.
            ValueError: there is no such task, no seed, or a vocabulary of two sizes.
        """
        if missing := [x for x in _NEEDED if importlib.util.find_spec(x) is None]:
            raise ModuleNotFoundError(
                f"{', '.join(missing)} not installed: text is prepared, read and saved "
                "with them, so nothing of this can run. pip install -e . brings them."
            )
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: expected 1 or more.")
        if self.vocab is not None and self.vocab_size is not None:
            raise ValueError(
                f"--vocab {self.vocab} has its own size; leave out --vocab-size, or "
                "have one trained by leaving out --vocab."
            )
        pattern = self.source.removeprefix("files:")
        if pattern != self.source and not glob.glob(pattern, recursive=True):
            raise FileNotFoundError(
                f"{pattern} does not exist; give text to pretrain on with --source, as "
                "`bert-jax prepare` takes it."
            )
        for task in chosen(self.only):
            task.located(self.tasks, None)


def go_through(options: Options, stages: Stages, evidence: Evidence) -> None:
    """All stages; `evidence` knows at any time what has been found.

    Raises:
        StageError: a command failed, other than a fine-tuning.
        ValueError: the time or the settings do not fit.
        KeyboardInterrupt: it was stopped.
    """
    recipe = evidence.recipe
    at = {name: str(stages.workdir / name) for name in ("tokenizer", "dataset")}
    stages.run("tokenizer", [*_tokenizer(options, recipe), "--output", at["tokenizer"]])
    stages.run(
        "prepare",
        [
            *("prepare", "--source", options.source, "--tokenizer", at["tokenizer"]),
            *("--output", at["dataset"], "--validation-fraction", "0.02"),
        ],
    )
    _pretrain(options, stages, evidence, "calibration", recipe.calibration_steps)
    overhead, step = calibrated(stages, "calibration", recipe.calibration_steps)
    plan = stages.kept(
        "plan",
        lambda: {
            "minutes": recipe.minutes,
            "overhead_secs": overhead,
            "step_secs": step,
            "num_steps": fitting_steps(
                recipe.minutes,
                overhead_secs=overhead,
                step_secs=step,
                num_calibration=recipe.calibration_steps,
            ),
        },
    )
    _check_same(stages.workdir, plan, {"minutes": recipe.minutes})
    evidence.plan = plan
    _pretrain(options, stages, evidence, "pretrain", plan["num_steps"])
    for task in evidence.tasks:
        for number in range(options.seeds):
            for arm in ARMS:
                _finetune(options, stages, evidence, task, arm, options.seed + number)


def _tokenizer(options: Options, recipe: Recipe) -> list[str]:
    """The command that makes it, but for where."""
    vocab = options.vocab_file(recipe)
    if vocab is not None:
        return ["tokenizer", "wrap", str(vocab), "--lowercase"]
    return [
        *("tokenizer", "train", "--source", options.source, "--kind", "wordpiece"),
        *("--vocab-size", str(recipe.vocab_size)),
        *("--max-bytes", str(_MOST_VOCAB_BYTES)),
    ]


def _pretrain(
    options: Options, stages: Stages, evidence: Evidence, name: str, num_steps: int
) -> None:
    manifest = json.loads((stages.workdir / "dataset/manifest.json").read_text())
    cfg = pretrain_config(
        evidence.recipe,
        evidence.model,
        vocab_size=manifest["tokenizer"]["vocab_size"],
        platform=evidence.device["platform"],
        peak_tflops=evidence.device["peak_tflops"],
        num_steps=num_steps,
        seed=options.seed,
    )
    file = stages.workdir / f"{name}_config.py"
    file.write_text(_CONFIG.format(json=to_json(cfg)))
    stages.run(
        name,
        [
            *("pretrain", "--config", str(file)),
            *("--data.dataset", str(stages.workdir / "dataset")),
            *("--workdir", str(stages.workdir / name)),
        ],
    )


def _finetune(
    options: Options,
    stages: Stages,
    evidence: Evidence,
    task: Task,
    arm: str,
    seed: int,
) -> None:
    recipe = evidence.recipe
    cfg = task.located(options.tasks, recipe.max_train)
    num_train = len(load_examples(cfg.train, cfg))
    num_steps = recipe.tune_epochs * math.ceil(num_train / recipe.tune_batch_size)
    name = f"{task.name}-{arm}-{seed}"
    flags = finetune_flags(
        recipe,
        num_steps=num_steps,
        peak_tflops=evidence.device["peak_tflops"],
        seed=seed,
    )
    argv = ["finetune", "--checkpoint", str(stages.workdir / "pretrain")]
    argv += ["--workdir", str(stages.workdir / name), *task_flags(cfg), *flags]
    device = evidence.device
    if device["platform"] != "cpu" or device["count"] == 1:  # others refuse a cache
        # Seeds and arms of a task share their programs.
        argv += ["--compile-cache", str(stages.workdir / "compiled")]
    try:
        stages.run(name, [*argv, *(["--from-scratch"] if arm == "random" else [])])
    except StageError as error:
        evidence.failed.append(str(error))


def _check_same(
    workdir: pathlib.Path, before: dict[str, Any], now: dict[str, Any]
) -> None:
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(
                f"{workdir} holds a run with {name}={before.get(name)!r}, and {value!r} "
                "is asked for now; go on with the same, or choose another --workdir."
            )


def _describe_device() -> dict[str, Any]:
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.evidence_device"],
        cwd=_HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(found.stdout.splitlines()[-1])


def begin(options: Options, call: Call | None = None) -> tuple[Stages, Evidence]:
    """The work directory, new or of a run that goes on.

    Args:
        call: as of `Stages`.

    Raises:
        ValueError: it is of a run with other settings, or something else.
    """
    workdir = options.workdir
    ours = (workdir / "device.json").exists()
    if not ours and workdir.exists() and any(workdir.iterdir()):
        raise ValueError(
            f"{workdir} is not empty and holds no run of this script; choose another "
            "--workdir."
        )
    workdir.mkdir(parents=True, exist_ok=True)
    stages = Stages(workdir, lambda line: print(line, flush=True), call)
    device = stages.kept("device", _describe_device)
    model = options.model or default_model(device["platform"])
    recipe = options.recipe(model)
    options.vocab_file(recipe)  # refused before anything is prepared
    settings = {
        "model": model,
        "source": options.source,
        "vocab": None if options.vocab is None else str(options.vocab),
        "tasks": str(options.tasks),
        "seed": options.seed,
        **dataclasses.asdict(recipe),
    }
    # The time is settled later, when the speed is known: a second try may change it.
    settled = {k: v for k, v in settings.items() if k != "minutes"}
    _check_same(workdir, stages.kept("settings", lambda: settled), settled)
    evidence = Evidence(
        device=device,
        model=model,
        recipe=recipe,
        settings=settings | {"seeds": options.seeds},
        tasks=chosen(options.only),
        seeds=[options.seed + number for number in range(options.seeds)],
    )
    return stages, evidence


def main(argv: Sequence[str] | None = None, call: Call | None = None) -> int:
    options = tyro.cli(Options, description=__doc__, args=argv)
    # A terminated run keeps what it has, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    complete, code = False, 130
    try:
        options.check()
        machine = describe_machine(find_accelerator())
        stages, evidence = begin(options, call)
    except KeyboardInterrupt:
        return code
    except (ValueError, OSError, ModuleNotFoundError, DetectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        go_through(options, stages, evidence)
        complete, code = not evidence.failed, 1 if evidence.failed else 0
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
    except (ValueError, OSError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        evidence.failed.append(str(error))
        code = 1
    paths = write_report(options.output, machine, stages, evidence, complete=complete)
    print(paths[1].read_text())
    print("written:", *paths)
    return code


if __name__ == "__main__":
    sys.exit(main())
