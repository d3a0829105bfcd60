# SPDX-License-Identifier: Apache-2.0
"""The Cython boundary to csrc/: convert, release the GIL, call, raise."""
