# SPDX-License-Identifier: Apache-2.0
"""How help is laid out: as wide as the terminal, examples as they are written."""

from __future__ import annotations

import argparse
import os


def _width() -> int:
    try:
        return int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        pass
    try:
        return os.get_terminal_size(1).columns
    except (OSError, ValueError):
        return 80


_WIDTH = min(max(_width() - 2, 40), 100)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for every option, and loads shutil to measure the
    terminal unless the width is given: 4 ms of each start.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_WIDTH)
