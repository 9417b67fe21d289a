"""A plan as a Python file with `get_config()`, beside the config that it is for."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from bert_jax.config import MeshConfig, PretrainConfig
from bert_jax.topology.choices import Choice

_TEMPLATE = '''"""{title}

    {command}

{report}
Compiled, not run: memory is the compiler's, time is an estimate. Written {date}.
"""

import dataclasses
import pathlib
import runpy

from bert_jax.config import PretrainConfig

BASE = {base}


def get_config() -> PretrainConfig:
    cfg = runpy.run_path(str(BASE))["get_config"]()
    if [phase.batch_size for phase in cfg.phases] != {batch_sizes}:
        raise ValueError(
            f"{{BASE}} has other batches than this file was planned for; plan again."
        )
    return dataclasses.replace(
        cfg,
        model=dataclasses.replace(
            cfg.model,
            remat={remat!r},
            attention={attention!r},
            mlm_logits={mlm_logits!r},
        ),
        mesh=dataclasses.replace(
            cfg.mesh,
{mesh}
        ),
        micro_batches={micro_batches},
        next_phases=tuple(
            dataclasses.replace(phase, micro_batches=count)
            for phase, count in zip(cfg.next_phases, {later_counts}, strict=True)
        ),
    )
'''


def config_text(
    cfg: PretrainConfig,
    choice: Choice,
    *,
    base: pathlib.Path,
    output: pathlib.Path,
    title: str,
    command: str,
    report: Sequence[str],
    date: str,
) -> str:
    """The file: the config of `base` with the fields of a choice replaced.

    Args:
        cfg: what `base` gives.
        base: file with the config that was planned; the written one reads it.
        output: where the text will stand; `base` is named from there.
        title: first line of the file.
        command: that made it.
        report: what was found, a line each.
        date: of the day, ISO.
    """
    folder = output.resolve().parent
    try:
        where = pathlib.Path(os.path.relpath(base.resolve(), folder))
        place = f"pathlib.Path(__file__).parent / {where.as_posix()!r}"
    except ValueError:  # another drive
        place = f"pathlib.Path({str(base.resolve())!r})"
    mesh = [
        f"            {field.name}={getattr(choice.mesh, field.name)!r},"
        for field in dataclasses.fields(MeshConfig)
    ]
    # What people wrote stands in a docstring.
    title, command = (
        text.replace("\\", "\\\\").replace('"""', r"\"\"\"")
        for text in (title, command)
    )
    return _TEMPLATE.format(
        title=title,
        command=command,
        report="\n".join(report),
        date=date,
        base=place,
        batch_sizes=[phase.batch_size for phase in cfg.phases],
        remat=choice.remat,
        attention=choice.attention,
        mlm_logits=choice.mlm_logits,
        mesh="\n".join(mesh),
        micro_batches=choice.micro_batches[0],
        later_counts=choice.micro_batches[1:],
    )


def check_output(output: pathlib.Path, base: pathlib.Path, *, force: bool) -> None:
    """Refuses to overwrite; called before anything is compiled.

    Raises:
        FileExistsError: `output` is there and `force` is not given.
        ValueError: `output` is the config that is planned.
    """
    if output.exists() and output.samefile(base):
        raise ValueError(
            f"--output {output} is the config that is planned; give another file."
        )
    if output.exists() and not force:
        raise FileExistsError(
            f"--output {output} is there already; give another file, or --force."
        )


def write_config(output: pathlib.Path, text: str, expected: Any) -> None:
    """Writes the file whole, after it was seen to give the config that was planned.

    Raises:
        RuntimeError: it gives another config; nothing was written.
    """
    import runpy

    output.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, since it names the base from there; `.py` to be readable if left.
    draft = output.with_name(f".{output.stem}.{os.getpid()}.py")
    try:
        draft.write_text(text, encoding="utf-8")
        got = runpy.run_path(str(draft))["get_config"]()
        if got != expected:
            raise RuntimeError(
                f"the config written for {output} is not the planned one: {got}"
            )
        draft.replace(output)
    finally:
        draft.unlink(missing_ok=True)
