# SPDX-License-Identifier: Apache-2.0
"""From a target's name to what is written to: preflight and safety policy."""
