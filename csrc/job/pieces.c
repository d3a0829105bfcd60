/* SPDX-License-Identifier: Apache-2.0 */
#include "job/pieces.h"

#include <stdlib.h>
#include <string.h>

#define NO_PIECE UINT64_MAX

static uint64_t count_of(uint64_t total, uint64_t length)
{
    return total / length + (total % length != 0);
}

int fdl_pieces_init(struct fdl_pieces *out, const struct fdl_piece_digests *digests,
                    uint64_t total, size_t block, uint32_t window, struct fdl_err *err)
{
    uint64_t len = digests->length;

    *out = (struct fdl_pieces){.digests = *digests, .total = total};
    if (digests->count == 0)
        return FDL_OK;
    if (len == 0 || total == UINT64_MAX || digests->count != count_of(total, len))
        return fdl_fail(err, FDL_E_SIZE, FDL_NO_OFFSET,
                        "the pieces do not cover the source exactly");
    int rc = fdl_hash_new(&out->like, digests->alg, err);
    if (rc < 0)
        return rc;
    bool fit = len / block <= window / 4 || count_of(total, block) <= window;
    if (block % len == 0) {
        out->mode = FDL_PIECES_IN_BLOCK;
    } else if (len % block == 0 && fit) {
        out->mode = FDL_PIECES_OF_BLOCKS;
        out->blocks = len / block;
        out->n_cache = window / out->blocks + 2;
        out->cache = calloc(out->n_cache, sizeof *out->cache);
        if (!out->cache) {
            out->n_cache = 0;
            return fdl_nomem(err, "the pieces");
        }
        for (size_t i = 0; i < out->n_cache; i++)
            out->cache[i].index = NO_PIECE;
    } else {
        out->mode = FDL_PIECES_IN_ORDER;
    }
    return FDL_OK;
}

void fdl_pieces_destroy(struct fdl_pieces *pieces)
{
    for (size_t i = 0; i < pieces->n_cache; i++)
        fdl_hash_free(pieces->cache[i].hash);
    fdl_hash_free(pieces->like);
    free(pieces->cache);
    pieces->like = NULL;
    pieces->cache = NULL;
    pieces->n_cache = 0;
}

bool fdl_pieces_match(const struct fdl_pieces *pieces, uint64_t index,
                      const unsigned char *digest)
{
    size_t n = fdl_hash_len(pieces->digests.alg);

    return index < pieces->digests.count &&
           memcmp(digest, pieces->digests.digests + index * n, n) == 0;
}

static int mismatch(const struct fdl_pieces *pieces, uint64_t index,
                    struct fdl_err *err)
{
    return fdl_fail(err, FDL_E_INTEGRITY, index * pieces->digests.length,
                    "a piece does not match its digest");
}

/* Pieces of one length, to be hashed together. */
struct batch {
    const unsigned char *data[FDL_SHA256_LANES_MAX];
    uint64_t index[FDL_SHA256_LANES_MAX];
    bool *right[FDL_SHA256_LANES_MAX]; /* of its block */
    size_t len, n;
};

static int check_batch(const struct fdl_pieces *pieces, struct fdl_hash *hash,
                       struct batch *batch, struct fdl_err *err)
{
    unsigned char got[FDL_SHA256_LANES_MAX * FDL_HASH_MAX];
    size_t each = fdl_hash_len(pieces->digests.alg);
    int rc = FDL_OK;

    fdl_hash_many(hash, batch->data, batch->len, batch->n, got);
    for (size_t i = 0; i < batch->n; i++) {
        if (fdl_pieces_match(pieces, batch->index[i], got + i * each))
            continue;
        *batch->right[i] = false;
        if (rc == FDL_OK)
            rc = mismatch(pieces, batch->index[i], err);
    }
    batch->n = 0;
    return rc;
}

int fdl_pieces_check_blocks(const struct fdl_pieces *pieces,
                            const struct fdl_buf *const bufs[], size_t n, bool right[],
                            struct fdl_err *err)
{
    struct fdl_hash *hash = fdl_hash_like(pieces->like);
    uint64_t len = pieces->digests.length;
    struct batch batch = {.n = 0};
    struct fdl_err later;
    int rc = FDL_OK;

    if (!hash)
        return fdl_nomem(err, "a digest");
    for (size_t i = 0; i < n; i++) {
        const struct fdl_buf *buf = bufs[i];
        right[i] = true;
        for (size_t at = 0, piece; at < buf->len; at += piece) {
            piece = buf->len - at < len ? buf->len - at : (size_t)len;
            if (batch.n == FDL_SHA256_LANES_MAX || piece != batch.len) {
                int bad =
                    check_batch(pieces, hash, &batch, rc == FDL_OK ? err : &later);
                rc = rc == FDL_OK ? bad : rc;
            }
            batch.len = piece;
            batch.data[batch.n] = buf->data + at;
            batch.index[batch.n] = (buf->off + at) / len;
            batch.right[batch.n++] = &right[i];
        }
    }
    int bad = check_batch(pieces, hash, &batch, rc == FDL_OK ? err : &later);
    fdl_hash_free(hash);
    return rc == FDL_OK ? bad : rc;
}

int fdl_pieces_check_block(const struct fdl_pieces *pieces, const struct fdl_buf *buf,
                           struct fdl_err *err)
{
    bool right;

    return fdl_pieces_check_blocks(pieces, &buf, 1, &right, err);
}

int fdl_pieces_check_beside(const struct fdl_pieces *pieces, const struct fdl_buf *buf,
                            struct fdl_hash *chain, const struct fdl_buf *other,
                            struct fdl_err *err)
{
    unsigned char got[FDL_HASH_MAX];
    struct fdl_hash *hash = fdl_hash_like(pieces->like);
    uint64_t len = pieces->digests.length, index = buf->off / len;
    size_t at = 0, both;
    int rc = hash ? FDL_OK : fdl_nomem(err, "a digest");

    for (; rc == FDL_OK && at < buf->len; at += both, index++) {
        both = buf->len - at < len ? buf->len - at : (size_t)len;
        size_t n = at > other->len ? 0 : other->len - at;
        if (n > both)
            n = both;
        fdl_hash_update_two(hash, buf->data + at, chain, other->data + at, n);
        fdl_hash_update(hash, buf->data + at + n, both - n);
        fdl_hash_final(hash, got);
        if (!fdl_pieces_match(pieces, index, got))
            rc = mismatch(pieces, index, err);
    }
    if (at < other->len)
        fdl_hash_update(chain, other->data + at, other->len - at);
    fdl_hash_free(hash);
    return rc;
}

int fdl_pieces_of(struct fdl_pieces *pieces, uint64_t block, struct fdl_piece **out,
                  struct fdl_err *err)
{
    uint64_t index = block / pieces->blocks;
    struct fdl_piece *p = &pieces->cache[index % pieces->n_cache];

    if (p->index != index) {
        unsigned char rest[FDL_HASH_MAX];
        if (p->hash)
            fdl_hash_final(p->hash, rest); /* starts over */
        else if (!(p->hash = fdl_hash_like(pieces->like)))
            return fdl_nomem(err, "a digest");
        p->index = index;
        p->next = index * pieces->blocks;
        p->busy = false;
        p->failures = 0;
    }
    *out = p;
    return FDL_OK;
}

int fdl_pieces_feed(const struct fdl_pieces *pieces, struct fdl_hash *hash,
                    const struct fdl_buf *buf, struct fdl_err *err)
{
    uint64_t len = pieces->digests.length, at = buf->off, end = buf->off + buf->len;
    unsigned char got[FDL_HASH_MAX];

    while (at < end) {
        uint64_t index = at / len, stop = (index + 1) * len;
        if (stop > pieces->total)
            stop = pieces->total;
        uint64_t n = (stop < end ? stop : end) - at;
        fdl_hash_update(hash, buf->data + (at - buf->off), (size_t)n);
        at += n;
        if (at < stop)
            continue;
        fdl_hash_final(hash, got);
        if (!fdl_pieces_match(pieces, index, got))
            return mismatch(pieces, index, err);
    }
    return FDL_OK;
}
