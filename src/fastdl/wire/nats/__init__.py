# SPDX-License-Identifier: Apache-2.0
"""What agents and managers share of NATS, where it carries their messages."""
