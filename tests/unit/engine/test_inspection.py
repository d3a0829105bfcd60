# SPDX-License-Identifier: Apache-2.0
"""Does everybody who asks about an image get the same verdict, whatever of it is at hand?"""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from fastdl.engine.inspection import EndsReader, FdReader, inspect_image, inspect_qcow2, peek
from fastdl.errors import FormatError, LimitError, UnsafeImageError
from fastdl.model.image import Format, NotAtHand
from tests.env import vhd
from tests.env.images import HAVE_QEMU, MIB, NEED_QEMU, Recipe, build, fill_raw, run
from tests.env.landing import PACK
from tests.unit.model.test_image import Bytes

TEXT = b"template " * 5000 + bytes(100_000) + bytes(range(256)) * 40
needs_qemu = pytest.mark.skipif(not HAVE_QEMU, reason=NEED_QEMU)


class Head(Bytes):
    """The first bytes of an image, the rest of which has not come."""

    distant = True

    def read_at(self, offset: int, length: int) -> bytes:
        if offset and offset + length > 65536:
            raise NotAtHand
        return self.data[offset : min(offset + length, 65536)]


@pytest.mark.parametrize("kind", PACK)
def test_peek_shows_the_first_decoded_bytes(kind: str) -> None:
    """What a compressed image holds is told from its head."""
    assert peek(Format(kind), Bytes(PACK[kind](TEXT)), 1000) == TEXT[:1000]
    assert peek(Format(kind), Bytes(PACK[kind](b"short"))) == b"short"


@needs_qemu
def test_inspection_says_what_the_image_is(tmp_path: Path) -> None:
    """The details are those that an operator compares."""
    recipe = Recipe(size=MIB, cluster_size=4096, compression="zstd", compressed=True)
    data = build(tmp_path / "image", recipe).read_bytes()
    info = inspect_qcow2(Bytes(data))
    assert (info.safe, info.virtual_size) == (True, MIB)
    assert info.details["compression"] == "zstd"
    assert info.details["cluster_size"] == 4096
    with pytest.raises(LimitError):
        inspect_qcow2(Bytes(data), max_virtual_size=MIB - 1)


@needs_qemu
def test_a_backing_file_is_an_unsafe_image(tmp_path: Path) -> None:
    """The C code's verdict arrives as its Python class (I01)."""
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "base", "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", tmp_path / "image")
    with pytest.raises(UnsafeImageError, match="backing"):
        inspect_qcow2(Bytes((tmp_path / "image").read_bytes()))


FOREIGN = {
    "qcow2": ("qcow2", ""),
    "vmdk": ("vmdk", "subformat=monolithicSparse"),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vhd": ("vpc", "subformat=dynamic"),
    "vhdx": ("vhdx", ""),
    "vdi": ("vdi", ""),
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One disk of 8 MiB in each format that has a header, made by qemu-img."""
    folder = tmp_path_factory.mktemp("foreign")
    raw = folder / "raw"
    fill_raw(raw, 8 * MIB, random.Random(5))
    made = {}
    for name, (fmt, option) in FOREIGN.items():
        words = ["-o", option] if option else []
        run("qemu-img", "convert", "-f", "raw", "-O", fmt, *words, raw, folder / name)
        made[name] = (folder / name).read_bytes()
    made["vhd-fixed"] = vhd.fixed(raw.read_bytes())
    return made


@needs_qemu
@pytest.mark.parametrize("kind", [*FOREIGN, "vhd-fixed"])
def test_a_declared_format_may_be_packed(foreign: dict[str, bytes], kind: str) -> None:
    """.vmdk.zip, .vhd.xz: what it is said to be is what it holds; the packing may be named too."""
    declared = kind.partition("-")[0]
    for outer, pack in PACK.items():
        packed = Bytes(pack(foreign[kind]))
        for said in ("auto", declared, outer):
            info = inspect_image(packed, declared=said)
            assert (info.safe, info.format) == (True, outer), (outer, said, info)
        others = {"qcow2", "vmdk", "vhdx", "iso", "raw"} - {declared}
        if kind == "vhd-fixed":
            others.remove("raw")  # its beginning is a disk's: it shows itself at its end
        for said in others:
            assert inspect_image(packed, declared=said).refusal is UnsafeImageError, (outer, said)


@needs_qemu
@pytest.mark.parametrize("kind", FOREIGN)
def test_the_size_of_the_disk_is_known_from_the_head(foreign: dict[str, bytes], kind: str) -> None:
    """Also under compression; a VHDX alone keeps it elsewhere."""
    data = foreign[kind]
    whole = inspect_image(Bytes(data))
    assert whole.safe
    assert whole.whole
    want = None if kind == "vhdx" else whole.virtual_size
    for reader in (Head(data), Bytes(gzip.compress(data, 1))):
        info = inspect_image(reader)
        assert info.safe
        assert info.virtual_size in (want, whole.virtual_size)
        if want is not None:
            assert inspect_image(reader, max_virtual_size=want - 1).refusal is LimitError


@needs_qemu
def test_what_the_head_shows_is_refused_from_the_head(
    foreign: dict[str, bytes], tmp_path: Path
) -> None:
    """A backing file, an extent that is a path: nobody fetches gigabytes to learn of it."""
    run("qemu-img", "create", "-q", "-f", "raw", tmp_path / "base", "1M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", tmp_path / "image")
    overlay = (tmp_path / "image").read_bytes()
    vmdk = foreign["vmdk"].replace(b'SPARSE "', b'SPARSE "/', 1)
    for data in (overlay, vmdk):
        for reader in (Bytes(data), Head(data), *(Bytes(pack(data)) for pack in PACK.values())):
            assert inspect_image(reader).refusal is UnsafeImageError


def test_a_fixed_vhd_is_known_by_its_end_alone() -> None:
    """The beginning alone neither proves nor refutes it."""
    disk = random.Random(1).randbytes(100_000).ljust(MIB, b"\0")
    image = vhd.fixed(disk)
    assert inspect_image(Bytes(image), declared="vhd").virtual_size == MIB
    assert inspect_image(Bytes(image), declared="raw").refusal is UnsafeImageError
    assert inspect_image(Head(image), declared="vhd").safe
    assert inspect_image(Head(image), declared="raw").safe
    assert inspect_image(Bytes(disk), declared="vhd").refusal is UnsafeImageError
    ends = EndsReader(image[:65536], image[-512:], len(image))
    assert (inspect_image(ends).format, inspect_image(ends).virtual_size) == (Format.VHD, MIB)
    assert inspect_image(ends, declared="raw").refusal is UnsafeImageError


def test_an_ends_reader_has_what_it_was_given_and_no_more() -> None:
    """Ends that overlap, that meet, and that do not."""
    data = bytes(range(200))
    for head, tail in ((200, 200), (150, 100), (100, 100), (100, 50)):
        reader = EndsReader(data[:head], data[-tail:], len(data))
        for at in (0, 10, 160, 199):
            assert reader.read_at(at, 5) == data[at : at + 5]
    assert reader.read_at(0, 500) == data[:100]
    with pytest.raises(NotAtHand):
        reader.read_at(120, 5)


def test_an_fd_reader_ends_where_it_is_told(tmp_path: Path) -> None:
    """The target may be larger than what has landed on it."""
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        assert FdReader(file.fileno(), 8).read_at(6, 10) == b"67"
        assert FdReader(file.fileno(), 8).read_at(9, 10) == b""


def test_a_peek_that_ends_early_is_refused() -> None:
    """A torn stream is told from a short image."""
    with pytest.raises(FormatError):
        peek(Format.GZ, Bytes(gzip.compress(b"short")[:-3]))
