# SPDX-License-Identifier: Apache-2.0
"""Every command of the API, by lower-case name."""

from __future__ import annotations

from typing import Final

from fastdl.manager.api import (
    accounts,
    catalog,
    certificates,
    configuration,
    copies,
    domains,
    download_lists,
    downloads,
    follows,
    hostca,
    hosts,
    jobs,
    lockout,
    machines,
    pools,
    source,
    template_changes,
    template_lists,
    templates,
    tokens,
    zones,
)
from fastdl.manager.api.spec import Command

COMMANDS: Final[dict[str, Command]] = {
    command.name.lower(): command
    for family in (
        certificates,
        templates,
        template_lists,
        template_changes,
        source,
        downloads,
        download_lists,
        follows,
        copies,
        machines,
        zones,
        hosts,
        tokens,
        hostca,
        pools,
        configuration,
        jobs,
        accounts,
        lockout,
        domains,
        catalog,
    )
    for command in family.COMMANDS
}
COMMANDS["listapis"] = catalog.list_apis(COMMANDS)
