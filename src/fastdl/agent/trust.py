# SPDX-License-Identifier: Apache-2.0
"""Would this host trust that origin, and why? A TLS handshake and nothing more.

The decision that counts is the engine's, on every connection; this one serves checks before a
download, and shows after a revocation which downloads have to be checked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastdl.agent import work
from fastdl.agent.confine import BEST_EFFORT, Confinement
from fastdl.agent.work import Work
from fastdl.errors import InternalError, PolicyError
from fastdl.model.url import Url

SYSTEM = "system"
_START_S = 10.0
"""What the process may take to start on a busy host, in addition to the origin's time."""


@dataclass(frozen=True, slots=True)
class Vouched:
    """``accepted_by``: an alias, or ``system``; the certificate is the origin's."""

    accepted_by: str
    subject: str
    not_after: str


async def vouch(
    url_text: str,
    anchors: Mapping[str, str],
    *,
    allowed_cidrs: Sequence[str] = (),
    seconds: float = 10.0,
    confinement: Confinement = BEST_EFFORT,
) -> Vouched:
    """Who vouches for the https origin of *url_text*: alias → PEM in *anchors*, or the system.

    Raises TrustError if nobody does, PolicyError for an address that is not allowed, NetError if
    the origin cannot be reached within *seconds*.
    """
    url = Url.parse(url_text)
    if url.scheme != "https":
        raise PolicyError(f"{url.display()} is not https: there is no certificate to check")
    aliases = list(anchors)
    found = await work.run(
        Work(
            action="vouch",
            sources=(url_text,),
            options={
                "policy": "strict",
                "anchors": tuple(anchors.values()),
                "allowed_cidrs": allowed_cidrs,
                "connect_timeout": seconds,
            },
        ),
        confinement=confinement,
        deadline=seconds + _START_S,
    )
    by = found["by"]
    if by is not None and by >= len(aliases):
        raise InternalError("the handshake's process reported no certificate")
    name = SYSTEM if by is None else aliases[by]
    return Vouched(name, found["subject"], found["not_after"])
