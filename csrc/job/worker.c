/* SPDX-License-Identifier: Apache-2.0 */
/* job/worker.c - FETCH: the life of a connection's thread. It claims a run of blocks,
 * asks its mirror for them, fills block after block, and delivers each one. */
#include "base/clock.h"
#include "job/job_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PIPELINE_MIN_BYTES (64 * 1024)
#define PACED_READ (64 * 1024)
#define NO_BLOCK UINT64_MAX

static void wait_ms(pthread_cond_t *cond, pthread_mutex_t *lock, long ms)
{
    struct timespec ts = fdl_deadline(ms);

    pthread_cond_timedwait(cond, lock, &ts);
}

static void forget_block(struct fdl_worker *w)
{
    fdl_buf_unref(w->buf);
    w->buf = NULL;
    w->buf_mirrors = 0;
}

/* The journal's checksum is taken while the bytes are still in the processor's cache.
 */
static void sum_block(struct fdl_worker *w)
{
    if (!w->sum)
        return;
    if (w->summed == 0)
        fdl_sum_reset(w->sum);
    fdl_sum_update(w->sum, w->buf->data + w->summed, w->buf->len - w->summed);
    w->summed = w->buf->len;
}

/* Locked. */
static void give_back_runs(struct fdl_worker *w)
{
    for (uint64_t b = w->run_at; b < w->run_end; b++)
        fdl_plan_give_back(&w->job->plan, w->id, b);
    for (uint64_t b = w->next_at; b < w->next_end; b++)
        fdl_plan_give_back(&w->job->plan, w->id, b);
    w->run_at = w->run_end = w->next_at = w->next_end = 0;
    w->hedging = false;
    pthread_cond_broadcast(&w->job->space);
}

/* Locked. */
static void leave_mirror(struct fdl_worker *w)
{
    if (w->mirror)
        w->mirror->active--;
    w->mirror = NULL;
    if (w->stream)
        w->stream->ops->free(w->stream);
    w->stream = NULL;
    w->rate = w->flow = 0;
    atomic_store(&w->served, false);
}

/* ---- pace ------------------------------------------------------------------ */

/* With a rate limit every byte has its time; all connections share one clock. */
static void pace(struct fdl_worker *w, uint64_t n)
{
    struct fdl_job *job = w->job;

    if (job->cfg.limit_rate == 0)
        return;
    uint64_t cost = n * FDL_NS_PER_S / job->cfg.limit_rate, now = fdl_now_ns(), due;
    uint64_t at = atomic_load(&job->pace_ns);
    do
        due = (at > now ? at : now) + cost;
    while (!atomic_compare_exchange_weak(&job->pace_ns, &at, due));
    while (due > now && !atomic_load(&w->wake.cancel)) {
        uint64_t slice =
            due - now < 50 * FDL_NS_PER_MS ? due - now : 50 * FDL_NS_PER_MS;
        struct timespec ts = fdl_timespec(slice);
        nanosleep(&ts, NULL);
        now = fdl_now_ns();
    }
}

/* ---- one block ------------------------------------------------------------- */

/* The caller's extent at or after pos; NULL where there is none. */
static const struct fdl_known *known_from(const struct fdl_job *job, uint64_t pos)
{
    size_t lo = 0, hi = job->cfg.n_known;

    if (job->ignore_known)
        return NULL;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (job->cfg.known[mid].off + job->cfg.known[mid].len <= pos)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < job->cfg.n_known ? &job->cfg.known[lo] : NULL;
}

/* The first response of a mirror in this job tells whether it has the same source. A
 * validator tells versions of one origin apart and says nothing about another's:
 * without a digest there is one mirror, and bytes of one that gave up since are still
 * in use. */
static int check_identity(struct fdl_worker *w, struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    struct fdl_mirror *m = w->mirror;
    int rc = FDL_OK;

    if (m->total != UINT64_MAX && job->total != FDL_SIZE_UNKNOWN &&
        m->total != job->total)
        return fdl_fail(err, FDL_E_SIZE, FDL_NO_OFFSET,
                        "the mirror's file has another size than expected");
    pthread_mutex_lock(&job->lock);
    bool proven = m->vetted || job->cfg.provable;
    for (size_t i = 0; rc == FDL_OK && !proven && i < job->cfg.n_mirrors; i++) {
        const struct fdl_mirror *other = job->cfg.mirrors[i];
        if (other != m && other->vetted)
            rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET,
                          "not joined: no digest proves that this mirror has the same "
                          "bytes");
    }
    m->vetted = rc == FDL_OK;
    pthread_mutex_unlock(&job->lock);
    return rc;
}

/* Asks for what is missing from pos on, at most to the end of the run. */
static int request(struct fdl_worker *w, uint64_t pos, uint64_t stop,
                   struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    struct fdl_stream *s = w->stream;
    bool open_end =
        job->total == FDL_SIZE_UNKNOWN && w->mirror->ranges != FDL_RANGES_YES;

    pthread_mutex_lock(&job->lock);
    for (uint64_t b = w->run_at; b < w->run_end && b * job->cfg.block < stop; b++) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, b);
        if (slot->owner == w->id)
            slot->requested = true;
    }
    pthread_mutex_unlock(&job->lock);
    int rc = s->ops->begin(s, pos, open_end ? UINT64_MAX : stop - pos, err);
    return rc == FDL_OK ? check_identity(w, err) : rc;
}

/* With a long way to the mirror the next request goes out before this answer is over.
 */
static void maybe_prefetch(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;
    struct fdl_stream *s = w->stream;
    double trip = w->rate * (double)w->mirror->rtt_ns / FDL_NS_PER_S;

    if (w->hedging || w->next_end > w->next_at || trip < PIPELINE_MIN_BYTES ||
        s->end == UINT64_MAX || s->whole || s->end - s->off > (uint64_t)(trip * 1.5))
        return;
    pthread_mutex_lock(&job->lock);
    bool last = s->end == w->run_end * job->cfg.block;
    if (last && fdl_sched_next_run(w, fdl_now_ns(), &w->next_at, &w->next_end)) {
        for (uint64_t b = w->next_at; b < w->next_end; b++)
            fdl_plan_slot(&job->plan, b)->requested = true;
    } else {
        last = false;
    }
    pthread_mutex_unlock(&job->lock);
    if (!last)
        return;
    uint64_t off = w->next_at * job->cfg.block, end = w->next_end * job->cfg.block;
    if (job->total != FDL_SIZE_UNKNOWN && end > job->total)
        end = job->total;
    const struct fdl_known *k = known_from(job, off);
    if (!k || k->off >= end)
        s->ops->prefetch(s, off, end - off);
}

/* The end of a source of unknown size. */
static int end_of_source(struct fdl_worker *w, uint64_t total, struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    uint64_t n = total / job->cfg.block + (total % job->cfg.block != 0);
    bool contradiction;

    pthread_mutex_lock(&job->lock);
    contradiction = n < job->plan.base;
    for (uint64_t b = job->plan.base > n ? job->plan.base : n;
         fdl_plan_in_window(&job->plan, b); b++)
        contradiction |= fdl_plan_slot(&job->plan, b)->state >= FDL_SLOT_FILLED;
    if (contradiction || (job->total != FDL_SIZE_UNKNOWN && job->total != total)) {
        pthread_mutex_unlock(&job->lock);
        return fdl_fail(err, FDL_E_SIZE, total,
                        "the source ends earlier than another mirror's");
    }
    job->total = total;
    job->plan.n_blocks = n;
    if (fdl_plan_done(&job->plan))
        fdl_job_wake_all(job);
    pthread_cond_broadcast(&job->space);
    pthread_cond_broadcast(&job->data);
    pthread_cond_broadcast(&job->ended);
    pthread_mutex_unlock(&job->lock);
    return FDL_OK;
}

/* Whether a server that does not tell its length has more bytes than the source should.
 */
static bool goes_on(struct fdl_worker *w, uint64_t pos)
{
    const struct fdl_stream *s = w->stream;
    struct fdl_err ignored; /* what was wanted is there, however the answer ends */
    char more;

    return s->whole && s->end == UINT64_MAX && s->off == pos && pos == w->job->total &&
           w->stream->ops->read(w->stream, &more, 1, &ignored) > 0;
}

static void smooth(double *rate, size_t bytes, uint64_t ns)
{
    double now = (double)bytes * FDL_NS_PER_S / (double)(ns > 0 ? ns : 1);

    *rate = *rate > 0 ? 0.7 * *rate + 0.3 * now : now;
}

/* Fills w->buf from where it stands to the end of its block. 1: the source ended before
 * any byte of the block. */
static int fill_block(struct fdl_worker *w, uint64_t block, struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    uint64_t start = block * job->cfg.block, before = fdl_now_ns(), asked_ns = 0;
    size_t from = w->buf->len;

    for (;;) {
        uint64_t total = job->total;
        if (total != FDL_SIZE_UNKNOWN && start >= total)
            return 1;
        uint64_t pos = start + w->buf->len, stop = start + fdl_block_len(job, block);
        if (pos == stop)
            break;
        if (pos > stop) /* the end became known while this block was on its way */
            return fdl_fail(err, FDL_E_SIZE, pos,
                            "the source is longer than another mirror's");
        const struct fdl_known *k = known_from(job, pos);
        if (k && k->off <= pos) {
            uint64_t n = k->off + k->len - pos;
            if (n > stop - pos)
                n = stop - pos;
            memcpy(w->buf->data + w->buf->len, k->data + (pos - k->off), (size_t)n);
            w->buf->len += (size_t)n;
            if (k->mirror >= 0)
                w->buf_mirrors |= UINT64_C(1) << k->mirror;
            sum_block(w);
            atomic_fetch_add_explicit(&job->fetched, n, memory_order_relaxed);
            continue;
        }
        if (k && k->off < stop)
            stop = k->off;
        if (w->stream->off != pos || w->stream->end <= pos) {
            uint64_t run_stop = w->run_end * job->cfg.block;
            if (job->total != FDL_SIZE_UNKNOWN && run_stop > job->total)
                run_stop = job->total;
            if (k && k->off < run_stop)
                run_stop = k->off;
            uint64_t asked = fdl_now_ns();
            int rc = request(w, pos, run_stop, err);
            if (rc != FDL_OK)
                return rc;
            asked_ns += fdl_now_ns() - asked;
        }
        size_t room = (size_t)(stop - pos);
        if (job->cfg.limit_rate > 0 && room > PACED_READ)
            room = PACED_READ;
        long n = w->stream->ops->read(w->stream, w->buf->data + w->buf->len, room, err);
        if (n < 0)
            return (int)n;
        if (n == 0) {
            if (job->total == FDL_SIZE_UNKNOWN && w->stream->whole) {
                uint64_t told = w->mirror->total;
                int rc = end_of_source(w, told < pos ? told : pos, err);
                if (rc != FDL_OK || w->buf->len == 0)
                    return rc != FDL_OK ? rc : 1;
            }
            w->stream->end =
                pos; /* an answer may be shorter than asked: ask for the rest */
            continue;
        }
        w->buf->len += (size_t)n;
        sum_block(w);
        w->buf_mirrors |= UINT64_C(1) << w->mirror_index;
        w->gained += (uint64_t)n;
        atomic_store_explicit(&w->served, true, memory_order_relaxed);
        atomic_store_explicit(&w->at_fill, w->buf->len, memory_order_relaxed);
        atomic_fetch_add_explicit(&job->fetched, (uint64_t)n, memory_order_relaxed);
        pace(w, (uint64_t)n);
        maybe_prefetch(w);
    }
    if (goes_on(w, start + w->buf->len))
        return fdl_fail(err, FDL_E_SIZE, start + w->buf->len,
                        "the source is longer than expected");
    uint64_t took = fdl_now_ns() - before;
    if (w->buf->len - from > job->cfg.block / 4) {
        smooth(&w->rate, w->buf->len - from, took);
        smooth(&w->flow, w->buf->len - from, took - asked_ns);
    }
    return FDL_OK;
}

/* A block of the target itself. FDL_E_TARGET_CHANGED where it is not what the journal
 * says. */
static int read_local(struct fdl_worker *w, uint64_t block, struct fdl_err *err)
{
    const struct fdl_job *job = w->job;
    uint64_t off = block * job->cfg.block;
    size_t len = fdl_block_len(job, block), lo = 0, hi = job->cfg.n_local;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (job->cfg.local[mid].off < off)
            lo = mid + 1;
        else
            hi = mid;
    }
    while (w->buf->len < len) {
        ssize_t n = pread(job->cfg.local_fd, w->buf->data + w->buf->len,
                          len - w->buf->len, (off_t)(off + w->buf->len));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fdl_fail(err, FDL_E_TARGET_CHANGED, off,
                            "the target cannot be read back");
        w->buf->len += (size_t)n;
    }
    if (lo == job->cfg.n_local || job->cfg.local[lo].off != off ||
        fdl_sum_of(w->buf->data, len) != job->cfg.local[lo].xxh3)
        return fdl_fail(err, FDL_E_TARGET_CHANGED, off,
                        "the target is not what it was");
    return FDL_OK;
}

/* ---- a run ----------------------------------------------------------------- */

/* Gets memory for the block, or keeps what a cut connection left of it. */
static bool take_buffer(struct fdl_worker *w, uint64_t block)
{
    struct fdl_job *job = w->job;

    if (w->buf && w->buf_block == block)
        return true;
    forget_block(w);
    while ((w->buf = fdl_pool_get(job->pool)) == NULL) {
        pthread_mutex_lock(&job->lock);
        bool stop = job->stop;
        if (!stop)
            wait_ms(&job->space, &job->lock, 1);
        pthread_mutex_unlock(&job->lock);
        if (stop)
            return false;
    }
    w->buf->len = w->summed = 0;
    w->buf->off = block * job->cfg.block;
    w->buf_block = block;
    return true;
}

/* Locked. Whether this block is still ours to fetch. */
static bool still_ours(const struct fdl_worker *w, uint64_t block)
{
    if (!fdl_plan_in_window(&w->job->plan, block))
        return false;
    const struct fdl_slot *slot = fdl_plan_slot(&w->job->plan, block);
    return slot->state == FDL_SLOT_CLAIMED &&
           (slot->owner == w->id || slot->hedger == w->id);
}

static int fetch_run(struct fdl_worker *w, struct fdl_err *err)
{
    struct fdl_job *job = w->job;

    for (;;) {
        pthread_mutex_lock(&job->lock);
        while (w->run_at < w->run_end && !still_ours(w, w->run_at))
            w->run_at++;
        uint64_t block = w->run_at;
        bool over = w->run_at >= w->run_end || job->stop;
        bool struck = w->mirror && w->mirror->state != FDL_MIRROR_READY;
        /* Told under the lock: who overtakes us here finds us, and rings. */
        atomic_store(&w->at_block, over || struck ? NO_BLOCK : block);
        atomic_store(&w->at_fill, w->buf && w->buf_block == block ? w->buf->len : 0);
        pthread_mutex_unlock(&job->lock);
        if (over)
            return FDL_OK;
        if (struck)
            return fdl_fail(err, FDL_E_CANCELLED, FDL_NO_OFFSET,
                            "the mirror was struck off");
        if (!take_buffer(w, block))
            return FDL_OK;
        int rc = w->local ? read_local(w, block, err) : fill_block(w, block, err);
        if (rc == 1) { /* nothing there any more */
            forget_block(w);
            return FDL_OK;
        }
        if (rc != FDL_OK)
            return rc;
        struct fdl_buf *buf = w->buf;
        if (w->sum)
            buf->xxh3 = fdl_sum_value(w->sum);
        uint64_t mirrors = w->buf_mirrors;
        w->buf = NULL;
        w->buf_mirrors = 0;
        if (w->local)
            atomic_fetch_add(&job->resumed, buf->len);
        fdl_verify_deliver(w, block, buf, mirrors);
        pthread_mutex_lock(&job->lock);
        w->run_at = block + 1;
        fdl_wake_clear(&w->wake); /* it was about this block */
        if (w->mirror) {
            w->mirror->failures = 0;
            w->mirror->rate = w->rate;
            if (!w->hedging && w->mirror->lost_hedges > 0 &&
                fdl_now_ns() > w->mirror->not_before_ns)
                w->mirror->lost_hedges--;
        }
        pthread_mutex_unlock(&job->lock);
    }
}

/* Whether one of the caller's extents has all of [off, end). */
static bool is_known(const struct fdl_job *job, uint64_t off, uint64_t end)
{
    const struct fdl_known *k = known_from(job, off);

    return k && k->off <= off && k->off + k->len >= end;
}

/* A server without ranges goes on with the next block in file order; what the caller
 * had read before comes from memory, and first: nobody else would fetch it. Locked. */
static bool next_of_whole(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;
    uint64_t size = job->cfg.block, block = w->stream->off / size;

    for (uint64_t b = job->plan.base; b < block && b < job->plan.n_blocks; b++) {
        if (is_known(job, b * size, (b + 1) * size) &&
            fdl_plan_claim_at(&job->plan, w->id, b, fdl_now_ns()) == 1) {
            w->run_at = b;
            w->run_end = b + 1;
            return true;
        }
    }
    if (w->stream->off % size && !is_known(job, block * size, w->stream->off))
        block++;
    while (!job->stop && block < job->plan.n_blocks) {
        int got = fdl_plan_claim_at(&job->plan, w->id, block, fdl_now_ns());
        if (got == 1) {
            w->run_at = block;
            w->run_end = block + 1;
            return true;
        }
        if (got < 0)
            return false;
        uint64_t before = fdl_now_ns();
        wait_ms(&job->space, &job->lock, 20);
        atomic_fetch_add(&job->window_wait_ns, fdl_now_ns() - before);
    }
    return false;
}

/* Locked. True where w->run_at … run_end is to be fetched. */
static bool find_work(struct fdl_worker *w)
{
    uint64_t now = fdl_now_ns();

    if (w->next_end > w->next_at) {
        w->run_at = w->next_at;
        w->run_end = w->next_end;
        w->next_at = w->next_end = 0;
        return true;
    }
    if (!w->local && w->stream->whole && next_of_whole(w))
        return true;
    if (fdl_sched_next_run(w, now, &w->run_at, &w->run_end))
        return true;
    if (fdl_sched_hedge(w, now, &w->run_at)) {
        w->run_end = w->run_at + 1;
        w->hedging = true;
        return true;
    }
    return false;
}

/* Locked. True where the worker has a mirror and a stream. */
static bool find_mirror(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;
    bool later;
    int index = 0;

    if (w->mirror && w->mirror->state == FDL_MIRROR_READY && w->stream &&
        w->mirror->not_before_ns <= fdl_now_ns())
        return true;
    leave_mirror(w);
    w->mirror = fdl_sched_pick_mirror(job, fdl_now_ns(), &index, &later);
    if (!w->mirror)
        return false;
    w->mirror_index = index;
    w->mirror->active++;
    w->gained = 0;
    w->stream = fdl_stream_new(w->mirror, job->cfg.net, &w->wake, &job->times);
    if (!w->stream) {
        struct fdl_err err;
        if (w->mirror->kind == FDL_MIRROR_NFS)
            fdl_fail(&err, FDL_E_USAGE, FDL_NO_OFFSET,
                     "this build of fastdl has no NFS support (libnfs)");
        else
            fdl_nomem(&err, "a connection");
        fdl_sched_strike(job, w->mirror, index, &err);
        return false;
    }
    return true;
}

/* Locked on entry and exit. */
static void run_failed(struct fdl_worker *w, const struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    bool leaves = false;

    atomic_store(&w->at_block, NO_BLOCK);
    if (w->local) {
        /* The copy is not to be trusted: the block comes from a mirror after all. */
        fdl_plan_unmark_local(&job->plan, w->run_at);
        give_back_runs(w);
        return;
    }
    if (err->code ==
        FDL_E_CANCELLED) { /* a nudge: lost a hedge, or the mirror is out */
        fdl_wake_clear(&w->wake);
        give_back_runs(w);
        if (w->buf_mirrors & (UINT64_C(1) << w->mirror_index) &&
            w->mirror->state != FDL_MIRROR_READY)
            forget_block(w);
        return;
    }
    if (err->code == FDL_E_POLICY && w->mirror->pinned && !job->cfg.provable &&
        atomic_load(&job->fetched) > 0) {
        struct fdl_err idle;
        fdl_err_clear(&idle);
        snprintf(idle.what, sizeof idle.what, "%s", err->what);
        fdl_sched_strike(job, w->mirror, w->mirror_index, &idle);
    } else if (err->code == FDL_E_INTERNAL || err->code == FDL_E_LIMIT ||
               (err->code == FDL_E_INTEGRITY && !job->cfg.provable)) {
        fdl_job_fail(
            job, err); /* bytes of that answer have landed, and nothing proves them */
    } else {
        leaves = fdl_sched_mirror_failed(w, err);
    }
    w->gained = 0;
    /* Bytes of a mirror that lied are not kept; those before a cut are. */
    if (err->code != FDL_E_NET && err->code != FDL_E_HTTP_STATUS)
        forget_block(w);
    if (leaves || w->mirror->state != FDL_MIRROR_READY ||
        w->mirror->not_before_ns > fdl_now_ns()) {
        give_back_runs(w);
        if (leaves)
            leave_mirror(w);
    } else if (w->stream->ops && w->next_end > w->next_at) {
        for (uint64_t b = w->next_at; b < w->next_end; b++)
            fdl_plan_slot(&job->plan, b)->requested = false;
    }
}

void *fdl_worker_main(void *arg)
{
    struct fdl_worker *w = arg;
    struct fdl_job *job = w->job;
    struct fdl_err err;

    if (job->cfg.record && !w->local)
        w->sum = fdl_sum_new();
    pthread_mutex_lock(&job->lock);
    if (job->cfg.record && !w->local && !w->sum) {
        fdl_nomem(&err, "a checksum");
        fdl_job_fail(job, &err);
    }
    while (!job->stop && !fdl_plan_done(&job->plan)) {
        bool ready = w->local || find_mirror(w);
        bool work = ready && (w->run_at < w->run_end || find_work(w));
        if (!work) {
            uint64_t before = fdl_now_ns();
            wait_ms(&job->space, &job->lock, ready ? 4 : 20);
            if (ready)
                atomic_fetch_add(&job->window_wait_ns, fdl_now_ns() - before);
            continue;
        }
        pthread_mutex_unlock(&job->lock);
        fdl_err_clear(&err);
        int rc = fetch_run(w, &err);
        pthread_mutex_lock(&job->lock);
        if (rc == FDL_OK) {
            w->run_at = w->run_end = 0;
            w->hedging = false;
            fdl_wake_clear(&w->wake);
        } else if (!job->stop) {
            run_failed(w, &err);
        }
    }
    give_back_runs(w);
    leave_mirror(w);
    pthread_mutex_unlock(&job->lock);
    forget_block(w);
    fdl_sum_free(w->sum);
    return NULL;
}
