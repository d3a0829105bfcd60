# SPDX-License-Identifier: Apache-2.0
"""TLS whose records somebody else carries, and frames in it: without I/O.

A frame is one byte (its kind), four of length, and its content.
"""

from __future__ import annotations

import ssl
from enum import Enum
from typing import Final, NamedTuple

from fastdl.errors import AgentRefusedError

_HEAD: Final = 5
_READ: Final = 64 << 10
FRAMES_MAX: Final = 4096
"""Frames that come together: more than an outbox holds. Each costs, however small it is."""


class Kind(Enum):
    """What a frame is."""

    TEXT = b"T"
    """One message."""
    PING = b"P"
    PONG = b"O"
    """The answer to a ping, with the same content."""
    CLOSE = b"C"
    """The last one; its content is the reason."""


class Frame(NamedTuple):
    """One frame."""

    kind: Kind
    content: bytes


class Tunnel:
    """One end of a TLS session."""

    def __init__(self, context: ssl.SSLContext, *, name: str | None, limit: int) -> None:
        """*name*: the server's, for its certificate; None = this is the server. *limit*: the
        largest content of a frame that is accepted, in bytes.
        """
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=name is None, server_hostname=name
        )
        self._limit = limit
        self._plain = bytearray()
        self.established = False
        """Whether frames can be written."""
        if name is not None:
            self._shake()

    @property
    def peer(self) -> bytes | None:
        """The other end's certificate (DER), verified; None if it has shown none."""
        return self._tls.getpeercert(binary_form=True)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes of the other end; return the frames that are complete now.

        ssl.SSLError if they are not what the other end sent next, or for its certificate;
        AgentRefusedError for a frame that is none or too large. Also then there may be something
        to ``take``.
        """
        self._in.write(data)
        if not self.established:
            self._shake()
        if self.established:
            self._read()
        return self._frames()

    def write(self, kind: Kind, content: bytes) -> None:
        """Add a frame to what is to be sent."""
        self._tls.write(kind.value + len(content).to_bytes(4, "big") + content)

    def take(self) -> bytes:
        """Return the bytes to send to the other end, once."""
        return self._out.read()

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True

    def _read(self) -> None:
        try:
            while chunk := self._tls.read(_READ):
                self._plain += chunk
        except ssl.SSLWantReadError:
            return

    def _frames(self) -> list[Frame]:
        found, at = list[Frame](), 0
        while len(self._plain) - at >= _HEAD:
            size = int.from_bytes(self._plain[at + 1 : at + _HEAD], "big")
            if size > self._limit:
                raise AgentRefusedError(f"a message of more than {self._limit} bytes")
            end = at + _HEAD + size
            if len(self._plain) < end:
                break
            try:
                kind = Kind(bytes(self._plain[at : at + 1]))
            except ValueError:
                raise AgentRefusedError("a frame of an unknown kind") from None
            if len(found) >= FRAMES_MAX:
                raise AgentRefusedError(f"more than {FRAMES_MAX} messages at once")
            found.append(Frame(kind, bytes(self._plain[at + _HEAD : end])))
            at = end
        del self._plain[:at]
        return found
