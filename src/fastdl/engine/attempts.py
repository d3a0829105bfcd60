# SPDX-License-Identifier: Apache-2.0
"""What follows a failed attempt: another one without the suspect mirrors, or failure.

Only decisions; ``fetch`` executes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastdl.engine.source.facts import Earlier, SourceFacts
from fastdl.errors import (
    FastdlError,
    FormatError,
    HttpProtocolError,
    HttpStatusError,
    IntegrityError,
    LimitError,
    NetError,
    OriginChangedError,
    Reason,
    TargetChangedError,
    UnsafeImageError,
)
from fastdl.named_tuple import NamedTuple

if TYPE_CHECKING:
    from fastdl.core.net import Mirror
    from fastdl.engine.source.first_response import FirstResponse

MAX_ATTEMPTS = 6
MAX_COPIES = 2


class Next(NamedTuple):
    """Try again with *earlier*; *why* goes to the result's warnings."""

    earlier: Earlier
    why: str


class Attempts:
    """The attempts of one job so far. *retry*: how often to retry after losing the network.

    earlier    what the last one has learned
    delegated  a nested job has made its own attempts: no more follow
    planned    the source's first bytes and tables are those of an image that can land
    """

    def __init__(self, retry: int) -> None:
        self.earlier = Earlier()
        self.delegated = False
        self.planned = False
        self._cuts_left = min(retry, MAX_ATTEMPTS - 2)
        self._out: frozenset[str] = frozenset()  # mirrors not to use again
        self._lied: set[str] = set()  # mirrors proven wrong by a piece
        self._copies: set[str] = set()  # redirect targets that served wrong bytes
        self._wrong: IntegrityError | None = None  # how the last wrong bytes were detected
        self._alone: list[str] | None = None  # mirrors still to be tried alone
        self._pieces: set[int] = set()  # offsets of pieces that were fetched again
        self._refused = False  # the first bytes were no usable image

    def check(self, response: FirstResponse) -> None:
        """An attempt starts. Raise the last IntegrityError if redirects lead only to the same
        copies again."""
        self.planned = False
        if self._wrong and _copy_of(response.mirror) in self._copies:
            raise self._wrong

    def after(self, exc: FastdlError, facts: SourceFacts) -> Next | None:
        """What to do after *exc*, which ended an attempt at *facts*; None: give up."""
        if self.delegated:
            return None
        match exc:
            case OriginChangedError() if not self.earlier.any_version:
                # Several servers behind one name may use different tags for the same bytes.
                then = self.earlier._replace(facts=None, any_version=True)
                return self._next(then, f"the source changed: started over once ({exc.message})")
            case TargetChangedError():
                return self._next(self.earlier, f"started over: {exc.message}")
            case NetError() | HttpStatusError() | HttpProtocolError():
                return self._after_lost_mirror(exc, facts)
            case FormatError() | UnsafeImageError() | LimitError() if not self.planned:
                return self._after_refusal(exc, facts)
            case IntegrityError() if exc is not self._wrong:
                return self._after_wrong_bytes(exc, facts)
        return None

    def _next(self, earlier: Earlier, why: str) -> Next:
        self.earlier = earlier
        return Next(earlier, why)

    def _after_lost_mirror(self, exc: FastdlError, facts: SourceFacts) -> Next | None:
        """Leave mirrors out if others could not take over.

        Without a digest, data of different origins is not combined: another one starts over.
        """
        self._out |= facts.disqualified()
        others = not facts.provable and not {u.display() for u in facts.urls} <= self._out
        if others and self._out:
            then = self.earlier._replace(facts=facts, left_out=self._out)
            return self._next(then, f"started over from another mirror: {exc.message}")
        if facts.one_response and exc.retryable and self._cuts_left:
            self._cuts_left -= 1
            self._out = frozenset()
            then = self.earlier._replace(facts=facts, left_out=self._out)
            why = f"started over, since no response can continue it: {exc.message}"
            return self._next(then, why)
        return None

    def _after_refusal(self, exc: FastdlError, facts: SourceFacts) -> Next | None:
        """The first bytes of the only mirror are not proven yet: they are asked for once more."""
        if self._refused or not facts.provable or len(facts.urls) > 1:
            return None
        self._refused = True
        return self._next(self.earlier, f"asked for again: {exc.message}")

    def _after_wrong_bytes(self, exc: IntegrityError, facts: SourceFacts) -> Next | None:
        self._wrong = exc
        # What flipped on the way is not sent wrong again. Where the transfer itself has fetched the
        # piece a second time, its mirror is disqualified.
        first = exc.reason is Reason.WRONG_PIECE and exc.offset not in self._pieces
        if first and len(facts.urls) == 1 and not facts.disqualified():
            assert exc.offset is not None
            self._pieces.add(exc.offset)
            return self._next(self.earlier, f"fetched again: {exc}")
        left_out = self._without_suspects(facts)
        if not left_out and not self._another_copy(facts):
            return None
        return self._next(
            self.earlier._replace(facts=facts, left_out=frozenset(left_out)),
            "the bytes do not have the wanted digest: tried again without the suspected mirrors",
        )

    def _without_suspects(self, facts: SourceFacts) -> set[str]:
        """The mirrors to leave out next time; none to give up.

        Without pieces a wrong whole-file digest does not show which mirror served wrong data: then
        each is tried alone in turn.
        """
        everyone = [url.display() for url in facts.urls]
        lied = facts.disqualified()
        reports = dict(zip(everyone, facts.mirrors, strict=True))
        gave = [name for name, mirror in reports.items() if mirror.bytes > 0 and name not in lied]
        # A piece has identified the bad mirror, but the image's map was built from its data.
        if facts.pieces and self._lied < lied and len(lied) < len(everyone):
            self._lied = lied
            return lied
        if self._alone is None and len(gave) < 2:
            self._out |= {*gave, *lied}
            return set(self._out) if gave and len(self._out) < len(everyone) else set()
        if self._alone is None:
            others = [name for name in everyone if name not in lied and name not in gave]
            self._alone = gave + others
        if not self._alone:
            return set()
        chosen = self._alone.pop(0)
        return {name for name in everyone if name != chosen}

    def _another_copy(self, facts: SourceFacts) -> bool:
        """Whether wrong bytes came from a redirect's target, and there may be other targets."""
        led = {copy for m in facts.mirrors if m.bytes > 0 and (copy := _copy_of(m))}
        fresh = bool(led - self._copies) and len(self._copies) < MAX_COPIES
        self._copies |= led
        return fresh


def _copy_of(mirror: Mirror) -> str | None:
    """The redirects' final URL without its query, which may be a signature; None without
    redirects."""
    return mirror.final_url.partition("?")[0] if mirror.final_url else None
