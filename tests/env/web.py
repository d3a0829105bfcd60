# SPDX-License-Identifier: Apache-2.0
"""Requests to a manager's API port as anybody could send them: to the byte, from any loopback
address, in any order and spelling."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import random
import socket
import ssl
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from fastdl.manager.access.auth import sign

Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Any
    body: str

    @property
    def envelope(self) -> str:
        """The name of the one object in it."""
        (name,) = json.loads(self.body)
        return str(name)

    @property
    def content(self) -> dict[str, Any]:
        """What is in the envelope."""
        (found,) = json.loads(self.body).values()
        assert isinstance(found, dict)
        return found

    @property
    def cookies(self) -> dict[str, str]:
        """Each Set-Cookie line by the cookie's name."""
        lines = self.headers.getall("Set-Cookie", [])
        return {line.partition("=")[0]: line for line in lines}


def encoded(pairs: Pairs) -> str:
    """*pairs* as a form."""
    return urllib.parse.urlencode(list(pairs), quote_via=urllib.parse.quote)


def soon(seconds: float = 300) -> str:
    """A date as version 3 signatures carry it, unlike any other."""
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds + random.random())
    return moment.isoformat(timespec="microseconds")


def signed(keys: dict[str, str], command: str, **params: str) -> dict[str, str]:
    """A version 3 request, signed; a double underscore stands for what Python cannot spell."""
    return signed_params(keys, {"command": command, **params})


def signed_params(keys: dict[str, str], params: dict[str, str]) -> dict[str, str]:
    """*params* as a signed version 3 request."""
    full = {
        "response": "json",
        "apiKey": keys["apikey"],
        "signatureVersion": "3",
        "expires": soon(),
        **params,
    }
    return {**full, "signature": sign(full, keys["secretkey"])}


def free_port() -> int:
    """A port that nobody uses at this moment, outside the range that the kernel hands out: tests
    that run at the same time would get it before the one that asked here binds it."""
    for _ in range(100):
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise RuntimeError("no free port found")


async def send(
    url: str,
    *,
    query: str = "",
    form: str | bytes | None = None,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    source: str | None = None,
    tls: ssl.SSLContext | None = None,
    session: aiohttp.ClientSession | None = None,
) -> Answer:
    """Send one request; *form* makes it a POST. *source*: the address that it comes from."""
    target = URL(f"{url}?{query}" if query else url, encoded=True)
    kind = {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
    data = form.encode() if isinstance(form, str) else form
    connector = aiohttp.TCPConnector(local_addr=(source, 0) if source else None, ssl=tls or True)
    own = session or aiohttp.ClientSession(connector=connector)
    try:
        async with own.request(
            method or ("GET" if form is None else "POST"),
            target,
            data=data,
            headers={**kind, **(headers or {})},
            allow_redirects=False,
        ) as answer:
            return Answer(answer.status, answer.headers, await answer.text())
    finally:
        if session is None:
            await own.close()
        await connector.close()
