# SPDX-License-Identifier: Apache-2.0
"""What all stages of one job share: options, trust, cancellation, clock and reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastdl.engine.options import (
    HERE,
    FetchOptions,
    Placement,
    Progress,
    ProgressCallback,
)

if TYPE_CHECKING:
    from fastdl.core.job import Pace
    from fastdl.core.net import Net
    from fastdl.engine.cancel import Cancel
    from fastdl.engine.release import Release
    from fastdl.engine.shared_pieces import SharedPieces
    from fastdl.engine.source.facts import Product
    from fastdl.sources.metalink_made import Described


class Events:
    """What a job reports: progress during the job, warnings with its result.

    *log*: called with a line about each request and each mirror that is left, without secrets.
    ``described``: what was transferred, where a metalink of it is wanted; ``listed``: the SHA-256
    of its pieces, one after the other, where a list is wanted.
    ``list_used``, ``list_dropped``: what became of a list that was shared (``shared``).
    *told*: takes what to call when the result has reached who waits for it; None: that is at once.
    """

    def __init__(
        self,
        progress: ProgressCallback | None = None,
        log: Callable[[str], None] | None = None,
        told: list[Callable[[], None]] | None = None,
    ) -> None:
        self.progress = progress
        self.log = log
        self._told = told
        self._warnings: dict[str, None] = {}
        self.described: Described | None = None
        self.listed = b""
        self.list_used = self.list_dropped = False

    def report(self, progress: Progress) -> None:
        """Call back, if there is a callback."""
        if self.progress is not None:
            self.progress(progress)

    def wait(self, host: str, why: str) -> None:
        """Report that the job waits for *host* before anything is transferred."""
        self.report(Progress(stage="resolve", waiting=f"{host}: {why}" if host else why))

    def note(self, text: str) -> None:
        """Log *text*, where somebody wants to know."""
        if self.log is not None:
            self.log(text)

    def warn(self, *texts: str) -> None:
        """Keep *texts* for the result, each once."""
        self._warnings.update(dict.fromkeys(texts))

    def when_told(self, tidy: Callable[[], None]) -> None:
        """Call *tidy* when the result has been told."""
        if self._told is None:
            tidy()
        else:
            self._told.append(tidy)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, in order."""
        return tuple(self._warnings)


class TransferContext:
    """One job's. *placement*: decided by the program that runs the engine, not by callers.

    *proven*: the bytes of the source were verified before, by a job around this one.
    ``asked``: what that job is about, as the beginning of a note; see ``release``.
    *pace*: a limit that other jobs share. *product*: what is known of the source already.
    """

    def __init__(
        self,
        options: FetchOptions,
        cancel: Cancel,
        events: Events | None = None,
        placement: Placement = HERE,
        *,
        proven: bool = False,
        pace: Pace | None = None,
        product: Product | None = None,
    ) -> None:
        self.options = options
        self.product = product
        self.cancel = cancel
        self.events = events or Events()
        self.placement = placement
        self.proven = proven
        self.asked: Release | None = None
        self._started = time.monotonic()
        self._net: Net | None = None
        self._pace = pace
        self._paced = False

    def within(
        self, options: FetchOptions, placement: Placement, *, proven: bool = False
    ) -> TransferContext:
        """The context of a job within this one, which reports to the same."""
        options = options._replace(limit_rate=None)  # it is in the pace
        pace = self.pace
        return TransferContext(
            options,
            self.cancel,
            self.events,
            placement,
            proven=proven,
            pace=pace,
            product=None if proven else self.product,
        )

    @property
    def describes(self) -> bool:
        """Whether a metalink is written of what this job transfers."""
        return self.options.write_metalink is not None and not self.proven

    @property
    def shared(self) -> SharedPieces | None:
        """A list of pieces that was shared, until something failed with it."""
        dropped = self.proven or self.events.list_dropped
        return None if dropped else self.placement.shared

    @property
    def list_length(self) -> int:
        """Bytes of the pieces to list next to the whole file's digest; 0: no list is wanted."""
        if self.proven:
            return 0
        if (shared := self.placement.shared) is not None:
            return shared.length if self.events.list_dropped else 0
        return self.placement.list_pieces

    def drop_list(self) -> bool:
        """Go on without the list that was shared; False if it played no part."""
        if self.shared is None or not self.events.list_used:
            return False
        self.events.list_dropped = True
        return True

    @property
    def wants_a_list(self) -> bool:
        """Whether a checksum list is named, or looked for because no checksum is known."""
        known = self.options.checksum is not None or self.product is not None
        return self.options.checksum_list is not None or (self.options.discover and not known)

    @property
    def pace(self) -> Pace | None:
        """What limits the rate of all its transfers, and perhaps of other jobs'."""
        if not self._paced and self.options.limit_rate is not None:
            from fastdl.core.job import Pace

            self._pace = Pace(self.options.limit_rate, self._pace)
        self._paced = True
        return self._pace

    @property
    def net(self) -> Net:
        """Trust, proxies and address policy of all connections; TrustError on first use."""
        if self._net is None:
            from fastdl.engine.net import make_net  # not needed if there is no request

            self._net = make_net(self.options)
        return self._net

    @property
    def public_only(self) -> bool:
        """Whether every address that the job tried is public; False before the first."""
        return self._net is not None and self._net.public_only

    @property
    def seconds(self) -> float:
        """Seconds since the job started."""
        return round(time.monotonic() - self._started, 6)
