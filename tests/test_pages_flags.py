"""What the pages name exists: flags in their sentences, and messages of the program."""

import errno
import functools
import os
import re

import pytest
from test_command_lines import PAGES, ROOT
from test_repeated_flags import flags_of

from bert_jax import cli

_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# These pages name flags of other programs, or such as an example would add.
_OF_OTHERS = {"coming_from.md", "extending.md"}
_ELSEWHERE = {
    *("--help", "--version", "--completion", "--debug", "--no-deps"),
    *("--model", "--a-b", "--a_b", "--x", "--no-x"),  # stand for others
    # pytest, hf, mkdocs, docker, pip, XLA
    *(
        "--xla_gpu_exclude_nondeterministic_ops",
        "--slow",
        "--local-dir",
        "--strict",
        "--build-arg",
        "--index-url",
    ),
    *("--runner", "--dataset", "--tasks", "--minutes", "--processes", "--devices"),
}


@functools.cache
def known_flags() -> set[str]:
    return {
        spelling
        for name in cli.COMMANDS
        for spellings, *_ in flags_of(name)
        for spelling in spellings
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_flag_that_a_page_names_exists(page):
    if page.name in _OF_OTHERS:
        pytest.skip("names flags of other programs")
    named = {
        flag
        for span in _SPAN.findall(page.read_text("utf-8"))
        for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", span)
        if not flag.endswith(".")  # `--model.…` stands for all of them
    }
    assert not named - known_flags() - _ELSEWHERE


def test_every_message_of_troubleshooting_is_one_of_the_program():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    table = page.partition("## By message")[2].partition("## By symptom")[0]
    said = _texts_of_the_program()
    fragments = [
        part.strip()
        for row in table.splitlines()
        if row.startswith("| `")
        for span in _SPAN.findall(row.split(" | ")[0])
        for part in span.split("…")
    ]
    fragments = [fragment for fragment in fragments if len(fragment) > 8]
    assert len(fragments) > 15
    assert not [fragment for fragment in fragments if fragment not in said]


def _texts_of_the_program() -> str:
    """The source of the package, with strings that are written one after the other joined."""
    sources = "\n".join(
        path.read_text("utf-8") for path in sorted((ROOT / "bert_jax").rglob("*.py"))
    )
    said = "\n".join(os.strerror(number) for number in errno.errorcode)
    return re.sub(r'"\s*\n\s*f?"', "", sources) + said.replace("No space", "no space")
