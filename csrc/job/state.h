/* SPDX-License-Identifier: Apache-2.0 */
/* job/state.h - what the threads of a transfer share, and how it is stopped.
 *
 * One lock guards the plan, the scheduler with the mirrors' last part, the pieces, the
 * list of what has landed, and everything below that is not atomic. It is taken a few
 * times a block, never during I/O or hashing. A function that expects it says Locked.
 *
 * Who calls whom, one way: job → worker, consumer → chain → verify → gather → state →
 * sched, ramp, pieces, plan. */
#ifndef FDL_STATE_H
#define FDL_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/landed.h"
#include "job/config.h"
#include "job/pieces.h"
#include "job/plan.h"
#include "job/ramp.h"
#include "job/sched.h"

#define FDL_WORKERS_MAX (FDL_CONNS_MAX + 1) /* and one that reads the target */

#define FDL_WHAT_NOT_JOINED                                                            \
    "not joined: no digest proves that this mirror has the same bytes"

struct fdl_worker;   /* job/worker.c */
struct fdl_consumer; /* job/consumer.c */

/* The digest of the whole file that goes along with the pieces' (job/chain.h). */
struct fdl_chain {
    struct fdl_hash *hash;   /* BORROWED from its consumer; NULL: there is none */
    struct fdl_hash *before; /* OWNED: what it was at the start of next's piece */
    uint64_t next;           /* block */
    size_t waiting; /* blocks that came and have not been hashed for their piece */
    uint64_t seen;  /* bit set of mirrors that sent a block */
    atomic_uint_fast64_t trusted; /* and of those of which a piece matched */
    bool doubt; /* a piece did not match: those that wait are checked soon */
};

/* Blocks that wait to have their pieces hashed together (job/gather.h). */
struct fdl_gather {
    size_t most;       /* blocks; 0: none waits */
    size_t waiting;    /* of them */
    uint64_t began_ns; /* when the first of them came */
    uint64_t passes;   /* so far */
    uint64_t checked;  /* blocks, in these */
};

struct fdl_job {
    struct fdl_job_config cfg;
    pthread_mutex_t lock;
    pthread_cond_t space;   /* room in the window, a mirror is usable again */
    pthread_cond_t data;    /* a block became verified, or the end is known */
    pthread_cond_t ended;   /* for the monitor: nothing is left to do, or all stops */
    pthread_cond_t watched; /* for fdl_job_wait() */

    struct fdl_plan plan;
    struct fdl_sched sched;
    struct fdl_ramp ramp;
    struct fdl_pieces pieces;
    struct fdl_chain chain;
    struct fdl_gather gather;
    int held;                 /* connections that wait for room */
    size_t to_write;          /* blocks that are verified and that nobody writes yet */
    struct fdl_landed landed; /* what was written, drained by the caller */
    size_t landed_wanted;     /* as many are worth waking fdl_job_wait() */
    struct fdl_sink *spool;   /* where blocks are kept, at their own offsets; or NULL */
    bool spool_wanted;        /* there is a block to keep */
    bool spool_failed;        /* no more is kept there */
    struct fdl_pool *pool;    /* OWNED */
    struct fdl_request_log *requests; /* OWNED, NULL where nobody watches */
    atomic_uint_fast64_t total;
    atomic_bool ignore_known; /* the caller's bytes did not match a piece */

    bool stop;     /* cancelled or failed: everybody leaves */
    bool finished; /* the monitor is through */
    int rc;
    struct fdl_err err; /* the first failure */

    struct fdl_worker *workers; /* OWNED; sched.n_workers of them have been started */
    struct fdl_wakeup wakeups[FDL_WORKERS_MAX]; /* one a worker */
    struct fdl_consumer *consumers;             /* OWNED */
    int n_consumers;

    pthread_t monitor;
    bool monitor_started;
    uint64_t started_ns, ended_ns;

    struct fdl_conn_times times;
    atomic_uint_fast64_t fetched, resumed, done, along; /* bytes */
    atomic_uint_fast64_t hash_ns, flush_ns, window_wait_ns;
};

/* Bytes of that block. Takes no lock. */
size_t fdl_job_block_len(const struct fdl_job *job, uint64_t block);

/* Locked: the first failure ends the transfer; later ones only stop it again. */
void fdl_job_fail(struct fdl_job *job, const struct fdl_err *err);

/* Locked: no worker waits for the network any more. */
void fdl_job_wake_workers(struct fdl_job *job);

/* Locked: mirror `index` is not used any more, and those that use it are woken. Fails
 * the transfer where it was the last. */
void fdl_job_disqualify(struct fdl_job *job, int index, const struct fdl_err *err);

/* The same for a mirror that did nothing wrong: it may not join this transfer. `why` is
 * reported with the mirror, and is never what the transfer fails with. */
void fdl_job_set_aside(struct fdl_job *job, int index, const struct fdl_err *why);

/* Locked: fails the transfer where no mirror is usable. */
void fdl_job_check_mirrors(struct fdl_job *job);

#endif
