# SPDX-License-Identifier: Apache-2.0
"""The filter of system calls of ``fdl_confine``."""
import os


cdef extern from "base/confine.h" nogil:
    enum:
        FDL_CONFINE_NETWORK
        FDL_CONFINE_PROGRAM
        FDL_CONFINE_BROKER
    int fdl_confine_calls(unsigned allow, int *listener)


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
