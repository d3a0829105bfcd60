/* SPDX-License-Identifier: Apache-2.0 */
/* test_grow.c - connections are added while they pay, in larger steps where a step
 * takes long to show what it gave, and never more than are allowed. */
#undef NDEBUG
#include "job/ramp.h"

#include <assert.h>
#include <stdlib.h>

#define MS UINT64_C(1000000)
#define MIB (UINT64_C(1) << 20)

static struct fdl_mirror mirror;
static struct fdl_mirror *mirrors[] = {&mirror};
static struct fdl_worker worker = {.mirror = &mirror};

/* A job with one mirror, so many connections to it, and a first measurement begun at 0.
 */
static struct fdl_job *job_with(int conns, int most, uint64_t rtt_ns)
{
    struct fdl_job *job = calloc(1, sizeof *job);

    assert(job);
    mirror.state = FDL_MIRROR_READY;
    mirror.rtt_ns = rtt_ns;
    job->cfg.mirrors = mirrors;
    job->cfg.n_mirrors = 1;
    job->cfg.max_conns = most;
    job->wanted_conns = job->n_net = conns;
    job->n_workers = 1;
    job->workers = &worker;
    return job;
}

/* The wanted connections after `bytes` more came until `at`. */
static int after(struct fdl_job *job, uint64_t at, uint64_t bytes)
{
    atomic_fetch_add(&job->fetched, bytes);
    fdl_grow_tick(job, at);
    job->n_net = job->wanted_conns;
    return job->wanted_conns;
}

static void begins_with_one_nearby_and_a_few_far_away(void)
{
    struct fdl_job *job = job_with(0, 8, MS / 5);

    assert(fdl_grow_first(job, 1) == 1);
    assert(fdl_grow_first(job, 5) == 3);
    mirror.rtt_ns = 0; /* nobody has asked it yet */
    assert(fdl_grow_first(job, 1) == 1);
    mirror.rtt_ns = 50 * MS;
    assert(fdl_grow_first(job, 1) == 8);
    job->cfg.max_conns = 20;
    assert(fdl_grow_first(job, 1) == 8);
    job->cfg.max_conns = 2;
    assert(fdl_grow_first(job, 1) == 2);
    free(job);
}

static void grows_while_it_pays(void)
{
    struct fdl_job *job = job_with(1, 8, MS / 5);

    assert(after(job, 20 * MS, 10 * MIB) == 2);
    assert(after(job, 40 * MS, 20 * MIB) == 3);
    assert(after(job, 60 * MS, 30 * MIB) == 4);
    assert(after(job, 80 * MS, 30 * MIB) == 4);  /* no faster: it stays */
    assert(after(job, 100 * MS, 60 * MIB) == 4); /* and rests */
    free(job);
}

static void takes_larger_steps_far_away(void)
{
    struct fdl_job *job = job_with(4, 10, 50 * MS);

    assert(after(job, 100 * MS, 10 * MIB) == 4); /* too soon to tell */
    assert(after(job, 150 * MS, 10 * MIB) == 8);
    assert(after(job, 300 * MS, 60 * MIB) == 10); /* as many as are allowed */
    free(job);
}

int main(void)
{
    begins_with_one_nearby_and_a_few_far_away();
    grows_while_it_pays();
    takes_larger_steps_far_away();
    return 0;
}
