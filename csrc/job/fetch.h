/* SPDX-License-Identifier: Apache-2.0 */
/* job/fetch.h - FETCH: one block into memory, whatever a cut connection left of it, and
 * the state of a connection that this takes. */
#ifndef FDL_FETCH_H
#define FDL_FETCH_H

#include "base/clock.h"
#include "base/sum.h"
#include "job/state.h"

struct fdl_worker {
    struct fdl_job *job;
    int id;
    pthread_t thread;
    bool started;
    bool ended; /* it was one too many: its thread needs nothing any more */
    struct fdl_progress *progress; /* BORROWED: the mirror, and what others may know */
    int index;                     /* of the mirror */
    struct fdl_wakeup *wakeup;     /* BORROWED */
    struct fdl_stream *stream;     /* OWNED */

    struct fdl_buf *buf; /* the block in work: OWNED reference */
    uint64_t buf_block;
    uint64_t buf_mirrors; /* bit set: who gave its bytes so far */
    struct fdl_sum *sum;  /* OWNED or NULL: of the first `summed` bytes of buf */
    size_t summed;
    struct fdl_pace_of_response pace; /* of the response that is open */

    /* under the transfer's lock */
    struct fdl_run run;  /* blocks still to do */
    struct fdl_run next; /* claimed ahead, for a pipelined request */
    bool hedging;
};

/* Gets memory for the block, or keeps what a cut connection left of it. False where the
 * transfer stops. */
bool fdl_fetch_begin(struct fdl_worker *w, uint64_t block);

/* Fills w->buf from where it stands to the end of its block. 1: the source ended before
 * any byte of the block. */
int fdl_fetch_block(struct fdl_worker *w, uint64_t block, struct fdl_err *err);

/* The same from the target itself. FDL_E_TARGET_CHANGED where it is not what the
 * journal says. */
int fdl_fetch_local(struct fdl_worker *w, uint64_t block, struct fdl_err *err);

/* Drops the block in work. */
void fdl_fetch_forget(struct fdl_worker *w);

/* Whether one of the caller's extents has all of [off, end). */
bool fdl_fetch_is_known(const struct fdl_job *job, uint64_t off, uint64_t end);

/* Waits for room, or for a mirror: at most that long. Locked. */
static inline void fdl_wait_for_space(struct fdl_job *job, long ms)
{
    struct timespec deadline = fdl_deadline(ms);

    pthread_cond_timedwait(&job->space, &job->lock, &deadline);
}

#endif
