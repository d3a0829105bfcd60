# SPDX-License-Identifier: Apache-2.0
"""How does a virtual machine get into the state that was ordered, however often it is ordered?

Look, and do what is missing: the disk, the domain, the start. A crash at any point leaves
something from which the same order finishes. A deployment that fails takes back what it did.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from fastdl.agent.machines import console, disks, domain, guests
from fastdl.agent.machines.guests import Guests, check_id
from fastdl.agent.pools import Pool, Volume
from fastdl.errors import Cancelled, FastdlError, SinkRefusedError, UsageError
from fastdl.wire import messages as m

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Orders:
    """Carries out orders for machines on one host. Methods block; call them in threads.

    *state*: the agent's folder; *kvm*: whether machines are accelerated, None = if that works.
    """

    uri: str
    state: Path
    kvm: bool | None = None

    def perform(
        self, pool: Pool, args: m.MachineArgs, *, fence: int, stop: threading.Event
    ) -> m.MachineDone:
        """Bring the machine into ``args.state``. Safe to repeat.

        AgentRefusedError for an order that a later one has replaced; the classes of libvirt, pools
        and disks. *stop* set: Cancelled, as soon as possible.
        """
        check_id(args.machine)
        Volume(args.disk), Volume(args.volume)  # refuses names that lead out of the pool
        if not pool.holds_disks:
            raise SinkRefusedError("this pool cannot hold disks of virtual machines")
        with pool.markers.lock(args.disk, fence=fence), guests.connected(self.uri) as found:
            match args.state:
                case m.MachineState.RUNNING | m.MachineState.STOPPED if args.first:
                    return self._deploy(found, pool, args, stop)
                case m.MachineState.RUNNING:
                    return self._run(found, pool, args, stop)
                case m.MachineState.STOPPED:
                    return self._halt(found, args, stop)
                case m.MachineState.ABSENT:
                    self._remove(found, pool, args, stop)
                    return m.MachineDone(state=m.MachineState.ABSENT)
                case _:
                    raise UsageError(f"{args.state!a} is no state of a machine")

    def known(self, pools: dict[str, Pool]) -> list[m.MachineInfo]:
        """The machines of this host whose pools it can see."""
        found = []
        with guests.connected(self.uri) as here:
            for machine, pool, disk, running in here.ours():
                if pool not in pools:
                    continue
                with contextlib.suppress(FastdlError):
                    fence = pools[pool].markers.fence(disk)
                    found.append(m.MachineInfo(machine=machine, fence=fence, running=running))
        return found[:4096]

    def _deploy(
        self, found: Guests, pool: Pool, args: m.MachineArgs, stop: threading.Event
    ) -> m.MachineDone:
        try:
            done = self._run(found, pool, args, stop)
        except Cancelled:
            raise  # it goes on later, or is taken back by an order of its own
        except Exception:
            with contextlib.suppress(FastdlError):
                self._remove(found, pool, args, stop)
            raise
        if done.missing:
            self._remove(found, pool, args, stop)
        return done

    def _run(
        self, found: Guests, pool: Pool, args: m.MachineArgs, stop: threading.Event
    ) -> m.MachineDone:
        known = found.find(args.machine)
        if known is None:
            with disks.copy_of(pool, args.volume, iso=args.iso, stop=stop) as copy:
                if isinstance(copy, str):
                    return m.MachineDone(state=m.MachineState.ABSENT, missing=copy[:4096])
                known = self._define(found, pool, args, copy, stop)
        if args.state == m.MachineState.RUNNING:
            if stop.is_set():
                raise Cancelled("the agent stops")
            found.start(known)
        disk = disks.existing(pool, args.disk, args.machine)
        return m.MachineDone(
            state=args.state,
            disk_size=disk.size if disk else 0,
            accelerated=domain.accelerated(known.XMLDesc()),
        )

    def _define(
        self,
        found: Guests,
        pool: Pool,
        args: m.MachineArgs,
        copy: disks.Copy,
        stop: threading.Event,
    ) -> object:
        """The new domain of the machine, with its disk. The copy stays locked until libvirt knows
        the machine, which counts as a user of it from then on."""
        disk = disks.existing(pool, args.disk, args.machine)
        if disk is None:
            if not args.first:
                raise SinkRefusedError(f"the disk of the machine {args.machine} is gone")
            below = None if args.iso else copy
            disk = disks.create(pool, args.disk, args.machine, args.disk_size, below, stop)
        machine = domain.Machine(
            id=check_id(args.machine),
            title=args.name,
            pool=pool.id,
            disk=disk,
            disk_name=args.disk,
            drive=copy.disk() if args.iso else None,
            processors=args.processors,
            memory=args.memory,
            controller=args.controller.lower(),
            console=str(console.prepare(self.state, args.machine)),
            kvm=guests.accelerates(self.uri) if self.kvm is None else self.kvm,
        )
        return found.define(domain.describe(machine))

    def _halt(self, found: Guests, args: m.MachineArgs, stop: threading.Event) -> m.MachineDone:
        known = found.find(args.machine)
        if known is not None:
            found.stop(known, patience=0 if args.forced else args.patience, stop=stop)
        return m.MachineDone(state=m.MachineState.STOPPED)

    def _remove(
        self, found: Guests, pool: Pool, args: m.MachineArgs, stop: threading.Event
    ) -> None:
        known = found.find(args.machine)
        if known is not None:
            found.stop(known, patience=0, stop=stop)
            found.forget(known)
        disks.remove(pool, args.disk, args.machine)
        console.remove(self.state, args.machine)
