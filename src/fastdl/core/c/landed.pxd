# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t


cdef extern from "base/landed.h" nogil:
    struct fdl_range:
        uint64_t off
        uint64_t len
        uint64_t xxh3
        bint zero
