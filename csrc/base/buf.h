/* SPDX-License-Identifier: Apache-2.0 */
/* base/buf.h - aligned, pooled, reference-counted blocks: the memory of the data
 * from the socket to the target.
 *
 * A block is filled by one thread, then read-only until its last reference is gone.
 * All functions are thread-safe. The pool never grows: its size is the memory promise.
 */
#ifndef FDL_BUF_H
#define FDL_BUF_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define FDL_BUF_ALIGN 4096

struct fdl_pool;

struct fdl_buf {
    unsigned char *data;   /* FDL_BUF_ALIGN-aligned, capacity = the pool's block size */
    size_t len;            /* bytes filled */
    uint64_t off;          /* offset of data[0] in the source */
    uint64_t xxh3;         /* fdl_sum of data[0..len), where its job keeps a record */
    atomic_int refs;       /* 0 while it is in the pool */
    struct fdl_pool *pool; /* BORROWED: where it returns to */
    struct fdl_buf *next;  /* free list */
};

/* Reserves n blocks of `size` bytes each (size a multiple of FDL_BUF_ALIGN).
 * Returns OWNED, or NULL without memory. */
struct fdl_pool *fdl_pool_new(size_t n, size_t size);

/* All blocks must have returned. NULL is allowed. */
void fdl_pool_free(struct fdl_pool *pool);

size_t fdl_pool_block_size(const struct fdl_pool *pool);

/* Takes a block with one reference, or NULL where none is free. */
struct fdl_buf *fdl_pool_get(struct fdl_pool *pool);

void fdl_buf_ref(struct fdl_buf *buf);

/* Drops one reference; the last one returns the block to its pool. NULL is allowed. */
void fdl_buf_unref(struct fdl_buf *buf);

#endif
