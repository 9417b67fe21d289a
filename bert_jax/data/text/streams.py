"""Opens a range of a file as a stream, and decompresses streams."""

import bz2
import contextlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import zstandard

# The errors of reading a file that is damaged or of another kind than its name says.
_BROKEN_STREAM = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zstandard.ZstdError,
    tarfile.TarError,
)

_SHORT_TAR = {".tgz": ".gz", ".txz": ".xz", ".tzst": ".zst", ".tbz2": ".bz2"}
_READ_BYTES = 1 << 18
# From so many bytes, a decoder without a limit makes at most 32 MiB (zstd).
_FEED_BYTES = 1 << 10
_MAX_OUTPUT_BYTES = 1 << 20


class _Codec(NamedTuple):
    new: Callable[[], Any]
    is_bounded: bool
    """Whether `decompress` can limit its output and keep the rest for later."""


_CODECS = {
    ".gz": _Codec(lambda: zlib.decompressobj(wbits=31), is_bounded=False),
    ".xz": _Codec(lzma.LZMADecompressor, is_bounded=True),
    ".bz2": _Codec(bz2.BZ2Decompressor, is_bounded=True),
    # The largest window of zstd (--long=31), which few files need.
    ".zst": _Codec(
        lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
        is_bounded=False,
    ),
}


def compression(name: str) -> str:
    """The suffix of the compression that `name` says, such as ".gz", or ""."""
    suffix = name[name.rfind(".") :].lower()
    suffix = _SHORT_TAR.get(suffix, suffix)
    return suffix if suffix in _CODECS else ""


def without_compression(name: str) -> str:
    """`name` without the suffix of its compression; `.tgz` and the like are kept."""
    suffix = compression(name)
    return name[: -len(suffix)] if suffix and name.lower().endswith(suffix) else name


def is_tar(name: str) -> bool:
    return without_compression(name).lower().endswith((".tar", *_SHORT_TAR))


class Window(io.RawIOBase):
    """Bytes [start, stop) of a file, read as if they were a file.

    Raises:
        EOFError: the file has fewer.
    """

    def __init__(self, path: str, start: int = 0, stop: int | None = None) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._start = start
        length = self._file.seek(0, io.SEEK_END)
        stop = length if stop is None else stop
        if stop > length:
            self.close()
            raise EOFError(f"it has {length:,} bytes; {stop:,} were expected")
        self.size = stop - start
        self.position = 0
        self._file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}
        self.position = max(origin[whence] + offset, 0)
        self._file.seek(self._start + self.position)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, target: Any) -> int:
        view = memoryview(target)[: max(self.size - self.position, 0)]
        count = self._file.readinto(view) or 0
        self.position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def naming_file(path: str) -> Iterator[None]:
    """Turns errors about the content of a file into a ValueError that names the file."""
    try:
        yield
    except _BROKEN_STREAM as error:
        raise ValueError(
            f"Cannot read {path}: {error}. Check that the file is whole and of the kind "
            "that its name says."
        ) from error


def open_stream(stream: Any, name: str) -> IO[bytes]:
    """`stream` decompressed as `name` says, or `stream` itself if it says nothing."""
    suffix = compression(name)
    if not suffix:
        return stream
    plain: Any = _Decompressed(stream, _CODECS[suffix])
    return io.BufferedReader(plain, _READ_BYTES)


class _Decompressed(io.RawIOBase):
    """All members (frames, streams) of a compressed file, one after another.

    Unlike the readers of the standard library and of zstandard, it raises an error if a
    member is cut off, or if other bytes follow the last member.
    """

    def __init__(self, source: Any, codec: _Codec) -> None:
        # A buffer, because it is read a few bytes at a time; see _FEED_BYTES.
        self._source = io.BufferedReader(source, _READ_BYTES)
        self._codec = codec
        self._decoder = codec.new()
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        view = memoryview(target)
        filled = 0
        while filled < len(view):
            if not self._output:
                self._output = memoryview(self._decompress())
                if not self._output:
                    break
            count = min(len(self._output), len(view) - filled)
            view[filled : filled + count] = self._output[:count]
            self._output = self._output[count:]
            filled += count
        return filled

    def _decompress(self) -> bytes:
        """The next bytes; none at the end of the file."""
        output = b""
        while not output:
            fed = b""
            if self._decoder.eof:
                fed = self._next_member()
                if not fed:
                    return b""
                self._decoder = self._codec.new()
            elif not self._codec.is_bounded or self._decoder.needs_input:
                fed = self._source.read(_FEED_BYTES)
                if not fed:
                    raise EOFError("its compressed data ends too early")
            limit = (_MAX_OUTPUT_BYTES,) if self._codec.is_bounded else ()
            output = self._decoder.decompress(fed, *limit)
        return output

    def _next_member(self) -> bytes:
        """The first bytes of the next member; zeros in front of it (tapes, xz) are skipped."""
        fed = self._decoder.unused_data.lstrip(b"\0")
        while not fed:
            block = self._source.read(_FEED_BYTES)
            if not block:
                return b""
            fed = block.lstrip(b"\0")
        return fed
