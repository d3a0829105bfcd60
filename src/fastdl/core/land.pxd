# SPDX-License-Identifier: Apache-2.0
from fastdl.core.c.land cimport fdl_lander


cdef class Lander:
    cdef fdl_lander *_ptr  # OWNED: freed in close()/__dealloc__, NULL after
    cdef object _sink  # keeps the borrowed sink alive
    cdef object user  # weak reference to the job that pushes blocks into it, or None
    cdef fdl_lander *open_ptr(self) except NULL
