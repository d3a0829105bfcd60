# SPDX-License-Identifier: Apache-2.0
"""Whole zones in virtual time, drawn from a seed: see ``__main__``."""
