/* SPDX-License-Identifier: Apache-2.0 */
/* job/job.c - the life of a transfer: start, watch, cancel, join. */
#include "base/clock.h"
#include "job/ramp.h"
#include "job/job_priv.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TICK_MS 5
#define HEDGE_BUFFERS 2

size_t fdl_job_block_for(uint64_t piece_length, size_t wanted)
{
    size_t block = wanted;

    if (piece_length == 0 || piece_length % FDL_BUF_ALIGN != 0)
        return block;
    if (piece_length <= block)
        return block / (size_t)piece_length * (size_t)piece_length;
    for (uint64_t parts = 2; parts <= 4096; parts++)
        if (piece_length % parts == 0 && piece_length / parts <= block &&
            piece_length / parts % FDL_BUF_ALIGN == 0)
            return piece_length / parts >= block / 8 ? (size_t)(piece_length / parts)
                                                     : block;
    return block;
}

void fdl_job_wake_all(struct fdl_job *job)
{
    for (int i = 0; i < job->n_workers; i++)
        fdl_wake_cancel(&job->workers[i].wake);
}

void fdl_job_stop_all(struct fdl_job *job)
{
    job->stop = true;
    fdl_job_wake_all(job);
    if (job->cfg.lander && job->rc != FDL_OK)
        job->cfg.lander->ops->abort(job->cfg.lander);
    pthread_cond_broadcast(&job->space);
    pthread_cond_broadcast(&job->data);
    pthread_cond_broadcast(&job->ended);
}

void fdl_job_fail(struct fdl_job *job, const struct fdl_err *err)
{
    if (job->rc == FDL_OK) {
        job->rc = err->code != FDL_OK ? err->code : FDL_E_INTERNAL;
        job->err = *err;
        job->err.code = job->rc;
    }
    fdl_job_stop_all(job);
}

/* The first connection goes on with the answer that the caller brought. */
static void take_first(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;

    w->stream = job->cfg.first;
    w->mirror = w->stream->mirror;
    w->mirror->active++;
    for (size_t i = 0; i < job->cfg.n_mirrors; i++)
        if (job->cfg.mirrors[i] == w->mirror)
            w->mirror_index = (int)i;
    w->stream->ops->rebind(w->stream, &w->wake, &job->times);
    job->cfg.first = NULL;
    /* The lowest block is what its answer gives. */
    fdl_sched_next_run(w, fdl_now_ns(), &w->run_at, &w->run_end);
}

int fdl_job_add_worker(struct fdl_job *job, bool local)
{
    struct fdl_worker *w = &job->workers[job->n_workers];
    struct fdl_err err;

    memset(w, 0, sizeof *w);
    w->job = job;
    w->id = job->n_workers;
    w->local = local;
    w->mirror_index = -1;
    w->wake.fd = -1;
    atomic_store(&w->at_block, UINT64_MAX);
    int rc = fdl_wake_init(&w->wake, &err);
    job->n_workers++;
    job->n_net += !local;
    if (rc == FDL_OK && pthread_create(&w->thread, NULL, fdl_worker_main, w) != 0)
        rc = fdl_fail(&err, FDL_E_LIMIT, FDL_NO_OFFSET, "no thread can be started");
    if (rc != FDL_OK) {
        fdl_job_fail(job, &err);
        return rc;
    }
    w->started = true;
    /* Only now, when somebody will free it; the thread waits for the lock. */
    if (!local && job->cfg.first)
        take_first(w);
    return FDL_OK;
}

static int usable_mirrors(const struct fdl_job *job)
{
    int n = 0;

    for (size_t i = 0; i < job->cfg.n_mirrors; i++)
        n += job->cfg.mirrors[i]->state == FDL_MIRROR_READY;
    return n;
}

/* How many connections all usable mirrors together would take. */
static int conn_room(const struct fdl_job *job)
{
    int n = 0;

    for (size_t i = 0; i < job->cfg.n_mirrors; i++) {
        struct fdl_mirror *m = job->cfg.mirrors[i];
        if (m->state == FDL_MIRROR_READY)
            n += m->ranges == FDL_RANGES_NO || !fdl_mirror_can_join(m) ? 1 : m->cap;
    }
    return n;
}

static void tick_wait(struct fdl_job *job)
{
    struct timespec ts = fdl_deadline(TICK_MS);

    pthread_cond_timedwait(&job->ended, &job->lock, &ts);
}

static void join_all(struct fdl_job *job)
{
    for (int i = 0; i < job->n_workers; i++)
        if (job->workers[i].started)
            pthread_join(job->workers[i].thread, NULL);
    for (int i = 0; i < job->n_consumers; i++)
        if (job->consumers[i].started)
            pthread_join(job->consumers[i].thread, NULL);
}

static void *monitor_main(void *arg)
{
    struct fdl_job *job = arg;
    struct fdl_err err;

    pthread_mutex_lock(&job->lock);
    job->grow_from_ns = fdl_now_ns();
    if (!fdl_plan_done(&job->plan))
        fdl_sched_judge_mirrors(job);
    if (job->cfg.n_local > 0)
        fdl_job_add_worker(job, true);
    job->wanted_conns = fdl_grow_first(job, usable_mirrors(job));
    while (!job->stop && !fdl_plan_done(&job->plan)) {
        while (!job->stop && job->n_net < job->wanted_conns &&
               job->n_net < conn_room(job))
            if (fdl_job_add_worker(job, false) != FDL_OK)
                break;
        tick_wait(job);
        if (!job->stop)
            fdl_grow_tick(job, fdl_now_ns());
    }
    pthread_mutex_unlock(&job->lock);
    join_all(job);

    pthread_mutex_lock(&job->lock);
    bool good = job->rc == FDL_OK && fdl_plan_done(&job->plan);
    pthread_mutex_unlock(&job->lock);
    if (good) {
        uint64_t before = fdl_now_ns();
        fdl_err_clear(&err);
        int rc = fdl_sink_flush(job->cfg.sink, &err);
        atomic_fetch_add(&job->flush_ns, fdl_now_ns() - before);
        pthread_mutex_lock(&job->lock);
        if (rc != FDL_OK)
            fdl_job_fail(job, &err);
        pthread_mutex_unlock(&job->lock);
    }
    pthread_mutex_lock(&job->lock);
    job->finished = true;
    job->ended_ns = fdl_now_ns();
    pthread_cond_broadcast(&job->watched);
    pthread_mutex_unlock(&job->lock);
    return NULL;
}

static int init_plan(struct fdl_job *job, struct fdl_err *err)
{
    const struct fdl_job_config *cfg = &job->cfg;
    uint64_t n = FDL_BLOCKS_UNKNOWN;
    size_t bufs = cfg->window / cfg->block,
           spare = (size_t)cfg->max_conns + HEDGE_BUFFERS;
    int bad = 0;

    if (cfg->total != FDL_SIZE_UNKNOWN)
        n = cfg->total / cfg->block + (cfg->total % cfg->block != 0);
    if (n != FDL_BLOCKS_UNKNOWN && n + spare < bufs)
        bufs = (size_t)n + spare;
    if (bufs < spare + 4)
        bufs = spare + 4;
    job->pool = fdl_pool_new(bufs, cfg->block);
    if (!job->pool || fdl_plan_init(&job->plan, n, (uint32_t)(bufs - spare), 1) != 0)
        return fdl_nomem(err, "the window");
    for (size_t i = 0; i < cfg->n_skip; i++)
        bad |= fdl_plan_mark_skip(&job->plan, cfg->skip[i]);
    for (size_t i = 0; i < cfg->n_local; i++)
        bad |= fdl_plan_mark_local(&job->plan, cfg->local[i].off / cfg->block);
    if (bad)
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                        "a block outside the source");
    fdl_plan_skip_unneeded(&job->plan);
    return FDL_OK;
}

static int check_config(const struct fdl_job_config *cfg, struct fdl_err *err)
{
    if (cfg->n_mirrors == 0 || cfg->n_mirrors > FDL_MIRRORS_MAX)
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET,
                        "between 1 and 64 mirrors are possible");
    if (cfg->max_conns < 1 || cfg->max_conns > FDL_CONNS_MAX)
        return fdl_fail(err, FDL_E_USAGE, FDL_NO_OFFSET,
                        "between 1 and 64 connections are possible");
    if (cfg->block == 0 || cfg->block % FDL_BUF_ALIGN != 0)
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                        "the block size is not aligned");
    return FDL_OK;
}

int fdl_job_start(struct fdl_job **out, const struct fdl_job_config *config,
                  struct fdl_err *err)
{
    struct fdl_job *job = calloc(1, sizeof *job);
    pthread_condattr_t monotonic;
    int rc;

    if (!job) {
        if (config->first)
            config->first->ops->free(config->first);
        return fdl_nomem(err, "the transfer");
    }
    job->cfg = *config;
    job->total = config->total;
    fdl_err_clear(&job->err);
    pthread_mutex_init(&job->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&job->space, &monotonic);
    pthread_cond_init(&job->data, &monotonic);
    pthread_cond_init(&job->ended, &monotonic);
    pthread_cond_init(&job->watched, &monotonic);
    pthread_condattr_destroy(&monotonic);
    job->started_ns = fdl_now_ns();
    rc = check_config(config, err);
    for (size_t i = 0; rc == FDL_OK && i < config->n_mirrors; i++) {
        config->mirrors[i]->provable = config->provable;
        config->mirrors[i]->vetted =
            config->first && config->first->mirror == config->mirrors[i];
    }
    for (size_t i = 0; rc == FDL_OK && i < config->n_known; i++)
        if (config->known[i].mirror >= 0)
            config->mirrors[config->known[i].mirror]->vetted = true;
    if (rc == FDL_OK)
        rc = init_plan(job, err);
    if (rc == FDL_OK)
        rc = fdl_verify_init(job, err);
    if (rc == FDL_OK) {
        job->workers = calloc((size_t)config->max_conns + 1, sizeof *job->workers);
        if (!job->workers)
            rc = fdl_nomem(err, "the transfer");
    }
    for (int i = 0; rc == FDL_OK && i < job->n_consumers; i++) {
        if (pthread_create(&job->consumers[i].thread, NULL, fdl_consumer_main,
                           &job->consumers[i]) != 0)
            rc = fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "no thread can be started");
        else
            job->consumers[i].started = true;
    }
    if (rc == FDL_OK) {
        if (pthread_create(&job->monitor, NULL, monitor_main, job) != 0)
            rc = fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "no thread can be started");
        else
            job->monitor_started = true;
    }
    if (rc != FDL_OK) {
        fdl_job_free(job);
        return rc;
    }
    *out = job;
    return FDL_OK;
}

bool fdl_job_wait(struct fdl_job *job, int timeout_ms, size_t records)
{
    struct timespec ts = fdl_deadline(timeout_ms);
    bool done;

    pthread_mutex_lock(&job->lock);
    job->landed_wanted = records;
    while (!job->finished && !(records > 0 && job->landed.n >= records))
        if (pthread_cond_timedwait(&job->watched, &job->lock, &ts) != 0)
            break;
    done = job->finished;
    pthread_mutex_unlock(&job->lock);
    return done;
}

void fdl_job_status(struct fdl_job *job, struct fdl_job_status *out)
{
    struct fdl_sink_stats sink;
    uint64_t landed = 0, decode_ns = 0;

    fdl_sink_get_stats(job->cfg.sink, &sink);
    if (job->cfg.lander)
        job->cfg.lander->ops->stats(job->cfg.lander, &landed, &decode_ns);
    pthread_mutex_lock(&job->lock);
    *out = (struct fdl_job_status){
        .total = job->total,
        .done_bytes = atomic_load(&job->done),
        .fetched_bytes = atomic_load(&job->fetched),
        .resumed_bytes = atomic_load(&job->resumed),
        .hedged_bytes = atomic_load(&job->hedged),
        .conns = job->n_net,
        .running = !job->finished,
        .fetch_ns = atomic_load(&job->times.recv_ns),
        .tls_ns = atomic_load(&job->times.tls_ns),
        .net_wait_ns = atomic_load(&job->times.wait_ns),
        .window_wait_ns = atomic_load(&job->window_wait_ns),
        .hash_ns = atomic_load(&job->hash_ns),
        .decode_ns = decode_ns,
        .write_ns = sink.busy_ns,
        .flush_ns = atomic_load(&job->flush_ns),
        .elapsed_ns = (job->finished ? job->ended_ns : fdl_now_ns()) - job->started_ns,
    };
    pthread_mutex_unlock(&job->lock);
}

size_t fdl_job_drain(struct fdl_job *job, struct fdl_range *out, size_t cap)
{
    pthread_mutex_lock(&job->lock);
    size_t n = fdl_landed_drain(&job->landed, out, cap);
    pthread_mutex_unlock(&job->lock);
    return n;
}

void fdl_job_settle(struct fdl_job *job, size_t n)
{
    pthread_mutex_lock(&job->lock);
    job->unsettled -= n < job->unsettled ? n : job->unsettled;
    pthread_cond_broadcast(&job->space);
    pthread_mutex_unlock(&job->lock);
}

void fdl_job_cancel(struct fdl_job *job)
{
    struct fdl_err err;

    fdl_fail(&err, FDL_E_CANCELLED, FDL_NO_OFFSET, "cancelled");
    pthread_mutex_lock(&job->lock);
    if (!job->finished)
        fdl_job_fail(job, &err);
    pthread_mutex_unlock(&job->lock);
}

static void join_monitor(struct fdl_job *job)
{
    if (job->monitor_started)
        pthread_join(job->monitor, NULL);
    job->monitor_started = false;
}

int fdl_job_finish(struct fdl_job *job, struct fdl_job_result *result,
                   struct fdl_err *err)
{
    join_monitor(job);
    if (job->rc != FDL_OK) {
        if (err)
            *err = job->err;
        return job->rc;
    }
    memset(result, 0, sizeof *result);
    result->total = job->total;
    for (int i = 0; i < job->n_consumers; i++) {
        const struct fdl_consumer *c = &job->consumers[i];
        if (c->kind != FDL_CONSUME_DIGEST)
            continue;
        result->algs[result->n_digests] = c->alg;
        memcpy(result->digests[result->n_digests++], c->digest, FDL_HASH_MAX);
    }
    return FDL_OK;
}

void fdl_job_forget_lander(struct fdl_job *job)
{
    pthread_mutex_lock(&job->lock);
    job->cfg.lander = NULL;
    pthread_mutex_unlock(&job->lock);
}

void fdl_job_free(struct fdl_job *job)
{
    if (!job)
        return;
    if (job->monitor_started)
        fdl_job_cancel(job);
    pthread_mutex_lock(&job->lock);
    job->stop = true;
    pthread_cond_broadcast(&job->data);
    pthread_mutex_unlock(&job->lock);
    if (job->monitor_started)
        join_monitor(job);
    else
        for (int i = 0; i < job->n_consumers; i++)
            if (job->consumers[i].started && !job->finished)
                pthread_join(job->consumers[i].thread, NULL);
    for (int i = 0; i < job->n_workers; i++)
        fdl_wake_destroy(&job->workers[i].wake);
    if (job->cfg.first)
        job->cfg.first->ops->free(job->cfg.first);
    for (uint32_t i = 0; job->plan.slots && i < job->plan.window; i++)
        fdl_buf_unref(job->plan.slots[i].buf);
    fdl_plan_destroy(&job->plan);
    fdl_verify_destroy(job);
    fdl_pool_free(job->pool);
    free(job->workers);
    pthread_cond_destroy(&job->space);
    pthread_cond_destroy(&job->data);
    pthread_cond_destroy(&job->ended);
    pthread_cond_destroy(&job->watched);
    pthread_mutex_destroy(&job->lock);
    free(job);
}
