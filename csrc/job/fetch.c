/* SPDX-License-Identifier: Apache-2.0 */
/* job/fetch.c - FETCH: the bytes of one block, from a mirror, from what the caller has
 * already, or from the target itself. */
#include "job/fetch.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PIPELINE_MIN_BYTES (64 * 1024)
#define PACED_READ (64 * 1024)

void fdl_fetch_forget(struct fdl_worker *w)
{
    fdl_buf_unref(w->buf);
    w->buf = NULL;
    w->buf_mirrors = 0;
}

bool fdl_fetch_begin(struct fdl_worker *w, uint64_t block)
{
    struct fdl_job *job = w->job;

    if (w->buf && w->buf_block == block)
        return true;
    fdl_fetch_forget(w);
    while ((w->buf = fdl_pool_get(job->pool)) == NULL) {
        pthread_mutex_lock(&job->lock);
        bool stop = job->stop;
        if (!stop)
            fdl_wait_for_space(job, 1);
        pthread_mutex_unlock(&job->lock);
        if (stop)
            return false;
    }
    w->buf->len = w->summed = 0;
    w->buf->off = block * job->cfg.block;
    w->buf_block = block;
    return true;
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

/* The first response of a mirror in this job shows whether it has the same source. A
 * validator distinguishes versions of one origin and says nothing about another's:
 * without a digest there is one mirror, and bytes of one that gave up since are still
 * in use. */
static int check_identity(struct fdl_worker *w, struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    struct fdl_mirror *m = w->progress->mirror;
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
            rc = fdl_fail(err, FDL_E_POLICY, FDL_NO_OFFSET, FDL_WHAT_NOT_JOINED);
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
        job->total == FDL_SIZE_UNKNOWN && w->progress->mirror->ranges != FDL_RANGES_YES;

    pthread_mutex_lock(&job->lock);
    fdl_sched_responded(&job->sched, w->id, &w->pace);
    w->pace = (struct fdl_pace_of_response){0};
    for (uint64_t b = w->run.first; b < w->run.end && b * job->cfg.block < stop; b++) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, b);
        if (slot->owner == w->id)
            slot->requested = true;
    }
    pthread_mutex_unlock(&job->lock);
    int rc = s->ops->begin(s, pos, open_end ? UINT64_MAX : stop - pos, err);
    return rc == FDL_OK ? check_identity(w, err) : rc;
}

/* With a long way to the mirror the next request goes out before this response is over.
 */
static void maybe_prefetch(struct fdl_worker *w)
{
    struct fdl_job *job = w->job;
    struct fdl_stream *s = w->stream;
    double trip =
        w->progress->rate * (double)w->progress->mirror->rtt_ns / FDL_NS_PER_S;

    if (w->hedging || w->next.end > w->next.first || trip < PIPELINE_MIN_BYTES ||
        s->end == UINT64_MAX || s->whole || s->end - s->off > (uint64_t)(trip * 1.5))
        return;
    pthread_mutex_lock(&job->lock);
    bool last = s->end == w->run.end * job->cfg.block;
    if (last && fdl_sched_next_run(&job->sched, w->id, fdl_now_ns(), &w->next)) {
        for (uint64_t b = w->next.first; b < w->next.end; b++)
            fdl_plan_slot(&job->plan, b)->requested = true;
    } else {
        last = false;
    }
    pthread_mutex_unlock(&job->lock);
    if (!last)
        return;
    uint64_t off = w->next.first * job->cfg.block, end = w->next.end * job->cfg.block;
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
        fdl_job_wake_workers(job);
    pthread_cond_broadcast(&job->space);
    pthread_cond_broadcast(&job->data);
    pthread_cond_broadcast(&job->ended);
    pthread_mutex_unlock(&job->lock);
    return FDL_OK;
}

/* Whether a server that does not report a length has more bytes than the source should.
 */
static bool goes_on(struct fdl_worker *w, uint64_t pos)
{
    const struct fdl_stream *s = w->stream;
    struct fdl_err
        ignored; /* the requested data is complete, however the response ends */
    char more;

    return s->whole && s->end == UINT64_MAX && s->off == pos && pos == w->job->total &&
           w->stream->ops->read(w->stream, &more, 1, &ignored) > 0;
}

/* The block has so many bytes more. */
static void came(struct fdl_worker *w, size_t n)
{
    struct fdl_progress *p = w->progress;

    w->buf->len += n;
    sum_block(w);
    atomic_store_explicit(&p->came_ns, fdl_now_ns(), memory_order_relaxed);
    atomic_store_explicit(&p->filled, w->buf->len, memory_order_relaxed);
    atomic_fetch_add_explicit(&w->job->fetched, n, memory_order_relaxed);
}

static void smooth(double *rate, size_t bytes, uint64_t ns)
{
    double now = (double)bytes * FDL_NS_PER_S / (double)(ns > 0 ? ns : 1);

    *rate = *rate > 0 ? 0.7 * *rate + 0.3 * now : now;
}

int fdl_fetch_block(struct fdl_worker *w, uint64_t block, struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    uint64_t start = block * job->cfg.block, before = fdl_now_ns(), asked_ns = 0;
    size_t from = w->buf->len;

    for (;;) {
        uint64_t total = job->total;
        if (total != FDL_SIZE_UNKNOWN && start >= total)
            return 1;
        uint64_t pos = start + w->buf->len,
                 stop = start + fdl_job_block_len(job, block);
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
            came(w, (size_t)n);
            if (k->mirror >= 0)
                w->buf_mirrors |= UINT64_C(1) << k->mirror;
            continue;
        }
        if (k && k->off < stop)
            stop = k->off;
        if (w->stream->off != pos || w->stream->end <= pos) {
            uint64_t run_stop = w->run.end * job->cfg.block;
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
        if (job->cfg.pace && room > PACED_READ)
            room = PACED_READ;
        long n = w->stream->ops->read(w->stream, w->buf->data + w->buf->len, room, err);
        if (n < 0)
            return (int)n;
        if (n == 0) {
            if (job->total == FDL_SIZE_UNKNOWN && w->stream->whole) {
                uint64_t reported = w->progress->mirror->total;
                int rc = end_of_source(w, reported < pos ? reported : pos, err);
                if (rc != FDL_OK || w->buf->len == 0)
                    return rc != FDL_OK ? rc : 1;
            }
            w->stream->end =
                pos; /* a response may be shorter than requested: request the rest */
            continue;
        }
        came(w, (size_t)n);
        w->buf_mirrors |= UINT64_C(1) << w->index;
        w->progress->gained += (uint64_t)n;
        atomic_store_explicit(&w->progress->served, true, memory_order_relaxed);
        fdl_pace_wait(job->cfg.pace, (uint64_t)n, w->wakeup);
        maybe_prefetch(w);
    }
    if (goes_on(w, start + w->buf->len))
        return fdl_fail(err, FDL_E_SIZE, start + w->buf->len,
                        "the source is longer than expected");
    uint64_t took = fdl_now_ns() - before;
    if (asked_ns > 0) {
        w->pace.first_ns = took;
    } else if (w->pace.first_ns > 0) {
        w->pace.rest_ns += took;
        w->pace.rest++;
    }
    if (w->buf->len - from > job->cfg.block / 4) {
        smooth(&w->progress->rate, w->buf->len - from, took);
        smooth(&w->progress->flow, w->buf->len - from, took - asked_ns);
    }
    return FDL_OK;
}

int fdl_fetch_local(struct fdl_worker *w, uint64_t block, struct fdl_err *err)
{
    const struct fdl_job *job = w->job;
    uint64_t off = block * job->cfg.block;
    size_t len = fdl_job_block_len(job, block), lo = 0, hi = job->cfg.n_local;

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

bool fdl_fetch_is_known(const struct fdl_job *job, uint64_t off, uint64_t end)
{
    const struct fdl_known *k = known_from(job, off);

    return k && k->off <= off && k->off + k->len >= end;
}
