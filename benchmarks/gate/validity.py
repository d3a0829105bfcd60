# SPDX-License-Identifier: Apache-2.0
"""For which machines is a stored count valid? Only like is compared with like.

Most counts are the program's own and hold wherever it runs. Some are made by something else as
well: instructions by the compiler, copies over TLS by OpenSSL. Those are stored under what made
them, and compared only where the same is found; elsewhere the gate says that it left them out.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

EVERYWHERE: Final = "everywhere"
# The first pattern that fits says what a metric depends on; what fits none holds everywhere.
_DEPENDS: Final[tuple[tuple[str, str], ...]] = (
    ("instructions.journal", "python"),
    ("instructions.start", "python"),
    ("start.modules", "python"),
    ("instructions.hash_*", "sha"),
    ("hash.*", "sha"),
    ("lanes.*", "sha"),
    ("instructions.*", "compiler"),
    ("*.cached_per_byte", "disk"),
    ("*.written_per_byte", "disk"),
    ("*.read_per_byte", "disk"),
    ("https.allocations_per_gb", "tls"),
    ("https.copied_per_byte", "tls"),
    ("https.read_calls_per_gb", "tls"),
)
# What GNU calls the levels of x86-64: memcpy and memchr of the C library are chosen by them.
_LEVELS: Final = (("v3", {"avx2", "bmi2", "movbe", "fma"}), ("v2", {"sse4_2", "popcnt", "ssse3"}))

Stored = dict[str, dict[str, dict[str, float]]]


def depends_on(metric: str) -> str:
    """The kind of key under which *metric* is stored."""
    return next(
        (kind for pattern, kind in _DEPENDS if fnmatch.fnmatchcase(metric, pattern)), EVERYWHERE
    )


def here(folder: Path) -> dict[str, str]:
    """Kind → what stands for it on this machine; *folder* is where targets will lie."""
    return {
        EVERYWHERE: EVERYWHERE,
        "compiler": f"{_said('cc', '--version')} {platform.machine()}-{_level()} {_libc()}",
        "python": f"{platform.python_implementation()} {platform.python_version()} "
        f"{platform.python_compiler()}",
        "tls": " ".join(_libraries()),
        "sha": _sha(),
        "disk": "direct" if _takes_direct(folder) else "buffered",
    }


def select(stored: Stored, keys: Mapping[str, str]) -> dict[str, float]:
    """The baseline for a machine with *keys*: what was stored under the very same ones."""
    return {
        metric: value
        for kind, key in keys.items()
        for metric, value in stored.get(kind, {}).get(key, {}).items()
    }


def left_out(
    stored: Stored, keys: Mapping[str, str], now: Mapping[str, float]
) -> dict[str, list[str]]:
    """Sentence → the metrics that cannot be compared here, because the baseline is of others."""
    found: dict[str, list[str]] = {}
    known = select(stored, keys)
    for metric in sorted(now):
        kind = depends_on(metric)
        others = sorted(stored.get(kind, {}))
        if metric not in known and others and keys[kind] not in others:
            sentence = f"{kind} here: {keys[kind]}; stored: {', '.join(others)}"
            found.setdefault(sentence, []).append(metric)
    return found


def merged(stored: Stored, keys: Mapping[str, str], now: Mapping[str, float]) -> Stored:
    """*stored* with the counts of *now* under this machine's keys; other machines' stay."""
    found = {
        kind: {key: dict(counts) for key, counts in sets.items()} for kind, sets in stored.items()
    }
    for metric, value in now.items():
        kind = depends_on(metric)
        found.setdefault(kind, {}).setdefault(keys[kind], {})[metric] = value
    return {
        kind: {key: dict(sorted(sets[key].items())) for key in sorted(sets)}
        for kind, sets in sorted(found.items())
    }


def from_file(record: Mapping[str, Any]) -> Stored:
    """The counts of a stored baseline."""
    counts: Stored = record.get("counts", {})
    return counts


def _said(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return f"no {argv[0]}"
    return done.stdout.split("\n", 1)[0].strip()


def _libc() -> str:
    return "-".join(platform.libc_ver())


def _level() -> str:
    """The level of the processor as far as callgrind passes it on (it knows no AVX-512)."""
    flags = _flags()
    return next((name for name, needed in _LEVELS if needed <= flags), "v1")


def _sha() -> str:
    """What the processor offers for SHA-256, whatever fastdl makes of it, and the compiler."""
    offered = sorted(_flags() & {"sha_ni", "sha2", "avx2", "avx512f"})
    return f"{' '.join(offered) or 'nothing'}, {_said('cc', '--version')}"


def _flags() -> set[str]:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text()
        line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
        return set(line[1].split()) if line else set()
    return set()


def _libraries() -> list[str]:
    """OpenSSL and libcurl as pkg-config finds them: what the core was built with."""
    return [
        f"{name} {_said('pkg-config', '--modversion', name)}" for name in ("openssl", "libcurl")
    ]


def _takes_direct(folder: Path) -> bool:
    """Whether files in *folder* can be written past the page cache."""
    with tempfile.NamedTemporaryFile(dir=folder) as probe:
        try:
            os.close(os.open(probe.name, os.O_WRONLY | os.O_DIRECT))
        except OSError:
            return False
    return True
