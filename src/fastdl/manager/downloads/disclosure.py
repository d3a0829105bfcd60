# SPDX-License-Identifier: Apache-2.0
"""How much of a failure may the user who named the source see?

A host stands in networks that tenants do not see. If a tenant learned that a port refuses
connections, that a service does not speak HTTP, or that a name does not resolve, template URLs
could be used to scan those networks. So details are for administrators, unless every address that
the job tried is public.
"""

from __future__ import annotations

from typing import Final

from fastdl.errors import BY_THE_SOURCE
from fastdl.wire.messages import Failure

HIDDEN: Final = (
    "the source cannot be fetched: as it is not known to be on a public network, why is told to "
    "administrators only"
)


def reason(failure: Failure, *, admin: bool) -> str:
    """Return why a job failed, in words for an administrator, or for anybody else."""
    if admin or failure.public_source or failure.code not in BY_THE_SOURCE:
        return failure.message
    return HIDDEN
