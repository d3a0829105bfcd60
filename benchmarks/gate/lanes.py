# SPDX-License-Identifier: Apache-2.0
"""Run in place of ``fastdl``, with a file before its arguments: how full were its passes?

The file gets a line for each: passes over pieces of several blocks, and the blocks that were
checked in them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from fastdl.cli.main import entry
from fastdl.engine import transfer
from fastdl.engine.proof import Outcome


def main() -> None:
    """Let ``fastdl`` run; what its job counted is written once that has ended."""
    path = Path(sys.argv.pop(1))

    def noted(*, status: dict[str, Any], **others: Any) -> Outcome:
        names = ("passes", "pass_blocks")
        path.write_text("".join(f"{name} {status[name]}\n" for name in names))
        return Outcome(status=status, **others)

    setattr(transfer, "Outcome", noted)  # noqa: B010 - a type is not to be assigned to
    entry()


if __name__ == "__main__":
    main()
