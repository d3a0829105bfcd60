/* SPDX-License-Identifier: Apache-2.0 */
/* sink_rig.h - the system calls of a sink, interposed so that a test says which of them
 * fails, and the files and loop devices that it writes to. Linked to the tests that are
 * called test_sink*. */
#ifndef SINK_RIG_H
#define SINK_RIG_H

#include "sink/sink.h"

#include <stdatomic.h>

#define MIB ((size_t)1 << 20)
#define LOG_MAX 64

struct faults {
    atomic_int write_errno;   /* what the next failing pwrite says */
    atomic_int write_nth;     /* which one fails (1 = the next), 0 = none */
    atomic_int write_times;   /* how many fail in a row */
    atomic_size_t write_most; /* no pwrite writes more; 0 = no limit */
    atomic_int direct_einval; /* O_DIRECT writes are refused */
    atomic_int sync_errno;
    atomic_int behind_errno;
    atomic_int zero_errno; /* fallocate and BLKZEROOUT */
    atomic_int zero_calls;
    atomic_int write_calls;
    atomic_int sync_calls;
    atomic_int direct_calls;
    bool log_on; /* what is written and flushed (len 0) is recorded */
    atomic_uint log_len;
    struct {
        uint64_t off, len;
    } log[LOG_MAX];
    char order[64]; /* 'h' and 't' writes, 's' syncs, of the release test */
    atomic_uint order_len;
    uint64_t order_tail; /* where the tail begins; 0 = nothing is recorded */
};

/* What the calls are to do, and what was called. */
extern struct faults fault;

void no_faults(void);

struct target {
    const char *name;
    char path[256];
    char backing[256];
    int fd, buffered;
    size_t align;
};

/* Where files may be made. */
const char *folder(void);

/* Writes `size` bytes that are not zero. */
void fill(int fd, uint64_t size);

/* A dirty file of `size` bytes; false where the file system has no O_DIRECT. */
bool file_target(struct target *t, const char *dir, size_t align, uint64_t size);

/* A dirty loop device over a file of `size` bytes; false without the right to. */
bool loop_target(struct target *t, unsigned sector, uint64_t size);

void target_free(struct target *t);

struct fdl_sink *open_sink(const struct target *t, uint64_t size, size_t hold);

/* What an independent reader finds on the target. */
bool reads_as(const struct target *t, const unsigned char *want, size_t len,
              uint64_t off);
bool reads_zero(const struct target *t, size_t len, uint64_t off);

/* OWNED: `len` bytes that repeat nowhere soon, aligned for O_DIRECT. */
unsigned char *pattern(size_t len);

#endif
