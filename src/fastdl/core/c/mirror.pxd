# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fastdl.core.c.addr cimport fdl_addr_class, fdl_addr_via
from fastdl.core.c.err cimport fdl_err


cdef extern from "source/mirror.h" nogil:
    enum fdl_mirror_kind:
        FDL_MIRROR_HTTP
        FDL_MIRROR_FILE
        FDL_MIRROR_NFS
    enum fdl_ranges:
        FDL_RANGES_UNKNOWN
        FDL_RANGES_YES
        FDL_RANGES_NO
    enum fdl_mirror_state:
        FDL_MIRROR_READY
        FDL_MIRROR_DISQUALIFIED
        FDL_MIRROR_IDLE
    struct fdl_mirror:
        char *url
        int fd
        int priority
        int max_conns
        int cap
        fdl_addr_via via
        fdl_addr_class from_ "from"
        char *final_url
        uint64_t expected
        bint provable
        uint64_t expires_s
        bint any_version
        bint pinned
        char *etag
        char *last_modified
        uint64_t total
        fdl_ranges ranges
        uint64_t bytes
        uint64_t requests
        uint64_t errors
        fdl_mirror_state state
        fdl_err last_err
        int active
        int failures
        int lost_hedges
        uint64_t not_before_ns
        int refusals
        uint64_t more_after_ns
        double rate
    fdl_mirror *fdl_mirror_new(fdl_mirror_kind kind, const char *url, const char *headers)
    void fdl_mirror_free(fdl_mirror *mirror)
    bint fdl_mirror_can_join(fdl_mirror *mirror)
