# SPDX-License-Identifier: Apache-2.0
"""How is one command of the manager executed? One function per kind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final

from fastdl.agent import provenance, removal, templates, trust, work
from fastdl.agent.audit import audit
from fastdl.agent.config import HostConfig
from fastdl.agent.host import Host, certificate_infos
from fastdl.agent.listing import listing
from fastdl.agent.machines import console
from fastdl.agent.piece_lists import PieceLists
from fastdl.agent.pools import Volume
from fastdl.agent.templates import Wanted
from fastdl.agent.work import ProgressCallback, Work
from fastdl.errors import (
    AgentRefusedError,
    FastdlError,
    NetError,
    PolicyError,
    TrustError,
)
from fastdl.model.image import declared_format
from fastdl.model.url import Url
from fastdl.sources.origin_rules import OriginRule
from fastdl.wire import codec
from fastdl.wire import messages as m

KINDS = tuple(m.Kind)
AUDITS_MAX: Final = 2
"""Audits at a time: each keeps a thread for minutes, of the few that everything else needs."""
Relies = Callable[[Iterable[str]], None]
_SCHEMES = frozenset({"http", "https", "nfs"})


@dataclass(frozen=True, slots=True)
class Commands:
    """Executes commands on *host*; *pieces*: the manager's lists of pieces."""

    host: Host
    pieces: PieceLists
    audits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AUDITS_MAX))

    async def perform(
        self, command: m.Command, progress: ProgressCallback, relies: Relies
    ) -> m.Done:
        """Execute *command*; safe to repeat. Raises the errors of its kind.

        *relies* is called with the anchors that a download uses, before it uses them.

        """
        match command.args:
            case m.DownloadArgs() as args:
                return await self._download(args, command, progress, relies)
            case m.RemoveArgs() as args:
                return await self._remove(args, command.fence)
            case m.CertificatesArgs() as args:
                return await asyncio.to_thread(self._certificates, args)
            case m.ProbeArgs() as args:
                return await self._probe(args)
            case m.DocumentsArgs() as args:
                return await self._documents(args)
            case m.CheckArgs() as args:
                return await self._check(args)
            case m.MachineArgs() as args:
                return await self._machine(args, command.fence)
            case m.ConsoleArgs() as args:
                text = await asyncio.to_thread(
                    console.tail, self.host.state, args.machine, args.most
                )
                return m.ConsoleDone(text=text)
            case m.AuditArgs() as args:
                pool = await asyncio.to_thread(self.host.pool, args.pool)
                volume = Volume(args.volume, iso=args.iso)
                async with self.audits:
                    return await audit(pool, volume, self.host.usage, self.pieces.of(command))
            case m.CopiesArgs() as args:
                pool = await asyncio.to_thread(self.host.pool, args.pool)
                return await asyncio.to_thread(listing, pool, self.host.usage, after=args.after)
            case _:
                raise AgentRefusedError(f"this agent does not know commands of kind {command.kind}")

    async def still_trusted(self, command: m.Command) -> bool:
        """Whether a running download's sources are known to be trusted.

        False if that cannot be determined here (mirrors of a metalink, a proxy, an origin that does
        not respond): then the download is restarted, which checks it again.

        """
        if not isinstance(command.args, m.DownloadArgs):
            return True
        transfer = command.args.transfer
        urls = [Url.parse(source) for source in transfer.sources]
        if any(url.is_metalink_name() for url in urls) or transfer.proxy:
            return False
        secure = [s for s, url in zip(transfer.sources, urls, strict=True) if url.scheme == "https"]
        if not secure:
            return not transfer.follow_redirects
        try:
            anchors = await asyncio.to_thread(self.host.anchors)
            cidrs = self._cidrs(transfer)
            for source in secure:
                await trust.vouch(
                    source,
                    anchors,
                    allowed_cidrs=cidrs,
                    seconds=2.0,
                    confinement=self.host.config.confinement,
                )
        except FastdlError:
            return False
        return not transfer.follow_redirects

    async def _download(
        self, args: m.DownloadArgs, command: m.Command, progress: ProgressCallback, relies: Relies
    ) -> m.DownloadDone:
        pool = await asyncio.to_thread(self.host.pool, args.pool)
        options = await self._options(args.transfer, args.format)
        relies(options["anchors"])
        return await templates.bring(
            pool,
            Wanted(
                volume=Volume(args.volume, iso=args.iso),
                sources=args.transfer.sources,
                checksum=args.transfer.checksum,
                options=options,
                max_source_size=args.max_source_size,
                max_virtual_size=args.max_virtual_size,
                fence=command.fence,
                deadline=args.deadline,
                state=self.host.state / "engine",
                confinement=self.host.config.confinement,
                template=args.template,
                zone=self.host.zone_id,
                pieces=self.pieces.of(command),
            ),
            self.host.usage,
            progress=progress,
        )

    async def _remove(self, args: m.RemoveArgs, fence: int) -> m.RemoveDone:
        pool = await asyncio.to_thread(self.host.pool, args.pool)
        volume = Volume(args.volume, iso=args.install_path == f"{args.volume}.iso")
        return await removal.remove(pool, volume, self.host.usage, fence=fence, forced=args.forced)

    async def _machine(self, args: m.MachineArgs, fence: int) -> m.MachineDone:
        """The order carried out in a thread, which has ended when this returns or is cancelled."""
        pool = await asyncio.to_thread(self.host.pool, args.pool)
        orders = await asyncio.to_thread(self.host.machine_orders)
        stop = threading.Event()
        work_ = asyncio.ensure_future(
            asyncio.to_thread(orders.perform, pool, args, fence=fence, stop=stop)
        )
        try:
            return await asyncio.shield(work_)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([work_])
            work_.exception()
            raise

    def _certificates(self, args: m.CertificatesArgs) -> m.CertificatesDone:
        """Each alias separately: a failure for one does not affect the others."""
        keystore = HostConfig.ensure(self.host.config_dir).keystore()
        changes: list[tuple[str, Callable[[], bool]]] = [
            *((alias, partial(keystore.delete, alias)) for alias in args.remove),
            *(
                (one.alias, partial(keystore.import_certificate, one.alias, one.pem, replace=True))
                for one in args.install
            ),
        ]
        outcomes = tuple(_outcome(alias, change) for alias, change in changes)
        found, revision = self.host.read_keystore(keystore.items)
        return m.CertificatesDone(
            outcomes=outcomes, certificates=certificate_infos(found), keystore_revision=revision
        )

    async def _probe(self, args: m.ProbeArgs) -> m.ProbeDone:
        transfer = args.transfer
        plain = await work.run(
            Work(
                action="probe",
                sources=transfer.sources,
                options=await self._options(transfer, args.format),
            ),
            confinement=self.host.config.confinement,
            deadline=60.0,
        )
        return m.ProbeDone(
            size=plain.get("size"),
            virtual_size=plain.get("virtual_size"),
            format=str(plain.get("format") or "")[:32],
            ranges=bool(plain.get("ranges")),
            metalink=bool(plain.get("metalink")),
            validators=provenance.validators_of(plain),
            digests=dict(plain.get("digests") or {}),
            mirrors=tuple(str(mirror["url"]) for mirror in plain.get("mirrors", ())[:64]),
            public_source=plain.get("public_source") is True,
            warnings=tuple(str(text)[:4096] for text in plain.get("warnings", ())[:64]),
            unsafe=tuple(
                str(text)[:4096]
                for text in plain.get("reasons", ())[:64]
                if plain.get("safe") is False
            ),
        )

    async def _documents(self, args: m.DocumentsArgs) -> m.DocumentsDone:
        transfer = args.transfer
        plain = await work.run(
            Work(
                action="documents",
                sources=transfer.sources[:16],
                options=await self._options(transfer, ""),
                most=args.most,
            ),
            confinement=self.host.config.confinement,
            deadline=60.0,
        )
        return m.DocumentsDone(
            documents=tuple(plain["documents"]),
            public_source=plain.get("public_source") is True,
        )

    async def _check(self, args: m.CheckArgs) -> m.CheckDone:
        transfer = args.transfer
        try:
            anchors = await asyncio.to_thread(self.host.anchors)
            found = await trust.vouch(
                transfer.sources[0],
                anchors,
                allowed_cidrs=self._cidrs(transfer),
                confinement=self.host.config.confinement,
            )
        except (TrustError, PolicyError, NetError) as exc:
            return m.CheckDone(accepted=False, reason=str(exc)[:4096])
        return m.CheckDone(
            accepted=True,
            accepted_by=found.accepted_by,
            subject=found.subject[:4096],
            not_after=found.not_after,
        )

    async def _options(self, transfer: m.Transfer, format_name: str) -> Mapping[str, Any]:
        """The engine's options for *transfer*, with the current anchors."""
        schemes = {Url.parse(source).scheme for source in transfer.sources}
        if schemes - _SCHEMES:
            raise PolicyError("an agent fetches from http, https and nfs only")
        anchors: tuple[str, ...] = ()
        try:
            anchors = tuple((await asyncio.to_thread(self.host.anchors)).values())
        except TrustError:
            if "https" in schemes:
                raise
        return {
            "policy": "strict",
            "anchors": anchors,
            "source_format": declared_format(format_name),
            "headers": transfer.headers,
            "follow_redirects": transfer.follow_redirects,
            "allowed_cidrs": self._cidrs(transfer),
            "nfs_servers": (*self.host.config.nfs_servers, *transfer.nfs_servers),
            "metalink_by_type": False,
            "connect_timeout": transfer.connect_timeout,
            "stall_timeout": transfer.stall_timeout,
            "max_connections": transfer.max_connections,
            "max_connections_per_origin": transfer.max_connections_per_origin,
            "limit_rate": transfer.limit_rate,
            "require_checksum": transfer.require_checksum,
            # The copy's marker holds it: other templates are recognised by it.
            "require_whole_digest": True,
            "proxy": transfer.proxy,
            "origin_rules": tuple(
                OriginRule(**{f.name: getattr(rule, f.name) for f in fields(rule)})
                for rule in transfer.rules
            ),
        }

    def _cidrs(self, transfer: m.Transfer) -> tuple[str, ...]:
        return (*self.host.config.allowed_cidrs, *transfer.allowed_cidrs)


def _outcome(alias: str, change: Callable[[], bool]) -> m.AliasOutcome:
    try:
        change()
    except FastdlError as exc:
        return m.AliasOutcome(alias=alias[:255], failure=codec.failure_of(exc))
    return m.AliasOutcome(alias=alias[:255])
