"""Commands that try settings and seeds, and that compare encoders."""

import dataclasses
import json
import pathlib
from typing import Annotated

import tyro

from bert_jax.commands.config_files import config_path
from bert_jax.commands.raw_flags import is_given
from bert_jax.commands.shared import Bar, agree_on_flags
from bert_jax.config import ClusterConfig, FinetuneConfig, SweepConfig
from bert_jax.config.checks import require, require_seed
from bert_jax.config.flags import box

Inline = tyro.conf.arg(name="")
# A flag of one run, and the flag of the grid that takes its place.
_IN_THE_GRID = {
    "--seed": "--seeds",
    "--num-epochs": "--epochs",
    "--optimizer.learning-rate": "--learning-rates",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Fine-tunes with several seeds and settings, `sweep RUN`: mean ± deviation of each.

    For example: `bert-jax sweep encoder --train texts.csv --dev 0.1 --output sweep --seeds 0 1 2`.
    """

    output: pathlib.Path
    """Directory to write. The same command continues a sweep that was stopped, and a larger
    grid adds runs to it."""
    config_file: Annotated[str, tyro.conf.arg(name="config")] = "finetune_classify"
    """Path of a Python file with get_config() (./my.py), or the bare name of a shipped config."""
    compile_cache: pathlib.Path | None = None
    """Directory that keeps compiled programs, so that runs that differ in their seed alone
    are compiled once. Default: compiled/ of the output while the sweep lasts, where there
    is one CPU device, or a GPU or TPU."""
    sweep: Annotated[SweepConfig, *box("grid")] = SweepConfig()
    settings: Annotated[FinetuneConfig, Inline] = FinetuneConfig()
    cluster: ClusterConfig = ClusterConfig()
    args: tyro.conf.Suppress[tuple[str, ...]] = ()
    """The flags as they were given."""

    def run(self) -> None:
        import shutil

        import jax

        from bert_jax.commands.settled import settled
        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.runtime.distributed import taking_part
        from bert_jax.train.sweeps.sweep import sweep

        for flag, of_grid in _IN_THE_GRID.items():
            require(
                not is_given(flag, self.args),
                f"{flag} sets a single run; a sweep takes {of_grid} and one value or more.",
            )
        with taking_part(self.cluster):
            agree_on_flags(self)
            print(f"config: {config_path(self.config_file)}", flush=True)
            devices = jax.devices()
            is_new, own = not self.output.exists(), self.output / "compiled"
            if self.compile_cache is not None:
                use_compile_cache(self.compile_cache, devices)
            elif jax.process_count() == 1 and (
                len(devices) == 1 or devices[0].platform != "cpu"
            ):
                use_compile_cache(own, devices)
            try:
                sweep(self.sweep, settled(self), self.output)
            except (ValueError, OSError):
                # A sweep that was refused leaves no directory.
                if is_new and [*self.output.glob("*")] == [own]:
                    shutil.rmtree(self.output)
                raise
            if self.compile_cache is None:
                shutil.rmtree(own, ignore_errors=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare:
    """Compares two encoders, `compare A B`, by their fine-tuned runs or their sweeps.

    For example: `bert-jax compare sweep_a sweep_b --output compared.json`.
    """

    a: Annotated[pathlib.Path, tyro.conf.Positional]
    """Directory of `finetune` or `sweep`. Of a sweep, the setting with the best mean is
    taken, with all its seeds."""
    b: Annotated[pathlib.Path, tyro.conf.Positional]
    """Another one, which was judged on the same examples."""
    output: pathlib.Path | None = None
    """File to write the numbers to (.json). Default: they are only shown."""
    resamples: int = 10_000
    """Number of resamples of the bootstrap."""
    seed: int = 0
    """Seed of the resamples."""

    def run(self) -> None:
        from bert_jax.data.atomic_file import write_atomically
        from bert_jax.train.sweeps.compare import compare, describe

        require_seed(self)
        require(self.resamples > 0, f"--resamples {self.resamples} must be positive.")
        with Bar("resamples", unit_scale=False) as bar:
            found = compare(
                self.a,
                self.b,
                resamples=self.resamples,
                seed=self.seed,
                progress=bar.update,
            )
        print(describe(found))
        if self.output is not None:
            write_atomically(self.output, json.dumps(found, indent=2) + "\n")
