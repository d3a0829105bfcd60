# SPDX-License-Identifier: Apache-2.0
"""Templates from their origins onto pools: registration, schedule, results."""
