"""Opens a source by its name: files of several formats, `docs:` or `tfds:`.

A source consists of sections that are read independently, so the result does not
depend on how many processes read them.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bert_jax.config.checks import require_type
from bert_jax.data.text.division import divide_section
from bert_jax.data.text.files_source import open_files
from bert_jax.data.text.registry import KINDS
from bert_jax.data.text.sections import Request, Section, Source

Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def open_source(source: Sources, *, num_workers: int = 1) -> Source:
    """Finds the files or the datasets that `source` names, without reading text.

    Only `docs:` does more: it extracts the documentation to the user's cache, unless that
    is done already for the same versions of the packages.
    Several sources are read one after another as one corpus. A file that two of them
    name is read once.

    Args:
        source: one or more of
            `files:GLOB`, or only a path or a glob, in which `**` crosses folders;
            `docs:` or `docs:numpy,jax`, the documentation of packages installed here;
            `tfds:NAME[/CONFIG][:VERSION][:SPLIT][:FIELD]`, see `tfds_source`.
        num_workers: number of processes that extract `docs:`.

    Raises:
        ValueError: nothing matches, it is no name, or a file is empty or of a kind that
            is not read.
    """
    require_type("source", source, str, os.PathLike, Sequence)
    specs = [source] if isinstance(source, str | os.PathLike) else source
    if not specs:
        raise ValueError("No source is given; name one, for example files:text/*.txt.")
    for spec in specs:
        require_type("source", spec, str, os.PathLike)
    opened = [_open_one(os.fspath(spec), num_workers) for spec in specs]
    return _joined(opened)


def _joined(opened: Sequence[Source]) -> Source:
    """The sources as one, with one root for the names of all files."""
    roots = [one.root for one in opened if one.root]
    root = os.path.commonpath(roots) if roots else ""
    sections: dict[tuple[object, ...], Section] = {}
    num_named = 0
    for number, one in enumerate(opened):
        for section in one.sections:
            num_named += 1
            name = section.name
            if one.root:
                # The name was relative to the root of its own source.
                name = str(pathlib.Path(os.path.relpath(one.root, root), name))
            section = dataclasses.replace(section, name=name, source=number)
            identity = (os.path.realpath(section.path), section.split, section.field)
            sections.setdefault(identity, section)
    specs = tuple(spec for one in opened for spec in one.specs)
    return Source(
        specs, tuple(sections.values()), root, num_repeated=num_named - len(sections)
    )


def _open_one(spec: str, num_workers: int) -> Source:
    kind, colon, rest = spec.partition(":")
    if colon and kind in KINDS:
        return KINDS[kind].open(Request(spec, rest, num_workers))
    is_word = colon and kind.isalpha() and len(kind) > 1
    if is_word and not pathlib.Path(spec).exists():
        *forms, last = (known.form for known in KINDS.values())
        raise ValueError(
            f"Source {spec!r} begins with {kind!r}:, which is not a kind of source; "
            f"expected {', '.join(forms)} or {last}."
        )
    return open_files(Request(spec, spec))


def divide(
    source: Source,
    target_bytes: int,
    workspace: pathlib.Path,
    map: Callable[[Callable[[Section], Any], Iterable[Section]], Iterable[Any]] = map,
) -> tuple[Section, ...]:
    """Divides large sections of a source into ones of about `target_bytes`.

    Files are divided into ranges of bytes, Parquet into runs of row groups, archives
    into runs of members, TFDS into runs of records. Documents, their order and their
    keys stay the same. A compressed file of more than two targets is unpacked first.
    The result depends on the source and the target alone.

    Args:
        source: from `open_source`.
        target_bytes: at least 1, on disk, not compressed. Smaller sections are not joined.
        workspace: folder for unpacked files. Files that an earlier call unpacked there
            are used again; a killed call leaves none that look finished. Delete the
            folder after reading the sections.
        map: works like the built-in function; the `map` of a thread pool unpacks
            several files at a time.

    Raises:
        ValueError: a file that is divided by its content is damaged.
    """
    large = [x for x in source.sections if x.size_bytes > target_bytes]
    work = functools.partial(
        divide_section, target_bytes=target_bytes, workspace=workspace
    )
    divided = dict(zip(large, map(work, large), strict=True))
    return tuple(
        smaller
        for section in source.sections
        for smaller in divided.get(section, (section,))
    )
