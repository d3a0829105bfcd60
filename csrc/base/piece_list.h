/* SPDX-License-Identifier: Apache-2.0 */
/* base/piece_list.h - the digests of a stream's pieces, made beside that of the
 * whole.
 *
 * Where a processor carries two chains for the price of one the list costs next
 * to nothing. One thread per object. */
#ifndef FDL_PIECE_LIST_H
#define FDL_PIECE_LIST_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/hash.h"

#define FDL_PIECE_LIST_MAX ((size_t)1 << 20) /* pieces: 32 MiB of SHA-256 */

struct fdl_piece_list;

/* piece: bytes of each, > 0. *out is OWNED, NULL on failure. Errors: as
 * fdl_hash_new(). */
int fdl_piece_list_new(struct fdl_piece_list **out, enum fdl_hash_alg alg,
                       uint64_t piece, struct fdl_err *err);

/* The stream's next len bytes, which also go to whole, the chain of all of it.
 * Errors: FDL_E_LIMIT without memory or above FDL_PIECE_LIST_MAX pieces; whole
 * has them then. */
int fdl_piece_list_feed(struct fdl_piece_list *list, struct fdl_hash *whole,
                        const void *buf, size_t len, struct fdl_err *err);

/* The stream has ended: completes its last piece. *digests: n * fdl_hash_len()
 * bytes, BORROWED; 0 pieces of a stream without a byte. Errors: FDL_E_LIMIT. */
int fdl_piece_list_end(struct fdl_piece_list *list, const unsigned char **digests,
                       size_t *n, struct fdl_err *err);

/* NULL is allowed. */
void fdl_piece_list_free(struct fdl_piece_list *list);

#endif
