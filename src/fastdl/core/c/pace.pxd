# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t


cdef extern from "job/pace.h" nogil:
    struct fdl_pace:
        fdl_pace *parent
        uint64_t rate
