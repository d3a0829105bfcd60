# SPDX-License-Identifier: Apache-2.0
"""Keeping the certificates of hosts in the desired state."""
