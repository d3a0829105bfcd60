# SPDX-License-Identifier: Apache-2.0
"""Volumes over HTTP: one small API of the agent, with its own authentication. Off by default.

    POST   /v1/volumes       start (or find) the job of a request: 202, or 200 if it has ended
    GET    /v1/volumes/ID    how far it is
    DELETE /v1/volumes/ID    stop it

``?wait=SECONDS`` answers later, when the job has ended or the time is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import re
import socket
import ssl
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from fastdl.agent.volume_jobs import Job, VolumeJobs
from fastdl.errors import (
    ApiAuthError,
    ApiLimitError,
    ApiParamError,
    FastdlError,
    UsageError,
)
from fastdl.model.address import AddressClass, classify, literal_address
from fastdl.wire.volumes import BODY_MAX, parse_volume_request

log = logging.getLogger(__name__)

CONNECTIONS_MAX: Final = 64
_WAIT_MAX_S: Final = 60
_READ_S: Final = 10.0
_PATH: Final = re.compile(r"/v1/volumes(?:/([^/]*))?")
_LIFE_S: Final = 2.0 * _WAIT_MAX_S
"""A connection serves one request; one that never sends it is closed."""
_REFUSALS_A_SECOND: Final = 5.0
_TOKEN_MIN: Final = 16
_TOKEN_MAX: Final = 4096
_STATUS: Final = {ApiAuthError: 401, ApiLimitError: 429, ApiParamError: 400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where and for whom. *address*: ``unix:/path`` or ``HOST:PORT``; *token_file*: what clients
    send as a bearer token; *cert*, *key*: the server's; *client_ca*: clients need a certificate of
    it.
    """

    address: str
    token_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    def check(self) -> None:
        """UsageError where anybody could ask, or read what is asked."""
        if (self.cert is None) != (self.key is None):
            raise UsageError("--volumes-cert and --volumes-key belong together")
        if self.client_ca is not None and self.cert is None:
            raise UsageError("--volumes-client-ca needs --volumes-cert and --volumes-key")
        if self.path is not None:
            return
        host, _ = self.host_port()
        if self.token_file is None and self.client_ca is None:
            raise UsageError(
                "--volumes-listen needs --volumes-token-file or --volumes-client-ca: every user "
                "of this host reaches the port"
            )
        if self.cert is None and not _is_loopback(host):
            raise UsageError(
                f"--volumes-listen {self.address}: beyond loopback it needs TLS (--volumes-cert, "
                "--volumes-key)"
            )

    @property
    def path(self) -> Path | None:
        """The socket's path; None for TCP."""
        kind, _, rest = self.address.partition(":")
        return Path(rest) if kind == "unix" and rest.startswith("/") else None

    def host_port(self) -> tuple[str, int]:
        """Host and port; UsageError."""
        host, colon, port = self.address.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise UsageError(f"--volumes-listen {self.address}: write HOST:PORT or unix:/PATH")
        return host.strip("[]"), int(port)


@contextlib.asynccontextmanager
async def serving(listen: Listen, jobs: VolumeJobs) -> AsyncIterator[str]:
    """Serve while the block runs; yields the address. At its end the jobs are stopped."""
    listen.check()
    handler = _Handler(jobs, _token(listen.token_file))
    server = web.Server(handler.handle, keepalive_timeout=0, access_log=None)
    loop = asyncio.get_running_loop()

    live: set[asyncio.Protocol] = set()

    def accept() -> asyncio.Protocol:
        return _Counted(server(), live)

    context = _tls(listen)
    try:
        if listen.path is not None:
            _remove_stale(listen.path)
            old = os.umask(0o177)
            try:
                sockets = await loop.create_unix_server(accept, listen.path, ssl=context)
            finally:
                os.umask(old)
            shown = listen.address
        else:
            host, port = listen.host_port()
            sockets = await loop.create_server(accept, host, port, ssl=context)
            port = sockets.sockets[0].getsockname()[1]
            shown = f"{'https' if context else 'http'}://{listen.address.rpartition(':')[0]}:{port}"
    except OSError as exc:
        raise UsageError(f"cannot listen on {listen.address}: {exc.strerror}") from None
    log.info("volumes are made on request at %s", shown)
    try:
        yield shown
    finally:
        sockets.close()
        await jobs.close()
        await server.shutdown(1.0)
        if listen.path is not None:
            listen.path.unlink(missing_ok=True)


class _Counted(asyncio.Protocol):
    """A connection, unless it is one too many. *live*: those that are served."""

    def __init__(self, inner: web.RequestHandler, live: set[asyncio.Protocol]) -> None:
        self._inner = inner
        self._live = live

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if len(self._live) >= CONNECTIONS_MAX:
            transport.write(
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                b"Connection: close\r\nContent-Length: 0\r\n\r\n"
            )
            transport.close()
            return
        self._live.add(self)
        asyncio.get_running_loop().call_later(_LIFE_S, transport.abort)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self in self._live:
            self._live.remove(self)
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self in self._live:
            self._inner.data_received(data)

    def eof_received(self) -> None:
        if self in self._live:
            self._inner.eof_received()

    def pause_writing(self) -> None:
        if self in self._live:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self in self._live:
            self._inner.resume_writing()


class _Handler:
    """Answers requests. *token*: the digest of what a client has to send; None: no token."""

    def __init__(self, jobs: VolumeJobs, token: bytes | None) -> None:
        self._jobs = jobs
        self._token = token
        self._refusals = 0.0
        self._refused_at = 0.0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The response to *request*."""
        try:
            self._authenticate(request)
            async with asyncio.timeout(_READ_S):
                body = await _body(request)
            return await self._respond(request, body)
        except TimeoutError:
            return _error(408, ApiParamError(f"the request did not arrive within {_READ_S:.0f} s"))
        except FastdlError as exc:
            return _error(_STATUS.get(type(exc), 500), exc)

    def _authenticate(self, request: web.BaseRequest) -> None:
        """ApiAuthError without the token, ApiLimitError after many of those."""
        if self._token is None:
            return
        now = asyncio.get_running_loop().time()
        left = max(0.0, self._refusals - (now - self._refused_at) * _REFUSALS_A_SECOND)
        kind, _, sent = request.headers.get("Authorization", "").partition(" ")
        digest = hashlib.sha256(sent.strip().encode("utf-8", "surrogateescape")).digest()
        if hmac.compare_digest(digest, self._token) and kind.lower() == "bearer":
            return
        self._refusals, self._refused_at = left + 1, now
        if left > 2 * _REFUSALS_A_SECOND:
            raise ApiLimitError("too many requests without the right token", retry_after_s=1)
        raise ApiAuthError("the bearer token is missing or wrong")

    async def _respond(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        wait = _wait(request)
        path = _PATH.fullmatch(request.path)
        if path is None:
            return _error(404, ApiParamError("there is only /v1/volumes"))
        if path[1] is None:
            if request.method != "POST":
                return _error(405, ApiParamError("POST a request here"), Allow="POST")
            job = self._jobs.submit(parse_volume_request(body))
            return await self._shown(job, wait)
        found = self._jobs.get(path[1])
        if found is None:
            return _error(404, ApiParamError("no such job: send the request again"))
        if request.method == "DELETE":
            await self._jobs.cancel(found)
        elif request.method != "GET":
            return _error(405, ApiParamError("GET or DELETE a job"), Allow="GET, DELETE")
        return await self._shown(found, wait)

    async def _shown(self, job: Job, wait: float) -> web.Response:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await job.ended.wait()
        status = 200 if job.ended.is_set() else 202
        location = f"/v1/volumes/{job.request.id}"
        return _json(status, job.to_dict(), Location=location)


async def _body(request: web.BaseRequest) -> bytes:
    """At most BODY_MAX + 1 bytes, whatever length is announced."""
    data = bytearray()
    async for part in request.content.iter_chunked(1 << 14):
        data += part
        if len(data) > BODY_MAX:
            break
    return bytes(data)


def _wait(request: web.BaseRequest) -> float:
    text = request.query.get("wait", "0")
    if not text.isascii() or not text.isdecimal() or len(text) > 4:
        raise ApiParamError("wait is a number of seconds")
    return float(min(int(text), _WAIT_MAX_S))


def _json(status: int, plain: Any, **headers: str) -> web.Response:
    response = web.json_response(plain, status=status, headers=headers)
    response.headers["Cache-Control"] = "no-store"
    response.force_close()
    return response


def _error(status: int, exc: FastdlError, **headers: str) -> web.Response:
    if exc.retry_after_s is not None:
        headers["Retry-After"] = str(round(exc.retry_after_s))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _json(status, {"error": exc.to_dict()}, **headers)


def _token(path: Path | None) -> bytes | None:
    """The digest of the token in the file; UsageError where others may read it."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            words = file.read(_TOKEN_MAX).split()
    except OSError as exc:
        raise UsageError(f"--volumes-token-file {path} cannot be read: {exc.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"{path}: others may read the token (chmod 600)")
    if len(words) != 1 or len(words[0]) < _TOKEN_MIN:
        raise UsageError(f"{path} holds one token of at least {_TOKEN_MIN} characters")
    return hashlib.sha256(words[0]).digest()


def _tls(listen: Listen) -> ssl.SSLContext | None:
    if listen.cert is None or listen.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(listen.cert, listen.key)
        if listen.client_ca is not None:
            context.load_verify_locations(listen.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:
        raise UsageError(f"--volumes-cert, -key or -client-ca cannot be used: {exc}") from None
    return context


def _remove_stale(path: Path) -> None:
    """Remove the socket that a killed agent left; UsageError if one listens there."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        raise UsageError(f"--volumes-listen unix:{path}: another agent listens there")


def _is_loopback(host: str) -> bool:
    address = literal_address(host)
    return address is not None and classify(address) is AddressClass.LOOPBACK
