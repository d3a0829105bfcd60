# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: the suite without an installed ``fastdl`` command."""

from __future__ import annotations

import sys

from benchmarks.options import main

if __name__ == "__main__":
    sys.exit(main())
