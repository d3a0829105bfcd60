/* SPDX-License-Identifier: Apache-2.0 */
#include "job/chain.h"

/* How many blocks the chain may stay behind before its consumer takes some, where no
 * connection waits for room: blocks come in runs, so that there are none to take along
 * for a while, and then many. */
static uint64_t slack(const struct fdl_job *job)
{
    return job->plan.reach / 2;
}

static bool is_there(const struct fdl_job *job, uint64_t block)
{
    return block < job->plan.n_blocks && fdl_plan_in_window(&job->plan, block) &&
           fdl_plan_slot(&job->plan, block)->state == FDL_SLOT_VERIFIED;
}

static struct fdl_buf *take(struct fdl_job *job)
{
    struct fdl_chain *chain = &job->chain;

    while (chain->next < job->plan.n_blocks &&
           fdl_plan_is_skip(&job->plan, chain->next))
        chain->next++;
    if (chain->busy || !is_there(job, chain->next))
        return NULL;
    struct fdl_buf *buf = fdl_plan_slot(&job->plan, chain->next)->buf;
    fdl_buf_ref(buf);
    chain->busy = true;
    return buf;
}

struct fdl_buf *fdl_chain_take_along(struct fdl_job *job)
{
    struct fdl_chain *chain = &job->chain;

    if (!chain->hash)
        return NULL;
    while (!job->stop && chain->busy &&
           is_there(job, chain->next + 1 + (uint64_t)chain->waiting)) {
        chain->waiting++;
        pthread_cond_wait(&job->data, &job->lock);
        chain->waiting--;
    }
    return job->stop ? NULL : take(job);
}

struct fdl_buf *fdl_chain_take(struct fdl_job *job)
{
    uint64_t ahead = job->chain.next + slack(job);

    /* Near the end of the file nothing may follow that takes it along. */
    if (job->chain.starved == 0 && ahead < job->plan.n_blocks &&
        !is_there(job, ahead) && !fdl_plan_is_skip(&job->plan, ahead))
        return NULL;
    return take(job);
}

uint64_t fdl_chain_put(struct fdl_job *job, struct fdl_buf *buf)
{
    uint64_t block = job->chain.next++;

    fdl_buf_unref(buf);
    fdl_plan_slot(&job->plan, block)->passed++;
    job->chain.busy = false;
    pthread_cond_broadcast(&job->data);
    return block;
}
