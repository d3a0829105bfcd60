# SPDX-License-Identifier: Apache-2.0
from fastdl.core.c.err cimport fdl_err


cdef extern from "base/hash.h" nogil:
    enum: FDL_HASH_MAX
    enum: FDL_HASH_COUNT
    enum fdl_hash_alg:
        FDL_HASH_MD5
    struct fdl_hash
    const char *fdl_hash_name(fdl_hash_alg alg)
    int fdl_hash_alg_from_name(const char *name)
    size_t fdl_hash_len(fdl_hash_alg alg)
    int fdl_hash_new(fdl_hash **out, fdl_hash_alg alg, fdl_err *err)
    void fdl_hash_final(fdl_hash *h, unsigned char *out)
    void fdl_hash_free(fdl_hash *h)
    enum fdl_sha256_why:
        FDL_SHA256_OURS
        FDL_SHA256_NO_KERNEL
        FDL_SHA256_FIPS
        FDL_SHA256_ASKED
        FDL_SHA256_DIFFERS
        FDL_SHA256_UNKNOWN
    struct fdl_sha256_kernel:
        const char *name
        unsigned lanes
    const fdl_sha256_kernel *fdl_hash_kernel(const char *wanted, fdl_sha256_why *why)
