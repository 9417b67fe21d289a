"""Reads the manifest of a prepared dataset for the report."""

from pathlib import Path

from bert_jax.data.prepared.format import FORMAT_VERSION, MANIFEST, SPLITS
from bert_jax.data.prepared.summary import summarize
from bert_jax.report.corpus import repeated_lines
from bert_jax.report.inputs import Record, read_object

# What the verdict of the audit is drawn from, by kind of value.
_NEEDED = {
    "table": ("tokenizer", "sha256"),
    "text": ("source", "options.read.markup"),
    "rate": ("audit.unk_share",),
    "flag": ("audit.duplicates.dropped",),
    "items": ("audit.duplicate_shards", "audit.most_repeated_lines"),
    "count": (
        "audit.lines",
        "audit.one_sentence_documents",
        *(f"audit.duplicates.{name}" for name in ("exact", "near", "leaked")),
        *(f"splits.{split}.documents" for split in SPLITS),
        *(
            f"read.{name}"
            for name in (
                *("documents", "text_bytes"),
                *("undecodable_bytes", "markup_documents"),
            )
        ),
    ),
}


def load_dataset(directory: Path) -> Record:
    """The corpus of a prepared dataset, as `data.summary.summarize` makes it.

    Only the manifest is read: the shards may be elsewhere.

    Raises:
        FileNotFoundError: there is no finished dataset.
        ValueError: the manifest is of another format, or something in it is missing or
            of another type.
    """
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} holds no finished dataset ({MANIFEST} is missing); expected "
            "a directory that `bert-jax prepare` has finished."
        )
    manifest = read_object(path)
    version = manifest.values.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version!r}; this version of bert_jax reads "
            f"{FORMAT_VERSION}. Prepare the dataset again."
        )
    for kind, names in _NEEDED.items():
        for name in names:
            if getattr(manifest, kind)(*name.split(".")) is None:
                raise ValueError(
                    f"{path}: {name} is missing; every finished dataset has it. Copy "
                    "the file again, or prepare the dataset again."
                )
    if set(manifest.values["splits"]) != set(SPLITS):
        raise ValueError(
            f"{path} has the splits {', '.join(manifest.values['splits'])}; expected "
            f"{', '.join(SPLITS)}. Prepare the dataset again."
        )
    repeated_lines(manifest)
    return Record(summarize(dict(manifest.values)), str(path))
