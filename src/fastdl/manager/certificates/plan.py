# SPDX-License-Identifier: Apache-2.0
"""Which certificates a host should install and remove: the plan, as a pure function.

The desired state of a host is computed from what operators asked for; the actual state is
what the host *found in its keystore file*. A wiped keystore, a failed push and a new host
are thus the same case: they differ, and the difference is the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fastdl.trust.alias import fold

RETRY_FIRST_S: Final = 5.0
RETRY_MAX_S: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What one host should hold under *alias*. *present* false: nothing of ours."""

    cert: str
    alias: str
    sha256: str
    present: bool
    retry_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """*install* and *remove*: ids of certificates; *settled*: those that are as wanted."""

    install: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    later: float | None = None
    """When the next certificate that was put off is due."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do now."""
        return not self.install and not self.remove


def wanted_on_host(
    *, revoked_in_zone: bool, deleted: bool, override: str | None, on_others: bool = False
) -> bool:
    """Whether a host should hold a certificate.

    *override* is what was asked for this host alone (``present`` or ``absent``): a per-host
    revocation outlives the sync task, and a re-upload to one host outlives a revocation of
    the zone. Without one, a host gets what its zone has: also after a revocation of the zone,
    where it was uploaded again to other hosts (*on_others*). A deleted certificate is desired
    nowhere.
    """
    if deleted:
        return False
    if override is not None:
        return override == "present"
    return on_others or not revoked_in_zone


def plan(desired: Iterable[Desired], held: Mapping[str, str] | None, *, now: float) -> Plan:
    """Return what turns *held* (folded alias → fingerprint) into *desired*.

    *held* None means that the keystore cannot be read: every desired certificate is tried again
    (the attempt shows the operator why it fails). Aliases that no certificate names are left alone.
    """
    desired = list(desired)
    taken = {fold(d.alias) for d in desired if d.present}
    install: list[str] = []
    remove: list[str] = []
    settled: list[str] = []
    later: list[float] = []
    for want in desired:
        alias = fold(want.alias)
        if not want.present and alias in taken:
            settled.append(want.cert)  # the alias belongs to a newer certificate now
            continue
        have = None if held is None else held.get(alias)
        if held is not None and have == (want.sha256 if want.present else None):
            settled.append(want.cert)
        elif now < want.retry_at <= now + RETRY_MAX_S:  # beyond: from before a clock was set back
            later.append(want.retry_at)
        else:
            (install if want.present else remove).append(want.cert)
    return Plan(
        install=tuple(install),
        remove=tuple(remove),
        settled=tuple(settled),
        later=min(later, default=None),
    )


def retry_delay(failures: int) -> float:
    """Return how long to wait after the *failures*-th failed push in a row."""
    delay: float = min(RETRY_FIRST_S * 2 ** min(failures - 1, 20), RETRY_MAX_S)
    return delay


def expiry_warning(not_after: float, *, now: float, warned: int) -> int | None:
    """Return the number of days (30, 7, 1 or 0 = expired) to warn about now, or None.

    *warned* is the smallest number already warned about plus one (0 = none yet).
    """
    left = (not_after - now) / 86400
    for days in (0, 1, 7, 30):
        if left <= days:
            return days if not warned or days < warned - 1 else None
    return None
