/* SPDX-License-Identifier: Apache-2.0 */
/* job/sched_failed.c - what a failure says of a mirror, and what follows. */
#include "base/clock.h"
#include "job/sched_priv.h"

#include <time.h>

#define RETRY_AFTER_MAX_S 600
#define BACKOFF_MAX_NS (8ull * FDL_NS_PER_S)
/* This much since the last failure makes it a new start. */
#define PROGRESS_BYTES (64u << 10)

/* How much an error reveals about the source, the most first. */
static int severity(int code)
{
    static const int order[] = {
        FDL_E_INTEGRITY, FDL_E_ORIGIN_CHANGED, FDL_E_SIZE,        FDL_E_TLS_TRUST,
        FDL_E_POLICY,    FDL_E_HTTP_PROTOCOL,  FDL_E_HTTP_STATUS, FDL_E_NET};

    for (int i = 0; i < (int)(sizeof order / sizeof *order); i++)
        if (order[i] == code)
            return i;
    return 99;
}

bool fdl_sched_exhausted(const struct fdl_sched *sched, struct fdl_err *err)
{
    const struct fdl_err *worst = NULL;

    for (size_t i = 0; i < sched->n_mirrors; i++) {
        const struct fdl_mirror *m = sched->mirrors[i];
        if (m->state == FDL_MIRROR_READY)
            return false;
        if (m->state != FDL_MIRROR_IDLE && m->last_err.code != FDL_OK &&
            (!worst || severity(m->last_err.code) < severity(worst->code)))
            worst = &m->last_err;
    }
    if (worst)
        *err = *worst;
    else
        fdl_fail(err, FDL_E_NET, FDL_NO_OFFSET, "no usable mirror is left");
    return true;
}

void fdl_sched_step_in(struct fdl_sched *sched)
{
    for (size_t i = 0; i < sched->n_mirrors; i++)
        if (sched->mirrors[i]->failures == 0)
            sched->mirrors[i]->not_before_ns = 0;
}

static uint64_t backoff_ns(int failures)
{
    uint64_t ns = 100ull * FDL_NS_PER_MS;

    for (int i = 1; i < failures && ns < BACKOFF_MAX_NS; i++)
        ns *= 2;
    return ns < BACKOFF_MAX_NS ? ns : BACKOFF_MAX_NS;
}

static bool link_has_expired(const struct fdl_mirror *m)
{
    return m->expires_s != 0 && (uint64_t)time(NULL) >= m->expires_s;
}

/* Whether the same request may succeed later, or over another connection. */
static bool retryable(const struct fdl_mirror *m, const struct fdl_err *err)
{
    switch (err->code) {
    case FDL_E_NET:
    case FDL_E_HTTP_PROTOCOL: /* once: a kept-alive connection may have held rubbish */
        return true;
    case FDL_E_HTTP_STATUS:
        break;
    default:
        return false;
    }
    switch (err->http_status) {
    case 403:
    case 404:
    case 410: /* of one that served before: one edge of many, or a limit */
        return m->vetted && m->bytes > 0 && !link_has_expired(m);
    default:
        return fdl_http_status_is_transient(err->http_status);
    }
}

/* Whether another connection to the worker's mirror is served. */
static bool serves_another(const struct fdl_sched *sched, int worker)
{
    for (int i = 0; i < sched->n_workers; i++)
        if (i != worker &&
            sched->progress[i].mirror == sched->progress[worker].mirror &&
            atomic_load(&sched->progress[i].served))
            return true;
    return false;
}

/* The mirror serves fewer connections than requested. If a status said so that is
 * final; a connection without a response may be retried, ever more rarely. */
static void learn_limit(struct fdl_mirror *m, const struct fdl_err *err,
                        uint64_t now_ns)
{
    if (err->code == FDL_E_HTTP_STATUS && m->cap >= m->active)
        m->cap = m->active - 1;
    m->refusals++;
    uint64_t wait = backoff_ns(m->refusals);
    if (err->retry_after_s > 0 && (uint64_t)err->retry_after_s * FDL_NS_PER_S > wait)
        wait = (uint64_t)err->retry_after_s * FDL_NS_PER_S;
    m->more_after_ns = now_ns + wait;
}

/* A mirror that served a first range and refuses every later one is asked for the whole
 * once, before it is given up. */
static bool try_the_whole(struct fdl_mirror *m, const struct fdl_err *err)
{
    if (err->code != FDL_E_HTTP_STATUS ||
        !fdl_http_status_refuses_range(err->http_status))
        return false;
    pthread_mutex_lock(&m->lock);
    bool yes = m->ranges == FDL_RANGES_YES && !m->asked_without;
    if (yes) {
        m->asked_without = true;
        m->ranges = FDL_RANGES_NO;
    }
    pthread_mutex_unlock(&m->lock);
    return yes;
}

enum fdl_decision fdl_sched_failed(struct fdl_sched *sched, int worker,
                                   const struct fdl_err *err, uint64_t now_ns)
{
    struct fdl_progress *p = &sched->progress[worker];
    struct fdl_mirror *m = p->mirror;
    bool unserved = err->code == FDL_E_HTTP_STATUS ||
                    (err->code == FDL_E_NET && !atomic_load(&p->served));

    if (unserved && serves_another(sched, worker)) {
        learn_limit(m, err, now_ns);
        return FDL_DECIDE_LEAVE;
    }
    if (p->gained >= PROGRESS_BYTES && err->code == FDL_E_NET)
        m->failures = 0; /* the received data is kept: it is progress */
    /* All connections to a server that went down fail together: that is one failure. */
    if (m->failures == 0)
        m->failing_ns = now_ns;
    if (m->failures == 0 || m->not_before_ns <= now_ns)
        m->failures++;
    bool late = sched->retry_ns > 0 && now_ns - m->failing_ns >= sched->retry_ns;
    int limit = err->code == FDL_E_HTTP_PROTOCOL ? 1 : sched->retry;
    bool joins = fdl_mirror_can_join(m); /* if not, what is missing is of no use */
    if (!retryable(m, err) || m->failures > limit || late ||
        err->retry_after_s > RETRY_AFTER_MAX_S || !joins) {
        if (!joins || !try_the_whole(m, err))
            return FDL_DECIDE_DISQUALIFY;
        m->failures = 0;
        return FDL_DECIDE_RETRY;
    }
    uint64_t wait = sched->delay_ns > 0 ? sched->delay_ns : backoff_ns(m->failures);
    if (err->retry_after_s > 0 && (uint64_t)err->retry_after_s * FDL_NS_PER_S > wait)
        wait = (uint64_t)err->retry_after_s * FDL_NS_PER_S;
    /* Wait only if the failure requires it: after progress a lost connection is resumed
     * at once. */
    if ((err->code != FDL_E_NET || m->failures > 1) && m->not_before_ns < now_ns + wait)
        m->not_before_ns = now_ns + wait;
    if (err->code == FDL_E_HTTP_STATUS && m->active > 1 && m->cap >= m->active)
        m->cap = m->active - 1; /* it serves fewer at once than assumed */
    return FDL_DECIDE_RETRY;
}
