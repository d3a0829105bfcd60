/* SPDX-License-Identifier: Apache-2.0 */
#include "base/hash.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All lanes cost the same whether they are filled or not: one of a wide kernel has
 * a third of the speed of OpenSSL without instructions for SHA-256. */
#define WORTH_WIDE 3

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
    EVP_MD_CTX *ctx; /* OWNED; NULL where `own` does the work */
    EVP_MD *md;      /* OWNED */
    enum fdl_hash_alg alg;
    const struct fdl_sha256_kernel *kernel; /* NULL: all by OpenSSL */
    struct fdl_sha256 own;                  /* where the kernel carries one chain */
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

static bool ours(const struct fdl_hash *h)
{
    return h->kernel && h->kernel->one;
}

/* Why OpenSSL gave nothing. */
static int unavailable(enum fdl_hash_alg alg, struct fdl_err *err)
{
    char what[FDL_ERR_WHAT_MAX];
    bool memory = ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE;

    ERR_clear_error();
    if (memory)
        return fdl_nomem(err, "a digest");
    snprintf(what, sizeof what,
             "OpenSSL does not offer the digest %s here (see openssl.cnf)",
             algs[alg].name);
    return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET, what);
}

int fdl_hash_new(struct fdl_hash **out, enum fdl_hash_alg alg, struct fdl_err *err)
{
    struct fdl_hash h = {.alg = alg};
    enum fdl_sha256_why why;

    *out = NULL;
    if (alg == FDL_HASH_SHA256) {
        h.kernel = fdl_hash_kernel(getenv("FASTDL_SHA256"), &why);
        if (why == FDL_SHA256_UNKNOWN)
            return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET,
                            "FASTDL_SHA256 names a kernel that is not usable here");
    }
    h.md = EVP_MD_fetch(NULL, algs[alg].evp, NULL);
    if (!h.md)
        return unavailable(alg, err);
    *out = fdl_hash_like(&h);
    EVP_MD_free(h.md);
    return *out ? FDL_OK : fdl_nomem(err, "a digest");
}

struct fdl_hash *fdl_hash_like(const struct fdl_hash *like)
{
    struct fdl_hash *h = calloc(1, sizeof *h);

    if (!h)
        return NULL;
    h->alg = like->alg;
    h->kernel = like->kernel;
    if (EVP_MD_up_ref(like->md) == 1)
        h->md = like->md;
    if (ours(h)) {
        fdl_sha256_init(&h->own, h->kernel);
        return h;
    }
    h->ctx = EVP_MD_CTX_new();
    if (!h->md || !h->ctx || EVP_DigestInit_ex(h->ctx, h->md, NULL) != 1) {
        fdl_hash_free(h);
        return NULL;
    }
    return h;
}

void fdl_hash_copy(struct fdl_hash *to, const struct fdl_hash *from)
{
    if (ours(from))
        to->own = from->own;
    else
        EVP_MD_CTX_copy_ex(to->ctx, from->ctx);
}

void fdl_hash_update(struct fdl_hash *h, const void *buf, size_t len)
{
    if (ours(h))
        fdl_sha256_update(&h->own, buf, len);
    else
        EVP_DigestUpdate(h->ctx, buf, len);
}

bool fdl_hash_pairs(const struct fdl_hash *a, const struct fdl_hash *b)
{
    return ours(a) && a->kernel == b->kernel && a->kernel->lanes == 2;
}

void fdl_hash_update_two(struct fdl_hash *a, const void *buf_a, struct fdl_hash *b,
                         const void *buf_b, size_t len)
{
    if (fdl_hash_pairs(a, b)) {
        fdl_sha256_update_two(&a->own, buf_a, &b->own, buf_b, len);
        return;
    }
    fdl_hash_update(a, buf_a, len);
    fdl_hash_update(b, buf_b, len);
}

size_t fdl_hash_lanes(const struct fdl_hash *h)
{
    return h->kernel ? h->kernel->lanes : 1;
}

void fdl_hash_many(struct fdl_hash *h, const unsigned char *const data[], size_t len,
                   size_t n, unsigned char *out)
{
    size_t each = algs[h->alg].len;

    while (n > 0) {
        size_t take = h->kernel && n > h->kernel->lanes ? h->kernel->lanes : n;
        if (h->kernel && take >= (ours(h) ? 2 : WORTH_WIDE)) {
            fdl_sha256_many(h->kernel, data, len, take, out);
        } else {
            take = 1;
            fdl_hash_update(h, data[0], len);
            fdl_hash_final(h, out);
        }
        data += take;
        out += take * each;
        n -= take;
    }
}

void fdl_hash_final(struct fdl_hash *h, unsigned char *out)
{
    if (ours(h)) {
        fdl_sha256_final(&h->own, out);
        return;
    }
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
