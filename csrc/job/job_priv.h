/* SPDX-License-Identifier: Apache-2.0 */
/* job/job_priv.h - what job/job.c, job/worker.c, job/verify.c and job/sched.c share.
 *
 * One lock guards the plan, the mirrors' third part and everything below that is not
 * atomic. It is taken a few times a block, never during I/O or hashing. */
#ifndef FDL_JOB_PRIV_H
#define FDL_JOB_PRIV_H

#include <pthread.h>
#include <stdatomic.h>

#include "job/job.h"
#include "job/plan.h"
#include "base/sum.h"

struct fdl_worker {
    struct fdl_job *job;
    int id;
    pthread_t thread;
    bool started;
    bool local; /* reads what the target has, instead of a mirror */
    struct fdl_wake wake;
    struct fdl_stream *stream; /* OWNED */
    struct fdl_mirror *mirror; /* BORROWED */
    int mirror_index;
    struct fdl_buf *buf; /* the block in work: OWNED reference */
    uint64_t buf_block;
    uint64_t buf_mirrors; /* bit set: who gave its bytes so far */
    struct fdl_sum *sum;  /* OWNED or NULL: of the first `summed` bytes of buf */
    size_t summed;
    /* under the job's lock */
    uint64_t run_at, run_end;   /* blocks still to do */
    uint64_t next_at, next_end; /* claimed ahead, for a pipelined request */
    uint64_t requested_end;     /* byte up to which the mirror was asked */
    bool hedging;
    double rate; /* bytes/s, smoothed, the waits for answers included */
    double flow; /* the same without them */
    atomic_uint_fast64_t at_block; /* for others to judge how late a block is */
    atomic_uint_fast64_t at_fill;
    uint64_t gained;    /* bytes since the mirror's last failure */
    atomic_bool served; /* the mirror gave bytes to this worker since it took it */
};

struct fdl_piece {
    uint64_t index; /* which piece lies here, UINT64_MAX none */
    uint64_t next;  /* block to hash next */
    bool busy;      /* a thread is hashing */
    int failures;
    struct fdl_hash *hash; /* OWNED */
};

enum fdl_consume { FDL_CONSUME_DIGEST, FDL_CONSUME_PIECES, FDL_CONSUME_LAND };

struct fdl_consumer { /* reads verified blocks in file order */
    struct fdl_job *job;
    pthread_t thread;
    bool started;
    struct fdl_hash *hash; /* OWNED; NULL for the lander and for ordered pieces */
    enum fdl_hash_alg alg;
    enum fdl_consume kind;
    uint64_t next;
    unsigned char digest[FDL_HASH_MAX];
};

struct fdl_job {
    struct fdl_job_config cfg;
    pthread_mutex_t lock;
    pthread_cond_t space;   /* room in the window, a mirror is usable again */
    pthread_cond_t data;    /* a block became verified, or the end is known */
    pthread_cond_t ended;   /* for the monitor: nothing is left to do, or all stops */
    pthread_cond_t watched; /* for fdl_job_wait() */
    struct fdl_plan plan;
    struct fdl_pool *pool; /* OWNED */
    atomic_uint_fast64_t total;
    bool stop;     /* cancelled or failed: everybody leaves */
    bool finished; /* the monitor is through */
    bool cancelled;
    struct fdl_err err; /* first failure */
    int rc;

    struct fdl_worker *workers; /* OWNED: max_conns + 1 */
    int n_workers;              /* started, the local one included */
    int n_net;                  /* of them connections */
    atomic_bool ignore_known;   /* the caller's bytes did not match a piece */

    /* job/ramp.c */
    int wanted_conns;
    uint64_t grow_at_ns, grow_from_ns, grow_from_bytes, grow_from_starved;
    uint64_t settle_ns;
    double grow_rate;

    bool pieces_in_fetch;     /* pieces and blocks tile each other */
    uint64_t piece_blocks;    /* blocks a piece (>= 1), 0: several pieces in a block */
    struct fdl_piece *pieces; /* OWNED: n_pieces, piece i lies in [i % n_pieces] */
    size_t n_pieces;

    struct fdl_consumer consumers[FDL_HASH_COUNT + 2];
    int n_consumers;

    struct fdl_landed landed; /* what was written, drained by the caller */
    size_t landed_wanted;     /* as many are worth waking fdl_job_wait() */
    size_t unsettled;         /* blocks written whose records are not durable yet */

    pthread_t monitor;
    bool monitor_started;
    uint64_t started_ns, ended_ns;

    struct fdl_conn_times times;
    atomic_uint_fast64_t fetched, resumed, hedged, done;
    atomic_uint_fast64_t hash_ns, flush_ns, window_wait_ns;
    atomic_uint_fast64_t pace_ns; /* when the next byte may come, with a rate limit */
};

/* job/job.c */
void fdl_job_fail(struct fdl_job *job, const struct fdl_err *err); /* locked */
void fdl_job_stop_all(struct fdl_job *job);                        /* locked */
void fdl_job_wake_all(struct fdl_job *job);                        /* locked */
int fdl_job_add_worker(struct fdl_job *job, bool local);           /* locked */

/* job/worker.c */
void *fdl_worker_main(void *arg);

/* job/verify.c. deliver: the block's bytes are in buf (one reference, STOLEN). */
void fdl_verify_deliver(struct fdl_worker *w, uint64_t block, struct fdl_buf *buf,
                        uint64_t mirrors);
int fdl_verify_init(struct fdl_job *job, struct fdl_err *err);
void fdl_verify_destroy(struct fdl_job *job);
void *fdl_consumer_main(void *arg);
size_t fdl_block_len(const struct fdl_job *job, uint64_t block);

/* job/sched.c, all locked */
/* The best usable mirror, or NULL: then *later tells whether one may become usable. */
struct fdl_mirror *fdl_sched_pick_mirror(struct fdl_job *job, uint64_t now_ns,
                                         int *index, bool *later);
bool fdl_sched_next_run(struct fdl_worker *w, uint64_t now_ns, uint64_t *first,
                        uint64_t *end);
bool fdl_sched_hedge(struct fdl_worker *w, uint64_t now_ns, uint64_t *block);
/* What becomes of the worker's mirror: a wait, or its end. True where the worker is one
 * too many for it: it has to leave, while those that are served go on. */
bool fdl_sched_mirror_failed(struct fdl_worker *w, const struct fdl_err *err);
void fdl_sched_strike(struct fdl_job *job, struct fdl_mirror *m, int index,
                      const struct fdl_err *err);
/* Fails the job where no mirror is usable any more. */
void fdl_sched_judge_mirrors(struct fdl_job *job);
void fdl_sched_lost_hedge(struct fdl_job *job, struct fdl_mirror *m);

#endif
