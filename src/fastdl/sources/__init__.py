# SPDX-License-Identifier: Apache-2.0
"""From a URL to where bytes come from."""
