# SPDX-License-Identifier: Apache-2.0
"""What the tables have in common: their metadata, and columns that most have."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Column, MetaData, String

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

UUID: Final = String(40)


def id_() -> Column[Any]:
    """The primary key."""
    return Column("id", UUID, primary_key=True)


def needs(name: str, kind: Any, default: Any = None) -> Column[Any]:
    """A column that is never NULL. *default*: what rows of an older version get."""
    return Column(name, kind, nullable=False, server_default=default)
