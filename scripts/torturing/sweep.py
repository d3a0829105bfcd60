# SPDX-License-Identifier: Apache-2.0
"""Which point is which, and what has been tried of them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from scripts.torturing import cuts, databases, downloads, keystores, ledger
from scripts.torturing.ledger import Row

KINDS = {
    "kill": 50, "fault": 20, "cut": 14, "short": 4, "flip": 4, "clock": 3,
    "keystore": 4, "database": 1,
}  # fmt: skip
"""Of a hundred points so many are of each kind."""

Draw = Callable[[Random], Any]
Try = Callable[[Any], list[str]]


class Rig:
    """A site for every kind of point; what is costly is made when it is first needed."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._site = stack.enter_context(downloads.site())
        self._kinds: dict[str, tuple[Draw, Try]] = {}

    def kind(self, name: str) -> tuple[Draw, Try]:
        """How a point of that kind is drawn, and how it is tried."""
        if name not in self._kinds:
            self._kinds[name] = self._made(name)
        return self._kinds[name]

    def _made(self, name: str) -> tuple[Draw, Try]:
        site = self._site
        if name == "cut":
            recordings = cuts.Recordings(site)
            return lambda rng: cuts.drawn(site, rng), lambda point: cuts.tried(recordings, point)
        if name == "keystore":
            stores = keystores.Stores(site.folder, site.command)
            return (
                lambda rng: keystores.drawn(stores, rng),
                lambda point: keystores.tried(stores, point),
            )
        if name == "database":
            made = self._stack.enter_context(databases.managers(site.folder))
            return (
                lambda rng: databases.drawn(made, rng),
                lambda point: databases.tried(made, point),
            )
        return (
            lambda rng: downloads.drawn(site, rng, name),
            lambda point: downloads.tried(site, point),
        )


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """All that the points need, removed at the end."""
    with contextlib.ExitStack() as stack:
        yield Rig(stack)


def kind_of(rng: Random, kinds: Sequence[str]) -> str:
    """Which kind a point is of."""
    return rng.choices(kinds, [KINDS[name] for name in kinds])[0]


def swept(
    made: Rig,
    path: Path,
    *,
    seed: int,
    points: int,
    seconds: float = 1e9,
    kinds: Sequence[str] = tuple(KINDS),
) -> list[Row]:
    """Try the points missing in the ledger *path*, none after *seconds*; returns all its rows.

    Point n of a seed is the same on every machine that makes the same calls, for the same *kinds*.
    """
    rows = ledger.rows(path)
    have = {row["number"] for row in rows if row["seed"] == seed}
    end = time.monotonic() + seconds
    with path.open("a") as out:
        for number in range(points):
            if number in have:
                continue
            if time.monotonic() > end:
                break
            rng = Random(f"{seed}-{number}")  # noqa: S311 - to be drawn again
            kind = kind_of(rng, kinds)
            draw, attempt = made.kind(kind)
            point = draw(rng)
            try:
                found = attempt(point)
            except TimeoutError as exc:
                found = [f"hang: {str(exc)[-300:]}"]
            row = {"seed": seed, "number": number, "point": point._asdict(), "found": found}
            rows.append(row)
            out.write(json.dumps(row) + "\n")
            out.flush()
            if found:
                print(number, *point, *found, flush=True)
    return rows
