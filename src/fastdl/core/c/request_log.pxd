# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fastdl.core.c.err cimport fdl_err


cdef extern from "source/request_log.h" nogil:
    enum fdl_request_event:
        FDL_REQUEST_SENT
        FDL_REQUEST_ANSWERED
        FDL_REQUEST_LEFT
    struct fdl_request_note:
        fdl_request_event event
        int conn
        int mirror
        uint64_t off
        uint64_t end
        bint fresh
        int status
        uint64_t took_ns
        char where[512]
        fdl_err err
