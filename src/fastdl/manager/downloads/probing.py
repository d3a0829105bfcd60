# SPDX-License-Identifier: Apache-2.0
"""Which host probes a source, and how many probes run at once?

A probe is a process on a host that connects to an address chosen by a user. So accounts and hosts
have a limit each: further probes wait in order, and the number waiting is limited too.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from fastdl.errors import AgentLostError, ApiLimitError, FastdlError
from fastdl.manager.clock import Clock
from fastdl.manager.downloads.registration import origin_of
from fastdl.manager.hosts.fleet import ConnectedHost, Fleet
from fastdl.manager.hosts.requests import HostRequests
from fastdl.manager.settings import Settings
from fastdl.wire import messages as m

HOSTS_MAX: Final = 16
"""Hosts to try in turn if one after the other cannot reach the origin."""
ASKING_S: Final = 60.0
"""After this long no further host is tried."""
ORIGINS_MAX: Final = 1024
"""Origins for which it is cached which hosts reached them."""
WAITING_MAX: Final = 32
"""Probes of one account, or for one host, that may wait for a slot."""
WAIT_S: Final = 60.0


class Slots:
    """Limits the number in progress per key; others wait in order."""

    def __init__(self) -> None:
        self._busy: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    def busy(self, key: str) -> int:
        """How many of *key* are in progress or waiting."""
        return self._busy[key] + len(self._waiting.get(key, ()))

    @contextlib.asynccontextmanager
    async def take(self, key: str, *, most: int) -> AsyncIterator[None]:
        """Hold one of *most* slots of *key*.

        ApiLimitError where too many wait already, or none became free within WAIT_S seconds.
        """
        if self._busy[key] < most and key not in self._waiting:
            self._busy[key] += 1
        else:
            await self._wait(key, most)
        try:
            yield
        finally:
            self._leave(key, most)

    async def _wait(self, key: str, most: int) -> None:
        """Return once a slot has been handed over."""
        if len(self._waiting[key]) >= WAITING_MAX:
            raise ApiLimitError("Too many sources are being looked at: wait a moment")
        place = asyncio.get_running_loop().create_future()
        self._waiting[key].append(place)
        try:
            async with asyncio.timeout(WAIT_S):
                await place
        except (TimeoutError, asyncio.CancelledError) as exc:
            if place.done() and not place.cancelled():  # handed over while we were leaving
                self._leave(key, most)
            if isinstance(exc, asyncio.CancelledError):
                raise
            raise ApiLimitError("Too many sources are being looked at: try again later") from None
        finally:
            with contextlib.suppress(ValueError, KeyError):
                self._waiting[key].remove(place)
            if not self._waiting[key]:
                del self._waiting[key]

    def _leave(self, key: str, most: int) -> None:
        if self._busy[key] > most or not self._hand_on(key):
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]

    def _hand_on(self, key: str) -> bool:
        """Hand a slot to the longest waiter; False if there is none."""
        for place in self._waiting.get(key, ()):
            if not place.done():
                place.set_result(None)
                return True
        return False


class HostRefusal(Exception):
    """*host*, the last of *asked* hosts, could not look at the source: *error* says why."""

    def __init__(self, host: ConnectedHost, error: FastdlError, *, asked: int) -> None:
        super().__init__(error.message)
        self.host = host
        self.error = error
        self.asked = asked


class Probing:
    """Has hosts probe sources."""

    def __init__(
        self,
        requests: HostRequests,
        *,
        settings: Settings,
        clock: Clock,
        fleet: Fleet,
    ) -> None:
        self._requests = requests
        self._settings = settings
        self._clock = clock
        self._fleet = fleet
        self._accounts = Slots()
        self._hosts = Slots()
        self._reached: OrderedDict[str, dict[str, bool]] = OrderedDict()

    async def probe(
        self, zones: Sequence[str], args: m.ProbeArgs, *, account: str
    ) -> m.ProbeDone | None:
        """Return what the first host of *zones* that reaches the source reports about it.

        As ``_first``.
        """
        done = await self._first(zones, m.Kind.PROBE, args, account)
        assert done is None or isinstance(done, m.ProbeDone)
        return done

    async def documents(
        self, zones: Sequence[str], args: m.DocumentsArgs, *, account: str
    ) -> m.DocumentsDone | None:
        """Return the documents as the first host of *zones* fetched them that could.

        As ``_first``; hosts whose agent is too old to be asked are none.
        """
        done = await self._first(zones, m.Kind.DOCUMENTS, args, account)
        assert done is None or isinstance(done, m.DocumentsDone)
        return done

    async def _first(
        self, zones: Sequence[str], kind: m.Kind, args: m.ProbeArgs | m.DocumentsArgs, account: str
    ) -> m.Done | None:
        """Return the response of the first host of *zones* that reaches the source.

        None where no host is connected. An error that another host may not have sends the
        question to the next one; a later call begins with who reached the origin last, or with
        those who were not asked yet. Raises the last one's HostRefusal, ApiLimitError where
        *account* asks too much at once.
        """
        most = self._settings.whole("direct.download.account.max.probes")
        async with self._accounts.take(account, most=most):
            known = self._known(args.transfer.sources[0])
            refusal: HostRefusal | None = None
            until = self._clock.steady() + ASKING_S
            for n, host in enumerate(self._candidates(zones, kind, known), 1):
                try:
                    done = await self._ask(host, kind, args)
                except ApiLimitError:
                    raise
                except FastdlError as exc:
                    refusal = HostRefusal(host, exc, asked=n)
                    if not (exc.retry_elsewhere or isinstance(exc, AgentLostError)):
                        break
                    known[host.id] = False
                    if self._clock.steady() > until:
                        break
                else:
                    known[host.id] = True
                    return done
            if refusal is not None:
                raise refusal
            return None

    def _known(self, source: str) -> dict[str, bool]:
        """Connected host → whether it reached the origin of *source* when it was asked last."""
        origin = origin_of(source)
        known = self._reached.setdefault(origin, {})
        self._reached.move_to_end(origin)
        if len(self._reached) > ORIGINS_MAX:
            self._reached.popitem(last=False)
        for host in known.keys() - self._fleet.hosts.keys():
            del known[host]
        return known

    def _candidates(
        self, zones: Sequence[str], kind: m.Kind, known: Mapping[str, bool]
    ) -> list[ConnectedHost]:
        """The hosts to ask, the least busy first, equal ones in any order. Where some did not
        reach the origin: who did, whom nobody asked, the others."""
        found = [host for zone in zones for host in self._fleet.of_zone(zone, kind)]
        random.shuffle(found)
        rank = {True: 0, None: 1, False: 2} if False in known.values() else {}
        found.sort(key=lambda h: (rank.get(known.get(h.id), 0), self._hosts.busy(h.id)))
        return found[:HOSTS_MAX]

    async def _ask(
        self, host: ConnectedHost, kind: m.Kind, args: m.ProbeArgs | m.DocumentsArgs
    ) -> m.Done:
        most = self._settings.whole("direct.download.host.max.probes")
        async with self._hosts.take(host.id, most=most):
            return await self._requests.send(host, kind, args)
