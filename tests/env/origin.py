# SPDX-License-Identifier: Apache-2.0
"""How does an origin look that is right by default and wrong on demand?

A small HTTP/1.1 server on raw asyncio streams in a thread of its own: deterministic bytes
of any size, ranges, If-Range, strong validators, keep-alive and pipelining as RFC 9110
wants them, and per request the scripted faults of ``faults.py``. Every request is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.env.faults import Answer, Rule

PIECE = 64 * 1024
MAX_HEAD = 256 * 1024
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@functools.lru_cache(maxsize=64)
def pseudo_random(seed: int, size: int) -> bytes:
    """*size* bytes that look random and are the same for the same *seed*."""
    return random.Random(seed).randbytes(size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """The bytes and validators of a resource at one time. None leaves a validator out."""

    content: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = "Mon, 01 Jan 2024 00:00:00 GMT"


@dataclass(slots=True, kw_only=True)
class Resource:
    """What lies at one path: its versions, extra fields and scripted faults."""

    versions: list[Version]
    content_type: str = "application/octet-stream"
    headers: list[tuple[str, str]] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    now: int = 0

    @property
    def version(self) -> Version:
        return self.versions[self.now]

    @classmethod
    def of(cls, content: bytes, *, etag: str | None = '"v1"', **more: object) -> Resource:
        """A resource with one version."""
        return cls(versions=[Version(content=content, etag=etag)], **more)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as it came: ``nth`` counts from 1 for its path, ``fields`` in lower case."""

    method: str
    path: str
    query: str
    nth: int
    connection: int
    fields: dict[str, str]

    @property
    def range(self) -> tuple[int | None, int | None] | None:
        """(first, last) of a single byte range, None without a usable one."""
        found = _RANGE.fullmatch(self.fields.get("range", ""))
        if not found or found.groups() == ("", ""):
            return None
        first, last = (int(text) if text else None for text in found.groups())
        return first, last

    @property
    def start(self) -> int | None:
        return self.range[0] if self.range else None


class FaultOrigin:
    """The server; a context manager. Everything below is safe to call from the test's thread.

    ``requests`` is the log, ``sent`` the body bytes handed to the kernel, ``connections``
    the number of accepted ones and ``most_at_once`` that of the most at one time.
    ``on_sent`` is called in the server's thread after each
    piece with the total sent so far: the place from which a test kills its client.
    """

    def __init__(
        self,
        resources: dict[str, Resource] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        name: str = "127.0.0.1",
        listener: socket.socket | None = None,
    ) -> None:
        self.resources = dict(resources or {})
        self.name = name
        self.requests: list[Request] = []
        self.sent = 0
        self.connections = 0
        self.most_at_once = 0
        self.on_sent: Callable[[int], None] | None = None
        self.release = threading.Event()
        self._tls = tls
        self._listener = listener
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="origin", daemon=True)
        self._failure: BaseException | None = None

    # -- the test's side -------------------------------------------------------------

    def __enter__(self) -> FaultOrigin:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread.start()
        self._ready.wait(10)
        if self._failure is not None:
            raise RuntimeError("the origin did not start") from self._failure
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def base(self) -> str:
        """Scheme, host (``name``) and port, as a URL starts."""
        return f"{'https' if self._tls else 'http'}://{self.name}:{self.port}"

    def url(self, path: str) -> str:
        """The URL of *path* here."""
        return f"{self.base}{path}"

    def requests_of(self, path: str) -> list[Request]:
        """The requests of one path, in their order."""
        return [r for r in list(self.requests) if r.path == path]

    def wait_for(self, what: Callable[[], bool], *, timeout: float = 20) -> None:
        """Return when *what* is true; it is asked after each request and each sent piece."""
        with self._changed:
            if not self._changed.wait_for(what, timeout):
                raise TimeoutError(f"not reached within {timeout} s; requests {self.requests}")

    # -- the server's side -----------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as exc:
            self._failure = exc
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(
            self._accepted, sock=self._listener, ssl=self._tls, limit=MAX_HEAD
        )
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        self.most_at_once = max(self.most_at_once, len(self._tasks))
        try:
            while await self._exchange(reader, writer, number):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        """Answer one request; True while the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request = self._record(head, number)
        resource = self.resources.get(request.path)
        if resource is None:
            answer = Answer(404, [("Content-Length", "0")], memoryview(b""), 0, 0)
        else:
            rule = _first_match(resource.rules, request)
            if rule and rule.version is not None:
                resource.now = rule.version - 1
            answer = right_answer(
                resource,
                request,
                ignore_range=bool(rule and rule.ignore_range),
                ignore_condition=bool(rule and rule.force_range),
            )
            if rule:
                content = memoryview(resource.version.content)
                rule.edit(answer, content=content, base=self.base)
        close = request.fields.get("connection", "").lower() == "close"
        return await self._send(writer, answer, bodyless=request.method == "HEAD") and not close

    def _record(self, head: str, number: int) -> Request:
        line, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = line.split(" ", 2)
        path, _, query = target.partition("?")
        fields: dict[str, str] = {}
        for text in lines:
            name, _, value = text.partition(":")
            fields[name.strip().lower()] = value.strip()
        with self._changed:
            self._counts[path] += 1
            request = Request(
                method=method,
                path=path,
                query=query,
                nth=self._counts[path],
                connection=number,
                fields=fields,
            )
            self.requests.append(request)
            self._changed.notify_all()
        return request

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer, *, bodyless: bool) -> bool:
        if answer.silent:
            await self._hang()
        if answer.endless:
            await _send_endless(writer, answer.endless)
            return False
        head = answer.raw_head if answer.raw_head is not None else _head_of(answer)
        if answer.head_cut is not None:
            writer.write(head[: answer.head_cut])
            await writer.drain()
            return self._hang_up(writer, reset=answer.reset)
        writer.write(head)
        if not bodyless:
            whole = await self._send_body(writer, answer)
            writer.write(answer.surplus)
            await writer.drain()
            if not whole:
                return self._hang_up(writer, reset=answer.reset)
        await writer.drain()
        return not answer.close

    async def _send_body(self, writer: asyncio.StreamWriter, answer: Answer) -> bool:
        """Send the body as scripted; False where the connection ends before its end."""
        if answer.chunked and answer.chunked not in (
            "right",
            "padded",
            "cut",
            "no-last",
            "no-trailer",
        ):
            writer.write(_bad_chunk(answer.chunked, bytes(answer.body[:1000])))
            return False
        body, at = answer.body, 0
        pad = " " * 4 if answer.chunked == "padded" else ""
        ends = [n for n in (answer.body_cut, answer.stall_at) if n is not None]
        if answer.chunked == "cut":
            ends.append(len(body) // 2)
        stop = min([len(body), *ends])
        step = PIECE if answer.rate is None else max(1, min(PIECE, int(answer.rate / 50)))
        begun = time.monotonic()
        while at < stop:
            piece = body[at : min(at + step, stop)]
            writer.write(_chunk(piece, pad) if answer.chunked else piece)
            await writer.drain()
            at += len(piece)
            self._count(len(piece))
            if answer.rate is not None:
                await asyncio.sleep(max(0.0, begun + at / answer.rate - time.monotonic()))
        if answer.stall_at is not None and at >= answer.stall_at:
            await self._hang()
        if answer.chunked in ("right", "padded") and at == len(body):
            writer.write(b"%b0%b\r\n\r\n" % (pad.encode(), pad.encode()))
        elif answer.chunked == "no-trailer":
            writer.write(b"0\r\n")
        return at == len(body) and answer.chunked in (None, "right", "padded")

    def _count(self, more: int) -> None:
        with self._changed:
            self.sent += more
            self._changed.notify_all()
        if self.on_sent is not None:
            self.on_sent(self.sent)

    async def _hang(self) -> None:
        """Say nothing more until the server stops or the test sets ``release``."""
        while not self.release.is_set():
            await asyncio.sleep(0.02)

    def _hang_up(self, writer: asyncio.StreamWriter, *, reset: bool) -> bool:
        """End the connection at once: over TLS without close_notify; with RST if asked."""
        if reset:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False


def right_answer(
    resource: Resource,
    request: Request,
    *,
    ignore_range: bool = False,
    ignore_condition: bool = False,
) -> Answer:
    """What RFC 9110 asks an origin to say: 200, 206 or 416 with validators.

    Two wrong habits are made here, because they choose the answer: *ignore_range* sends
    everything whatever was asked, *ignore_condition* honours the range despite If-Range.
    """
    version = resource.version
    content, total = memoryview(version.content), len(version.content)
    fields = [("Content-Type", resource.content_type), ("Accept-Ranges", "bytes")]
    if version.etag:
        fields.append(("ETag", version.etag))
    if version.last_modified:
        fields.append(("Last-Modified", version.last_modified))
    fields += resource.headers
    wanted = None if ignore_range else request.range
    if_range = request.fields.get("if-range")
    if wanted and if_range is not None and not ignore_condition:
        strong = version.etag if version.etag and not version.etag.startswith("W/") else None
        if if_range not in (strong, version.last_modified):
            wanted = None
    if wanted is None:
        return Answer(200, [*fields, ("Content-Length", str(total))], content, 0, total, "OK")
    first, last = wanted
    if first is None:
        assert last is not None
        first, last = max(0, total - last), total - 1
    last = total - 1 if last is None else min(last, total - 1)
    if first > last:
        fields += [("Content-Range", f"bytes */{total}"), ("Content-Length", "0")]
        return Answer(416, fields, memoryview(b""), 0, total, "Range Not Satisfiable")
    fields += [
        ("Content-Range", f"bytes {first}-{last}/{total}"),
        ("Content-Length", str(last - first + 1)),
    ]
    return Answer(206, fields, content[first : last + 1], first, total, "Partial Content")


def _first_match(rules: Iterable[Rule], request: Request) -> Rule | None:
    for rule in rules:
        if rule.when.matches(
            path=request.path,
            method=request.method,
            nth=request.nth,
            start=request.start,
            fields=request.fields,
        ):
            return rule
    return None


def _head_of(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if not any(name.lower() == "date" for name, _ in answer.headers):
        lines.append("Date: Mon, 06 Jan 2025 00:00:00 GMT")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _chunk(piece: bytes | memoryview, pad: str = "") -> bytes:
    return b"%b%x%b\r\n%b\r\n" % (pad.encode(), len(piece), pad.encode(), bytes(piece))


def _bad_chunk(how: str, piece: bytes) -> bytes:
    """A first chunk whose size is written as no RFC 9112 chunk size may be."""
    size = {
        "negative": b"-1",
        "overflow": b"fffffffffffffffff",
        "0x": b"0x3e8",
        "spaces": b" 3 e8",
    }[how]
    return size + b"\r\n" + piece + b"\r\n0\r\n\r\n"


async def _send_endless(writer: asyncio.StreamWriter, what: str) -> None:
    """Send a head without an end until the client hangs up (bounded at 64 MiB)."""
    opening = b"" if what == "1xx" else b"HTTP/1.1 200 OK\r\n"
    unit = {
        "fields": b"X-More: yes\r\n" * 512,
        "line": b"X" * 8192,
        "1xx": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 256,
        "zeros": b"\0" * 8192,
    }[what]
    writer.write(opening)
    for _ in range(64 * 1024 * 1024 // len(unit)):
        writer.write(unit)
        await writer.drain()
