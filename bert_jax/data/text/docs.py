"""The embedded corpus: the documentation of the installed Python packages.

Docstrings are read from source files with `ast`; nothing is imported or downloaded.
One docstring becomes one document of prose with one paragraph per line.
"""

import ast
import collections
import glob
import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import pathlib
import platform
import re
import signal
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from bert_jax.data.atomic_file import write_atomically
from bert_jax.data.cache_folder import cache_folder
from bert_jax.data.text.docstrings import prose
from bert_jax.data.text.files_source import open_files
from bert_jax.data.text.sections import Request, Source
from bert_jax.data.worker_lifetime import kept_from

FILE_PATTERN = "documents-?????-of-?????.jsonl"
STANDARD_LIBRARY = "python"
# A fixed list, so that other installed packages do not change the corpus.
DEFAULT_PACKAGES = (
    *(STANDARD_LIBRARY, "numpy", "scipy", "sklearn", "jax", "flax", "optax"),
    *("orbax", "matplotlib", "grain", "tensorflow_datasets"),
)
MIN_DOCSTRING_CHARS = 200
MIN_PROSE_CHARS = 100
MAX_PARAGRAPH_REPEATS = 3
# Stored in corpus.json. Raise it when the same packages would give other documents.
CORPUS_VERSION = 1
# Most files to write; several can be read in parallel.
_FILES = 8

_DISTRIBUTIONS = {"sklearn": "scikit-learn", "orbax": "orbax-checkpoint"}
_SKIPPED_FOLDERS = re.compile(
    r"tests?|__pycache__|idlelib|lib2to3|(site|dist)-packages|ensurepip|turtledemo|"
    r"externals?|_external|extern|_?vendor(ed)?|array_api_\w+"
)
_SKIPPED_FILES = re.compile(r"test_.*|.*_tests?|conftest")
_TRIPLE_QUOTE = re.compile(rb"\"\"\"|'''")

_BLOCK_STATEMENTS = (ast.If, ast.Try, ast.With, ast.For, ast.While)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class SourceFile(NamedTuple):
    """A Python file of a package."""

    library: str
    module: str
    path: str


class DocRecord(NamedTuple):
    """One docstring: where it stands, and its prose."""

    library: str
    module: str
    name: str
    paragraphs: tuple[str, ...]


def open_docs(request: Request) -> Source:
    """The files of `docs:` or `docs:numpy,jax`, written to the user's cache if need be.

    Raises:
        ValueError: as for `write_docs_corpus`.
    """
    packages = [name.strip() for name in request.rest.split(",") if name.strip()]
    folder = cache_folder("-".join(["docs", *packages]))
    write_docs_corpus(
        folder, packages=packages or None, num_workers=request.num_workers
    )
    pattern = f"{glob.escape(str(folder))}/{FILE_PATTERN}"
    return Source((request.spec,), open_files(request._replace(rest=pattern)).sections)


def write_docs_corpus(
    output: pathlib.Path,
    *,
    packages: Sequence[str] | None = None,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes the documentation of installed packages as JSON lines.

    The bytes depend on the packages and their versions only, not on the number of
    workers. `corpus.json` is written last. Nothing is done if the folder holds a whole
    corpus of the same packages and versions.

    Args:
        output: folder for `documents-0000k-of-0000n.jsonl` and `corpus.json`.
        packages: names of top-level packages; "python" is the standard library. `None`
            takes those of DEFAULT_PACKAGES that are installed.
        num_workers: number of processes that read source files.
        progress: called with (source files done, all source files).

    Returns:
        The content of corpus.json (counts, hashes, versions, documents and characters
        of each library).

    Raises:
        ValueError: a named package is not installed, or nothing is documented.
    """
    roots = find_packages(packages)
    identity = {
        "version": CORPUS_VERSION,
        "packages": {name: _package_version(name) for name in roots},
        "requested_files": _FILES,
    }
    kept = _complete_corpus(output, identity)
    if kept is not None:
        return kept

    files = [f for name, root in roots.items() for f in _source_files(name, root)]
    records = _without_repeats(_extract_all(files, num_workers, progress))
    if not records:
        raise ValueError(
            f"The packages {', '.join(roots)} hold no docstring of more than "
            f"{MIN_DOCSTRING_CHARS} characters; name others, or use files:GLOB."
        )
    output.mkdir(parents=True, exist_ok=True)
    manifest = output / "corpus.json"
    manifest.unlink(missing_ok=True)
    for stale in output.glob(FILE_PATTERN):
        stale.unlink()
    num_files = min(_FILES, len(records))
    hashes = {}
    for k in range(num_files):
        first, last = (len(records) * j // num_files for j in (k, k + 1))
        body = "".join(map(_as_json_line, records[first:last])).encode()
        name = f"documents-{k:05d}-of-{num_files:05d}.jsonl"
        write_atomically(output / name, body)
        hashes[name] = hashlib.sha256(body).hexdigest()
    libraries = {name: {"documents": 0, "characters": 0} for name in roots}
    for record in records:
        libraries[record.library]["documents"] += 1
        libraries[record.library]["characters"] += len("\n".join(record.paragraphs))
    summary = identity | {
        "documents": len(records),
        "characters": sum(item["characters"] for item in libraries.values()),
        "libraries": libraries,
        "files": hashes,
    }
    write_atomically(manifest, json.dumps(summary, indent=2) + "\n")
    return summary


def find_packages(
    packages: Sequence[str] | None = None,
) -> dict[str, list[pathlib.Path]]:
    """The folders or files of each package's source, in order; imports none of them.

    Raises:
        ValueError: a named package is not installed.
    """
    found = {}
    for name in dict.fromkeys(packages or DEFAULT_PACKAGES):
        if name == STANDARD_LIBRARY:
            found[name] = [pathlib.Path(sysconfig.get_path("stdlib"))]
            continue
        # For a dotted name, find_spec would import the parent package.
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is not None and spec.submodule_search_locations:
            found[name] = sorted(map(pathlib.Path, spec.submodule_search_locations))
        elif spec is not None and spec.origin and spec.origin.endswith(".py"):
            found[name] = [pathlib.Path(spec.origin)]
        elif packages:
            raise ValueError(
                f"docs: package {name!r} is not installed here; expected top-level "
                f"names such as {', '.join(DEFAULT_PACKAGES)}."
            )
    return found


def _package_version(name: str) -> str:
    if name == STANDARD_LIBRARY:
        return platform.python_version()
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _complete_corpus(
    output: pathlib.Path, identity: dict[str, Any]
) -> dict[str, Any] | None:
    try:
        summary = json.loads((output / "corpus.json").read_text())
        whole = identity.items() <= summary.items() and all(
            hashlib.sha256((output / name).read_bytes()).hexdigest() == digest
            for name, digest in summary["files"].items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return summary if whole else None


def _as_json_line(record: DocRecord) -> str:
    group = f"{record.library}:{record.module}"
    fields = {
        "text": "\n".join(record.paragraphs),
        "key": f"{group}:{record.name}",
        "group": group,
        "library": record.library,
    }
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _source_files(library: str, roots: Iterable[pathlib.Path]) -> list[SourceFile]:
    files = []
    for root in roots:
        if root.is_file():
            files.append(SourceFile(library, library, str(root)))
            continue
        prefix = () if library == STANDARD_LIBRARY else (library,)
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(
                name for name in subfolders if not _SKIPPED_FOLDERS.fullmatch(name)
            )
            for name in sorted(names):
                path = pathlib.Path(folder, name)
                if path.suffix == ".py" and not _SKIPPED_FILES.fullmatch(path.stem):
                    parts = prefix + path.relative_to(root).with_suffix("").parts
                    module = ".".join(parts).removesuffix(".__init__")
                    files.append(SourceFile(library, module, str(path)))
    return files


def _extract_all(
    files: list[SourceFile],
    num_workers: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[DocRecord]:
    def counted(results: Iterable[list[DocRecord]]) -> Iterator[DocRecord]:
        for done, records in enumerate(results, start=1):
            yield from records
            if progress is not None:
                progress(done, len(files))

    if num_workers <= 1:
        yield from counted(map(_extract_file, files))
        return
    # A forked child would be unsafe, because JAX has threads.
    with kept_from([signal.SIGINT]):
        pool = multiprocessing.get_context("spawn").Pool(num_workers)
    with pool:
        yield from counted(pool.imap(_extract_file, files, chunksize=16))


def _extract_file(file: SourceFile) -> list[DocRecord]:
    source = pathlib.Path(file.path).read_bytes()
    if file.module != "pydoc_data.topics" and not _has_long_string(source):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escapes in strings
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return []  # a template, or a file for another version of Python
    found = _topics(tree) if file.module == "pydoc_data.topics" else _docstrings(tree)
    records: dict[str, DocRecord] = {}
    for name, text in found:
        if len(text) > MIN_DOCSTRING_CHARS:
            paragraphs = prose(text)
            if sum(map(len, paragraphs)) >= MIN_PROSE_CHARS:
                # Overloads and branches can define one name several times.
                unique = name
                while unique in records:
                    unique += "'"
                records[unique] = DocRecord(
                    file.library, file.module, unique, paragraphs
                )
    return list(records.values())


def _has_long_string(source: bytes) -> bool:
    """Whether a file may hold a long docstring; a fast test, since parsing is slow."""
    opening = _TRIPLE_QUOTE.search(source)
    while opening:
        end = source.find(opening[0], opening.end())
        if end < 0 or end - opening.end() > MIN_DOCSTRING_CHARS:
            return True
        opening = _TRIPLE_QUOTE.search(source, end + 3)
    return False


def _docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields (qualified name, docstring) of a module and of all that it defines."""
    if text := ast.get_docstring(tree, clean=False):
        yield "", text
    pending: list[tuple[str, ast.AST]] = [("", node) for node in reversed(tree.body)]
    while pending:
        prefix, node = pending.pop()
        children: list[ast.AST] = []
        if isinstance(node, _DEFINITIONS):
            prefix = f"{prefix}.{node.name}".lstrip(".")
            if text := ast.get_docstring(node, clean=False):
                yield prefix, text
            children = [*node.body]
        elif isinstance(node, _BLOCK_STATEMENTS):
            children = [*node.body, *getattr(node, "orelse", [])]
            for handler in getattr(node, "handlers", []):
                children += handler.body
            children += getattr(node, "finalbody", [])
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _added_docs(node.value)
        pending += [(prefix, child) for child in reversed(children)]


def _added_docs(call: ast.Call) -> Iterator[tuple[str, str]]:
    """Yields docstrings from calls add_newdoc(place, name, doc or (name, doc)) in NumPy."""
    if not ast.unparse(call.func).rpartition(".")[2].startswith("add_newdoc"):
        return
    strings = [
        node.value
        for argument in call.args
        for node in ast.walk(argument)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    names: list[str] = []
    for text in strings:
        if "\n" in text or len(text) > MIN_DOCSTRING_CHARS:
            yield ".".join(names[1:] or names), text
            names = names[:2]
        else:
            names.append(text)


def _topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields the chapters of the language reference that `help()` shows."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    yield str(key.value), str(value.value)


def _without_repeats(records: Iterable[DocRecord]) -> list[DocRecord]:
    """Drops documents seen before, and paragraphs seen several times before."""
    seen: set[tuple[str, ...]] = set()
    counts: collections.Counter[str] = collections.Counter()
    kept = []
    for record in records:
        if record.paragraphs in seen:
            continue
        seen.add(record.paragraphs)
        fresh = []
        for paragraph in record.paragraphs:
            # Sentences that differ only in names and numbers count as the same.
            shape = " ".join(w.lower() for w in paragraph.split() if w.isalpha())
            counts[shape] += 1
            if counts[shape] <= MAX_PARAGRAPH_REPEATS:
                fresh.append(paragraph)
        if sum(map(len, fresh)) >= MIN_PROSE_CHARS:
            kept.append(record._replace(paragraphs=tuple(fresh)))
    return kept
