"""Reads documents from the rows of Parquet files."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from bert_jax.config import ReadOptions
from bert_jax.data.text.formats import Record, identity
from bert_jax.data.text.splitting import split_text
from bert_jax.data.text.streams import Window, without_compression

_ROWS_AT_ONCE = 64
# Pages are read one by one, because a row group can be larger than the memory.
_BUFFER_BYTES = 1 << 20


def is_parquet(name: str) -> bool:
    return without_compression(name).lower().endswith(".parquet")


def row_group_bytes(file: Any, name: str) -> list[int]:
    """The size of each row group in bytes, not compressed.

    Args:
        file: a file that can seek.
        name: for messages.

    Raises:
        ValueError: the file is not Parquet, or damaged.
    """
    metadata = _open(file, name).metadata
    return [
        metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups)
    ]


def read_parquet(
    file: Window | IO[bytes],
    name: str,
    options: ReadOptions,
    *,
    start: int = 0,
    end: int | None = None,
) -> Iterator[Record]:
    """Yields the rows of the row groups [start, end).

    Keys and groups are taken from columns "key", "group" and "url", see
    `formats.identity`. Without a column "key", the key is `name#row`.

    Args:
        file: the file at its beginning; if it is not a `Window`, a temporary copy of it
            is read.
        name: how keys begin; also for messages.
        options: `text_field` is the name of the column with the text.
        start: first row group.
        end: first row group behind the range; `None` reads to the end.

    Raises:
        ValueError: the file is not Parquet or damaged, or has no such column of text.
    """
    import pyarrow as pa

    with contextlib.ExitStack() as stack:
        # Streams out of archives and compressed files cannot seek.
        if not isinstance(file, Window):
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy, _BUFFER_BYTES)
            file = copy
        try:
            yield from _rows(_open(file, name), name, options, start, end)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(
                f"Cannot read {name}: {error}. Check that the file is whole."
            ) from error


def _rows(
    opened: Any, name: str, options: ReadOptions, start: int, end: int | None
) -> Iterator[Record]:
    field = options.text_field
    schema = opened.schema_arrow
    own = [kind for kind in ("key", "group", "url") if kind in schema.names]
    _check_columns(schema, field, own, name)
    counts = [
        opened.metadata.row_group(k).num_rows
        for k in range(opened.metadata.num_row_groups)
    ]
    first, num_rows = sum(counts[:start]), sum(counts[start:end])
    batches = opened.iter_batches(
        batch_size=_ROWS_AT_ONCE,
        row_groups=list(range(len(counts)))[start:end],
        columns=list(dict.fromkeys([field, *own])),
        use_threads=False,
    )
    row = first
    for batch in batches:
        columns = {kind: batch.column(kind).to_pylist() for kind in own}
        for index, text in enumerate(_as_bytes(batch.column(field))):
            ids = {kind: columns[kind][index] for kind in own}
            try:
                key, group = identity(f"{name}#{row}", **ids)
            except ValueError as error:
                problem = ValueError(f"{name}, row {row}: {error}.")
                yield Record("", "", "", 0, error=problem)
                continue
            finally:
                row += 1
            fraction = (row - first) / num_rows
            fragments = split_text(text, options.max_document_bytes)
            for number, fragment in enumerate(fragments):
                yield Record(fragment, key, group, number, fraction=fraction)


def _open(file: Any, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(
            file,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{name} is not Parquet, or damaged ({error}); check that the file is whole."
        ) from error


def _check_columns(schema: Any, field: str, own: list[str], name: str) -> None:
    import pyarrow as pa

    for column in (field, *own):
        if schema.names.count(column) > 1:
            raise ValueError(
                f"{name} has several columns {column!r}; expected one. Rename the others."
            )
    columns = {column.name: column.type for column in schema}
    kind = columns.get(field, pa.null())
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    blobs = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    if not any(is_kind(kind) for is_kind in (*texts, *blobs)):
        listed = ", ".join(f"{column} ({kind})" for column, kind in columns.items())
        raise ValueError(
            f"{name} has no column {field!r} of text; it has {listed}. Name the "
            "right one with --read.text-field."
        )


def _as_bytes(column: Any) -> list[bytes]:
    """Texts as bytes, so that what is not UTF-8 can be counted; null becomes empty."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return [text or b"" for text in column.cast(pa.large_binary()).to_pylist()]
