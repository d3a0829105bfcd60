# SPDX-License-Identifier: Apache-2.0
"""Which results have to be sent now? Each once a connection, and again where no acknowledgement
came for a while: a manager that is slow to record one would only get more to read."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Final

from fastdl.wire import messages as m

REPEAT_SECONDS: Final = 30.0


class Owed:
    """What was sent over this connection, and when."""

    def __init__(self) -> None:
        self._sent: dict[tuple[str, int], float] = {}

    def connected(self) -> None:
        """What was sent over another connection may be lost."""
        self._sent.clear()

    def asked_for(self, job: str) -> None:
        """The manager does not have the result of *job*."""
        for key in [key for key in self._sent if key[0] == job]:
            del self._sent[key]

    def due(self, results: Iterable[m.JobResult]) -> list[m.JobResult]:
        """Those of *results*, all that are not acknowledged, that have to be sent now."""
        all_owed = {(result.job, result.fence): result for result in results}
        self._sent = {key: at for key, at in self._sent.items() if key in all_owed}
        before = time.monotonic() - REPEAT_SECONDS
        return [r for key, r in all_owed.items() if self._sent.get(key, -math.inf) <= before]

    def sent(self, result: m.JobResult) -> None:
        """It is on its way."""
        self._sent[result.job, result.fence] = time.monotonic()
