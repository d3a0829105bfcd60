# SPDX-License-Identifier: Apache-2.0
"""The system-call filter of ``fdl_confine``."""
import os

from fastdl.core.c.confine cimport (
    FDL_CONFINE_BROKER, FDL_CONFINE_NETWORK, FDL_CONFINE_PROGRAM, fdl_confine_calls,
)


def confine_calls(*, bint network, bint program, bint broker):
    cdef unsigned allow = 0
    cdef int listener = -1
    if network:
        allow |= FDL_CONFINE_NETWORK
    if program:
        allow |= FDL_CONFINE_PROGRAM
    if broker:
        allow |= FDL_CONFINE_BROKER
    cdef int rc = fdl_confine_calls(allow, &listener)
    if rc != 0:
        raise OSError(rc, os.strerror(rc))
    return listener
