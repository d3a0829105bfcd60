# SPDX-License-Identifier: Apache-2.0
"""qcow2 images, byte by byte, whose compressed clusters share host bytes.

No tool writes such images and every reader accepts them: a cluster's entry says where it begins
and how many sectors it may take, and nothing forbids that another one begins, ends or lies there.
"""

from __future__ import annotations

import random
import struct
import subprocess
import zlib
from dataclasses import dataclass, field
from functools import lru_cache

SECTOR = 512
BLOCKS = (4096, 65536, 1 << 20)
"""Sizes that images are read in: clusters gather around their multiples."""
_MAGIC = 0x514649FB
_COMPRESSED, _COPIED = 1 << 62, 1 << 63


@lru_cache(maxsize=256)
def packed(plain: bytes, compression: str, *, level: int = 9) -> bytes:
    """One cluster's compressed form, as qcow2 stores it; at level 0 *plain* lies in it as it is."""
    if compression == "zlib":
        packer = zlib.compressobj(level, zlib.DEFLATED, -12)
        return packer.compress(plain) + packer.flush()
    done = subprocess.run(
        ["zstd", "-q", "-c", f"-{level or 1}"],
        input=plain,
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@dataclass
class Layout:
    """An image in the making: tables first, then whatever is put into it."""

    bits: int = 16
    guests: int = 8
    version: int = 3
    compression: str = "zlib"
    extended_l2: bool = False
    tables_at: int | None = None
    """Offset of the L2 tables: behind the other tables, or wherever data surrounds them."""
    data: bytearray = field(default_factory=bytearray)
    entries: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Room for header, refcount table, L1 and L2."""
        if self.tables_at is None:
            self.tables_at = self._l1 + -(-8 * self.l2_tables // self.cluster) * self.cluster
        self.grow(self.first_data)

    @property
    def cluster(self) -> int:
        """Bytes of a cluster."""
        return 1 << self.bits

    @property
    def per_table(self) -> int:
        """Entries of one L2 table."""
        return self.cluster // (16 if self.extended_l2 else 8)

    @property
    def l2_tables(self) -> int:
        """How many there are."""
        return -(-self.guests // self.per_table)

    @property
    def _l1(self) -> int:
        return 2 * self.cluster

    @property
    def first_data(self) -> int:
        """The first offset behind L1, and behind the L2 tables where they follow it."""
        assert self.tables_at is not None
        behind = self._l1 + -(-8 * self.l2_tables // self.cluster) * self.cluster
        return behind if self.tables_at > behind else behind + self.l2_tables * self.cluster

    def tables(self) -> range:
        """The bytes of the L2 tables."""
        assert self.tables_at is not None
        return range(self.tables_at, self.tables_at + self.l2_tables * self.cluster)

    def grow(self, size: int) -> None:
        """Make the file at least *size* bytes long."""
        self.data.extend(bytes(max(0, size - len(self.data))))

    def put(self, at: int, content: bytes) -> None:
        """Write *content* at *at*."""
        self.grow(at + len(content))
        self.data[at : at + len(content)] = content

    def compress(self, guest: int, host: int, sectors: int) -> None:
        """*guest* is what the stream at *host* unpacks to, read from *sectors* sectors."""
        shift = 62 - (self.bits - 8)
        assert 1 <= sectors <= 1 << (self.bits - 8)
        self.entries[guest] = (_COMPRESSED | (sectors - 1) << shift | host, 0)

    def plain(self, guest: int, host: int) -> None:
        """*guest* lies at *host* as it is."""
        self.entries[guest] = (host | _COPIED, 0xFFFFFFFF)

    def image(self) -> bytes:
        """The finished file."""
        assert self.tables_at is not None
        self.grow(self.tables().stop)
        incompatible = 8 * (self.compression == "zstd") | 16 * self.extended_l2
        self.put(
            0,
            struct.pack(
                ">IIQIIQIIQQIIQ",
                _MAGIC,
                self.version,
                0,
                0,
                self.bits,
                self.guests * self.cluster,
                0,
                self.l2_tables,
                self._l1,
                self.cluster,
                1,
                0,
                0,
            ),
        )
        if self.version == 3:
            compression = bytes([self.compression == "zstd"]) + bytes(7)
            self.put(72, struct.pack(">QQQII", incompatible, 0, 0, 4, 112) + compression)
        for table in range(self.l2_tables):
            at = self.tables_at + table * self.cluster
            self.put(self._l1 + 8 * table, struct.pack(">Q", at | _COPIED))
        wide = 16 if self.extended_l2 else 8
        for guest, entry in self.entries.items():
            self.put(self.tables_at + wide * guest, struct.pack(">QQ", *entry)[:wide])
        return bytes(self.data)


def sectors_of(host: int, length: int) -> int:
    """The sectors that *length* bytes at *host* need."""
    return (host % SECTOR + length + SECTOR - 1) // SECTOR


def _content(rng: random.Random, cluster: int) -> bytes:
    kind = rng.randrange(3)
    fill = bytes([rng.randrange(1, 256)])
    if kind == 0:
        return fill * cluster
    noise = random.Random(rng.randrange(4)).randbytes(cluster if kind == 1 else cluster // 3)
    return noise + fill * (cluster - len(noise))


def _claims(rng: random.Random, layout: Layout, host: int, length: int) -> int:
    """A sector count between what the stream needs and the most that an entry can say."""
    need, most = sectors_of(host, length), 1 << (layout.bits - 8)
    return rng.choice([need, need, most, rng.randrange(need, most + 1)])


def shared_image(rng: random.Random) -> bytes:
    """A valid image of random shape: clusters that overlap, nest, repeat and cross blocks."""
    bits = rng.choice([9, 10, 12, 14, 16, 16, 16, 18, 21])
    version = rng.choice([2, 3, 3, 3])
    layout = Layout(
        bits=bits,
        guests=rng.randrange(4, 90 if bits < 12 else 24 if bits < 18 else 6),
        version=version,
        compression=rng.choice(["zlib", "zlib", "zstd"]) if version == 3 else "zlib",
        extended_l2=version == 3 and bits >= 14 and rng.random() < 0.3,
    )
    block = rng.choice(BLOCKS) if bits < 20 else BLOCKS[-1]
    edge = -(-layout.first_data // block) * block + block
    if rng.random() < 0.3:  # tables amid the data
        layout.tables_at = -(-(edge + rng.randrange(-2, 3) * layout.cluster) // layout.cluster)
        layout.tables_at = max(layout.tables_at * layout.cluster, layout.first_data)
    _fill(rng, layout, max(layout.first_data, edge - rng.randrange(1, 3 * layout.cluster)))
    image = layout.image()
    return image + bytes(rng.choice([0, 0, 1, 100, 70_000]))


def _fill(rng: random.Random, layout: Layout, at: int) -> None:
    """Streams from offset *at* on, then plain clusters anywhere, also around the streams."""
    known: list[tuple[int, int]] = []  # (host, length) of every stream
    at = _outside_tables(layout, at)
    for guest in range(layout.guests):
        kind = rng.randrange(10)
        if kind == 0:
            continue  # a hole
        if kind < 4 and known:
            host, length = rng.choice(known)  # the same bytes once more
        else:
            plain = _content(rng, layout.cluster)
            stream = packed(plain, layout.compression)
            inner = packed(bytes([guest + 1]) * layout.cluster, layout.compression)
            if kind == 4 and len(inner) < layout.cluster // 2:
                noise = rng.randbytes(layout.cluster)
                skip = rng.randrange(layout.cluster - len(inner))
                plain = noise[:skip] + inner + noise[skip + len(inner) :]
                stream = packed(plain, layout.compression, level=0)
            host, length = _outside_tables(layout, at, len(stream)), len(stream)
            if sectors_of(host, length) > 1 << (layout.bits - 8):
                continue
            layout.put(host, stream)
            known.append((host, length))
            if kind == 4 and (inside := stream.find(inner)) >= 0:
                known.append((host + inside, len(inner)))
            at = host + length + rng.choice([0, 0, 1, 300, layout.cluster])
        layout.compress(guest, host, _claims(rng, layout, host, length))
    _add_plain(rng, layout)


def _add_plain(rng: random.Random, layout: Layout) -> None:
    """Some guest clusters become plain: of host clusters that hold streams, too."""
    last = len(layout.data) // layout.cluster
    first = layout.first_data // layout.cluster
    tables = {at // layout.cluster for at in layout.tables()}
    free = [n for n in range(first, last + 1) if n not in tables]
    for host in rng.sample(free, min(len(free), rng.randrange(4))):
        layout.plain(rng.randrange(layout.guests), host * layout.cluster)
        layout.grow(host * layout.cluster + rng.choice([1, layout.cluster]))


def _outside_tables(layout: Layout, at: int, length: int = 1) -> int:
    """*at*, or behind the L2 tables where *length* bytes would run into them."""
    tables = layout.tables()
    return tables.stop if at < tables.stop and at + length > tables.start else at
