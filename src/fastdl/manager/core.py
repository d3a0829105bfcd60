# SPDX-License-Identifier: Apache-2.0
"""The manager's parts as the API sees them."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastdl.manager.auth import Quotas, Rates, Sessions
from fastdl.manager.certloop import CertificateSync
from fastdl.manager.dispatch import Dispatcher
from fastdl.manager.fabric.ca import Authority
from fastdl.manager.services import Services


@dataclass(slots=True, kw_only=True)
class Core:
    """One manager, without its loops and servers."""

    services: Services
    authority: Authority
    dispatcher: Dispatcher
    sync: CertificateSync
    sessions: Sessions = field(default_factory=Sessions)
    rates: Rates = field(default_factory=Rates)
    quotas: Quotas = field(default_factory=Quotas)
