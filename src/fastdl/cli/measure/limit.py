# SPDX-License-Identifier: Apache-2.0
"""What is the limit here, in plain words? Decided by figures alone."""

from __future__ import annotations

from fastdl.cli.measure.rates import Rates
from fastdl.model.units import format_rate
from fastdl.named_tuple import NamedTuple

_NEAR = 0.75
"""A part that gives no more than the whole needs divided by this is what the whole waits for."""
_FAR = 0.5
"""Below this share of the slowest part it is none of the parts."""
_PAYS = 1.3
"""More connections that bring less than this are no gain."""


class Limit(NamedTuple):
    """*what*: mirror-per-connection, link, mirror-or-link, storage, digest, processors, start, or
    unclear.

    *why*: a sentence or more for people.
    """

    what: str
    why: tuple[str, ...]


def find_limit(rates: Rates, whole: float, *, seconds: float) -> Limit:
    """Of a download at *whole* bytes a second, *seconds* long, with the *rates* of its parts."""
    if seconds < 0.3:
        return Limit(
            "start",
            (f"The download took {seconds:.2f} s: too short to tell more than a start's price.",),
        )
    known = {
        "network": rates.connections,
        "storage": rates.storage,
        "digest": rates.digest,
    }
    # What the whole has reached, no part of it is slower than.
    possible = [(rate, name) for name, rate in known.items() if rate is not None and rate >= whole]
    if not possible:
        why = (
            f"fastdl reached {format_rate(whole)}, more than each part gave alone later: the "
            "mirror, the storage or what else runs here varies. Measure again."
        )
        return Limit("unclear", (why,))
    rate, name = min(possible)
    words = []
    if whole < _NEAR * rate:
        words.append(
            f"fastdl reached {format_rate(whole)}, although each part alone gives at least "
            f"{format_rate(rate)}: they share the processors with each other and with what else "
            "runs here, or the mirror's rate varies."
        )
    if whole < _FAR * rate:
        return Limit("processors", tuple(words))
    if name == "storage":
        words.append(f"The storage is the limit: it takes {format_rate(rate)}.")
        return Limit("storage", tuple(words))
    if name == "digest":
        words.append(
            f"The digest is the limit: one processor computes SHA-256 at {format_rate(rate)}. "
            "A metalink with pieces lets several compute it."
        )
        return Limit("digest", tuple(words))
    return _network(rates, rate, words)


def _network(rates: Rates, rate: float, words: list[str]) -> Limit:
    one = rates.one_connection
    if rates.interface is not None and rate > _NEAR * rates.interface:
        words.append(
            f"The link is the limit: {format_rate(rate)} of the {format_rate(rates.interface)} "
            "of this host's network interface."
        )
        return Limit("link", tuple(words))
    if one is not None and rate > _PAYS * one:
        words.append(
            f"The mirror, or the way to it, limits each connection: one brings {format_rate(one)}, "
            f"several {format_rate(rate)}. More mirrors (--url again) or more connections "
            "(fastdl get --max-connections-per-origin) may bring more."
        )
        return Limit("mirror-per-connection", tuple(words))
    words.append(
        f"The mirror or the link as a whole is the limit: several connections bring "
        f"{format_rate(rate)}"
        + (f", one {format_rate(one)}." if one is not None else ".")
        + " Another mirror may bring more; more connections do not."
    )
    return Limit("mirror-or-link", tuple(words))
