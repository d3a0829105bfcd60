# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fastdl.core.c.hash cimport FDL_HASH_COUNT, FDL_HASH_MAX, fdl_hash_alg
from fastdl.core.c.land cimport fdl_lander
from fastdl.core.c.mirror cimport fdl_mirror
from fastdl.core.c.net cimport fdl_net
from fastdl.core.c.pace cimport fdl_pace
from fastdl.core.c.pieces cimport fdl_piece_digests
from fastdl.core.c.sink cimport fdl_sink
from fastdl.core.c.stream cimport fdl_stream


cdef extern from "job/config.h" nogil:
    struct fdl_known:
        uint64_t off
        size_t len
        const unsigned char *data
        int mirror
    struct fdl_local:
        uint64_t off
        uint64_t xxh3
    struct fdl_job_config:
        fdl_net *net
        fdl_mirror **mirrors
        size_t n_mirrors
        fdl_sink *sink
        fdl_lander *lander
        bint keeps
        uint64_t total
        size_t block
        size_t window
        int max_conns
        int first_conns
        fdl_pace *pace
        int retry
        uint64_t retry_ns
        uint64_t delay_ns
        bint provable
        bint any_version
        bint record
        bint log_requests
        bint detect_zeros
        size_t hold
        fdl_hash_alg algs[6]
        size_t n_algs
        fdl_piece_digests pieces
        uint64_t list_pieces
        const fdl_known *known
        size_t n_known
        const fdl_local *local
        size_t n_local
        int local_fd
        const uint64_t *skip
        size_t n_skip
        fdl_stream *first
    struct fdl_job_result:
        uint64_t total
        size_t n_digests
        fdl_hash_alg algs[6]
        unsigned char digests[6][64]
