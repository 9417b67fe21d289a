"""Texts of a command: its arguments, one file, or lines of standard input as they come."""

import os
import pathlib
import queue
import sys
import threading
from collections.abc import Collection, Iterator, Sequence

from bert_jax.data.labelled.texts import text_of
from bert_jax.data.labelled.unlabelled import no_text

CHUNK = 10_000
"""Most texts that are in memory together with what was computed from them."""


def file_among(
    arguments: Sequence[str], suffixes: Collection[str]
) -> pathlib.Path | None:
    """The file that the only argument names, or `None` if all arguments are texts.

    Raises:
        FileNotFoundError: an argument looks like a file that is not there.
        ValueError: an argument may be a file or a text, or is not UTF-8; or "-" stands for
            standard input.
    """
    if list(arguments) == ["-"]:
        raise ValueError(
            "The argument '-' would be taken for a text. Leave it out: without an argument, "
            "the lines of standard input are the texts."
        )
    for number, text in enumerate(arguments, 1):
        way_out = f"To predict on {text!r} as a text, pass it on standard input."
        suffix = os.path.splitext(text)[1].lower()
        if os.path.isfile(text) and len(arguments) == 1 and suffix in suffixes:
            return pathlib.Path(text)
        if os.path.exists(text):
            raise ValueError(
                f"The argument {text!r} names something on this disk, which may be meant "
                "instead of the text. Pass one file alone, one that ends in "
                f"{', '.join(sorted(suffixes))}. {way_out}"
            )
        if suffix in suffixes and not any(sign.isspace() for sign in text):
            raise FileNotFoundError(f"{text} does not exist. {way_out}")
        text_of(text, f"Text {number}")
    return None


def standard_input() -> Iterator[list[str]]:
    """Lines of standard input without their ends: all that are there, then what comes next.

    Standard output is flushed before it waits for more, so that answers come at once.

    Raises:
        ValueError: there is no line, or the bytes are of another encoding.
    """
    # A small queue: a producer that is faster than the model waits.
    lines: queue.Queue[str | Exception | None] = queue.Queue(CHUNK)

    def read() -> None:
        try:
            for line in sys.stdin or ():  # a closed standard input is None
                lines.put(line.rstrip("\n"))
        except (UnicodeDecodeError, OSError) as error:
            lines.put(error)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    is_first = True
    while (chunk := _waiting(lines)) is not None:
        if is_first:
            chunk[0] = chunk[0].removeprefix("\ufeff")
            is_first = False
        yield chunk
        sys.stdout.flush()
    if is_first:
        raise ValueError(no_text(0))


def _waiting(lines: "queue.Queue[str | Exception | None]") -> list[str] | None:
    """At least one line, and those that are there without waiting; `None` at the end."""
    chunk: list[str] = []
    item = lines.get()
    while isinstance(item, str):
        chunk.append(item)
        if len(chunk) == CHUNK:
            return chunk
        try:
            item = lines.get_nowait()
        except queue.Empty:
            return chunk
    if isinstance(item, UnicodeDecodeError):
        raise ValueError(
            f"Standard input is not {item.encoding.upper()} ({item.reason}); put the "
            "texts into a file and pass it with --encoding."
        ) from None
    if item is not None:
        raise item
    if chunk:
        lines.put(None)  # found again in the next call
    return chunk or None
