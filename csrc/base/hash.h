/* SPDX-License-Identifier: Apache-2.0 */
/* base/hash.h - VERIFY: streaming digests. One thread per object.
 *
 * OpenSSL's EVP makes them, but for SHA-256 on processors where several chains at a
 * time cost hardly more than one: there base/sha256.h does, after a comparison. */
#ifndef FDL_HASH_H
#define FDL_HASH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/sha256.h"

#define FDL_HASH_MAX 64 /* bytes of the longest digest */

/* The names of the IANA hash registry, which metalinks use too. */
enum fdl_hash_alg {
    FDL_HASH_MD5,
    FDL_HASH_SHA1,
    FDL_HASH_SHA224,
    FDL_HASH_SHA256,
    FDL_HASH_SHA384,
    FDL_HASH_SHA512,
    FDL_HASH_COUNT,
};

struct fdl_hash;

/* Why SHA-256 is made by OpenSSL, or is not. */
enum fdl_sha256_why {
    FDL_SHA256_OURS,
    FDL_SHA256_NO_KERNEL, /* none for this processor */
    FDL_SHA256_FIPS,      /* OpenSSL is in FIPS mode: only what it certifies counts */
    FDL_SHA256_ASKED,     /* the caller wanted "openssl" */
    FDL_SHA256_DIFFERS,   /* the kernel does not agree with OpenSSL: say so */
    FDL_SHA256_UNKNOWN,   /* the caller wanted one that is not usable here */
};

/* The kernel for SHA-256 on this machine, NULL: OpenSSL. wanted: the name of a kernel
 * or "openssl"; NULL or "" for the best. */
const struct fdl_sha256_kernel *fdl_hash_kernel(const char *wanted,
                                                enum fdl_sha256_why *why);

/* Whether the kernel says what OpenSSL says, in one comparison of a few bytes. */
bool fdl_hash_kernel_agrees(const struct fdl_sha256_kernel *kernel);

/* -1 for a name that is not in the list above ("sha-256", …). */
int fdl_hash_alg_from_name(const char *name);
const char *fdl_hash_name(enum fdl_hash_alg alg);
size_t fdl_hash_len(enum fdl_hash_alg alg);

/* *out is OWNED, NULL on failure. Errors: FDL_E_USAGE where OpenSSL, as it is
 * configured here, does not offer the algorithm, or the environment's FASTDL_SHA256
 * wants a kernel that is not usable here; FDL_E_LIMIT without memory. */
int fdl_hash_new(struct fdl_hash **out, enum fdl_hash_alg alg, struct fdl_err *err);

/* Another one like h, at its start: cheaper than a new one. OWNED, NULL without memory.
 * h may be in use by another thread. */
struct fdl_hash *fdl_hash_like(const struct fdl_hash *h);

/* to, which is another one like from, becomes what from is. */
void fdl_hash_copy(struct fdl_hash *to, const struct fdl_hash *from);

void fdl_hash_update(struct fdl_hash *h, const void *buf, size_t len);

/* Whether two of these are carried on at a time for less than the price of two. */
bool fdl_hash_pairs(const struct fdl_hash *a, const struct fdl_hash *b);

/* The next len bytes of a and of b: side by side where they pair, else one by one. */
void fdl_hash_update_two(struct fdl_hash *a, const void *buf_a, struct fdl_hash *b,
                         const void *buf_b, size_t len);

/* How many messages fdl_hash_many() needs to be as fast as it can be. */
size_t fdl_hash_lanes(const struct fdl_hash *h);

/* The digests of n messages of len bytes: as many at a time as the processor carries.
 * h is at its start, and is again then. out: n * fdl_hash_len() bytes. */
void fdl_hash_many(struct fdl_hash *h, const unsigned char *const data[], size_t len,
                   size_t n, unsigned char *out);

/* Writes fdl_hash_len() bytes and starts over. */
void fdl_hash_final(struct fdl_hash *h, unsigned char *out);
void fdl_hash_free(struct fdl_hash *h);

#endif
