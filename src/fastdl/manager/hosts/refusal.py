# SPDX-License-Identifier: Apache-2.0
"""Why a host is refused, and how the refusal is sent."""

from __future__ import annotations

from fastdl.errors import AgentRefusedError, FastdlError, Reason
from fastdl.wire import messages as m


class UnknownHostError(AgentRefusedError):
    """No host of this id and key is enrolled, or no longer."""

    def __init__(self) -> None:
        super().__init__(
            "this host is not enrolled here: start it with a new token (--token)",
            reason=Reason.UNKNOWN_HOST,
        )


class TwoAgentsError(AgentRefusedError):
    """Another agent that proved to be this host is connected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason=Reason.TWO_AGENTS)


def refused(exc: FastdlError) -> m.Refused:
    """Return *exc* as the last message to a host."""
    return m.Refused(code=exc.exit_code, message=exc.message[:4096], reason=exc.reason or "")
