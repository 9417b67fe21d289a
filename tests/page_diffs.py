"""The diffs of a page: read, and applied where their lines stand exactly once."""

import pathlib
import re
from typing import NamedTuple

_BLOCK = re.compile(r"^```diff\n(.*?)^```", re.M | re.S)
_FILE = re.compile(r"^--- (?:a/)?(?P<before>\S+)\n\+\+\+ b/(?P<path>\S+)\n", re.M)
_HUNK = re.compile(r"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*\n", re.M)


class Hunk(NamedTuple):
    """Lines that stand together, and what a diff makes of them."""

    path: str
    """Of the file, from the root of the repository."""
    place: str
    """Page, file and number of the hunk in that file, for messages."""
    is_new: bool
    """Whether it is a whole file that is not there yet."""
    before: str
    after: str
    num_added: int


def hunks_of(page: pathlib.Path, text: str) -> list[Hunk]:
    """All hunks of the diffs in a part of a page.

    Raises:
        ValueError: a hunk does not have as many lines as its `@@` says, or there are
            lines that belong to none.
    """
    found = []
    for block in _BLOCK.findall(text):
        outside, *files = _FILE.split(block)
        for before, path, body in zip(*[iter(files)] * 3, strict=True):
            before_hunks, *hunks = _HUNK.split(body)
            outside += before_hunks
            whole = zip(*[iter(hunks)] * 3, strict=True)
            for number, (old, new, lines) in enumerate(whole, 1):
                place = f"{page.name}, hunk {number} of {path}"
                is_new = before == "/dev/null"
                found.append(_hunk(path, place, is_new, old, new, lines))
        if outside:
            raise ValueError(
                f"{page.name}: a diff has {outside!r} before the first --- or @@."
            )
    return found


def _hunk(path: str, place: str, is_new: bool, old: str, new: str, body: str) -> Hunk:
    lines = [line or " " for line in body.splitlines()]  # an empty line stays
    if wrong := [line for line in lines if line[0] not in " +-"]:
        raise ValueError(f"{place}: {wrong[0]!r} begins with none of ' ', + and -.")
    before, after = (
        [line[1:] for line in lines if line[0] in signs] for signs in (" -", " +")
    )
    stated = tuple(1 if n is None else int(n) for n in (old or None, new or None))
    if (len(before), len(after)) != stated:
        raise ValueError(
            f"{place}: its @@ says {stated[0]} lines before and {stated[1]} after, but it "
            f"has {len(before)} and {len(after)}."
        )
    added = sum(line[0] == "+" for line in lines)
    return Hunk(path, place, is_new, _joined(before), _joined(after), added)


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def apply_hunk(hunk: Hunk, root: pathlib.Path) -> None:
    """Changes a file below `root`, or makes it.

    Raises:
        ValueError: the lines before do not stand exactly once in the file, or a new file
            is there already.
    """
    path = root / hunk.path
    if hunk.is_new:
        if path.exists():
            raise ValueError(f"{hunk.place}: the file is there already.")
        path.write_text(hunk.after, encoding="utf-8")
        return
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    before, after = hunk.before.splitlines(), hunk.after.splitlines()
    size = len(before)
    starts = [n for n in range(len(lines)) if lines[n : n + size] == before]
    if len(starts) != 1:
        raise ValueError(
            f"{hunk.place}: the lines that it changes stand {len(starts)} times in the file; "
            "expected once. Make the change in today's file and put its diff on the page."
        )
    lines[starts[0] : starts[0] + size] = after
    path.write_text(_joined(lines), encoding="utf-8")
