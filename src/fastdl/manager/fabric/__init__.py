# SPDX-License-Identifier: Apache-2.0
"""How the manager reaches its hosts: presence, delivery, results, progress.

Nothing about correctness rests on it: what must not be lost is in the ledger, and documents
are built from there again.
"""
