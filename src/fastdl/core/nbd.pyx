# SPDX-License-Identifier: Apache-2.0
"""Owner of one ``fdl_nbd``: the connections to an export."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t

from fastdl.core cimport cfdl
from fastdl.core.error cimport check
from fastdl.core.sink cimport Sink


cdef class Export:
    def __init__(self, str uri, *, int max_connections, double limit):
        cdef cfdl.fdl_err err
        cdef bytes text = uri.encode("utf-8", "surrogateescape")
        cdef const char *p = text
        cdef int limit_ms = max(1, <int> (limit * 1000))
        cdef int rc
        if self._ptr is not NULL:
            raise ValueError("opened twice")
        with nogil:
            rc = cfdl.fdl_nbd_open(&self._ptr, p, max_connections, limit_ms, &err)
        check(rc, &err)

    def __dealloc__(self):
        cfdl.fdl_nbd_close(self._ptr)
        self._ptr = NULL

    cdef cfdl.fdl_nbd *open_ptr(self) except NULL:
        if self._ptr is NULL:
            raise ValueError("the export is closed")
        return self._ptr

    def sink(self, *, size, size_t hold):
        cdef cfdl.fdl_err err
        cdef uint64_t n = cfdl.FDL_SIZE_UNKNOWN if size is None else size
        cdef Sink made = Sink.__new__(Sink)
        made._keep = self
        check(cfdl.fdl_sink_open_nbd(&made._ptr, self.open_ptr(), n, hold, &err), &err)
        return made

    @property
    def size(self): return cfdl.fdl_nbd_size(self.open_ptr())

    @property
    def read_only(self): return bool(cfdl.fdl_nbd_read_only(self.open_ptr()))

    @property
    def connections(self): return cfdl.fdl_nbd_conns(self.open_ptr())

    @property
    def min_block(self): return cfdl.fdl_nbd_min_block(self.open_ptr())

    def pread(self, size_t size, uint64_t offset):
        cdef cfdl.fdl_err err
        cdef cfdl.fdl_nbd *nbd = self.open_ptr()
        cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
        cdef char *p = PyBytes_AS_STRING(out)
        cdef int rc
        with nogil:
            rc = cfdl.fdl_nbd_pread(nbd, p, size, offset, &err)
        check(rc, &err)
        return out

    def zero(self, uint64_t offset, uint64_t length):
        cdef cfdl.fdl_err err
        cdef cfdl.fdl_nbd *nbd = self.open_ptr()
        cdef uint64_t commanded
        cdef int rc
        with nogil:
            rc = cfdl.fdl_nbd_zero(nbd, offset, length, &commanded, &err)
        check(rc, &err)

    def flush(self):
        cdef cfdl.fdl_err err
        cdef cfdl.fdl_nbd *nbd = self.open_ptr()
        cdef int rc
        with nogil:
            rc = cfdl.fdl_nbd_flush(nbd, &err)
        check(rc, &err)

    def hurry(self):
        # With the GIL held, so that close() in another thread comes before or after.
        if self._ptr is not NULL:
            cfdl.fdl_nbd_hurry(self._ptr)

    def descriptors(self):
        cdef cfdl.fdl_nbd *nbd = self.open_ptr()
        cdef int i
        return tuple([fd for fd in [cfdl.fdl_nbd_fd(nbd, i) for i in range(cfdl.fdl_nbd_conns(nbd))]
                      if fd >= 0])

    def drop(self):
        cdef cfdl.fdl_nbd *nbd = self._ptr
        self._ptr = NULL
        cfdl.fdl_nbd_drop(nbd)

    def close(self):
        cdef cfdl.fdl_nbd *nbd = self._ptr
        self._ptr = NULL
        with nogil:
            cfdl.fdl_nbd_close(nbd)
