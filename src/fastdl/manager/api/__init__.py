# SPDX-License-Identifier: Apache-2.0
"""CloudStack's HTTP API: one file per command family, each command declared once.

The declaration (``spec.Command``) is what parses requests, what listApis answers, and what
``docs/api.md`` is generated from.
"""
