# SPDX-License-Identifier: Apache-2.0
"""The names of hosts' messages on NATS, and what a host may do with them.

``fdl.hosts.open.HOST.SESSION``   a host begins a session with any manager
``fdl.hosts.up.HOST.SESSION``     the session's bytes to that manager
``fdl.hosts.down.HOST.SESSION``   the session's bytes to the host
``fdl.hosts.box.HOST``            the mailbox: its document, sealed (stream ``FDL_BOX``)
``fdl.hosts.res.HOST``            its results, sealed, until a manager stored them (``FDL_RES``)
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

BOX: Final = "FDL_BOX"
RESULTS: Final = "FDL_RES"
CONSUMER: Final = "managers"
"""The durable consumer of results, and the queue group of those who accept sessions."""
MANAGER: Final = "manager.nats.fastdl.internal"
"""The name in managers' certificates for NATS, and so their user."""
ANY_OPEN: Final = "fdl.hosts.open.*.*"
ANY_BOX: Final = "fdl.hosts.box.*"
ANY_RESULT: Final = "fdl.hosts.res.*"
_HOST: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SESSION: Final = re.compile(r"[0-9a-f]{32}")


class Permissions(NamedTuple):
    """The subjects that one user may use."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def is_host(text: str) -> bool:
    """Whether *text* can be a host's id in a subject."""
    return _HOST.fullmatch(text) is not None


def inbox(host: str) -> str:
    """Return the prefix of *host*'s subjects for responses."""
    return f"_INBOX_{host}"


def opening(host: str, session: str) -> str:
    """Return where *host* begins *session*."""
    return f"fdl.hosts.open.{host}.{session}"


def opened(subject: str) -> tuple[str, str] | None:
    """Return (host, session) of a subject of ``opening``; None for any other."""
    *prefix, host, session = subject.split(".")
    if prefix != ["fdl", "hosts", "open"] or not is_host(host) or not _SESSION.fullmatch(session):
        return None
    return host, session


def up(host: str, session: str) -> str:
    """Return where the bytes of *session* to the manager go."""
    return f"fdl.hosts.up.{host}.{session}"


def down(host: str, session: str) -> str:
    """Return where the bytes of *session* to *host* go."""
    return f"fdl.hosts.down.{host}.{session}"


def box(host: str) -> str:
    """Return the mailbox of *host*."""
    return f"fdl.hosts.box.{host}"


def reading(host: str) -> str:
    """Return where *host* asks for what is in its mailbox: the one form of a direct get that
    permissions can restrict to it."""
    return f"$JS.API.DIRECT.GET.{BOX}.{box(host)}"


def results(host: str) -> str:
    """Return where *host*'s results are stored."""
    return f"fdl.hosts.res.{host}"


def reporter(subject: str) -> str | None:
    """Return the host of a subject of ``results``; None for any other."""
    *prefix, host = subject.split(".")
    return host if prefix == ["fdl", "hosts", "res"] and is_host(host) else None


def permissions(host: str) -> Permissions:
    """Return what *host* needs, and nothing that is another's."""
    return Permissions(
        publish=(opening(host, "*"), up(host, "*"), results(host), reading(host)),
        subscribe=(down(host, "*"), box(host), f"{inbox(host)}.>"),
    )
