# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fastdl.core.c.err cimport fdl_err


cdef extern from "sink/nbd.h" nogil:
    enum: FDL_NBD_CONNS_MAX
    struct fdl_nbd:
        pass
    int fdl_nbd_open(fdl_nbd **out, const char *uri, int max_conns, int limit_ms, fdl_err *err)
    uint64_t fdl_nbd_size(const fdl_nbd *nbd)
    bint fdl_nbd_read_only(const fdl_nbd *nbd)
    int fdl_nbd_conns(const fdl_nbd *nbd)
    size_t fdl_nbd_min_block(const fdl_nbd *nbd)
    int fdl_nbd_pread(fdl_nbd *nbd, void *buf, size_t len, uint64_t off, fdl_err *err)
    int fdl_nbd_zero(fdl_nbd *nbd, uint64_t off, uint64_t len, uint64_t *commanded, fdl_err *err)
    int fdl_nbd_flush(fdl_nbd *nbd, fdl_err *err)
    void fdl_nbd_hurry(fdl_nbd *nbd)
    int fdl_nbd_fd(fdl_nbd *nbd, int i)
    void fdl_nbd_close(fdl_nbd *nbd)
    void fdl_nbd_drop(fdl_nbd *nbd)
