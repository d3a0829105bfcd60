# SPDX-License-Identifier: Apache-2.0
"""Which situations are measured? A scenario is a point on named axes; its name is its definition.

``https-3mirror-50ms-100MBps-1GiB-raw-block-sha256`` reads: over https, from three mirrors,
50 ms round trip, a link of 100 MB/s, one GiB, a raw image, to a block device, with SHA-256.
Axes at their default are left out of the name, and any combination may be typed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MiB: Final = 1 << 20
GiB: Final = 1 << 30

SCHEMES: Final = ("http", "https")
SPARSE: Final = {"sparse10G": 10 * GiB, "sparse100G": 100 * GiB, "sparse1T": 1024 * GiB}
IMAGES: Final = ("raw", "qcow2plain", "qcow2zlib", "qcow2zstd", *SPARSE)
TARGETS: Final = ("file", "block", "null")
DIGESTS: Final = ("none", "sha256", "pieces", "wholepieces")
CPUS: Final = ("native", "nosha")
SLOW_BYTES_S: Final = MiB
PATHS_BY: Final = ("loopback", "netns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One situation to measure.

    ``size`` is the guest data in bytes (for ``raw`` also the size of the file). ``connections``
    is the limit for every tool; 0 means 8 for the rivals and fastdl's own defaults.
    ``rtt_ms`` and ``link_bytes_s`` describe the path to every mirror (0: plain loopback), which
    ``path`` makes: a delay proxy on loopback, or a line between network namespaces.
    ``per_connection_bytes_s`` is a server that throttles each connection. The last
    ``slow_mirrors`` send SLOW_BYTES_S over a connection. ``digest``: SHA-256 of the file; or a
    metalink has it and those of 1 MiB pieces, which suffice (``pieces``) or not
    (``wholepieces``). ``cpu``: ``nosha`` is a processor without instructions for SHA-256.
    """

    scheme: str = "http"
    path: str = "loopback"
    mirrors: int = 1
    slow_mirrors: int = 0
    connections: int = 0
    rtt_ms: int = 0
    link_bytes_s: int = 0
    per_connection_bytes_s: int = 0
    size: int = GiB
    image: str = "raw"
    target: str = "file"
    digest: str = "sha256"
    cpu: str = "native"

    @property
    def name(self) -> str:
        parts = [self.scheme]
        if self.path != "loopback":
            parts.append(self.path)
        if self.mirrors > 1:
            parts.append(f"{self.mirrors}mirror")
        if self.slow_mirrors:
            parts.append(f"{self.slow_mirrors}slow")
        if self.cpu != "native":
            parts.append(self.cpu)
        if self.connections:
            parts.append(f"{self.connections}conn")
        if self.rtt_ms:
            parts.append(f"{self.rtt_ms}ms")
        if self.link_bytes_s:
            parts.append(f"{self.link_bytes_s // 1_000_000}MBps")
        if self.per_connection_bytes_s:
            parts.append(f"{self.per_connection_bytes_s // MiB}MiBpsconn")
        size = f"{self.size // GiB}GiB" if self.size % GiB == 0 else f"{self.size // MiB}MiB"
        return "-".join([*parts, size, self.image, self.target, self.digest])

    @property
    def by_metalink(self) -> bool:
        """True if a metalink says where the file is and what it has to be."""
        return self.digest in ("pieces", "wholepieces")

    @property
    def shaped(self) -> bool:
        """True if the path is longer or narrower than loopback."""
        return bool(self.rtt_ms or self.link_bytes_s)

    @property
    def converts(self) -> bool:
        """True if the image must be converted to raw in flight (qcow2 onto a device)."""
        return self.image != "raw" and self.target == "block"


_AXES: Final[tuple[tuple[re.Pattern[str], str, int], ...]] = (
    (re.compile(r"(\d+)mirror"), "mirrors", 1),
    (re.compile(r"(\d+)slow"), "slow_mirrors", 1),
    (re.compile(r"(\d+)conn"), "connections", 1),
    (re.compile(r"(\d+)ms"), "rtt_ms", 1),
    (re.compile(r"(\d+)MBps"), "link_bytes_s", 1_000_000),
    (re.compile(r"(\d+)MiBpsconn"), "per_connection_bytes_s", MiB),
    (re.compile(r"(\d+)GiB"), "size", GiB),
    (re.compile(r"(\d+)MiB"), "size", MiB),
)
_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "scheme": SCHEMES,
    "path": PATHS_BY,
    "image": IMAGES,
    "target": TARGETS,
    "digest": DIGESTS,
    "cpu": CPUS,
}


def parse_scenario(name: str) -> Scenario:
    """The scenario that *name* spells; parts may come in any order. ``ValueError`` on others."""
    values: dict[str, str | int] = {}
    for part in name.split("-"):
        axis, value = _parse_part(part)
        if axis in values:
            raise ValueError(f"scenario {name!r} gives its {axis} twice")
        values[axis] = value
    return Scenario(**values)  # type: ignore[arg-type]


def _parse_part(part: str) -> tuple[str, str | int]:
    for axis, words in _WORDS.items():
        if part in words:
            return axis, part
    for pattern, axis, unit in _AXES:
        if match := pattern.fullmatch(part):
            number = int(match[1]) * unit
            if number == 0:
                raise ValueError(f"axis {part!r} must not be zero")
            return axis, number
    raise ValueError(f"{part!r} is no axis of a scenario")


def _set(*names: str) -> tuple[Scenario, ...]:
    return tuple(parse_scenario(name) for name in names)


# What checks the project's promises, one minute each, and the README's figures.
HEADLINE: Final = _set(
    "http-1GiB-raw-file-sha256",
    "https-1GiB-raw-file-sha256",
    "http-1GiB-raw-block-sha256",
    "https-1GiB-raw-block-sha256",
    "http-1GiB-raw-file-none",
)
CONVERT: Final = _set(
    "http-256MiB-qcow2plain-block-sha256",
    "http-256MiB-qcow2zlib-block-sha256",
    "http-256MiB-qcow2zstd-block-sha256",
    "http-256MiB-qcow2plain-block-none",
    "http-256MiB-sparse100G-block-sha256",
)
# Long enough that the start is a small part: the share of a link used over distance.
FAR: Final = _set(
    "http-8conn-50ms-100MBps-1GiB-raw-file-sha256",
    "http-netns-8conn-50ms-100MBps-1GiB-raw-file-sha256",
)
# A server that limits each connection, over a line that is wider than eight of them and over one
# that six fill: fastdl with its defaults, the others with eight.
GROWTH: Final = _set(
    "http-netns-20ms-200MBps-8MiBpsconn-512MiB-raw-file-sha256",
    "http-netns-20ms-50MBps-8MiBpsconn-256MiB-raw-file-sha256",
)
PATHS: Final = _set(
    "http-8conn-50ms-100MBps-256MiB-raw-file-sha256",
    "http-8conn-100ms-256MiB-raw-file-sha256",
    "http-8conn-8MiBpsconn-256MiB-raw-file-sha256",
    "https-3mirror-20MBps-256MiB-raw-block-sha256",
)
MATRIX: Final = tuple(
    Scenario(scheme=scheme, target=target, digest=digest, connections=connections, size=256 * MiB)
    for scheme in SCHEMES
    for target in ("file", "block")
    for digest in DIGESTS
    for connections in (1, 4, 8)
)
# What proves the bytes, and what it costs.
PROOF: Final = _set(
    "http-3mirror-1slow-256MiB-raw-file-wholepieces",
    "http-3mirror-1slow-256MiB-raw-file-pieces",
    "http-1GiB-raw-file-pieces",
    "http-1GiB-raw-file-wholepieces",
    "http-nosha-1GiB-raw-file-pieces",
)
# What the guarantees cost, against a build from before some of them (rivals/fastdl_before.py).
SAFETY: Final = _set(
    "http-512MiB-raw-file-sha256",
    "http-512MiB-raw-block-sha256",
    "http-512MiB-qcow2plain-block-sha256",
)
SMOKE: Final = _set("http-16MiB-raw-file-sha256")

SETS: Final[Mapping[str, tuple[Scenario, ...]]] = {
    "smoke": SMOKE,
    "headline": HEADLINE,
    "convert": CONVERT,
    "far": FAR,
    "growth": GROWTH,
    "paths": PATHS,
    "proof": PROOF,
    "safety": SAFETY,
    "matrix": MATRIX,
}


def resolve(words: list[str]) -> list[Scenario]:
    """Scenarios for names of sets and of scenarios, in order, each once."""
    found: dict[str, Scenario] = {}
    for word in words:
        for scenario in SETS.get(word) or (parse_scenario(word),):
            found.setdefault(scenario.name, scenario)
    return list(found.values())
