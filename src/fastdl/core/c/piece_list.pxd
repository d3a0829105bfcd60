# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.hash cimport fdl_hash, fdl_hash_alg


cdef extern from "base/piece_list.h" nogil:
    struct fdl_piece_list
    int fdl_piece_list_new(fdl_piece_list **out, fdl_hash_alg alg, uint64_t piece, fdl_err *err)
    int fdl_piece_list_feed(fdl_piece_list *list, fdl_hash *whole, const void *buf, size_t len,
                            fdl_err *err)
    int fdl_piece_list_end(fdl_piece_list *list, const unsigned char **digests, size_t *n,
                           fdl_err *err)
    void fdl_piece_list_free(fdl_piece_list *list)
