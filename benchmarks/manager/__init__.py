# SPDX-License-Identifier: Apache-2.0
"""How much does one manager carry, and how fast does it bring templates to hosts?"""
