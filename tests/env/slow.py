# SPDX-License-Identifier: Apache-2.0
"""Which tests does continuous integration leave out? Those that would take it over its limit."""

from __future__ import annotations

import os

import pytest

slow = pytest.mark.skipif(
    "FASTDL_SLOW" not in os.environ, reason="takes minutes with others like it: scripts/test-slow"
)
