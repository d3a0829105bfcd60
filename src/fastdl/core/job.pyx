# SPDX-License-Identifier: Apache-2.0
"""Owner of one ``fdl_job``: start, poll, cancel, join."""
cimport cython
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from fastdl.core.c.config cimport fdl_job_config, fdl_job_result, fdl_known, fdl_local
from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.hash cimport (
    FDL_HASH_COUNT, FDL_SHA256_ASKED, FDL_SHA256_DIFFERS, FDL_SHA256_FIPS,
    FDL_SHA256_NO_KERNEL, FDL_SHA256_OURS, FDL_SHA256_UNKNOWN, fdl_hash_alg,
    fdl_hash_alg_from_name, fdl_hash_kernel, fdl_hash_len, fdl_hash_name,
    fdl_sha256_kernel, fdl_sha256_why,
)
from fastdl.core.c.job cimport (
    fdl_job, fdl_job_block_for, fdl_job_cancel, fdl_job_drain, fdl_job_finish,
    fdl_job_forget_lander, fdl_job_free, fdl_job_keep, fdl_job_settle, fdl_job_start,
    fdl_job_status, fdl_job_piece_list, fdl_job_requests, fdl_job_status_s, fdl_job_wait,
)
from fastdl.core.c.landed cimport fdl_range
from fastdl.core.c.mirror cimport fdl_mirror
from fastdl.core.c.pace cimport fdl_pace
from fastdl.core.c.request_log cimport FDL_REQUEST_LEFT, fdl_request_note
from fastdl.core.c.sink cimport FDL_SIZE_UNKNOWN, fdl_sink
from fastdl.core.error cimport check, exception_from
from fastdl.core.land cimport Lander
from fastdl.core.net cimport Mirror, Net, Stream
from fastdl.core.sink cimport Sink

from _weakref import ref


def block_for(piece_length, size_t wanted):
    """The largest block size up to *wanted* that fits a piece length."""
    return fdl_job_block_for(0 if piece_length is None else piece_length, wanted)


_WHY = {
    FDL_SHA256_OURS: "ours",
    FDL_SHA256_NO_KERNEL: "no kernel",
    FDL_SHA256_FIPS: "fips",
    FDL_SHA256_ASKED: "asked",
    FDL_SHA256_DIFFERS: "differs",
    FDL_SHA256_UNKNOWN: "unknown",
}


def sha256_by(str wanted=""):
    """(name of the SHA-256 implementation on this machine, why)."""
    cdef fdl_sha256_why why
    cdef bytes text = wanted.encode("utf-8", "surrogateescape")
    cdef const fdl_sha256_kernel *kernel = fdl_hash_kernel(text, &why)
    return "openssl" if kernel is NULL else kernel.name.decode("ascii"), _WHY[why]


def sha256_lanes(str wanted=""):
    """How many SHA-256 digests that one makes at a time."""
    cdef fdl_sha256_why why
    cdef bytes text = wanted.encode("utf-8", "surrogateescape")
    cdef const fdl_sha256_kernel *kernel = fdl_hash_kernel(text, &why)
    return 1 if kernel is NULL else kernel.lanes


cdef int algorithm(str name, fdl_hash_alg *out) except -1:
    cdef bytes text = name.encode("ascii", "replace")
    cdef int found = fdl_hash_alg_from_name(text)
    if found < 0:
        raise ValueError(f"{name} is no digest that is known")
    out[0] = <fdl_hash_alg> found
    return 0


cdef dict _note_dict(const fdl_request_note *note):
    return {
        "connection": note.conn,
        "mirror": note.mirror,
        "first": None if note.off == FDL_SIZE_UNKNOWN else note.off,
        "last": None if note.end == FDL_SIZE_UNKNOWN else note.end - 1,
        "fresh": note.fresh,
        "status": note.status,
        "seconds": note.took_ns / 1e9,
        "where": (<bytes> note.where).decode("ascii", "replace"),
        "error": exception_from(&note.err) if note.event == FDL_REQUEST_LEFT else None,
    }


cdef void *room_for(size_t n, size_t size) except NULL:
    cdef void *room = calloc(n + 1, size)
    if room is NULL:
        raise MemoryError
    return room


@cython.no_gc_clear
cdef class Pace:
    cdef fdl_pace _pace
    cdef Pace _parent

    def __cinit__(self, uint64_t rate, Pace parent=None):
        if rate == 0:
            raise ValueError("a rate of 0 moves nothing")
        self._parent = parent
        self._pace.rate = rate
        self._pace.parent = NULL if parent is None else &parent._pace


# Not cleared by the collector: its threads use what it owns until they have been joined.
@cython.no_gc_clear
cdef class Job:
    cdef object __weakref__
    cdef fdl_job *_ptr
    cdef fdl_mirror **_mirrors
    cdef fdl_known *_known
    cdef fdl_local *_local
    cdef uint64_t *_skip
    cdef object _config  # what the C job borrows
    cdef Lander _lander
    cdef Sink _spool  # what the C job borrows, too

    def __cinit__(self, config not None):
        cdef fdl_job_config c
        cdef fdl_err err
        cdef Net net = config.net
        cdef Sink sink = config.sink
        cdef Stream first = config.first
        cdef Pace pace = config.pace
        cdef size_t i
        cdef int rc
        self._config = config
        self._lander = config.lander
        c.net = net._ptr
        c.sink = sink.open_ptr()
        c.keeps = config.keeps
        c.lander = NULL if self._lander is None else self._lander.open_ptr()
        c.total = FDL_SIZE_UNKNOWN if config.total is None else config.total
        c.block = config.block
        c.window = config.window
        c.max_conns = config.max_connections
        c.first_conns = config.first_connections
        c.pace = NULL if pace is None else &pace._pace
        c.retry = config.retry
        c.retry_ns = int(config.retry_time * 1e9)
        c.delay_ns = int(config.retry_delay * 1e9)
        c.provable = config.provable
        c.record = config.record
        c.log_requests = config.log_requests
        c.detect_zeros = config.detect_zeros
        c.hold = config.hold
        c.local_fd = config.local_fd
        c.n_algs = len(config.algorithms)
        if c.n_algs > FDL_HASH_COUNT:
            raise ValueError("an algorithm is named twice")
        for i, name in enumerate(config.algorithms):
            algorithm(name, &c.algs[i])
        self._fill_pieces(&c)
        self._fill_lists(&c)
        c.first = NULL if first is None else first.take()
        with nogil:
            rc = fdl_job_start(&self._ptr, &c, &err)
        check(rc, &err)
        sink.writer = ref(self)
        if self._lander is not None:
            self._lander.user = ref(self)

    cdef int _fill_pieces(self, fdl_job_config *c) except -1:
        cdef bytes digests
        c.pieces.count = 0
        c.list_pieces = self._config.list_pieces
        if self._config.pieces is not None:
            name, length, digests = self._config.pieces
            algorithm(name, &c.pieces.alg)
            c.pieces.length = length
            c.pieces.digests = <const unsigned char *> digests
            c.pieces.count = len(digests) // fdl_hash_len(c.pieces.alg)
        return 0

    cdef int _fill_lists(self, fdl_job_config *c) except -1:
        cdef Mirror mirror
        cdef bytes data
        cdef size_t i
        config = self._config
        c.n_mirrors = len(config.mirrors)
        self._mirrors = c.mirrors = <fdl_mirror **> room_for(c.n_mirrors, sizeof(void *))
        for i, mirror in enumerate(config.mirrors):
            c.mirrors[i] = mirror._ptr
        c.n_known = len(config.known)
        c.known = self._known = <fdl_known *> room_for(c.n_known, sizeof(fdl_known))
        for i, (offset, data, index) in enumerate(config.known):
            self._known[i].off = offset
            self._known[i].len = len(data)
            self._known[i].data = <const unsigned char *> data
            self._known[i].mirror = index
        c.n_local = len(config.local)
        c.local = self._local = <fdl_local *> room_for(c.n_local, sizeof(fdl_local))
        for i, (offset, xxh3) in enumerate(config.local):
            self._local[i].off = offset
            self._local[i].xxh3 = xxh3
        c.n_skip = len(config.skip)
        c.skip = self._skip = <uint64_t *> room_for(c.n_skip, sizeof(uint64_t))
        for i, number in enumerate(config.skip):
            self._skip[i] = number
        return 0

    def __dealloc__(self):
        if self._ptr is not NULL:
            self.halt()
        with nogil:
            fdl_job_free(self._ptr)
        free(self._mirrors)
        free(self._known)
        free(self._local)
        free(self._skip)

    def wait(self, int timeout_ms, size_t records=0):
        cdef bint done
        with nogil:
            done = fdl_job_wait(self._ptr, timeout_ms, records)
        return done

    def status(self):
        """The counters as a dict; times in nanoseconds, summed over threads."""
        cdef fdl_job_status_s st
        fdl_job_status(self._ptr, &st)
        out = dict(st)
        if st.total == FDL_SIZE_UNKNOWN:
            out["total"] = None
        return out

    def keep(self, Sink spool):
        cdef fdl_sink *s = NULL if spool is None else spool.open_ptr()
        if spool is not None:
            spool.writer = ref(self)
        self._spool = spool
        with nogil:
            fdl_job_keep(self._ptr, s)

    def drain(self):
        """[(offset, length, xxh3)] of blocks written since the last call; not durable yet."""
        cdef fdl_range buf[256]
        cdef size_t n, i
        out = []
        while True:
            n = fdl_job_drain(self._ptr, buf, 256)
            for i in range(n):
                out.append((buf[i].off, buf[i].len, buf[i].xxh3))
            if n < 256:
                return out

    def requests(self):
        cdef fdl_request_note notes[16]
        cdef size_t n = 16, i, lost, all_lost = 0
        out = []
        while n == 16:
            n = fdl_job_requests(self._ptr, notes, 16, &lost)
            all_lost += lost
            for i in range(n):
                out.append(_note_dict(&notes[i]))
        return out, all_lost

    def settle(self, size_t n):
        with nogil:
            fdl_job_settle(self._ptr, n)

    def cancel(self):
        with nogil:
            fdl_job_cancel(self._ptr)

    def halt(self):
        cdef fdl_job_result result
        with nogil:
            fdl_job_cancel(self._ptr)
            fdl_job_finish(self._ptr, &result, NULL)
            fdl_job_forget_lander(self._ptr)
        # After a failure its threads may still hold blocks of the job and write to the sink.
        lander, self._lander = self._lander, None
        if lander is not None:
            lander.close()

    def finish(self):
        """(source size, {algorithm: digest bytes}); raises the job's error."""
        cdef fdl_job_result result
        cdef fdl_err err
        cdef int rc
        cdef size_t i
        with nogil:
            rc = fdl_job_finish(self._ptr, &result, &err)
        check(rc, &err)
        digests = {}
        for i in range(result.n_digests):
            n = fdl_hash_len(result.algs[i])
            name = fdl_hash_name(result.algs[i]).decode("ascii")
            digests[name] = (<bytes> result.digests[i][:n])
        return result.total, digests

    def piece_list(self):
        cdef size_t n
        cdef const unsigned char *listed = fdl_job_piece_list(self._ptr, &n)
        return <bytes> listed[:n * 32] if n else b""
