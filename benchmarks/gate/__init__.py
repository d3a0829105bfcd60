# SPDX-License-Identifier: Apache-2.0
"""The regression gate: what can be counted exactly is compared with a stored baseline."""
