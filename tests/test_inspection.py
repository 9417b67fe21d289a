"""What `bert-jax inspect` shows, in every unit of masking."""

import re

import pytest

from bert_jax import cli
from bert_jax.config import DataConfig, MaskingConfig
from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.train.inspection import describe_rows

TOKEN = re.compile(r"\[(?P<shown>\S+)\|was (?P<truth>\S+)\]|(?P<plain>\S+)")


@pytest.fixture(scope="module")
def dataset(dataset):
    return open_dataset(dataset)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_rows_are_shown_with_what_is_hidden(dataset, unit):
    lines = list(
        describe_rows(
            dataset,
            DataConfig(sequence_length=64),
            MaskingConfig(unit=unit, rate=0.3, mask_share=0.5, random_share=0.3),
            split="train",
            first_row=2,
            num_rows=8,
            seed=0,
        )
    )
    heads = [n for n, line in enumerate(lines) if line.startswith("row ")]
    assert [lines[n].split(":")[0] for n in heads] == [f"row {n}" for n in range(2, 10)]
    num_torn = 0
    for start, end in zip(heads, [*heads[1:], len(lines)], strict=True):
        num_hidden = 0
        for line in lines[start + 1 : end]:
            _, label, text = re.split("(A: |B: |$)", line, maxsplit=1)
            was_hidden = None
            for token in TOKEN.finditer(text if label else ""):
                piece = token["truth"] or token["plain"]
                is_hidden = token["plain"] is None
                num_hidden += is_hidden
                if was_hidden is not None and piece[0] not in "▁[":
                    num_torn += was_hidden != is_hidden
                was_hidden = None if piece[0] == "[" else is_hidden
        assert f" {num_hidden} hidden" in lines[start]
        assert 10 <= num_hidden <= 19
    assert (num_torn > 0) == (unit == "token"), "words of which a part is hidden"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (("--rows", "0"), r"--rows 0 must be greater than 0\."),
        (("--first-row", "-1"), r"--first-row -1 is negative\."),
        (("--seed", "-1"), r"seed=-1 is not in \[0, 2\*\*32\)\."),
    ],
)
def test_rows_that_do_not_exist_are_refused(flag, message, capsys):
    with pytest.raises(SystemExit):
        cli.main(["inspect", "dataset", *flag])
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    "flags", [("--first-row", "100000000"), ("--rows", "10000000")]
)
def test_rows_that_take_forever_to_find_are_refused(dataset, flags, refused):
    said = refused("inspect", dataset.directory, *flags)
    assert " ".join(flags) in said
    assert re.search(r"an epoch of the split 'train' has about \d+ rows here", said)
