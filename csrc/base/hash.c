/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    const char *evp;
    size_t len;
} algs[FDL_HASH_COUNT] = {
    [FDL_HASH_MD5] = {"md5", "MD5", 16},
    [FDL_HASH_SHA1] = {"sha-1", "SHA1", 20},
    [FDL_HASH_SHA224] = {"sha-224", "SHA2-224", 28},
    [FDL_HASH_SHA256] = {"sha-256", "SHA2-256", 32},
    [FDL_HASH_SHA384] = {"sha-384", "SHA2-384", 48},
    [FDL_HASH_SHA512] = {"sha-512", "SHA2-512", 64},
};

struct fdl_hash {
    EVP_MD_CTX *ctx; /* OWNED */
    EVP_MD *md;      /* OWNED */
};

int fdl_hash_alg_from_name(const char *name)
{
    for (int i = 0; i < FDL_HASH_COUNT; i++)
        if (strcmp(name, algs[i].name) == 0)
            return i;
    return -1;
}

const char *fdl_hash_name(enum fdl_hash_alg alg)
{
    return algs[alg].name;
}

size_t fdl_hash_len(enum fdl_hash_alg alg)
{
    return algs[alg].len;
}

struct fdl_hash *fdl_hash_new(enum fdl_hash_alg alg)
{
    struct fdl_hash *h = calloc(1, sizeof *h);

    if (!h)
        return NULL;
    h->md = EVP_MD_fetch(NULL, algs[alg].evp, NULL);
    h->ctx = EVP_MD_CTX_new();
    if (!h->md || !h->ctx || EVP_DigestInit_ex(h->ctx, h->md, NULL) != 1) {
        fdl_hash_free(h);
        return NULL;
    }
    return h;
}

void fdl_hash_update(struct fdl_hash *h, const void *buf, size_t len)
{
    EVP_DigestUpdate(h->ctx, buf, len);
}

void fdl_hash_final(struct fdl_hash *h, unsigned char *out)
{
    EVP_DigestFinal_ex(h->ctx, out, NULL);
    EVP_DigestInit_ex(h->ctx, h->md, NULL);
}

void fdl_hash_free(struct fdl_hash *h)
{
    if (!h)
        return;
    EVP_MD_CTX_free(h->ctx);
    EVP_MD_free(h->md);
    free(h);
}
