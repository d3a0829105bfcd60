# SPDX-License-Identifier: Apache-2.0
"""The outcome of a transfer: is the data correct, which mirrors sent it, what was slow?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdl.engine.result import MirrorReport
from fastdl.errors import IntegrityError, SizeError
from fastdl.named_tuple import NamedTuple

if TYPE_CHECKING:
    from fastdl.engine.source.facts import SourceFacts


class Outcome(NamedTuple):
    """What a job did. *digests* are what the bytes have, not what they should have; *listed* are
    those of pieces of *list_length* bytes, where a list was wanted."""

    total: int
    digests: dict[str, bytes]
    status: dict[str, Any]
    resumed: int
    listed: bytes = b""
    list_length: int = 0


def verify(facts: SourceFacts, index: int, outcome: Outcome) -> dict[str, str]:
    """Compare size and every digest that was computed; IntegrityError or SizeError.

    *index*: the mirror to name if a digest differs.
    """
    if facts.size is not None and outcome.total != facts.size:
        raise SizeError(f"{outcome.total} bytes received, {facts.size} expected", phase="verify")
    for wanted in facts.computed:
        got = outcome.digests[wanted.algorithm].hex()
        if got != wanted.hex:
            raise IntegrityError(
                f"the {wanted.algorithm} of the received data is {got}, "
                f"{facts.digests.source_of(wanted.algorithm)} says {wanted.hex}",
                phase="verify",
                origin=facts.urls[index].display(),
            )
    return {name: value.hex() for name, value in outcome.digests.items()}


def mirror_reports(facts: SourceFacts) -> tuple[MirrorReport, ...]:
    """What each mirror did, for the result and for errors."""
    return tuple(
        MirrorReport(
            url=url.display(),
            bytes=mirror.bytes,
            requests=mirror.requests,
            errors=mirror.errors,
            state=mirror.state,
            reason=mirror.reason or None if mirror.state != "ok" else None,
        )
        for url, mirror in zip(facts.urls, facts.mirrors, strict=True)
    )


def stages(status: dict[str, Any]) -> dict[str, float]:
    """Busy seconds of each stage, summed over threads."""
    names = ("fetch", "tls", "hash", "decode", "write", "flush")
    return {name: round(status[f"{name}_ns"] / 1e9, 6) for name in names}


def bottleneck(status: dict[str, Any], digests: int) -> str:
    """What the transfer waited for most, from its counters.

    A stage after the connections that was busy most of the time was the bottleneck; if none was,
    the connections were waiting for the mirrors (or slow to receive).
    """
    elapsed = max(status["elapsed_ns"], 1)
    behind = {
        "hash": status["hash_ns"] / max(digests, 1),
        "decode": status["decode_ns"],
        "write": status["write_ns"] / max(status["conns"], 1),
        "flush": status["flush_ns"],
    }
    slowest = max(behind, key=lambda name: behind[name])
    return slowest if behind[slowest] > elapsed / 2 else "network"
