# SPDX-License-Identifier: Apache-2.0
"""The hosts' CA in the ledger: which one it is, and, encrypted, the CA itself.

What is in the ledger counts; a manager's folder and memory follow it, also at the manager that
changes it. So every manager of a ledger has the same CA; all that it needs of its own is
``secret.key``, which the ledger does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiConflictError, ApiParamError, UsageError
from fastdl.manager.hosts import ca
from fastdl.manager.hosts.ca import Authority
from fastdl.manager.ledger import hosts, records
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.vault import Vault

_KEPT_AS: Final = "hosts.ca"
_SEALED_AS: Final = "hosts.ca.sealed"


async def change(
    tx: AsyncConnection, vault: Vault, authority: Authority, files: Mapping[str, str]
) -> None:
    """Have every manager of the ledger, whose CA is *authority*, take *files* for it.

    ApiConflictError if the ledger's is another: a manager changed it a moment ago.
    """
    sealed = (await records.settings(tx)).get(_SEALED_AS)
    folder = authority.folder
    if sealed and ca.of(_opened(vault, sealed), folder).fingerprints != authority.fingerprints:
        raise ApiConflictError("Another manager has just changed the CA: look at it and try again")
    await _note(tx, vault, ca.of(files, folder), files)


async def _note(
    tx: AsyncConnection, vault: Vault, authority: Authority, files: Mapping[str, str]
) -> None:
    """Remember *authority*, which *files* hold: both CAs during a rotation."""
    await records.set_setting(tx, _KEPT_AS, ",".join(sorted(authority.fingerprints)))
    await records.set_setting(tx, _SEALED_AS, vault.seal(_SEALED_AS, json.dumps(dict(files))))


async def open_known(ledger: Ledger, vault: Vault, folder: Path, *, accept_new: bool) -> Authority:
    """Return the authority of this ledger, kept in *folder*: the ledger's, else the folder's, else
    a new one.

    UsageError if the ledger's cannot be opened, or if the hosts were enrolled by another: this
    manager would lock all of them out. *accept_new*: use this one nevertheless.
    """
    sealed = await _sealed(ledger)
    if sealed:
        try:
            files = _opened(vault, sealed)
            ca.keep_former(folder, files)
            ca.restore(folder, files)
        except ApiParamError:
            if not accept_new:
                raise _stranger(folder) from None
        else:
            return ca.open_authority(folder)
    authority = ca.open_authority(folder)

    async def work(tx: AsyncConnection) -> None:
        stored = await records.settings(tx)
        if stored.get(_SEALED_AS, "") != sealed:
            raise _stranger(folder)  # another manager was the first one, a moment ago
        known = stored.get(_KEPT_AS, "")
        foreign = known and not authority.fingerprints & set(known.split(","))
        if foreign and not accept_new and await hosts.of_zone(tx):
            raise UsageError(
                "the hosts in this ledger were enrolled by a manager with another CA: restore the "
                "folder ca/ of its state folder here. If that is lost, --accept-new-ca starts "
                "with the new CA, and every host needs a new token"
            )
        await _note(tx, vault, authority, ca.kept(folder))

    await ledger.write(work)
    return authority


async def follow(ledger: Ledger, vault: Vault, authority: Authority) -> bool:
    """Take over the CA in the ledger where it was changed; whether it was."""
    sealed = await _sealed(ledger)
    return bool(sealed) and authority.take(_opened(vault, sealed))


async def look(ledger: Ledger, vault: Vault, folder: Path) -> Authority:
    """Return the authority of this ledger and change nothing in *folder*, that of a manager which
    may be running. UsageError if it cannot be opened, or no manager has served this ledger."""
    sealed = await _sealed(ledger)
    if not sealed:
        raise UsageError("no manager has started with this database: is --database the right one?")
    try:
        return ca.of(_opened(vault, sealed), folder)
    except ApiParamError:
        raise _stranger(folder) from None


async def _sealed(ledger: Ledger) -> str:
    async with ledger.read() as tx:
        return (await records.settings(tx)).get(_SEALED_AS, "")


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
