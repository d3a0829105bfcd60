# SPDX-License-Identifier: Apache-2.0
from fastdl.core cimport cfdl_image


cdef class Qcow2:
    cdef cfdl_image.fdl_qcow2 *_ptr  # OWNED: freed in __dealloc__, NULL once a lander took it
    cdef cfdl_image.fdl_qcow2 *open_ptr(self) except NULL
