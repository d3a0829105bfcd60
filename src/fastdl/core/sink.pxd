# SPDX-License-Identifier: Apache-2.0
from fastdl.core.c.sink cimport fdl_sink


cdef class Sink:
    cdef fdl_sink *_ptr
    cdef object _keep  # what the C sink borrows
    cdef object writer  # weak reference to the job that writes through it, or None
    cdef fdl_sink *open_ptr(self) except NULL
