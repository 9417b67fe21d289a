"""Compressed files: all of their members, and an error for whatever is missing."""

import bz2
import io
import lzma
import random
import zlib

import pytest
import zstandard
from source_files import COMPRESSORS

from bert_jax.data.text.streams import (
    Window,
    compression,
    is_tar,
    naming_file,
    open_stream,
    without_compression,
)

CODECS = {suffix: compress for suffix, compress in COMPRESSORS.items() if suffix}
# Larger than any buffer, and hard to compress.
BODY = random.Random(0).randbytes(400_000) + b"text " * 100_000


def plain(packed: bytes, suffix: str) -> bytes:
    with naming_file("the file"):
        return open_stream(io.BytesIO(packed), f"a{suffix}").read()


@pytest.mark.parametrize("suffix", CODECS)
def test_everything_comes_back(suffix):
    packed = CODECS[suffix](BODY)
    assert plain(packed, suffix) == BODY
    with open_stream(io.BytesIO(packed), f"A{suffix.upper()}") as stream:
        assert b"".join(iter(lambda: stream.read(70_001), b"")) == BODY


@pytest.mark.parametrize("suffix", CODECS)
def test_all_members_are_read(suffix):
    parts = [BODY[:100_000], b"", BODY[100_000:]]
    packed = b"".join(map(CODECS[suffix], parts))
    assert plain(packed, suffix) == BODY
    assert plain(packed + bytes(1024), suffix) == BODY


def test_zstd_without_sizes_and_with_skippable_frames():
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"abcd"
    frame = compressor.compress(BODY)
    assert plain(skippable + frame + skippable + frame, ".zst") == BODY * 2


def test_zstd_with_its_largest_window():
    options = zstandard.ZstdCompressionParameters(window_log=31, enable_ldm=True)
    writer = zstandard.ZstdCompressor(compression_params=options).compressobj()
    # Without its size, the frame has to ask for the whole window.
    packed = writer.compress(b"text " * 9) + writer.flush()
    assert plain(packed, ".zst") == b"text " * 9


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("left", [0, 1, 100_000, -1])
def test_a_cut_file_is_an_error(suffix, left):
    packed = CODECS[suffix](BODY)[:left]
    with pytest.raises(ValueError, match=r"Cannot read the file: .*too early"):
        plain(packed, suffix)


@pytest.mark.parametrize("suffix", CODECS)
def test_so_is_what_follows_the_last_member(suffix):
    packed = CODECS[suffix](BODY)
    with pytest.raises(ValueError, match="Cannot read the file"):
        plain(packed + b"rubbish that is no member", suffix)
    with pytest.raises(ValueError, match="Cannot read the file"):
        plain(packed + packed[: len(packed) // 2], suffix)


@pytest.mark.parametrize("suffix", CODECS)
def test_no_damage_passes_for_text(suffix):
    packed = CODECS[suffix](BODY)
    for place in range(20, len(packed), len(packed) // 10):
        damaged = bytearray(packed)
        damaged[place] ^= 0x10
        try:
            found = plain(bytes(damaged), suffix)
        except ValueError:
            continue
        # zstd's own command writes a checksum; this compressor was not asked to.
        assert suffix == ".zst" or found == BODY


@pytest.mark.parametrize(
    ("suffix", "packed"),
    [
        (".gz", zlib.compress(bytes(1 << 26), wbits=31)),
        (".xz", lzma.compress(bytes(1 << 26), preset=0)),
        (".bz2", bz2.compress(bytes(1 << 26))),
        (".zst", zstandard.ZstdCompressor().compress(bytes(1 << 26))),
    ],
)
def test_what_grows_a_thousandfold_takes_no_more_memory(suffix, packed):
    stream = open_stream(io.BytesIO(packed), suffix)
    raw = stream.raw
    largest = total = 0
    while block := stream.read(1 << 20):
        total += len(block)
        largest = max(largest, len(raw._output))
    assert total == 1 << 26
    assert largest <= 32 << 20


def test_a_window_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with Window(str(path), 2, 7) as window:
        assert (window.size, window.read(2), window.tell()) == (5, b"23", 2)
        assert window.read() == b"456"
        assert window.read(9) == b""
        assert (window.seek(-2, io.SEEK_END), window.read()) == (3, b"56")
        assert (window.seek(1), window.seek(1, io.SEEK_CUR)) == (1, 2)
        assert window.read() == b"456"
    with Window(str(path)) as window:
        assert window.read() == b"0123456789"


@pytest.mark.parametrize(
    ("name", "codec", "bare", "tar"),
    [
        ("a.txt", "", "a.txt", False),
        ("a.txt.GZ", ".gz", "a.txt", False),
        ("a.tar", "", "a.tar", True),
        ("a.tar.zst", ".zst", "a.tar", True),
        ("a.tgz", ".gz", "a.tgz", True),
        ("a.txz", ".xz", "a.txz", True),
        ("gz", "", "gz", False),
        (".gz", ".gz", "", False),
        ("a.gz.txt", "", "a.gz.txt", False),
    ],
)
def test_names(name, codec, bare, tar):
    assert compression(name) == codec
    assert without_compression(name) == bare
    assert is_tar(name) == tar
