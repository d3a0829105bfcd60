# SPDX-License-Identifier: Apache-2.0
"""The manager: API, ledger, schedule, certificate sync."""
