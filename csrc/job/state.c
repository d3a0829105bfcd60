/* SPDX-License-Identifier: Apache-2.0 */
#include "job/state.h"

size_t fdl_job_block_len(const struct fdl_job *job, uint64_t block)
{
    uint64_t off = block * job->cfg.block, total = job->total;

    if (total == FDL_SIZE_UNKNOWN || total - off >= job->cfg.block)
        return job->cfg.block;
    return (size_t)(total - off);
}

void fdl_job_wake_workers(struct fdl_job *job)
{
    for (int i = 0; i < job->sched.n_workers; i++)
        fdl_wakeup_cancel(&job->wakeups[i]);
}

void fdl_job_fail(struct fdl_job *job, const struct fdl_err *err)
{
    if (job->rc == FDL_OK) {
        job->rc = err->code != FDL_OK ? err->code : FDL_E_INTERNAL;
        job->err = *err;
        job->err.code = job->rc;
    }
    job->stop = true;
    fdl_job_wake_workers(job);
    if (job->cfg.lander)
        job->cfg.lander->ops->abort(job->cfg.lander);
    pthread_cond_broadcast(&job->space);
    pthread_cond_broadcast(&job->data);
    pthread_cond_broadcast(&job->ended);
}

void fdl_job_check_mirrors(struct fdl_job *job)
{
    struct fdl_err err;

    if (fdl_sched_exhausted(&job->sched, &err))
        fdl_job_fail(job, &err);
}

/* Nobody uses the mirror any more. */
static void leave(struct fdl_job *job, int index, enum fdl_mirror_state state,
                  const struct fdl_err *err)
{
    struct fdl_mirror *m = job->cfg.mirrors[index];

    if (m->state == FDL_MIRROR_DISQUALIFIED)
        return;
    m->state = state;
    m->last_err = *err;
    m->last_err.mirror = index;
    for (int i = 0; i < job->sched.n_workers; i++)
        if (job->sched.progress[i].mirror == m)
            fdl_wakeup_nudge(&job->wakeups[i]);
    fdl_sched_step_in(&job->sched);
    fdl_job_check_mirrors(job);
    pthread_cond_broadcast(&job->space);
}

void fdl_job_disqualify(struct fdl_job *job, int index, const struct fdl_err *err)
{
    leave(job, index, FDL_MIRROR_DISQUALIFIED, err);
}

void fdl_job_set_aside(struct fdl_job *job, int index, const struct fdl_err *why)
{
    leave(job, index, FDL_MIRROR_IDLE, why);
}
