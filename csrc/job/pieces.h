/* SPDX-License-Identifier: Apache-2.0 */
/* job/pieces.h - does a piece of the source match its digest, however pieces and blocks
 * lie to one another? Hashing only; not locked. */
#ifndef FDL_PIECES_H
#define FDL_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/hash.h"

struct fdl_piece_digests {
    enum fdl_hash_alg alg;
    uint64_t length;              /* bytes of every piece but the last */
    uint64_t count;               /* = ceil(total / length); 0: no pieces are known */
    const unsigned char *digests; /* BORROWED: count * fdl_hash_len(alg) */
};

enum fdl_piece_mode {
    FDL_PIECES_NONE,
    FDL_PIECES_IN_BLOCK,  /* whole pieces fit in a block */
    FDL_PIECES_OF_BLOCKS, /* whole blocks make a piece, and several fit the window */
    FDL_PIECES_IN_ORDER,  /* neither: checked in file order, after the write */
};

/* A piece that is made of blocks. */
struct fdl_piece {
    uint64_t index; /* which piece this is at present, UINT64_MAX: none */
    uint64_t next;  /* block to hash next */
    bool busy;      /* a thread is hashing */
    int failures;
    struct fdl_hash *hash; /* OWNED */
};

struct fdl_pieces {
    struct fdl_piece_digests digests;
    enum fdl_piece_mode mode;
    struct fdl_hash *like;   /* OWNED: what the pieces' digests are made with */
    uint64_t total;          /* bytes of the source */
    uint64_t blocks;         /* of a piece, with OF_BLOCKS */
    struct fdl_piece *cache; /* OWNED: piece i is in [i % n_cache] */
    size_t n_cache;
};

/* Chooses the mode: *out is OWNED (fdl_pieces_destroy). total may be unknown only where
 * no pieces are known.
 *   window  blocks that are in work at a time
 * Errors: FDL_E_SIZE (the pieces do not cover the source exactly), FDL_E_INTERNAL
 * (there is no such digest), FDL_E_LIMIT. *out is to be destroyed in any case. */
int fdl_pieces_init(struct fdl_pieces *out, const struct fdl_piece_digests *digests,
                    uint64_t total, size_t block, uint32_t window, struct fdl_err *err);
void fdl_pieces_destroy(struct fdl_pieces *pieces);

/* Whether `digest` is that of piece `index`. */
bool fdl_pieces_match(const struct fdl_pieces *pieces, uint64_t index,
                      const unsigned char *digest);

/* IN_BLOCK: FDL_E_INTEGRITY where a piece in this block does not match; FDL_E_LIMIT, no
 * memory, says nothing about the pieces. */
int fdl_pieces_check_block(const struct fdl_pieces *pieces, const struct fdl_buf *buf,
                           struct fdl_err *err);

/* The same of n blocks, whose pieces are hashed together; right: which ones match. */
int fdl_pieces_check_blocks(const struct fdl_pieces *pieces,
                            const struct fdl_buf *const bufs[], size_t n, bool right[],
                            struct fdl_err *err);

/* The same, while `chain` takes in all of `other`: the two go side by side. */
int fdl_pieces_check_beside(const struct fdl_pieces *pieces, const struct fdl_buf *buf,
                            struct fdl_hash *chain, const struct fdl_buf *other,
                            struct fdl_err *err);

/* OF_BLOCKS: *out is the piece that `block` is part of, reset where it was another
 * before; BORROWED. FDL_E_LIMIT without memory. */
int fdl_pieces_of(struct fdl_pieces *pieces, uint64_t block, struct fdl_piece **out,
                  struct fdl_err *err);

/* IN_ORDER: hashes the next block of the source. FDL_E_INTEGRITY where a piece that
 * ends in it does not match. */
int fdl_pieces_feed(const struct fdl_pieces *pieces, struct fdl_hash *hash,
                    const struct fdl_buf *buf, struct fdl_err *err);

#endif
