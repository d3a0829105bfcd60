/* SPDX-License-Identifier: Apache-2.0 */
#include "job/worker.h"
#include "job/chain.h"
#include "job/verify.h"
#include "job/fetch.h"

#include <stdlib.h>
#include <string.h>

/* For whoever watches the requests of this connection. The thread that reads the target
 * is the first one, where there is one. */
static void tap(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;

    w->stream->tap = (struct fdl_request_tap){.log = job->requests,
                                              .conn = w->id + (job->cfg.n_local == 0),
                                              .mirror = w->index};
}

/* Locked. */
static void note_left(const struct fdl_worker *w, const struct fdl_err *err)
{
    struct fdl_request_note note = {.event = FDL_REQUEST_LEFT, .err = *err};

    if (!w->stream->tap.log)
        return;
    if (err->code == FDL_E_CANCELLED && w->progress->mirror->state == FDL_MIRROR_READY)
        fdl_fail(&note.err, FDL_E_CANCELLED, FDL_NO_OFFSET,
                 "another connection is faster");
    fdl_request_log_add(&w->stream->tap, &note);
}

/* Locked. */
static void give_back_runs(struct fdl_worker *w)
{
    for (uint64_t b = w->run.first; b < w->run.end; b++)
        fdl_plan_give_back(&w->job->plan, w->id, b);
    for (uint64_t b = w->next.first; b < w->next.end; b++)
        fdl_plan_give_back(&w->job->plan, w->id, b);
    w->run = w->next = (struct fdl_run){0, 0};
    w->hedging = false;
    pthread_cond_broadcast(&w->job->space);
}

/* Locked. */
static void leave_mirror(struct fdl_worker *w)
{
    struct fdl_progress *p = w->progress;

    if (p->mirror)
        p->mirror->active--;
    p->mirror = NULL;
    if (w->stream)
        w->stream->ops->free(w->stream);
    w->stream = NULL;
    p->rate = p->flow = 0;
    atomic_store(&p->served, false);
}

/* ---- a run ----------------------------------------------------------------- */

/* Locked. Whether this block is still ours to fetch. */
static bool still_ours(const struct fdl_worker *w, uint64_t block)
{
    if (!fdl_plan_in_window(&w->job->plan, block))
        return false;
    const struct fdl_slot *slot = fdl_plan_slot(&w->job->plan, block);
    return slot->state == FDL_SLOT_CLAIMED &&
           (slot->owner == w->id || slot->hedger == w->id);
}

/* The next block of the run that is still ours, FDL_NO_BLOCK where there is none.
 * Locked. */
static uint64_t next_block(struct fdl_worker *w)
{
    while (w->run.first < w->run.end && !still_ours(w, w->run.first))
        w->run.first++;
    return w->run.first < w->run.end && !w->job->stop ? w->run.first : FDL_NO_BLOCK;
}

/* The block in w->buf is complete. */
static void deliver(struct fdl_worker *w, uint64_t block)
{
    struct fdl_job *job = w->job;
    struct fdl_progress *p = w->progress;
    struct fdl_buf *buf = w->buf;
    uint64_t mirrors = w->buf_mirrors;

    if (w->sum)
        buf->xxh3 = fdl_sum_value(w->sum);
    w->buf = NULL;
    w->buf_mirrors = 0;
    if (p->local)
        atomic_fetch_add(&job->resumed, buf->len);
    fdl_verify_deliver(job, w->id, block, buf, mirrors);
    pthread_mutex_lock(&job->lock);
    w->run.first = block + 1;
    fdl_wakeup_clear(w->wakeup); /* it was about this block */
    if (p->mirror) {
        p->mirror->failures = 0;
        p->mirror->rate = p->rate;
        if (!w->hedging && p->mirror->lost_hedges > 0 &&
            fdl_now_ns() > p->mirror->not_before_ns)
            p->mirror->lost_hedges--;
    }
    pthread_mutex_unlock(&job->lock);
}

static int fetch_run(struct fdl_worker *w, struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    struct fdl_progress *p = w->progress;

    for (;;) {
        pthread_mutex_lock(&job->lock);
        uint64_t block = next_block(w);
        bool over = block == FDL_NO_BLOCK;
        bool lost = !over && p->mirror && p->mirror->state != FDL_MIRROR_READY;
        /* Published under the lock, so a hedging worker sees our block and can wake us.
         */
        atomic_store(&p->block, lost ? FDL_NO_BLOCK : block);
        /* It is in work, also where the open response or memory gives it: what was
         * stolen now would be filled to its end and thrown away. */
        if (!over && !lost && fdl_plan_slot(&job->plan, block)->owner == w->id)
            fdl_plan_slot(&job->plan, block)->requested = true;
        atomic_store(&p->filled, w->buf && w->buf_block == block ? w->buf->len : 0);
        pthread_mutex_unlock(&job->lock);
        if (over)
            return FDL_OK;
        if (lost)
            return fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET,
                            "the mirror was disqualified");
        if (!fdl_fetch_begin(w, block))
            return FDL_OK;
        int rc =
            p->local ? fdl_fetch_local(w, block, err) : fdl_fetch_block(w, block, err);
        if (rc == 1) { /* nothing there any more */
            fdl_fetch_forget(w);
            return FDL_OK;
        }
        if (rc != FDL_OK)
            return rc;
        deliver(w, block);
    }
}

/* Locked. */
static void wait_for_room(struct fdl_job *job, long ms)
{
    uint64_t before = fdl_now_ns();

    job->held++;
    fdl_wait_for_space(job, ms);
    job->held--;
    atomic_fetch_add(&job->window_wait_ns, fdl_now_ns() - before);
}

/* ---- what to do next ------------------------------------------------------- */

/* A server without ranges continues with the next block in file order; what the caller
 * had read before comes from memory, and first: nobody else would fetch it. Locked. */
static bool next_of_whole(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;
    uint64_t size = job->cfg.block, block = w->stream->off / size;

    for (uint64_t b = job->plan.base; b < block && b < job->plan.n_blocks; b++) {
        if (fdl_fetch_is_known(job, b * size, (b + 1) * size) &&
            fdl_plan_claim_at(&job->plan, w->id, b, fdl_now_ns()) == 1) {
            w->run = (struct fdl_run){b, b + 1};
            return true;
        }
    }
    if (w->stream->off % size && !fdl_fetch_is_known(job, block * size, w->stream->off))
        block++;
    while (!job->stop && block < job->plan.n_blocks) {
        int got = fdl_plan_claim_at(&job->plan, w->id, block, fdl_now_ns());
        if (got == 1) {
            w->run = (struct fdl_run){block, block + 1};
            return true;
        }
        if (got < 0)
            return false;
        if (!fdl_verify_write_one(job) && !fdl_verify_gathered(job))
            wait_for_room(job, 20);
    }
    return false;
}

/* Fetches a late block a second time; a hedger that is late too is called off. Locked.
 */
static bool start_hedge(struct fdl_worker *w, uint64_t now_ns)
{
    struct fdl_job *job = w->job;
    uint64_t block;

    if (!fdl_sched_find_hedge(&job->sched, w->id, now_ns, &block))
        return false;
    int before = fdl_plan_hedge(&job->plan, w->id, block, now_ns);
    if (before != FDL_NOBODY)
        fdl_wakeup_nudge(&job->wakeups[before]);
    job->sched.hedged_bytes += job->cfg.block;
    job->sched.twice_bytes += job->cfg.block;
    w->run = (struct fdl_run){block, block + 1};
    w->hedging = true;
    return true;
}

/* True where w->run is to be fetched. Locked. */
static bool find_work(struct fdl_worker *w)
{
    uint64_t now = fdl_now_ns();

    if (w->next.end > w->next.first) {
        w->run = w->next;
        w->next = (struct fdl_run){0, 0};
        return true;
    }
    if (!w->progress->local && w->stream->whole && next_of_whole(w))
        return true;
    return (!fdl_chain_is_behind(w->job) &&
            fdl_sched_next_run(&w->job->sched, w->id, now, &w->run)) ||
           start_hedge(w, now);
}

/* True where the worker has a mirror and a stream. Locked. */
static bool find_mirror(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;
    struct fdl_progress *p = w->progress;
    uint64_t now = fdl_now_ns();

    if (p->mirror && p->mirror->state == FDL_MIRROR_READY && w->stream &&
        p->mirror->not_before_ns <= now)
        return true;
    leave_mirror(w);
    int index = fdl_sched_pick_mirror(&job->sched, now);
    if (index == FDL_NO_MIRROR)
        return false;
    w->index = index;
    p->mirror = job->cfg.mirrors[index];
    p->mirror->active++;
    p->gained = 0;
    w->stream = fdl_stream_new(p->mirror, job->cfg.net, w->wakeup, &job->times);
    if (!w->stream) {
        struct fdl_err err;
        if (p->mirror->kind == FDL_MIRROR_NFS)
            fdl_fail(&err, FDL_E_USAGE, FDL_NO_OFFSET,
                     "this build of fastdl has no NFS support (libnfs)");
        else
            fdl_nomem(&err, "a connection");
        fdl_job_disqualify(job, index, &err);
        return false;
    }
    tap(w);
    return true;
}

/* ---- failures -------------------------------------------------------------- */

/* A nudge: the worker lost a hedge, or its mirror was disqualified. Locked. */
static void interrupted(struct fdl_worker *w)
{
    fdl_wakeup_clear(w->wakeup);
    give_back_runs(w);
    if (w->buf_mirrors & (UINT64_C(1) << w->index) &&
        w->progress->mirror->state != FDL_MIRROR_READY)
        fdl_fetch_forget(w);
}

/* What becomes of the mirror, and of the transfer. True where the worker is one too
 * many for it. Locked. */
static bool mirror_failed(struct fdl_worker *w, const struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    struct fdl_mirror *m = w->progress->mirror;

    /* It may not join, which is not its fault. */
    if (err->code == FDL_E_POLICY && m->pinned && !job->cfg.provable &&
        atomic_load(&job->fetched) > 0) {
        fdl_job_set_aside(job, w->index, err);
        return false;
    }
    /* Ours, or bytes of that response have landed and nothing proves them. */
    if (err->code == FDL_E_INTERNAL || err->code == FDL_E_LIMIT ||
        (err->code == FDL_E_INTEGRITY && !job->cfg.provable)) {
        fdl_job_fail(job, err);
        return false;
    }
    atomic_fetch_add_explicit(&m->errors, 1, memory_order_relaxed);
    m->last_err = *err;
    m->last_err.mirror = w->index;
    switch (fdl_sched_failed(&job->sched, w->id, err, fdl_now_ns())) {
    case FDL_DECIDE_LEAVE:
        return true;
    case FDL_DECIDE_DISQUALIFY:
        fdl_job_disqualify(job, w->index, err);
        return false;
    default:
        return false;
    }
}

/* Locked. */
static void run_failed(struct fdl_worker *w, const struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    struct fdl_progress *p = w->progress;

    atomic_store(&p->block, FDL_NO_BLOCK);
    if (p->local) {
        /* The copy is not to be trusted: the block comes from a mirror after all. */
        fdl_plan_unmark_local(&job->plan, w->run.first);
        give_back_runs(w);
        return;
    }
    note_left(w, err);
    if (err->code == FDL_E_CANCELLED) {
        interrupted(w);
        return;
    }
    bool leaves = mirror_failed(w, err);
    p->gained = 0;
    /* Bytes of a mirror that lied are not kept; those before a cut are. */
    if (err->code != FDL_E_NET && err->code != FDL_E_HTTP_STATUS)
        fdl_fetch_forget(w);
    if (leaves || p->mirror->state != FDL_MIRROR_READY ||
        p->mirror->not_before_ns > fdl_now_ns()) {
        give_back_runs(w);
        if (leaves)
            leave_mirror(w);
        return;
    }
    /* The request that had gone out ahead went down with the connection. */
    for (uint64_t b = w->next.first; b < w->next.end; b++)
        fdl_plan_slot(&job->plan, b)->requested = false;
}

/* ---- life ------------------------------------------------------------------ */

/* Locked. */
static bool is_surplus(const struct fdl_worker *w)
{
    return w->run.first >= w->run.end && w->next.first >= w->next.end &&
           fdl_sched_is_surplus(&w->job->sched, w->id, w->job->ramp.wanted);
}

static void *worker_main(void *arg)
{
    struct fdl_worker *w = arg;
    struct fdl_job *job = w->job;
    struct fdl_err err;

    /* Few blocks of a source that is decoded are kept: see verify.c. */
    bool sums = job->cfg.record && !job->cfg.lander && !w->progress->local;

    if (sums)
        w->sum = fdl_sum_new();
    pthread_mutex_lock(&job->lock);
    if (sums && !w->sum) {
        fdl_nomem(&err, "a checksum");
        fdl_job_fail(job, &err);
    }
    while (!job->stop && !fdl_plan_done(&job->plan) && !is_surplus(w)) {
        bool ready = w->progress->local || find_mirror(w);
        bool work = ready && (w->run.first < w->run.end || find_work(w));
        if (!work && (fdl_verify_write_one(job) || fdl_verify_gathered(job)))
            continue;
        if (!work) {
            if (ready)
                wait_for_room(job, 4);
            else
                fdl_wait_for_space(job, 20);
            continue;
        }
        pthread_mutex_unlock(&job->lock);
        fdl_err_clear(&err);
        int rc = fetch_run(w, &err);
        pthread_mutex_lock(&job->lock);
        if (rc == FDL_OK) {
            w->run = (struct fdl_run){0, 0};
            w->hedging = false;
            fdl_wakeup_clear(w->wakeup);
        } else if (!job->stop) {
            run_failed(w, &err);
        }
    }
    give_back_runs(w);
    leave_mirror(w);
    if (!job->stop && !fdl_plan_done(&job->plan) && !w->progress->local) {
        job->sched.n_conns--;
        w->ended = true;
    }
    pthread_mutex_unlock(&job->lock);
    fdl_fetch_forget(w);
    fdl_sum_free(w->sum);
    return NULL;
}

/* The connection continues with the caller's response. Locked. */
static void take_first(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;
    struct fdl_mirror *m = job->cfg.first->mirror;

    w->stream = job->cfg.first;
    job->cfg.first = NULL;
    w->progress->mirror = m;
    m->active++;
    for (size_t i = 0; i < job->cfg.n_mirrors; i++)
        if (job->cfg.mirrors[i] == m)
            w->index = (int)i;
    w->stream->ops->rebind(w->stream, w->wakeup, &job->times);
    tap(w);
    /* The lowest block is what its response gives. */
    fdl_sched_next_run(&job->sched, w->id, fdl_now_ns(), &w->run);
}

int fdl_workers_init(struct fdl_job *job, struct fdl_err *err)
{
    size_t n = (size_t)job->cfg.max_conns + 1;

    job->workers = calloc(n, sizeof *job->workers);
    job->sched.progress =
        aligned_alloc(_Alignof(struct fdl_progress), n * sizeof *job->sched.progress);
    if (!job->workers || !job->sched.progress)
        return fdl_nomem(err, "the transfer");
    memset(job->sched.progress, 0, n * sizeof *job->sched.progress);
    return FDL_OK;
}

/* Where a worker has ended that was one too many, else behind the last. Its thread
 * takes no lock any more. Locked. */
static int free_place(struct fdl_job *job)
{
    for (int i = 0; i < job->sched.n_workers; i++) {
        struct fdl_worker *w = &job->workers[i];
        if (!w->ended)
            continue;
        pthread_join(w->thread, NULL);
        w->started = false;
        return i;
    }
    return job->sched.n_workers;
}

bool fdl_workers_add(struct fdl_job *job, bool local)
{
    struct fdl_err err;
    int rc = FDL_OK, id = free_place(job);
    struct fdl_worker *w = &job->workers[id];

    *w = (struct fdl_worker){.job = job,
                             .id = id,
                             .progress = &job->sched.progress[id],
                             .index = FDL_NO_MIRROR,
                             .wakeup = &job->wakeups[id]};
    w->progress->local = local;
    atomic_store(&w->progress->block, FDL_NO_BLOCK);
    if (id == job->sched.n_workers) {
        rc = fdl_wakeup_init(w->wakeup, &err);
        job->sched.n_workers++;
    }
    job->sched.n_conns += !local;
    if (rc == FDL_OK && pthread_create(&w->thread, NULL, worker_main, w) != 0)
        rc = fdl_fail(&err, FDL_E_LIMIT, FDL_NO_OFFSET, "no thread can be started");
    if (rc != FDL_OK) {
        fdl_job_fail(job, &err);
        return false;
    }
    w->started = true;
    /* Only now, when somebody will free it; the thread waits for the lock. */
    if (!local && job->cfg.first)
        take_first(w);
    return true;
}

void fdl_workers_join(struct fdl_job *job)
{
    for (int i = 0; i < job->sched.n_workers; i++)
        if (job->workers[i].started)
            pthread_join(job->workers[i].thread, NULL);
}

void fdl_workers_destroy(struct fdl_job *job)
{
    for (int i = 0; i < job->sched.n_workers; i++)
        fdl_wakeup_destroy(&job->wakeups[i]);
    free(job->workers);
    free(job->sched.progress);
}
