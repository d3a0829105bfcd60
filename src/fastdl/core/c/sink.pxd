# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t
from libcpp cimport bool

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.landed cimport fdl_range
from fastdl.core.c.nbd cimport fdl_nbd


cdef extern from "sink/sink.h" nogil:
    const uint64_t FDL_SIZE_UNKNOWN
    struct fdl_sink:
        pass
    struct fdl_sink_stats:
        uint64_t written_bytes
        uint64_t zeroed_bytes
        uint64_t busy_ns
    int fdl_sink_open_fd(fdl_sink **out, int fd, int buffered_fd, size_t align, uint64_t size,
                         size_t hold, bool blank, fdl_err *err)
    int fdl_sink_open_nbd(fdl_sink **out, fdl_nbd *nbd, uint64_t size, size_t hold, fdl_err *err)
    int fdl_sink_open_null(fdl_sink **out, fdl_err *err)
    int fdl_sink_begin(fdl_sink *sink, fdl_err *err)
    int fdl_sink_pwrite(fdl_sink *sink, const void *buf, size_t len, uint64_t off, fdl_err *err)
    int fdl_sink_zero(fdl_sink *sink, uint64_t off, uint64_t len, fdl_err *err)
    int fdl_sink_flush(fdl_sink *sink, fdl_err *err)
    int fdl_sink_release(fdl_sink *sink, fdl_err *err)
    bool fdl_sink_held(fdl_sink *sink, void *buf, size_t len, uint64_t off)
    void fdl_sink_keep_log(fdl_sink *sink)
    long fdl_sink_drain_log(fdl_sink *sink, fdl_range *out, size_t cap, fdl_err *err)
    void fdl_sink_get_stats(const fdl_sink *sink, fdl_sink_stats *out)
    void fdl_sink_free(fdl_sink *sink)
