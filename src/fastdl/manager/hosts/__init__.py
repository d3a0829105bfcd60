# SPDX-License-Identifier: Apache-2.0
"""The hosts: their identities, connections, and requests to them."""
