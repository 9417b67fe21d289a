"""What a manifest says: problems, a description, and what a run keeps of it."""

import copy
import re
import subprocess
from typing import Any

import pytest
from report_runs import MANIFEST

from bert_jax.data.hashes import file_sha256
from bert_jax.data.prepared.summary import describe, problems, summarize


@pytest.fixture
def manifest() -> dict[str, Any]:
    return copy.deepcopy(MANIFEST)


def test_everything_but_the_list_of_files_is_kept(manifest):
    kept = summarize(manifest)
    for name in ("source", "options", "tokenizer", "splits", "read", "audit"):
        assert kept[name] == MANIFEST[name]
    assert len(kept["sha256"]) == 64


def test_the_verdict_is_part_of_it(manifest):
    found = summarize(manifest)["problems"]
    assert [problem.split(":")[0] for problem in found] == [
        "held-out documents that also stand in the training split",
        "shards with the same content",
    ]
    manifest["audit"]["duplicates"]["leaked"] = 0
    manifest["audit"]["duplicate_shards"] = []
    assert summarize(manifest)["problems"] == []


def test_the_hash_is_that_of_the_shell(manifest, tmp_path):
    names = [
        f"documents-{split}.array_record-0000{number}-of-00002"
        for split in ("validation", "train")
        for number in (1, 0)
    ]
    for name in names:
        (tmp_path / name).write_text(f"the content of {name}")
    manifest["sha256"] = {name: file_sha256(tmp_path / name) for name in names}
    printed = subprocess.run(
        "sha256sum *.array_record-* | sha256sum",
        shell=True,
        cwd=tmp_path,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert summarize(manifest)["sha256"] == printed.stdout.split()[0]


def test_the_hash_knows_files_and_names_but_no_order(manifest):
    before = summarize(manifest)["sha256"]
    backwards = dict(reversed(manifest["sha256"].items()))
    assert summarize(manifest | {"sha256": backwards})["sha256"] == before
    one, other, *_ = backwards
    swapped = backwards | {one: backwards[other], other: backwards[one]}
    assert summarize(manifest | {"sha256": swapped})["sha256"] != before


@pytest.fixture
def sound() -> dict:
    """The manifest of a corpus without problems."""
    split = {"documents": 100, "sentences": 900, "tokens": 9_000, "bytes": 36_000}
    read = dict.fromkeys(
        (
            *("undecodable_bytes", "control_characters", "empty_documents"),
            *("cut_documents", "markup_documents", "markup_elements"),
            "paragraph_documents",
        ),
        0,
    )
    return {
        "splits": {
            "train": {**split, "unigram_entropy": 6.0},
            "validation": {**split, "unigram_entropy": 6.0},
        },
        "sources": [
            {**read, "source": "files:a/*", "files": 2, "documents": 150}
            | {"text_bytes": 50_000, "disk_bytes": 9_000},
            {**read, "source": "docs:", "files": 1, "documents": 50}
            | {"text_bytes": 22_000, "disk_bytes": 30_000},
        ],
        "files_named_again": 0,
        "options": {
            "near_threshold": 0.8,
            "validation_fraction": 0.5,
            "read": {"markup": "keep"},
        },
        "read": {**read, "documents": 200, "text_bytes": 72_000}
        | {"characters": 72_000},
        "audit": {
            "unk_share": 1e-4,
            "lines": 5_000,
            "one_sentence_documents": 20,
            "documents_without_tokens": 0,
            "most_repeated_lines": [["References", 90]],
            "duplicate_shards": [],
            "duplicates": {"exact": 1, "near": 5, "leaked": 0, "dropped": False},
        },
    }


SPOILT = {
    r"\[UNK\] among the tokens: 2\.00%": ("audit", "unk_share", 0.02),
    r"copies of other documents: 1\.50%.*--duplicates drop": (
        *("audit", "duplicates", "exact"),
        3,
    ),
    r"near copies of other documents: 5\.50%": ("audit", "duplicates", "near", 11),
    r"held-out documents that also .* 2\.00%": ("audit", "duplicates", "leaked", 2),
    r"shards with the same content: \[\[0, 3\]\]": (
        *("audit", "duplicate_shards"),
        [[0, 3]],
    ),
    r"one line, 'Click here', among all lines: 4\.00%": (
        *("audit", "most_repeated_lines"),
        [["Click here", 200]],
    ),
    r"documents of one sentence: 75\.00%": ("audit", "one_sentence_documents", 150),
    r"bytes that are not UTF-8: 0\.50%": ("read", "undecodable_bytes", 360),
    r"markup a character: 0\.50%.*strip": ("read", "markup_elements", 360),
}


@pytest.mark.parametrize("message", SPOILT)
def test_each_mistake_is_named(sound, message):
    assert problems(sound) == []
    *path, name, value = SPOILT[message]
    table = sound
    for step in path:
        table = table[step]
    table[name] = value
    (problem,) = problems(sound)
    assert re.search(message, problem)


def test_what_was_dropped_or_stripped_is_no_problem(sound):
    spoilt = copy.deepcopy(sound)
    spoilt["audit"]["duplicates"] |= {"exact": 90, "near": 90, "leaked": 9}
    spoilt["read"]["markup_elements"] = 7_200
    assert len(problems(spoilt)) == 4
    spoilt["audit"]["duplicates"]["dropped"] = True
    spoilt["options"]["read"]["markup"] = "strip"
    assert problems(spoilt) == []


def test_a_description_holds_the_numbers(sound):
    text = "\n".join(describe(sound))
    assert "train: 100 documents, 900 sentences, 9,000 tokens" in text
    assert "1 copy of documents, kept, 5 near copies; 0 held-out" in text
    assert "source files:a/*: 150 documents of 50,000 bytes of text, from 2 " in text
    assert "not UTF-8" not in text
    sound["splits"]["train"] |= {"documents": 1, "sentences": 1, "tokens": 1}
    assert "train: 1 document, 1 sentence, 1 token, uni" in describe(sound)[2]
    sound["options"]["near_threshold"] = 0.0
    assert "near copies not looked for" in "\n".join(describe(sound))
    sound["sources"][1] |= {"undecodable_bytes": 1_234, "empty_documents": 2}
    sound["files_named_again"] = 7
    text = "\n".join(describe(sound))
    assert "30,000 bytes; 2 empty ones left out; 1,234 bytes not UTF-8" in text
    assert "read once: 7" in text


def test_paragraphs_of_books_name_the_way_to_read_them(sound):
    sound["read"]["paragraph_documents"] = 190
    sound["splits"]["train"]["documents"] = sound["splits"]["validation"]["documents"]
    [problem] = problems(sound)
    assert "190 documents from 3 files, on average of 90 tokens" in problem
    assert "--read.documents file" in problem
    sound["sources"][0]["files"] = 10
    assert problems(sound) == []


@pytest.mark.parametrize("tokens", [900, 90_000])
def test_the_share_of_held_out_tokens_is_judged_not_only_documents(sound, tokens):
    sound["splits"]["validation"]["tokens"] = tokens
    sound["options"]["validation_fraction"] = 0.5 if tokens == 900 else 0.1
    [problem] = problems(sound)
    share = tokens / (tokens + 9_000)
    assert problem.startswith(f"held-out tokens: {share:.2%} of all, in 100 documents")
