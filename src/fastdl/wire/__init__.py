# SPDX-License-Identifier: Apache-2.0
"""The messages between manager and agent, and CloudStack's JSON shapes."""
