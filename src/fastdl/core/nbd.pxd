# SPDX-License-Identifier: Apache-2.0
from fastdl.core.c.nbd cimport fdl_nbd


cdef class Export:
    cdef fdl_nbd *_ptr
    cdef fdl_nbd *open_ptr(self) except NULL
