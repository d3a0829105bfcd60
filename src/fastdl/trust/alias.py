# SPDX-License-Identifier: Apache-2.0
"""Which aliases may a certificate have? CloudStack's rules, and a keystore's.

A name is never part of a file's name. Keystores ignore case, as keytool does.
"""

from __future__ import annotations

import re

from fastdl.errors import AliasConflictError, ApiParamError

MAX_ALIAS = 255
_MEMBER = re.compile(r"#[0-9]+\Z")


def fold(alias: str) -> str:
    """*alias* as it is compared."""
    return alias.lower()


def is_reserved(alias: str) -> bool:
    """Whether CloudStack keeps the alias for the agent's own key and CA certificates."""
    return fold(alias.strip()) == "cloud" or fold(alias.strip()).startswith("cloudca")


def check_alias(alias: str) -> None:
    """Refuse what cannot be a name (ApiParamError) or is reserved (AliasConflictError).

    ``#2`` and so on at the end belong to the further certificates of a bundle.
    """
    if (
        not 1 <= len(alias) <= MAX_ALIAS
        or alias != alias.strip()
        or not alias.isprintable()
        or _MEMBER.search(alias)
    ):
        raise ApiParamError(
            f"an alias is 1 to {MAX_ALIAS} printable characters, without blanks at its ends "
            "and without a # and a number at the end"
        )
    refuse_reserved(alias)


def refuse_reserved(alias: str) -> None:
    """AliasConflictError for a reserved alias."""
    if is_reserved(alias):
        raise AliasConflictError(
            f"the alias {alias} is reserved for the agent's own key and CA; choose another"
        )


def member(alias: str, number: int) -> str:
    """The name of certificate *number* (from 1) of a bundle under *alias*."""
    return alias if number == 1 else f"{alias}#{number}"


def belongs_to(name: str, alias: str) -> bool:
    """Whether *name* is *alias*, or a further certificate of its bundle."""
    folded, wanted = fold(name), fold(alias)
    return folded == wanted or (
        folded.startswith(wanted) and _MEMBER.fullmatch(folded[len(wanted) :]) is not None
    )
