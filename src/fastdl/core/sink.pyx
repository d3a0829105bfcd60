# SPDX-License-Identifier: Apache-2.0
"""Owner of one ``fdl_sink``; the descriptors stay the caller's."""
from libc.stdint cimport uint64_t

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.landed cimport fdl_range
from fastdl.core.c.sink cimport (
    FDL_SIZE_UNKNOWN, fdl_sink, fdl_sink_begin, fdl_sink_drain_log, fdl_sink_flush, fdl_sink_free,
    fdl_sink_get_stats, fdl_sink_held, fdl_sink_keep_log, fdl_sink_open_fd, fdl_sink_open_null,
    fdl_sink_pwrite, fdl_sink_release, fdl_sink_stats, fdl_sink_zero,
)
from fastdl.core.error cimport check


cdef class Sink:
    def __init__(self, int fd, int buffered_fd, *, size_t align, size, size_t hold, bint blank):
        cdef fdl_err err
        cdef uint64_t n = FDL_SIZE_UNKNOWN if size is None else size
        if self._ptr is not NULL:
            raise ValueError("opened twice")
        if fd < 0:
            check(fdl_sink_open_null(&self._ptr, &err), &err)
        else:
            check(fdl_sink_open_fd(&self._ptr, fd, buffered_fd, align, n, hold, blank,
                                   &err), &err)

    def __dealloc__(self):
        fdl_sink_free(self._ptr)
        self._ptr = NULL

    cdef fdl_sink *open_ptr(self) except NULL:
        if self._ptr is NULL:
            raise ValueError("the sink is closed")
        return self._ptr

    def begin(self):
        cdef fdl_err err
        cdef int rc
        cdef fdl_sink *s = self.open_ptr()
        with nogil:
            rc = fdl_sink_begin(s, &err)
        check(rc, &err)

    def pwrite(self, const unsigned char[::1] data not None, uint64_t offset):
        cdef fdl_err err
        cdef int rc
        cdef size_t n = <size_t> data.shape[0]
        cdef const unsigned char *p = &data[0] if n else NULL
        cdef fdl_sink *s = self.open_ptr()
        with nogil:
            rc = fdl_sink_pwrite(s, p, n, offset, &err)
        check(rc, &err)

    def zero(self, uint64_t offset, uint64_t length):
        cdef fdl_err err
        cdef int rc
        cdef fdl_sink *s = self.open_ptr()
        with nogil:
            rc = fdl_sink_zero(s, offset, length, &err)
        check(rc, &err)

    def flush(self):
        cdef fdl_err err
        cdef int rc
        cdef fdl_sink *s = self.open_ptr()
        with nogil:
            rc = fdl_sink_flush(s, &err)
        check(rc, &err)

    def release(self):
        cdef fdl_err err
        cdef int rc
        cdef fdl_sink *s = self.open_ptr()
        with nogil:
            rc = fdl_sink_release(s, &err)
        check(rc, &err)

    def held(self, uint64_t offset, size_t length):
        out = bytearray(length)
        cdef unsigned char[::1] view = out
        if length and fdl_sink_held(self.open_ptr(), &view[0], length, offset):
            return bytes(out)
        return None

    def keep_log(self):
        fdl_sink_keep_log(self.open_ptr())

    def drain_log(self):
        cdef fdl_range buf[256]
        cdef fdl_err err
        cdef long n, i
        out = []
        while True:
            n = fdl_sink_drain_log(self.open_ptr(), buf, 256, &err)
            check(n, &err)
            for i in range(n):
                out.append((buf[i].off, buf[i].len, None if buf[i].zero else buf[i].xxh3))
            if n < 256:
                return out

    def stats(self):
        cdef fdl_sink_stats st
        fdl_sink_get_stats(self.open_ptr(), &st)
        return st.written_bytes, st.zeroed_bytes, st.busy_ns

    def close(self):
        job = None if self.writer is None else self.writer()
        if job is not None:
            job.halt()
        fdl_sink_free(self._ptr)
        self._ptr = NULL
