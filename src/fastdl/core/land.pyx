# SPDX-License-Identifier: Apache-2.0
"""Owner of one ``fdl_lander``. The kinds are in ``lander``."""
from fastdl.core.c.land cimport fdl_lander


cdef class Lander:
    def __dealloc__(self):
        if self._ptr is not NULL:
            with nogil:
                self._ptr.ops.free(self._ptr)

    def close(self):
        job = None if self.user is None else self.user()
        self.user = None
        if job is not None:
            job.halt()  # its threads push blocks into the lander until they are joined
        if self._ptr is not NULL:
            with nogil:
                self._ptr.ops.free(self._ptr)
            self._ptr = NULL

    cdef fdl_lander *open_ptr(self) except NULL:
        """It ends with its job: read its results before."""
        if self._ptr is NULL:
            raise ValueError("the lander is closed")
        return self._ptr
