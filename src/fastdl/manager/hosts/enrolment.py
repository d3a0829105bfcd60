# SPDX-License-Identifier: Apache-2.0
"""How a machine becomes a host and stays one: exchanging tokens and renewing certificates.

A host has one key, which only a token changes. A renewal is a new certificate for that key, so a
renewal, even with a stolen certificate, locks nobody out.
"""

from __future__ import annotations

from cryptography import x509
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import AgentRefusedError, UsageError
from fastdl.manager.clock import Clock
from fastdl.manager.events import Event, Events
from fastdl.manager.hosts.ca import Authority, csr_key
from fastdl.manager.hosts.refusal import UnknownHostError
from fastdl.manager.ledger import hosts, tokens
from fastdl.manager.ledger.engine import Ledger
from fastdl.wire import messages as m
from fastdl.wire.token import parse_token


class Enrolment:
    """Exchanges tokens for certificates, and renews certificates."""

    def __init__(
        self, authority: Authority, *, ledger: Ledger, clock: Clock, events: Events
    ) -> None:
        self._authority = authority
        self._ledger = ledger
        self._clock = clock
        self._events = events

    async def enrol(self, request: m.EnrolRequest) -> tuple[m.EnrolReply, str | None]:
        """Exchange a token for a host's certificate; return the reply and the hash of the key
        that was the host's until now, None if there is none.

        Raises AgentRefusedError with the reason.
        """
        _, key_hash = csr_key(request.csr)
        former = csr_key(request.former)[1] if request.former else key_hash
        try:
            token = parse_token(request.token)
        except UsageError as exc:
            raise AgentRefusedError(exc.message) from exc
        name = request.name.strip() or "host"
        now = self._clock.time()

        async def work(tx: AsyncConnection) -> tuple[tokens.Enrolled, list[Event]]:
            enrolled = await tokens.use(
                tx, token, key_hash=key_hash, former=former, name=name, now=now
            )
            events = _events_of(enrolled, name)
            await self._events.store(tx, *events)
            return enrolled, events

        enrolled, events = await self._ledger.write(work)
        self._events.publish(*events)
        row = enrolled.row
        certificate, _ = self._authority.sign_host(request.csr, row.id)
        reply = m.EnrolReply(
            host_id=row.id, zone_id=row.zone, certificate=certificate, ca=self._authority.pem
        )
        return reply, enrolled.former_key

    async def renew(self, host: str, request: m.RenewRequest) -> m.Renewed:
        """Return a new certificate for the key of *host*, which is connected with it."""
        async with self._ledger.read() as tx:
            row = await hosts.get(tx, host)
        if row is None:
            raise UnknownHostError
        certificate, key_hash = self._authority.sign_host(request.csr, host)
        if key_hash != row.key_hash:
            text = (
                f"host {row.name} asked for a certificate of another key than its own, which was "
                f"refused: only a token (createHostToken hostid=…) gives a host a new key"
            )
            await self._events.record("HOST.RENEWAL", text, level="ERROR", resource=host)
            raise AgentRefusedError("a renewal requires the key that the host was enrolled with")
        found = x509.load_pem_x509_certificate(certificate.encode())
        until = found.not_valid_after_utc.timestamp()
        await self._ledger.write(lambda tx: hosts.certified(tx, host, until=until))
        return m.Renewed(certificate=certificate, ca=self._authority.pem)


def _events_of(enrolled: tokens.Enrolled, name: str) -> list[Event]:
    """Return the events of an enrolment, with anything that an operator should check."""
    row = enrolled.row
    if enrolled.again:
        return []
    if enrolled.former_key is not None:
        # Perhaps the same host again, perhaps a replacement: either is what the operator wants.
        text = f"host {row.name} was enrolled again: its former key is no longer valid"
        return [Event(type="HOST.ENROL", description=text, level="WARN", resource=row.id)]
    events = [Event(type="HOST.ENROL", description=f"host {name} enrolled", resource=row.id)]
    if (other := enrolled.namesake) is not None:
        text = (
            f"there are two hosts {name} now: {other.id} ({other.state}) and the new {row.id}. If "
            f"they are one machine that was set up again, delete the old one (deleteHost "
            f"id={other.id}); next time let the machine keep its place with a token made for it "
            f"(createHostToken hostid=…)"
        )
        events.append(Event(type="HOST.NAME", description=text, level="WARN", resource=row.id))
    return events
