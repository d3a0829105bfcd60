# SPDX-License-Identifier: Apache-2.0
"""The manager's parts as the API sees them."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastdl.manager.access.logins import Logins, ReportLimit
from fastdl.manager.access.rates import Quotas, Rates, network_of
from fastdl.manager.access.sessions import Sessions
from fastdl.manager.api.tls import ApiTls
from fastdl.manager.certificates.background import BackgroundTask
from fastdl.manager.certificates.sync import CertificateSync
from fastdl.manager.clock import Clock
from fastdl.manager.downloads.copy_watch import CopyWatch
from fastdl.manager.downloads.dispatch import Dispatcher
from fastdl.manager.downloads.following import Follower
from fastdl.manager.downloads.probing import Probing
from fastdl.manager.events import Events
from fastdl.manager.hosts.ca import Authority
from fastdl.manager.hosts.delivery import Delivery
from fastdl.manager.hosts.fleet import Fleet
from fastdl.manager.hosts.handler import HostHandler
from fastdl.manager.hosts.progress import ProgressBoard
from fastdl.manager.hosts.requests import HostRequests
from fastdl.manager.ledger.engine import Ledger
from fastdl.manager.machines.service import Machines
from fastdl.manager.metrics import Metrics
from fastdl.manager.notices import Notices
from fastdl.manager.settings import Settings
from fastdl.manager.vault import Vault


@dataclass(slots=True, kw_only=True)
class ApiContext:
    """What commands work with."""

    ledger: Ledger
    settings: Settings
    vault: Vault
    clock: Clock
    events: Events
    notices: Notices
    metrics: Metrics
    fleet: Fleet
    delivery: Delivery
    progress: ProgressBoard
    requests: HostRequests
    authority: Authority
    dispatcher: Dispatcher
    sync: CertificateSync
    background: BackgroundTask
    logins: Logins
    handler: HostHandler
    copy_watch: CopyWatch
    probing: Probing
    machines: Machines
    follower: Follower
    sessions: Sessions
    rates: Rates = field(default_factory=Rates)
    """Of authenticated callers, by key."""
    refusals: Rates = field(default_factory=Rates)
    """Of others, by address."""
    quotas: Quotas = field(default_factory=Quotas)
    login_reports: ReportLimit = field(
        default_factory=lambda: ReportLimit(every_s=60, most=600, refill_s=6)
    )
    failure_reports: ReportLimit = field(
        default_factory=lambda: ReportLimit(every_s=60, most=60, refill_s=60)
    )
    api_tls: ApiTls | None = None
    """The API port's certificate; None for plain HTTP."""
    agent_port: int = 0
    """Where agents connect; 0 until it is listened on."""
    ready: bool = False
    """Serving, with the credentials of the first user written."""

    def count_refusal(self, address: str) -> None:
        """Count an unauthenticated request; ApiLimitError if *address* sends too many."""
        per_second = self.settings.whole("api.refused.per.second")
        caller, now = network_of(address), self.clock.steady()
        self.refusals.take(caller, per_second=per_second, now=now)

    def expiries(self) -> dict[str, float]:
        """Return when each certificate of the manager's own expires, by a name of one word."""
        names = zip(("ca", "ca-next"), self.authority.cas, strict=False)
        found = {name: ca.certificate.not_valid_after_utc.timestamp() for name, ca in names}
        if self.api_tls is not None:
            found["api"] = self.api_tls.chain.not_after
        return found
