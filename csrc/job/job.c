/* SPDX-License-Identifier: Apache-2.0 */
/* job/job.c - the life of a transfer: start, watch, cancel, join. */
#include "job/job.h"
#include "base/clock.h"
#include "job/consumer.h"
#include "job/gather.h"
#include "job/reach.h"
#include "job/verify.h"
#include "job/worker.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TICK_MS 5
#define HEDGE_BUFFERS 2
#define USUAL_CONNS 8

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

static void tick_wait(struct fdl_job *job)
{
    struct timespec ts = fdl_deadline(TICK_MS);

    pthread_cond_timedwait(&job->ended, &job->lock, &ts);
}

/* How the transfer goes as a whole, for the number of connections. Locked. */
static struct fdl_ramp_sample sample(const struct fdl_job *job)
{
    return (struct fdl_ramp_sample){
        .now_ns = fdl_now_ns(),
        .bytes = atomic_load(&job->fetched),
        .starved_ns = atomic_load(&job->window_wait_ns),
        .rtt_ns = fdl_sched_rtt_ns(&job->sched),
        .conns = fdl_sched_serving(&job->sched),
        .room = fdl_sched_room(&job->sched),
    };
}

/* A hedge that turns out slower than what it is to overtake ends. Locked. */
static void end_vain(struct fdl_job *job)
{
    uint64_t now = fdl_now_ns();
    int worker = fdl_sched_find_vain(&job->sched, now);

    if (worker == FDL_NOBODY)
        return;
    struct fdl_progress *p = &job->sched.progress[worker];
    uint64_t block = atomic_load(&p->block);
    fdl_sched_lost_hedge(&job->sched, worker, false, atomic_load(&p->filled),
                         fdl_plan_slot(&job->plan, block)->hedged_ns, now);
    fdl_plan_give_back(&job->plan, worker, block);
    fdl_wakeup_nudge(&job->wakeups[worker]);
}

/* With no connection left to open, one that hardly moves is given to a better mirror.
 * Locked. */
static void free_stuck(struct fdl_job *job)
{
    struct fdl_sched *sched = &job->sched;

    if (sched->n_mirrors < 2 || sched->n_conns < job->cfg.max_conns)
        return;
    uint64_t now = fdl_now_ns();
    int worker = fdl_sched_find_stuck(sched, now);
    if (worker == FDL_NOBODY)
        return;
    struct fdl_progress *p = &sched->progress[worker];
    const struct fdl_slot *slot = fdl_plan_slot(&job->plan, atomic_load(&p->block));
    fdl_sched_lost_hedge(sched, worker, true, atomic_load(&p->filled), slot->claimed_ns,
                         now);
    p->mirror->lost_hedges += p->mirror->lost_hedges == 0;
    fdl_wakeup_nudge(&job->wakeups[worker]);
}

/* Adds connections while they pay, until nothing is left to do; those that are no
 * longer wanted end by themselves (job/worker.c). Locked. */
static void ramp_up(struct fdl_job *job)
{
    struct fdl_sched *sched = &job->sched;

    int mirrors = fdl_sched_usable(sched);
    /* Of several mirrors a slow one would have as many connections as the others. */
    bool busy = job->n_consumers == 0 && job->cfg.pieces.count > 0 && mirrors == 1;
    const struct fdl_ramp_start start = {
        .now_ns = fdl_now_ns(),
        .max = job->cfg.max_conns,
        .mirrors = mirrors,
        .first = fdl_sched_room_at(sched, job->cfg.first_conns),
        .far_away = fdl_sched_all_far(sched),
        .busy = busy,
    };

    fdl_ramp_init(&job->ramp, &start);
    while (!job->stop && !fdl_plan_done(&job->plan)) {
        while (!job->stop && sched->n_conns < job->ramp.wanted &&
               sched->n_conns < fdl_sched_room(sched))
            if (!fdl_workers_add(job, false))
                break;
        tick_wait(job);
        if (!job->stop) {
            fdl_verify_late(job);
            fdl_reach_update(job);
            end_vain(job);
            free_stuck(job);
            struct fdl_ramp_sample now = sample(job);
            fdl_ramp_update(&job->ramp, &now);
        }
    }
}

static void flush(struct fdl_job *job)
{
    uint64_t before = fdl_now_ns();
    struct fdl_err err;
    int rc = fdl_sink_flush(job->cfg.sink, &err);

    atomic_fetch_add(&job->flush_ns, fdl_now_ns() - before);
    if (rc == FDL_OK)
        return;
    pthread_mutex_lock(&job->lock);
    fdl_job_fail(job, &err);
    pthread_mutex_unlock(&job->lock);
}

static void *monitor_main(void *arg)
{
    struct fdl_job *job = arg;

    pthread_mutex_lock(&job->lock);
    if (!fdl_plan_done(&job->plan))
        fdl_job_check_mirrors(job);
    if (job->cfg.n_local > 0)
        fdl_workers_add(job, true);
    ramp_up(job);
    pthread_mutex_unlock(&job->lock);
    fdl_workers_join(job);
    fdl_consumers_join(job);

    pthread_mutex_lock(&job->lock);
    bool good = job->rc == FDL_OK && fdl_plan_done(&job->plan);
    pthread_mutex_unlock(&job->lock);
    if (good)
        flush(job);
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
    size_t bufs = cfg->window / cfg->block, conns = (size_t)cfg->max_conns,
           spare = conns + HEDGE_BUFFERS;
    int bad = 0;

    if (cfg->total != FDL_SIZE_UNKNOWN)
        n = cfg->total / cfg->block + (cfg->total % cfg->block != 0);
    /* Connections past the usual few bring a block each. */
    if (conns > USUAL_CONNS)
        bufs += conns - USUAL_CONNS;
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
    if (cfg->first_conns < 1)
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                        "no connection may be opened");
    if (cfg->block == 0 || cfg->block % FDL_BUF_ALIGN != 0)
        return fdl_fail(err, FDL_E_INTERNAL, FDL_NO_OFFSET,
                        "the block size is not aligned");
    return FDL_OK;
}

static void init_conditions(struct fdl_job *job)
{
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&job->space, &monotonic);
    pthread_cond_init(&job->data, &monotonic);
    pthread_cond_init(&job->ended, &monotonic);
    pthread_cond_init(&job->watched, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* Those whose bytes are part of the transfer already are known to have its source.
 * Where no digest decides, no other one may ever join: one that was asked would hold
 * blocks until its response is refused, and the only response that counts goes on
 * without them. */
static void vet_mirrors(const struct fdl_job_config *cfg)
{
    bool any = false;

    for (size_t i = 0; i < cfg->n_mirrors; i++) {
        cfg->mirrors[i]->provable = cfg->provable;
        cfg->mirrors[i]->vetted = cfg->first && cfg->first->mirror == cfg->mirrors[i];
    }
    for (size_t i = 0; i < cfg->n_known; i++)
        if (cfg->known[i].mirror >= 0)
            cfg->mirrors[cfg->known[i].mirror]->vetted = true;
    for (size_t i = 0; i < cfg->n_mirrors; i++)
        any |= cfg->mirrors[i]->vetted;
    for (size_t i = 0; any && !cfg->provable && i < cfg->n_mirrors; i++) {
        struct fdl_mirror *m = cfg->mirrors[i];
        if (m->vetted || m->state != FDL_MIRROR_READY)
            continue;
        m->state = FDL_MIRROR_IDLE;
        fdl_fail(&m->last_err, FDL_E_POLICY, FDL_NO_OFFSET, FDL_WHAT_NOT_JOINED);
    }
}

static int init_parts(struct fdl_job *job, struct fdl_err *err)
{
    const struct fdl_job_config *cfg = &job->cfg;
    int rc = check_config(cfg, err);

    if (rc != FDL_OK)
        return rc;
    vet_mirrors(cfg);
    rc = init_plan(job, err);
    if (rc != FDL_OK)
        return rc;
    if (cfg->log_requests && (job->requests = fdl_request_log_new()) == NULL)
        return fdl_nomem(err, "the notes about requests");
    job->sched = (struct fdl_sched){.mirrors = cfg->mirrors,
                                    .n_mirrors = cfg->n_mirrors,
                                    .plan = &job->plan,
                                    .block = cfg->block,
                                    .retry = cfg->retry,
                                    .retry_ns = cfg->retry_ns,
                                    .delay_ns = cfg->delay_ns};
    rc = fdl_pieces_init(&job->pieces, &cfg->pieces, cfg->total, cfg->block,
                         job->plan.window, err);
    if (rc != FDL_OK)
        return rc;
    if (job->pieces.mode == FDL_PIECES_OF_BLOCKS)
        job->plan.align = (uint32_t)job->pieces.blocks;
    fdl_gather_init(job);
    rc = fdl_consumers_init(job, err);
    if (rc == FDL_OK)
        rc = fdl_workers_init(job, err);
    if (rc == FDL_OK)
        fdl_reach_init(job);
    return rc;
}

int fdl_job_start(struct fdl_job **out, const struct fdl_job_config *config,
                  struct fdl_err *err)
{
    struct fdl_job *job = calloc(1, sizeof *job);

    if (!job) {
        if (config->first)
            config->first->ops->free(config->first);
        return fdl_nomem(err, "the transfer");
    }
    job->cfg = *config;
    job->total = config->total;
    fdl_err_clear(&job->err);
    pthread_mutex_init(&job->lock, NULL);
    init_conditions(job);
    job->started_ns = fdl_now_ns();
    int rc = init_parts(job, err);
    if (rc == FDL_OK)
        rc = fdl_consumers_start(job, err);
    if (rc == FDL_OK && pthread_create(&job->monitor, NULL, monitor_main, job) != 0)
        rc = fdl_fail(err, FDL_E_LIMIT, FDL_NO_OFFSET, "no thread can be started");
    if (rc != FDL_OK) {
        fdl_job_free(job);
        return rc;
    }
    job->monitor_started = true;
    *out = job;
    return FDL_OK;
}

/* Locked. */
static bool wants_spool(const struct fdl_job *job)
{
    return job->spool_wanted && !job->spool && !job->spool_failed;
}

bool fdl_job_wait(struct fdl_job *job, int timeout_ms, size_t records)
{
    struct timespec ts = fdl_deadline(timeout_ms);
    bool done;

    pthread_mutex_lock(&job->lock);
    job->landed_wanted = records;
    while (!job->finished && !wants_spool(job) &&
           !(records > 0 && job->landed.n >= records))
        if (pthread_cond_timedwait(&job->watched, &job->lock, &ts) != 0)
            break;
    done = job->finished;
    pthread_mutex_unlock(&job->lock);
    return done;
}

/* How many mirrors are in use, and how long all that are usable rest still. Locked. */
static int mirrors_in_use(const struct fdl_job *job, uint64_t *rest_ns)
{
    uint64_t now = fdl_now_ns(), soonest = UINT64_MAX;
    int used = 0;

    for (size_t i = 0; i < job->cfg.n_mirrors; i++) {
        const struct fdl_mirror *m = job->cfg.mirrors[i];
        used += m->active > 0;
        if (m->state != FDL_MIRROR_READY)
            continue;
        uint64_t rest = m->not_before_ns > now ? m->not_before_ns - now : 0;
        soonest = rest < soonest ? rest : soonest;
    }
    *rest_ns = soonest == UINT64_MAX ? 0 : soonest;
    return used;
}

void fdl_job_status(struct fdl_job *job, struct fdl_job_status *out)
{
    struct fdl_sink_stats sink;
    uint64_t landed = 0, decode_ns = 0;

    fdl_sink_get_stats(job->cfg.sink, &sink);
    if (job->cfg.lander)
        job->cfg.lander->ops->stats(job->cfg.lander, &landed, &decode_ns);
    pthread_mutex_lock(&job->lock);
    uint64_t rest_ns;
    int used = mirrors_in_use(job, &rest_ns);
    *out = (struct fdl_job_status){
        .total = job->total,
        .done_bytes = atomic_load(&job->done),
        .fetched_bytes = atomic_load(&job->fetched),
        .resumed_bytes = atomic_load(&job->resumed),
        .hedged_bytes = job->sched.hedged_bytes,
        .conns = job->sched.n_conns,
        .mirrors = used,
        .rest_ns = rest_ns,
        .running = !job->finished,
        .wants_spool = wants_spool(job),
        .fetch_ns = atomic_load(&job->times.recv_ns),
        .tls_ns = atomic_load(&job->times.tls_ns),
        .net_wait_ns = atomic_load(&job->times.wait_ns),
        .window_wait_ns = atomic_load(&job->window_wait_ns),
        .along_bytes = atomic_load(&job->along),
        .passes = job->gather.passes,
        .pass_blocks = job->gather.checked,
        .hash_ns = atomic_load(&job->hash_ns),
        .decode_ns = decode_ns,
        .write_ns = sink.busy_ns,
        .flush_ns = atomic_load(&job->flush_ns),
        .elapsed_ns = (job->finished ? job->ended_ns : fdl_now_ns()) - job->started_ns,
    };
    pthread_mutex_unlock(&job->lock);
}

void fdl_job_keep(struct fdl_job *job, struct fdl_sink *spool)
{
    pthread_mutex_lock(&job->lock);
    job->spool = spool;
    job->spool_failed = !spool;
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
    job->sched.unsettled -= n < job->sched.unsettled ? n : job->sched.unsettled;
    pthread_cond_broadcast(&job->space);
    pthread_mutex_unlock(&job->lock);
}

size_t fdl_job_requests(struct fdl_job *job, struct fdl_request_note *out, size_t cap,
                        size_t *lost)
{
    *lost = 0;
    return job->requests ? fdl_request_log_drain(job->requests, out, cap, lost) : 0;
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
    fdl_consumers_result(job, result);
    return FDL_OK;
}

const unsigned char *fdl_job_piece_list(const struct fdl_job *job, size_t *n)
{
    return fdl_consumers_piece_list(job, n);
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
    join_monitor(job);
    pthread_mutex_lock(&job->lock);
    job->stop = true; /* without a monitor there are consumers at most */
    pthread_cond_broadcast(&job->data);
    pthread_mutex_unlock(&job->lock);
    fdl_consumers_join(job);
    if (job->cfg.first)
        job->cfg.first->ops->free(job->cfg.first);
    for (uint32_t i = 0; job->plan.slots && i < job->plan.window; i++)
        fdl_buf_unref(job->plan.slots[i].buf);
    fdl_plan_destroy(&job->plan);
    fdl_pieces_destroy(&job->pieces);
    fdl_landed_clear(&job->landed);
    fdl_consumers_destroy(job);
    fdl_workers_destroy(job);
    fdl_request_log_free(job->requests);
    fdl_pool_free(job->pool);
    pthread_cond_destroy(&job->space);
    pthread_cond_destroy(&job->data);
    pthread_cond_destroy(&job->ended);
    pthread_cond_destroy(&job->watched);
    pthread_mutex_destroy(&job->lock);
    free(job);
}
