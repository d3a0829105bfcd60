# SPDX-License-Identifier: Apache-2.0
"""CloudStack's HTTP API: one file per command family, each command declared once.

The declaration (``spec.Command``) is used to parse requests, to answer listApis, and to generate
``docs/api.md``.
"""
