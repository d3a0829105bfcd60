# SPDX-License-Identifier: Apache-2.0
"""Secrets of users and templates: encrypted in the ledger, decrypted where they are used.

Users' secret keys, and the request headers of templates (and of their jobs), which may be tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from fastdl.errors import ApiParamError, FastdlError
from fastdl.manager.details import header_items
from fastdl.manager.ledger import accounts
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.ledger.tables import account, job, template
from fastdl.manager.ledger.text import dumps, loads
from fastdl.manager.vault import Vault
from fastdl.wire import codec
from fastdl.wire import messages as m

log = logging.getLogger(__name__)

Headers = tuple[tuple[str, str], ...]


def secret_key(vault: Vault, row: Row[Any]) -> str | None:
    """Return the user's secret key; None without one, or if another vault sealed it."""
    try:
        return vault.open(_key_name(row.id), row.secret_key) if row.secret_key else None
    except ApiParamError:
        return None


def seal_secret_key(vault: Vault, user: str, key: str) -> str:
    """Return the secret key of *user* as stored in the ledger."""
    return vault.seal(_key_name(user), key)


def seal_headers(vault: Vault, headers: Headers) -> Headers:
    """Return *headers* with values that only *vault* can open."""
    return tuple((name, vault.seal(_header_name(name), value)) for name, value in headers)


def open_headers(vault: Vault, headers: Headers) -> Headers:
    """The reverse of ``seal_headers``. One that another vault sealed is left out: the origin then
    reports what is missing, and other jobs are not affected.
    """
    opened = []
    for name, value in headers:
        try:
            opened.append((name, vault.open(_header_name(name), value)))
        except ApiParamError as exc:
            log.error("a template's request header cannot be decrypted", extra={"why": str(exc)})
    return tuple(opened)


def seal_details(vault: Vault, details: Mapping[str, str]) -> dict[str, str]:
    """Return a template's *details* with sealed header values."""
    headers = {key: vault.seal(_header_name(name), v) for key, name, v in header_items(details)}
    return {**details, **headers}


def headers_in(details: Mapping[str, str]) -> Headers:
    """Return the headers among stored *details*, still sealed."""
    return tuple((name, value) for _, name, value in header_items(details))


async def seal_all(ledger: Ledger, vault: Vault) -> None:
    """Seal what an older manager stored in clear text, and log whose keys cannot be opened."""
    async with ledger.read() as tx:
        users = list(await tx.execute(select(account).where(account.c.secret_key.is_not(None))))
        keys = {
            row.id: seal_secret_key(vault, row.id, row.secret_key)
            for row in users
            if not vault.is_sealed(row.secret_key)
        }
        details = {
            row.id: dumps(sealed)
            for row in await tx.execute(
                select(template.c.id, template.c.details).where(template.c.details != "{}")
            )
            if (sealed := _sealed_where_clear(vault, loads(row.details))) is not None
        }
        args = {
            row.id: text
            for row in await tx.execute(
                select(job.c.id, job.c.kind, job.c.args).where(job.c.args.contains('"headers":[['))
            )
            if (text := _sealed_args(vault, row.kind, row.args)) is not None
        }
    for row in users:
        if row.id not in keys and secret_key(vault, row) is None:
            log.error(
                "a secret key was sealed with another secret.key: give the user new keys",
                extra={"username": row.username},
            )

    async def work(tx: AsyncConnection) -> None:
        for table, column, values in (
            (account, "secret_key", keys),
            (template, "details", details),
            (job, "args", args),
        ):
            for id_, value in values.items():
                await tx.execute(update(table).where(table.c.id == id_).values({column: value}))

    if keys or details or args:
        await ledger.write(work)
        log.info(
            "unencrypted secrets have been encrypted",
            extra={"users": len(keys), "templates": len(details), "jobs": len(args)},
        )


async def encrypt_existing(ledger: Ledger, vault: Vault, known: Mapping[str, str]) -> None:
    """Seal the secret key in admin.json (*known*) again if *vault* cannot open the stored one."""

    async def work(tx: AsyncConnection) -> None:
        row = await accounts.by_key(tx, str(known.get("apikey", "")))
        secret = str(known.get("secretkey", ""))
        if row is not None and secret and row.secret_key and secret_key(vault, row) is None:
            key = seal_secret_key(vault, row.id, secret)
            await tx.execute(update(account).where(account.c.id == row.id).values(secret_key=key))

    await ledger.write(work)


def _sealed_where_clear(vault: Vault, details: Mapping[str, str]) -> dict[str, str] | None:
    """*details* with every header sealed; None if they already are."""
    clear = {key for key, _, value in header_items(details) if not vault.is_sealed(value)}
    if not clear:
        return None
    return {**details, **seal_details(vault, {key: details[key] for key in clear})}


def _sealed_args(vault: Vault, kind: str, text: str) -> str | None:
    """A job's arguments with every header sealed; None if they are, or cannot be parsed."""
    try:
        args = codec.args_from_json(kind, text)
    except FastdlError:
        return None
    if not isinstance(args, m.DownloadArgs | m.ProbeArgs | m.DocumentsArgs):
        return None
    if all(vault.is_sealed(value) for _, value in args.transfer.headers):
        return None
    headers = _each_sealed(vault, args.transfer.headers)
    return codec.args_to_json(replace(args, transfer=replace(args.transfer, headers=headers)))


def _each_sealed(vault: Vault, headers: Iterable[tuple[str, str]]) -> Headers:
    return tuple(
        pair if vault.is_sealed(pair[1]) else seal_headers(vault, (pair,))[0] for pair in headers
    )


def _key_name(user: str) -> str:
    return f"the secret key of user {user}"


def _header_name(name: str) -> str:
    return f"the header {name.lower()}"
