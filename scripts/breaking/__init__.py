# SPDX-License-Identifier: Apache-2.0
"""Breaks what a zone of several managers rests on, and checks its hosts: ``scripts/chaos``."""
