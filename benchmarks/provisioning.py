# SPDX-License-Identifier: Apache-2.0
"""What is recorded about a contestant that downloaded N templates to M hosts?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Provisioning:
    """One contestant provisioning everything. Times in seconds since the start.

    ``peak_bytes`` is the most memory that one host's process had; ``manager_cpu_s`` is a part
    of ``cpu_s``. Zero if not measured.
    """

    contestant: str
    copies: int = 0
    all_done_s: float = 0.0
    host_done_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    manager_cpu_s: float = 0.0
    origin_cpu_s: float = 0.0
    sent_bytes: int = 0
    requests: int = 0
    peak_bytes: list[int] = field(default_factory=list)
    registered_s: float = 0.0

    @property
    def fairness(self) -> float:
        """Jain's index over the hosts' rates: 1 if all were served alike."""
        rates = [1 / seconds for seconds in self.host_done_s]
        return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))

    def line(self) -> str:
        """For people."""
        first, last = min(self.host_done_s), max(self.host_done_s)
        return (
            f"{self.contestant:<16} all after {self.all_done_s:6.2f} s  hosts "
            f"{first:.2f}-{last:.2f}  fairness {self.fairness:.3f}  {self.cpu_s:6.2f} cpu s  "
            f"origin sent {self.sent_bytes / 1e9:.2f} GB in {self.requests} requests"
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON."""
        fields = {name: getattr(self, name) for name in Provisioning.__slots__}
        return {**fields, "fairness": round(self.fairness, 4)}
