# SPDX-License-Identifier: Apache-2.0
"""Authentication and limits: signatures, sessions, logins, rates."""
