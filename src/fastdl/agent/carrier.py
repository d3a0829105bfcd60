# SPDX-License-Identifier: Apache-2.0
"""What carries messages to and from a manager: what ``link`` needs of it, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

from fastdl.agent.identity import HostUnknownError
from fastdl.errors import AgentLostError
from fastdl.wire import messages as m

HANDSHAKE_S: Final = 20.0

Heard = Callable[[float], None]
"""Called when a manager is known to have been there at that time (``lease.now``) or later."""


class AbsentError(AgentLostError):
    """Nobody listens at the manager's address: it does not run."""


class HearsayError(HostUnknownError):
    """A token helps, but no manager of this host has said so: what it does goes on meanwhile."""


class OtherAuthorityError(HearsayError):
    """Whoever responds is not the manager that enrolled this host."""

    def __init__(self, manager: str) -> None:
        super().__init__(
            f"{manager} presents a certificate of a CA that this host does not trust: it is "
            f"another manager, or its CA was replaced; a new token (--token) enrols this host there"
        )


class NotAdmittedError(HearsayError):
    """What is between this host and its managers does not know it."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"{place} does not let this host in: it was deleted, or the servers' list of hosts is "
            "older than it; a new token (--token) enrols it again"
        )


class Channel(Protocol):
    """One connection to one manager. Methods raise OSError, TimeoutError or a FastdlError when it
    is lost."""

    async def receive(self) -> m.Message | None:
        """Return the manager's next message of a type that is known, or None: it closed."""

    async def send(self, message: m.Message) -> None:
        """Send *message*."""

    async def ping(self, at: float) -> None:
        """Ask for a sign of life; ``Heard`` is called with *at* when it comes."""


class Carrier(Protocol):
    """Connects to managers."""

    @property
    def places(self) -> Sequence[str]:
        """What ``connected`` can be called with, one after the other."""

    def connected(self, place: str, heard: Heard) -> AbstractAsyncContextManager[Channel]:
        """A connection to a manager at *place*, whose identity was checked, until the context
        ends.

        AbsentError if no manager runs there, AgentLostError if none can be reached,
        OtherAuthorityError if it is not this host's, NotAdmittedError if it is not asked.
        """

    async def leave(self, results: Sequence[m.JobResult]) -> None:
        """Leave *results* where a manager finds them when there is one again, if there is such a
        place and it is reached; they are kept here, too."""
