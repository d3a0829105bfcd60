# SPDX-License-Identifier: Apache-2.0
"""Virtual machines: where they go, and how they get from state to state."""
