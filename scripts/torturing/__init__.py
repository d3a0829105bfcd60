# SPDX-License-Identifier: Apache-2.0
"""What ``scripts/torture`` does; see ``__main__``. One file for each kind of experiment."""
