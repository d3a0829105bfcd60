# SPDX-License-Identifier: Apache-2.0
"""Owner of one ``fdl_job``: start, look, cancel, join."""
cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from fastdl.core cimport cfdl
from fastdl.core.error cimport check
from fastdl.core.net cimport Mirror, Net, Stream
from fastdl.core.sink cimport Sink

from _weakref import ref

NAMES = ("md5", "sha-1", "sha-224", "sha-256", "sha-384", "sha-512")


def block_for(piece_length, size_t wanted):
    """The largest block size up to *wanted* that fits a piece length."""
    return cfdl.fdl_job_block_for(0 if piece_length is None else piece_length, wanted)


# Not cleared by the collector: its threads use what it keeps until they have been joined.
@cython.no_gc_clear
cdef class Job:
    cdef object __weakref__
    cdef cfdl.fdl_job *_ptr
    cdef cfdl.fdl_mirror **_mirrors
    cdef cfdl.fdl_known *_known
    cdef cfdl.fdl_local *_local
    cdef uint64_t *_skip
    cdef object _keep  # what the C job borrows
    cdef object _lander

    def __cinit__(self, *, Net net not None, mirrors, Sink sink not None, total, size_t block,
                  size_t window, int max_connections, uint64_t limit_rate, int retry,
                  bint provable, bint record, bint detect_zeros, size_t hold, algorithms=(),
                  pieces=None, known=(), local=(), int local_fd=-1, skip=(), Stream first=None,
                  lander=None):
        cdef cfdl.fdl_job_config c
        cdef cfdl.fdl_err err
        cdef Mirror m
        cdef bytes data
        cdef size_t i
        cdef int rc
        if len(algorithms) > len(NAMES):
            raise ValueError("an algorithm is named twice")
        self._keep = [net, list(mirrors), sink, list(known), pieces, lander, first]
        self._mirrors = <cfdl.fdl_mirror **> calloc(len(mirrors) + 1, sizeof(void *))
        self._known = <cfdl.fdl_known *> calloc(len(known) + 1, sizeof(cfdl.fdl_known))
        self._local = <cfdl.fdl_local *> calloc(len(local) + 1, sizeof(cfdl.fdl_local))
        self._skip = <uint64_t *> calloc(len(skip) + 1, sizeof(uint64_t))
        if not self._mirrors or not self._known or not self._local or not self._skip:
            raise MemoryError
        for i, m in enumerate(mirrors):
            self._mirrors[i] = m._ptr
        for i, (offset, data, index) in enumerate(known):
            self._known[i].off = offset
            self._known[i].len = len(data)
            self._known[i].data = <const unsigned char *> data
            self._known[i].mirror = index
        for i, (offset, xxh3) in enumerate(local):
            self._local[i].off = offset
            self._local[i].xxh3 = xxh3
        for i, number in enumerate(skip):
            self._skip[i] = number
        c.net = net._ptr
        c.mirrors = self._mirrors
        c.n_mirrors = len(mirrors)
        c.sink = sink.open_ptr()
        c.lander = NULL
        self._lander = lander
        if lander is not None:
            c.lander = <cfdl.fdl_lander *> <size_t> lander.address()
        c.total = cfdl.FDL_SIZE_UNKNOWN if total is None else total
        c.block = block
        c.window = window
        c.max_conns = max_connections
        c.limit_rate = limit_rate
        c.retry = retry
        c.provable = provable
        c.record = record
        c.detect_zeros = detect_zeros
        c.hold = hold
        c.n_algs = len(algorithms)
        for i, name in enumerate(algorithms):
            c.algs[i] = <cfdl.fdl_hash_alg> (<int> NAMES.index(name))
        c.pieces.count = 0
        if pieces is not None:
            name, length, data = pieces
            c.pieces.alg = <cfdl.fdl_hash_alg> (<int> NAMES.index(name))
            c.pieces.length = length
            c.pieces.digests = <const unsigned char *> data
            c.pieces.count = len(data) // cfdl.fdl_hash_len(c.pieces.alg)
        c.known = self._known
        c.n_known = len(known)
        c.local = self._local
        c.n_local = len(local)
        c.local_fd = local_fd
        c.skip = self._skip
        c.n_skip = len(skip)
        c.first = NULL
        if first is not None:
            c.first = first.take()
        with nogil:
            rc = cfdl.fdl_job_start(&self._ptr, &c, &err)
        check(rc, &err)
        sink.writer = ref(self)

    def __dealloc__(self):
        if self._ptr is not NULL:
            self.halt()
        with nogil:
            cfdl.fdl_job_free(self._ptr)
        free(self._mirrors)
        free(self._known)
        free(self._local)
        free(self._skip)

    def wait(self, int timeout_ms, size_t records=0):
        cdef bint done
        with nogil:
            done = cfdl.fdl_job_wait(self._ptr, timeout_ms, records)
        return done

    def status(self):
        """The counters as a dict; times in nanoseconds, summed over threads."""
        cdef cfdl.fdl_job_status_s st
        cfdl.fdl_job_status(self._ptr, &st)
        out = dict(st)
        if st.total == cfdl.FDL_SIZE_UNKNOWN:
            out["total"] = None
        return out

    def drain(self):
        """[(offset, length, xxh3)] of blocks written since the last call; not durable yet."""
        cdef cfdl.fdl_range buf[256]
        cdef size_t n, i
        out = []
        while True:
            n = cfdl.fdl_job_drain(self._ptr, buf, 256)
            for i in range(n):
                out.append((buf[i].off, buf[i].len, buf[i].xxh3))
            if n < 256:
                return out

    def settle(self, size_t n):
        with nogil:
            cfdl.fdl_job_settle(self._ptr, n)

    def cancel(self):
        with nogil:
            cfdl.fdl_job_cancel(self._ptr)

    def halt(self):
        cdef cfdl.fdl_job_result result
        with nogil:
            cfdl.fdl_job_cancel(self._ptr)
            cfdl.fdl_job_finish(self._ptr, &result, NULL)
            cfdl.fdl_job_forget_lander(self._ptr)
        # After a failure its threads may still hold blocks of the job and write to the sink.
        if self._lander is not None:
            self._lander.close()
            self._lander = None

    def finish(self):
        """(source size, {algorithm: digest bytes}); raises the job's error."""
        cdef cfdl.fdl_job_result result
        cdef cfdl.fdl_err err
        cdef int rc
        cdef size_t i
        with nogil:
            rc = cfdl.fdl_job_finish(self._ptr, &result, &err)
        check(rc, &err)
        digests = {}
        for i in range(result.n_digests):
            n = cfdl.fdl_hash_len(result.algs[i])
            digests[NAMES[<int> result.algs[i]]] = (<bytes> result.digests[i][:n])
        return result.total, digests
