/* SPDX-License-Identifier: Apache-2.0 */
/* sink/sink_ops.h - what a kind of sink implements; included only by sink/sink_*.c.
 *
 * sink/sink.c handles bounds, hold-back, remembered failures and the clock; a backend
 * handles the raw operations. A new kind is one file: a struct whose first member is
 * `struct fdl_sink base`, a table of operations, and an open function that ends in
 * fdl_sink_init(). */
#ifndef FDL_SINK_OPS_H
#define FDL_SINK_OPS_H

#include <pthread.h>
#include <stdatomic.h>

#include "sink/sink.h"

/* One range that stays in memory until release. len == 0: none. */
struct fdl_hold {
    uint64_t off;
    uint64_t len;
    uint64_t filled; /* bytes from off up to the last one given; guarded by hold_lock */
    unsigned char *data; /* OWNED, FDL_BUF_ALIGN-aligned */
};

struct fdl_sink_ops {
    /* All of buf or an error; ranges of parallel calls are disjoint and inside bounds.
     * Adds what it wrote to `written`. */
    int (*pwrite)(struct fdl_sink *sink, const void *buf, size_t len, uint64_t off,
                  struct fdl_err *err);
    /* [off, off + len) reads as zeros; adds to `zeroed`, or to `written` where it
     * wrote. */
    int (*zero)(struct fdl_sink *sink, uint64_t off, uint64_t len, struct fdl_err *err);
    /* Everything that pwrite and zero returned from is durable. */
    int (*flush)(struct fdl_sink *sink, struct fdl_err *err);
    /* Frees the backend's struct; the base has been taken down before. */
    void (*free)(struct fdl_sink *sink);
};

/* What was written, for a read-back. Off unless the caller enabled it. */
struct fdl_sink_log {
    pthread_mutex_t lock;
    atomic_bool on;
    struct fdl_landed landed;
    bool lost; /* no memory for one of them */
};

struct fdl_sink {
    struct fdl_sink_log log;
    const struct fdl_sink_ops *ops; /* BORROWED, static */
    uint64_t size;
    uint64_t block; /* what the target writes as a whole or not at all */
    struct fdl_hold head;
    struct fdl_hold tail;
    pthread_mutex_t hold_lock;
    atomic_bool holding;      /* false once released: later writes go to the target */
    atomic_bool write_failed; /* a range may be missing: never release */
    atomic_int flush_errno;   /* a flush failed: nothing is certain any more */
    /* Writes that have returned, one for what was there before, and how many of them a
     * flush has made durable. */
    atomic_uint_fast64_t changes, durable;
    atomic_uint_fast64_t written;
    atomic_uint_fast64_t zeroed;
    atomic_uint_fast64_t busy_ns;
};

#define FDL_SECTOR_BYTES 512u

/* Prepares the base of a backend's zeroed struct; a `block` that it left at zero
 * becomes FDL_SECTOR_BYTES. On failure nothing is left to free. */
int fdl_sink_init(struct fdl_sink *sink, const struct fdl_sink_ops *ops, uint64_t size,
                  size_t hold, struct fdl_err *err);

/* Write-back reported os_errno outside flush(): every later flush fails. */
void fdl_sink_poison(struct fdl_sink *sink, int os_errno);

#endif
