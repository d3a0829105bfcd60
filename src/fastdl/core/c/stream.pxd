# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fastdl.core.c.addr cimport fdl_addr_class
from fastdl.core.c.conn cimport fdl_conn_times
from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.http cimport fdl_http_head
from fastdl.core.c.mirror cimport fdl_mirror
from fastdl.core.c.net cimport fdl_net
from fastdl.core.c.wakeup cimport fdl_wakeup


cdef extern from "source/stream.h" nogil:
    struct fdl_stream_ops:
        int (*begin)(fdl_stream *self, uint64_t off, uint64_t len, fdl_err *err) noexcept nogil
        long (*read)(fdl_stream *self, void *buf, size_t len, fdl_err *err) noexcept nogil
        void (*rebind)(fdl_stream *self, fdl_wakeup *wakeup, fdl_conn_times *times) noexcept nogil
        void (*free)(fdl_stream *self) noexcept nogil
    struct fdl_stream:
        const fdl_stream_ops *ops
        fdl_mirror *mirror
        uint64_t off
        uint64_t end
        bint whole
        fdl_addr_class peer
    fdl_stream *fdl_stream_new(fdl_mirror *mirror, fdl_net *net, fdl_wakeup *wakeup,
                               fdl_conn_times *times)
    const fdl_http_head *fdl_stream_http_head(const fdl_stream *stream)
    struct fdl_redirect:
        char *url
        char *fields
        fdl_addr_class peer
    void fdl_stream_http_keep_redirects(fdl_stream *stream)
    size_t fdl_stream_http_redirects(const fdl_stream *stream, const fdl_redirect **list)
