"""Begins a run directory, or finds the run that continues there, and writes its settings."""

import contextlib
import dataclasses
import pathlib
import time
import uuid
from typing import Any

from bert_jax import config_json
from bert_jax.config import PretrainConfig
from bert_jax.config.address import address_of
from bert_jax.data.json_file import read_json, write_json
from bert_jax.data.tokenizers.tokenizer import Tokenizer
from bert_jax.runtime import process
from bert_jax.runtime.agreement import agree, on_first_host
from bert_jax.train.runs.checkpoint_mirror import (
    SMALL_FILES,
    copy_small_files,
    mirror_of,
)
from bert_jax.train.runs.history import Change, add_event
from bert_jax.train.runs.run import (
    FROM_A_COPY,
    RunInfo,
    load_run,
    load_run_config,
    load_run_tokenizer,
)
from bert_jax.train.runs.run_lock import RunLock
from bert_jax.train.runs.run_settings import (
    LAYOUT,
    check_longer,
    check_order,
    check_start,
    differences,
)

# How long a shared file system may hide a new file (NFS caches directories for 60 s).
_VISIBLE_SECS = 90.0


def start_run(
    run: pathlib.Path, config: Any, info: RunInfo, tokenizer: Tokenizer
) -> None:
    """Creates a run directory, or checks that it holds the run that continues.

    The first host does this. When the function returns, the other hosts see the files.

    Raises, on all hosts:
        ValueError: the directory holds another run or other files, some hosts do not see
            it, or checkpoints could not be read from it.
    """
    if "[" in str(run.absolute()):
        # Orbax takes the path for a pattern when it joins what the hosts have written.
        raise ValueError(
            f"{run}: its full path, {run.absolute()}, has the character '[', and Orbax "
            "writes checkpoints there that cannot be read again. Choose a path without it."
        )
    on_first_host(f"start of {run}", lambda: _start_run(run, config, info, tokenizer))
    if process.this().count > 1:
        _check_shared(run)


def save_session(run: pathlib.Path, config: Any, change: Change | None) -> None:
    """Notes the settings of the session that has the lock of the run.

    Another command can have written its own since `start_run`, before it was refused.

    Args:
        run: run directory.
        config: as for `start_run`.
        change: other settings with which the run goes on; they are added to its history.
    """
    values = config_json.to_values(_with_whole_paths(run, config))
    on_first_host(f"settings of {run}", lambda: write_json(run / "config.json", values))
    if change is not None:
        add_event(run, change)


def save_origin(run: pathlib.Path, origin: dict[str, Any]) -> None:
    """Notes in run.json where the weights of step 0 came from."""

    def save() -> None:
        info = dataclasses.replace(load_run(run), encoder=origin)
        write_json(run / "run.json", config_json.to_values(info))

    on_first_host(f"the origin of the weights of {run}", save)


def _with_whole_paths(run: pathlib.Path, config: Any) -> Any:
    mirror = mirror_of(run, config.loop)
    config = config_json.with_absolute_paths(config)
    if mirror is not None and address_of(config.loop.mirror) is None:
        loop = dataclasses.replace(config.loop, mirror=str(mirror.home))
        config = dataclasses.replace(config, loop=loop)
    return config


def _check_shared(run: pathlib.Path) -> None:
    """Raises ValueError on all hosts if some do not see the files of the first host."""

    def write() -> str:
        # A kill leaves it behind; with this name the lock deletes it.
        name = f".seen-by-all.partial-{uuid.uuid4().hex}"
        (run / name).touch()
        return name

    marker = run / on_first_host(f"a file in {run}", write)
    deadline = time.monotonic() + _VISIBLE_SECS
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    agree(
        f"what they see in {run}",
        {"a file that process 0 wrote": "there" if marker.exists() else "not there"},
        remedy="Choose a --output on storage that all hosts share (NFS, a mounted "
        "bucket): process 0 writes the run, and all processes read it. For --output gs:// "
        "or s3://, the cache folder is such storage when XDG_CACHE_HOME names one.",
    )
    on_first_host(f"removal of {marker}", marker.unlink)


def _start_run(
    run: pathlib.Path, config: Any, info: RunInfo, tokenizer: Tokenizer
) -> None:
    mirror = mirror_of(run, config.loop)
    config = _with_whole_paths(run, config)
    settings = config_json.to_values(config)
    places = (run, None if mirror is None else mirror.small_files())
    homes = [x for x in places if x is not None and (x / "run.json").exists()]
    # Two processes that start at once must not write the settings of two runs.
    with contextlib.ExitStack() as held:
        if run in homes:
            held.enter_context(RunLock(run))
        for home in homes:
            way_out = "--output" if home is run else "--loop.mirror"
            layout = _check_continued(home, config, info, f"choose another {way_out}")
            if home is homes[0]:
                for line in layout:
                    print(f"another layout, equal up to rounding: {line}", flush=True)
        if run not in homes:
            _make_directory(run, held)
            # First, so that a start that was killed is known again; run.json comes last.
            write_json(run / "config.json", settings)
            tokenizer.save(run / "tokenizer")
            if homes:
                copy_small_files(homes[0], run)
                print(
                    f"note: {run} holds no run; it is made from {config.loop.mirror}",
                    flush=True,
                )
            else:
                write_json(run / "run.json", config_json.to_values(info))
        else:
            try:
                load_run_tokenizer(run)
            except ValueError as damage:
                print(f"note: {damage} It is written again now.", flush=True)
                tokenizer.save(run / "tokenizer")
        write_json(run / "config.json", settings)


def _make_directory(run: pathlib.Path, held: contextlib.ExitStack) -> None:
    """Makes the directory of a new run, and takes its lock."""
    if run.exists() and not _is_beginning(run):
        raise ValueError(
            f"{run} is not empty and holds no run; choose another --output."
        )
    run.mkdir(parents=True, exist_ok=True)
    held.enter_context(RunLock(run))
    if (run / "run.json").exists():
        raise ValueError(
            f"{run} was begun by another process just now. Choose another --output."
        )


def _is_beginning(run: pathlib.Path) -> bool:
    """Whether a directory without run.json is empty, or a start was killed in it."""
    names = {path.name for path in run.iterdir() if ".partial-" not in path.name}
    names.discard(".lock")
    if not names <= {"tokenizer", *SMALL_FILES}:
        return False
    try:
        return not names or bool(read_json(run / "config.json", FROM_A_COPY))
    except (OSError, ValueError):
        return False


def _check_continued(
    home: pathlib.Path, config: Any, info: RunInfo, way_out: str
) -> list[str]:
    """Compares the run in `home` with the one that is to be; returns changes of layout."""
    begun = load_run(home)
    _refuse_another(home, begun, info, way_out)
    # A field that is younger than the run has its default, which means what was done
    # before there was the field.
    old = load_run_config(home)
    changes = differences(config_json.to_values(old), config_json.to_values(config))
    changed = {name: line for name, line in changes if name not in LAYOUT}
    of_length = {"num_steps", "optimizer.warmup_steps"}
    if isinstance(old, PretrainConfig) and {"num_steps"} <= changed.keys() <= of_length:
        check_longer(home, old, config)
    elif changed:
        raise ValueError(
            f"{home} holds a run with other settings: {'; '.join(changed.values())}. "
            f"Continue with those settings, or {way_out}. `pretrain` and `finetune` may change "
            "settings of the optimizer on the way: give the other flags as before, and these "
            "as --resume-with optimizer.NAME=VALUE."
        )
    if isinstance(old, PretrainConfig):
        check_order(home, old, config)
    check_start(home, begun.encoder, old, config, way_out)
    layout = [line for name, line in changes if name in LAYOUT]
    if begun.devices != info.devices:
        layout.append(f"devices are {begun.devices!r} there and {info.devices!r} here")
    return layout


def _refuse_another(
    run: pathlib.Path, begun: RunInfo, info: RunInfo, way_out: str
) -> None:
    """Refuses to go on with another task, or on other data, than a run was begun with."""
    for name in ("kind", "task", "tokenizer_sha256", "data", "labels"):
        before, now = getattr(begun, name), getattr(info, name)
        if before == now:
            continue
        if name == "data" and info.kind == "finetune":
            changed = " and ".join(key for key in now if before.get(key) != now[key])
            raise ValueError(
                f"{run} was begun with other examples: those of {changed} have changed "
                f"since. Restore the files or the flags that choose the examples, or "
                f"{way_out}."
            )
        if name == "data" and info.kind == "pretrain":
            then, here = (x.get("sha256", {}) for x in (before, now))
            if sorted(then.values()) == sorted(here.values()):
                raise ValueError(
                    f"{run} was begun with the same data in folders of other names: "
                    f"{' '.join(then)} then, {' '.join(here)} now. Its metrics tell "
                    f"the datasets apart by these names: give them the old ones, or "
                    f"{way_out}."
                )
            raise ValueError(
                f"{run} was begun on other data: the hashes of the dataset's files have "
                f"changed. {run / 'config.json'} says where it lay; name its present place "
                f"with --data.dataset or --data.mixture, or {way_out}."
            )
        raise ValueError(
            f"{run} was begun with another {name}: {before} then, {now} now. "
            f"{way_out.capitalize()}."
        )
