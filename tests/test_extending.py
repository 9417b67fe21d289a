"""The recipes of docs/extending.md: their diffs apply, and what they add works."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter

import pytest
from page_diffs import Hunk, apply_hunk, hunks_of
from test_command_lines import ROOT

PAGE = ROOT / "docs" / "extending.md"
TITLE, *SECTIONS = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.M)
# The heading of a section with a diff ends with the name of its example.
EXAMPLES = {
    section.partition("\n")[0].rpartition(": ")[2]: section
    for section in SECTIONS
    if "```diff" in section
}
# Which file of added_code/ tries it.
TESTS = {
    "ReGLU": "test_reglu",
    "ERNIE": "test_ernie",
    "counts": "test_counts",
    "Lion": "test_lion",
    "`lines:GLOB`": "test_lines",
}


def added_lines(example: str) -> dict[str, int]:
    """Of each file that an example touches, the lines that its diff adds."""
    added: Counter[str] = Counter()
    for hunk in hunks_of(PAGE, EXAMPLES[example]):
        added[hunk.path.removeprefix("bert_jax/")] += hunk.num_added
    return dict(added)


def table_of(text: str) -> list[list[str]]:
    """The rows of the first table."""
    rows = re.findall(r"^\| (.+) \|$", text, re.M)
    return [row.split(" | ") for row in rows[2:]]


def test_every_example_is_tried():
    assert [*EXAMPLES] == [*TESTS]
    there = {path.stem for path in (ROOT / "tests" / "added_code").glob("test_*.py")}
    assert there == {*TESTS.values()}


@pytest.mark.parametrize("example", TESTS)
def test_the_tables_count_what_the_diffs_add(example):
    added = added_lines(example)
    rows = table_of(EXAMPLES[example].partition("```diff")[0])
    assert {path.strip("`"): int(lines) for path, lines in rows} == added
    [row] = [row for row in table_of(TITLE) if row[2].startswith(f"{example}: ")]
    assert row[2:] == [f"{example}: {len(added)} files", f"{sum(added.values())}"]


def test_the_page_says_how_long_files_of_the_code_are():
    named = re.findall(r"`(\w+/[\w/]+\.py)` \((\d+) lines\)", EXAMPLES["counts"])
    assert len(named) == 2
    for path, lines in named:
        text = (ROOT / "bert_jax" / path).read_text("utf-8")
        assert text.count("\n") == int(lines), path


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory) -> dict[str, list[ElementTree.Element]]:
    """What the tests of added_code/ say in a copy to which all diffs were applied."""
    copy = tmp_path_factory.mktemp("extending")
    for part in ("bert_jax", "configs", "tests"):
        shutil.copytree(ROOT / part, copy / part)  # with its bytecode
    (copy / "docs").mkdir()
    for file in ("setup.cfg", "docs/extending.md"):
        shutil.copy(ROOT / file, copy / file)
    for hunk in hunks_of(PAGE, PAGE.read_text("utf-8")):
        apply_hunk(hunk, copy)
    environment = {
        name: value for name, value in os.environ.items() if "PYTEST" not in name
    }
    slow = ["--slow"] if request.config.getoption("--slow") else []
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider"),
            *("--junitxml", copy / "outcomes.xml", *slow, "tests/added_code"),
        ],
        cwd=copy,
        env={**environment, "BERT_JAX_ADDED_CODE": "1", "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, list[ElementTree.Element]] = {}
    for case in ElementTree.parse(copy / "outcomes.xml").iter("testcase"):
        found.setdefault(case.attrib["classname"].rpartition(".")[2], []).append(case)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("example", TESTS)
def test_what_an_example_adds_works(example, outcomes):
    cases = outcomes[TESTS[example]]
    said = [part for case in cases for part in case]
    if wrong := [part.text for part in said if part.tag in ("failure", "error")]:
        pytest.fail("\n\n".join(map(str, wrong)), pytrace=False)
    if skipped := [part.attrib["message"] for part in said if part.tag == "skipped"]:
        pytest.skip(skipped[0])


BLOCK = """```diff
--- a/{path}
+++ b/{path}
@@ -1,2 +1,2 @@ somewhere
 one

-two
+three
```
"""


def test_a_hunk_that_does_not_fit_says_where(tmp_path):
    page, path = tmp_path / "page.md", "numbers.txt"
    block = BLOCK.format(path=path)
    with pytest.raises(
        ValueError, match=r"page.md, hunk 1 of numbers.txt: its @@ says"
    ):
        hunks_of(page, block)
    [hunk] = hunks_of(page, block.replace("1,2", "1,3"))
    assert hunk == Hunk(
        path,
        "page.md, hunk 1 of numbers.txt",
        False,
        "one\n\ntwo\n",
        "one\n\nthree\n",
        1,
    )
    file = tmp_path / path
    for text, times in (("one\n\n", 0), ("none\n\ntwo\n", 0), (hunk.before * 2, 2)):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"hunk 1 of numbers.txt.* {times} times"):
            apply_hunk(hunk, tmp_path)
    file.write_text(f"zero\n{hunk.before}four\n")
    apply_hunk(hunk, tmp_path)
    assert file.read_text() == "zero\none\n\nthree\nfour\n"
    with pytest.raises(ValueError, match="the file is there already"):
        apply_hunk(hunk._replace(is_new=True), tmp_path)
