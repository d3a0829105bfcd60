# SPDX-License-Identifier: Apache-2.0
"""Owner of one ``fdl_nbd``: the connections to an export."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.nbd cimport (
    fdl_nbd, fdl_nbd_close, fdl_nbd_conns, fdl_nbd_drop, fdl_nbd_fd, fdl_nbd_flush, fdl_nbd_hurry,
    fdl_nbd_min_block, fdl_nbd_open, fdl_nbd_pread, fdl_nbd_read_only, fdl_nbd_size, fdl_nbd_zero,
)
from fastdl.core.c.sink cimport FDL_SIZE_UNKNOWN, fdl_sink_open_nbd
from fastdl.core.error cimport check
from fastdl.core.sink cimport Sink


cdef class Export:
    def __init__(self, str uri, *, int max_connections, double limit):
        cdef fdl_err err
        cdef bytes text = uri.encode("utf-8", "surrogateescape")
        cdef const char *p = text
        cdef int limit_ms = max(1, <int> (limit * 1000))
        cdef int rc
        if self._ptr is not NULL:
            raise ValueError("opened twice")
        with nogil:
            rc = fdl_nbd_open(&self._ptr, p, max_connections, limit_ms, &err)
        check(rc, &err)

    def __dealloc__(self):
        fdl_nbd_close(self._ptr)
        self._ptr = NULL

    cdef fdl_nbd *open_ptr(self) except NULL:
        if self._ptr is NULL:
            raise ValueError("the export is closed")
        return self._ptr

    def sink(self, *, size, size_t hold):
        cdef fdl_err err
        cdef uint64_t n = FDL_SIZE_UNKNOWN if size is None else size
        cdef Sink made = Sink.__new__(Sink)
        made._keep = self
        check(fdl_sink_open_nbd(&made._ptr, self.open_ptr(), n, hold, &err), &err)
        return made

    @property
    def size(self): return fdl_nbd_size(self.open_ptr())

    @property
    def read_only(self): return bool(fdl_nbd_read_only(self.open_ptr()))

    @property
    def connections(self): return fdl_nbd_conns(self.open_ptr())

    @property
    def min_block(self): return fdl_nbd_min_block(self.open_ptr())

    def pread(self, size_t size, uint64_t offset):
        cdef fdl_err err
        cdef fdl_nbd *nbd = self.open_ptr()
        cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
        cdef char *p = PyBytes_AS_STRING(out)
        cdef int rc
        with nogil:
            rc = fdl_nbd_pread(nbd, p, size, offset, &err)
        check(rc, &err)
        return out

    def zero(self, uint64_t offset, uint64_t length):
        cdef fdl_err err
        cdef fdl_nbd *nbd = self.open_ptr()
        cdef uint64_t commanded
        cdef int rc
        with nogil:
            rc = fdl_nbd_zero(nbd, offset, length, &commanded, &err)
        check(rc, &err)

    def flush(self):
        cdef fdl_err err
        cdef fdl_nbd *nbd = self.open_ptr()
        cdef int rc
        with nogil:
            rc = fdl_nbd_flush(nbd, &err)
        check(rc, &err)

    def hurry(self):
        # With the GIL held, so that close() in another thread comes before or after.
        if self._ptr is not NULL:
            fdl_nbd_hurry(self._ptr)

    def descriptors(self):
        cdef fdl_nbd *nbd = self.open_ptr()
        cdef int i
        return tuple([fd for fd in [fdl_nbd_fd(nbd, i) for i in range(fdl_nbd_conns(nbd))]
                      if fd >= 0])

    def drop(self):
        cdef fdl_nbd *nbd = self._ptr
        self._ptr = NULL
        fdl_nbd_drop(nbd)

    def close(self):
        cdef fdl_nbd *nbd = self._ptr
        self._ptr = NULL
        with nogil:
            fdl_nbd_close(nbd)
