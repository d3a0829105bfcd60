# SPDX-License-Identifier: Apache-2.0
"""Owner of one chain of a whole stream and of the list of its pieces."""
from libc.stdint cimport uint64_t

from fastdl.core.c.err cimport fdl_err
from fastdl.core.c.hash cimport (
    FDL_HASH_MAX, fdl_hash, fdl_hash_alg, fdl_hash_alg_from_name, fdl_hash_final, fdl_hash_free,
    fdl_hash_len, fdl_hash_new,
)
from fastdl.core.c.piece_list cimport (
    fdl_piece_list, fdl_piece_list_end, fdl_piece_list_feed, fdl_piece_list_free,
    fdl_piece_list_new,
)
from fastdl.core.error cimport check


cdef class Digests:
    cdef fdl_hash *_whole
    cdef fdl_piece_list *_list
    cdef size_t _len

    def __cinit__(self, str algorithm, uint64_t piece_length):
        cdef fdl_err err
        cdef int found = fdl_hash_alg_from_name(algorithm.encode("ascii", "replace"))
        if found < 0 or piece_length == 0:
            raise ValueError(f"{algorithm} is no digest that is known, or a piece has no bytes")
        cdef fdl_hash_alg alg = <fdl_hash_alg> found
        self._len = fdl_hash_len(alg)
        check(fdl_hash_new(&self._whole, alg, &err), &err)
        check(fdl_piece_list_new(&self._list, alg, piece_length, &err), &err)

    def update(self, const unsigned char[::1] data not None):
        cdef fdl_err err
        cdef int rc = 0
        cdef size_t n = data.shape[0]
        if n > 0:
            with nogil:
                rc = fdl_piece_list_feed(self._list, self._whole, &data[0], n, &err)
        check(rc, &err)

    def finish(self):
        cdef fdl_err err
        cdef unsigned char whole[FDL_HASH_MAX]
        cdef const unsigned char *digests
        cdef size_t n
        check(fdl_piece_list_end(self._list, &digests, &n, &err), &err)
        fdl_hash_final(self._whole, whole)
        return (<bytes> whole[:self._len]), (<bytes> digests[:n * self._len] if n else b"")

    def __dealloc__(self):
        fdl_hash_free(self._whole)
        fdl_piece_list_free(self._list)
