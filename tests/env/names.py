# SPDX-License-Identifier: Apache-2.0
"""How does a test get a name server that changes its mind? Scripted answers over UDP."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence


class NameServer:
    """Answers each query for a name with the next of its scripted addresses, the last for ever.

    ``asked`` counts the queries of each name. With a *stream* listener datagrams say that the
    answer is too long for them.
    """

    def __init__(
        self,
        listener: socket.socket,
        answers: dict[str, Sequence[str]],
        stream: socket.socket | None = None,
    ) -> None:
        self._stream = stream
        self.asked: dict[str, int] = dict.fromkeys(answers, 0)
        self._answers = answers
        self._listener = listener
        self.over = threading.Event()

    def serve(self) -> None:
        """Answer until ``over`` is set."""
        self._listener.settimeout(0.2)
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                query, client = self._listener.recvfrom(512)
                if self._stream is None:
                    self._listener.sendto(self._answer(query), client)
                else:
                    self._listener.sendto(query[:2] + b"\x83\x80" + query[4:], client)
                    self._serve_stream(self._stream)

    def _serve_stream(self, listener: socket.socket) -> None:
        listener.settimeout(5)
        with listener.accept()[0] as client:
            client.settimeout(5)
            while head := client.recv(2):
                answer = self._answer(client.recv(struct.unpack("!H", head)[0]))
                client.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, query: bytes) -> bytes:
        name, end = _name_at(query, 12)
        (kind,) = struct.unpack_from("!H", query, end)
        question = query[12 : end + 4]
        known = self._answers.get(name)
        if known is None or kind != 1:
            code = 0x8183 if known is None else 0x8180
            return query[:2] + struct.pack("!HHHHH", code, 1, 0, 0, 0) + question
        nth = self.asked[name]
        self.asked[name] += 1
        address = known[min(nth, len(known) - 1)]
        record = struct.pack("!HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(address)
        return query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + question + record


def _name_at(query: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels).lower(), at + 1


@contextlib.contextmanager
def name_server(
    listener: socket.socket,
    answers: dict[str, Sequence[str]],
    stream: socket.socket | None = None,
) -> Iterator[NameServer]:
    """A server on *listener* for the names in *answers*; by way of *stream* where that is given."""
    server = NameServer(listener, answers, stream)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        thread.join(10)
        listener.close()
        if stream is not None:
            stream.close()
