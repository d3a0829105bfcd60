# SPDX-License-Identifier: Apache-2.0
"""How long do managers wait for hosts, and for each other, before they give work to others?

Whoever may be cut off stops by itself before anything of its is given away: a host that has no sign
of a manager ends its downloads (``LEASE_S``), a manager that the others may take for dead gives its
hosts no sign any more (``QUIET_S``). So whatever waits for a host that nobody hears waits for that
to have happened, and for a worker to stop (``STOP_S``).
"""

from __future__ import annotations

from typing import Final

BEAT_S: Final = 10.0
"""How often hosts say that they are alive."""
LEASE_S: Final = 25.0
"""A host that has no sign of a manager for so long stops downloading."""
QUIET_S: Final = 15.0
"""A manager that was not alive in the ledger for so long has lost its hosts: it lets them go, and
they are connecting elsewhere."""
STOP_S: Final = 10.0
"""What a worker needs to stop, at most."""
SILENT_S: Final = LEASE_S + STOP_S
"""Without a heartbeat for so long: Alert while the connection is open, otherwise Down."""
ORPHANED_S: Final = QUIET_S + SILENT_S
"""So long after its manager was last alive a host that did not come back is Down."""
CANCEL_S: Final = QUIET_S + LEASE_S + STOP_S
"""How long to wait for a host to report that it stopped."""
