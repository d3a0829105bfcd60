# SPDX-License-Identifier: Apache-2.0
"""The hosts' CA in the ledger: which one it is, and, encrypted, the CA itself.

So every manager of a ledger has the same CA and follows its rotation; all that it needs of its own
is ``secret.key``, which the ledger does not hold.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError, UsageError
from fastdl.manager.hosts import ca
from fastdl.manager.hosts.ca import Authority
from fastdl.manager.ledger import hosts, records
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.vault import Vault

_KEPT_AS: Final = "hosts.ca"
_SEALED_AS: Final = "hosts.ca.sealed"


async def note(tx: AsyncConnection, authority: Authority, vault: Vault) -> None:
    """Remember the hosts' CA, both of them during a rotation."""
    await records.set_setting(tx, _KEPT_AS, ",".join(sorted(authority.fingerprints)))
    files = json.dumps(ca.kept(authority.folder))
    await records.set_setting(tx, _SEALED_AS, vault.seal(_SEALED_AS, files))


async def open_known(ledger: Ledger, vault: Vault, folder: Path, *, accept_new: bool) -> Authority:
    """Return the authority of this ledger, kept in *folder*: the ledger's, else the folder's, else
    a new one.

    UsageError if the ledger's cannot be opened, or if the hosts were enrolled by another: this
    manager would lock all of them out. *accept_new*: use this one nevertheless.
    """
    async with ledger.read() as tx:
        sealed = (await records.settings(tx)).get(_SEALED_AS)
    if sealed:
        try:
            ca.restore(folder, _opened(vault, sealed))
        except ApiParamError:
            if not accept_new:
                raise _stranger(folder) from None
        else:
            return ca.open_authority(folder)
    authority = ca.open_authority(folder)

    async def work(tx: AsyncConnection) -> None:
        stored = await records.settings(tx)
        if stored.get(_SEALED_AS) != sealed:
            raise _stranger(folder)  # another manager was the first one, a moment ago
        known = stored.get(_KEPT_AS, "")
        foreign = known and not authority.fingerprints & set(known.split(","))
        if foreign and not accept_new and await hosts.of_zone(tx):
            raise UsageError(
                "the hosts in this ledger were enrolled by a manager with another CA: restore the "
                "folder ca/ of its state folder here. If that is lost, --accept-new-ca starts "
                "with the new CA, and every host needs a new token"
            )
        await note(tx, authority, vault)

    await ledger.write(work)
    return authority


async def follow(ledger: Ledger, vault: Vault, authority: Authority) -> bool:
    """Take over the CA in the ledger where another manager changed it; whether it did."""
    async with ledger.read() as tx:
        sealed = (await records.settings(tx)).get(_SEALED_AS)
    if not sealed or not ca.restore(authority.folder, _opened(vault, sealed)):
        return False
    authority.reload()
    return True


def _stranger(folder: Path) -> UsageError:
    return UsageError(
        "the CA in this ledger was encrypted with another secret.key than that in "
        f"{folder.parent}: copy the file secret.key there from the state folder of a manager of "
        "this ledger, or restore that file from the backup. If it is lost, --accept-new-ca starts "
        "with the CA in ca/, or with a new one, for which every host needs a new token"
    )


def _opened(vault: Vault, sealed: str) -> dict[str, str]:
    files: dict[str, str] = json.loads(vault.open(_SEALED_AS, sealed))
    return files
