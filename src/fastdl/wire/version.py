# SPDX-License-Identifier: Apache-2.0
"""Which versions of the wire exist, what each brought, and which one two sides speak.

Rules that keep old and new working together: a field is only ever added, with a default;
unknown fields and unknown message types are ignored; a command kind goes only to an agent
that named it in its ``Hello.kinds``; what a field means never changes. A change that
cannot keep these rules is a new row here, and a manager speaks its own and the previous row.
"""

from __future__ import annotations

from typing import Final

from fastdl.errors import AgentRefusedError

VERSIONS: Final[dict[int, str]] = {
    1: "enrolment by token, inventory, desired-state documents, results, progress",
}
"""Wire version → what it brought. The highest is what this side prefers."""

CURRENT: Final = max(VERSIONS)
OLDEST: Final = min(VERSIONS)


def negotiate(oldest: int, newest: int) -> int:
    """Return the highest version that this side and one speaking *oldest*..*newest* share.

    Raises AgentRefusedError, naming both ranges, where there is none.
    """
    chosen = min(CURRENT, newest)
    if oldest > newest or chosen < max(OLDEST, oldest):
        raise AgentRefusedError(
            f"the other side speaks wire versions {oldest} to {newest}, this one "
            f"{OLDEST} to {CURRENT}: upgrade the older of the two"
        )
    return chosen
