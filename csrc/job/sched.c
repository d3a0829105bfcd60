/* SPDX-License-Identifier: Apache-2.0 */
/* job/sched.c - who fetches what from whom: the choice of mirrors, the size of runs,
 * hedges and back-off. Decisions only, under the job's lock. */
#include "base/clock.h"
#include "job/job_priv.h"

#include <stdlib.h>

#define RUN_TIME_S 0.10            /* a run flows for about this, and two round trips */
#define UNSETTLED_BYTES (5u << 20) /* for each connection; with a run it is a range */
#define RUN_BYTES_MAX (8u << 20)
#define SLOW_FACTOR 6.0 /* a mirror this much slower than the best stands back */
#define HEDGE_BYTES (UINT64_C(32) << 20) /* this and 1/16 may be fetched twice */
#define HEDGE_CANDIDATES 4               /* only the blocks that the others wait for */
#define HEDGE_MIN_NS (5 * FDL_NS_PER_MS)
#define UNKNOWN_RATE 20e6 /* bytes/s that an unmeasured mirror is given credit for */
#define SAME_MIRROR_MIN_NS (250 * FDL_NS_PER_MS)
#define RETRY_AFTER_MAX_S 600
#define BACKOFF_MAX_NS (8ull * FDL_NS_PER_S)
/* This much since the last failure makes it a new start. */
#define PROGRESS_BYTES (64u << 10)

/* ---- mirrors --------------------------------------------------------------- */

static double best_rate(const struct fdl_job *job)
{
    double best = 0;

    for (size_t i = 0; i < job->cfg.n_mirrors; i++)
        if (job->cfg.mirrors[i]->state == FDL_MIRROR_READY &&
            job->cfg.mirrors[i]->rate > best)
            best = job->cfg.mirrors[i]->rate;
    return best;
}

/* Better first: not known to be slow; never tried, since only trying tells (one
 * connection is enough for that); then by priority, then by what was measured. */
static bool better(const struct fdl_mirror *a, const struct fdl_mirror *b, double best)
{
    bool slow_a = a->lost_hedges > 0 || (a->rate > 0 && a->rate * SLOW_FACTOR < best);
    bool slow_b = b->lost_hedges > 0 || (b->rate > 0 && b->rate * SLOW_FACTOR < best);

    bool new_a = a->rate <= 0 && a->active == 0, new_b = b->rate <= 0 && b->active == 0;

    if (slow_a != slow_b)
        return slow_b;
    if (new_a != new_b)
        return new_a;
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (a->active != b->active)
        return a->active < b->active;
    return (a->rate > 0 ? a->rate : best) > (b->rate > 0 ? b->rate : best);
}

struct fdl_mirror *fdl_sched_pick_mirror(struct fdl_job *job, uint64_t now_ns,
                                         int *index, bool *later)
{
    struct fdl_mirror *pick = NULL;
    double best = best_rate(job);
    bool ranged_ready = false;

    *later = false;
    for (size_t i = 0; i < job->cfg.n_mirrors; i++)
        if (job->cfg.mirrors[i]->state == FDL_MIRROR_READY &&
            job->cfg.mirrors[i]->ranges != FDL_RANGES_NO)
            ranged_ready = true;
    for (size_t i = 0; i < job->cfg.n_mirrors; i++) {
        struct fdl_mirror *m = job->cfg.mirrors[i];
        if (m->state != FDL_MIRROR_READY)
            continue;
        /* Without ranges every place in the source costs all that lies before it: such
         * a mirror serves one connection, and only where no other can. */
        bool no_ranges = m->ranges == FDL_RANGES_NO;
        int cap = no_ranges || !fdl_mirror_can_join(m) ? 1 : m->cap;
        if (no_ranges && ranged_ready)
            continue;
        *later = true;
        if (m->active >= cap || m->not_before_ns > now_ns ||
            (m->active > 0 && m->more_after_ns > now_ns))
            continue;
        if (!pick || better(m, pick, best)) {
            pick = m;
            *index = (int)i;
        }
    }
    return pick;
}

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

/* Nobody is left: the job fails with the most telling of the mirrors' errors. */
void fdl_sched_judge_mirrors(struct fdl_job *job)
{
    const struct fdl_err *worst = NULL;
    struct fdl_err none;

    for (size_t i = 0; i < job->cfg.n_mirrors; i++) {
        const struct fdl_mirror *m = job->cfg.mirrors[i];
        if (m->state == FDL_MIRROR_READY)
            return;
        if (m->last_err.code != FDL_OK &&
            (!worst || severity(m->last_err.code) < severity(worst->code)))
            worst = &m->last_err;
    }
    if (!worst) {
        fdl_fail(&none, FDL_E_NET, FDL_NO_OFFSET, "no usable mirror is left");
        worst = &none;
    }
    fdl_job_fail(job, worst);
}

void fdl_sched_strike(struct fdl_job *job, struct fdl_mirror *m, int index,
                      const struct fdl_err *err)
{
    if (m->state == FDL_MIRROR_STRUCK)
        return;
    m->state = err->code == FDL_OK ? FDL_MIRROR_IDLE : FDL_MIRROR_STRUCK;
    m->last_err = *err;
    m->last_err.mirror = index;
    for (int i = 0; i < job->n_workers; i++)
        if (job->workers[i].mirror == m)
            fdl_wake_nudge(&job->workers[i].wake);
    /* Who stands back only because another was faster has to step in now. */
    for (size_t i = 0; i < job->cfg.n_mirrors; i++)
        if (job->cfg.mirrors[i]->failures == 0)
            job->cfg.mirrors[i]->not_before_ns = 0;
    fdl_sched_judge_mirrors(job);
    pthread_cond_broadcast(&job->space);
}

static uint64_t backoff_ns(int failures)
{
    uint64_t ns = 100ull * FDL_NS_PER_MS;

    for (int i = 1; i < failures && ns < BACKOFF_MAX_NS; i++)
        ns *= 2;
    return ns < BACKOFF_MAX_NS ? ns : BACKOFF_MAX_NS;
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
        return m->vetted && m->bytes > 0;
    default:
        return fdl_http_status_passes(err->http_status);
    }
}

/* Whether another connection to the worker's mirror is served. */
static bool serves_another(const struct fdl_worker *w)
{
    const struct fdl_job *job = w->job;

    for (int i = 0; i < job->n_workers; i++) {
        const struct fdl_worker *other = &job->workers[i];
        if (other != w && other->mirror == w->mirror && atomic_load(&other->served))
            return true;
    }
    return false;
}

/* The mirror serves fewer connections than it was asked for. A status says so for good;
 * one that was not even answered may be tried again, ever more rarely. */
static void learn_limit(struct fdl_mirror *m, const struct fdl_err *err)
{
    uint64_t now = fdl_now_ns();

    if (err->code == FDL_E_HTTP_STATUS && m->cap >= m->active)
        m->cap = m->active - 1;
    m->refusals++;
    m->more_after_ns = now + backoff_ns(m->refusals);
}

/* A mirror that gave a first range and refuses every later one is asked for the whole
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

bool fdl_sched_mirror_failed(struct fdl_worker *w, const struct fdl_err *err)
{
    struct fdl_job *job = w->job;
    struct fdl_mirror *m = w->mirror;
    int64_t retry_after_s = w->stream->retry_after_s;
    uint64_t now = fdl_now_ns();

    atomic_fetch_add_explicit(&m->errors, 1, memory_order_relaxed);
    m->last_err = *err;
    m->last_err.mirror = w->mirror_index;
    bool unserved = err->code == FDL_E_HTTP_STATUS ||
                    (err->code == FDL_E_NET && !atomic_load(&w->served));
    if (unserved && serves_another(w)) {
        learn_limit(m, err);
        return true;
    }
    if (w->gained >= PROGRESS_BYTES && err->code == FDL_E_NET)
        m->failures = 0; /* what came is kept: it is progress */
    /* All connections to a server that went away fail at once: that is one failure. */
    if (m->failures == 0 || m->not_before_ns <= now)
        m->failures++;
    int limit = err->code == FDL_E_HTTP_PROTOCOL ? 1 : job->cfg.retry;
    if (!retryable(m, err) || m->failures > limit ||
        retry_after_s > RETRY_AFTER_MAX_S ||
        !fdl_mirror_can_join(m)) { /* what is missing could not be joined */
        if (fdl_mirror_can_join(m) && try_the_whole(m, err)) {
            m->failures = 0;
            return false;
        }
        fdl_sched_strike(job, m, w->mirror_index, err);
        return false;
    }
    uint64_t wait = backoff_ns(m->failures);
    if (retry_after_s > 0 && (uint64_t)retry_after_s * FDL_NS_PER_S > wait)
        wait = (uint64_t)retry_after_s * FDL_NS_PER_S;
    /* Wait only where the failure says so: a cut after progress is taken up at once. */
    if ((err->code != FDL_E_NET || m->failures > 1) && m->not_before_ns < now + wait)
        m->not_before_ns = now + wait;
    if (err->code == FDL_E_HTTP_STATUS && m->active > 1 && m->cap >= m->active)
        m->cap = m->active - 1; /* it serves fewer at once than we thought */
    return false;
}

void fdl_sched_lost_hedge(struct fdl_job *job, struct fdl_mirror *m)
{
    (void)job;
    if (m->lost_hedges < 6)
        m->lost_hedges++;
    m->not_before_ns = fdl_now_ns() + (250ull * FDL_NS_PER_MS << m->lost_hedges);
}

/* ---- runs ------------------------------------------------------------------ */

/* A run is sized by the pace at which an answer flows, the wait for its head left out:
 * with it, short runs made a far connection look slow, and so stayed short. */
static uint32_t run_blocks(const struct fdl_worker *w)
{
    const struct fdl_job *job = w->job;
    double flow = w->flow, trips = 0;
    uint32_t conns = job->n_net > 0 ? (uint32_t)job->n_net : 1;
    uint32_t fair = job->plan.window / conns,
             most = RUN_BYTES_MAX / (uint32_t)job->cfg.block;

    if (w->mirror) {
        trips = 2.0 * (double)w->mirror->rtt_ns / FDL_NS_PER_S;
        flow = flow > 0 ? flow : w->mirror->rate;
    }
    double want = flow * (RUN_TIME_S + trips) / (double)job->cfg.block;
    if (most > fair)
        most = fair;
    if (most < 1)
        most = 1;
    return want < 1 ? 1 : want > most ? most : (uint32_t)want;
}

bool fdl_sched_next_run(struct fdl_worker *w, uint64_t now_ns, uint64_t *first,
                        uint64_t *end)
{
    struct fdl_job *job = w->job;
    uint64_t count;

    /* A kill is to cost no more than a range a connection: so the journal must keep up.
     */
    size_t conns = job->n_net > 0 ? (size_t)job->n_net : 1;
    size_t each = UNSETTLED_BYTES / job->cfg.block;
    if (!w->local && job->unsettled >= (each > 2 ? each : 2) * conns)
        return false;

    if (fdl_plan_claim(&job->plan, w->id, w->local, run_blocks(w), now_ns, first,
                       &count)) {
        *end = *first + count;
        return true;
    }
    if (w->local)
        return false;
    /* A stolen run has to be worth the request: what the mirror sends in a round trip.
     */
    double trip = w->rate * (double)w->mirror->rtt_ns / FDL_NS_PER_S;
    uint32_t floor = (uint32_t)(trip / (double)job->cfg.block) + 1;
    if (fdl_plan_steal(&job->plan, w->id, floor, now_ns, first, &count)) {
        *end = *first + count;
        return true;
    }
    return false;
}

/* ---- hedges ---------------------------------------------------------------- */

/* The best rate that anybody has shown or shows now, in bytes/s; 0 before the first
 * byte. */
static double shown_rate(const struct fdl_job *job, uint64_t now_ns)
{
    double best = best_rate(job);

    for (int i = 0; i < job->n_workers; i++) {
        const struct fdl_worker *w = &job->workers[i];
        uint64_t block = atomic_load(&w->at_block);
        if (w->local || !fdl_plan_in_window(&job->plan, block))
            continue;
        const struct fdl_slot *slot = fdl_plan_slot(&job->plan, block);
        double rate = (double)atomic_load(&w->at_fill) * FDL_NS_PER_S /
                      ((double)(now_ns - slot->claimed_ns) + 1);
        if (slot->owner == w->id && rate > best)
            best = rate;
    }
    return best;
}

/* Whether `me` would have the block long before `other`, who got it at since_ns. */
static bool late(const struct fdl_worker *me, const struct fdl_worker *other,
                 uint64_t block, uint64_t since_ns, uint64_t now_ns)
{
    double size = (double)me->job->cfg.block, have = 0;
    double rate = me->rate > 0 ? me->rate : me->mirror->rate;
    bool same = other->mirror == me->mirror;

    if (rate <= 0 && same)
        return false; /* nothing says that a second connection does better */
    if (rate <= 0)
        rate = shown_rate(me->job, now_ns);
    if (rate <= 0)
        rate = UNKNOWN_RATE;
    double elapsed = (double)(now_ns - since_ns);
    double mine = size / rate * FDL_NS_PER_S + (double)me->mirror->rtt_ns;
    if (atomic_load(&other->at_block) == block)
        have = (double)atomic_load(&other->at_fill);
    double theirs = have > 0 ? (size - have) * elapsed / have : 1e18;
    double floor = same ? SAME_MIRROR_MIN_NS : HEDGE_MIN_NS;
    double factor = same ? 4 : 2;
    /* Half of our own time shows how fast it comes; silence is given all of it, twice.
     */
    double patience = have > 0 && !same ? 0.5 * mine : factor * mine;
    return elapsed > patience + floor && theirs > factor * mine + floor;
}

/* The owner is late, and so is a hedger where there is one already. */
static bool worth_hedging(const struct fdl_worker *w, uint64_t block,
                          const struct fdl_slot *slot, uint64_t now_ns)
{
    const struct fdl_worker *owner = &w->job->workers[slot->owner];

    if (slot->owner == w->id || slot->hedger == w->id || owner->local ||
        !late(w, owner, block, slot->claimed_ns, now_ns))
        return false;
    return slot->hedger == FDL_NOBODY ||
           late(w, &w->job->workers[slot->hedger], block, slot->hedged_ns, now_ns);
}

bool fdl_sched_hedge(struct fdl_worker *w, uint64_t now_ns, uint64_t *block)
{
    struct fdl_job *job = w->job;
    uint64_t budget = HEDGE_BYTES;
    int seen = 0;

    if (job->total != FDL_SIZE_UNKNOWN) /* a small source may come twice as a whole */
        budget = job->total < HEDGE_BYTES ? job->total : HEDGE_BYTES + job->total / 16;
    if (w->local || !w->mirror || w->mirror->lost_hedges > 0 ||
        (w->mirror->rate > 0 && w->mirror->rate * SLOW_FACTOR < best_rate(job)) ||
        atomic_load(&job->hedged) > budget)
        return false;
    for (uint64_t b = job->plan.base; fdl_plan_in_window(&job->plan, b); b++) {
        struct fdl_slot *slot = fdl_plan_slot(&job->plan, b);
        if (slot->state != FDL_SLOT_CLAIMED)
            continue;
        if (++seen > HEDGE_CANDIDATES)
            return false;
        if (!worth_hedging(w, b, slot, now_ns))
            continue;
        if (slot->hedger != FDL_NOBODY)
            fdl_wake_nudge(&job->workers[slot->hedger].wake);
        slot->hedger = w->id;
        slot->hedged_ns = now_ns;
        *block = b;
        atomic_fetch_add(&job->hedged, job->cfg.block);
        return true;
    }
    return false;
}
