# SPDX-License-Identifier: Apache-2.0
"""The headers of csrc/ as Cython sees them: one .pxd each, no logic."""
