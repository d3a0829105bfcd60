# SPDX-License-Identifier: Apache-2.0
"""RESOLVE, the first stage: from URLs to frozen ``facts`` and one open ``first_response``."""
