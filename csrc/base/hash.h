/* SPDX-License-Identifier: Apache-2.0 */
/* base/hash.h - VERIFY: streaming digests over OpenSSL's EVP. One thread per object. */
#ifndef FDL_HASH_H
#define FDL_HASH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

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

/* -1 for a name that is not in the list above ("sha-256", …). */
int fdl_hash_alg_from_name(const char *name);
const char *fdl_hash_name(enum fdl_hash_alg alg);
size_t fdl_hash_len(enum fdl_hash_alg alg);

/* Returns OWNED, or NULL where OpenSSL does not offer the algorithm. */
struct fdl_hash *fdl_hash_new(enum fdl_hash_alg alg);
void fdl_hash_update(struct fdl_hash *h, const void *buf, size_t len);
/* Writes fdl_hash_len() bytes and starts anew. */
void fdl_hash_final(struct fdl_hash *h, unsigned char *out);
void fdl_hash_free(struct fdl_hash *h);

#endif
