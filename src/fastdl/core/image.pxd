# SPDX-License-Identifier: Apache-2.0
from fastdl.core.c.qcow2 cimport fdl_qcow2


cdef class Qcow2:
    cdef fdl_qcow2 *_ptr  # OWNED: freed in __dealloc__, NULL once a lander has taken it
    cdef fdl_qcow2 *open_ptr(self) except NULL
