/* SPDX-License-Identifier: Apache-2.0 */
#include "job/gather.h"
#include "base/clock.h"

#define MOST_BYTES ((size_t)16 << 20) /* memory; and a kill costs as much more */
#define LATE_NS (50 * FDL_NS_PER_MS)  /* slower than this, processor time is plenty */
#define LANES_WORTH 4 /* fewer are not faster than one after the other */

void fdl_gather_init(struct fdl_job *job)
{
    size_t block = job->cfg.block, most = MOST_BYTES / block;

    if (job->pieces.mode != FDL_PIECES_IN_BLOCK)
        return;
    size_t lanes = fdl_hash_lanes(job->pieces.like),
           each = block / (size_t)job->pieces.digests.length;
    /* Half of the window: connections go on meanwhile. */
    if (most > job->plan.window / 2)
        most = job->plan.window / 2;
    if (most > lanes / each)
        most = lanes / each;
    job->gather.most = lanes >= LANES_WORTH && most > 1 ? most : 0;
    job->sched.gathers = job->gather.most;
}

bool fdl_gather_takes(struct fdl_job *job, uint64_t mirrors)
{
    return job->gather.most > 0 && !(mirrors & ~atomic_load(&job->chain.trusted));
}

void fdl_gather_add(struct fdl_job *job, uint64_t block)
{
    if (job->gather.waiting++ == 0)
        job->gather.began_ns = fdl_now_ns();
    fdl_plan_slot(&job->plan, block)->gathered = true;
}

bool fdl_gather_is_due(const struct fdl_job *job)
{
    const struct fdl_gather *g = &job->gather;

    return g->waiting > 0 &&
           (g->waiting >= g->most || fdl_now_ns() > g->began_ns + LATE_NS ||
            !fdl_plan_expects(&job->plan));
}

size_t fdl_gather_take(struct fdl_job *job, uint64_t blocks[FDL_SHA256_LANES_MAX],
                       const struct fdl_buf *bufs[FDL_SHA256_LANES_MAX])
{
    size_t n = 0;

    for (uint64_t b = job->plan.base; n < job->gather.waiting; b++) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, b);
        if (!slot->gathered)
            continue;
        slot->gathered = false;
        blocks[n] = b;
        bufs[n++] = slot->buf;
    }
    job->gather.waiting = 0;
    job->gather.passes++;
    job->gather.checked += n;
    return n;
}
