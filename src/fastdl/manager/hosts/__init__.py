# SPDX-License-Identifier: Apache-2.0
"""The hosts: who they are, their connections, and asking them."""
