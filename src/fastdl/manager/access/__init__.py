# SPDX-License-Identifier: Apache-2.0
"""Who may call: signatures, sessions, log-ins, rates."""
