# SPDX-License-Identifier: Apache-2.0
"""Do the hosts in this ledger belong to this manager's CA? The ledger remembers their CA."""

from __future__ import annotations

from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import UsageError
from fastdl.manager.hosts.ca import Authority
from fastdl.manager.ledger import hosts, records
from fastdl.manager.ledger.engine import Ledger

_KEPT_AS: Final = "hosts.ca"


async def note(tx: AsyncConnection, authority: Authority) -> None:
    """Remember the hosts' CA, both of them during a rotation."""
    await records.set_setting(tx, _KEPT_AS, ",".join(sorted(authority.fingerprints)))


async def check(ledger: Ledger, authority: Authority, *, accept_new: bool) -> None:
    """UsageError if the hosts were enrolled by another CA: this manager would lock all of them out.
    *accept_new*: use this one nevertheless.
    """

    async def work(tx: AsyncConnection) -> None:
        known = (await records.settings(tx)).get(_KEPT_AS, "")
        foreign = known and not authority.fingerprints & set(known.split(","))
        if foreign and not accept_new and await hosts.of_zone(tx):
            raise UsageError(
                "the hosts in this ledger were enrolled by a manager with another CA: restore the "
                "folder ca/ of its state folder here. If that is lost, --accept-new-ca starts "
                "with the new CA, and every host needs a new token"
            )
        await note(tx, authority)

    await ledger.write(work)
