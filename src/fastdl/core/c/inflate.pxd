# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool

from fastdl.core.c.err cimport fdl_err


cdef extern from "decode/inflate.h" nogil:
    enum fdl_inflate_kind:
        FDL_INFLATE_NONE
    struct fdl_inflate
    struct fdl_inflate_limits:
        uint64_t max_output
        uint64_t ratio_after
        uint32_t max_ratio
        bool skip_zeros
    fdl_inflate_kind fdl_inflate_kind_of(const char *name)
    int fdl_inflate_open(fdl_inflate **out, fdl_inflate_kind kind,
                         const fdl_inflate_limits *limits, fdl_err *err)
    int fdl_inflate_feed(fdl_inflate *self, const void *input, size_t len, void *out, size_t cap,
                         size_t *consumed, size_t *produced, fdl_err *err)
    int fdl_inflate_finish(fdl_inflate *self, fdl_err *err)
    uint64_t fdl_inflate_trailing(const fdl_inflate *self)
    void fdl_inflate_free(fdl_inflate *self)
