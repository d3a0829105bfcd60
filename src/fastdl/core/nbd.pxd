# SPDX-License-Identifier: Apache-2.0
from fastdl.core cimport cfdl


cdef class Export:
    cdef cfdl.fdl_nbd *_ptr
    cdef cfdl.fdl_nbd *open_ptr(self) except NULL
