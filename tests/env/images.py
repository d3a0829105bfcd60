# SPDX-License-Identifier: Apache-2.0
"""Disk images for tests: real ones from qemu-img and qemu-io, hostile ones by mutation.

``Recipe`` says what an image is like; ``build`` makes it with the real tools, so that the
tests never agree with themselves. ``mutate`` bends the header and the tables of a valid
image in the ways that attackers and broken disks do.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

QEMU_IMG = shutil.which("qemu-img")
QEMU_IO = shutil.which("qemu-io")
HAVE_QEMU = QEMU_IMG is not None and QEMU_IO is not None
NEED_QEMU = "qemu-img and qemu-io are not installed"

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One qcow2 image: its creation options and what a guest wrote into it."""

    size: int
    cluster_size: int = 64 * KIB
    compat: str = "1.1"
    compression: str = "zlib"
    extended_l2: bool = False
    preallocation: str = "off"
    compressed: bool = False
    writes: int = 12
    seed: int = 0

    def options(self) -> str:
        """The value of ``qemu-img create -o``."""
        parts = [f"cluster_size={self.cluster_size}", f"compat={self.compat}"]
        if self.compat != "0.10":
            parts.append(f"compression_type={self.compression}")
            parts.append(f"extended_l2={'on' if self.extended_l2 else 'off'}")
        if self.preallocation != "off":
            parts.append(f"preallocation={self.preallocation}")
        return ",".join(parts)


def run(*args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a tool without a shell, bounded in time."""
    return subprocess.run(
        [str(a) for a in args], check=check, capture_output=True, text=True, timeout=60
    )


def _guest_writes(recipe: Recipe, rng: random.Random) -> list[str]:
    """qemu-io commands: data, zeros, discards and compressed clusters at random places."""
    commands = []
    unit = 512
    for _ in range(recipe.writes):
        kind = rng.choice(["write", "write", "write", "zero", "unmap", "discard", "compressed"])
        if kind == "compressed" and recipe.preallocation != "off":
            kind = "write"
        if kind == "compressed":
            clusters = recipe.size // recipe.cluster_size
            if clusters == 0:
                continue
            at = rng.randrange(clusters) * recipe.cluster_size
            commands.append(f"write -c -P {rng.randrange(256)} {at} {recipe.cluster_size}")
            continue
        at = rng.randrange(recipe.size // unit) * unit
        longest = min(recipe.size - at, 3 * recipe.cluster_size, 2 * MIB)
        length = max(unit, rng.randrange(unit, longest + 1) // unit * unit)
        if kind == "write":
            commands.append(f"write -P {rng.randrange(1, 256)} {at} {length}")
        elif kind == "zero":
            commands.append(f"write -z {at} {length}")
        elif kind == "unmap":
            commands.append(f"write -z -u {at} {length}")
        else:
            commands.append(f"discard {at} {length}")
    return commands


def fill_raw(path: Path, size: int, rng: random.Random) -> None:
    """A raw file with runs of zeros, repeats and noise: what compressors and holes see."""
    with path.open("wb") as file:
        left = size
        while left:
            n = min(left, rng.choice([512, 4096, 65536, 200_000]))
            kind = rng.randrange(3)
            if kind == 0:
                file.write(bytes(n))
            elif kind == 1:
                file.write((bytes([rng.randrange(256)]) * 64 + b"template ") * (n // 73 + 1))
                file.seek(-(73 * (n // 73 + 1) - n), 1)
                file.truncate()
            else:
                file.write(rng.randbytes(n))
            left -= n


def build(path: Path, recipe: Recipe) -> Path:
    """Make the qcow2 image at *path* with the real tools and return *path*."""
    rng = random.Random(recipe.seed)
    if recipe.compressed:
        raw = path.with_suffix(".plain")
        fill_raw(raw, recipe.size, rng)
        run(
            "qemu-img",
            "convert",
            "-q",
            "-c",
            "-f",
            "raw",
            "-O",
            "qcow2",
            "-o",
            recipe.options(),
            raw,
            path,
        )
        raw.unlink()
    else:
        run(
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            recipe.options(),
            path,
            str(recipe.size),
        )
    args: list[str | Path] = []
    for command in _guest_writes(recipe, rng):
        args += ["-c", command]
    if args:
        run("qemu-io", "-f", "qcow2", *args, path, check=False)
    return path


def random_recipe(rng: random.Random) -> Recipe:
    """A recipe over all options that qemu knows."""
    compat = rng.choice(["1.1", "1.1", "1.1", "0.10"])
    extended = compat == "1.1" and rng.random() < 0.3
    bits = rng.randrange(14 if extended else 9, 22)
    cluster = 1 << bits
    top = min(12 * cluster * 8, 12 * MIB) if bits < 16 else 12 * MIB
    size = max(512, rng.randrange(512, top + 1) // 512 * 512)
    compressed = rng.random() < 0.4
    return Recipe(
        size=size,
        cluster_size=cluster,
        compat=compat,
        compression="zlib" if compat == "0.10" else rng.choice(["zlib", "zstd"]),
        extended_l2=extended,
        preallocation="off" if compressed else rng.choice(["off", "off", "off", "metadata"]),
        compressed=compressed,
        writes=rng.randrange(0, 25),
        seed=rng.randrange(2**32),
    )


def to_raw(image: Path, raw: Path) -> bool:
    """The oracle: ``qemu-img convert`` with formats named. False where it refuses."""
    raw.unlink(missing_ok=True)
    done = run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw, check=False)
    return done.returncode == 0


# --- hostile ones -----------------------------------------------------------------------

_FIELDS = {  # offset: width in bytes
    4: 4, 8: 8, 16: 4, 20: 4, 24: 8, 32: 4, 36: 4, 40: 8, 48: 8, 56: 4, 60: 4, 64: 8,
    72: 8, 80: 8, 88: 8, 96: 4, 100: 4, 104: 1,
}  # fmt: skip
_ODD = [0, 1, 2, 3, 7, 8, 9, 21, 22, 63, 64, 104, 105, 511, 512, 513, 65536, 2**31, 2**32 - 1,
        2**56, 2**62, 2**63, 2**64 - 1]  # fmt: skip


def table_offsets(data: bytes) -> tuple[list[int], list[int]]:
    """File offsets of the L1 entries and of all L2 entries of a valid image."""
    (bits,) = struct.unpack_from(">I", data, 20)
    l1_size, l1 = struct.unpack_from(">IQ", data, 36)
    l1_at = [l1 + 8 * i for i in range(l1_size)]
    l2_at: list[int] = []
    for at in l1_at:
        (entry,) = struct.unpack_from(">Q", data, at)
        table = entry & 0x00FFFFFFFFFFFE00
        if table:
            l2_at += [
                table + 8 * i for i in range((1 << bits) // 8) if table + 8 * i + 8 <= len(data)
            ]
    return l1_at, l2_at


def _bent(value: int, size: int, cluster: int, rng: random.Random) -> int:
    """A table entry near the old one: other offset, flipped bit, alias, out of the file."""
    pick = rng.randrange(8)
    if pick == 0:
        return value ^ (1 << rng.randrange(64))
    if pick == 1:
        return rng.randrange(size // cluster + 2) * cluster | (value & 1 << 63)
    if pick == 2:
        return rng.randrange(size + cluster) | 1 << 62
    if pick == 3:
        return rng.getrandbits(64)
    if pick == 4:
        return value | 1
    if pick == 5:
        return value + rng.choice([-1, 1]) * rng.choice([512, cluster]) & 2**64 - 1
    if pick == 6:
        return 0
    return rng.choice(_ODD)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """*data* with one to three lies in its header, its tables, its body or its length."""
    out = bytearray(data)
    l1_at, l2_at = table_offsets(data)
    (bits,) = struct.unpack_from(">I", data, 20)
    used = [at for at in l2_at if any(data[at : at + 8])] or l2_at
    for _ in range(rng.randrange(1, 4)):
        pick = rng.randrange(10)
        if pick < 2:
            at, width = rng.choice(list(_FIELDS.items()))
            old = int.from_bytes(out[at : at + width], "big")
            new = rng.choice([rng.choice(_ODD), old ^ (1 << rng.randrange(8 * width)), old + 1])
            out[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "big")
        elif pick == 2 or not used:
            at = rng.choice(l1_at)
            (old,) = struct.unpack_from(">Q", data, at)
            struct.pack_into(">Q", out, at, _bent(old, len(out), 1 << bits, rng))
        elif pick < 7:
            at = rng.choice(used if rng.random() < 0.8 else l2_at)
            (old,) = struct.unpack_from(">Q", data, at)
            struct.pack_into(">Q", out, at, _bent(old, len(out), 1 << bits, rng))
        elif pick == 7:
            one, two = rng.choice(used), rng.choice(used)
            out[one : one + 8] = data[two : two + 8]
        elif pick == 8:
            at = rng.randrange(len(out))
            out[at] ^= 1 << rng.randrange(8)
        else:
            at = rng.randrange(104, 400)
            out[at] ^= 1 << rng.randrange(8)
    if rng.random() < 0.1:
        del out[rng.randrange(len(out)) :]
    return bytes(out)


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """*count* mutated copies of *data*, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield mutate(data, rng)
