# SPDX-License-Identifier: Apache-2.0
"""How much do the systemd units let a broken process do?"""

from __future__ import annotations

EXPOSURE = {"fastdl-manager.service": 1.4, "fastdl-agent.service": 3.7}
"""At most, of 10, by ``systemd-analyze security``. The agent is root: it writes to devices and
to files of other users, and hands its downloads to another one."""
