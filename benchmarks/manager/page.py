# SPDX-License-Identifier: Apache-2.0
"""The manager's part of docs/performance.md, from the stored results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import bulk
from benchmarks.manager import suite


def section(folder: Path) -> str:
    """Markdown of the newest results of the manager and of each bulk run; "" without any."""
    parts = []
    if found := _stored(folder, "*-manager-*.json"):
        newest = found[-1]
        parts += [f"### The manager\n\n{_from(newest)}", suite.table(newest)]
    latest = {(entry["bulk"], entry["of"]): entry for entry in _stored(folder, "*-bulk-*.json")}
    for (size, of), entry in latest.items():
        templates, hosts = size.split("x")
        title = f"### Bulk provisioning: {templates} templates to {hosts} hosts, {of}"
        parts += [f"{title}\n\n{_from(entry)}", bulk.table(entry)]
    return "\n\n".join(parts)


def _stored(folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(pattern))]


def _from(entry: dict[str, Any]) -> str:
    box = entry["machine"]
    return f"Commit {entry['commit']}, {entry['when']}, {box['cores']} cores of {box['cpu']}."
