# SPDX-License-Identifier: Apache-2.0
"""How clients on this machine connect as the administrator: DIR/admin.json."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import secrets
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import UsageError
from fastdl.manager import sealed
from fastdl.manager.access import auth
from fastdl.manager.api.context import ApiContext
from fastdl.manager.files import write_private
from fastdl.manager.ledger import accounts

log = logging.getLogger(__name__)


async def write(state: Path, url: str, context: ApiContext, *, anew: bool) -> None:
    """Create the first user and DIR/admin.json; later starts only update how to connect (*url*: of
    the API).

    If the file is missing and there is an administrator, it is written again with the keys in
    force, which may be in use. It then has no password. Keys that were sealed with a lost
    secret.key are replaced if the operator confirms that the folder is new (*anew*); else
    UsageError.
    """
    path = state / "admin.json"
    if (tls := context.api_tls) is not None:
        tls.changed = functools.partial(_follow_certificate, state, url, context)
    if path.exists():
        _keep_right(state, url, context)
        await sealed.encrypt_existing(context.ledger, context.vault, json.loads(path.read_text()))
        return
    password = secrets.token_urlsafe(18)
    hashed = await asyncio.to_thread(auth.hash_password, password)
    now, vault = context.clock.time(), context.vault

    async def work(tx: AsyncConnection) -> dict[str, str]:
        row = await accounts.administrator(tx)
        secret = sealed.secret_key(vault, row) if row is not None else None
        if row is not None and row.api_key and secret:
            return {"apikey": row.api_key, "secretkey": secret}
        if row is not None and row.api_key and not anew:
            raise UsageError(
                f"the keys of {row.username} in the ledger were encrypted with another secret.key "
                f"than {state / 'secret.key'}: restore that file. If it is lost, start once with "
                "--accept-new-ca, which creates new keys"
            )
        known = {}
        if row is None:
            id_ = await accounts.create(
                tx, username="admin", account="admin", password_hash=hashed, admin=True, now=now
            )
            known = {"password": password}
        else:
            id_ = row.id
        api_key, secret_key = await accounts.new_keys(
            tx, id_, seal=functools.partial(sealed.seal_secret_key, vault)
        )
        return {"apikey": api_key, "secretkey": secret_key, **known}

    admin = _how_to_connect(state, url, context) | await context.ledger.write(work)
    write_private(path, json.dumps(admin, indent=2) + "\n")
    log.info("admin credentials written", extra={"path": str(path)})


def _how_to_connect(state: Path, url: str, context: ApiContext) -> dict[str, str]:
    """Return the parts of admin.json that may change; keep cacert.pem up to date."""
    tls = context.api_tls
    if tls is None or tls.chain.cacert is None:
        return {"url": url}
    write_private(state / "cacert.pem", tls.chain.cacert)
    return {"url": url, "cacert": tls.chain.cacert}


def _keep_right(state: Path, url: str, context: ApiContext) -> None:
    """Update in DIR/admin.json how to connect; UsageError if it cannot be read."""
    path, how = state / "admin.json", _how_to_connect(state, url, context)
    try:
        known = json.loads(path.read_text())
        kept = {name: known[name] for name in known if name not in {"url", "cacert"}}
    except (OSError, ValueError, TypeError) as exc:
        raise UsageError(
            f"{path} cannot be read: delete it, and the next start writes new credentials"
        ) from exc
    if known != kept | how:
        write_private(path, json.dumps(how | kept, indent=2) + "\n")


def _follow_certificate(state: Path, url: str, context: ApiContext) -> None:
    try:
        _keep_right(state, url, context)
    except (UsageError, OSError) as exc:
        log.warning("admin.json not brought up to date", extra={"why": str(exc)})
