"""Every `bert-jax` command line of the README and of docs/ has flags that exist."""

import pathlib
import re
import shlex

import pytest

from bert_jax import cli

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# A block is a line of its own; a span stands in a sentence or in a cell of a table.
_CODE = re.compile(
    r"^```\w*\n(?P<block>.*?)^```|(?<!`)`(?P<span>[^`\n]+)`(?!`)", re.M | re.S
)
_COMMAND = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?bert-jax (?P<rest>.+)")


def commands_of(page: str) -> list[list[str]]:
    """The arguments of every `bert-jax` command line that a page shows.

    Left out is what only names a command, such as `bert-jax import`, and what is not
    whole: lines with …, a COMMAND or a CONFIG.
    """
    found = []
    for code in _CODE.finditer(page):
        text = (code["block"] or code["span"]).replace("\\\n", " ")
        for part in re.split(r"\n|&&", text):
            if match := _COMMAND.match(part.strip()):
                words = shlex.split(match["rest"].removesuffix(" &"), comments=True)
                is_name = code["span"] is not None and len(words) == 1
                if not is_name and not {"…", "COMMAND", "CONFIG"} & {*words}:
                    found.append(words)
    return found


def test_commands_are_found_wherever_a_page_shows_them():
    page = (
        "Use `bert-jax fill run --top 2`, `bert-jax fill` or `bert-jax pretrain …`.\n```bash\n"
        "cd x && bert-jax predict a 'b c' --top 3  # --none\n$ bert-jax serve a \\\n"
        "    --port 1 &\nbert-jax is a line of output\n```\n"
    )
    assert commands_of(page) == [
        ["fill", "run", "--top", "2"],
        ["predict", "a", "b c", "--top", "3"],
        ["serve", "a", "--port", "1"],
        ["is", "a", "line", "of", "output"],
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_of_the_pages_parses(page, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    wrong = []
    for name, *rest in commands_of(page.read_text(encoding="utf-8")):
        try:
            if name in ("--help", "--version", "--completion"):
                continue
            command = cli.parse(name, rest)
            if name == "pretrain" and not command.settings.data.datasets:
                wrong.append(f"{shlex.join([name, *rest])}: no --data.dataset")
        except KeyError:
            wrong.append(f"bert-jax {name}: no such command")
        except SystemExit as stop:
            if stop.code:
                wrong.append(f"{shlex.join([name, *rest])}\n{capsys.readouterr().err}")
        except (ValueError, OSError) as error:
            wrong.append(f"{shlex.join([name, *rest])}: {error}")
    assert not wrong, "\n".join(wrong)
