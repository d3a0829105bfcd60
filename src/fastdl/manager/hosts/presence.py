# SPDX-License-Identifier: Apache-2.0
"""Which hosts are connected, and with which identity? State of a host while it is connected."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from fastdl.manager.hosts.ca import Authority, Peer
from fastdl.wire import messages as m

INSTANCES_MAX: Final = 16
"""Earlier starts of a host's agent that are remembered."""
REPORT_S: Final = 3600.0
"""How often two agents of one host are reported."""
ASK_S: Final = 60.0
"""How often a host is asked for a renewal that the CA's rotation needs."""


@dataclass(slots=True)
class Presence:
    """A host that is connected, or has just disconnected. Times are steady: neither side's wall
    clock decides whether it is silent.

    ``alert``      it is connected and has been silent for too long
    ``ca``         the issuer of its certificate; ``trusts``: the CAs that it accepts as ours
    ``asked``      when it was last asked to renew its certificate
    """

    last_beat: float
    connected: bool
    alert: bool = False
    key_hash: str = ""
    ca: str = ""
    trusts: frozenset[str] = frozenset()
    asked: float = -math.inf

    @classmethod
    def of(cls, peer: Peer, hello: m.Hello, *, now: float) -> Presence:
        """A host that has just been admitted."""
        return cls(
            last_beat=now,
            connected=True,
            key_hash=peer.key_hash,
            ca=peer.ca,
            trusts=frozenset(hello.authorities),
        )

    def due_renewal(self, authority: Authority, now: float) -> bool:
        """Whether to request a renewal now because the CA changes; not again until later."""
        if not self.connected or not self.trusts or now - self.asked < ASK_S:
            return False
        if self.ca == authority.newest.sha256 and self.trusts == authority.fingerprints:
            return False
        self.asked = now
        return True


@dataclass(slots=True)
class Instances:
    """Which agents have said that they are one host, whichever manager they connected to.

    ``current``    the one that connected last; ``replaced``: earlier ones
    ``reported``   when two agents were last reported
    """

    current: str = ""
    replaced: deque[str] = field(default_factory=lambda: deque(maxlen=INSTANCES_MAX))
    reported: float = -math.inf

    def arrived(self, instance: str) -> None:
        """Note that an agent connected as *instance*."""
        if self.current not in {"", instance}:
            self.replaced.append(self.current)
        self.current = instance

    def is_second(self, instance: str) -> bool:
        """Whether an agent that connects as *instance* runs alongside the current one.

        An agent has a new instance at each start and never reuses an earlier one. One that comes
        back after it was replaced runs alongside the one that replaced it: the state folder was
        copied, or the key was stolen.
        """
        return instance in self.replaced

    def due_report(self, now: float) -> bool:
        """Whether to report two agents to an operator now; at most once an hour."""
        due = now - self.reported > REPORT_S
        if due:
            self.reported = now
        return due
