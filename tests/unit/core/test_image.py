# SPDX-License-Identifier: Apache-2.0
"""Does Python see what the C core found in an image and in a compressed stream?"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import pytest

from fastdl.core.image import Inflate, NeedMore, Qcow2
from fastdl.core.lander import Qcow2Lander, StreamLander
from fastdl.core.sink import Sink
from fastdl.errors import FastdlError, FormatError, LimitError
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, Recipe, build

TEXT = b"template " * 5000 + bytes(100_000) + bytes(range(256)) * 40


def unpack(kind: str, data: bytes, step: int = 1000, room: int = 4096, **limits: int) -> bytes:
    """Decode *data*, fed in pieces of *step*."""
    decoder, out = Inflate(kind, **limits), b""
    while data:
        used, more = decoder.feed(data[:step], room)
        data, out = data[used:], out + more
    while more := decoder.feed(b"", room)[1]:
        out += more
    decoder.finish()
    return out


def zstd(data: bytes, *options: str) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("zstd is not installed")
    done = subprocess.run(["zstd", "-qc", *options], input=data, capture_output=True, check=True)
    return done.stdout


def pack(kind: str, data: bytes) -> bytes:
    if kind == "zip":
        return archive({"disk.raw": data})
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}[kind](data)


def archive(
    entries: dict[str, bytes],
    *,
    mode: int = 0o100644,
    method: int = zipfile.ZIP_DEFLATED,
    stream: bool = False,
    wide: bool = False,
) -> bytes:
    out = io.BytesIO()

    class OneWay(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            return out.write(data)

    with zipfile.ZipFile(OneWay() if stream else out, "w", method) as made:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = method, mode << 16
            info.create_system = 3
            with made.open(info, "w", force_zip64=wide) as file:
                file.write(data)
    return out.getvalue()


KINDS = ["gz", "bz2", "xz", "zst", "zip"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 7, 1000, 10**9])
def test_a_stream_decodes_however_it_is_cut(kind: str, step: int) -> None:
    """Blocks end where the network put them."""
    assert unpack(kind, pack(kind, TEXT), step) == TEXT


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_concatenated_streams_are_one_image(kind: str) -> None:
    """Parallel compressors write many members (I16)."""
    assert unpack(kind, pack(kind, TEXT) + pack(kind, b"more") + pack(kind, b"")) == TEXT + b"more"


@pytest.mark.parametrize("kind", ["gz", "bz2"])
@pytest.mark.parametrize("step", [1, 10**9])
def test_what_follows_the_last_stream_is_ignored_and_counted(kind: str, step: int) -> None:
    """Padding, signatures, OpenWrt's metadata: gzip and bzip2 ignore them too."""
    magic = {"gz": b"\x1f\x8b\x08", "bz2": b"BZh9"}[kind]
    begun = [magic[:n] for n in range(1, len(magic))]
    for tail in (b"x", bytes(512), b"GARBAGE!" * 9, *begun, *(part + b"\0x" for part in begun)):
        decoder = Inflate(kind)
        data, out = pack(kind, TEXT) + pack(kind, b"more") + tail, b""
        while data:
            used, more = decoder.feed(data[:step], 1 << 20)
            data, out = data[used:], out + more
        decoder.finish()
        assert (out, decoder.trailing) == (TEXT + b"more", len(tail))


@pytest.mark.parametrize("kind", ["gz", "bz2"])
def test_another_stream_that_begins_has_to_be_whole(kind: str) -> None:
    """Its magic says that something was to come; nothing is ignored in front of a stream."""
    another = pack(kind, TEXT)
    for data in (another + another[:-9], another + another[:10] + b"x" * 99, b"\0" + another):
        with pytest.raises(FormatError):
            unpack(kind, data)


@pytest.mark.parametrize("kind", ["xz", "zst", "zip"])
@pytest.mark.parametrize("garbage", [b"x", b"\0", b"GARBAGE!" * 9])
def test_garbage_behind_the_stream_is_refused(kind: str, garbage: bytes) -> None:
    """Nobody can say whether something is missing (I16)."""
    with pytest.raises(FormatError):
        unpack(kind, pack(kind, TEXT) + garbage)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_stream_is_refused_wherever_it_is_cut(kind: str) -> None:
    """A short image never looks complete (I17)."""
    data = pack(kind, TEXT)
    for end in range(0, len(data), max(1, len(data) // 500)):
        with pytest.raises(FormatError):
            unpack(kind, data[:end], 10**9, 1 << 20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_refused_or_harmless(kind: str) -> None:
    """Checks are verified: no other bytes ever come out as good (I17)."""
    data = pack(kind, TEXT)
    for at in range(0, len(data), max(1, len(data) // 200)):
        torn = bytearray(data)
        torn[at] ^= 0x10
        with contextlib.suppress(FormatError, LimitError):
            assert unpack(kind, bytes(torn), 10**9, 1 << 20) == TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_ends_at_its_limit(kind: str) -> None:
    """Output and ratio are bounded, whatever the header says (I16)."""
    data = pack(kind, bytes(8 * MIB))
    with pytest.raises(LimitError):
        unpack(kind, data, max_output=MIB)
    with pytest.raises(LimitError):
        unpack(kind, data, ratio_after=MIB, max_ratio=20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1000, 10**9])
def test_holes_are_no_bomb_and_what_is_written_is(kind: str, step: int) -> None:
    """An empty disk packs to nothing and writes nothing; a pattern packs as well and does."""
    limits = {"ratio_after": MIB, "max_ratio": 20, "skip_zeros": True}
    disk = bytes(8 * MIB) + TEXT + bytes(8 * MIB)
    assert unpack(kind, pack(kind, disk), step, 1 << 20, **limits) == disk
    with pytest.raises(LimitError):
        unpack(kind, pack(kind, bytes(2 * MIB) + b"\xff" * (8 * MIB)), step, 1 << 20, **limits)
    with pytest.raises(LimitError):
        unpack(kind, pack(kind, disk), step, 1 << 20, max_output=4 * MIB, **limits)


def test_xz_and_zstd_may_not_take_more_memory_than_promised() -> None:
    """A dictionary of 192 MiB is refused before it is allocated (I16)."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 192 * MIB}]
    with pytest.raises(LimitError):
        unpack("xz", lzma.compress(b"x", filters=filters))
    with pytest.raises(LimitError):
        unpack("zst", zstd(TEXT * 3, "--long=28", "--no-check", "--no-content-size"))


def test_zstd_skippable_frames_are_bounded() -> None:
    """They carry nothing, and end."""
    frame = struct.pack("<II", 0x184D2A51, 70 * MIB)
    with pytest.raises(LimitError):
        unpack("zst", frame + bytes(100))
    assert unpack("zst", struct.pack("<II", 0x184D2A50, 3) + b"abc" + zstd(b"disk")) == b"disk"


def test_zip_variants_of_one_entry_are_read() -> None:
    """Stored, streamed and zip64, as real tools write them."""
    for stream in (False, True):
        for wide in (False, True):
            assert unpack("zip", archive({"d": TEXT}, stream=stream, wide=wide)) == TEXT
    assert unpack("zip", archive({"d": TEXT}, method=zipfile.ZIP_STORED)) == TEXT


def bent(data: bytes, at: int, fmt: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(fmt, out, at, value)
    return bytes(out)


GOOD = archive({"disk.raw": TEXT})
CENTRAL = GOOD.rindex(b"PK\1\2")
END = GOOD.rindex(b"PK\5\6")


@pytest.mark.parametrize(
    "data",
    [
        archive({"a": TEXT, "b": TEXT}),
        archive({"a": TEXT, "b": b""}, stream=True),
        archive({"../disk": TEXT}),
        archive({"a/../disk": TEXT}),
        archive({"/disk": TEXT}),
        archive({"disk/": b""}),
        archive({"disk": b"/etc/shadow"}, mode=0o120777),
        archive({"disk": TEXT}, mode=0o060660),
        bent(GOOD, 6, "<H", 1),
        bent(GOOD, 8, "<H", 12),
        bent(GOOD, 22, "<I", len(TEXT) + 1),
        bent(GOOD, CENTRAL + 8, "<H", 8),
        bent(GOOD, CENTRAL + 16, "<I", 7),
        bent(GOOD, CENTRAL + 20, "<I", 7),
        bent(GOOD, CENTRAL + 24, "<I", 7),
        bent(GOOD, CENTRAL + 42, "<I", 7),
        bent(GOOD, CENTRAL + 46, "<B", 88),
        bent(GOOD, CENTRAL + 38, "<I", 0x10),
        bent(GOOD, END + 8, "<H", 2),
        bent(GOOD, END + 10, "<H", 0xFFFF),
        bent(GOOD, END + 16, "<I", 1),
        bent(GOOD, END + 20, "<H", 9),
        GOOD + GOOD,
        b"MZ" + GOOD,
        GOOD[:CENTRAL],
    ],
)
def test_a_zip_that_two_readers_could_read_differently_is_refused(data: bytes) -> None:
    """One regular entry, and every place that speaks of it agrees (I18)."""
    with pytest.raises(FormatError):
        unpack("zip", data)


def test_an_unknown_compression_is_a_mistake_of_the_caller() -> None:
    """The kinds are the names of the formats."""
    with pytest.raises(FastdlError):
        Inflate("rar")


# --- qcow2 ------------------------------------------------------------------------------

needs_qemu = pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)


@needs_qemu
def test_the_map_tiles_the_disk(tmp_path: Path) -> None:
    """Data, compressed clusters and zeros: every guest byte exactly once."""
    path = build(tmp_path / "image", Recipe(size=3 * MIB + 512, compressed=True, seed=3))
    data = path.read_bytes()
    image = Qcow2(data[:4096], len(data))
    while (wanted := image.need()) is not None:
        image.feed(wanted[0], data[wanted[0] : sum(wanted)])
    assert image.ready
    pieces = [(guest, n) for _, guest, n in image.plain()]
    pieces += [(guest, n) for _, _, guest, n in image.compressed()]
    pieces += image.zeros()
    at = 0
    for guest, length in sorted(pieces):
        assert guest == at
        at += length
    assert at == image.virtual_size == 3 * MIB + 512
    extents = image.extents()
    for host, _, length in image.plain():
        assert any(off <= host and host + length <= off + n for off, n in extents)


@needs_qemu
def test_a_short_head_asks_for_more(tmp_path: Path) -> None:
    """The caller learns how many bytes the header has."""
    data = build(tmp_path / "image", Recipe(size=MIB)).read_bytes()
    with pytest.raises(NeedMore) as caught:
        Qcow2(data[:50], len(data))
    assert caught.value.length == 104


@needs_qemu
def test_a_map_that_is_not_complete_is_not_shown(tmp_path: Path) -> None:
    """Half a map would pass for an empty disk."""
    data = build(tmp_path / "image", Recipe(size=MIB)).read_bytes()
    image = Qcow2(data, len(data))
    for part in (image.plain, image.compressed, image.zeros, image.extents):
        with pytest.raises(ValueError, match="not complete"):
            part()


def null_sink() -> Sink:
    """Bytes go nowhere."""
    return Sink(-1, -1, align=1, size=None, hold=0, blank=True)


@needs_qemu
def test_nobody_asks_an_image_that_a_lander_took_over(tmp_path: Path) -> None:
    """Its map is the lander's then: a late question is a mistake, not a crash."""
    file = build(tmp_path / "image", Recipe(size=MIB)).read_bytes()
    image = Qcow2(file[:65536], len(file))
    image.feed(0, file)
    lander = Qcow2Lander(image, null_sink())
    with pytest.raises(ValueError, match="taken over"):
        image.extents()
    with pytest.raises(ValueError, match="taken over"):
        _ = image.virtual_size
    lander.close()


def test_a_closed_decoder_has_nothing_to_tell() -> None:
    """It ends with its job: what it knows is to be asked before."""
    lander = StreamLander("gz", null_sink(), qcow2=False)
    assert lander.decoded == 0
    lander.close()
    with pytest.raises(ValueError, match="closed"):
        _ = lander.virtual_size
