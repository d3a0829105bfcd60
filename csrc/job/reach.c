/* SPDX-License-Identifier: Apache-2.0 */
#include "job/reach.h"

#define FIRST_BYTES ((size_t)32 << 20)
#define FIRST_BLOCKS 8

void fdl_reach_init(struct fdl_job *job)
{
    struct fdl_plan *plan = &job->plan;
    size_t first = FIRST_BYTES / job->cfg.block;

    if (first < FIRST_BLOCKS)
        first = FIRST_BLOCKS;
    first += job->gather.most; /* they wait for the rest of a pass, beside all that */
    bool waits = job->gather.most > 0 ||
                 (job->n_consumers > 0 && job->pieces.mode != FDL_PIECES_OF_BLOCKS);
    if (waits && !fdl_sched_all_far(&job->sched) && first < plan->window)
        plan->reach = (uint32_t)first;
}

/* Connections that wait for room while the order waits for one of them could have
 * fetched on, had they been allowed farther ahead. A moment of that is enough: what
 * lies ahead of the order is to bridge the pauses of a busy or virtual processor, which
 * take tens of milliseconds, and it did not. */
void fdl_reach_update(struct fdl_job *job)
{
    if (job->held == 0 || !fdl_plan_is_held(&job->plan))
        return;
    fdl_plan_reach_farther(&job->plan);
    pthread_cond_broadcast(&job->space);
}
