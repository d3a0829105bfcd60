# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fastdl.core.c.hash cimport fdl_hash_alg


cdef extern from "job/pieces.h" nogil:
    struct fdl_piece_digests:
        fdl_hash_alg alg
        uint64_t length
        uint64_t count
        const unsigned char *digests
