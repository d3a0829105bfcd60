# SPDX-License-Identifier: Apache-2.0
"""``python -m fastdl``."""

from fastdl.cli.main import entry

entry()
