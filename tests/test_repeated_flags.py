"""No flag of any command may be given twice, in whatever spelling."""

import dataclasses
import warnings
from typing import Any

import pytest
import tyro

from bert_jax import cli
from bert_jax.commands.repeated_flags import FlagError, refuse_repeated


def flags_of(name: str) -> list[tuple[list[str], bool, bool]]:
    """(spellings, whether it takes values, whether it collects) of every flag."""
    command = cli.COMMANDS[name]
    default: Any = tyro.MISSING_NONPROP
    if hasattr(command, "config_file"):
        fields = dataclasses.fields(command)
        needed = [x.name for x in fields if x.default is dataclasses.MISSING]
        default = command(**dict.fromkeys(needed, tyro.MISSING_NONPROP))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parsers = [tyro.extras.get_parser(command, default=default)]
    for action in parsers[0]._actions:
        if isinstance(action.choices, dict):  # subcommands
            parsers += action.choices.values()
    return [
        (action.option_strings, action.nargs != 0, "Append" in type(action).__name__)
        for parser in parsers
        for action in parser._actions
        if action.option_strings and "--help" not in action.option_strings
    ]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_flag_of_every_command_is_refused_twice(name):
    command = cli.COMMANDS[name]
    flags = flags_of(name)
    assert flags
    for spellings, takes_values, collects in flags:
        flag = spellings[0]
        if takes_values:
            first, other = [flag, "a"], [f"--{flag[2:].replace('-', '_')}=b"]
            shown = f"`{flag} a` and `{other[0]}`"
        else:
            first, other = [flag], [spellings[-1]]
            shown = f"`{flag}` and `{spellings[-1]}`"
        refuse_repeated(command, [*first, "--another-flag"])
        if collects:
            refuse_repeated(command, [*first, *other])
            continue
        with pytest.raises(FlagError, match="is given twice") as refused:
            refuse_repeated(command, [*first, *other])
        assert shown in str(refused.value)


def test_a_field_that_collects_its_values_may_be_repeated_at_any_depth():
    @dataclasses.dataclass
    class Inner:
        source: tyro.conf.UseAppendAction[tuple[str, ...]] = ()

    outer = dataclasses.make_dataclass("Outer", [("inner", Inner), ("size", int, 1)])
    args = ["--inner.source", "a", "--inner.source", "b"]
    refuse_repeated(outer, args)
    with pytest.raises(FlagError, match="`--size 1` and `--size=2`"):
        refuse_repeated(outer, [*args, "--size", "1", "--size=2"])


def test_what_stands_behind_two_dashes_is_no_flag():
    refuse_repeated(cli.COMMANDS["predict"], ["run", "--", "--top", "--top"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["evaluate", "r", "--cluster.kind", "none", "--cluster.kind=mpi"],
            "bert-jax: evaluate: --cluster.kind is given twice: `--cluster.kind none` and "
            "`--cluster.kind=mpi`.",
        ),
        (
            ["pretrain", "bert_tiny", "--output", "x", "--config", "bert_mini"],
            "--config is given twice: `--config bert_tiny` and `--config bert_mini`.",
        ),
        (
            ["report", "--output", "x", "--finetune", "a", "--finetune", "b"],
            "a flag of several values takes them one after the other",
        ),
    ],
    ids=["both spellings", "positional config", "several values"],
)
def test_the_command_line_says_so_and_ends_with_2(argv, message, refused):
    assert message in refused(*argv, code=2)
