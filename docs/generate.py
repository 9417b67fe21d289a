"""Writes the reference of commands and settings: `python docs/generate.py`.

A test compares the committed pages with what this writes.
"""

import ast
import dataclasses
import inspect
import pathlib
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from bert_jax import cli, config

REFERENCE = pathlib.Path(__file__).parent / "reference"
_NOTE = "<!-- Written by docs/generate.py from the source; do not edit it here. -->"


class Field(typing.NamedTuple):
    """A field of a settings class, as its source has it."""

    name: str
    form: str
    default: str | None
    text: str
    flag: str | None
    """Name of its flag, where that is not the field's."""


def fields_of(settings: type) -> list[Field]:
    """The fields of a dataclass with the texts below them, those it inherits first."""
    found: dict[str, Field] = {}
    for owner in reversed(settings.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0].body
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign):
                name, hint = node.target.id, ast.unparse(node.annotation)
                default = node.value and ast.unparse(node.value)
                text = _text_of(following) or _help_of(settings, name)
                renamed = re.search(r"flag\(name='(.+?)'\)", hint)
                if hint.isidentifier() or isinstance(node.annotation, ast.Constant):
                    # The name of a list of choices, or what the command line evaluates.
                    hint = str(typing.get_type_hints(settings)[name])
                form = _form(hint)
                found[name] = Field(name, form, default, text, renamed and renamed[1])
    return list(found.values())


def _text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


def _help_of(settings: type, name: str) -> str:
    """What an `Annotated[..., tyro.conf.arg(help=...)]` says."""
    hint = typing.get_type_hints(settings, include_extras=True)[name]
    texts = (getattr(x, "help", None) for x in getattr(hint, "__metadata__", ()))
    return " ".join(" ".join(text.split()) for text in texts if text)


def _form(hint: str) -> str:
    hint = re.sub(r"Annotated\[(.*?), tyro.*\]$", r"\1", hint)
    hint = re.sub(r"tyro\.conf\.\w+\[(.*)\]$", r"\1", hint)
    hint = re.sub(r"^<class '(?:\w+\.)*(\w+)'>$", r"\1", hint)
    return (
        hint.replace("pathlib.Path", "Path")
        .replace("typing.", "")
        .replace("'", '"')
        .replace(" | ", " or ")
    )


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _parts(settings: type) -> dict[str, Any]:
    """The fields that are settings classes themselves, by name."""
    hints = typing.get_type_hints(settings)
    return {name: hint for name, hint in hints.items() if _is_settings(hint)}


def config_page() -> str:
    """Every settings class with its fields."""
    lines = [
        "# Settings",
        _NOTE,
        "Each class is one of `bert_jax.config`. A config file builds them, a run stores them, and each field is a flag: `learning_rate` of `OptimizerConfig` is "
        "`--optimizer.learning-rate`. Choices are written as in Python.",
    ]
    prefixes: dict[str, list[str]] = {}
    for whole in (config.PretrainConfig, config.FinetuneConfig):
        hints = typing.get_type_hints(whole, include_extras=True)
        for name, part in _parts(whole).items():
            has_prefix = not hasattr(hints[name], "__metadata__")
            flags = f"`--{name}.…`" if has_prefix else "those without a prefix"
            flag = f"{flags} of {whole.__name__}"
            prefixes.setdefault(part.__name__, []).append(flag)
    for name in sorted(config.__all__):
        settings = getattr(config, name)
        if not _is_settings(settings):
            continue
        about = inspect.getdoc(settings) or ""
        lines += [f"## {name}", about]
        if name in prefixes:
            lines.append(f"Flags: {', '.join(prefixes[name])}.")
        own = [field for field in fields_of(settings) if not field.name.startswith("_")]
        table = [
            _row("field", "type and default", "meaning"),
            "| --- | --- | --- |",
        ]
        for field in own:
            default = "required" if field.default is None else f"`{field.default}`"
            form = f"`{field.form}`, {default}"
            shown = f"`{field.name}`" + (f" (`--{field.flag}`)" if field.flag else "")
            table.append(_row(shown, form, field.text))
        lines.append("\n".join(table))
    return "\n\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its own flags."""
    lines = [
        "# Commands",
        _NOTE,
        "`bert-jax COMMAND --help` prints all flags of a command, those of its [settings](config.md) too. Below are the flags that are a command's own.",
    ]
    for name, command in _commands():
        lines += [f"## {name}", inspect.getdoc(command) or ""]
        own = [
            _row(f"`{flag}`", _shown(field.default), field.text)
            for flag, field in _flags(command)
        ]
        if own:
            head = [_row("flag", "default", "meaning"), "| --- | --- | --- |"]
            lines.append("\n".join([*head, *own]))
        links = sorted(
            {
                f"[{x.__name__}](config.md#{x.__name__.lower()})"
                for x in _parts(command).values()
                if hasattr(config, x.__name__)
            }
        )
        if links:
            lines.append(f"Settings: {', '.join(links)}.")
    return "\n\n".join(lines) + "\n"


def _commands() -> Iterator[tuple[str, type]]:
    """Each command by its name; behind it those of its subcommands."""
    for name, command in cli.COMMANDS.items():
        yield name, command
        for hint in typing.get_type_hints(command).values():
            for part in filter(_is_settings, typing.get_args(hint)):
                yield f"{name} {part.__name__.lower()}", part


def _flags(command: type) -> Iterator[tuple[str, Field]]:
    """The flags that are a command's own, also those of a class that is no settings."""
    parts = _parts(command)
    hints = typing.get_type_hints(command, include_extras=True)
    for field in fields_of(command):
        hint = str(hints[field.name])
        if field.name in parts:
            if not hasattr(config, parts[field.name].__name__):
                yield from _flags(parts[field.name])
        elif field.text and field.name[0] != "_" and "Suppress" not in hint:
            shown = field.name.removeprefix("config_file") or "config"
            shown = {"run_dir": "run"}.get(shown, shown)
            is_first = "Positional" in hint
            yield shown.upper() if is_first else f"--{shown.replace('_', '-')}", field


def _shown(default: str | None) -> str:
    """A default as a flag has it; of one that no flag could say, the text speaks."""
    if default is None:
        return "required"
    if default in ("None", "()"):
        return ""
    value = re.sub(r"^pathlib\.Path\((.*)\)$", r"\1", default).strip("'")
    return {"False": "off", "True": "on"}.get(value, f"`{value}`")


PAGES = {"commands.md": commands_page, "config.md": config_page}


def main() -> None:
    """Writes both pages."""
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
