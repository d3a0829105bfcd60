# SPDX-License-Identifier: Apache-2.0
"""``python -m fastdl``."""

import sys

from fastdl.cli.main import main

sys.exit(main())
