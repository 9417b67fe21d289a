"""The sample of text that short measurements work on."""

import json
from collections.abc import Iterator

from benchmarks.data_settings import DataSettings
from benchmarks.measure import Findings


def write_sample(settings: DataSettings, findings: Findings) -> None:
    """Writes the first documents of the source as JSONL, `text` and `group` of each.

    The first ones, not a random choice: neighbours share their words as they do when a
    shard is prepared.
    """
    num_bytes = num_documents = 0
    with settings.sample.open("w", encoding="utf-8") as file:
        for text, group in _documents(settings.source):
            file.write(json.dumps({"text": text, "group": group}) + "\n")
            num_bytes += len(text.encode())
            num_documents += 1
            if num_bytes >= settings.sample_bytes:
                break
    findings.figure("text of the sample", "MB", num_bytes / 1e6)
    findings.figure("documents of the sample", "", num_documents)


def _documents(source: str) -> Iterator[tuple[str, str]]:
    from bert_jax.data.text.reading import read_section
    from bert_jax.data.text.sources import open_source

    for section in open_source(source).sections:
        for document in read_section(section):
            yield document.text, document.group


def read_sample(settings: DataSettings, num_bytes: int | None = None) -> list[str]:
    """Texts of the sample, from the first, until there are `num_bytes` of them.

    Raises:
        ValueError: there is no sample.
    """
    if not settings.sample.exists():
        raise ValueError(f"{settings.sample} is missing; run the section `sample` too.")
    texts: list[str] = []
    total = 0
    with settings.sample.open(encoding="utf-8") as file:
        for line in file:
            if num_bytes is not None and total >= num_bytes:
                break
            texts.append(json.loads(line)["text"])
            total += len(texts[-1].encode())
    return texts


def slices(texts: list[str], count: int) -> list[list[str]]:
    """Neighbouring texts in `count` parts of about equal bytes, none of them empty.

    Raises:
        ValueError: there are fewer texts than parts.
    """
    if len(texts) < count:
        raise ValueError(
            f"{len(texts)} documents cannot be shared by {count} repetitions; give a "
            "larger source."
        )
    sizes = [len(text.encode()) for text in texts]
    parts: list[list[str]] = [[] for _ in range(count)]
    part, taken, total = 0, 0, sum(sizes)
    for number, (text, size) in enumerate(zip(texts, sizes, strict=True)):
        parts[part].append(text)
        taken += size
        texts_left, parts_left = len(texts) - number - 1, count - part - 1
        full = taken >= total * (part + 1) / count
        if parts_left and (full or texts_left == parts_left):
            part += 1
    return parts
