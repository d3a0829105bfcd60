# SPDX-License-Identifier: Apache-2.0
"""Can what clients saw of one certificate on one host be explained by some order of events?

A history is what was asked of one (alias, host), each call with the moments at which it was
sent and answered. It is linearizable (Herlihy and Wing, 1990) if every call can be given one
moment between the two at which it took effect, such that the answers are those of a register
that does one thing at a time. Objects may be checked one by one: that is what makes it local.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """One alias on one host: the live certificate (None = none), and whether it is wanted."""

    cert: str | None = None
    fingerprint: str | None = None
    wanted: bool = False


@dataclass(frozen=True)
class Event:
    """One call and its answer, between the moments *sent* and *answered*.

    *what*: upload, update, delete, revoke, provision, list, keystore. *cert*: the certificate
    that was named or found (None: the alias named none). *refused*: the answer was that there
    is no such certificate, or for an upload that there is one. *fingerprint*: of what was
    sent, or seen. *status*: what a list said of the host.
    """

    what: str
    sent: int
    answered: int
    cert: str | None = None
    refused: bool = False
    fingerprint: str | None = None
    status: str | None = None


def explain(history: Sequence[Event], start: State = State()) -> list[Event] | None:
    """Return *history* in an order that explains it, None where there is none.

    Depth first over "which of the calls not yet placed took effect next": one that was sent
    before the first answer among them. States seen before with the same calls left over are
    not tried again, which keeps the usual exponent small.
    """
    tried: set[tuple[frozenset[int], State]] = set()

    def place(left: frozenset[int], state: State) -> list[Event] | None:
        if not left:
            return []
        if (left, state) in tried:
            return None
        tried.add((left, state))
        first_answer = min(history[i].answered for i in left)
        for i in sorted(left, key=lambda i: history[i].answered):
            if history[i].sent > first_answer:
                continue
            then = after(state, history[i])
            if then is not None and (rest := place(left - {i}, then)) is not None:
                return [history[i], *rest]
        return None

    return place(frozenset(range(len(history))), start)


def after(state: State, event: Event) -> State | None:
    """Return the state after *event* took effect in *state*, None where it cannot have."""
    match event.what:
        case "upload":
            if (state.cert is not None) != event.refused:
                return None
            return state if event.refused else State(event.cert, event.fingerprint, wanted=True)
        case "list":
            seen = (state.cert, state.fingerprint) == (event.cert, event.fingerprint)
            contradicts = {"UPLOADED": not state.wanted, "REVOKED": state.wanted}
            return state if seen and not contradicts.get(event.status or "", False) else None
        case "keystore":
            held = state.fingerprint if state.wanted else None
            return state if held == event.fingerprint else None
    if event.refused:
        # A name finds whatever is live, an id only its own certificate.
        found = state.cert is not None if event.cert is None else state.cert == event.cert
        return None if found else state
    if state.cert is None or state.cert != event.cert:
        return None
    match event.what:
        case "delete":
            return State()
        case "update":
            return State(state.cert, event.fingerprint, state.wanted)
        case "revoke":
            return State(state.cert, state.fingerprint, wanted=False)
        case "provision":
            return State(state.cert, state.fingerprint, wanted=True)
    raise ValueError(event.what)
