# SPDX-License-Identifier: Apache-2.0


cdef extern from "base/hash.h" nogil:
    enum: FDL_HASH_MAX
    enum: FDL_HASH_COUNT
    enum fdl_hash_alg:
        FDL_HASH_MD5
    const char *fdl_hash_name(fdl_hash_alg alg)
    int fdl_hash_alg_from_name(const char *name)
    size_t fdl_hash_len(fdl_hash_alg alg)
