/* SPDX-License-Identifier: Apache-2.0 */
/* decode/land_qcow2_priv.h - what decode/land_qcow2.c (the pushing thread) and
 * decode/land_qcow2_work.c (the workers) share. Nobody else includes it. */
#ifndef FDL_LAND_QCOW2_PRIV_H
#define FDL_LAND_QCOW2_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "decode/land_carry.h"
#include "decode/land_qcow2.h"

struct libdeflate_decompressor;
struct ZSTD_DCtx_s;

/* Map entries [first, last) whose bytes are data[0..len) = file bytes from `off`. */
struct fdl_land_job {
    struct fdl_land_job *next;
    bool compressed;
    size_t first, last;
    uint64_t off;
    const unsigned char *data;
    size_t len;
    struct fdl_buf *buf; /* OWNED reference that keeps data alive, or NULL */
    unsigned char *copy; /* OWNED: data of a cluster that straddled blocks, or NULL */
};

struct fdl_land_worker {
    struct fdl_land *land; /* BORROWED */
    pthread_t thread;
    bool running;
    unsigned char *out; /* OWNED: decoded clusters, neighbours on the disk together */
    struct libdeflate_decompressor *inflate;
    struct ZSTD_DCtx_s *zstd;
};

/* A first zeroing call: ends soon on any device. */
#define FDL_LAND_ZERO_STEP (64ull << 20)

struct fdl_land {
    struct fdl_lander base;
    struct fdl_qcow2 *img;             /* OWNED */
    const struct fdl_qcow2_info *info; /* BORROWED from img */
    struct fdl_sink *sink;             /* BORROWED */
    bool detect_zeros;
    size_t out_size;
    unsigned threads;
    struct fdl_land_worker *workers; /* OWNED */
    struct fdl_land_job *jobs;       /* OWNED: all of them */
    atomic_uint_least64_t landed, busy_ns;

    /* Only for the pushing thread: */
    uint64_t end; /* of the last block pushed */
    size_t plain, compressed;
    struct fdl_carry carry;

    pthread_mutex_t lock; /* all below */
    pthread_cond_t work;  /* a job, zeros to make, or the end */
    pthread_cond_t done;  /* a job is free, or everything is done */
    struct fdl_land_job *free_jobs, *head, **tail;
    unsigned active; /* workers at work */
    size_t zero_run;
    uint64_t zero_done; /* bytes of that run handed out */
    uint64_t zero_step; /* bytes of a zeroing call at most, by how long they take */
    bool zeros_over, quit;
    struct fdl_err error; /* the first one; code 0 while all is well */
};

/* What pthread_create() starts: takes jobs, then zeros, until quit.
 *   arg  a struct fdl_land_worker, BORROWED until the thread is joined. */
void *fdl_land_work(void *arg);

/* Gives the job's memory back and frees its location; with the lock held. */
void fdl_land_recycle(struct fdl_land *l, struct fdl_land_job *job);

/* Keeps the first failure; with the lock held. */
void fdl_land_fail(struct fdl_land *l, int rc, const struct fdl_err *err);

#endif
