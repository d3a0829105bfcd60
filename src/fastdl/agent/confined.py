# SPDX-License-Identifier: Apache-2.0
"""What does the confined process do? It reads an origin's bytes and reports the outcome.

It runs in a fork of ``worker``, whose code is already loaded; nothing here is called before
``confine``. Standard output carries the messages of ``child_messages``, standard input the
replies to those that expect one; end of file on it cancels.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastdl.engine import shared_pieces
from fastdl.engine.cancel import Cancel
from fastdl.engine.options import FetchOptions, Placement, Progress
from fastdl.engine.rules import under_rules
from fastdl.errors import LimitError, UnsafeImageError, as_error, error_from
from fastdl.model.image import COMPRESSED, CONVERTIBLE, HEAD_BYTES, Format
from fastdl.model.image_magic import detect
from fastdl.model.url import Url
from fastdl.wire.packed import TOTAL_MAX, pack

if TYPE_CHECKING:
    from fastdl.agent.child_workspace import ChildWorkspace

Job = Mapping[str, Any]


class Channel:
    """Messages to and from the process that started this one; its end cancels."""

    def __init__(self) -> None:
        self.cancel = Cancel()
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen(self) -> None:
        """Start a thread that receives replies and cancels at end of file."""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        held = b""
        while data := os.read(0, 1 << 16):
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                self._replies.put(line)
        self.cancel.cancel()  # before the reply that ends a wait: the waiting thread checks it then
        self._replies.put(b"")

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(1, line) :]

    def request(self, message: Mapping[str, Any]) -> None:
        """Send *message* and wait until it was processed; raises the error that it ended with."""
        self.send(message)
        reply = self._replies.get()
        self.cancel.check()
        plain = json.loads(reply)
        if plain is not None:
            raise error_from(plain)


def run(channel: Channel, work: Callable[[Channel], None], *, keep: Callable[[], bool]) -> None:
    """Run *work*, which sends its result; on failure send the error.

    *keep*: see ``child_messages.Failed``.
    """
    try:
        work(channel)
    except BaseException as exc:  # noqa: BLE001 - the last frame of the process
        channel.send({"failed": {"error": as_error(exc).to_dict(), "keep": keep()}})


def probe(job: Job, channel: Channel) -> None:
    """Report what is known about the job's sources without fetching them."""
    from fastdl.engine.probe import probe_job

    found = probe_job(job["sources"], options_of(job), channel.cancel)
    channel.send({"probe": found.to_dict()})


def documents(job: Job, channel: Channel) -> None:
    """Send the content of the job's sources, each a small document."""
    from fastdl.engine.source.documents import documents_job

    options = options_of(job)
    found = documents_job(job["sources"], options, channel.cancel, limit=job["most"])
    packed = [pack(data) for data in found]
    if sum(map(len, packed)) > TOTAL_MAX:
        raise LimitError("the documents are too large for one message", phase="resolve")
    # The process that started this one knows where it connected, and corrects the second.
    channel.send({"documents": {"documents": packed, "public_source": True}})


def vouch(job: Job, channel: Channel) -> None:
    """Report which anchor verifies the job's origin."""
    from fastdl.agent import handshake  # already loaded if it is needed

    options = options_of(job)
    found = handshake.vouch(
        Url.parse(job["sources"][0]),
        options.anchors,
        allowed_cidrs=options.allowed_cidrs,
        seconds=options.connect_timeout,
    )
    channel.send({"vouched": found})


def land(job: Job, workspace: ChildWorkspace, channel: Channel) -> None:
    """Fetch the job's sources into *workspace* and send the result."""
    from fastdl.engine.context import Events, TransferContext
    from fastdl.engine.fetch import fetch_into

    workspace.connect(send=channel.send, request=channel.request)

    def report(progress: Progress) -> None:
        channel.send({"progress": progress.to_dict()})

    events, placement = Events(report), placement_of(job)
    ctx = TransferContext(options_of(job), channel.cancel, events, placement)
    if job["action"] == "unpack":
        from fastdl.engine.unpack import unpack_into

        result = unpack_into(workspace, job["sources"], ctx)
    else:
        result = fetch_into(workspace, job["sources"], ctx)
    if (found := shared_pieces.listed(events, placement)) is not None:
        channel.send({"listed": found})
    channel.send({"result": result.to_dict()})


def inspect(job: Job, fd: int, size: int, channel: Channel) -> None:
    """Report the format of the file of *size* bytes in *fd*, or refuse it, independently.

    The process that wrote it may have been compromised by what it read, and a host must not open
    another file because an image refers to it.

    """
    from fastdl.engine import inspection
    from fastdl.engine.landing.plan import is_an_image

    options, reader = options_of(job), inspection.FdReader(fd, size)
    if options.target_format == "raw" and job["action"] != "unpack":
        found = detect(reader.read_at(0, HEAD_BYTES), None, size)
        if found in (Format.QCOW2, *CONVERTIBLE):
            raise UnsafeImageError(f"what landed as a raw disk is a {found}", phase="verify")
        channel.send({"inspected": {"format": "raw", "virtual_size": size}})
        return
    info = inspection.inspect_image(
        reader, declared=options.source_format, max_virtual_size=options.max_virtual_size
    )
    if is_an_image(info, options, raw=False):
        info.require_safe()
    virtual_size = None if info.format in COMPRESSED else info.virtual_size
    channel.send({"inspected": {"format": str(info.format), "virtual_size": virtual_size}})


def options_of(job: Job) -> FetchOptions:
    """The engine's options of *job*; UsageError."""
    plain = {name: _frozen(value) for name, value in job["options"].items()}
    return under_rules(FetchOptions.build(checksum=job["checksum"], **plain), job["sources"])


def placement_of(job: Job) -> Placement:
    """Where the engine works for *job*."""
    placement = dict(job["placement"])
    return Placement(**{**placement, "shared": shared_pieces.shared_in(placement.get("shared"))})


def _frozen(value: Any) -> Any:
    """JSON lists as the tuples that the engine's options use."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
