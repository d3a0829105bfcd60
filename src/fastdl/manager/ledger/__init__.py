# SPDX-License-Identifier: Apache-2.0
"""The truth, in SQL: the same tables and statements on SQLite and PostgreSQL.

``engine`` opens it and runs transactions, ``tables`` names its columns, ``migrations`` makes
them; every other file here covers one noun with functions whose first argument is a transaction
(``tx``).
"""
